//! One network connection as other tasks see it: its peer, its requests in flight, how long it
//! has been idle, and the memory of its requests and replies. The worker that serves it writes
//! this state; others read it, ask the connection to end, and wake its waiters.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::memory::WaitQueue;
use super::progress::Progress;
use super::{CONNECTION_SHARE_DIVISOR, Network, Peer};

/// What a connection takes from the budgets at once and keeps while it is in use. So small
/// requests do not write to memory that other workers write to.
const GRANT_BYTES: usize = 16 << 10;

/// A network connection.
pub struct Connection {
    /// The state shared by all connections.
    pub network: Arc<Network>,
    /// The peer that the connection belongs to.
    pub peer: Arc<Peer>,
    /// The address that it comes from.
    pub address: IpAddr,
    /// The time at which it was accepted.
    pub opened: Instant,
    /// The requests that wait for memory held by others of this connection.
    pub queue: WaitQueue,
    ledger: Mutex<Ledger>,
    leave: Notify,
    leaving: AtomicBool,
    /// Whether it ends now, even with requests in flight.
    cut: AtomicBool,
    /// Whether it closes after its next reply.
    closing: AtomicBool,
    /// Whether requests are served side by side (HTTP/2).
    multiplexed: AtomicBool,
}

/// What a connection holds.
struct Ledger {
    /// The requests whose replies are not sent yet.
    slots: Vec<Slot>,
    in_flight: usize,
    /// The time since which no request is in flight.
    idle_since: Instant,
    /// The bytes that its requests and replies hold.
    used: usize,
    /// The slot of the one request that may exceed the connection's share.
    oversized: Option<usize>,
    /// The bytes taken from the budgets of the peer and of the network.
    granted: usize,
}

impl Ledger {
    /// The progress of each request in flight.
    fn in_flight(&self) -> impl Iterator<Item = &Progress> {
        self.slots.iter().filter(|slot| slot.taken).map(|slot| &*slot.progress)
    }
}

/// A request in flight, or room for one. Its progress is used again by the next request.
struct Slot {
    progress: Arc<Progress>,
    taken: bool,
}

/// The limit on memory that a request has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReachedLimit {
    /// The share of its connection.
    Connection,
    /// The share of its peer.
    Peer,
    /// The memory of the process.
    Total,
}

