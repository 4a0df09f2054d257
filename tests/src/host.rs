//! The server under test, which runs in its own process.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use crate::client::{Client, Wire};
use crate::fake_clock;
use crate::machine::Machine;
use crate::process::{self, Process};
use crate::redis_server::RedisServer;
use crate::secrets;

/// A running server, killed when dropped.
pub struct Host {
    process: Process,
    addresses: HashMap<String, String>,
    log: tempfile::NamedTempFile,
}

/// How to start a server.
#[derive(Clone)]
pub struct Launch {
    program: Option<PathBuf>,
    machine: Machine,
    settings: Vec<(String, String)>,
    files_max: Option<u32>,
}

/// The server that `SESSION_TESTS_SERVER` names. Without it, the binary that cargo built beside
/// the tests.
///
/// # Panics
/// When it was not built.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("SESSION_TESTS_SERVER") {
        return named.into();
    }
    let test = std::env::current_exe().expect("the test has a path");
    let profile = test.ancestors().nth(2).expect("tests are in target/PROFILE/deps");
    let binary = profile.join("session-manager");
    assert!(binary.exists(), "build the server first: cargo build --package session-manager");
    binary
}

impl Launch {
    fn new() -> Self {
        Self { program: None, machine: Machine::here(), settings: Vec::new(), files_max: None }
    }

    /// Runs it on another machine, where it listens on the address of the machine.
    #[must_use]
    pub fn on(mut self, machine: &Machine) -> Self {
        self.machine = machine.clone();
        self.set("BIND_ADDRESS", &machine.address.to_string())
    }

    /// Runs another program than the one built beside the tests.
    #[must_use]
    pub fn program(mut self, program: &Path) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Limits how many files and connections the server may have open.
    #[must_use]
    pub fn files_max(mut self, files_max: u32) -> Self {
        self.files_max = Some(files_max);
        self
    }

    /// A server that stores nothing on disk, on free ports.
    pub fn in_memory() -> Self {
        Self::new().set("DATA_DIR", ":memory:")
    }

    /// A server on the embedded store.
    pub fn embedded(directory: &Path) -> Self {
        Self::new().set("DATA_DIR", &directory.display().to_string())
    }

    /// A server on Redis, with a time-out that allows for a busy machine.
    pub fn redis(server: &RedisServer) -> Self {
        Self::new()
            .set("REDIS_HOST", "127.0.0.1")
            .set("REDIS_PORT", &server.port.to_string())
            .set("REDIS_TIMEOUT", "15s")
    }

    /// A server on the Redis at a URL.
    pub fn redis_at(url: &str) -> Self {
        Self::new().set("REDIS_URL", url).set("REDIS_TIMEOUT", "5s")
    }

    /// A server with another clock; see [`fake_clock::environment`].
    #[must_use]
    pub fn clock(mut self, faked: &str, only_time_of_day: bool) -> Self {
        self.settings.extend(fake_clock::environment(faked, only_time_of_day));
        self
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// The command, without the environment of the test.
    pub fn command(&self) -> Command {
        let program = self.program.clone().unwrap_or_else(binary);
        let mut command = match self.files_max {
            None => self.machine.command(program),
            Some(files_max) => {
                let mut shell = self.machine.command("/bin/sh");
                shell.arg("-c").arg(format!("ulimit -n {files_max}; exec \"$0\"")).arg(program);
                shell
            }
        };
        command.env_clear();
        for port in ["GRPC_PORT", "REST_PORT", "ADMIN_PORT"] {
            command.env(port, "0");
        }
        // With every log line enabled, all of them are searched for secrets.
        command.env("LOG_LEVEL", "trace");
        command.envs(self.settings.iter().cloned());
        command
    }

    /// Starts the server and waits until it has printed its ports.
    ///
    /// # Panics
    /// When it ends instead; the message contains its log.
    pub fn start(&self) -> Host {
        let log = tempfile::NamedTempFile::new().expect("a temporary file");
        let stderr = log.reopen().expect("the same file");
        let mut command = self.command();
        let mut process = Process::start(command.stdout(Stdio::piped()).stderr(stderr));
        let stdout = process.child().stdout.take().expect("standard output is a pipe");
        let mut lines = BufReader::new(stdout).lines();
        let mut addresses = HashMap::new();
        let probe = self.settings.iter().any(|(name, _)| name == "PROBE_PORT");
        while addresses.len() < 3 + usize::from(probe) {
            let Some(Ok(line)) = lines.next() else {
                let log = std::fs::read_to_string(log.path()).unwrap_or_default();
                panic!("the server did not start:\n{log}");
            };
            let mut words = line.split(' ');
            if let (Some("listening"), Some(name), Some(address)) =
                (words.next(), words.next(), words.next())
            {
                addresses.insert(name.to_owned(), address.to_owned());
            }
        }
        Host { process, addresses, log }
    }
}

impl Host {
    /// The address of a port: `grpc`, `rest`, `admin` or `probe`.
    ///
    /// # Panics
    /// When there is no port of that name.
    pub fn address(&self, port: &str) -> &str {
        &self.addresses[port]
    }

    /// Whether the server has printed a port of this name.
    pub fn has_port(&self, port: &str) -> bool {
        self.addresses.contains_key(port)
    }

    /// A URL of a port.
    pub fn url(&self, port: &str, path: &str) -> String {
        format!("http://{}{path}", self.address(port))
    }

    /// A client over one of the wires.
    pub async fn client(&self, wire: Wire) -> Client {
        Client::connect(self, wire).await
    }

    /// The log of the server so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap_or_default()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Waits until the server has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        self.process.ended().await
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Resident memory in bytes.
    ///
    /// # Panics
    /// When the process has ended.
    pub fn resident_bytes(&self) -> u64 {
        process::memory(self.process_id(), "VmRSS")
    }
}

impl Drop for Host {
    /// Searches the whole log of the server for secrets.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let found = secrets::found_in(&self.log());
            assert_eq!(found, None, "the log contains an id or a token that begins like this");
        }
    }
}
