//! One request and its reply on a network connection: the memory that they hold together, and
//! how long the client has left the reply unread. It ends when the last byte has left the process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use http::{HeaderMap, HeaderName};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task_local;

use super::Peer;
use super::address;
use super::connection::{Connection, ReachedLimit};
use super::memory::{WAIT_MAX, WaitQueue};
use super::progress::Progress;

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// The memory of every request: its head, its task, its share of an instance.
const BASE_BYTES: usize = 8 << 10;
/// The memory that one byte of a request's body needs on its way to the store, in bytes.
const REQUEST_FACTOR: usize = 6;
/// The memory that one byte of the store's reply needs on its way to the client, in bytes.
const STORE_FACTOR: usize = 4;
/// A request waits until as much memory is free as the larger requests of its peer have needed
/// lately, within these two bounds. The upper one keeps small requests from waiting for as much
/// as the largest one. A request that then needs more, and finds no memory, is refused.
const EXPECTED_BYTES_MIN: usize = 64 << 10;
const EXPECTED_BYTES_MAX: usize = 512 << 10;

task_local! {
    static CURRENT: Arc<Exchange>;
}

/// A request and its reply.
pub struct Exchange {
    connection: Arc<Connection>,
    slot: usize,
    /// The peer named by a trusted proxy.
    forwarded: OnceLock<Arc<Peer>>,
    /// Whether the reply is sent uncharged, as there was no memory for it.
    is_uncharged: AtomicBool,
    /// The bytes charged to it. Only the worker that serves the request writes it.
    charged: AtomicUsize,
    /// The bytes that it needs in all: for its body and the store's replies, with their copies.
    /// Refused bytes count too, as the next request of this kind needs as much.
    needed: AtomicUsize,
    /// Whether the store has confirmed a change.
    changed: AtomicBool,
    /// Whether a reply of the store was dropped, as there was no memory for it.
    ran_out: AtomicBool,
    /// How far it has come, as its connection sees it.
    progress: Arc<Progress>,
    /// Its permit, if it is a stream of a limited kind.
    permit: OnceLock<OwnedSemaphorePermit>,
}

impl Exchange {
    /// Begins an exchange for a request that a connection has received.
    pub fn begin(connection: &Arc<Connection>) -> Arc<Self> {
        let (slot, progress) = connection.begin();
        Arc::new(Self {
            connection: Arc::clone(connection),
            slot,
            forwarded: OnceLock::new(),
            is_uncharged: AtomicBool::new(false),
            charged: AtomicUsize::new(0),
            needed: AtomicUsize::new(BASE_BYTES),
            changed: AtomicBool::new(false),
            ran_out: AtomicBool::new(false),
            progress,
            permit: OnceLock::new(),
        })
    }

