//! Who is let in: a bounded number of network connections in all and of each peer. When
//! there is no place, an idle connection of the peer that has the most gives way.

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

/// One peer may have this share of all places, and at least so many.
const PLACES_SHARE: usize = 8;
const PEER_PLACES_MIN: usize = 256;
/// Connections that were asked to end, and for whose places others were let in already.
const LEAVING_MAX: usize = 32;
/// How often the log says that all places are taken, while they are.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How soon to look again for an idle connection when there is no place.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// A bounded number of places.
pub struct Door {
    network: Arc<Network>,
    places: usize,
    per_peer: usize,
    /// Whether one whose requests have not come whole gives way when nobody is idle.
    uploads_give_way: bool,
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
    /// When the log last said that all places are taken.
    told: Option<Instant>,
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
    /// The connection that gives way when there is no place: of the peer that has the most
    /// among those with an idle one, the one that has been idle for longest.
    fn spare(&self) -> Option<Arc<Connection>> {
        let spare = |those: &Vec<Arc<Connection>>| {
            let (since, one) = idle_for_longest(those)?;
            Some((those.len(), Reverse(since), Arc::clone(one)))
        };
        let spare = self.by_peer.values().filter_map(spare);
        spare.max_by_key(|(count, since, _)| (*count, *since)).map(|(.., spare)| spare)
    }

    /// The oldest connection whose requests have not come whole.
    fn upload(&self) -> Option<Arc<Connection>> {
        let all = self.by_peer.values().flatten();
        let uploads = all.filter(|connection| !connection.is_leaving() && connection.is_upload());
        uploads.min_by_key(|connection| connection.opened).cloned()
    }
}

impl Door {
    /// A door with so many places behind it.
    pub fn new(network: &Arc<Network>, places: usize) -> Arc<Self> {
        Arc::new(Self::with(network, places, false))
    }

    /// One for operators: when no connection is idle, the oldest one whose request has not
    /// arrived whole gives way.
    pub fn where_uploads_give_way(network: &Arc<Network>, places: usize) -> Arc<Self> {
        Arc::new(Self::with(network, places, true))
    }

    fn with(network: &Arc<Network>, places: usize, uploads_give_way: bool) -> Self {
        let share = (places / PLACES_SHARE).max(PEER_PLACES_MIN);
        Self {
            network: Arc::clone(network),
            places,
            per_peer: network.limits.per_peer.unwrap_or(share),
            uploads_give_way,
            inside: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// How many places are taken.
    pub fn taken(&self) -> usize {
        self.inside().count
    }

    /// Completes when the next connection may find a place, so that those that cannot be
    /// served wait where they cost nothing.
    pub async fn opens(&self) {
        self.until(|| {
            let inside = self.inside();
            match self.may_open(&inside) {
                true => Some(()),
                false => {
                    self.tell_full(inside);
                    None
                }
            }
        })
        .await;
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
        let connection = Connection::new(&self.network, address);
        if connection.peer.is_barred(Instant::now()) {
            return Entry::Refused;
        }
        let mut inside = self.inside();
        let those = inside.by_peer.get(&peer).map_or(&[][..], Vec::as_slice);
        let staying = || those.iter().filter(|connection| !connection.is_leaving()).count();
        // Few peers have so many that those who leave need to be counted.
        let has_share = those.len() >= self.per_peer && staying() >= self.per_peer;
        if has_share && !self.network.trusts(address) {
            if !idle_for_longest(those).is_some_and(|(_, connection)| connection.evict()) {
                drop(inside);
                tracing::debug!(%peer, "a connection was not let in, as its peer has its share");
                return Entry::Refused;
            }
            inside.leaving += 1;
        }
        if !self.make_room(&mut inside) {
            self.tell_full(inside);
            return Entry::NoPlace;
        }
        inside.count += 1;
        inside.by_peer.entry(peer).or_default().push(Arc::clone(&connection));
        Entry::Entered(Place { connection, door: Arc::clone(self) })
    }

    fn tell_full(&self, mut inside: MutexGuard<'_, Inside>) {
        let now = Instant::now();
        if inside.told.is_none_or(|told| now - told >= TOLD_EVERY) {
            inside.told = Some(now);
            drop(inside);
            let places = self.places;
            tracing::warn!(places, "all places for connections are taken; the next one waits");
        }
    }

    /// Whether there is a place, or one that can be made.
    fn may_open(&self, inside: &Inside) -> bool {
        self.has_place(inside) || (inside.leaving < LEAVING_MAX && self.spare(inside).is_some())
    }

    /// Makes room where there is none: an idle connection gives way.
    fn make_room(&self, inside: &mut Inside) -> bool {
        if self.has_place(inside) {
            return true;
        }
        let room =
            inside.leaving < LEAVING_MAX && self.spare(inside).is_some_and(|spare| spare.evict());
        inside.leaving += usize::from(room);
        room
    }

    fn spare(&self, inside: &Inside) -> Option<Arc<Connection>> {
        inside.spare().or_else(|| inside.upload().filter(|_| self.uploads_give_way))
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

/// The connection that has been idle for longest of those that stay, and since when.
fn idle_for_longest(connections: &[Arc<Connection>]) -> Option<(Instant, &Arc<Connection>)> {
    let staying = connections.iter().filter(|connection| !connection.is_leaving());
    let idle = staying.filter_map(|connection| Some((connection.idle_since()?, connection)));
    idle.min_by_key(|(since, _)| *since)
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
    async fn when_whoever_has_most_is_at_work_an_idle_connection_of_another_gives_way() {
        let door = Door::new(&Network::for_tests(), 4);
        let busy = [enter(&door, address(1)).await, enter(&door, address(1)).await];
        let at_work: Vec<_> = busy.iter().flatten().map(|place| place.connection.begin()).collect();
        let longest = enter(&door, address(2)).await.expect("a place");
        tokio::time::advance(Duration::from_secs(1)).await;
        let shorter = enter(&door, address(3)).await.expect("a place");
        let another = enter(&door, address(4)).await;
        assert!(another.is_some() && longest.connection.is_leaving());
        assert!(!shorter.connection.is_leaving());
        drop(at_work);
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
