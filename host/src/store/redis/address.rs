//! The address of Redis: one server, the servers that Sentinels watch, or a Cluster.

use std::fmt;

use percent_encoding::percent_decode_str;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, RedisError};

/// The default port of a Sentinel.
const SENTINEL_PORT: u16 = 26379;

/// The address of Redis, with how to log in.
#[derive(Clone, Debug)]
pub enum Address {
    /// One server.
    Server(ConnectionInfo),
    /// The server that Sentinels name as the primary.
    Sentinels(Sentinels),
    /// Some nodes of a Cluster, from which the others are found.
    Cluster(Vec<ConnectionInfo>),
}

/// Sentinels, which name the primary of a service.
#[derive(Clone, Debug)]
pub struct Sentinels {
    /// Their addresses.
    pub(super) addresses: Vec<ConnectionAddr>,
    /// Their name of the service.
    pub(super) service: String,
    /// User, password and database of the servers.
    pub(super) settings: RedisConnectionInfo,
    /// Whether the servers and the Sentinels are reached over TLS.
    pub(super) tls: bool,
}

/// The text is not an address.
#[derive(Debug)]
pub struct NotAnAddress;

impl From<RedisError> for NotAnAddress {
    fn from(_: RedisError) -> Self {
        Self
    }
}

impl Address {
    /// A server by its parts; an empty user or password counts as absent.
    ///
    /// # Errors
    /// If the parts are not an address.
    pub fn from_parts(
        host: &str,
        port: u16,
        database: u32,
        username: &str,
        password: &str,
    ) -> Result<Self, NotAnAddress> {
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
    /// `redis-cluster://[user:password@]host[:port],…`, or the same with `rediss` for TLS. User
    /// and password are those of the servers, not of the Sentinels.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn from_url(url: &str) -> Result<Self, NotAnAddress> {
        let (scheme, rest) = url.split_once("://").ok_or(NotAnAddress)?;
        let (base, kind) = scheme.split_once('-').unwrap_or((scheme, ""));
        // The client library reads a fragment as permission to skip the check of the server's
        // certificate, and a query may choose another protocol.
        if !matches!(base, "redis" | "rediss") || rest.contains(['#', '?']) {
            return Err(NotAnAddress);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            // One user for all nodes.
            Some((user, _)) if user.contains(['@', ',']) => return Err(NotAnAddress),
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let node = |user: &str, host: &str, path: &str| {
            let node = format!("{base}://{user}{host}/{path}").into_connection_info()?;
            let fits = !host.is_empty() && node.redis_settings().db() >= 0;
            if fits { Ok(node) } else { Err(NotAnAddress) }
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
                // The host does not matter: only user, password and database are read.
                let settings = node(&user, "localhost", database)?.redis_settings().clone();
                if service.is_empty() {
                    return Err(NotAnAddress);
                }
                let service =
                    percent_decode_str(service).decode_utf8().map_err(|_| NotAnAddress)?;
                let (service, tls) = (service.into_owned(), base == "rediss");
                Ok(Self::Sentinels(Sentinels { addresses, service, settings, tls }))
            }
            ("cluster", "") => {
                let nodes = hosts.split(',').map(|host| node(&user, host, ""));
                Ok(Self::Cluster(nodes.collect::<Result<_, _>>()?))
            }
            _ => Err(NotAnAddress),
        }
    }
}

/// The address without users and passwords.
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
