//! Limits the number of network connections, in all and per peer. When no permit is free, an
//! idle connection of the peer that holds the most is evicted.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::Network;
use super::address::peer_of;
use super::connection::Connection;

/// By default one peer may hold all permits divided by this.
const PEER_CONNECTIONS_DIVISOR: usize = 8;
/// What one peer may hold at least, by default.
const PEER_CONNECTIONS_MIN: usize = 256;
/// How many evicted connections may still be open while others use their permits.
const LEAVING_MAX: usize = 32;
/// How often the log repeats that all permits are taken.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);
/// How often a waiting connection looks for an idle one to evict.
const RECHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Grants a bounded number of permits.
pub struct Limiter {
    network: Arc<Network>,
    permits: usize,
    per_peer: usize,
    /// Whether a connection that is still sending a request is evicted if none is idle.
    evicts_uploads: bool,
    open: Mutex<OpenConnections>,
    /// Notified when a permit is returned.
    freed: Notify,
}

#[derive(Default)]
struct OpenConnections {
    count: usize,
    /// How many of them were evicted and have not ended yet.
    leaving: usize,
    by_peer: HashMap<IpAddr, Vec<Arc<Connection>>>,
    last_warning: Option<Instant>,
}

/// The right of a connection to be open. Dropping it returns the permit.
pub struct Permit {
    /// The connection that holds the permit.
    pub connection: Arc<Connection>,
    limiter: Arc<Limiter>,
}

/// The result of an attempt to admit a connection.
enum Attempt {
    Admitted(Permit),
    /// No permit is free now.
    Full,
    /// The peer holds its share and none of its connections is idle, or the peer is blocked.
    Refused,
}

impl OpenConnections {
    /// The connection to evict when no permit is free. Among the peers with an idle connection
    /// it takes the peer with the most connections, and of that peer the one idle for longest.
    fn evictable(&self) -> Option<Arc<Connection>> {
        let evictable = |of_peer: &Vec<Arc<Connection>>| {
            let (since, connection) = idle_for_longest(of_peer)?;
            Some((of_peer.len(), Reverse(since), Arc::clone(connection)))
        };
        let evictable = self.by_peer.values().filter_map(evictable);
        let chosen = evictable.max_by_key(|(count, since, _)| (*count, *since));
        chosen.map(|(.., connection)| connection)
    }

    /// The oldest connection that is still sending its requests.
    fn oldest_upload(&self) -> Option<Arc<Connection>> {
        let all = self.by_peer.values().flatten();
        let uploads = all.filter(|connection| !connection.is_leaving() && connection.is_upload());
        uploads.min_by_key(|connection| connection.opened).cloned()
    }
}

impl Limiter {
    /// A limiter with this many permits.
    pub fn new(network: &Arc<Network>, permits: usize) -> Arc<Self> {
        Arc::new(Self::with(network, permits, false))
    }

    /// A limiter for the admin port: if no connection is idle, it evicts the oldest connection
    /// that is still sending a request. Slow uploads cannot lock operators out.
    pub fn evicting_uploads(network: &Arc<Network>, permits: usize) -> Arc<Self> {
        Arc::new(Self::with(network, permits, true))
    }

