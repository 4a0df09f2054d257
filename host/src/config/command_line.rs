//! The command line: the commands, and which settings the help of each shows. Every command
//! takes every setting, before it or behind it.

use std::path::PathBuf;

use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use super::refusal::Refusal;
use super::{Settings, secret};

/// What the program is called.
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

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Serve sessions (the default).
    Serve,
    /// Lead a component through every gate of a swap, and print what came of it.
    ///
    /// It is held against the component of COMPONENT, or the built-in one. Exits with
    /// 1 when a gate refuses it.
    Check {
        /// The component to check.
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        /// Accept a component without a context or field that the running one has, as a
        /// swap with ?force=true does.
        #[arg(long)]
        force: bool,
    },
    /// Print what the files in DATA_DIR hold, what of it is damaged, and what a repair would
    /// leave out.
    ///
    /// Exits with 1 when something is damaged, and with 2 when a server uses the directory or
    /// there is nothing to check.
    CheckData {
        /// Make a directory of what is whole; the files as they were are kept beside it.
        #[arg(long)]
        repair: bool,
    },
    /// Compile the component that comes in; the process that serves has it done apart.
    #[command(name = crate::logic::COMPILE_COMMAND, hide = true)]
    CompileInput {
        /// How much processor time it may take, in seconds.
        processor_seconds: u64,
    },
    /// Ask the process of the same settings whether it is ready.
    ///
    /// Exits with 1 when it is not, or does not answer.
    Health,
    /// Print a booking session of the process of the same settings.
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
    /// Show what the process of the same settings does, once a second, until q is pressed.
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

/// The settings that matter to each command but `serve`, to which all do.
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

/// The command line as a library knows it. Each command but `serve` hides the settings that
/// do not matter to it.
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

/// Reads the command and all settings, each by itself.
pub(super) fn read(
    arguments: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<(Command, Settings), Refusal> {
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
            // However it is broken into lines.
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
    fn what_is_hidden_from_the_help_of_a_command_is_taken_all_the_same() {
        for arguments in [["top", "--rest-port", "7"], ["--rest-port", "7", "top"]] {
            let arguments = [&[NAME], &arguments[..]].concat();
            let (_, settings) = read(arguments.iter().map(Into::into)).expect("accepted");
            assert_eq!(settings.network.rest_port, 7);
        }
    }
}
