//! The harness of the tests: real processes on free ports, ended with the test,
//! and clients that speak both wires like users do.

pub mod admin;
pub mod certificate;
pub mod client;
pub mod collector;
pub mod guest;
pub mod host;
pub mod process;
pub mod python;
pub mod redis_server;
pub mod redis_topology;
pub mod secrets;
pub mod wait;

use std::path::{Path, PathBuf};

/// The root of the workspace.
///
/// # Panics
/// Never: the tests lie in it.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").into()
}