    fn with(network: &Arc<Network>, permits: usize, evicts_uploads: bool) -> Self {
        let share = (permits / PEER_CONNECTIONS_DIVISOR).max(PEER_CONNECTIONS_MIN);
        Self {
            network: Arc::clone(network),
            permits,
            per_peer: network.limits.per_peer.unwrap_or(share),
            evicts_uploads,
            open: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// How many permits are taken.
    pub fn taken(&self) -> usize {
        self.open().count
    }

    /// Completes when a permit may be free. Connections beyond the limit wait in the system's
    /// accept queue until then, where they cost this process nothing.
    pub async fn until_open(&self) {
        self.until(|| {
            let open = self.open();
            match self.can_admit(&open) {
                true => Some(()),
                false => {
                    self.warn_full(open);
                    None
                }
            }
        })
        .await;
    }

    /// Admits a connection; `None` if its peer is blocked or holds its share.
    pub async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Permit> {
        self.until(|| match self.try_admit(address) {
            Attempt::Admitted(permit) => Some(Some(permit)),
            Attempt::Refused => Some(None),
            Attempt::Full => None,
        })
        .await
    }

    async fn until<T>(&self, mut found: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Registered before the check, so a permit returned in between is not missed.
            freed.as_mut().enable();
            if let Some(found) = found() {
                return found;
            }
            // A connection that becomes idle notifies nobody.
            drop(tokio::time::timeout(RECHECK_INTERVAL, freed).await);
        }
    }

    fn try_admit(self: &Arc<Self>, address: IpAddr) -> Attempt {
        let peer = peer_of(address);
        let connection = Connection::new(&self.network, address);
        if connection.peer.is_blocked(Instant::now()) {
            return Attempt::Refused;
        }
        let mut open = self.open();
        let of_peer = open.by_peer.get(&peer).map_or(&[][..], Vec::as_slice);
        let staying = || of_peer.iter().filter(|connection| !connection.is_leaving()).count();
        // The cheap comparison comes first: few peers have this many connections.
        let has_share = of_peer.len() >= self.per_peer && staying() >= self.per_peer;
        if has_share && !self.network.trusts(address) {
            if !idle_for_longest(of_peer).is_some_and(|(_, connection)| connection.evict()) {
                drop(open);
                tracing::debug!(%peer, "a connection was not let in, as its peer has its share");
                return Attempt::Refused;
            }
            open.leaving += 1;
        }
        if !self.make_room(&mut open) {
            self.warn_full(open);
            return Attempt::Full;
        }
        open.count += 1;
        open.by_peer.entry(peer).or_default().push(Arc::clone(&connection));
        Attempt::Admitted(Permit { connection, limiter: Arc::clone(self) })
    }

    fn warn_full(&self, mut open: MutexGuard<'_, OpenConnections>) {
        let now = Instant::now();
        if open.last_warning.is_none_or(|last| now - last >= WARNING_INTERVAL) {
            open.last_warning = Some(now);
            drop(open);
            let places = self.permits;
            tracing::warn!(places, "all places for connections are taken; the next one waits");
        }
    }

    /// Whether a permit is free, or can be freed.
    fn can_admit(&self, open: &OpenConnections) -> bool {
        self.has_room(open) || (open.leaving < LEAVING_MAX && self.evictable(open).is_some())
    }

    /// Evicts an idle connection if no permit is free; returns whether there is room now.
    fn make_room(&self, open: &mut OpenConnections) -> bool {
        if self.has_room(open) {
            return true;
        }
        let evicted = open.leaving < LEAVING_MAX
            && self.evictable(open).is_some_and(|connection| connection.evict());
        open.leaving += usize::from(evicted);
        evicted
    }

    fn evictable(&self, open: &OpenConnections) -> Option<Arc<Connection>> {
        open.evictable().or_else(|| open.oldest_upload().filter(|_| self.evicts_uploads))
    }

    /// Whether a permit is free, counting those of evicted connections.
    fn has_room(&self, open: &OpenConnections) -> bool {
        open.count < self.permits + open.leaving.min(LEAVING_MAX)
    }

    /// No code panics while it holds this lock.
    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection that has been idle for longest and is not evicted, and since when.
fn idle_for_longest(connections: &[Arc<Connection>]) -> Option<(Instant, &Arc<Connection>)> {
    let staying = connections.iter().filter(|connection| !connection.is_leaving());
    let idle = staying.filter_map(|connection| Some((connection.idle_since()?, connection)));
    idle.min_by_key(|(since, _)| *since)
}

impl Drop for Permit {
    fn drop(&mut self) {
        let peer = peer_of(self.connection.address);
        let mut open = self.limiter.open();
        open.count -= 1;
        if self.connection.is_leaving() {
            open.leaving -= 1;
        }
        if let Some(of_peer) = open.by_peer.get_mut(&peer) {
            let is_own = |other: &Arc<Connection>| Arc::ptr_eq(other, &self.connection);
            if let Some(at) = of_peer.iter().position(is_own) {
                of_peer.swap_remove(at);
            }
            if of_peer.is_empty() {
                open.by_peer.remove(&peer);
            }
        }
        drop(open);
        self.limiter.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::exchange::Exchange;
    use std::time::Duration;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    async fn admit(limiter: &Arc<Limiter>, from: IpAddr) -> Option<Permit> {
        tokio::time::timeout(Duration::from_secs(1), limiter.admit(from)).await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_over_its_share_loses_the_connection_that_was_idle_for_longest() {
        let limiter = Limiter::new(&Network::for_tests(), 100);
        let first = admit(&limiter, address(1)).await.expect("a permit");
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = admit(&limiter, address(1)).await.expect("a permit");
        let busy = Exchange::begin(&first.connection);
        let third = admit(&limiter, address(1)).await.expect("the second is evicted");
        assert!(!first.connection.is_leaving() && second.connection.is_leaving());
        let at_work = Exchange::begin(&third.connection);
        assert!(admit(&limiter, address(1)).await.is_none(), "no connection of the peer is idle");
        assert!(admit(&limiter, address(2)).await.is_some(), "another peer has a share of its own");
        let proxy = [10, 0, 0, 1].into();
        let through_proxy = [admit(&limiter, proxy).await, admit(&limiter, proxy).await];
        assert!(
            admit(&limiter, proxy).await.is_some() && through_proxy.iter().all(Option::is_some)
        );
        drop((busy, at_work, through_proxy));
        drop((first, second, third));
        assert_eq!(limiter.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_limit_an_idle_connection_of_the_peer_with_the_most_is_evicted() {
        let limiter = Limiter::new(&Network::for_tests(), 3);
        let one = admit(&limiter, address(1)).await.expect("a permit");
        let two = [admit(&limiter, address(2)).await, admit(&limiter, address(2)).await];
        let another = admit(&limiter, address(3)).await.expect("one of the two is evicted");
        assert!(!one.connection.is_leaving());
        let leaving = two.iter().flatten().filter(|permit| permit.connection.is_leaving());
        assert_eq!(leaving.count(), 1);
        drop((two, another, one));
        assert_eq!(limiter.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn if_the_peer_with_the_most_is_busy_an_idle_connection_of_another_is_evicted() {
        let limiter = Limiter::new(&Network::for_tests(), 4);
        let busy = [admit(&limiter, address(1)).await, admit(&limiter, address(1)).await];
        let at_work: Vec<_> =
            busy.iter().flatten().map(|permit| Exchange::begin(&permit.connection)).collect();
        let longest = admit(&limiter, address(2)).await.expect("a permit");
        tokio::time::advance(Duration::from_secs(1)).await;
        let shorter = admit(&limiter, address(3)).await.expect("a permit");
        let another = admit(&limiter, address(4)).await;
        assert!(another.is_some() && longest.connection.is_leaving());
        assert!(!shorter.connection.is_leaving());
        drop(at_work);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_finds_no_permit_waits_for_one() {
        let limiter = Limiter::new(&Network::for_tests(), 1);
        let only = admit(&limiter, address(1)).await.expect("a permit");
        let busy = Exchange::begin(&only.connection);
        assert!(admit(&limiter, address(2)).await.is_none());
        let waiting = tokio::spawn({
            let limiter = Arc::clone(&limiter);
            async move { limiter.admit(address(2)).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(busy);
        drop(only);
        assert!(waiting.await.expect("no panic"));
    }
}
