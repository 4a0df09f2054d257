//! Programs in Python, with the packages that `tests/ecosystem/run` installs.

use std::path::PathBuf;
use std::process::{Command, Output};

use session_tests::{target_directory, workspace};

/// The directory of the packages.
pub fn packages() -> PathBuf {
    target_directory().join("python")
}

/// Python with these packages; the caller adds the arguments.
pub fn command() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages());
    command
}

/// A program of `tests/ecosystem/python`.
pub fn program(name: &str) -> PathBuf {
    workspace().join("tests/ecosystem/python").join(name)
}

/// Runs a command and returns its standard output.
///
/// # Errors
/// Everything it prints, when it fails.
///
/// # Panics
/// When Python is not installed.
pub fn run(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.output().expect("install python3");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if status.success() { Ok(text(&stdout)) } else { Err(text(&stdout) + &text(&stderr)) }
}
