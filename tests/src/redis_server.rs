//! A Redis server for one test, on a free port of 127.0.0.1 or of another machine.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::{self, PATIENCE};

/// A running server. Dropping it deletes its data.
pub struct RedisServer {
    /// Its port.
    pub port: u16,
    machine: Machine,
    process: Process,
    directory: tempfile::TempDir,
    options: Vec<String>,
}

impl RedisServer {
    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// When redis-server is not installed (`tests/run` installs it) or does not
    /// start.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a server with further options of `redis-server`.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    pub async fn with(options: &[&str]) -> Self {
        Self::on(&Machine::here(), options).await
    }

    /// Starts a server with further options on a machine.
    ///
    /// # Panics
    /// As [`RedisServer::start`].
    pub async fn on(machine: &Machine, options: &[&str]) -> Self {
        let mut directory = tempfile::tempdir().expect("a temporary directory");
        let mut options: Vec<String> = options.iter().map(|&option| option.into()).collect();
        // Another process may take the free port before the server does.
        for _ in 0..10 {
            let port = free_port();
            let process = launch(machine, port, &directory, &options);
            let machine = machine.clone();
            let mut server = Self { port, machine, process, directory, options };
            if server.answers().await {
                return server;
            }
            directory = server.directory;
            options = server.options;
        }
        panic!("redis-server found no free port");
    }

    /// Kills the server; it loses what it has not written.
    pub async fn kill(&mut self) {
        self.process.signal("KILL");
        self.process.ended().await;
    }

    /// Starts it again on its port with its files.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.process = launch(&self.machine, self.port, &self.directory, &self.options);
        assert!(self.answers().await, "redis-server does not start again");
    }

    /// Stops (`STOP`) or continues (`CONT`) the process.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.machine.address, self.port)
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// A connection to one of its databases.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn connect(&self, database: u32) -> redis::aio::MultiplexedConnection {
        self.try_connect(database).await.expect("redis-server answers")
    }

    /// The same for a server that may be down.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn try_connect(
        &self,
        database: u32,
    ) -> redis::RedisResult<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(format!("redis://{}/{database}", self.address()))?;
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Limits its memory in bytes. 0 means no limit, 1 makes it full.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn limit_memory(&self, bytes: u64) {
        let mut connection = self.connect(0).await;
        let mut limit = redis::cmd("CONFIG");
        limit.arg("SET").arg("maxmemory").arg(bytes);
        limit.query_async::<()>(&mut connection).await.expect("redis-server answers");
    }

    /// Waits until it answers (true), or has ended (false).
    async fn answers(&mut self) -> bool {
        wait::until("redis-server answers", async || {
            if self.process.child().try_wait().ok().flatten().is_some() {
                return Some(false);
            }
            let mut connection = self.try_connect(0).await.ok()?;
            let mut info = redis::cmd("INFO");
            match info.arg("server").query_async::<redis::InfoDict>(&mut connection).await {
                // Another server may have taken the port first.
                Ok(info) => Some(info.get("process_id") == Some(self.process.id())),
                // A server that requires a password answers with an error.
                Err(error) => (error.code() == Some("NOAUTH")).then_some(true),
            }
        })
        .await
    }
}

/// A free port outside the range from which the system assigns ports. So it stays free while a
/// server on it is down.
///
/// # Panics
/// When no port is free.
pub fn free_port() -> u16 {
    let by_chance = RandomState::new();
    let ports = (0_u32..1000).map(|attempt| 20_000 + (by_chance.hash_one(attempt) % 12_000) as u16);
    let mut free = ports.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.next().expect("a free port")
}

fn launch(
    machine: &Machine,
    port: u16,
    directory: &tempfile::TempDir,
    options: &[String],
) -> Process {
    Process::start(
        machine
            .command("redis-server")
            .args(["--bind", &machine.address.to_string(), "--protected-mode", "no"])
            .args(["--save", "", "--appendonly", "yes"])
            // Redis writes to the file before it answers, so an acknowledged write survives the
            // process. Waiting for a sync of a busy disk would take long.
            .args(["--appendfsync", "no", "--repl-diskless-sync-delay", "0"])
            .args(["--port", &port.to_string(), "--dir"])
            .arg(directory.path())
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}
