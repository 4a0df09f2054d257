//! Components for tests, built from their source under `tests/guests`.

use std::path::Path;
use std::process::Command;

/// Builds a guest and returns its component.
///
/// # Panics
/// When it does not build; cargo has said why.
pub fn build(name: &str) -> Vec<u8> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let target = tests.parent().expect("tests lie in the workspace").join("target/component");
    let package = format!("guest-{name}");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", &package, "--lib"])
        .args(["--target", "wasm32-wasip2", "--profile", "component", "--target-dir"])
        .arg(&target)
        .current_dir(tests)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "{package} does not build");
    let file =
        target.join("wasm32-wasip2/component").join(format!("{}.wasm", package.replace('-', "_")));
    std::fs::read(file).expect("cargo built it")
}
