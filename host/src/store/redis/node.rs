//! The address of a node of a Cluster.

use std::fmt;

use redis::{ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError};

/// The address of a node of a Cluster, as the nodes report it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAddress {
    /// A host name or an IP address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl NodeAddress {
    /// The address in a redirect. Without a host it is on the host of `from`.
    pub fn redirected(text: &str, from: Option<&Self>) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { from?.host.clone() } else { host.to_owned() };
        Some(Self { host, port: port.parse().ok()? })
    }

    /// The address of a connection over TCP.
    pub fn of(info: &ConnectionInfo) -> Option<Self> {
        match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                Some(Self { host: host.clone(), port: *port })
            }
            _ => None,
        }
    }

    /// The node, with the settings of `like`.
    ///
    /// # Errors
    /// If `like` is not a connection over TCP.
    pub fn info(&self, like: &ConnectionInfo) -> Result<ConnectionInfo, RedisError> {
        let mut address = like.addr().clone();
        match &mut address {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                host.clone_from(&self.host);
                *port = self.port;
            }
            _ => return Err(unusable()),
        }
        Ok(address.into_connection_info()?.set_redis_settings(like.redis_settings().clone()))
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.host, self.port)
    }
}

/// The error for an address of another kind than before.
pub fn unusable() -> RedisError {
    (ErrorKind::InvalidClientConfig, "the address of Redis is of another kind than at the start")
        .into()
}
