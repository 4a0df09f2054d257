//! Compares the imports and exports of a component with the world of `wit/`, before
//! anything is compiled. The breaches are reported in the words of WIT.

use std::sync::LazyLock;

use anyhow::{Context, Result};
use wit_parser::decoding::{DecodedWasm, decode};
use wit_parser::{
    Function, Handle, InterfaceId, PackageId, Resolve, SourceMap, Type, TypeDefKind, TypeId,
    WorldId, WorldItem, WorldKey,
};

use crate::logic::component::{MEMORIES_MAX, TABLES_MAX};
use crate::logic::exports::Interface;

/// The beginning of the names of our own interfaces.
const CONTRACT: &str = "session:manager/";

/// The imports that a component may have: our own interfaces, and those of WASI that
/// Rust's standard library links even if they are not used.
const OFFERED: [&str; 7] = [
    CONTRACT,
    "wasi:config/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
];

/// The most modules inside a component, and the most components. A dozen is many; checking
/// them takes time that grows with their square.
const MODULES_MAX: u32 = 48;
const COMPONENTS_MAX: u32 = 256;
/// The most breaches that a report names; the others are only counted.
const BREACHES_MAX: usize = 20;

/// The world of `wit/`, as this host was built with it.
static DEMANDED: LazyLock<World> = LazyLock::new(|| {
    let demanded = || {
        let mut resolve = Resolve::default();
        macro_rules! files {
            ($($name:literal)*) => {
                &[$(($name, include_str!(concat!("../../../wit/", $name)))),*]
            };
        }
        push(&mut resolve, files!("deps/config/store.wit" "deps/config/world.wit"))?;
        let files = files!(
            "world.wit" "faults.wit" "store.wit" "tokens.wit" "catalog.wit" "booking.wit"
            "connections.wit" "maintenance.wit" "users.wit" "viewing.wit"
        );
        let package = push(&mut resolve, files)?;
        let world = resolve.select_world(&[package], Some("session-manager"))?;
        anyhow::Ok(World { resolve, world })
    };
    demanded().expect("the world of wit/ was parsed when this host was built")
});

/// A world and what its types mean.
pub struct World {
    resolve: Resolve,
    world: WorldId,
}

fn push(resolve: &mut Resolve, files: &[(&str, &str)]) -> Result<PackageId> {
    let mut sources = SourceMap::default();
    for (name, text) in files {
        sources.push_str(name, *text);
    }
    let group = sources.parse().map_err(|(_, error)| anyhow::anyhow!("{error}"))?;
    Ok(resolve.push_group(group)?)
}

/// Whether bytes are a component at all.
///
/// # Errors
/// A description of what the bytes are instead.
pub fn valid(bytes: &[u8]) -> Result<(), String> {
    if !bytes.starts_with(b"\0asm") {
        return Err("it is not WebAssembly in its binary form".into());
    }
    if !wasmparser::Parser::is_component(bytes) {
        return Err("it is a core module, not a component; build it for wasm32-wasip2".into());
    }
    Parts::of(bytes)?.check()?;
    let validated = wasmparser::Validator::new().validate_all(bytes);
    validated.map(drop).map_err(|error| format!("it is no valid component: {error}"))
}

/// The parts of a component, and how many of each it may have.
#[derive(Default)]
struct Parts {
    modules: u32,
    components: u32,
    memories: u32,
    tables: u32,
}

impl Parts {
    fn of(bytes: &[u8]) -> Result<Self, String> {
        use wasmparser::Payload;
        let mut parts = Self::default();
        for payload in wasmparser::Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| format!("it is no valid component: {error}"))? {
                Payload::ModuleSection { .. } => parts.modules += 1,
                Payload::ComponentSection { .. } => parts.components += 1,
                Payload::MemorySection(memories) => parts.memories += memories.count(),
                Payload::TableSection(tables) => parts.tables += tables.count(),
                _ => {}
            }
        }
        Ok(parts)
    }

    fn check(&self) -> Result<(), String> {
        let over = [
            ("modules", self.modules, MODULES_MAX),
            ("components inside", self.components, COMPONENTS_MAX),
            ("memories", self.memories, MEMORIES_MAX),
            ("tables", self.tables, TABLES_MAX),
        ];
        let over = over.into_iter().filter(|(_, count, most)| count > most);
        let over: Vec<_> = over
            .map(|(what, count, most)| format!("it has {count} {what}, {most} are accepted"))
            .collect();
        all_well(&over)
    }
}

