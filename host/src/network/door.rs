//! Who is let in: a bounded number of network connections in all and of each peer. When
//! there is no place, the connection that has been idle for longest gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Network;
use super::address::peer_of;
use super::connection::Connection;

/// One peer may have this share of all places, and at least so many.
const PEER_SHARE: usize = 8;
const PEER_PLACES_MIN: usize = 256;
/// Connections that were asked to end, and for whose places others were let in already.
const LEAVING_MAX: usize = 32;
/// How soon to look again for an idle connection when there is no place.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A bounded number of places.
pub struct Door {
    network: Arc<Network>,
    places: usize,
    per_peer: usize,
    inside: Mutex<Inside>,
    /// A place was given back.
    freed: Notify,
}

#[derive(Default)]
struct Inside {
    count: usize,
    /// Those among them that were asked to end.
    leaving: usize,
    by_peer: HashMap<IpAddr, Vec<Arc<Connection>>>,
}

/// A place behind a door, until it is dropped.
pub struct Place {
    /// Whose place it is.
    pub connection: Arc<Connection>,
    door: Arc<Door>,
}

/// What came of an attempt to enter.
enum Entry {
    Entered(Place),
    /// No place is to be had now.
    NoPlace,
    /// The peer has its share, and each of its connections is at work.
    Refused,
}

impl Inside {
    /// The connections of the peer that has the most.
    fn largest(&self) -> &[Arc<Connection>] {
        self.by_peer.values().max_by_key(|those| those.len()).map_or(&[], Vec::as_slice)
    }
}

impl Door {
    /// A door with so many places behind it.
    pub fn new(network: &Arc<Network>, places: usize) -> Arc<Self> {
        let share = (places / PEER_SHARE).max(PEER_PLACES_MIN);
        Arc::new(Self {
            network: Arc::clone(network),
            places,
            per_peer: network.limits.per_peer.unwrap_or(share),
            inside: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.inside().count
    }

    /// Completes when the next connection may find a place, so that those that cannot be
    /// served wait where they cost nothing.
    pub async fn opens(&self) {
        self.until(|| self.may_open(&self.inside()).then_some(())).await;
    }

    /// Lets a connection in, when its peer does not have its share already.
    pub async fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        self.until(|| match self.try_enter(address) {
            Entry::Entered(place) => Some(Some(place)),
            Entry::Refused => Some(None),
            Entry::NoPlace => None,
        })
        .await
    }

    async fn until<T>(&self, mut found: impl FnMut() -> Option<T>) -> T {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // From here on no place that is given back goes unnoticed.
            freed.as_mut().enable();
            if let Some(found) = found() {
                return found;
            }
            // One may have become idle meanwhile, which nobody tells.
            drop(tokio::time::timeout(LOOK_AGAIN, freed).await);
        }
    }

    fn try_enter(self: &Arc<Self>, address: IpAddr) -> Entry {
        let peer = peer_of(address);
        let mut inside = self.inside();
        let those = inside.by_peer.get(&peer).map_or(&[][..], Vec::as_slice);
        let staying = || those.iter().filter(|connection| !connection.is_leaving()).count();
        // Few peers have so many that those who leave need to be counted.
        let has_share = those.len() >= self.per_peer && staying() >= self.per_peer;
        if has_share && !self.network.trusts(address) {
            if !evict_idle(those) {
                drop(inside);
                tracing::debug!(%peer, "a connection was not let in, as its peer has its share");
                return Entry::Refused;
            }
            inside.leaving += 1;
        }
        if !self.make_room(&mut inside) {
            return Entry::NoPlace;
        }
        let connection = Connection::new(&self.network, address);
        inside.count += 1;
        inside.by_peer.entry(peer).or_default().push(Arc::clone(&connection));
        Entry::Entered(Place { connection, door: Arc::clone(self) })
    }

    /// Whether there is a place, or one that can be made.
    fn may_open(&self, inside: &Inside) -> bool {
        let is_idle = |one: &Arc<Connection>| !one.is_leaving() && one.idle_since().is_some();
        self.has_place(inside)
            || (inside.leaving < LEAVING_MAX && inside.largest().iter().any(is_idle))
    }

