//! Ends the process before it starts: one line that names the setting, the value and what is
//! accepted, with a suggestion for a misspelt name.

use std::io::ErrorKind as IoErrorKind;
use std::net::SocketAddr;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::given;

/// The exit code for bad settings (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: i32 = 64;

/// Why the process does not start: what to print, and the exit code.
#[derive(Debug)]
pub struct EarlyExit {
    /// One line, or the requested help.
    pub text: String,
    /// The exit code.
    pub code: i32,
}

impl EarlyExit {
    /// Bad settings, with their own line.
    pub(super) fn of(text: String) -> Self {
        Self { text, code: EXIT_USAGE }
    }

    /// A bad value, and what is accepted.
    pub(super) fn of_value(name: &str, value: &str, expected: &str) -> Self {
        Self::of(given::refused(name, value, &format!("expected {expected}")))
    }

    /// A bad value that is a secret and is not shown.
    pub(super) fn of_secret(name: &str, expected: &str) -> Self {
        Self::of(format!("invalid value for {name}: expected {expected}"))
    }
}

impl From<clap::Error> for EarlyExit {
    /// One line for a bad setting; the whole text for help and version.
    fn from(error: clap::Error) -> Self {
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Self { text: error.to_string(), code: 0 };
        }
        let text = |kind| match error.get(kind) {
            Some(ContextValue::String(text)) => Some(text.as_str()),
            _ => None,
        };
        let whole = error.to_string();
        // What is missing is listed on lines of its own; the usage follows after an empty line.
        let lines = whole.lines().map(str::trim).take_while(|line| !line.is_empty());
        let line = lines.collect::<Vec<_>>().join(" ");
        let line = line.trim_start_matches("error: ");
        let argument = text(ContextKind::InvalidArg).unwrap_or_default();
        let name = argument.split(['<', '>']).nth(1).unwrap_or(argument);
        let suggested = suggestion(&error);
        let line = match (error.kind(), text(ContextKind::InvalidValue)) {
            // The parser of the setting has written the whole line.
            (ErrorKind::ValueValidation, _) => return Self::of(line.into()),
            (ErrorKind::InvalidValue, Some(value)) => {
                let expected = match error.get(ContextKind::ValidValue) {
                    Some(ContextValue::Strings(accepted)) => any_of(accepted),
                    _ => "a value".into(),
                };
                given::refused(name, value, &format!("expected {expected}"))
            }
            (ErrorKind::InvalidSubcommand, _) => {
                let command = text(ContextKind::InvalidSubcommand).unwrap_or_default();
                format!("there is no command {command:?}")
            }
            _ => line.into(),
        };
        Self::of(match suggested {
            Some(suggested) => format!("{line}; did you mean {suggested}?"),
            None => format!("{line}; see --help"),
        })
    }
}

/// The name that was probably meant.
fn suggestion(error: &clap::Error) -> Option<String> {
    let kinds =
        [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one.clone()),
        // The last one is the likeliest.
        ContextValue::Strings(some) => some.last().cloned(),
        _ => None,
    })
}

/// A list of accepted values, in words.
pub(super) fn any_of<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).into(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// The settings of a port: its number and its address.
#[derive(Clone, Copy, Debug)]
pub struct PortSettings {
    /// The setting of the port, such as `GRPC_PORT`.
    pub port: &'static str,
    /// The setting of its address, such as `BIND_ADDRESS`.
    pub address: &'static str,
}

impl PortSettings {
    /// The message when the port cannot be opened: which setting is wrong, and what to do.
    pub fn refuse(self, at: SocketAddr, error: &std::io::Error) -> String {
        let Self { port, address } = self;
        let (ip, number) = (at.ip(), at.port());
        match error.kind() {
            IoErrorKind::AddrInUse => format!(
                "{port} {number} is taken on {ip}: end the process that listens there, or set \
                 {port} to another port, or to 0 for a free one"
            ),
            IoErrorKind::AddrNotAvailable => format!(
                "{address} {ip} is not an address of this machine: set it to one that is, to \
                 127.0.0.1, or to 0.0.0.0 for all of them"
            ),
            IoErrorKind::PermissionDenied => format!(
                "{port} {number} is not open to this user: set {port} to a port from 1024, or \
                 give the process the capability CAP_NET_BIND_SERVICE"
            ),
            _ => format!("cannot listen on {port} {number} of {address} {ip}: {error}"),
        }
    }
}