impl World {
    /// The world of a valid component.
    ///
    /// # Errors
    /// When its imports and exports cannot be said in WIT.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        match decode(bytes).context("its imports and exports cannot be said in WIT") {
            Ok(DecodedWasm::Component(resolve, world)) => Ok(Self { resolve, world }),
            Ok(DecodedWasm::WitPackage(..)) => {
                Err("it is a WIT package, which holds no code".into())
            }
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Whether it imports nothing that is not offered, and is built for this contract.
    ///
    /// # Errors
    /// The version that it is built for instead, or every import that is not offered, by
    /// its name.
    pub fn imports(&self) -> Result<(), String> {
        let ours = DEMANDED.majors().into_iter().next().unwrap_or_default();
        // Otherwise a record that has changed between versions would be reported as many breaches,
        // none of which names the cause.
        if let Some(other) = self.majors().into_iter().find(|major| *major != ours) {
            return Err(format!(
                "it is built for session:manager {other}.x, build again with the \
                 wit/ of this host, which is for {ours}.x"
            ));
        }
        let imports = self.resolve.worlds[self.world].imports.keys();
        let names = imports.map(|key| self.resolve.name_world_key(key));
        let foreign: Vec<_> = names
            .filter(|name| !OFFERED.iter().any(|offered| name.starts_with(offered)))
            .map(|name| format!("it imports {name}, which the host does not offer"))
            .collect();
        all_well(&foreign)
    }

    /// Which of the optional interfaces it exports. Each of them must have all functions, with
    /// the types of this host.
    ///
    /// # Errors
    /// Every export that is missing or differs, by its name and the type it is to
    /// have.
    pub fn exports(&self) -> Result<Vec<Interface>, String> {
        let demanded = &*DEMANDED;
        let (mut served, mut breaches) = (Vec::new(), Vec::new());
        for key in demanded.resolve.worlds[demanded.world].exports.keys() {
            let WorldKey::Interface(id) = key else { continue };
            let name = demanded.interface_name(*id);
            let optional = Interface::named(&name);
            match (self.exported(&name), optional) {
                (Some(exported), _) => {
                    served.extend(optional);
                    demanded.demand(*id, self, exported, &mut breaches);
                }
                (None, None) => {
                    let name = demanded.resolve.id_of(*id).unwrap_or_default();
                    breaches.push(format!("it does not export {name}"));
                }
                (None, Some(_)) => {}
            }
        }
        let expiring = [Interface::Connections, Interface::Users, Interface::Viewing];
        let expiring = expiring.into_iter().find(|kind| served.contains(kind));
        if let Some(kind) = expiring.filter(|_| !served.contains(&Interface::Maintenance)) {
            let kind = kind.name();
            breaches.push(format!("it exports {kind} without maintenance, by which {kind} expire"));
        }
        all_well(&breaches)?;
        Ok(served)
    }

    /// The name of an interface of this contract, without package and version.
    fn interface_name(&self, id: InterfaceId) -> String {
        self.resolve.interfaces[id].name.clone().unwrap_or_default()
    }

    /// The major versions of the contract that its imports and exports are of.
    fn majors(&self) -> Vec<u64> {
        let world = &self.resolve.worlds[self.world];
        let names = world.imports.keys().chain(world.exports.keys());
        let major = |name: String| {
            let (_, version) = name.strip_prefix(CONTRACT)?.split_once('@')?;
            version.split('.').next()?.parse().ok()
        };
        names.filter_map(|key| major(self.resolve.name_world_key(key))).collect()
    }

    /// Compares the functions of an interface with those that are `exported` for it.
    fn demand(
        &self,
        interface: InterfaceId,
        given: &Self,
        exported: InterfaceId,
        breaches: &mut Vec<String>,
    ) {
        let name = self.resolve.id_of(interface).unwrap_or_default();
        for (function, demanded) in &self.resolve.interfaces[interface].functions {
            let signature = self.signature(demanded);
            match given.resolve.interfaces[exported].functions.get(function) {
                None => {
                    breaches.push(format!("it does not export {name} {function}: {signature}"));
                }
                Some(found) => {
                    if let Some(difference) = self.difference(demanded, given, found) {
                        breaches.push(format!(
                            "it exports {name} {function} with another type than {signature}: \
                             {difference}"
                        ));
                    }
                }
            }
        }
    }

    /// Its export for an interface of the contract, of any minor version: the major version was
    /// compared before.
    fn exported(&self, name: &str) -> Option<InterfaceId> {
        self.resolve.worlds[self.world].exports.iter().find_map(|(key, item)| {
            let WorldItem::Interface { id, .. } = item else { return None };
            let full = self.resolve.name_world_key(key);
            let (unversioned, _) = full.strip_prefix(CONTRACT)?.split_once('@')?;
            (unversioned == name).then_some(*id)
        })
    }