    /// Makes room where there is none: of the peer with the most connections, the one that
    /// has been idle for longest gives way.
    fn make_room(&self, inside: &mut Inside) -> bool {
        if self.has_place(inside) {
            return true;
        }
        let room = inside.leaving < LEAVING_MAX && evict_idle(inside.largest());
        inside.leaving += usize::from(room);
        room
    }

    /// Whether there is a place, or one whose connection was asked to end.
    fn has_place(&self, inside: &Inside) -> bool {
        inside.count < self.places + inside.leaving.min(LEAVING_MAX)
    }

    /// No code panics while it holds this lock.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the connection to end that has been idle for longest; false when none is idle.
fn evict_idle(connections: &[Arc<Connection>]) -> bool {
    let staying = connections.iter().filter(|connection| !connection.is_leaving());
    let idle = staying.filter_map(|connection| Some((connection.idle_since()?, connection)));
    let longest = idle.min_by_key(|(since, _)| *since);
    longest.is_some_and(|(_, connection)| connection.evict())
}

impl Drop for Place {
    fn drop(&mut self) {
        let peer = peer_of(self.connection.address);
        let mut inside = self.door.inside();
        inside.count -= 1;
        if self.connection.is_leaving() {
            inside.leaving -= 1;
        }
        if let Some(those) = inside.by_peer.get_mut(&peer) {
            if let Some(at) = those.iter().position(|other| Arc::ptr_eq(other, &self.connection)) {
                those.swap_remove(at);
            }
            if those.is_empty() {
                inside.by_peer.remove(&peer);
            }
        }
        drop(inside);
        self.door.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    async fn enter(door: &Arc<Door>, from: IpAddr) -> Option<Place> {
        tokio::time::timeout(Duration::from_secs(1), door.enter(from)).await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn over_its_share_the_connection_of_a_peer_gives_way_that_was_idle_for_longest() {
        let door = Door::new(&Network::for_tests(), 100);
        let first = enter(&door, address(1)).await.expect("a place");
        tokio::time::advance(Duration::from_secs(1)).await;
        let second = enter(&door, address(1)).await.expect("a place");
        let busy = first.connection.begin();
        let third = enter(&door, address(1)).await.expect("the place of the second");
        assert!(!first.connection.is_leaving() && second.connection.is_leaving());
        let at_work = third.connection.begin();
        assert!(enter(&door, address(1)).await.is_none(), "nobody of the peer is idle");
        assert!(enter(&door, address(2)).await.is_some(), "another peer has a share of its own");
        let proxy = [10, 0, 0, 1].into();
        let through_proxy = [enter(&door, proxy).await, enter(&door, proxy).await];
        assert!(enter(&door, proxy).await.is_some() && through_proxy.iter().all(Option::is_some));
        drop((busy, at_work, through_proxy));
        drop((first, second, third));
        assert_eq!(door.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_places_are_taken_an_idle_connection_of_whoever_has_most_gives_way() {
        let door = Door::new(&Network::for_tests(), 3);
        let one = enter(&door, address(1)).await.expect("a place");
        let two = [enter(&door, address(2)).await, enter(&door, address(2)).await];
        let another = enter(&door, address(3)).await.expect("the place of one of the two");
        assert!(!one.connection.is_leaving());
        let leaving = two.iter().flatten().filter(|place| place.connection.is_leaving());
        assert_eq!(leaving.count(), 1);
        drop((two, another, one));
        assert_eq!(door.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_finds_no_place_waits_for_one() {
        let door = Door::new(&Network::for_tests(), 1);
        let only = enter(&door, address(1)).await.expect("a place");
        let busy = only.connection.begin();
        assert!(enter(&door, address(2)).await.is_none());
        let waiting = tokio::spawn({
            let door = Arc::clone(&door);
            async move { door.enter(address(2)).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(busy);
        drop(only);
        assert!(waiting.await.expect("no panic"));
    }
}
