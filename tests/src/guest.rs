//! Components for tests, built from source: the guests in `tests/guests`, and the real component
//! with changes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{target_directory, workspace};

/// Builds a guest of `tests/guests` and returns its component.
///
/// # Panics
/// When it does not build; cargo prints why.
pub fn build(name: &str) -> Vec<u8> {
    let target = target_directory().join("component");
    build_package(&workspace(), &target, &format!("guest-{name}"))
}

/// One change of a source file.
pub struct Change<'a> {
    /// The file, from the root of the workspace.
    pub file: &'a str,
    /// Text that it contains exactly once.
    pub before: &'a str,
    /// The text to replace it with.
    pub after: &'a str,
}

/// Builds the real component from a copy of its source with changes, unless an earlier test
/// has built it.
///
/// # Panics
/// When the source does not contain the text to be changed, or does not build.
pub fn changed(name: &str, changes: &[Change<'_>]) -> Vec<u8> {
    let variants = target_directory().join("variants");
    std::fs::create_dir_all(&variants).expect("a directory");
    // Tests run in parallel, and all variants share one target directory and its dependencies.
    // Dropping the file releases the lock.
    let lock = File::create(variants.join("lock")).expect("a file");
    lock.lock().expect("a lock");
    let source = changed_source(changes);
    let built = variants.join(name).with_extension("wasm");
    let built_from = variants.join(name).with_extension("source");
    let whole: String = source.iter().map(|(file, text)| format!("{file:?}\n{text}\n")).collect();
    if std::fs::read_to_string(&built_from).is_ok_and(|before| before == whole)
        && let Ok(component) = std::fs::read(&built)
    {
        return component;
    }
    let copy = variants.join("copy");
    remove_others(&copy, &source);
    for (file, text) in &source {
        write_if_new(&copy.join(file), text);
    }
    let target = variants.join("target");
    take_dependencies(&target);
    let component = build_package(&copy, &target, "session-guest");
    std::fs::write(built, &component).expect("a file");
    std::fs::write(built_from, whole).expect("a file");
    component
}

/// Copies the build of the real component into a target directory, so that a changed copy of
/// the component compiles only its own crates.
///
/// # Panics
/// When the directory cannot be written.
pub fn take_dependencies(target: &Path) {
    if target.exists() {
        return;
    }
    let partial = target.with_extension("partial");
    let status = Command::new("cp")
        .args(["--recursive", "--preserve=mode,timestamps", "--no-target-directory"])
        .arg(target_directory().join("component"))
        .arg(&partial)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the dependencies were not copied");
    // A copy may have older files than the real component. Cargo would then consider the copy
    // as built already.
    let known = partial.join("wasm32-wasip2/component/.fingerprint");
    for entry in std::fs::read_dir(known).expect("the component was built") {
        let entry = entry.expect("an entry");
        if entry.file_name().to_string_lossy().starts_with("session-guest-") {
            std::fs::remove_dir_all(entry.path()).expect("a directory of cargo");
        }
    }
    std::fs::rename(partial, target).expect("the directory is renamed");
}

/// The directories that the component is built from.
const SOURCES: [&str; 3] = ["guest", "store", "wit"];

/// Removes what an earlier copy has and the source has not: a former file of the contract would
/// be part of it.
fn remove_others(copy: &Path, source: &[(PathBuf, String)]) {
    let mut copied = Vec::new();
    for directory in SOURCES.iter().filter(|directory| copy.join(directory).exists()) {
        list(&copy.join(directory), Path::new(directory), &mut copied);
    }
    for file in copied.iter().filter(|file| source.iter().all(|(known, _)| known != *file)) {
        std::fs::remove_file(copy.join(file)).expect("a file of the copy");
    }
}

/// The files of the guest, its contract and its workspace, with changes.
fn changed_source(changes: &[Change<'_>]) -> Vec<(PathBuf, String)> {
    let mut files = vec!["Cargo.lock".into(), "Cargo.toml".into()];
    for directory in SOURCES {
        list(&workspace().join(directory), Path::new(directory), &mut files);
    }
    files.sort();
    let read = |file: PathBuf| {
        let mut text = std::fs::read_to_string(workspace().join(&file)).expect("a source file");
        if file == Path::new("Cargo.toml") {
            let members = text.find("members = ").expect("a workspace has members");
            let end = members + text[members..].find('\n').expect("a line ends");
            text.replace_range(members..end, "members = [\"guest\", \"store\"]");
            text = text.replace("default-members = [\"host\"]\n", "");
        }
        for change in changes.iter().filter(|change| Path::new(change.file) == file) {
            let found = text.matches(change.before).count();
            assert_eq!(found, 1, "{} contains once: {}", change.file, change.before);
            text = text.replace(change.before, change.after);
        }
        (file, text)
    };
    files.into_iter().map(read).collect()
}

/// Every file of a directory of the workspace.
fn list(directory: &Path, name: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory of the workspace") {
        let path = entry.expect("an entry").path();
        let name = name.join(path.file_name().expect("a name"));
        if path.is_dir() {
            list(&path, &name, files);
        } else {
            files.push(name);
        }
    }
}

/// Writes a file, unless it has this text already: cargo rebuilds what was written again.
fn write_if_new(path: &Path, text: &str) {
    if std::fs::read_to_string(path).is_ok_and(|written| written == text) {
        return;
    }
    std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("a directory");
    std::fs::write(path, text).expect("the copy is written");
}

fn build_package(workspace: &Path, target: &Path, package: &str) -> Vec<u8> {
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", package, "--lib"])
        .args(["--target", "wasm32-wasip2", "--profile", "component", "--target-dir"])
        .arg(target)
        .current_dir(workspace)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{package} does not build");
    let file =
        target.join("wasm32-wasip2/component").join(format!("{}.wasm", package.replace('-', "_")));
    std::fs::read(file).expect("cargo built it")
}

/// The real component, changed: a further context `flight`, two further fields in `reschedule`,
/// and the version 2.0.0.
///
/// # Panics
/// As [`changed`].
pub fn second_version() -> Vec<u8> {
    let change = |file, before, after| Change { file, before, after };
    changed(
        "second-version",
        &[
            change(
                "guest/src/schema.rs",
                "pub static CONTEXTS: &[Context] = &[\n",
                "pub static CONTEXTS: &[Context] = &[\n    \
                 Context {\n        name: \"flight\",\n        key_prefix: \"SESSION_FLIGHT:\",\n        \
                 fields: &[document(\"offer\", \"OFFER\"), text(\"seat\", \"SEAT\")],\n        \
                 one_time_field: None,\n    },\n",
            ),
            change(
                "guest/src/schema.rs",
                "boolean(\"is_price_changed\",",
                "text(\"terminal\", \"Terminal\"),\n            \
                 text(\"platform\", \"Platform\"),\n            boolean(\"is_price_changed\",",
            ),
            change("guest/src/lib.rs", "env!(\"CARGO_PKG_VERSION\")", "\"2.0.0\""),
        ],
    )
}

/// A component with a further core module, which nothing uses yet.
pub fn with_module(component: &[u8], module: &[u8]) -> Vec<u8> {
    with_section(component, 1, module)
}

/// A component that instantiates the core module with this number `times` more times.
pub fn with_instances(component: &[u8], module: u32, times: u32) -> Vec<u8> {
    // Each instantiation names a module and gives it no imports.
    let one = [&[0][..], &leb128(module), &[0]].concat();
    with_section(component, 2, &[leb128(times), one.repeat(times as usize)].concat())
}

fn with_section(component: &[u8], kind: u8, inside: &[u8]) -> Vec<u8> {
    let length = u32::try_from(inside.len()).expect("a section is small");
    [component, &[kind], &leb128(length), inside].concat()
}

/// A number in the encoding of WebAssembly.
fn leb128(mut number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// The same component with another digest, by adding a custom section without a meaning.
///
/// # Panics
/// Never: the section is small.
pub fn relabelled(component: &[u8], label: u32) -> Vec<u8> {
    let name = format!("label-{label}");
    with_section(component, 0, &[&[name.len() as u8], name.as_bytes()].concat())
}
