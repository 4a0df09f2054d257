//! Settings: the only reader of flags and environment. Everything is parsed
//! before anything starts, and a bad value ends the start with one line that
//! names the setting, the value and what is accepted.

mod traces;
mod values;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;

use crate::store::redis::Address;
use crate::telemetry::LogFormat;
use crate::telemetry::traces::Export;

/// The exit code for bad settings (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: i32 = 64;
/// The DATA_DIR that keeps nothing.
pub const IN_MEMORY: &str = ":memory:";

/// Session service for booking flows, logins, connections and viewing slots.
///
/// Every setting is a flag and an environment variable of the same name; the
/// flag wins. Durations are written like 15m, 3s, 1h30m or 500ms.
#[derive(Debug, Parser)]
#[command(name = "session-manager", version, max_term_width = 100)]
struct Cli {
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
        /// Each field with its value: JSON, or text that is none.
        #[arg(value_name = "NAME=VALUE", required = true)]
        fields: Vec<String>,
    },
    /// Delete a booking session, whether or not it exists.
    Delete(Subject),
    /// Show what the process of the same settings does, once a second.
    Top {
        /// Show one second and end.
        #[arg(long)]
        once: bool,
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

/// All settings.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Name in logs and traces.
    #[arg(long, env = "APP_NAME", default_value = "session-manager", global = true)]
    pub app_name: String,

    /// Address of the gRPC and REST ports.
    #[arg(long, env = "BIND_ADDRESS", default_value = "127.0.0.1", global = true,
          value_parser = values::address)]
    pub bind_address: IpAddr,

    /// Address of the admin port.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "127.0.0.1", global = true,
          value_parser = values::address)]
    pub admin_address: IpAddr,

    /// Port of gRPC; 0 picks a free one.
    #[arg(long, env = "GRPC_PORT", default_value = "6027", global = true, value_parser = values::port)]
    pub grpc_port: u16,

    /// Port of REST; 0 picks a free one.
    #[arg(long, env = "REST_PORT", default_value = "8027", global = true, value_parser = values::port)]
    pub rest_port: u16,

    /// Port of metrics and probes; 0 picks a free one.
    #[arg(long, env = "ADMIN_PORT", default_value = "9027", global = true, value_parser = values::port)]
    pub admin_port: u16,

    /// What is logged: off, error, warn, info, debug or trace.
    #[arg(long, env = "LOG_LEVEL", default_value = "info", global = true, value_parser = values::level)]
    pub log_level: LevelFilter,

    /// Form of the log: text or json.
    #[arg(long, env = "LOG_FORMAT", default_value = "text", global = true, value_parser = values::format)]
    pub log_format: LogFormat,

    /// Directory of daily log files; empty logs to standard error.
    #[arg(
        long,
        env = "LOG_DIRECTORY",
        default_value = "",
        global = true,
        hide_default_value = true
    )]
    pub log_directory: String,

    /// Host of Redis; empty uses the embedded store.
    #[arg(long, env = "REDIS_HOST", default_value = "", global = true, hide_default_value = true)]
    pub redis_host: String,

    /// Port of Redis.
    #[arg(long, env = "REDIS_PORT", default_value = "6379", global = true, value_parser = values::port)]
    pub redis_port: u16,

    /// Database of Redis.
    #[arg(long, env = "REDIS_DATABASE", default_value = "5", global = true,
          value_parser = values::database)]
    pub redis_database: u32,

    /// User of Redis.
    #[arg(
        long,
        env = "REDIS_USERNAME",
        default_value = "",
        global = true,
        hide_default_value = true
    )]
    pub redis_username: String,

    /// Password of Redis.
    #[arg(
        long,
        env = "REDIS_PASSWORD",
        default_value = "",
        global = true,
        hide_default_value = true,
        hide_env_values = true
    )]
    pub redis_password: String,

    /// redis://user:password@host:port/database, instead of the five above (without a
    /// database it is 0);
    /// redis-sentinel://host:port,host:port/service/database asks Sentinels for the server,
    /// redis-cluster://host:port,host:port is a Cluster. With rediss in the place of redis,
    /// over TLS.
    #[arg(
        long,
        env = "REDIS_URL",
        default_value = "",
        global = true,
        hide_default_value = true,
        hide_env_values = true
    )]
    pub redis_url: String,

    /// How long a call waits for Redis.
    #[arg(long, env = "REDIS_TIMEOUT", default_value = "1s", global = true,
          value_parser = values::timeout)]
    pub redis_timeout: Duration,

    /// Accept a Redis that evicts keys when it is full.
    #[arg(long, env = "REDIS_ALLOW_EVICTION", default_value = "false", global = true,
          value_parser = values::boolean, num_args = 0..=1, default_missing_value = "true",
          require_equals = true)]
    pub redis_allow_eviction: bool,

    /// Directory of the embedded store; :memory: keeps nothing.
    #[arg(long, env = "DATA_DIR", default_value = "data", global = true, value_parser = values::not_empty)]
    pub data_dir: String,

    /// Lifetime of a booking session after its last write.
    #[arg(long, env = "SESSION_TTL", default_value = "15m", global = true,
          value_parser = values::lifetime)]
    pub session_ttl: Duration,

    /// Lifetime of a lock on a booking session.
    #[arg(long, env = "SESSION_LOCK_TTL", default_value = "3s", global = true,
          value_parser = values::lifetime)]
    pub session_lock_ttl: Duration,

    /// Lifetime of a user's session, however much it is used.
    #[arg(long, env = "USER_SESSION_TTL", default_value = "8760h", global = true,
          value_parser = values::lifetime)]
    pub user_session_ttl: Duration,

    /// How long a user's session lives without being used; 0s for as long as it may.
    #[arg(long, env = "USER_SESSION_IDLE", default_value = "0s", global = true,
          value_parser = values::idle)]
    pub user_session_idle: Duration,

    /// How long it is known what became of a connection, after its last heartbeat.
    #[arg(long, env = "CONNECTION_TTL", default_value = "30m", global = true,
          value_parser = values::lifetime)]
    pub connection_ttl: Duration,

    /// How often a connection that this process holds is kept.
    #[arg(long, env = "CONNECTION_HEARTBEAT", default_value = "30s", global = true,
          value_parser = values::interval)]
    pub connection_heartbeat: Duration,

    /// Lifetime of a connection after its last heartbeat: at least twice
    /// CONNECTION_HEARTBEAT, at most CONNECTION_TTL.
    #[arg(long, env = "CONNECTION_STALE", default_value = "90s", global = true,
          value_parser = values::lifetime)]
    pub connection_stale: Duration,

    /// Name of this process among those that hold connections; empty for the name of the
    /// machine.
    #[arg(long, env = "POD_ID", default_value = "", global = true, hide_default_value = true,
          value_parser = values::name)]
    pub pod_id: String,

    /// Lifetime of a viewing session after its last heartbeat.
    #[arg(long, env = "VIEWING_TTL", default_value = "120s", global = true,
          value_parser = values::lifetime)]
    pub viewing_ttl: Duration,

    /// Viewing sessions at the same time, of a home that was given no number of its own.
    #[arg(long, env = "VIEWING_MAX_SESSIONS", default_value = "2", global = true,
          value_parser = values::max_sessions)]
    pub viewing_max_sessions: u32,

    /// Events that are kept in each of the 64 logs, about.
    #[arg(long, env = "EVENTS_KEPT", default_value = "10000", global = true,
          value_parser = values::events_kept)]
    pub events_kept: u32,

    /// Calls of the rules at the same time; each needs an instance.
    #[arg(long, env = "LOGIC_INSTANCES", default_value = "256", global = true,
          value_parser = values::instances)]
    pub logic_instances: u32,

    /// File of the component to run; empty runs the built-in one. A change of the file
    /// is a swap, and so is a SIGHUP.
    #[arg(long, env = "COMPONENT", default_value = "", global = true, hide_default_value = true)]
    pub component: String,

    /// Where traces go.
    #[command(flatten)]
    tracing: traces::Tracing,
}