impl Connection {
    /// A connection that was just accepted.
    pub fn new(network: &Arc<Network>, address: IpAddr) -> Arc<Self> {
        let now = Instant::now();
        let ledger = Ledger {
            slots: Vec::new(),
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
            queue: WaitQueue::default(),
            ledger: Mutex::new(ledger),
            leave: Notify::new(),
            leaving: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
        })
    }

    /// Takes a slot for a received request.
    pub(super) fn begin(&self) -> (usize, Arc<Progress>) {
        let mut ledger = self.ledger();
        ledger.in_flight += 1;
        let free = ledger.slots.iter().position(|slot| !slot.taken);
        let index = free.unwrap_or(ledger.slots.len());
        match ledger.slots.get_mut(index) {
            Some(slot) => {
                slot.taken = true;
                // The exchange before may be about to let go of it.
                match Arc::get_mut(&mut slot.progress) {
                    Some(progress) => *progress = Progress::default(),
                    None => slot.progress = Arc::default(),
                }
            }
            None => ledger.slots.push(Slot { progress: Arc::default(), taken: true }),
        }
        (index, Arc::clone(&ledger.slots[index].progress))
    }

    /// Ends an exchange: its reply was sent, or the client is gone.
    pub(super) fn end(&self, slot: usize, charged: usize) {
        let mut ledger = self.ledger();
        ledger.slots[slot].taken = false;
        if ledger.oversized == Some(slot) {
            ledger.oversized = None;
        }
        ledger.in_flight -= 1;
        if ledger.in_flight == 0 {
            ledger.idle_since = Instant::now();
        }
        self.give_back(ledger, charged);
    }

    /// Takes memory for the request in a slot, which holds `own` bytes already. One request on
    /// each connection may exceed the connection's share, and the peer's share if the peer has
    /// nothing else in flight. So the largest request fits.
    pub(super) fn take(&self, slot: usize, own: usize, bytes: usize) -> Result<(), ReachedLimit> {
        let mut ledger = self.ledger();
        let used = ledger.used.saturating_add(bytes);
        let share = self.network.limits.body_memory / CONNECTION_SHARE_DIVISOR;
        let fits = used <= share;
        let others = ledger.used - own;
        if !fits && (others > share || ledger.oversized.is_some_and(|other| other != slot)) {
            return Err(ReachedLimit::Connection);
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

    /// Takes memory that is in use already, even beyond the limits.
    pub(super) fn take_anyway(&self, bytes: usize) {
        let mut ledger = self.ledger();
        ledger.used += bytes;
        let missing = ledger.used.saturating_sub(ledger.granted);
        ledger.granted += missing;
        self.peer.memory.take_anyway(missing);
        self.network.memory.take_anyway(missing);
    }

    /// Returns memory.
    pub(super) fn put_back(&self, bytes: usize) {
        self.give_back(self.ledger(), bytes);
    }

    fn give_back(&self, mut ledger: MutexGuard<'_, Ledger>, bytes: usize) {
        ledger.used -= bytes;
        let kept = if self.is_busy() { 0 } else { GRANT_BYTES };
        self.ungrant(ledger, kept);
        self.queue.wake();
    }

    /// Returns what an idle connection keeps.
    pub fn release_unused(&self) {
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

    fn grant(&self, bytes: usize, alone: Option<usize>) -> Result<(), ReachedLimit> {
        if !self.peer.memory.take(bytes, alone) {
            return Err(ReachedLimit::Peer);
        }
        if !self.network.memory.take(bytes, None) {
            self.peer.memory.put_back(bytes);
            return Err(ReachedLimit::Total);
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.peer.memory.is_busy() || self.network.memory.is_busy()
    }

    /// The queue of the requests that wait for a limit.
    pub(super) fn queue_of(&self, full: ReachedLimit) -> &WaitQueue {
        match full {
            ReachedLimit::Connection => &self.queue,
            ReachedLimit::Peer => &self.peer.memory.queue,
            ReachedLimit::Total => &self.network.memory.queue,
        }
    }

    /// The number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.ledger().in_flight
    }

    /// The time since which no request is in flight; `None` while one is.
    pub fn idle_since(&self) -> Option<Instant> {
        let ledger = self.ledger();
        (ledger.in_flight == 0).then_some(ledger.idle_since)
    }

    /// How long the client has read nothing of a waiting reply, as far as it was checked.
    pub fn unread_for(&self, now: Instant) -> Duration {
        let ledger = self.ledger();
        ledger.in_flight().map(|progress| progress.unread_for(now)).max().unwrap_or_default()
    }

    /// Whether all requests were received and all replies have an end. Such a client may close its
    /// side and still wait for its replies. `all_received` says so for the whole connection;
    /// otherwise each request knows it.
    pub fn only_replies_are_due(&self, all_received: bool) -> bool {
        let ledger = self.ledger();
        ledger.in_flight > 0
            && ledger.in_flight().all(|progress| progress.is_reply_due(all_received))
    }

    /// Whether the client is still sending every request in flight.
    pub fn is_upload(&self) -> bool {
        let ledger = self.ledger();
        ledger.in_flight > 0 && ledger.in_flight().all(Progress::is_uploading)
    }

    /// Asks the connection to end, as another one needs its permit. Returns false if it was asked
    /// before.
    pub fn evict(&self) -> bool {
        let first = !self.leaving.swap(true, Ordering::AcqRel);
        self.leave.notify_one();
        first
    }

    /// Ends the connection even with requests in flight, and blocks its peer for a while.
    pub fn cut(&self) {
        self.peer.block();
        self.cut.store(true, Ordering::Release);
        self.leave.notify_one();
    }

    /// Whether it ends now, even with requests in flight.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Acquire)
    }

    /// Records whether requests are served side by side.
    pub fn set_multiplexed(&self, multiplexed: bool) {
        self.multiplexed.store(multiplexed, Ordering::Relaxed);
    }

    /// Whether requests are served side by side, as far as is known.
    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// Closes the connection after its next reply.
    pub fn close_soon(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether it closes after its next reply.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether it was evicted.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Completes when it is evicted or cut.
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
