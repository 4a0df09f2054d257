//! Programs in Python, with the packages that `tests/run` has installed for the tests.

use std::path::PathBuf;
use std::process::Command;

use crate::workspace;

/// Where the packages are.
pub fn packages() -> PathBuf {
    workspace().join("target/python")
}

/// Python with these packages, to be told what to run.
pub fn command() -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", packages());
    command
}