/// Where sessions are to be kept.
#[derive(Clone, Debug)]
pub enum StoreChoice {
    /// In memory only.
    Memory,
    /// In a directory.
    Embedded(PathBuf),
    /// On a Redis server.
    Redis(Box<Address>),
}

/// Why the process does not start: what to print, and the code to exit with.
#[derive(Debug)]
pub struct Refusal {
    /// One line, or the help that was asked for.
    pub text: String,
    /// The exit code.
    pub code: i32,
}

impl Refusal {
    /// Refuses a value that may be a secret, and is not told.
    fn of_secret(name: &str, expected: &str) -> Self {
        let text = format!("invalid value for {name}: expected {expected}");
        Self { text, code: EXIT_USAGE }
    }
}

impl Settings {
    /// Reads flags and environment.
    ///
    /// # Errors
    /// What to print and how to exit, for bad settings and for `--help`.
    pub fn read(
        arguments: impl IntoIterator<Item = std::ffi::OsString>,
    ) -> Result<(Command, Self), Refusal> {
        let cli = Cli::try_parse_from(arguments).map_err(|error| refusal(&error))?;
        cli.settings.store()?;
        cli.settings.check_connections()?;
        cli.settings.traces()?;
        Ok((cli.command.unwrap_or(Command::Serve), cli.settings))
    }

