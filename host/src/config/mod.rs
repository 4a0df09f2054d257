//! Settings: the only reader of flags and environment. Everything is parsed
//! before anything starts, and a bad value ends the start with one line that
//! names the setting, the value and what is accepted.

mod callers;
mod command_line;
mod given;
mod network;
mod process;
mod refusal;
mod rules;
mod secret;
mod sessions;
mod storage;
mod traces;
mod values;

use clap::Args;

pub use callers::{Callers, PROBE};
pub use command_line::{Command, Subject, completions};
pub use network::{ADMIN, GRPC, Network, REST};
pub use process::Process;
pub use refusal::{EXIT_USAGE, PortSettings, Refusal};
pub use rules::Rules;
pub use sessions::Sessions;
pub use storage::{Storage, StoreChoice};

use crate::telemetry::traces::Export;

/// The DATA_DIR that keeps nothing.
pub const IN_MEMORY: &str = ":memory:";

/// All settings, by topic. A new one stands in the group of its topic, and is read through
/// `given`, or as a secret.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Names and log.
    #[command(flatten)]
    pub process: Process,
    /// Addresses and ports.
    #[command(flatten)]
    pub network: Network,
    /// What one caller may take.
    #[command(flatten)]
    pub callers: Callers,
    /// Where sessions are kept.
    #[command(flatten)]
    pub storage: Storage,
    /// Lifetimes and limits.
    #[command(flatten)]
    pub sessions: Sessions,
    /// The component.
    #[command(flatten)]
    pub rules: Rules,
    /// Where traces go.
    #[command(flatten)]
    tracing: traces::Tracing,
    /// What to tell whoever starts the process.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads flags and environment. What serving alone needs is only looked at to serve.
    ///
    /// # Errors
    /// What to print and how to exit, for bad settings and for `--help`.
    pub fn read(
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<(Command, Self), Refusal> {
        let (command, settings) = command_line::read(arguments)?;
        if matches!(command, Command::Serve) {
            settings.storage.choice()?;
            settings.sessions.check()?;
            settings.traces()?;
        }
        Ok((command, settings))
    }

    /// Where traces go, and which; `None` when nobody wants them.
    ///
    /// # Errors
    /// When a token or the headers for the collector are none.
    pub fn traces(&self) -> Result<Option<Export>, Refusal> {
        self.tracing.export(&self.process.app_name, self.process.pod_id())
    }

    /// What the component is told, as the world's documentation lists it.
    pub fn for_component(&self) -> Vec<(String, String)> {
        self.sessions.for_component()
    }
}

#[cfg(test)]
mod tests;
