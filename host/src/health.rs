//! `session-manager health`: asks the process with the same settings whether it is ready, so that
//! an image needs no other program for its health check.

use anyhow::{Context, Result};

use crate::config::Settings;
use crate::local;

/// Asks, and returns whether the process is ready.
///
/// # Errors
/// If it does not answer.
#[allow(clippy::print_stdout, reason = "this is what was asked for")]
pub fn run(settings: &Settings) -> Result<bool> {
    let (address, port) = (settings.network.admin_address, settings.network.admin_port);
    let answer = local::ask(address, port, "GET", "/readyz", "");
    let answer = answer.with_context(|| format!("{address}:{port} does not answer"))?;
    println!("{}", if answer.is_success() { "ready" } else { "not ready" });
    Ok(answer.is_success())
}
