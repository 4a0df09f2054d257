//! One network connection as others see it: whose it is, what is in flight on it, how
//! long it has been idle, and the memory that its requests and replies hold. The worker
//! that serves it writes all of that; others look, ask it to leave, and wake who waits.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::exchange::Exchange;
use super::memory::Line;
use super::{CONNECTION_SHARE, Network, Peer};

/// What a connection takes from the accounts at once, and keeps while it is in use, so
/// that small requests touch no memory that other workers write to.
const GRANT_BYTES: usize = 16 << 10;

/// A network connection.
pub struct Connection {
    /// What it is part of.
    pub network: Arc<Network>,
    /// Whose it is.
    pub peer: Arc<Peer>,
    /// Where it comes from.
    pub address: IpAddr,
    /// When it was accepted.
    pub opened: Instant,
    /// Those who wait for the memory that others of this connection hold.
    pub line: Line,
    ledger: Mutex<Ledger>,
    leave: Notify,
    leaving: AtomicBool,
    /// It ends now, whatever is in flight.
    cut: AtomicBool,
    /// It ends with the next answer.
    closing: AtomicBool,
    /// Its requests do not wait for one another.
    multiplexed: AtomicBool,
}

/// What a connection holds.
struct Ledger {
    /// Requests that are not answered, or whose replies are not sent.
    exchanges: Vec<Option<Weak<Exchange>>>,
    in_flight: usize,
    /// Since when nothing is in flight.
    idle_since: Instant,
    /// Bytes that requests and replies hold.
    used: usize,
    /// The one request that may go beyond the connection's share.
    oversized: Option<usize>,
    /// Bytes that were taken from the accounts of the peer and of all.
    granted: usize,
}

/// Which bound on memory a request ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of its connection.
    Connection,
    /// That of its peer.
    Peer,
    /// That of all.
    All,
}

impl Connection {
    /// A connection that was accepted now.
    pub fn new(network: &Arc<Network>, address: IpAddr) -> Arc<Self> {
        let now = Instant::now();
        let ledger = Ledger {
            exchanges: Vec::new(),
            in_flight: 0,
            idle_since: now,
            used: 0,
            oversized: None,
            granted: 0,
        };
        Arc::new(Self {
            peer: network.peer_of_connection(address),
            network: Arc::clone(network),
            address,
            opened: now,
            line: Line::default(),
            ledger: Mutex::new(ledger),
            leave: Notify::new(),
            leaving: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
        })
    }

    /// A request has come.
    pub fn begin(self: &Arc<Self>) -> Arc<Exchange> {
        let mut ledger = self.ledger();
        ledger.in_flight += 1;
        let free = ledger.exchanges.iter().position(Option::is_none);
        let slot = free.unwrap_or(ledger.exchanges.len());
        let exchange = Arc::new(Exchange::new(Arc::clone(self), slot));
        let known = Some(Arc::downgrade(&exchange));
        match ledger.exchanges.get_mut(slot) {
            Some(free) => *free = known,
            None => ledger.exchanges.push(known),
        }
        exchange
    }

    /// A request is answered, and the client has its reply, or is gone.
    pub(super) fn end(&self, slot: usize, charged: usize) {
        let mut ledger = self.ledger();
        ledger.exchanges[slot] = None;
        if ledger.oversized == Some(slot) {
            ledger.oversized = None;
        }
        ledger.in_flight -= 1;
        if ledger.in_flight == 0 {
            ledger.idle_since = Instant::now();
        }
        self.give_back(ledger, charged);
    }

    /// Takes memory for the request in a slot, which holds `own` bytes already. So that the
    /// largest request fits, one on each connection may go beyond the connection's share,
    /// and beyond the peer's when nothing else of the peer is in flight.
    pub(super) fn take(&self, slot: usize, own: usize, bytes: usize) -> Result<(), Full> {
        let mut ledger = self.ledger();
        let used = ledger.used.saturating_add(bytes);
        let share = self.network.limits.body_memory / CONNECTION_SHARE;
        let fits = used <= share;
        let others = ledger.used - own;
        if !fits && (others > share || ledger.oversized.is_some_and(|other| other != slot)) {
            return Err(Full::Connection);
        }
        if used > ledger.granted {
            let missing = used - ledger.granted;
            let alone = (others == 0).then_some(ledger.granted);
            let kept = missing.max(GRANT_BYTES);
            let granted = match self.is_busy() {
                false if self.grant(kept, alone).is_ok() => kept,
                _ => self.grant(missing, alone).map(|()| missing)?,
            };
            ledger.granted += granted;
        }
        if !fits {
            ledger.oversized = Some(slot);
        }
        ledger.used = used;
        Ok(())
    }

