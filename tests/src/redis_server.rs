//! A Redis server of the test's own, on a free port of 127.0.0.1 or of a machine of its own.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::process::Stdio;

use crate::machine::Machine;
use crate::process::Process;
use crate::wait::{self, PATIENCE};

/// A running server; its data goes with it.
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
        // A free port may be taken by another before the server has it.
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

    /// Kills the server; what it has not written is lost.
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
        assert!(self.answers().await, "redis-server does not come back");
    }

    /// Stops (`STOP`) or continues (`CONT`) the process.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.machine.address, self.port)
    }

    /// The number the system knows it by.
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

    /// The same of a server that may not answer now.
    ///
    /// # Errors
    /// When it does not.
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

    /// Allows it so many bytes of memory; 0 for as much as there is, 1 makes it full.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn limit_memory(&self, bytes: u64) {
        let mut connection = self.connect(0).await;
        let mut limit = redis::cmd("CONFIG");
        limit.arg("SET").arg("maxmemory").arg(bytes);
        limit.query_async::<()>(&mut connection).await.expect("redis-server answers");
    }

    /// Whether it answers, or has ended instead.
    async fn answers(&mut self) -> bool {
        wait::until("redis-server answers", async || {
            if self.process.child().try_wait().ok().flatten().is_some() {
                return Some(false);
            }
            let mut connection = self.try_connect(0).await.ok()?;
            let mut info = redis::cmd("INFO");
            match info.arg("server").query_async::<redis::InfoDict>(&mut connection).await {
                // Another may have been quicker to take the port.
                Ok(info) => Some(info.get("process_id") == Some(self.process.id())),
                // A server that wants a password has answered too.
                Err(error) => (error.code() == Some("NOAUTH")).then_some(true),
            }
        })
        .await
    }
}

/// A port that nobody has now, and that the system gives to nobody of its own accord: it
/// stays free while a server on it is down.
///
/// # Panics
/// When there is none.
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
            // What is answered is in the file before, so it outlives the process; to wait for
            // a busy disk as well would take long.
            .args(["--appendfsync", "no", "--repl-diskless-sync-delay", "0"])
            .args(["--port", &port.to_string(), "--dir"])
            .arg(directory.path())
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )
}
