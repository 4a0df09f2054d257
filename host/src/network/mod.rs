//! Network connections of every wire, and what bounds them: how many there are, how old
//! and how idle they get, how much memory their requests and replies take, and how
//! many calls one peer makes at a time. What is asked over them is not known here.

pub mod address;
pub mod connection;
pub mod door;
pub mod exchange;
pub mod gunzip;
mod heads;
pub mod listener;
pub mod memory;
pub mod reply;
pub mod server;
pub mod stream;
pub mod turn;

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;

use address::{Range, peer_of};
use memory::Account;

/// How long the body of a request may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// One connection may hold this share of the memory for bodies.
const CONNECTION_SHARE: usize = 16;
/// One peer may hold this share, make this share of the calls at a time, and have this
/// share of the subscriptions.
const PEER_SHARE: usize = 4;
/// Replies for which there was no memory, most of them refusals, that one peer and all together
/// may leave unread. They are given all the same, as each takes little; beyond this the
/// connection ends.
const UNPAID_PER_PEER: usize = 512;
const UNPAID_MAX: usize = 4096;
/// How long no connection of a peer is let in after one of them was ended so, or it would come
/// back at once and go on.
const BARRED: Duration = Duration::from_secs(1);
/// Parts of the table of peers, and how many each remembers before those that have left
/// are forgotten.
const PEER_SHARDS: usize = 16;
const PEERS_KEPT: usize = 128;

/// What is accepted of network connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of memory for all bodies of requests and replies.
    pub body_memory: usize,
    /// Calls of the rules at a time.
    pub calls: usize,
    /// Subscriptions at the same time.
    pub subscriptions: usize,
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
    /// Replies that are not charged.
    unpaid: Account,
    /// In parts, as behind a trusted proxy each request looks here.
    peers: [Mutex<HashMap<IpAddr, Arc<Peer>>>; PEER_SHARDS],
}

/// Who connects: an address, or a network of IPv6.
pub struct Peer {
    memory: Account,
    /// Calls of the rules that it makes now. Not a share for each worker: all that a client
    /// asks may come over one connection, so on one worker.
    calls: Account,
    /// Its subscriptions.
    subscriptions: Account,
    /// Replies to it that are not charged.
    unpaid: Account,
    /// Until when none of its connections is let in.
    barred_until: Mutex<Option<Instant>>,
    /// What its larger requests have taken lately, in bytes.
    expected: AtomicUsize,
    /// Its turn to have something inflated: a few kilobytes may keep a processor busy for
    /// milliseconds, and others are to be served between.
    inflating: Arc<Semaphore>,
}

impl Network {
    /// A network without connections.
    pub fn new(limits: Limits) -> Arc<Self> {
        let memory = Account::new(limits.body_memory);
        let unpaid = Account::new(UNPAID_MAX);
        Arc::new(Self { limits, memory, unpaid, peers: Default::default() })
    }

    /// Bytes of memory that bodies take now.
    pub fn body_bytes(&self) -> usize {
        self.memory.used()
    }

    /// Whether an address is that of a trusted proxy.
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
        if peers.len() >= PEERS_KEPT && peers.len().is_power_of_two() {
            peers.retain(|_, peer| Arc::strong_count(peer) > 1);
        }
        let peer = Arc::new(Peer::with_share(&self.limits));
        peers.insert(key, Arc::clone(&peer));
        peer
    }

    /// Whose a connection is. That of a trusted proxy is nobody's: each of its requests has
    /// a peer of its own.
    fn peer_of_connection(&self, address: IpAddr) -> Arc<Peer> {
        if self.trusts(address) {
            return Arc::new(Peer::of_proxy());
        }
        self.peer(address)
    }
}

impl Peer {
    fn with_share(of: &Limits) -> Self {
        let share = |all: usize| all.div_ceil(PEER_SHARE);
        Self::new(of.body_memory / PEER_SHARE, share(of.calls), share(of.subscriptions))
    }

    /// A proxy, which brings the requests of many.
    fn of_proxy() -> Self {
        let unpaid = Account::new(usize::MAX);
        Self { unpaid, ..Self::new(usize::MAX, usize::MAX, usize::MAX) }
    }

    fn new(memory: usize, calls: usize, subscriptions: usize) -> Self {
        Self {
            memory: Account::new(memory),
            calls: Account::new(calls),
            subscriptions: Account::new(subscriptions),
            unpaid: Account::new(UNPAID_PER_PEER),
            barred_until: Mutex::default(),
            expected: AtomicUsize::new(0),
            inflating: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Peer {
    /// Lets none of its connections in for a while.
    fn bar(&self) {
        let mut until = self.barred_until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = Some(Instant::now() + BARRED);
    }

    /// Whether none of its connections is let in.
    fn is_barred(&self, now: Instant) -> bool {
        let until = self.barred_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
impl Network {
    /// A network with little of everything.
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
