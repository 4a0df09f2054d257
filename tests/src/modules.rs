//! Which module of a crate uses which, read from the syntax of its sources. Tests inside the
//! sources do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree};

/// The path of a module inside its crate; empty for the root.
pub type Module = Vec<String>;

/// The modules that each module uses.
pub type Uses = BTreeMap<Module, BTreeSet<Module>>;

/// Reads the modules of the crate whose sources are in a directory.
///
/// # Panics
/// When a source cannot be read or is not Rust.
pub fn read(sources: &Path) -> Uses {
    let mut files = BTreeMap::new();
    collect(sources, sources, &mut files);
    let known: BTreeSet<Module> = files.keys().cloned().collect();
    let uses = files.into_iter().map(|(module, text)| {
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{module:?}: {error}"));
        let mut paths = Paths { at: module.clone(), root: module.clone(), found: Vec::new() };
        file.items.iter().for_each(|item| paths.visit_item(item));
        let used = paths.found.iter().filter_map(|path| resolve(path, &known));
        let others = used.filter(|used| *used != module).collect();
        (module, others)
    });
    uses.collect()
}

/// The groups of modules that use one another in a circle.
pub fn cycles(uses: &Uses) -> Vec<BTreeSet<Module>> {
    let reached = |from: &Module| {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&Module> = uses[from].iter().collect();
        while let Some(module) = next.pop() {
            if reached.insert(module.clone()) {
                next.extend(&uses[module]);
            }
        }
        reached
    };
    let reached: BTreeMap<&Module, _> = uses.keys().map(|from| (from, reached(from))).collect();
    let circle = |module: &&Module| -> BTreeSet<Module> {
        let back = |other: &&Module| reached[*other].contains(*module);
        reached[*module].iter().filter(back).cloned().collect()
    };
    let circles: BTreeSet<_> = uses.keys().map(|module| circle(&module)).collect();
    circles.into_iter().filter(|circle| !circle.is_empty()).collect()
}

fn collect(directory: &Path, sources: &Path, files: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, sources, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let inside = path.strip_prefix(sources).expect("it is inside").with_extension("");
            let names = inside.iter().map(|name| name.to_string_lossy().into_owned());
            let mut module: Module = names.collect();
            module.retain(|name| !["lib", "main", "mod"].contains(&name.as_str()));
            files.insert(module, std::fs::read_to_string(path).expect("a source"));
        }
    }
}

/// The module that a path leads to: the longest prefix that is a module.
fn resolve(path: &[String], known: &BTreeSet<Module>) -> Option<Module> {
    let beginnings = (1..=path.len()).rev().map(|length| path[..length].to_vec());
    beginnings.into_iter().find(|beginning| known.contains(beginning))
}

/// Collects the paths of a file, from the root of its crate.
struct Paths {
    /// The module being visited.
    at: Module,
    /// The module of the file.
    root: Module,
    found: Vec<Module>,
}

impl Paths {
    fn add(&mut self, names: &[String]) {
        let Some(first) = names.first() else { return };
        let ups = names.iter().take_while(|name| *name == "super").count();
        let path = match first.as_str() {
            "crate" => names[1..].to_vec(),
            "self" => [&self.at[..], &names[1..]].concat(),
            "super" => {
                let above = &self.at[..self.at.len().saturating_sub(ups)];
                [above, &names[ups..]].concat()
            }
            // It may be a module inside this one.
            _ => [&self.at[..], names].concat(),
        };
        if path.len() > self.root.len() || !self.root.starts_with(&path) {
            self.found.push(path);
        }
    }

    fn add_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.add_tree(&with(&path.ident), &path.tree),
            UseTree::Name(name) => self.add(&with(&name.ident)),
            UseTree::Rename(name) => self.add(&with(&name.ident)),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.add_tree(before, tree));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.at.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.at.pop();
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        if names.len() > 1 {
            self.add(&names);
        }
        visit::visit_path(self, path);
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| {
        let test = attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test");
        attribute.path().is_ident("cfg") && test
    };
    attributes.iter().any(is_test)
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
