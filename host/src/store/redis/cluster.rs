//! A Cluster: which server has the keys of a slot, learnt from the servers themselves. The
//! client library's own Cluster client sends a command again when its connection breaks,
//! which would apply it twice, and does not give up a server that is silent; here a command
//! is sent again only when a server has said that it did not take it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::store::redis::commands::{Commands, misfit};
use crate::store::redis::connector::{Connector, NodeAddress};
use crate::store::redis::group::Copies;
use crate::store::redis::reply;
use crate::store::redis::server::{Manner, Server, Trouble};
use session_store::transaction;

/// Slots of a Cluster.
const SLOTS: u16 = 16384;
/// How often a command that was sent elsewhere is followed; the time limit of the call ends
/// it before.
const FOLLOWED_MAX: u32 = 16;
/// How long to wait before a server that cannot take a command yet is asked again.
const NOT_YET: Duration = Duration::from_millis(20);
/// How often the servers are asked which slots they have: at rest, and at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Views in a row that are older than the map before one of them is believed.
const OLDER_MAX: u32 = 10;
/// Servers that are asked at once when something seems to have changed.
const ASKED: usize = 3;

/// The servers of a Cluster.
pub struct Cluster {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    connector: Connector,
    timeout: Duration,
    map: watch::Sender<Option<Arc<Map>>>,
    /// Something does not fit the map.
    doubted: Notify,
    /// How many views in a row were older than the map.
    older: AtomicU32,
}

/// Which server has which slots.
#[derive(Default)]
struct Map {
    /// It is newer than one with a lower number.
    epoch: u64,
    /// The first and last slot of each range, and its server, in order.
    ranges: Vec<(u16, u16, Arc<Server>)>,
    /// Every server that has slots, by its address.
    servers: BTreeMap<NodeAddress, Arc<Server>>,
}

/// What a server says of its Cluster.
struct View {
    /// It belongs to the part of the Cluster that serves.
    serves: bool,
    /// `None` when a user may not ask for it.
    epoch: Option<u64>,
    ranges: Vec<(u16, u16, NodeAddress)>,
}

