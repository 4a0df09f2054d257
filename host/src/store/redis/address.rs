//! Where Redis is: one server, the servers that Sentinels watch over, or a Cluster.

use std::fmt;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, TlsMode,
};

use crate::store::redis::commands::Commands;
use crate::store::redis::locator::Locator;

/// Where Sentinels listen when nobody says where.
const SENTINEL_PORT: u16 = 26379;
/// Commands waiting for a connection before callers wait themselves.
const PIPELINE_BUFFER: usize = 1024;
/// How often a Cluster's client follows a command that was sent elsewhere; the time limit
/// of the call ends it before.
const CLUSTER_RETRIES: u32 = 8;

/// Where Redis is and how to speak to it.
#[derive(Clone, Debug)]
pub enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// Whichever server Sentinels say is the primary.
    Sentinels(Sentinels),
    /// Some nodes of a Cluster, from which the others are found.
    Cluster(Vec<ConnectionInfo>),
}

/// Who tells which server is the primary of a service.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// Where they are.
    addresses: Vec<ConnectionAddr>,
    /// What they call the service.
    service: String,
    /// User, password and database of the server.
    settings: RedisConnectionInfo,
    /// Whether it is spoken to over TLS, and they are.
    tls: bool,
}

/// The text is no address.
#[derive(Debug)]
pub struct NoAddress;

impl From<RedisError> for NoAddress {
    fn from(_: RedisError) -> Self {
        Self
    }
}

impl Address {
    /// A server by its parts; an empty user or password is none.
    ///
    /// # Errors
    /// When the parts make no address.
    pub fn from_parts(
        host: &str,
        port: u16,
        database: u32,
        username: &str,
        password: &str,
    ) -> Result<Self, NoAddress> {
        let mut settings = RedisConnectionInfo::default().set_db(database.into());
        if !username.is_empty() {
            settings = settings.set_username(username);
        }
        if !password.is_empty() {
            settings = settings.set_password(password);
        }
        let address = ConnectionAddr::Tcp(host.into(), port);
        Ok(Self::Server(address.into_connection_info()?.set_redis_settings(settings)))
    }

    /// An address by its URL: `redis://[user:password@]host[:port][/database]`,
    /// `redis-sentinel://[user:password@]host[:port],…/service[/database]`, or
    /// `redis-cluster://[user:password@]host[:port],…`; with `rediss` in the place of `redis`
    /// over TLS. User and password are those of the servers, not of the Sentinels.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn from_url(url: &str) -> Result<Self, NoAddress> {
        let (scheme, rest) = url.split_once("://").ok_or(NoAddress)?;
        let (base, kind) = scheme.split_once('-').unwrap_or((scheme, ""));
        // A fragment would have the certificate of the server not be looked at, and a query
        // would choose a protocol that is not expected.
        if !matches!(base, "redis" | "rediss") || rest.contains(['#', '?']) {
            return Err(NoAddress);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            // One for all nodes.
            Some((user, _)) if user.contains(['@', ',']) => return Err(NoAddress),
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let node = |user: &str, host: &str, path: &str| {
            let node = format!("{base}://{user}{host}/{path}").into_connection_info()?;
            let fits = !host.is_empty() && node.redis_settings().db() >= 0;
            if fits { Ok(node) } else { Err(NoAddress) }
        };
        match (kind, path) {
            ("", _) if !hosts.contains(',') => Ok(Self::Server(node(&user, hosts, path)?)),
            ("sentinel", path) => {
                let (service, database) = path.split_once('/').unwrap_or((path, ""));
                let sentinel = |host: &str| {
                    let named = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
                    let port = format!(":{SENTINEL_PORT}");
                    let host = if named { host.to_owned() } else { [host, &port].concat() };
                    node("", &host, "").map(|node| node.addr().clone())
                };
                let addresses = hosts.split(',').map(sentinel).collect::<Result<_, _>>()?;
                // Any host will do to read what goes with it.
                let settings = node(&user, "localhost", database)?.redis_settings().clone();
                if service.is_empty() {
                    return Err(NoAddress);
                }
                let service = percent_decode_str(service).decode_utf8().map_err(|_| NoAddress)?;
                let (service, tls) = (service.into_owned(), base == "rediss");
                Ok(Self::Sentinels(Sentinels { addresses, service, settings, tls }))
            }
            ("cluster", "") => {
                let nodes = hosts.split(',').map(|host| node(&user, host, ""));
                Ok(Self::Cluster(nodes.collect::<Result<_, _>>()?))
            }
            _ => Err(NoAddress),
        }
    }
}

