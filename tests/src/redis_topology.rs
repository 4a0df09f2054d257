//! Redis on several servers of the test's own: a primary with a replica that Sentinels
//! watch over, and a Cluster.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::machine::Machine;
use crate::process::Process;
use crate::redis_server::{RedisServer, free_port};
use crate::wait;

/// What the Sentinels call the service.
const SERVICE: &str = "sessions";

/// A primary, its replicas, and three Sentinels.
pub struct Sentinels {
    /// The server that is the primary at first, and its replicas.
    pub servers: Vec<RedisServer>,
    addresses: Vec<SocketAddr>,
    _sentinels: Vec<Process>,
    _directory: tempfile::TempDir,
}

impl Sentinels {
    /// Starts all of them, and waits until they know of one another.
    ///
    /// # Panics
    /// When they do not.
    pub async fn start() -> Self {
        Self::with_replicas(1).await
    }

    /// The same with so many replicas, at most two.
    ///
    /// # Panics
    /// As [`Sentinels::start`].
    pub async fn with_replicas(replicas: usize) -> Self {
        let here = Machine::here();
        Self::on([&here, &here, &here], replicas).await
    }

    /// The same with a Sentinel on each of these machines, the primary on the first one, and
    /// the replicas on the others.
    ///
    /// # Panics
    /// As [`Sentinels::start`].
    pub async fn on(machines: [&Machine; 3], replicas: usize) -> Self {
        let primary = RedisServer::on(machines[0], &[]).await;
        let of = format!("{} {}", machines[0].address, primary.port);
        let mut servers = vec![primary];
        for machine in &machines[1..=replicas] {
            servers.push(RedisServer::on(machine, &["--replicaof", &of]).await);
        }
        let replicas = replicas.to_string();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (mut addresses, mut sentinels) = (Vec::new(), Vec::new());
        for machine in machines {
            let (address, port) = (machine.address, free_port());
            let file = directory.path().join(format!("{port}.conf"));
            let configuration = format!(
                "bind {address}\nport {port}\nprotected-mode no\n\
                 sentinel monitor {SERVICE} {of} 2\n\
                 sentinel down-after-milliseconds {SERVICE} 4000\n\
                 sentinel failover-timeout {SERVICE} 5000\n"
            );
            std::fs::write(&file, configuration).expect("a file");
            let mut sentinel = machine.command("redis-server");
            sentinel.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
            sentinels.push(Process::start(&mut sentinel));
            addresses.push(SocketAddr::new(address, port));
        }
        for sentinel in &addresses {
            wait::until("the Sentinels know of all", async || {
                let masters = ask(*sentinel, &["SENTINEL", "MASTERS"])?;
                let known = |name: &str, value: &str| {
                    let mut lines = masters.lines().skip_while(|line| *line != name);
                    lines.nth(1).is_some_and(|line| line == value)
                };
                (known("num-slaves", &replicas) && known("num-other-sentinels", "2")).then_some(())
            })
            .await;
        }
        for replica in &servers[1..] {
            follows(replica).await;
        }
        Self { servers, addresses, _sentinels: sentinels, _directory: directory }
    }

    /// Has the replica take over, while the primary is well.
    pub async fn fail_over(&self) {
        wait::until("the Sentinels agree", async || {
            let answer = ask(self.addresses[0], &["SENTINEL", "FAILOVER", SERVICE])?;
            (answer.trim() == "OK").then_some(())
        })
        .await;
    }

    /// The place of the server that is the primary now, if one is.
    pub fn primary(&self) -> Option<usize> {
        self.primaries().first().copied()
    }

    /// The places of all servers that take themselves for the primary.
    pub fn primaries(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|place| is_primary(&self.servers[*place])).collect()
    }

    /// The URL of the service; the first Sentinel in it is not there.
    pub fn url(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        format!("redis-sentinel://127.0.0.1:1,{}/{SERVICE}/5", addresses.join(","))
    }
}

/// Three primaries, each with a replica, that share all slots.
pub struct Cluster {
    /// The servers.
    pub servers: Vec<RedisServer>,
}

