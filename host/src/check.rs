//! `session-manager check`: runs every gate of a swap, for the author of a component.

use std::borrow::Cow;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::component_file;
use crate::config::Settings;
use crate::logic::{self, BUILT_IN, Limits, Passed};

/// Runs the component in `file` through the gates and prints one line for each. With `force` it may
/// lack what the running one has. Returns whether it passed all of them.
///
/// # Errors
/// If a file cannot be read, or the report cannot be written.
pub fn run(file: &Path, force: bool, settings: &Settings) -> Result<bool> {
    let read = |path: &Path| {
        component_file::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let candidate = read(file)?;
    let running = match settings.rules.component() {
        Some(path) => Cow::Owned(read(path).context("COMPONENT")?.to_vec()),
        None => Cow::Borrowed(BUILT_IN),
    };
    let mut passed = Passed::default();
    let limits = Limits::of_process(settings.rules.logic_instances);
    let limits = limits.context("the path of this program is not known")?;
    let settings = settings.for_component();
    let checked = logic::check(&candidate, &running, settings, limits, force, &mut passed);
    let mut out = std::io::stdout().lock();
    for (gate, duration) in &passed.0 {
        writeln!(out, "{:12} passed in {:.1} ms", gate.name(), duration.as_secs_f64() * 1000.0)?;
    }
    match &checked {
        Ok(description) => {
            let contexts: Vec<_> = description.contexts.iter().map(|c| c.name.as_str()).collect();
            writeln!(out, "version {}, contexts: {}", description.version, contexts.join(", "))?;
        }
        Err(refusal) => {
            writeln!(out, "{:12} REFUSED: {}", refusal.gate.name(), refusal.message)?;
        }
    }
    Ok(checked.is_ok())
}