impl Cluster {
    /// A Cluster that is found from some of its nodes, which need not answer yet.
    pub fn new(connector: Connector, timeout: Duration) -> Self {
        let (map, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            connector,
            timeout,
            map,
            doubted: Notify::new(),
            older: AtomicU32::new(0),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared)));
        Self { shared, keeper }
    }

    /// One exchange with the server that has a key, which has to end before `deadline`.
    ///
    /// # Errors
    /// [`Trouble`]; nothing is known then of what was asked.
    pub async fn call<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        key: &str,
        deadline: Instant,
        copies: Option<Copies>,
        exchange: &impl Fn(Commands) -> F,
    ) -> Result<T, Trouble> {
        let map = self.map(deadline).await?;
        let mut server = Arc::clone(map.server_of(slot(key)).ok_or(Trouble::Disconnected)?);
        let mut manner = Manner { asking: false, copies };
        let mut followed = 0;
        loop {
            let answered = server.call(deadline, manner, exchange).await;
            let Err(trouble) = answered else { return answered };
            self.shared.doubt(&trouble);
            let Trouble::Told(error) = &trouble else { return Err(trouble) };
            followed += 1;
            let ErrorKind::Server(kind) = error.kind() else { return Err(trouble) };
            if followed > FOLLOWED_MAX {
                return Err(trouble);
            }
            match kind {
                ServerErrorKind::Moved | ServerErrorKind::Ask => {
                    let Some((address, _)) = error.redirect_node() else { return Err(trouble) };
                    let Some(address) = NodeAddress::redirected(address, server.address()) else {
                        return Err(trouble);
                    };
                    server = self.shared.server(address, &map);
                    manner.asking = kind == ServerErrorKind::Ask;
                }
                ServerErrorKind::TryAgain => {
                    if Instant::now() + NOT_YET >= deadline {
                        return Err(trouble);
                    }
                    tokio::time::sleep(NOT_YET).await;
                }
                _ => return Err(trouble),
            }
        }
    }

    /// Every server that has slots, in an order that stays.
    ///
    /// # Errors
    /// When none is known.
    pub async fn servers(&self, deadline: Instant) -> Result<Vec<Arc<Server>>, Trouble> {
        Ok(self.map(deadline).await?.servers.values().cloned().collect())
    }

    /// Every server that has slots, and whether there is a connection to it.
    pub fn nodes(&self) -> Vec<(String, bool)> {
        let map = self.shared.map.borrow().clone().unwrap_or_default();
        map.servers.values().map(|server| (server.shown(), server.is_up())).collect()
    }

    /// The histories of all servers.
    pub fn history(&self) -> Option<String> {
        let map = self.shared.map.borrow().clone()?;
        let mut histories: Vec<_> =
            map.servers.values().map(|server| server.history()).collect::<Option<_>>()?;
        histories.sort_unstable();
        Some(histories.join(","))
    }

    /// Why a server cannot be reached, when that was tried.
    pub fn obstacle(&self) -> Option<String> {
        let map = self.shared.map.borrow().clone();
        match map {
            Some(map) => map.servers.values().find_map(|server| server.obstacle()),
            None => Some("no node of the Cluster answers".into()),
        }
    }

    /// The present map; waits for the first one.
    async fn map(&self, deadline: Instant) -> Result<Arc<Map>, Trouble> {
        let present = self.shared.map.borrow().clone();
        if let Some(map) = present {
            return Ok(map);
        }
        let mut watched = self.shared.map.subscribe();
        let found = watched.wait_for(Option::is_some);
        let found = tokio::time::timeout_at(deadline, found).await;
        match found {
            Ok(Ok(map)) => map.clone().ok_or(Trouble::Disconnected),
            Ok(Err(_)) | Err(_) => Err(Trouble::Disconnected),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    /// Looks again at once when what a call met does not fit the map.
    fn doubt(&self, trouble: &Trouble) {
        let fits = match trouble {
            Trouble::Disconnected | Trouble::TimedOut => false,
            Trouble::Told(error) => match error.kind() {
                ErrorKind::Server(kind) => !matches!(
                    kind,
                    ServerErrorKind::Moved
                        | ServerErrorKind::ClusterDown
                        | ServerErrorKind::MasterDown
                        | ServerErrorKind::ReadOnly
                ),
                ErrorKind::Extension => true,
                _ => false,
            },
        };
        if !fits {
            self.doubted.notify_one();
        }
    }

    /// The server at an address: one that is known, or a new one.
    fn server(&self, address: NodeAddress, map: &Map) -> Arc<Server> {
        let present = self.map.borrow().clone();
        let known = present.as_deref().and_then(|map| map.servers.get(&address));
        if let Some(server) = known.or_else(|| map.servers.get(&address)) {
            return Arc::clone(server);
        }
        let server = Arc::new(Server::new(self.connector.to_node(&address), self.timeout));
        // It stays, or every call until the next look would make one.
        self.map.send_modify(|present| {
            let present = present.get_or_insert_default();
            let mut with = Map {
                epoch: present.epoch,
                ranges: present.ranges.clone(),
                servers: present.servers.clone(),
            };
            with.servers.entry(address).or_insert_with(|| Arc::clone(&server));
            *present = Arc::new(with);
        });
        server
    }

    /// Takes a view for the map, unless that is newer.
    fn learn(&self, view: View) -> bool {
        if !view.serves {
            return false;
        }
        let present = self.map.borrow().clone().unwrap_or_default();
        // Some servers hear late of a change; all of them know less only when the Cluster was
        // made anew.
        let epoch = view.epoch.unwrap_or(present.epoch);
        if epoch < present.epoch && self.older.fetch_add(1, Ordering::Relaxed) < OLDER_MAX {
            return true;
        }
        self.older.store(0, Ordering::Relaxed);
        let mut servers = BTreeMap::new();
        let mut ranges = Vec::with_capacity(view.ranges.len());
        for (first, last, address) in view.ranges {
            let server = servers.entry(address).or_insert_with_key(|address| {
                match present.servers.get(address) {
                    Some(server) => Arc::clone(server),
                    None => Arc::new(Server::new(self.connector.to_node(address), self.timeout)),
                }
            });
            ranges.push((first, last, Arc::clone(server)));
        }
        ranges.sort_unstable_by_key(|(first, ..)| *first);
        self.map.send_replace(Some(Arc::new(Map { epoch, ranges, servers })));
        true
    }
}

impl Map {
    fn server_of(&self, slot: u16) -> Option<&Arc<Server>> {
        let behind = self.ranges.partition_point(|(first, ..)| *first <= slot);
        let (_, last, server) = self.ranges.get(behind.checked_sub(1)?)?;
        (slot <= *last).then_some(server)
    }
}

/// Looks which servers have which slots, now and then, and whenever that is doubted.
async fn keep(shared: Arc<Shared>) {
    let mut turn = 0;
    let mut certain = false;
    loop {
        let looked = Instant::now();
        certain = look(&shared, turn, if certain { 1 } else { ASKED }).await;
        turn += 1;
        tokio::select! {
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
            () = shared.doubted.notified() => {
                certain = false;
                tokio::time::sleep_until(looked + LOOK_INTERVAL_MIN).await;
            }
        }
    }
}

/// Asks some servers, others at each turn, and all those that were named at the start when
/// none of them answers; whether one of them has.
async fn look(shared: &Arc<Shared>, turn: usize, asked: usize) -> bool {
    let deadline = Instant::now() + shared.timeout;
    let map = shared.map.borrow().clone().unwrap_or_default();
    // First those that answered when last seen.
    let mut servers: Vec<_> = map.servers.iter().collect();
    let turns = turn % servers.len().max(1);
    servers.rotate_left(turns);
    servers.sort_by_key(|(_, server)| !server.is_up());
    let views = servers.into_iter().take(asked).map(|(address, server)| async move {
        let view = |commands| view(commands, address);
        server.call(deadline, Manner::default(), &view).await.ok()
    });
    if learn_all(shared, views).await {
        return true;
    }
    let seeds = shared.connector.seeds().await;
    let views = seeds.iter().map(|address| async move {
        let (commands, _) = shared.connector.to_node(address).connect(turn).await.ok()?;
        tokio::time::timeout_at(deadline, view(commands, address)).await.ok()?.ok()
    });
    learn_all(shared, views).await
}

/// Learns from each as it answers.
async fn learn_all(
    shared: &Shared,
    views: impl Iterator<Item = impl Future<Output = Option<View>>>,
) -> bool {
    let mut views: FuturesUnordered<_> = views.collect();
    let mut learnt = false;
    while let Some(view) = views.next().await {
        learnt |= view.is_some_and(|view| shared.learn(view));
    }
    learnt
}

/// What a server says of its Cluster.
async fn view(mut commands: Commands, own: &NodeAddress) -> Result<View, RedisError> {
    let cluster = |about: &str| {
        let mut command = redis::cmd("CLUSTER");
        command.arg(about);
        command
    };
    let info: Option<String> = match commands.ask(&cluster("INFO")).await {
        Ok(info) => Some(info),
        Err(error) if error.code() == Some("NOPERM") => None,
        Err(error) => return Err(error),
    };
    let slots: Value = commands.ask(&cluster("SLOTS")).await?;
    let lines = info.as_deref().unwrap_or("cluster_state:ok");
    let fact =
        |name: &str| lines.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let ranges = reply::slots(slots, own).ok_or_else(misfit)?;
    Ok(View {
        serves: fact("cluster_state") == Some("ok") && !ranges.is_empty(),
        epoch: fact("cluster_current_epoch").and_then(|epoch| epoch.parse().ok()),
        ranges,
    })
}

/// The slot of a key.
fn slot(key: &str) -> u16 {
    const TABLE: [u16; 256] = table();
    let step = |crc: u16, byte: u8| crc << 8 ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)];
    transaction::tag(key).bytes().fold(0, step) % SLOTS
}

/// CRC-16 as XMODEM has it, which the slots of a Cluster are counted by.
const fn table() -> [u16; 256] {
    const POLYNOMIAL: u16 = 0x1021;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ POLYNOMIAL };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_slot_that_redis_gives_it() {
        // As CLUSTER KEYSLOT says.
        for (key, expected) in [
            ("123456789", 0x31c3),
            ("foo", 12182),
            ("bar", 5061),
            ("x{foo}y{bar}", 12182),
            ("foo{}", slot("foo{}")),
            ("", 0),
        ] {
            assert_eq!(slot(key), expected, "{key}");
        }
    }
}