impl Cluster {
    /// Starts a Cluster and waits until it is well.
    ///
    /// # Panics
    /// When it does not become well.
    pub async fn start() -> Self {
        let here = Machine::here();
        Self::on([&here, &here, &here]).await
    }

    /// The same with a primary and the replica of another one on each of these machines.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub async fn on(machines: [&Machine; 3]) -> Self {
        let mut servers = Vec::new();
        for machine in machines.iter().cycle().take(6) {
            let bus = free_port().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let patience = ["--cluster-node-timeout", "4000"];
            servers.push(RedisServer::on(machine, &[&options[..], &patience].concat()).await);
        }
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(servers.iter().map(|server| server.address().to_string()));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let created = create.output().expect("redis-cli comes with redis-server");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { servers };
        for server in &cluster.servers {
            wait::until("the Cluster is well", async || {
                let nodes = ask(server.address(), &["CLUSTER", "NODES"])?;
                let info = ask(server.address(), &["CLUSTER", "INFO"])?;
                let linked = nodes.lines().filter(|line| line.contains(" connected")).count();
                (info.contains("cluster_state:ok") && linked == 6).then_some(())
            })
            .await;
        }
        let primaries = cluster.primaries();
        for (number, server) in cluster.servers.iter().enumerate() {
            if !primaries.contains(&number) {
                follows(server).await;
            }
        }
        cluster
    }

    /// Its URL, which names two of its nodes.
    pub fn url(&self) -> String {
        let [one, .., other] = &self.servers[..] else { unreachable!("there are six") };
        format!("redis-cluster://{},{}", one.address(), other.address())
    }

    /// Has a replica take over from its primary, which is well and hands over.
    pub fn fail_over(&self) {
        let primaries = self.primaries();
        let replica = (0..self.servers.len()).find(|number| !primaries.contains(number));
        if let Some(replica) = replica {
            ask(self.servers[replica].address(), &["CLUSTER", "FAILOVER"]);
        }
    }

    /// Moves so many slots from one primary to another; returns whether it went well.
    pub async fn reshard(&self, from: usize, to: usize, slots: u32) -> bool {
        let id = |number: usize| {
            let id = ask(self.servers[number].address(), &["CLUSTER", "MYID"]).unwrap_or_default();
            id.trim().to_owned()
        };
        let mut reshard = tokio::process::Command::new("redis-cli");
        reshard.args(["--cluster", "reshard", &self.servers[to].address().to_string()]);
        reshard.args(["--cluster-from", &id(from), "--cluster-to", &id(to)]);
        reshard.args(["--cluster-slots", &slots.to_string(), "--cluster-yes"]);
        reshard.output().await.is_ok_and(|output| output.status.success())
    }

    /// The primaries that there are now, by their places among the servers.
    pub fn primaries(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|number| self.is_primary(*number)).collect()
    }

    /// Whether a server is a primary now.
    pub fn is_primary(&self, number: usize) -> bool {
        is_primary(&self.servers[number])
    }

    /// The replicas of a primary.
    pub fn replicas_of(&self, primary: usize) -> Vec<usize> {
        let id = ask(self.servers[primary].address(), &["CLUSTER", "MYID"]).unwrap_or_default();
        let nodes = ask(self.servers[primary].address(), &["CLUSTER", "NODES"]).unwrap_or_default();
        let is_replica = |server: &RedisServer| {
            let address = format!("{}@", server.address());
            let mut own = nodes.lines().filter(|line| line.contains(&address));
            own.any(|line| line.contains("slave") && line.contains(id.trim()))
        };
        (0..self.servers.len()).filter(|number| is_replica(&self.servers[*number])).collect()
    }
}

/// Waits until a replica has all that its primary has.
///
/// # Panics
/// When it does not get it.
pub async fn follows(replica: &RedisServer) {
    wait::until("the replica follows its primary", async || {
        let info = ask(replica.address(), &["INFO", "replication"])?;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
}

fn is_primary(server: &RedisServer) -> bool {
    ask(server.address(), &["ROLE"]).is_some_and(|role| role.starts_with("master"))
}

/// What a server answers to a command.
fn ask(server: SocketAddr, command: &[&str]) -> Option<String> {
    let mut client = Command::new("redis-cli");
    client.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string()]);
    let output = client.args(command).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