impl Address {
    /// Whether both are the same nodes of a Cluster, with the same user and password.
    fn has_nodes_of(&self, other: &Self) -> bool {
        let (Self::Cluster(own), Self::Cluster(others)) = (self, other) else { return false };
        let same = |(own, other): (&ConnectionInfo, &ConnectionInfo)| {
            let settings = (own.redis_settings(), other.redis_settings());
            own.addr() == other.addr()
                && settings.0.username() == settings.1.username()
                && settings.0.password() == settings.1.password()
        };
        own.len() == others.len() && own.iter().zip(others).all(same)
    }
}

/// Where it is, without users and passwords.
impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |address: &ConnectionAddr| address.to_string();
        let (hosts, service) = match self {
            Self::Server(server) => (vec![at(server.addr())], None),
            Self::Sentinels(it) => (it.addresses.iter().map(at).collect(), Some(&it.service)),
            Self::Cluster(nodes) => (nodes.iter().map(|node| at(node.addr())).collect(), None),
        };
        formatter.write_str(&hosts.join(","))?;
        service.map_or(Ok(()), |service| write!(formatter, "/{service}"))
    }
}

/// Connects, again and again.
#[derive(Clone)]
pub struct Connector {
    locator: Locator,
    target: Target,
    timeout: Duration,
}

#[derive(Clone)]
enum Target {
    Server(Box<Client>),
    Sentinels(Sentinels),
    /// And how many nodes it is made of at first.
    Cluster(Box<ClusterClient>, u32),
}

impl Connector {
    /// One to wherever `locator` says, that gives an attempt up after `timeout`.
    ///
    /// # Errors
    /// When the address is not usable at all.
    pub fn new(locator: Locator, timeout: Duration) -> Result<Self, RedisError> {
        let target = Target::new(locator.first().clone(), timeout)?;
        Ok(Self { locator, target, timeout })
    }

    /// What it connects to, for people: without users and passwords.
    pub fn shown(&self) -> String {
        self.locator.first().to_string()
    }

    /// Whether keys are spread over several servers.
    pub fn is_cluster(&self) -> bool {
        matches!(self.target, Target::Cluster(..))
    }

    /// A connection, and what tells when it is to be left. Of Sentinels, the first attempt
    /// asks the first one first, and so on: one that does not answer takes all the time of
    /// an attempt. The nodes of a Cluster are asked in turns within one attempt.
    ///
    /// # Errors
    /// When there is none to be had now.
    pub async fn connect(&self, attempt: usize) -> Result<(Commands, Watch), RedisError> {
        let limit = match &self.target {
            Target::Cluster(_, nodes) => self.timeout.saturating_mul(1 + nodes),
            Target::Server(_) | Target::Sentinels(_) => self.timeout,
        };
        let connecting = tokio::time::timeout(limit, self.connect_now(attempt));
        connecting.await.unwrap_or_else(|_| Err(timed_out()))
    }

    async fn connect_now(&self, attempt: usize) -> Result<(Commands, Watch), RedisError> {
        let found = self.locator.found_again().await.map_err(std::io::Error::other)?;
        let target = found.as_ref().map(|found| Target::new(found.clone(), self.timeout));
        let target = target.transpose()?;
        match target.as_ref().unwrap_or(&self.target) {
            Target::Server(client) => {
                Ok((Commands::Server(self.server(client).await?), Watch::Server))
            }
            Target::Sentinels(sentinels) => {
                let mut client = sentinels.client(attempt)?;
                let primary = client.async_get_client().await?;
                let connection = self.server(&primary).await?;
                let watched = Watched {
                    sentinels: sentinels.clone(),
                    client,
                    turn: attempt,
                    primary: primary.get_connection_info().addr().clone(),
                };
                Ok((Commands::Server(connection), Watch::Sentinels(Box::new(watched))))
            }
            Target::Cluster(client, _) => {
                let connection = client.get_async_connection().await?;
                let found = found.map(Box::new);
                let watch = Watch::Cluster { locator: self.locator.clone(), found };
                Ok((Commands::Cluster(connection), watch))
            }
        }
    }

    async fn server(&self, client: &Client) -> Result<MultiplexedConnection, RedisError> {
        let configuration = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.timeout))
            // Calls are limited where they are made.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        client.get_multiplexed_async_connection_with_config(&configuration).await
    }
}

impl Target {
    fn new(address: Address, timeout: Duration) -> Result<Self, RedisError> {
        Ok(match address {
            Address::Server(server) => Self::Server(Box::new(Client::open(server)?)),
            Address::Sentinels(sentinels) => Self::Sentinels(sentinels),
            Address::Cluster(nodes) => {
                let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX);
                let client = ClusterClientBuilder::new(nodes).connection_timeout(timeout);
                Self::Cluster(Box::new(client.retries(CLUSTER_RETRIES).build()?), count)
            }
        })
    }
}

