//! Network connections of every wire, and what bounds them: how many there are, how old
//! and how idle they get, how much memory their requests and replies take, and how
//! many calls one peer makes at a time. What is asked over them is not known here.

pub mod address;
pub mod connection;
pub mod door;
pub mod exchange;
mod heads;
pub mod listener;
pub mod memory;
pub mod reply;
pub mod server;
pub mod stream;
pub mod turn;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use address::{Range, peer_of};
use memory::Account;

/// One connection may hold this share of the memory for bodies.
const CONNECTION_SHARE: usize = 16;
/// One peer may hold this share, and make this share of the calls at a time.
const PEER_SHARE: usize = 4;
/// Peers that are remembered before those that have left are forgotten.
const PEERS_KEPT: usize = 1024;

/// What is accepted of network connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of memory for all bodies of requests and replies.
    pub body_memory: usize,
    /// Calls of the rules at a time.
    pub calls: usize,
    /// Age at which a connection is asked to end, give or take a tenth.
    pub age_max: Duration,
    /// How long an HTTP/2 connection may be without a stream.
    pub idle_max: Duration,
    /// Connections of one peer; by default a share of all places.
    pub per_peer: Option<usize>,
    /// Proxies whose word counts about where a request comes from.
    pub trusted_proxies: Vec<Range>,
}

/// What all network connections of the process share.
pub struct Network {
    limits: Limits,
    memory: Account,
    peers: Mutex<HashMap<IpAddr, Weak<Peer>>>,
}

/// Who connects: an address, or a network of IPv6.
pub struct Peer {
    memory: Account,
    /// Calls of the rules that it makes now.
    calls: Account,
    /// What its larger requests have taken lately, in bytes.
    expected: std::sync::atomic::AtomicUsize,
}

impl Network {
    /// A network without connections.
    pub fn new(limits: Limits) -> Arc<Self> {
        let memory = Account::new(limits.body_memory);
        Arc::new(Self { limits, memory, peers: Mutex::default() })
    }

    /// Bytes of memory that bodies take now.
    pub fn body_bytes(&self) -> usize {
        self.memory.used()
    }

    /// Whether an address is that of a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.limits.trusted_proxies.iter().any(|range| range.contains(address))
    }

    /// The peer with an address. A trusted proxy is not bounded itself, as it speaks
    /// for many.
    fn peer(&self, address: IpAddr) -> Arc<Peer> {
        let key = peer_of(address);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&key).and_then(Weak::upgrade) {
            return peer;
        }
        if peers.len() >= PEERS_KEPT && peers.len().is_power_of_two() {
            peers.retain(|_, peer| peer.strong_count() > 0);
        }
        let (memory, calls) = match self.trusts(address) {
            true => (usize::MAX, usize::MAX),
            false => {
                let Limits { body_memory, calls, .. } = self.limits;
                (body_memory / PEER_SHARE, calls.div_ceil(PEER_SHARE))
            }
        };
        let (memory, calls) = (Account::new(memory), Account::new(calls));
        let peer = Arc::new(Peer { memory, calls, expected: 0.into() });
        peers.insert(key, Arc::downgrade(&peer));
        peer
    }
}

#[cfg(test)]
impl Network {
    /// A network with little of everything.
    fn for_tests() -> Arc<Self> {
        Self::new(Limits {
            body_memory: 16 << 20,
            calls: 8,
            age_max: Duration::from_secs(3600),
            idle_max: Duration::from_secs(300),
            per_peer: Some(2),
            trusted_proxies: vec!["10.0.0.0/8".parse().expect("a range")],
        })
    }
}