    /// Takes memory that is in use already.
    pub(super) fn take_anyway(&self, bytes: usize) {
        let mut ledger = self.ledger();
        ledger.used += bytes;
        let missing = ledger.used.saturating_sub(ledger.granted);
        ledger.granted += missing;
        self.peer.memory.take_anyway(missing);
        self.network.memory.take_anyway(missing);
    }

    /// Gives memory back.
    pub(super) fn put_back(&self, bytes: usize) {
        self.give_back(self.ledger(), bytes);
    }

    fn give_back(&self, mut ledger: MutexGuard<'_, Ledger>, bytes: usize) {
        ledger.used -= bytes;
        let kept = if self.is_busy() { 0 } else { GRANT_BYTES };
        self.ungrant(ledger, kept);
        self.line.wake();
    }

    /// Gives back what nothing in flight uses.
    pub fn settle(&self) {
        let ledger = self.ledger();
        if ledger.in_flight == 0 {
            self.ungrant(ledger, 0);
        }
    }

    fn ungrant(&self, mut ledger: MutexGuard<'_, Ledger>, kept: usize) {
        let spare = (ledger.granted - ledger.used).saturating_sub(kept);
        ledger.granted -= spare;
        drop(ledger);
        self.peer.memory.put_back(spare);
        self.network.memory.put_back(spare);
    }

    fn grant(&self, bytes: usize, alone: Option<usize>) -> Result<(), Full> {
        if !self.peer.memory.take(bytes, alone) {
            return Err(Full::Peer);
        }
        if !self.network.memory.take(bytes, None) {
            self.peer.memory.put_back(bytes);
            return Err(Full::All);
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.peer.memory.is_busy() || self.network.memory.is_busy()
    }

    /// Those who wait for room within a bound.
    pub(super) fn line_of(&self, full: Full) -> &Line {
        match full {
            Full::Connection => &self.line,
            Full::Peer => &self.peer.memory.line,
            Full::All => &self.network.memory.line,
        }
    }

    /// How many requests are in flight.
    pub fn in_flight(&self) -> usize {
        self.ledger().in_flight
    }

    /// Since when nothing is in flight; none while something is.
    pub fn idle_since(&self) -> Option<Instant> {
        let ledger = self.ledger();
        (ledger.in_flight == 0).then_some(ledger.idle_since)
    }

    /// How long the client has read nothing of a reply that waits for it, as far as it was
    /// looked at.
    pub fn unread_for(&self, now: Instant) -> Duration {
        let exchanges = self.exchanges();
        exchanges.iter().map(|exchange| exchange.unread_for(now)).max().unwrap_or_default()
    }

    /// Whether only answers are due that have an end, so that a client may say that it has
    /// no more to send, and still wait: all requests have come whole, as `came_whole` says
    /// of all together, or as each of them knows.
    pub fn only_answers_are_due(&self, came_whole: bool) -> bool {
        let exchanges = self.exchanges();
        !exchanges.is_empty() && exchanges.iter().all(|exchange| exchange.is_due(came_whole))
    }

    /// Whether nothing but requests is in flight that have not come whole.
    pub fn is_upload(&self) -> bool {
        let exchanges = self.exchanges();
        !exchanges.is_empty() && exchanges.iter().all(|exchange| exchange.is_coming())
    }

    fn exchanges(&self) -> Vec<Arc<Exchange>> {
        // They are dropped behind the lock, as the last one takes it.
        let ledger = self.ledger();
        ledger.exchanges.iter().flatten().filter_map(Weak::upgrade).collect()
    }

    /// Asks a connection to end, as another needs what it has; false when it was asked before.
    pub fn evict(&self) -> bool {
        let first = !self.leaving.swap(true, Ordering::AcqRel);
        self.leave.notify_one();
        first
    }

    /// Ends the connection, whatever is in flight, and lets none of its peer in for a while.
    pub fn cut(&self) {
        self.peer.bar();
        self.cut.store(true, Ordering::Release);
        self.leave.notify_one();
    }

    /// Whether it is to end, whatever is in flight.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// A request has said whether others can come beside it.
    pub fn speaks(&self, multiplexed: bool) {
        self.multiplexed.store(multiplexed, Ordering::Relaxed);
    }

    /// Whether requests come beside one another, as far as is known.
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// It is to end with its next answer.
    pub fn close_soon(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether it ends with its next answer.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether it was asked to end.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Completes when it is asked to end, or cut.
    pub async fn evicted(&self) {
        self.leave.notified().await;
    }

    /// No code panics while it holds this lock.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let granted = self.ledger().granted;
        self.peer.memory.put_back(granted);
        self.network.memory.put_back(granted);
    }
}
