//! Network connections of every wire and their limits: their number, age and idle time, the
//! memory of their requests and replies, and the calls that one peer makes at a time. The
//! content of requests is not known here.

pub mod address;
pub mod connection;
pub mod exchange;
pub mod gunzip;
mod heads;
pub mod limiter;
pub mod listener;
pub mod memory;
mod progress;
pub mod quota;
pub mod reply;
pub mod server;
pub mod stream;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use address::{Range, peer_of};
use memory::Budget;

/// How long the body of a request may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// One connection may hold the memory for bodies divided by this.
const CONNECTION_SHARE_DIVISOR: usize = 16;
/// One peer may hold the memory for bodies divided by this, and so for the calls at a time and
/// the subscriptions.
const PEER_SHARE_DIVISOR: usize = 4;
/// How many uncharged replies one peer may leave unread. A reply is sent uncharged if there is no
/// memory for it; most are refusals, which are small. Beyond the limit the connection is cut.
const UNCHARGED_PER_PEER: usize = 512;
/// The same for all peers together.
const UNCHARGED_MAX: usize = 4096;
/// How long a peer is blocked after one of its connections was cut. Otherwise it would reconnect
/// at once and continue.
const BLOCK_PERIOD: Duration = Duration::from_secs(1);
/// The number of parts of the table of peers.
const PEER_SHARDS: usize = 16;
/// How many peers a part holds before it drops those without connections.
const PEERS_BEFORE_CLEANUP: usize = 128;

/// The limits of network connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The memory for all bodies of requests and replies, in bytes.
    pub body_memory: usize,
    /// The most calls of the rules at a time.
    pub calls: usize,
    /// The most subscriptions at a time.
    pub subscriptions: usize,
    /// The age at which a connection is closed, with a jitter of a tenth.
    pub age_max: Duration,
    /// How long an HTTP/2 connection may be without a stream.
    pub idle_max: Duration,
    /// The most connections of one peer; by default a share of all.
    pub per_peer: Option<usize>,
    /// The proxies whose X-Forwarded-For header is believed.
    pub trusted_proxies: Vec<Range>,
}

/// The state that all network connections of the process share.
pub struct Network {
    limits: Limits,
    memory: Budget,
    /// Uncharged replies that are unread.
    uncharged: Budget,
    /// In parts with a lock each: behind a trusted proxy every request looks up its peer.
    peers: [Mutex<HashMap<IpAddr, Arc<Peer>>>; PEER_SHARDS],
}

/// The quotas of one client: an IPv4 address, or an IPv6 network.
pub struct Peer {
    memory: Budget,
    /// Its calls of the rules in flight. One count for all workers, as a client may send all its
    /// requests over one connection, and so to one worker.
    calls: Budget,
    subscriptions: Budget,
    /// Uncharged replies to it that are unread.
    uncharged: Budget,
    /// The time until which its connections are refused.
    blocked_until: Mutex<Option<Instant>>,
    /// The memory that its larger requests have needed lately, in bytes.
    expected_bytes: AtomicUsize,
    /// One body at a time is decompressed. A few kilobytes may keep a processor busy for
    /// milliseconds, and other peers must be served in between.
    inflation: Arc<Semaphore>,
}

impl Network {
    /// A network without connections.
    pub fn new(limits: Limits) -> Arc<Self> {
        let memory = Budget::new(limits.body_memory);
        let uncharged = Budget::new(UNCHARGED_MAX);
        Arc::new(Self { limits, memory, uncharged, peers: Default::default() })
    }

    /// The memory that bodies hold now, in bytes.
    pub fn body_bytes(&self) -> usize {
        self.memory.used()
    }

    /// Whether an address belongs to a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.limits.trusted_proxies.iter().any(|range| range.contains(address))
    }

    /// The peer with an address.
    fn peer(&self, address: IpAddr) -> Arc<Peer> {
        let key = peer_of(address);
        let shard = BuildHasherDefault::<DefaultHasher>::default().hash_one(key) as usize;
        let peers = &self.peers[shard % self.peers.len()];
        let mut peers = peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(&key) {
            return Arc::clone(peer);
        }
        if peers.len() >= PEERS_BEFORE_CLEANUP && peers.len().is_power_of_two() {
            peers.retain(|_, peer| Arc::strong_count(peer) > 1);
        }
        let peer = Arc::new(Peer::with_share(&self.limits));
        peers.insert(key, Arc::clone(&peer));
        peer
    }

    /// The peer of a connection. The connection of a trusted proxy has a peer without limits, as
    /// each of its requests has a peer of its own.
    fn peer_of_connection(&self, address: IpAddr) -> Arc<Peer> {
        if self.trusts(address) {
            return Arc::new(Peer::of_proxy());
        }
        self.peer(address)
    }
}

impl Peer {
    fn with_share(limits: &Limits) -> Self {
        let share = |all: usize| all.div_ceil(PEER_SHARE_DIVISOR);
        let memory = limits.body_memory / PEER_SHARE_DIVISOR;
        Self::new(memory, share(limits.calls), share(limits.subscriptions))
    }

    /// A trusted proxy, which forwards the requests of many clients.
    fn of_proxy() -> Self {
        let uncharged = Budget::new(usize::MAX);
        Self { uncharged, ..Self::new(usize::MAX, usize::MAX, usize::MAX) }
    }

    fn new(memory: usize, calls: usize, subscriptions: usize) -> Self {
        Self {
            memory: Budget::new(memory),
            calls: Budget::new(calls),
            subscriptions: Budget::new(subscriptions),
            uncharged: Budget::new(UNCHARGED_PER_PEER),
            blocked_until: Mutex::default(),
            expected_bytes: AtomicUsize::new(0),
            inflation: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Peer {
    /// Refuses its connections for a while.
    fn block(&self) {
        let mut until = self.blocked_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + BLOCK_PERIOD);
    }

    /// Whether its connections are refused.
    fn is_blocked(&self, now: Instant) -> bool {
        let until = self.blocked_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
impl Network {
    /// A network with low limits.
    fn for_tests() -> Arc<Self> {
        Self::new(Limits {
            body_memory: 16 << 20,
            calls: 8,
            subscriptions: 8,
            age_max: Duration::from_secs(3600),
            idle_max: Duration::from_secs(300),
            per_peer: Some(2),
            trusted_proxies: vec!["10.0.0.0/8".parse().expect("a range")],
        })
    }
}
