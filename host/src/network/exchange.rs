//! One request and its reply on a network connection: the memory that they take in all,
//! and since when the client has read nothing of the reply. It ends when the last byte
//! has left the process.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task_local;
use tokio::time::Instant;

use super::Peer;
use super::address;
use super::connection::{Connection, Full};
use super::memory::{Line, PATIENCE};

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// What every request takes: its head, its task, its place in an instance.
const BASE_BYTES: usize = 8 << 10;
/// What a byte of a request's body takes on its way to the store, in bytes.
const REQUEST_FACTOR: usize = 6;
/// What a byte of the store's reply takes on its way to the client, in bytes.
const STORE_FACTOR: usize = 4;
/// A request waits until as much memory is free as the larger requests of its peer have needed
/// lately, within these bounds. The upper one keeps small requests from waiting for as much as
/// the largest need. A request that then needs more, and finds no room, is refused.
const EXPECTED_BYTES_MIN: usize = 64 << 10;
const EXPECTED_BYTES_MAX: usize = 512 << 10;

task_local! {
    static CURRENT: Arc<Exchange>;
}

/// A request and its reply.
pub struct Exchange {
    connection: Arc<Connection>,
    slot: usize,
    /// Whose it is, when it came through a trusted proxy.
    forwarded: OnceLock<Arc<Peer>>,
    /// There was no memory for its reply, which is given all the same.
    is_unpaid: AtomicBool,
    /// Bytes that it holds. Only the worker that serves the request writes it.
    charged: AtomicUsize,
    /// What it takes in all: its body, and what the store has replied, each with what is
    /// made of it. What was refused counts too: the next of its kind needs as much.
    needed: AtomicUsize,
    /// The store has told of a change.
    changed: AtomicBool,
    /// A reply of the store was dropped, as there was no memory for it.
    ran_out: AtomicBool,
    /// The request has come whole.
    received: AtomicBool,
    /// The reply goes on until one side ends it.
    streaming: AtomicBool,
    /// Something waits to be read by the client.
    waits: AtomicBool,
    /// Changes whenever a part of the reply begins to wait for the client or is taken by it.
    /// Requests only count; a clock is read by the check that compares the counts.
    moved: AtomicU32,
    /// The count that the last check has found, and since when it is the same.
    seen: Mutex<Option<(u32, Instant)>>,
    /// Parts of the reply that the connection has not sent.
    unsent: AtomicUsize,
    /// Its place among the streams of which there may be few.
    place: OnceLock<OwnedSemaphorePermit>,
}

impl Exchange {
    pub(super) fn new(connection: Arc<Connection>, slot: usize) -> Self {
        Self {
            connection,
            slot,
            forwarded: OnceLock::new(),
            is_unpaid: AtomicBool::new(false),
            charged: AtomicUsize::new(0),
            needed: AtomicUsize::new(BASE_BYTES),
            changed: AtomicBool::new(false),
            ran_out: AtomicBool::new(false),
            received: AtomicBool::new(false),
            streaming: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            moved: AtomicU32::new(0),
            seen: Mutex::default(),
            unsent: AtomicUsize::new(0),
            place: OnceLock::new(),
        }
    }

    /// That of the present request.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// The head of the request is there. When its connection is a trusted proxy's, the last
    /// address in X-Forwarded-For that is no trusted proxy's says whose it is; when there is
    /// none, it is the proxy's own.
    pub(super) fn came(&self, headers: &HeaderMap) {
        let network = &self.connection.network;
        if !network.trusts(self.connection.address) {
            return;
        }
        let values = headers.get_all(FORWARDED_FOR).iter().rev();
        let values = values.filter_map(|value| value.to_str().ok());
        // Behind what is no address, nobody is known.
        let mut known = values.flat_map(|value| value.rsplit(',')).map_while(address::forwarded);
        let named = known.find(|address| !network.trusts(*address));
        let peer = network.peer(named.unwrap_or(self.connection.address));
        drop(self.forwarded.set(peer));
    }

    /// Whose it is.
    pub(super) fn peer(&self) -> &Arc<Peer> {
        self.forwarded.get().unwrap_or(&self.connection.peer)
    }

    fn line_of(&self, full: Full) -> &Line {
        match full {
            Full::Peer => &self.peer().memory.line,
            _ => self.connection.line_of(full),
        }
    }

