//! Settings of the process itself: its names and its log.

use std::path::Path;

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

use super::early_exit::EarlyExit;
use super::given::{given, text};
use super::values;
use crate::telemetry::LogFormat;

/// Names and log.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Process and log")]
pub struct Process {
    /// Name in logs and traces.
    #[arg(long, env = "APP_NAME", default_value = "session-manager", global = true,
          value_parser = given(text))]
    pub app_name: String,

    /// Name of this process in the records of the connections that it holds; empty for the name
    /// of the machine.
    #[arg(long, env = "POD_ID", default_value = "", global = true, hide_default_value = true,
          value_parser = given(values::name))]
    pod_id: String,

    /// Level of the log: off, error, warn, info, debug or trace.
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true,
          value_parser = given(values::level))]
    pub log_level: LevelFilter,

    /// Format of the log: text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text", global = true,
          value_parser = given(values::format))]
    pub log_format: LogFormat,

    /// Directory of daily log files; empty logs to standard error.
    #[arg(long, env = "LOG_DIRECTORY", default_value = "", global = true,
          hide_default_value = true, value_parser = given(text))]
    log_directory: String,
}

impl Process {
    /// The name of this process in the records of the connections that it holds.
    pub fn pod_id(&self) -> String {
        if self.pod_id.is_empty() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            self.pod_id.clone()
        }
    }

    /// The directory of the log, if it goes to files.
    pub fn log_directory(&self) -> Option<&Path> {
        Some(Path::new(&self.log_directory)).filter(|_| !self.log_directory.is_empty())
    }

    /// The log directory is not writable.
    pub fn no_log_directory(&self, error: &anyhow::Error) -> EarlyExit {
        let expected = format!("a writable directory ({error:#})");
        EarlyExit::of_value("LOG_DIRECTORY", &self.log_directory, &expected)
    }
}
