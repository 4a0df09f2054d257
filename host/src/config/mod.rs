//! Settings: the only reader of flags and environment variables. All of them are parsed before
//! anything starts. A bad value ends the start with one line that names the setting, the value and
//! what is accepted.

mod callers;
mod command_line;
mod early_exit;
mod given;
mod network;
mod process;
mod rules;
mod secret;
mod sessions;
mod storage;
mod traces;
mod values;

use clap::Args;

pub use callers::{Callers, PROBE};
pub use command_line::{Command, Subject, completions};
pub use early_exit::{EXIT_USAGE, EarlyExit, PortSettings};
pub use network::{ADMIN, GRPC, Ports, REST};
pub use process::Process;
pub use rules::Rules;
pub use sessions::Sessions;
pub use storage::{Storage, StoreChoice};

use crate::telemetry::traces::Export;

/// The DATA_DIR of a store that keeps nothing.
pub const IN_MEMORY: &str = ":memory:";

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
    tracing: traces::Tracing,
    /// Warnings to log at the start.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads flags and environment variables. Settings that only serving needs are checked only for
    /// `serve`.
    ///
    /// # Errors
    /// What to print and how to exit, for bad settings and for `--help`.
    pub fn read(
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<(Command, Self), EarlyExit> {
        let (command, settings) = command_line::read(arguments)?;
        if matches!(command, Command::Serve) {
            settings.storage.choice()?;
            settings.sessions.check()?;
            settings.traces()?;
        }
        Ok((command, settings))
    }

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

#[cfg(test)]
mod tests;