    /// Takes what the request is expected to need, before anything of it is held: the
    /// least, or what the larger ones of its peer have needed lately. Waits a little
    /// while others have it.
    ///
    /// # Errors
    /// The bound that leaves no room.
    pub async fn admit(&self) -> Result<(), Full> {
        let expected = self.peer().expected.load(Ordering::Relaxed);
        let needed = expected.max(BASE_BYTES);
        let Err(mut full) = self.grow_to(needed) else { return Ok(()) };
        let waiting = async {
            loop {
                let mut again = Err(full);
                let line = self.line_of(full);
                let blocked = || {
                    again = self.grow_to(needed);
                    again == Err(full)
                };
                if line.wait(blocked).await.is_err() {
                    return Err(full);
                }
                match again {
                    Ok(()) => return Ok(()),
                    Err(elsewhere) => full = elsewhere,
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or(Err(full))
    }

    /// Bytes of the request's body have come, on their way to the store.
    ///
    /// # Errors
    /// The bound that leaves no room; whoever holds the bytes drops them.
    pub fn receive(&self, bytes: usize) -> Result<(), Full> {
        self.need(bytes.saturating_mul(REQUEST_FACTOR))
    }

    /// Bytes of the request's body are held, on their way to the store or for here.
    ///
    /// # Errors
    /// The bound that leaves no room; the holder of the bytes drops them.
    pub fn hold(&self, travels: bool, bytes: usize) -> Result<(), Full> {
        if travels { self.receive(bytes) } else { self.need(bytes) }
    }

    /// Waits until nothing else of the same peer is inflated; what is returned is held meanwhile.
    pub fn turn_to_inflate(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let turn = Arc::clone(&self.peer().inflating).acquire_owned();
        // Nobody closes it.
        async { turn.await.ok() }
    }

    /// So many bytes more are held for the request.
    ///
    /// # Errors
    /// The bound that leaves no room; whoever holds the bytes drops them.
    pub fn need(&self, bytes: usize) -> Result<(), Full> {
        let needed = self.needed.load(Ordering::Relaxed).saturating_add(bytes);
        self.needed.store(needed, Ordering::Relaxed);
        self.grow_to(needed)
    }

    /// Whether its connection ends with the answer.
    pub(super) fn is_last(&self) -> bool {
        self.connection.is_closing()
    }

    /// The request has come whole.
    pub fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// The reply goes on until one side ends it, and is told in small parts, of which few
    /// wait: how many of its kind there are is bounded elsewhere.
    pub fn streams(&self) {
        self.goes_on_with(0);
    }

    /// The same where nothing else bounds how many there are: it takes the memory of a
    /// request for as long as it goes on, and has one of few places, if there are.
    pub fn streams_at(&self, place: Option<OwnedSemaphorePermit>) {
        self.goes_on_with(BASE_BYTES);
        if let Some(place) = place {
            // An exchange has one stream.
            drop(self.place.set(place));
        }
    }

    fn goes_on_with(&self, bytes: usize) {
        self.streaming.store(true, Ordering::Relaxed);
        self.needed.store(bytes, Ordering::Relaxed);
        self.shrink_to(bytes);
    }

    /// The reply is there, with so many bytes; what was needed to make it is not held
    /// any more. One that acknowledges a change is always given, and so is one for which there
    /// is no memory, as a refusal takes none that counts: unless too many of them are unread.
    pub(super) fn replied(&self, bytes: usize) {
        let needed = BASE_BYTES.saturating_add(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        if needed <= charged {
            self.shrink_to(needed);
        } else if self.has_changed(false) {
            self.take_anyway(needed - charged);
        } else if self.grow_to(needed).is_err() && !self.is_unpaid.load(Ordering::Relaxed) {
            let (network, peer) = (&self.connection.network, &self.connection.peer);
            // A trusted proxy brings the requests of many, and has no bound of its own.
            if !peer.unpaid.take(1, None) {
                return self.connection.cut();
            }
            if !network.unpaid.take(1, None) {
                peer.unpaid.put_back(1);
                return self.connection.cut();
            }
            self.is_unpaid.store(true, Ordering::Relaxed);
        }
    }

    /// Whether something was changed for the request, now or before.
    fn has_changed(&self, now: bool) -> bool {
        if now {
            self.changed.store(true, Ordering::Relaxed);
        }
        now || self.changed.load(Ordering::Relaxed)
    }

    fn take_anyway(&self, bytes: usize) {
        self.connection.take_anyway(bytes);
        if let Some(peer) = self.forwarded.get() {
            peer.memory.take_anyway(bytes);
        }
        self.charged.fetch_add(bytes, Ordering::Relaxed);
    }

    fn grow_to(&self, bytes: usize) -> Result<(), Full> {
        let charged = self.charged.load(Ordering::Relaxed);
        if bytes > charged {
            let more = bytes - charged;
            self.connection.take(self.slot, charged, more)?;
            if let Some(peer) = self.forwarded.get()
                && !peer.memory.take(more, Some(charged))
            {
                self.connection.put_back(more);
                return Err(Full::Peer);
            }
            self.charged.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn shrink_to(&self, bytes: usize) {
        let charged = self.charged.load(Ordering::Relaxed);
        if bytes < charged {
            self.charged.store(bytes, Ordering::Relaxed);
            self.put_back(charged - bytes);
        }
    }

    fn put_back(&self, bytes: usize) {
        self.connection.put_back(bytes);
        if let Some(peer) = self.forwarded.get() {
            peer.memory.put_back(bytes);
        }
    }

    /// How long the client has read nothing of what waits for it, since the first look at it
    /// that found it so.
    pub(super) fn unread_for(&self, now: Instant) -> Duration {
        // No code panics while it holds this lock.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.waits.load(Ordering::Relaxed) {
            *seen = None;
            return Duration::ZERO;
        }
        let moved = self.moved.load(Ordering::Relaxed);
        match *seen {
            Some((before, since)) if before == moved => now.saturating_duration_since(since),
            _ => {
                *seen = Some((moved, now));
                Duration::ZERO
            }
        }
    }

    /// Something waits to be read from now on.
    pub(super) fn unread(&self) {
        self.waits.store(true, Ordering::Relaxed);
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// A part of the reply is handed to the connection.
    pub(super) fn hand_over(&self) {
        let nothing_waited = !self.waits.load(Ordering::Relaxed);
        if self.unsent.fetch_add(1, Ordering::Relaxed) == 0 && nothing_waited {
            self.unread();
        }
    }

    /// The connection has sent a part of the reply.
    pub(super) fn sent(&self) {
        let last = self.unsent.fetch_sub(1, Ordering::Relaxed) == 1;
        if last && self.is_streaming() {
            self.waits.store(false, Ordering::Relaxed);
        } else {
            self.unread();
        }
    }

    /// Whether the reply goes on until one side ends it.
    pub(super) fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed)
    }

    /// Whether the request has not come whole.
    pub(super) fn is_coming(&self) -> bool {
        !self.received.load(Ordering::Relaxed) && !self.is_streaming()
    }

    /// Whether the request has come whole, and its answer has an end.
    pub(super) fn is_due(&self, came_whole: bool) -> bool {
        (came_whole || self.received.load(Ordering::Relaxed)) && !self.is_streaming()
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (charged, needed) = (*self.charged.get_mut(), *self.needed.get_mut());
        self.connection.end(self.slot, charged);
        if *self.is_unpaid.get_mut() {
            self.connection.peer.unpaid.put_back(1);
            self.connection.network.unpaid.put_back(1);
        }
        if let Some(peer) = self.forwarded.get() {
            peer.memory.put_back(charged);
        }
        let expected = &self.peer().expected;
        let before = expected.load(Ordering::Relaxed);
        // Small requests after small ones write nothing that others read.
        let needed = needed.min(EXPECTED_BYTES_MAX);
        if needed > before.max(EXPECTED_BYTES_MIN) {
            expected.store(needed, Ordering::Relaxed);
        } else if before > 0 {
            let less = before - before.saturating_sub(needed).div_ceil(8);
            expected.store(if less < EXPECTED_BYTES_MIN { 0 } else { less }, Ordering::Relaxed);
        }
    }
}

/// Does the work of a request: what the store replies meanwhile is charged to it.
pub fn within<F: Future>(exchange: Arc<Exchange>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(exchange, work)
}

/// The store has replied so many bytes to the present request, which are taken from the
/// memory for bodies. A reply that tells of a change is kept in any case, and so is every
/// later one: the change has happened, and whoever asked for it has to hear what came of
/// it. Work that no request has asked for is not bounded here.
///
/// # Errors
/// The bound that leaves no room; whoever holds the reply drops it.
pub fn store_replied(bytes: usize, changed: bool) -> Result<(), Full> {
    let need = bytes.saturating_mul(STORE_FACTOR);
    let charge = |exchange: &Arc<Exchange>| match exchange.need(need) {
        Err(_) if exchange.has_changed(changed) => {
            exchange.take_anyway(need);
            Ok(())
        }
        Err(full) => {
            exchange.ran_out.store(true, Ordering::Relaxed);
            Err(full)
        }
        Ok(()) => {
            exchange.has_changed(changed);
            Ok(())
        }
    };
    CURRENT.try_with(charge).unwrap_or(Ok(()))
}

/// Whether a reply of the store to the present request was dropped.
pub fn ran_out() -> bool {
    CURRENT.try_with(|exchange| exchange.ran_out.load(Ordering::Relaxed)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Network, UNPAID_PER_PEER};

    const MIB: usize = 1 << 20;

    fn connection(network: &Arc<Network>, last: u8) -> Arc<Connection> {
        Connection::new(network, [192, 0, 2, last].into())
    }

    #[tokio::test]
    async fn what_requests_hold_is_given_back_when_they_end() {
        let network = Network::for_tests();
        let connection = connection(&network, 1);
        let exchange = connection.begin();
        exchange.admit().await.expect("there is room");
        exchange.receive(100_000).expect("there is room");
        assert!(network.body_bytes() >= 100_000 * REQUEST_FACTOR);
        within(Arc::clone(&exchange), async { store_replied(100_000, false) })
            .await
            .expect("there is room");
        exchange.replied(10);
        assert!(network.body_bytes() < 100_000);
        drop(exchange);
        connection.settle();
        assert_eq!(network.body_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_and_one_peer_have_a_share_each_and_one_request_may_go_beyond() {
        let network = Network::for_tests();
        let one = connection(&network, 1);
        let large = one.begin();
        large.need(3 * MIB).expect("the largest fits, though a connection has 1 MiB");
        let other = one.begin();
        assert_eq!(other.need(2 * MIB), Err(Full::Connection), "only one goes beyond");
        let more: Vec<_> = (0..8).map(|_| connection(&network, 1)).collect();
        let full: Vec<_> = more
            .iter()
            .map(|connection| {
                let exchange = connection.begin();
                let result = exchange.need(MIB / 2);
                (exchange, result)
            })
            .collect();
        assert!(full.iter().any(|(_, result)| *result == Err(Full::Peer)));
        let another = connection(&network, 2).begin();
        another.need(MIB).expect("another peer has a share of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_while_those_of_its_peer_hold_what_it_is_expected_to_need() {
        let network = Network::for_tests();
        let one = connection(&network, 1);
        let first = one.begin();
        first.need(MIB / 2).expect("there is room");
        drop(first);
        let holding = [one.begin(), one.begin()];
        holding[0].need(MIB * 3 / 4).expect("there is room");
        holding[1].need(MIB).expect("one goes beyond");
        let next = one.begin();
        assert_eq!(next.admit().await, Err(Full::Connection), "it has waited for long enough");
        let waiting = tokio::spawn(async move { next.admit().await });
        tokio::task::yield_now().await;
        drop(holding);
        assert_eq!(waiting.await.expect("no panic"), Ok(()));
    }

    #[tokio::test]
    async fn a_change_that_has_happened_is_told_whatever_it_takes() {
        let network = Network::for_tests();
        let exchange = connection(&network, 1).begin();
        let told = within(Arc::clone(&exchange), async {
            let before = store_replied(8 * MIB, false).is_err();
            (before, ran_out(), store_replied(8 * MIB, true), store_replied(8 * MIB, false))
        });
        assert_eq!(told.await, (true, true, Ok(()), Ok(())));
        drop(exchange);
        assert_eq!(network.body_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_take_nothing_from_others_and_too_many_unread_ones_end_the_connection() {
        let network = Network::for_tests();
        // Whatever the peer may have, in larger and smaller pieces.
        let mut holding = Vec::new();
        for bytes in [MIB, BASE_BYTES] {
            loop {
                let exchange = connection(&network, 1).begin();
                if exchange.need(bytes - BASE_BYTES).is_err() {
                    break;
                }
                holding.push(exchange);
            }
        }
        let before = network.body_bytes();
        let one = connection(&network, 1);
        let refused: Vec<_> = (0..UNPAID_PER_PEER)
            .map(|_| {
                let exchange = one.begin();
                exchange.replied(300);
                exchange
            })
            .collect();
        assert_eq!((network.body_bytes(), one.is_cut()), (before, false));
        let another = connection(&network, 1);
        another.begin().replied(300);
        assert!(another.is_cut() && !one.is_cut());
        assert!(another.peer.is_barred(Instant::now()));
        // Somebody else has a share and refusals of its own.
        let other = connection(&network, 2);
        let exchange = other.begin();
        exchange.need(MIB).expect("there is room");
        drop((refused, holding, exchange));
        let later = connection(&network, 1);
        later.begin().replied(300);
        assert!(!later.is_cut());
        drop((one, another, other, later));
        assert_eq!((network.body_bytes(), network.unpaid.used()), (0, 0));
    }

    #[tokio::test]
    async fn what_large_requests_have_needed_is_forgotten_behind_small_ones() {
        let network = Network::for_tests();
        let connection = connection(&network, 1);
        let large = connection.begin();
        large.need(MIB).expect("there is room");
        drop(large);
        let expected = || connection.peer.expected.load(Ordering::Relaxed);
        assert_eq!(expected(), EXPECTED_BYTES_MAX);
        for _ in 0..100 {
            let small = connection.begin();
            small.admit().await.expect("there is room");
            small.receive(100).expect("there is room");
        }
        assert_eq!(expected(), 0);
    }

    #[tokio::test]
    async fn a_stream_takes_no_memory_for_bodies() {
        let network = Network::for_tests();
        let connection = connection(&network, 1);
        let exchange = connection.begin();
        exchange.admit().await.expect("there is room");
        exchange.streams();
        assert_eq!(exchange.charged.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_trusted_proxy_says_whose_a_request_is() {
        let network = Network::for_tests();
        let proxy = Connection::new(&network, [10, 0, 0, 1].into());
        let headers = |forwarded: &str| {
            let value = forwarded.parse().expect("a header");
            HeaderMap::from_iter([(FORWARDED_FOR, value)])
        };
        let is_of = |exchange: &Exchange, address: &str| {
            let expected = network.peer(address.parse().expect("an address"));
            Arc::ptr_eq(exchange.peer(), &expected)
        };
        for (forwarded, expected) in [
            ("203.0.113.9, 10.0.0.2", "203.0.113.9"),
            ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
            ("203.0.113.9:1234", "203.0.113.9"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443, 10.0.0.2", "2001:db8::1"),
            ("203.0.113.9, nonsense, 10.0.0.2", "10.0.0.1"),
            ("", "10.0.0.1"),
        ] {
            let exchange = proxy.begin();
            exchange.came(&headers(forwarded));
            assert!(is_of(&exchange, expected), "{forwarded}");
        }
        let unnamed = proxy.begin();
        unnamed.came(&HeaderMap::new());
        assert!(is_of(&unnamed, "10.0.0.1"));
        assert!(unnamed.peer().memory.used() <= network.limits.body_memory);
        let exchange = connection(&network, 1).begin();
        exchange.came(&headers("203.0.113.9"));
        assert!(is_of(&exchange, "192.0.2.1"), "nobody else is believed");
    }

    #[tokio::test]
    async fn behind_a_trusted_proxy_each_client_has_a_share_of_the_memory() {
        let network = Network::for_tests();
        let proxy = Connection::new(&network, [10, 0, 0, 1].into());
        let of = |client: &str| {
            let exchange = proxy.begin();
            let value = client.parse().expect("a header");
            exchange.came(&HeaderMap::from_iter([(FORWARDED_FOR, value)]));
            exchange
        };
        let (greedy, more, other) = (of("203.0.113.9"), of("203.0.113.9"), of("203.0.113.10"));
        greedy.need(MIB / 2).expect("there is room");
        let peer = greedy.peer().memory.used();
        assert!(peer >= MIB / 2 && other.peer().memory.used() == 0);
        drop((greedy, more));
        assert_eq!(network.peer([203, 0, 113, 9].into()).memory.used(), 0);
    }
}