    /// The exchange of the current request.
    pub(super) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Arc::clone).ok()
    }

    /// Finds the peer of a request that a trusted proxy forwarded: the last address in
    /// X-Forwarded-For that is not itself a trusted proxy. Without one it is the proxy's own.
    pub(super) fn identify_peer(&self, headers: &HeaderMap) {
        let network = &self.connection.network;
        if !network.trusts(self.connection.address) {
            return;
        }
        let values = headers.get_all(FORWARDED_FOR).iter().rev();
        let values = values.filter_map(|value| value.to_str().ok());
        // A client can write anything before the address that the first trusted proxy appended. So
        // text that is not an address ends the search, and nothing before it is believed.
        let mut known = values.flat_map(|value| value.rsplit(',')).map_while(address::forwarded);
        let named = known.find(|address| !network.trusts(*address));
        let peer = network.peer(named.unwrap_or(self.connection.address));
        drop(self.forwarded.set(peer));
    }

    /// The peer that the request belongs to.
    pub(super) fn peer(&self) -> &Arc<Peer> {
        self.forwarded.get().unwrap_or(&self.connection.peer)
    }

    fn queue_of(&self, full: ReachedLimit) -> &WaitQueue {
        match full {
            ReachedLimit::Peer => &self.peer().memory.queue,
            _ => self.connection.queue_of(full),
        }
    }

    /// Charges what the request is expected to need before anything of it is held: at least the
    /// minimum, or what the larger requests of its peer have needed lately. Waits a while if other
    /// requests hold it.
    ///
    /// # Errors
    /// The limit that leaves no room.
    pub async fn admit(&self) -> Result<(), ReachedLimit> {
        let expected = self.peer().expected_bytes.load(Ordering::Relaxed);
        let needed = expected.max(BASE_BYTES);
        let Err(mut full) = self.grow_to(needed) else { return Ok(()) };
        let waiting = async {
            loop {
                let mut again = Err(full);
                let queue = self.queue_of(full);
                let blocked = || {
                    again = self.grow_to(needed);
                    again == Err(full)
                };
                if queue.wait(blocked).await.is_err() {
                    return Err(full);
                }
                match again {
                    Ok(()) => return Ok(()),
                    Err(elsewhere) => full = elsewhere,
                }
            }
        };
        tokio::time::timeout(WAIT_MAX, waiting).await.unwrap_or(Err(full))
    }

    /// Charges received bytes of the request's body that are sent on to the store.
    ///
    /// # Errors
    /// The limit that leaves no room; the caller must drop the bytes.
    pub fn receive(&self, bytes: usize) -> Result<(), ReachedLimit> {
        self.need(bytes.saturating_mul(REQUEST_FACTOR))
    }

    /// Charges received bytes of the request's body, with copies if they go `to_store`.
    ///
    /// # Errors
    /// The limit that leaves no room; the caller must drop the bytes.
    pub fn hold(&self, to_store: bool, bytes: usize) -> Result<(), ReachedLimit> {
        if to_store { self.receive(bytes) } else { self.need(bytes) }
    }

    /// Waits until no other body of the same peer is decompressed. The caller holds the permit
    /// while it decompresses.
    pub fn turn_to_inflate(&self) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let turn = Arc::clone(&self.peer().inflation).acquire_owned();
        // The semaphore is never closed.
        async { turn.await.ok() }
    }

    /// Charges more bytes to the request.
    ///
    /// # Errors
    /// The limit that leaves no room; the caller must drop the bytes.
    pub fn need(&self, bytes: usize) -> Result<(), ReachedLimit> {
        let needed = self.needed.load(Ordering::Relaxed).saturating_add(bytes);
        self.needed.store(needed, Ordering::Relaxed);
        self.grow_to(needed)
    }

    /// Whether the connection closes after this reply.
    pub(super) fn is_last(&self) -> bool {
        self.connection.is_closing()
    }

    /// Marks the request as wholly received.
    pub fn received(&self) {
        self.progress.received();
    }

    /// Makes the reply a stream whose number is limited elsewhere. It holds no memory, as it is
    /// sent in small parts of which few wait.
    pub fn begin_stream(&self) {
        self.stream_with(0);
    }

    /// Makes the reply a stream whose number is not limited elsewhere. It stays charged with the
    /// memory of a request, and holds a permit if its kind is limited.
    pub fn begin_charged_stream(&self, permit: Option<OwnedSemaphorePermit>) {
        self.stream_with(BASE_BYTES);
        if let Some(permit) = permit {
            // An exchange has at most one stream.
            drop(self.permit.set(permit));
        }
    }

    fn stream_with(&self, bytes: usize) {
        self.progress.stream();
        self.needed.store(bytes, Ordering::Relaxed);
        self.shrink_to(bytes);
    }

    /// Charges the reply instead of what was needed to make it. A reply that confirms a change
    /// is always sent. So is one for which there is no memory, as most such replies are small
    /// refusals; but if too many of them are unread, the connection is cut.
    pub(super) fn replied(&self, bytes: usize) {
        let needed = BASE_BYTES.saturating_add(bytes);
        let charged = self.charged.load(Ordering::Relaxed);
        if needed <= charged {
            self.shrink_to(needed);
        } else if self.has_changed(false) {
            self.take_anyway(needed - charged);
        } else if self.grow_to(needed).is_err() && !self.is_uncharged.load(Ordering::Relaxed) {
            let (network, peer) = (&self.connection.network, &self.connection.peer);
            // The peer of a trusted proxy has no limit here, as it forwards many clients.
            if !peer.uncharged.take(1, None) {
                return self.connection.cut();
            }
            if !network.uncharged.take(1, None) {
                peer.uncharged.put_back(1);
                return self.connection.cut();
            }
            self.is_uncharged.store(true, Ordering::Relaxed);
        }
    }

    /// Records a change of this request; returns whether there was one, now or before.
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

    fn grow_to(&self, bytes: usize) -> Result<(), ReachedLimit> {
        let charged = self.charged.load(Ordering::Relaxed);
        if bytes > charged {
            let more = bytes - charged;
            self.connection.take(self.slot, charged, more)?;
            if let Some(peer) = self.forwarded.get()
                && !peer.memory.take(more, Some(charged))
            {
                self.connection.put_back(more);
                return Err(ReachedLimit::Peer);
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

    /// Its progress, for the parts of its reply.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let (charged, needed) = (*self.charged.get_mut(), *self.needed.get_mut());
        self.connection.end(self.slot, charged);
        if *self.is_uncharged.get_mut() {
            self.connection.peer.uncharged.put_back(1);
            self.connection.network.uncharged.put_back(1);
        }
        if let Some(peer) = self.forwarded.get() {
            peer.memory.put_back(charged);
        }
        let expected = &self.peer().expected_bytes;
        let before = expected.load(Ordering::Relaxed);
        // A small request after small ones writes nothing: workers do not contend for the counter.
        let needed = needed.min(EXPECTED_BYTES_MAX);
        if needed > before.max(EXPECTED_BYTES_MIN) {
            expected.store(needed, Ordering::Relaxed);
        } else if before > 0 {
            let less = before - before.saturating_sub(needed).div_ceil(8);
            expected.store(if less < EXPECTED_BYTES_MIN { 0 } else { less }, Ordering::Relaxed);
        }
    }
}

/// Runs the work of a request. What the store replies meanwhile is charged to the exchange.
pub fn within<F: Future>(exchange: Arc<Exchange>, work: F) -> impl Future<Output = F::Output> {
    CURRENT.scope(exchange, work)
}

/// Charges bytes that the store replied to the current request. A reply that confirms a change
/// is charged even beyond the limit, and so are all later ones: the change has happened, and the
/// caller must learn of it. Work without a request is not limited here.
///
/// # Errors
/// The limit that leaves no room; the caller must drop the reply.
pub fn store_replied(bytes: usize, changed: bool) -> Result<(), ReachedLimit> {
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

/// Whether a reply of the store to the current request was dropped for lack of memory.
pub fn ran_out() -> bool {
    CURRENT.try_with(|exchange| exchange.ran_out.load(Ordering::Relaxed)).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::network::{Network, UNCHARGED_PER_PEER};

    const MIB: usize = 1 << 20;

    fn connection(network: &Arc<Network>, last: u8) -> Arc<Connection> {
        Connection::new(network, [192, 0, 2, last].into())
    }

    #[tokio::test]
    async fn memory_of_a_request_is_returned_when_it_ends() {
        let network = Network::for_tests();
        let connection = connection(&network, 1);
        let exchange = Exchange::begin(&connection);
        exchange.admit().await.expect("there is room");
        exchange.receive(100_000).expect("there is room");
        assert!(network.body_bytes() >= 100_000 * REQUEST_FACTOR);
        within(Arc::clone(&exchange), async { store_replied(100_000, false) })
            .await
            .expect("there is room");
        exchange.replied(10);
        assert!(network.body_bytes() < 100_000);
        drop(exchange);
        connection.release_unused();
        assert_eq!(network.body_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_and_a_peer_have_a_share_each_and_one_request_may_exceed_it() {
        let network = Network::for_tests();
        let one = connection(&network, 1);
        let large = Exchange::begin(&one);
        large.need(3 * MIB).expect("the largest fits, though a connection has 1 MiB");
        let other = Exchange::begin(&one);
        assert_eq!(
            other.need(2 * MIB),
            Err(ReachedLimit::Connection),
            "one request exceeds the share"
        );
        let more: Vec<_> = (0..8).map(|_| connection(&network, 1)).collect();
        let full: Vec<_> = more
            .iter()
            .map(|connection| {
                let exchange = Exchange::begin(connection);
                let result = exchange.need(MIB / 2);
                (exchange, result)
            })
            .collect();
        assert!(full.iter().any(|(_, result)| *result == Err(ReachedLimit::Peer)));
        let another = Exchange::begin(&connection(&network, 2));
        another.need(MIB).expect("another peer has a share of its own");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_while_others_of_its_peer_hold_its_expected_memory() {
        let network = Network::for_tests();
        let one = connection(&network, 1);
        let first = Exchange::begin(&one);
        first.need(MIB / 2).expect("there is room");
        drop(first);
        let holding = [Exchange::begin(&one), Exchange::begin(&one)];
        holding[0].need(MIB * 3 / 4).expect("there is room");
        holding[1].need(MIB).expect("one request exceeds the share");
        let next = Exchange::begin(&one);
        assert_eq!(next.admit().await, Err(ReachedLimit::Connection), "the wait has ended");
        let waiting = tokio::spawn(async move { next.admit().await });
        tokio::task::yield_now().await;
        drop(holding);
        assert_eq!(waiting.await.expect("no panic"), Ok(()));
    }

    #[tokio::test]
    async fn a_reply_that_confirms_a_change_is_charged_beyond_the_limit() {
        let network = Network::for_tests();
        let exchange = Exchange::begin(&connection(&network, 1));
        let results = within(Arc::clone(&exchange), async {
            let before = store_replied(8 * MIB, false).is_err();
            (before, ran_out(), store_replied(8 * MIB, true), store_replied(8 * MIB, false))
        });
        assert_eq!(results.await, (true, true, Ok(()), Ok(())));
        drop(exchange);
        assert_eq!(network.body_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_uncharged_and_too_many_unread_ones_cut_the_connection() {
        let network = Network::for_tests();
        // All memory of the peer, in larger and smaller amounts.
        let mut holding = Vec::new();
        for bytes in [MIB, BASE_BYTES] {
            loop {
                let exchange = Exchange::begin(&connection(&network, 1));
                if exchange.need(bytes - BASE_BYTES).is_err() {
                    break;
                }
                holding.push(exchange);
            }
        }
        let before = network.body_bytes();
        let one = connection(&network, 1);
        let refused: Vec<_> = (0..UNCHARGED_PER_PEER)
            .map(|_| {
                let exchange = Exchange::begin(&one);
                exchange.replied(300);
                exchange
            })
            .collect();
        assert_eq!((network.body_bytes(), one.is_cut()), (before, false));
        let another = connection(&network, 1);
        Exchange::begin(&another).replied(300);
        assert!(another.is_cut() && !one.is_cut());
        assert!(another.peer.is_blocked(Instant::now()));
        // Another peer has its own share and its own refusals.
        let other = connection(&network, 2);
        let exchange = Exchange::begin(&other);
        exchange.need(MIB).expect("there is room");
        drop((refused, holding, exchange));
        let later = connection(&network, 1);
        Exchange::begin(&later).replied(300);
        assert!(!later.is_cut());
        drop((one, another, other, later));
        assert_eq!((network.body_bytes(), network.uncharged.used()), (0, 0));
    }

    #[tokio::test]
    async fn the_expected_memory_shrinks_after_small_requests() {
        let network = Network::for_tests();
        let connection = connection(&network, 1);
        let large = Exchange::begin(&connection);
        large.need(MIB).expect("there is room");
        drop(large);
        let expected = || connection.peer.expected_bytes.load(Ordering::Relaxed);
        assert_eq!(expected(), EXPECTED_BYTES_MAX);
        for _ in 0..100 {
            let small = Exchange::begin(&connection);
            small.admit().await.expect("there is room");
            small.receive(100).expect("there is room");
        }
        assert_eq!(expected(), 0);
    }

    #[tokio::test]
    async fn a_stream_takes_no_memory_for_bodies() {
        let network = Network::for_tests();
        let connection = connection(&network, 1);
        let exchange = Exchange::begin(&connection);
        exchange.admit().await.expect("there is room");
        exchange.begin_stream();
        assert_eq!(exchange.charged.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_trusted_proxy_names_the_peer_of_a_request() {
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
            let exchange = Exchange::begin(&proxy);
            exchange.identify_peer(&headers(forwarded));
            assert!(is_of(&exchange, expected), "{forwarded}");
        }
        let without_header = Exchange::begin(&proxy);
        without_header.identify_peer(&HeaderMap::new());
        assert!(is_of(&without_header, "10.0.0.1"));
        assert!(without_header.peer().memory.used() <= network.limits.body_memory);
        let exchange = Exchange::begin(&connection(&network, 1));
        exchange.identify_peer(&headers("203.0.113.9"));
        assert!(is_of(&exchange, "192.0.2.1"), "no other address is believed");
    }

    #[tokio::test]
    async fn behind_a_trusted_proxy_each_client_has_a_share_of_the_memory() {
        let network = Network::for_tests();
        let proxy = Connection::new(&network, [10, 0, 0, 1].into());
        let of = |client: &str| {
            let exchange = Exchange::begin(&proxy);
            let value = client.parse().expect("a header");
            exchange.identify_peer(&HeaderMap::from_iter([(FORWARDED_FOR, value)]));
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