    /// Whether heartbeats come in time, and a connection ends before it is forgotten.
    fn check_connections(&self) -> Result<(), Refusal> {
        let Self { connection_heartbeat, connection_stale, connection_ttl, .. } = self;
        let expected = if connection_heartbeat.saturating_mul(2) > *connection_stale {
            format!("at least twice CONNECTION_HEARTBEAT, {connection_heartbeat:?}")
        } else if connection_stale > connection_ttl {
            format!("at most CONNECTION_TTL, {connection_ttl:?}")
        } else {
            return Ok(());
        };
        let value = format!("{connection_stale:?}");
        let text = format!("invalid value {value:?} for CONNECTION_STALE: expected {expected}");
        Err(Refusal { text, code: EXIT_USAGE })
    }

    /// Where traces go, and which; `None` when nobody wants them.
    ///
    /// # Errors
    /// When a token or the headers for the collector are none.
    pub fn traces(&self) -> Result<Option<Export>, Refusal> {
        self.tracing.export(&self.app_name, self.pod_id())
    }

    /// The name of this process among those that hold connections.
    pub fn pod_id(&self) -> String {
        if self.pod_id.is_empty() {
            rustix::system::uname().nodename().to_string_lossy().into_owned()
        } else {
            self.pod_id.clone()
        }
    }

    /// Where the log is kept, if it is in files.
    pub fn log_directory(&self) -> Option<&Path> {
        Some(Path::new(&self.log_directory)).filter(|_| !self.log_directory.is_empty())
    }

    /// The directory of the log takes no files.
    pub fn no_log_directory(&self, error: &anyhow::Error) -> Refusal {
        let directory = &self.log_directory;
        let text = format!(
            "invalid value {directory:?} for LOG_DIRECTORY: expected a directory that takes files \
             ({error:#})"
        );
        Refusal { text, code: EXIT_USAGE }
    }

    /// The file of the component to run, if it is not the built-in one.
    pub fn component(&self) -> Option<&Path> {
        Some(Path::new(&self.component)).filter(|_| !self.component.is_empty())
    }

    /// Where sessions are to be kept.
    ///
    /// # Errors
    /// When REDIS_URL or REDIS_HOST is no address.
    pub fn store(&self) -> Result<StoreChoice, Refusal> {
        if !self.redis_url.is_empty() {
            const EXPECTED: &str = "redis://[user:password@]host[:port][/database], \
                 redis-sentinel://[user:password@]host[:port],.../service[/database] or \
                 redis-cluster://[user:password@]host[:port],..., or rediss in the place of redis";
            let address = Address::from_url(&self.redis_url);
            let address = address.map(|address| StoreChoice::Redis(Box::new(address)));
            return address.map_err(|_| Refusal::of_secret("REDIS_URL", EXPECTED));
        }
        if !self.redis_host.is_empty() {
            let address = Address::from_parts(
                &self.redis_host,
                self.redis_port,
                self.redis_database,
                &self.redis_username,
                &self.redis_password,
            );
            return address
                .map(|address| StoreChoice::Redis(Box::new(address)))
                .map_err(|_| Refusal::of_secret("REDIS_HOST", "a host name or an IP address"));
        }
        Ok(match self.data_dir.as_str() {
            IN_MEMORY => StoreChoice::Memory,
            directory => StoreChoice::Embedded(directory.into()),
        })
    }

    /// What the component is told, as the world's documentation lists it.
    pub fn for_component(&self) -> Vec<(String, String)> {
        let milliseconds =
            |name: &str, duration: Duration| (name.to_owned(), duration.as_millis().to_string());
        vec![
            milliseconds("session-ttl-ms", self.session_ttl),
            milliseconds("session-lock-ttl-ms", self.session_lock_ttl),
            milliseconds("user-session-ttl-ms", self.user_session_ttl),
            milliseconds("user-session-idle-ms", self.user_session_idle),
            milliseconds("connection-ttl-ms", self.connection_ttl),
            milliseconds("connection-stale-ms", self.connection_stale),
            milliseconds("viewing-ttl-ms", self.viewing_ttl),
            ("viewing-max-sessions".into(), self.viewing_max_sessions.to_string()),
            ("events-kept".into(), self.events_kept.to_string()),
        ]
    }
}

