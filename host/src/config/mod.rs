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
mod settings;
mod storage;
mod traces;
mod values;

pub use callers::{Callers, PROBE};
pub use command_line::{Command, Subject, completions};
pub use early_exit::{EXIT_USAGE, EarlyExit, PortSettings};
pub use network::{ADMIN, GRPC, Ports, REST};
pub use process::Process;
pub use rules::Rules;
pub use sessions::Sessions;
pub use settings::Settings;
pub use storage::{Storage, StoreChoice};
pub use values::IN_MEMORY;

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
}

#[cfg(test)]
mod tests;