/// What tells when a connection is to be left for another.
pub enum Watch {
    /// The server itself, when it does not answer.
    Server,
    /// That, and Sentinels that name another primary.
    Sentinels(Box<Watched>),
    /// Nothing, as a Cluster's client finds its nodes again by itself; but it keeps the
    /// password that it began with, so another one is a reason to leave it.
    Cluster {
        /// Where the nodes are, and with which password.
        locator: Locator,
        /// What that was when the client began; `None` when it cannot change.
        found: Option<Box<Address>>,
    },
}

/// A server that was the primary when it was connected to.
pub struct Watched {
    sentinels: Sentinels,
    client: SentinelClient,
    /// Which Sentinel is asked first.
    turn: usize,
    primary: ConnectionAddr,
}

impl Watch {
    /// Whether it is to be left once there is another: a Cluster has another password.
    pub async fn has_changed(&self) -> bool {
        let Self::Cluster { locator, found: Some(before) } = self else { return false };
        matches!(locator.found_again().await, Ok(Some(now)) if !now.has_nodes_of(before))
    }

    /// Whether there is another primary by now. When no Sentinel answers, the next time
    /// another one is asked first.
    pub async fn has_moved(&mut self, timeout: Duration) -> bool {
        let Self::Sentinels(watched) = self else { return false };
        match tokio::time::timeout(timeout, watched.client.async_get_client()).await {
            Ok(Ok(primary)) => *primary.get_connection_info().addr() != watched.primary,
            Ok(Err(_)) | Err(_) => {
                watched.turn += 1;
                if let Ok(client) = watched.sentinels.client(watched.turn) {
                    watched.client = client;
                }
                false
            }
        }
    }
}

impl Sentinels {
    /// Asks them, one of them first.
    fn client(&self, turn: usize) -> Result<SentinelClient, RedisError> {
        let mut addresses = self.addresses.clone();
        addresses.rotate_left(turn % self.addresses.len());
        let service = self.service.as_str();
        let mut builder =
            SentinelClientBuilder::new(addresses, service, SentinelServerType::Master)?
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

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_from_its_url() {
        for (url, expected) in [
            ("redis://h", "Server(h:6379/0)"),
            ("redis://u:p@h:1/7", "Server(h:1/7 u p)"),
            ("rediss://h:1", "Server(TLS h:1/0)"),
            ("redis-sentinel://a,b:1/main", "Sentinels(a:26379 b:1 main/0)"),
            ("redis-sentinel://:p@[::1]/main/5", "Sentinels(::1:26379 main/5 p)"),
            ("rediss-sentinel://a/main", "Sentinels(TLS a:26379 main/0)"),
            ("redis-cluster://a:1,b", "Cluster(a:1/0 b:6379/0)"),
            ("rediss-cluster://u:p@a", "Cluster(TLS a:6379/0 u p)"),
        ] {
            let address = Address::from_url(url).expect(url);
            assert_eq!(shown(&address), expected, "{url}");
            assert!(!address.to_string().contains(['@', 'p']), "{address}");
        }
        for wrong in [
            "",
            "h",
            "http://h",
            "redis://",
            "redis://a,b",
            "redis://a/-1",
            "redis://a/5?protocol=resp3",
            "redis-cluster://:p@a,:q@b",
            "redis://h/x",
            "rediss://h/0#insecure",
            "redis-sentinel://a",
            "redis-sentinel://a,/main",
            "redis-sentinel://a/main/x",
            "redis-cluster://a/5",
            "redis-cluster://",
            "redis-ring://a",
        ] {
            assert!(Address::from_url(wrong).is_err(), "{wrong}");
        }
    }

    fn shown(address: &Address) -> String {
        let at = |address: &ConnectionAddr| match address {
            ConnectionAddr::Tcp(host, port) => format!("{host}:{port}"),
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                format!("TLS {host}:{port}")
            }
            other => format!("{other:?}"),
        };
        let settings = |settings: &RedisConnectionInfo| {
            let words = [settings.username(), settings.password()].into_iter().flatten();
            let words: String = words.map(|word| format!(" {word}")).collect();
            format!("/{}{words}", settings.db())
        };
        let node = |node: &ConnectionInfo| at(node.addr()) + &settings(node.redis_settings());
        match address {
            Address::Server(server) => format!("Server({})", node(server)),
            Address::Sentinels(Sentinels { addresses, service, settings: of_server, .. }) => {
                let addresses: Vec<String> = addresses.iter().map(at).collect();
                format!("Sentinels({} {service}{})", addresses.join(" "), settings(of_server))
            }
            Address::Cluster(nodes) => {
                let nodes: Vec<String> = nodes.iter().map(node).collect();
                format!("Cluster({})", nodes.join(" "))
            }
        }
    }
}