/// One line for a bad setting; the whole text for help and version.
fn refusal(error: &clap::Error) -> Refusal {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return Refusal { text: error.to_string(), code: 0 };
    }
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg);
    let name = argument.and_then(|argument| argument.split(['<', '>']).nth(1));
    let text = match (error.kind(), name, context(ContextKind::InvalidValue)) {
        (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Some(name), Some(value)) => {
            let expected = std::error::Error::source(error).map(ToString::to_string);
            let expected = expected.unwrap_or_else(|| "expected a value".into());
            format!("invalid value {value:?} for {name}: {expected}")
        }
        _ => {
            let text = error.to_string();
            // What is missing stands in lines of its own.
            let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
            let line = lines.collect::<Vec<_>>().join(" ");
            format!("{}; see --help", line.trim_start_matches("error: "))
        }
    };
    Refusal { text, code: EXIT_USAGE }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Settings, Refusal> {
        Settings::read(["session-manager"].iter().chain(arguments).map(Into::into))
            .map(|(_, settings)| settings)
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let settings = read(&[]).expect("defaults");
        assert_eq!(
            (settings.grpc_port, settings.rest_port, settings.admin_port),
            (6027, 8027, 9027)
        );
        assert_eq!(settings.bind_address.to_string(), "127.0.0.1");
        assert!(
            matches!(settings.store(), Ok(StoreChoice::Embedded(path)) if path.as_os_str() == "data")
        );
        assert_eq!(
            settings.for_component(),
            [
                ("session-ttl-ms".to_owned(), "900000".to_owned()),
                ("session-lock-ttl-ms".to_owned(), "3000".to_owned()),
                ("user-session-ttl-ms".to_owned(), "31536000000".to_owned()),
                ("user-session-idle-ms".to_owned(), "0".to_owned()),
                ("connection-ttl-ms".to_owned(), "1800000".to_owned()),
                ("connection-stale-ms".to_owned(), "90000".to_owned()),
                ("viewing-ttl-ms".to_owned(), "120000".to_owned()),
                ("viewing-max-sessions".to_owned(), "2".to_owned()),
                ("events-kept".to_owned(), "10000".to_owned()),
            ]
        );
    }

    #[test]
    fn settings_stand_before_and_behind_the_command() {
        assert_eq!(read(&["--rest-port", "1"]).expect("accepted").rest_port, 1);
        assert_eq!(read(&["serve", "--rest-port", "1"]).expect("accepted").rest_port, 1);
        assert_eq!(read(&["--rest-port", "1", "serve"]).expect("accepted").rest_port, 1);
    }

    #[test]
    fn a_bad_value_is_refused_in_one_line_that_names_it() {
        for (arguments, expected) in [
            (
                &["--grpc-port", "70000"][..],
                r#"invalid value "70000" for GRPC_PORT: expected a port from 0 to 65535"#,
            ),
            (
                &["--session-ttl", "soon"],
                r#"invalid value "soon" for SESSION_TTL: expected a duration from 1ms to 10 years, such as 15m or 1h30m"#,
            ),
            (
                &["--user-session-idle", "1d"],
                r#"invalid value "1d" for USER_SESSION_IDLE: expected a duration from 1ms to 10 years, such as 15m or 1h30m, or 0s for no limit"#,
            ),
            (
                &["--log-format", "xml"],
                r#"invalid value "xml" for LOG_FORMAT: expected text or json"#,
            ),
            (
                &["--log-level", "loud"],
                r#"invalid value "loud" for LOG_LEVEL: expected off, error, warn, info, debug or trace"#,
            ),
            (
                &["--redis-url", "http://x"],
                "invalid value for REDIS_URL: expected redis://[user:password@]host[:port][/database], redis-sentinel://[user:password@]host[:port],.../service[/database] or redis-cluster://[user:password@]host[:port],..., or rediss in the place of redis",
            ),
            (
                &["--connection-stale", "30s"],
                r#"invalid value "30s" for CONNECTION_STALE: expected at least twice CONNECTION_HEARTBEAT, 30s"#,
            ),
            (
                &["--connection-ttl", "1m"],
                r#"invalid value "90s" for CONNECTION_STALE: expected at most CONNECTION_TTL, 60s"#,
            ),
            (&["--colour", "red"], "unexpected argument '--colour' found; see --help"),
        ] {
            let refusal = read(arguments).expect_err(expected);
            assert_eq!(refusal.text, expected);
            assert_eq!(refusal.code, EXIT_USAGE);
        }
    }

    #[test]
    fn help_lists_every_setting_and_no_secret() {
        let refusal = read(&["--help"]).expect_err("help");
        assert_eq!(refusal.code, 0);
        for name in ["GRPC_PORT", "REDIS_PASSWORD", "DATA_DIR", "SESSION_LOCK_TTL"] {
            assert!(refusal.text.contains(name), "{name}");
        }
    }
}