    /// A function's type as WIT writes it.
    fn signature(&self, function: &Function) -> String {
        let parameters: Vec<_> =
            function.params.iter().map(|p| format!("{}: {}", p.name, self.name(p.ty))).collect();
        let result = function.result.map(|ty| format!(" -> {}", self.name(ty)));
        format!("func({}){}", parameters.join(", "), result.unwrap_or_default())
    }

    /// A type as WIT writes it.
    fn name(&self, ty: Type) -> String {
        let Type::Id(id) = ty else { return primitive(ty).into() };
        let definition = &self.resolve.types[id];
        if let Some(name) = &definition.name {
            return name.clone();
        }
        let optional = |ty: Option<Type>| ty.map_or("_".into(), |ty| self.name(ty));
        match &definition.kind {
            TypeDefKind::Option(inner) => format!("option<{}>", self.name(*inner)),
            TypeDefKind::List(inner) => format!("list<{}>", self.name(*inner)),
            TypeDefKind::Tuple(tuple) => {
                let types: Vec<_> = tuple.types.iter().map(|ty| self.name(*ty)).collect();
                format!("tuple<{}>", types.join(", "))
            }
            TypeDefKind::Result(result) => match (result.ok, result.err) {
                (None, None) => "result".into(),
                (ok, None) => format!("result<{}>", optional(ok)),
                (ok, err) => format!("result<{}, {}>", optional(ok), optional(err)),
            },
            TypeDefKind::Handle(Handle::Own(resource)) => self.name(Type::Id(*resource)),
            TypeDefKind::Handle(Handle::Borrow(resource)) => {
                format!("borrow<{}>", self.name(Type::Id(*resource)))
            }
            TypeDefKind::Type(inner) => self.name(*inner),
            other => other.as_str().into(),
        }
    }

    /// Where the type of `found` in `given` differs from the one demanded here.
    fn difference(&self, demanded: &Function, given: &Self, found: &Function) -> Option<String> {
        let names = |function: &Function| {
            function.params.iter().map(|p| p.name.clone()).collect::<Vec<_>>()
        };
        if names(demanded) != names(found) || demanded.result.is_some() != found.result.is_some() {
            return Some(format!("it is {}", given.signature(found)));
        }
        let mut parameters = demanded.params.iter().zip(&found.params);
        let differs = parameters.find_map(|(demanded, found)| {
            self.type_difference(demanded.ty, given, found.ty, &demanded.name)
        });
        differs.or_else(|| {
            let (demanded, found) = (demanded.result?, found.result?);
            self.type_difference(demanded, given, found, "its result")
        })
    }

    fn type_difference(&self, here: Type, given: &Self, there: Type, at: &str) -> Option<String> {
        let (here, there) = (self.behind_names(here), given.behind_names(there));
        let (Type::Id(ours), Type::Id(theirs)) = (here, there) else {
            let same = here == there;
            return (!same).then(|| {
                format!("{at} is {}, not {}", given.describe(there), self.describe(here))
            });
        };
        let (ours, theirs) = (self.kind(ours), given.kind(theirs));
        let optional = |ours: Option<Type>, theirs: Option<Type>, at: &str| match (ours, theirs) {
            (None, None) => None,
            (Some(ours), Some(theirs)) => self.type_difference(ours, given, theirs, at),
            _ => Some(format!("{at} has a value in one and none in the other")),
        };
        match (ours, theirs) {
            (TypeDefKind::Record(ours), TypeDefKind::Record(theirs)) => {
                let names = |fields: &[wit_parser::Field]| -> Vec<String> {
                    fields.iter().map(|field| field.name.clone()).collect()
                };
                named(at, "fields", &names(&ours.fields), &names(&theirs.fields)).or_else(|| {
                    ours.fields.iter().zip(&theirs.fields).find_map(|(ours, theirs)| {
                        let at = format!("{at}.{}", ours.name);
                        self.type_difference(ours.ty, given, theirs.ty, &at)
                    })
                })
            }
            (TypeDefKind::Variant(ours), TypeDefKind::Variant(theirs)) => {
                let names = |cases: &[wit_parser::Case]| -> Vec<String> {
                    cases.iter().map(|case| case.name.clone()).collect()
                };
                named(at, "cases", &names(&ours.cases), &names(&theirs.cases)).or_else(|| {
                    ours.cases.iter().zip(&theirs.cases).find_map(|(ours, theirs)| {
                        optional(ours.ty, theirs.ty, &format!("{at}.{}", ours.name))
                    })
                })
            }
            (TypeDefKind::Enum(ours), TypeDefKind::Enum(theirs)) => {
                let names = |cases: &[wit_parser::EnumCase]| -> Vec<String> {
                    cases.iter().map(|case| case.name.clone()).collect()
                };
                named(at, "cases", &names(&ours.cases), &names(&theirs.cases))
            }
            (TypeDefKind::Option(ours), TypeDefKind::Option(theirs))
            | (TypeDefKind::List(ours), TypeDefKind::List(theirs)) => {
                self.type_difference(*ours, given, *theirs, at)
            }
            (TypeDefKind::Tuple(ours), TypeDefKind::Tuple(theirs))
                if ours.types.len() == theirs.types.len() =>
            {
                let mut types = ours.types.iter().zip(&theirs.types);
                types.find_map(|(ours, theirs)| self.type_difference(*ours, given, *theirs, at))
            }
            (TypeDefKind::Result(ours), TypeDefKind::Result(theirs)) => {
                optional(ours.ok, theirs.ok, at)
                    .or_else(|| optional(ours.err, theirs.err, &format!("the error of {at}")))
            }
            // The world demands no other kinds of types.
            _ => Some(format!("{at} is {}, not {}", given.describe(there), self.describe(here))),
        }
    }

