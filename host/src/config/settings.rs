//! All settings of the process.

use clap::Args;

use super::callers::Callers;
use super::early_exit::EarlyExit;
use super::network::Ports;
use super::process::Process;
use super::rules::Rules;
use super::sessions::Sessions;
use super::storage::Storage;
use super::traces::Tracing;
use crate::telemetry::traces::Export;

/// All settings, by topic. A new one belongs to the group of its topic, and is read through
/// `given`, or as a secret.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Names and log.
    #[command(flatten)]
    pub process: Process,
    /// Addresses and ports.
    #[command(flatten)]
    pub network: Ports,
    /// The limits of callers.
    #[command(flatten)]
    pub callers: Callers,
    /// The store.
    #[command(flatten)]
    pub storage: Storage,
    /// Lifetimes and limits.
    #[command(flatten)]
    pub sessions: Sessions,
    /// The component.
    #[command(flatten)]
    pub rules: Rules,
    /// The export of traces.
    #[command(flatten)]
    tracing: Tracing,
    /// Warnings to log at the start.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

impl Settings {
    /// The export of traces; `None` if traces are off.
    ///
    /// # Errors
    /// If a token or the headers for the collector are not valid.
    pub fn traces(&self) -> Result<Option<Export>, EarlyExit> {
        self.tracing.export(&self.process.app_name, self.process.pod_id())
    }

    /// The settings of the component, as the world's documentation lists them.
    pub fn for_component(&self) -> Vec<(String, String)> {
        self.sessions.for_component()
    }
}
