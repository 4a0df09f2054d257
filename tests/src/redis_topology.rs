//! Redis on several servers for one test: a primary and replicas that Sentinels monitor, and a
//! Cluster.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::machine::Machine;
use crate::process::Process;
use crate::redis_server::{RedisServer, free_port};
use crate::wait;

/// The name of the service at the Sentinels.
const SERVICE: &str = "sessions";

/// A primary, its replicas, and three Sentinels.
pub struct Sentinels {
    /// The first primary, and its replicas.
    pub servers: Vec<RedisServer>,
    addresses: Vec<SocketAddr>,
    _sentinels: Vec<Process>,
    _directory: tempfile::TempDir,
}

impl Sentinels {
    /// Starts all of them, and waits until the Sentinels know every server.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn start() -> Self {
        Self::with_replicas(1).await
    }

    /// The same with this many replicas, at most two.
    ///
    /// # Panics
    /// As [`Sentinels::start`].
    pub async fn with_replicas(replicas: usize) -> Self {
        let here = Machine::here();
        Self::on([&here, &here, &here], replicas).await
    }

    /// The same with a Sentinel on each of these machines. The primary runs on the first one,
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
            wait::until("the Sentinels know every server", async || {
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

    /// Promotes a replica, while the primary is healthy.
    pub async fn fail_over(&self) {
        wait::until("the Sentinels start the failover", async || {
            let answer = ask(self.addresses[0], &["SENTINEL", "FAILOVER", SERVICE])?;
            (answer.trim() == "OK").then_some(())
        })
        .await;
    }

    /// The index of the server that is the primary now, if there is one.
    pub fn primary(&self) -> Option<usize> {
        self.primaries().first().copied()
    }

    /// The indexes of all servers that consider themselves the primary.
    pub fn primaries(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|number| is_primary(&self.servers[*number])).collect()
    }

    /// The URL of the service. No Sentinel runs at the first address in it.
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
    /// Starts a Cluster and waits until it is healthy.
    ///
    /// # Panics
    /// When that takes too long.
    pub async fn start() -> Self {
        let here = Machine::here();
        Self::on([&here, &here, &here]).await
    }

    /// The same on these machines. Each one runs a primary, and the replica of another primary.
    ///
    /// # Panics
    /// As [`Cluster::start`].
    pub async fn on(machines: [&Machine; 3]) -> Self {
        let mut servers = Vec::new();
        for machine in machines.iter().cycle().take(6) {
            let bus = free_port().to_string();
            let options = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let timeout = ["--cluster-node-timeout", "4000"];
            servers.push(RedisServer::on(machine, &[&options[..], &timeout].concat()).await);
        }
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]);
        create.args(servers.iter().map(|server| server.address().to_string()));
        create.args(["--cluster-replicas", "1", "--cluster-yes"]);
        let created = create.output().expect("redis-cli comes with redis-server");
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
        let cluster = Self { servers };
        for server in &cluster.servers {
            wait::until("the Cluster is healthy", async || {
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

    /// Promotes a replica, while its primary is healthy and hands over.
    pub fn fail_over(&self) {
        let primaries = self.primaries();
        let replica = (0..self.servers.len()).find(|number| !primaries.contains(number));
        if let Some(replica) = replica {
            ask(self.servers[replica].address(), &["CLUSTER", "FAILOVER"]);
        }
    }

    /// Moves slots from one primary to another; returns whether that succeeded.
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

    /// The indexes of the servers that are primaries now.
    pub fn primaries(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|number| self.is_primary(*number)).collect()
    }

    /// Whether a server is a primary now.
    pub fn is_primary(&self, number: usize) -> bool {
        is_primary(&self.servers[number])
    }

    /// The indexes of the replicas of a primary.
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

/// Waits until a replica has the data of its primary.
///
/// # Panics
/// When that takes too long.
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

/// The answer of a server to a command; none if it does not answer.
fn ask(server: SocketAddr, command: &[&str]) -> Option<String> {
    let mut client = Command::new("redis-cli");
    client.args(["-h", &server.ip().to_string(), "-p", &server.port().to_string()]);
    let output = client.args(command).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
