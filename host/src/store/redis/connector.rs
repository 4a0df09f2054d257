//! Connects to a server: the one of the address, the one that Sentinels name, or a node of a
//! Cluster.

use std::time::Duration;

use futures_util::StreamExt as _;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::TcpKeepalive;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    TlsMode,
};

use crate::store::redis::address::{Address, Sentinels};
use crate::store::redis::commands::Commands;
use crate::store::redis::group::ReplicaWait;
use crate::store::redis::locator::Locator;
use crate::store::redis::node::{NodeAddress, unusable};

/// How many commands a connection queues before callers wait.
const PIPELINE_BUFFER: usize = 1024;
/// The shortest time after which a peer that acknowledges nothing counts as gone.
const UNACKNOWLEDGED_MIN: Duration = Duration::from_secs(1);

/// How often a silent Sentinel is probed.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The channel on which Sentinels announce a new primary.
const NEW_PRIMARY: &str = "+switch-master";

/// Makes connections to one server.
#[derive(Clone)]
pub struct Connector {
    locator: Locator,
    /// The node of a Cluster; `None` for the server of the locator.
    node: Option<NodeAddress>,
    timeout: Duration,
    /// The replicas that must have what goes over its connections.
    replica_wait: Option<ReplicaWait>,
}

impl Connector {
    /// A connector to the server of `locator`, which gives an attempt up after `timeout`.
    ///
    /// # Errors
    /// If the address cannot be used at all.
    pub fn new(locator: Locator, timeout: Duration) -> Result<Self, RedisError> {
        match locator.first() {
            Address::Server(server) => drop(Client::open(server.clone())?),
            Address::Sentinels(_) => {}
            Address::Cluster(nodes) => {
                for node in nodes {
                    Client::open(node.clone())?;
                }
            }
        }
        Ok(Self { locator, node: None, timeout, replica_wait: None })
    }

    /// A connector to a node of the Cluster.
    pub fn to_node(&self, node: &NodeAddress) -> Self {
        Self { node: Some(node.clone()), ..self.clone() }
    }

    /// The same connector, for scripts whose effect replicas must have.
    pub fn waiting_for(&self, replica_wait: ReplicaWait) -> Self {
        Self { replica_wait: Some(replica_wait), ..self.clone() }
    }

    /// The node that it connects to, if it is one of a Cluster.
    pub fn node(&self) -> Option<&NodeAddress> {
        self.node.as_ref()
    }

    /// Its name for logs and metrics, without users and passwords.
    pub fn shown(&self) -> String {
        match &self.node {
            Some(node) => node.to_string(),
            None => self.locator.first().to_string(),
        }
    }

    /// Whether the keys are spread over several servers.
    pub fn is_cluster(&self) -> bool {
        matches!(self.locator.first(), Address::Cluster(_))
    }