    /// A type for people: its name in WIT, and what it is when that is not in the
    /// name.
    fn describe(&self, ty: Type) -> String {
        let name = self.name(ty);
        match ty {
            Type::Id(id) if self.resolve.types[id].name.is_some() => {
                format!("the {} {name}", self.kind(id).as_str())
            }
            _ => name,
        }
    }

    fn kind(&self, id: TypeId) -> &TypeDefKind {
        &self.resolve.types[id].kind
    }

    /// The type that a name stands for.
    fn behind_names(&self, mut ty: Type) -> Type {
        while let Type::Id(id) = ty
            && let TypeDefKind::Type(inner) = self.kind(id)
        {
            ty = *inner;
        }
        ty
    }
}

/// The names that two lists do not share.
fn named(at: &str, what: &str, ours: &[String], theirs: &[String]) -> Option<String> {
    if ours == theirs {
        return None;
    }
    Some(format!("{at} has the {what} {}, not {}", theirs.join(", "), ours.join(", ")))
}

fn primitive(ty: Type) -> &'static str {
    match ty {
        Type::Bool => "bool",
        Type::U8 => "u8",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::S8 => "s8",
        Type::S16 => "s16",
        Type::S32 => "s32",
        Type::S64 => "s64",
        Type::F32 => "f32",
        Type::F64 => "f64",
        Type::Char => "char",
        Type::String => "string",
        Type::ErrorContext => "error-context",
        Type::Id(_) => "a named type",
    }
}

/// One sentence for each breach, up to some.
fn all_well(breaches: &[String]) -> Result<(), String> {
    match breaches.len() {
        0 => Ok(()),
        1..=BREACHES_MAX => Err(breaches.join("; ")),
        count => {
            let named = breaches[..BREACHES_MAX].join("; ");
            Err(format!("{named}; and {} more", count - BREACHES_MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world that exports interfaces of the contract.
    fn exporting(interfaces: &[&str]) -> World {
        let mut resolve = DEMANDED.resolve.clone();
        let export = |name: &&str| format!("export session:manager/{name}@2.0.0;");
        let exports: String = interfaces.iter().map(export).collect();
        let text = format!("package test:partial; world partial {{ {exports} }}");
        let package = push(&mut resolve, &[("partial.wit", &text)]).expect("valid WIT");
        let world = resolve.select_world(&[package], Some("partial")).expect("a world");
        World { resolve, world }
    }

    #[test]
    fn a_component_exports_the_catalog_and_any_kinds_but_none_that_expires_without_maintenance() {
        let all = exporting(&["catalog", "booking", "maintenance", "users"]).exports();
        let served = [Interface::Booking, Interface::Maintenance, Interface::Users];
        assert_eq!(all, Ok(served.to_vec()));
        assert_eq!(exporting(&["catalog"]).exports(), Ok(Vec::new()));
        let uncatalogued = exporting(&["booking"]).exports();
        let message = "it does not export session:manager/catalog@2.0.0";
        assert_eq!(uncatalogued, Err(message.into()));
        for kind in ["connections", "users", "viewing"] {
            let refused = exporting(&["catalog", kind]).exports().expect_err(kind);
            assert!(
                refused.contains(&format!("it exports {kind} without maintenance")),
                "{refused}"
            );
        }
    }
}
