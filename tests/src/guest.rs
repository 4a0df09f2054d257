//! Components for tests, built from source: the guests under `tests/guests`, and
//! the real one with changes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds a guest of `tests/guests` and returns its component.
///
/// # Panics
/// When it does not build; cargo has said why.
pub fn build(name: &str) -> Vec<u8> {
    build_package(&workspace(), &format!("guest-{name}"))
}

/// One change of a source file.
pub struct Change<'a> {
    /// The file, from the root of the workspace.
    pub file: &'a str,
    /// What it says once.
    pub before: &'a str,
    /// What it is to say.
    pub after: &'a str,
}

/// Builds the real component from a copy of its source with changes.
///
/// # Panics
/// When the source does not say what is to be changed, or does not build.
pub fn changed(name: &str, changes: &[Change<'_>]) -> Vec<u8> {
    let copy = workspace().join("target/variants").join(name);
    std::fs::create_dir_all(&copy).expect("a directory");
    // Tests run at the same time; the lock ends with the file.
    let lock = File::create(copy.with_extension("lock")).expect("a file");
    lock.lock().expect("a lock");
    let mut files = vec!["Cargo.lock".into(), "Cargo.toml".into()];
    for directory in ["guest", "wit"] {
        list(&workspace().join(directory), Path::new(directory), &mut files);
    }
    for file in files {
        let mut text = std::fs::read_to_string(workspace().join(&file)).expect("a source file");
        if file == Path::new("Cargo.toml") {
            let members = text.find("members = ").expect("a workspace has members");
            let end = members + text[members..].find('\n').expect("a line ends");
            text.replace_range(members..end, "members = [\"guest\"]");
            text = text.replace("default-members = [\"host\"]\n", "");
        }
        for change in changes.iter().filter(|change| Path::new(change.file) == file) {
            let parts = text.matches(change.before).count();
            assert_eq!(parts, 1, "{} says once: {}", change.file, change.before);
            text = text.replace(change.before, change.after);
        }
        write_if_new(&copy.join(&file), &text);
    }
    build_package(&copy, "session-guest")
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

/// Cargo builds again what was written again.
fn write_if_new(path: &Path, text: &str) {
    if std::fs::read_to_string(path).is_ok_and(|written| written == text) {
        return;
    }
    std::fs::create_dir_all(path.parent().expect("a file lies somewhere")).expect("a directory");
    std::fs::write(path, text).expect("the copy is written");
}

fn build_package(workspace_: &Path, package: &str) -> Vec<u8> {
    // What a copy builds is called as what it is a copy of.
    let target = match workspace_ == workspace() {
        true => workspace().join("target/component"),
        false => workspace_.join("target"),
    };
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", package, "--lib"])
        .args(["--target", "wasm32-wasip2", "--profile", "component", "--target-dir"])
        .arg(&target)
        .current_dir(workspace_)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{package} does not build");
    let file =
        target.join("wasm32-wasip2/component").join(format!("{}.wasm", package.replace('-', "_")));
    std::fs::read(file).expect("cargo built it")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").into()
}