    /// The nodes of a Cluster from which the others are found.
    pub async fn seeds(&self) -> Vec<NodeAddress> {
        match self.address().await {
            Ok(Address::Cluster(nodes)) => nodes.iter().filter_map(NodeAddress::of).collect(),
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// A connection, and a watch for a change of the primary. Each attempt starts with another
    /// Sentinel, as one that does not answer takes all the time of an attempt.
    ///
    /// # Errors
    /// If no connection can be made now.
    pub async fn connect(&self, attempt: usize) -> Result<(Commands, PrimaryWatch), RedisError> {
        self.limited(self.connect_now(attempt)).await
    }

    /// Limits a future to the time of one call.
    ///
    /// # Errors
    /// Those of the future, or a time-out.
    pub async fn limited<T>(
        &self,
        doing: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, RedisError> {
        tokio::time::timeout(self.timeout, doing).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The current address.
    async fn address(&self) -> Result<Address, RedisError> {
        let found = self.locator.resolve().await.map_err(std::io::Error::other)?;
        Ok(found.unwrap_or_else(|| self.locator.first().clone()))
    }

    async fn connect_now(&self, attempt: usize) -> Result<(Commands, PrimaryWatch), RedisError> {
        match (&self.node, self.address().await?) {
            (None, Address::Server(server)) => Ok((self.open(server).await?, PrimaryWatch::Server)),
            (None, Address::Sentinels(sentinels)) => {
                let mut client = sentinels.client(attempt, self.timeout)?;
                let primary = client.async_get_client().await?.get_connection_info().clone();
                let address = primary.addr().clone();
                let commands = self.open(primary).await?;
                let watched = WatchedPrimary {
                    sentinels,
                    client,
                    turn: attempt,
                    primary: address,
                    announcements: None,
                };
                Ok((commands, PrimaryWatch::Sentinels(Box::new(watched))))
            }
            (Some(node), Address::Cluster(seeds)) => {
                let like = seeds.first().ok_or_else(unusable)?;
                Ok((self.open(node.info(like)?).await?, PrimaryWatch::Server))
            }
            // The address was of another kind at the start.
            _ => Err(unusable()),
        }
    }

    async fn open(&self, server: ConnectionInfo) -> Result<Commands, RedisError> {
        let client = Client::open(server.set_tcp_settings(tcp(self.timeout)))?;
        let configuration = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            // The callers limit the time of their calls.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        let connection: MultiplexedConnection =
            client.get_multiplexed_async_connection_with_config(&configuration).await?;
        Commands::new(connection, self.replica_wait).await
    }
}

/// Finds out when the connection must move to another server.
pub enum PrimaryWatch {
    /// Nothing to watch: the server itself shows when it is gone.
    Server,
    /// Sentinels name the primary.
    Sentinels(Box<WatchedPrimary>),
}

/// A server that was the primary when the connection was made.
pub struct WatchedPrimary {
    sentinels: Sentinels,
    client: SentinelClient,
    /// The index of the Sentinel that is asked first.
    turn: usize,
    primary: ConnectionAddr,
    /// A subscription to a Sentinel's announcements of new primaries.
    announcements: Option<PubSub>,
}

impl PrimaryWatch {
    /// Subscribes to a Sentinel, if there is no subscription.
    pub async fn listen(&mut self, timeout: Duration) {
        let Self::Sentinels(watched) = self else { return };
        if watched.announcements.is_none() {
            let announcements = watched.sentinels.announcements(watched.turn, timeout);
            let listening = tokio::time::timeout(timeout, announcements);
            watched.announcements = listening.await.ok().and_then(Result::ok);
        }
    }

    /// Completes when a Sentinel announces another primary. The former one takes writes for some
    /// seconds more, all of which are lost.
    pub async fn moved(&mut self) {
        if let Self::Sentinels(watched) = self
            && let Some(announcements) = &mut watched.announcements
        {
            let mut messages = announcements.on_message();
            while let Some(message) = messages.next().await {
                let text: String = message.get_payload().unwrap_or_default();
                if text.split(' ').next() == Some(&*watched.sentinels.service) {
                    return;
                }
            }
            drop(messages);
            watched.announcements = None;
        }
        std::future::pending::<()>().await;
    }

    /// Whether there is another primary by now. If no Sentinel answers, the next call starts with
    /// another one.
    pub async fn has_moved(&mut self, timeout: Duration) -> bool {
        let Self::Sentinels(watched) = self else { return false };
        match tokio::time::timeout(timeout, watched.client.async_get_client()).await {
            Ok(Ok(primary)) => *primary.get_connection_info().addr() != watched.primary,
            Ok(Err(_)) | Err(_) => {
                watched.turn += 1;
                if let Ok(client) = watched.sentinels.client(watched.turn, timeout) {
                    watched.client = client;
                }
                false
            }
        }
    }
}

impl Sentinels {
    /// Subscribes to the announcements of one Sentinel.
    async fn announcements(&self, turn: usize, timeout: Duration) -> Result<PubSub, RedisError> {
        let address = match &self.addresses[turn % self.addresses.len()] {
            ConnectionAddr::Tcp(host, port) if self.tls => ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            },
            address => address.clone(),
        };
        // Nothing is sent between announcements, so only probes show that the Sentinel is gone.
        let alive = TcpKeepalive::new().with_time(PROBE_INTERVAL).with_interval(PROBE_INTERVAL);
        let tcp = tcp(timeout).set_keepalive(alive);
        let sentinel = address.into_connection_info()?.set_tcp_settings(tcp);
        let mut announcements = Client::open(sentinel)?.get_async_pubsub().await?;
        announcements.subscribe(NEW_PRIMARY).await?;
        Ok(announcements)
    }

    /// A client of the Sentinels, which asks the one of this turn first.
    fn client(&self, turn: usize, timeout: Duration) -> Result<SentinelClient, RedisError> {
        let mut addresses = self.addresses.clone();
        addresses.rotate_left(turn % self.addresses.len());
        let service = self.service.as_str();
        let mut builder =
            SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
                .set_client_to_sentinel_tcp_settings(tcp(timeout))
                .set_client_to_redis_db(self.settings.db());
        if let Some(username) = self.settings.username() {
            builder = builder.set_client_to_redis_username(username);
        }
        if let Some(password) = self.settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if self.tls {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure);
        }
        builder.build()
    }
}

/// A peer that acknowledges nothing for this time counts as gone.
fn tcp(timeout: Duration) -> TcpSettings {
    TcpSettings::default().set_nodelay(true).set_user_timeout(timeout.max(UNACKNOWLEDGED_MIN))
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    /// Answers like a Sentinel until the client subscribes.
    async fn until_subscribed(listener: &TcpListener) -> TcpStream {
        let (mut client, _) = listener.accept().await.expect("a client");
        let (mut received, mut answered) = (Vec::new(), 0);
        loop {
            let mut part = [0; 1024];
            let length = client.read(&mut part).await.expect("the client stays");
            assert!(length > 0, "the client leaves without subscribing");
            received.extend_from_slice(&part[..length]);
            let text = String::from_utf8_lossy(&received);
            let is_subscribed = text.contains("SUBSCRIBE") && text.contains(NEW_PRIMARY);
            let commands = text.lines().filter(|line| line.starts_with('*')).count();
            let plain = commands - answered - usize::from(is_subscribed);
            answered = commands;
            let subscribed = "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n";
            let last = if is_subscribed { subscribed } else { "" };
            let answer = ["+OK\r\n".repeat(plain).as_str(), last].concat();
            client.write_all(answer.as_bytes()).await.expect("the client reads");
            if is_subscribed {
                return client;
            }
        }
    }

    async fn announce(sentinel: &mut TcpStream, of: &str) {
        let text = format!("{of} 127.0.0.1 1 127.0.0.1 2");
        let length = text.len();
        let head = "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n";
        let message = format!("{head}${length}\r\n{text}\r\n");
        sentinel.write_all(message.as_bytes()).await.expect("the client reads");
    }

    #[tokio::test]
    async fn a_subscriber_of_a_sentinel_learns_of_another_primary_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let url = format!("redis-sentinel://127.0.0.1:{port}/sessions/5");
        let Ok(Address::Sentinels(sentinels)) = Address::from_url(&url) else { panic!("{url}") };
        let client = sentinels.client(0, TIMEOUT).expect("a client");
        let primary = ConnectionAddr::Tcp("127.0.0.1".into(), 1);
        let watched = WatchedPrimary { sentinels, client, turn: 0, primary, announcements: None };
        let mut watch = PrimaryWatch::Sentinels(Box::new(watched));
        let ((), mut sentinel) = tokio::join!(watch.listen(TIMEOUT), until_subscribed(&listener));
        announce(&mut sentinel, "another-service").await;
        announce(&mut sentinel, "sessions").await;
        tokio::time::timeout(TIMEOUT, watch.moved()).await.expect("the primary was announced");
        // The primary of another service is ignored.
        announce(&mut sentinel, "another-service").await;
        drop(sentinel);
        assert!(tokio::time::timeout(Duration::from_millis(50), watch.moved()).await.is_err());
    }

    /// The limit for unacknowledged bytes of each of our connections to a port.
    #[cfg(target_os = "linux")]
    fn user_timeouts(port: u16) -> Vec<Duration> {
        use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
        let process = pidfd_open(getpid(), PidfdFlags::empty()).expect("a process");
        let mut timeouts = Vec::new();
        for file in std::fs::read_dir("/proc/self/fd").expect("files are open").flatten() {
            let number = file.file_name().to_string_lossy().parse().expect("a number");
            let copy = pidfd_getfd(&process, number, PidfdGetfdFlags::empty());
            let Ok(copy) = copy.map(std::net::TcpStream::from) else { continue };
            if copy.peer_addr().is_ok_and(|peer| peer.port() == port) {
                let millis = rustix::net::sockopt::tcp_user_timeout(&copy).expect("an option");
                timeouts.push(Duration::from_millis(millis.into()));
            }
        }
        timeouts
    }

    /// Otherwise a machine that vanished is waited for until the system gives up, which takes a
    /// quarter of an hour.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_to_a_machine_that_vanished_ends_soon() {
        for (scheme, path) in [("redis", "0"), ("redis-sentinel", "sessions/0")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = listener.local_addr().expect("an address").port();
            let url = format!("{scheme}://127.0.0.1:{port}/{path}");
            let address = Address::from_url(&url).expect("an address");
            let connector = Connector::new(address.into(), TIMEOUT).expect("it is usable");
            let asked = async {
                let (mut client, _) = listener.accept().await.expect("a client");
                client.read_u8().await.expect("it asks");
                user_timeouts(port)
            };
            let timeouts = tokio::select! {
                _ = connector.connect(0) => panic!("no server has answered"),
                timeouts = asked => timeouts,
            };
            assert_eq!(timeouts, [TIMEOUT], "{url}");
        }
    }
}
