//! The command line: the commands, and the settings in the help of each. Every command accepts
//! every setting, before or after it.

use std::path::PathBuf;

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use super::early_exit::EarlyExit;
use super::secret;
use super::settings::Settings;

/// The name of the program.
const NAME: &str = "session-manager";

/// Session service for booking flows, logins, connections and viewing slots.
///
/// Every setting is a flag and an environment variable of the same name; the
/// flag wins. Durations are written like 15m, 3s, 1h30m or 500ms.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

/// The command to run.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve sessions (the default).
    Serve,
    /// Run a component through every gate of a swap, and print the result.
    ///
    /// It is compared with the component of COMPONENT, or the built-in one. Exits with 1 if a
    /// gate refuses it.
    Check {
        /// The component to check.
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        /// Accept a component that lacks a context or field of the running one, as a swap with
        /// ?force=true does.
        #[arg(long)]
        force: bool,
    },
    /// Print what the files in DATA_DIR hold, what is damaged, and what a repair would leave out.
    ///
    /// Exits with 1 if something is damaged, and with 2 if a server uses the directory or there
    /// is nothing to check.
    CheckData {
        /// Rebuild the directory from what is whole, and keep the old files beside it.
        #[arg(long)]
        repair: bool,
    },
    /// Compile the component on standard input. The serving process runs this in a process of
    /// its own.
    #[command(name = crate::logic::COMPILE_COMMAND, hide = true)]
    CompileInput {
        /// The processor time that it may use, in seconds.
        processor_seconds: u64,
    },
    /// Ask the process with the same settings whether it is ready.
    ///
    /// Exits with 1 if it is not, or does not answer.
    Health,
    /// Print a booking session of the process with the same settings.
    Get(Subject),
    /// Write fields of a booking session, and keep the others.
    Set {
        /// The session.
        #[command(flatten)]
        subject: Subject,
        /// Each field with its value: JSON, or text that does not begin like JSON.
        #[arg(value_name = "NAME=VALUE", required = true)]
        fields: Vec<String>,
    },
    /// Delete a booking session, whether or not it exists.
    Delete(Subject),
    /// Show what the process with the same settings does, once a second, until q is pressed.
    Top {
        /// Show one second and end.
        #[arg(long)]
        once: bool,
    },
    /// Print a script that completes commands and settings in a shell.
    ///
    /// For bash: session-manager completions bash >/etc/bash_completion.d/session-manager
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// A booking session.
#[derive(Args, Clone, Debug)]
pub struct Subject {
    /// Its context, such as pre-order.
    #[arg(value_name = "CONTEXT")]
    pub context: String,
    /// Its key.
    #[arg(value_name = "KEY")]
    pub session_key: String,
}

/// The settings that matter to each command. For `serve` all of them do.
const RELEVANT: [(&str, &[&str]); 8] = [
    ("check", &["component", "logic_instances"]),
    ("check-data", &["data_dir"]),
    ("health", &["admin_address", "admin_port"]),
    ("get", &["bind_address", "rest_port"]),
    ("set", &["bind_address", "rest_port"]),
    ("delete", &["bind_address", "rest_port"]),
    ("top", &["admin_address", "admin_port"]),
    ("completions", &[]),
];

/// The command line as clap knows it. Each command except `serve` hides the settings that do not
/// matter to it.
pub(super) fn command() -> clap::Command {
    let command = CommandLine::command();
    let settings: Vec<Arg> =
        command.get_arguments().filter(|argument| argument.is_global_set()).cloned().collect();
    RELEVANT.into_iter().fold(command, |command, (name, relevant)| {
        let other =
            settings.iter().filter(|setting| !relevant.contains(&setting.get_id().as_str()));
        let hidden: Vec<Arg> = other.map(|setting| setting.clone().hide(true)).collect();
        command.mut_subcommand(name, |command| command.args(hidden))
    })
}

/// Reads the command and every setting. The settings are not compared with each other yet.
pub(super) fn read(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<(Command, Settings), EarlyExit> {
    let matches = command().try_get_matches_from(arguments)?;
    let CommandLine { command, mut settings } = CommandLine::from_arg_matches(&matches)?;
    settings.warnings = secret::warnings(&matches);
    Ok((command.unwrap_or(Command::Serve), settings))
}

/// The script for a shell.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), NAME, &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(arguments: &[&str]) -> String {
        let arguments = [&[NAME], arguments, &["--help"]].concat();
        read(arguments.iter().map(Into::into)).expect_err("help").text
    }

    #[test]
    fn the_help_of_a_command_shows_its_own_arguments_and_the_settings_that_matter_to_it() {
        for (command, own, settings) in [
            ("check", &["<FILE.wasm>", "--force"][..], &["COMPONENT", "LOGIC_INSTANCES"][..]),
            ("check-data", &["--repair"], &["DATA_DIR"]),
            ("top", &["--once"], &["ADMIN_ADDRESS", "ADMIN_PORT"]),
            ("health", &[], &["ADMIN_ADDRESS", "ADMIN_PORT"]),
            ("get", &["<CONTEXT>", "<KEY>"], &["BIND_ADDRESS", "REST_PORT"]),
            ("set", &["<NAME=VALUE>..."], &["BIND_ADDRESS", "REST_PORT"]),
            ("delete", &["<CONTEXT>"], &["BIND_ADDRESS", "REST_PORT"]),
            ("completions", &["<SHELL>"], &[]),
        ] {
            let help = help(&[command]);
            assert!(help.lines().count() < 45, "{help}");
            for own in own {
                assert!(help.contains(own), "{own}: {help}");
            }
            // Line breaks do not matter.
            let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
            let named = help.split("[env: ").skip(1).map(|rest| rest.split('=').next());
            let named: Vec<&str> = named.flatten().collect();
            assert_eq!(named, settings, "{help}");
        }
    }

    #[test]
    fn the_help_has_a_heading_for_each_topic() {
        let help = help(&[]);
        let headings = [
            "Commands:",
            "Process and log:",
            "Addresses and ports:",
            "Store:",
            "Sessions:",
            "Rules:",
            "Traces:",
        ];
        let mut from = 0;
        for heading in headings {
            let found = help[from..].find(&format!("\n{heading}\n"));
            from += found.unwrap_or_else(|| panic!("{heading} is missing or misplaced: {help}"));
        }
    }

    #[test]
    fn a_setting_hidden_from_the_help_of_a_command_is_accepted() {
        for arguments in [["top", "--rest-port", "7"], ["--rest-port", "7", "top"]] {
            let arguments = [&[NAME], &arguments[..]].concat();
            let (_, settings) = read(arguments.iter().map(Into::into)).expect("accepted");
            assert_eq!(settings.network.rest_port, 7);
        }
    }
}
