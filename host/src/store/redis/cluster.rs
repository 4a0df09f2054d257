//! A Cluster: finds which server holds the keys of a slot by asking the servers. The client
//! library's own Cluster client sends a command again when its connection breaks, which may apply
//! it twice, and does not give up a silent server. Here a command is sent again only if a server
//! has answered that it did not take it.

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

use crate::store::redis::commands::Commands;
use crate::store::redis::connector::Connector;
use crate::store::redis::group::ReplicaWait;
use crate::store::redis::node::NodeAddress;
use crate::store::redis::reply;
use crate::store::redis::reply::mismatch;
use crate::store::redis::server::{CallError, CallOptions, Server};
use session_store::transaction;

/// The slots of a Cluster.
const SLOTS: u16 = 16384;
/// The most redirects of one command; the time limit of the call usually ends it first.
const REDIRECTS_MAX: u32 = 16;
/// The delay before a server that cannot take a command yet is asked again.
const TRY_AGAIN_DELAY: Duration = Duration::from_millis(20);
/// How often the map of slots is refreshed, without and with a reason to.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How many older views in a row are ignored before one is accepted.
const OLDER_VIEWS_MAX: u32 = 10;
/// How many servers are asked at once when the map seems stale.
const SERVERS_ASKED: usize = 3;

/// The servers of a Cluster.
pub struct Cluster {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

struct Shared {
    connector: Connector,
    timeout: Duration,
    map: watch::Sender<Option<Arc<Map>>>,
    /// Notified when a call finds that the map is stale.
    refresh_now: Notify,
    /// How many views in a row were older than the map.
    older_views: AtomicU32,
}

/// Which server holds which slots.
#[derive(Default)]
struct Map {
    /// The epoch of the Cluster; a higher one is newer.
    epoch: u64,
    /// The first and last slot of each range with its server, in order.
    ranges: Vec<(u16, u16, Arc<Server>)>,
    /// Every server that holds slots, by its address.
    servers: BTreeMap<NodeAddress, Arc<Server>>,
}

/// What one server reports about its Cluster.
struct View {
    /// Whether it is in the part of the Cluster that serves.
    serves: bool,
    /// `None` if the user may not ask for it.
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
            refresh_now: Notify::new(),
            older_views: AtomicU32::new(0),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared)));
        Self { shared, keeper }
    }

    /// One exchange with the server that holds a key, which must end before `deadline`.
    ///
    /// # Errors
    /// [`CallError`]; the server may have applied the command or not.
    pub async fn call<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        key: &str,
        deadline: Instant,
        replica_wait: Option<ReplicaWait>,
        exchange: &impl Fn(Commands) -> F,
    ) -> Result<T, CallError> {
        let map = self.map(deadline).await?;
        let mut server = Arc::clone(map.server_of(slot(key)).ok_or(CallError::Disconnected)?);
        let mut options = CallOptions { asking: false, replica_wait };
        let mut redirects = 0;
        loop {
            let answered = server.call(deadline, options, exchange).await;
            let Err(failed) = answered else { return answered };
            self.shared.refresh_if_stale(&failed);
            let CallError::Redis(error) = &failed else { return Err(failed) };
            redirects += 1;
            let ErrorKind::Server(kind) = error.kind() else { return Err(failed) };
            if redirects > REDIRECTS_MAX {
                return Err(failed);
            }
            match kind {
                ServerErrorKind::Moved | ServerErrorKind::Ask => {
                    let Some((address, _)) = error.redirect_node() else { return Err(failed) };
                    let Some(address) = NodeAddress::redirected(address, server.address()) else {
                        return Err(failed);
                    };
                    server = self.shared.server(address, &map);
                    options.asking = kind == ServerErrorKind::Ask;
                }
                ServerErrorKind::TryAgain => {
                    if Instant::now() + TRY_AGAIN_DELAY >= deadline {
                        return Err(failed);
                    }
                    tokio::time::sleep(TRY_AGAIN_DELAY).await;
                }
                _ => return Err(failed),
            }
        }
    }

    /// Every server that holds slots, in a stable order.
    ///
    /// # Errors
    /// If none is known.
    pub async fn servers(&self, deadline: Instant) -> Result<Vec<Arc<Server>>, CallError> {
        Ok(self.map(deadline).await?.servers.values().cloned().collect())
    }

    /// Every server that holds slots, and whether it is connected.
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

    /// Why a server cannot be reached, if an attempt has failed.
    pub fn obstacle(&self) -> Option<String> {
        let map = self.shared.map.borrow().clone();
        match map {
            Some(map) => map.servers.values().find_map(|server| server.obstacle()),
            None => Some("no node of the Cluster answers".into()),
        }
    }

    /// The current map; waits for the first one.
    async fn map(&self, deadline: Instant) -> Result<Arc<Map>, CallError> {
        let present = self.shared.map.borrow().clone();
        if let Some(map) = present {
            return Ok(map);
        }
        let mut watched = self.shared.map.subscribe();
        let found = watched.wait_for(Option::is_some);
        let found = tokio::time::timeout_at(deadline, found).await;
        match found {
            Ok(Ok(map)) => map.clone().ok_or(CallError::Disconnected),
            Ok(Err(_)) | Err(_) => Err(CallError::Disconnected),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    /// Refreshes the map at once if a failed call shows that it may be stale.
    fn refresh_if_stale(&self, failed: &CallError) {
        let fits = match failed {
            CallError::Disconnected | CallError::TimedOut => false,
            CallError::Redis(error) => match error.kind() {
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
            self.refresh_now.notify_one();
        }
    }

    /// The server at an address: a known one, or a new one.
    fn server(&self, address: NodeAddress, map: &Map) -> Arc<Server> {
        let present = self.map.borrow().clone();
        let known = present.as_deref().and_then(|map| map.servers.get(&address));
        if let Some(server) = known.or_else(|| map.servers.get(&address)) {
            return Arc::clone(server);
        }
        let server = Arc::new(Server::new(self.connector.to_node(&address), self.timeout));
        // It is kept in the map, or every call until the next refresh would make another one.
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

    /// Makes a view the current map, unless the map is newer.
    fn apply(&self, view: View) -> bool {
        if !view.serves {
            return false;
        }
        let present = self.map.borrow().clone().unwrap_or_default();
        // Some servers learn late of a change. Only a Cluster that was made anew has an older epoch
        // on all servers.
        let epoch = view.epoch.unwrap_or(present.epoch);
        if epoch < present.epoch
            && self.older_views.fetch_add(1, Ordering::Relaxed) < OLDER_VIEWS_MAX
        {
            return true;
        }
        self.older_views.store(0, Ordering::Relaxed);
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

/// Refreshes the map at intervals, and at once when it seems stale.
async fn keep(shared: Arc<Shared>) {
    let mut round = 0;
    let mut certain = false;
    loop {
        let refreshed_at = Instant::now();
        certain = refresh(&shared, round, if certain { 1 } else { SERVERS_ASKED }).await;
        round += 1;
        tokio::select! {
            () = tokio::time::sleep(REFRESH_INTERVAL) => {}
            () = shared.refresh_now.notified() => {
                certain = false;
                tokio::time::sleep_until(refreshed_at + REFRESH_INTERVAL_MIN).await;
            }
        }
    }
}

/// Asks some servers, in rotation, and the nodes of the address if none of them answers. Returns
/// whether one did.
async fn refresh(shared: &Arc<Shared>, round: usize, asked: usize) -> bool {
    let deadline = Instant::now() + shared.timeout;
    let map = shared.map.borrow().clone().unwrap_or_default();
    // Connected servers come first.
    let mut servers: Vec<_> = map.servers.iter().collect();
    let offset = round % servers.len().max(1);
    servers.rotate_left(offset);
    servers.sort_by_key(|(_, server)| !server.is_up());
    let views = servers.into_iter().take(asked).map(|(address, server)| async move {
        let view = |commands| view(commands, address);
        server.call(deadline, CallOptions::default(), &view).await.ok()
    });
    if apply_all(shared, views).await {
        return true;
    }
    let seeds = shared.connector.seeds().await;
    let views = seeds.iter().map(|address| async move {
        let (commands, _) = shared.connector.to_node(address).connect(round).await.ok()?;
        tokio::time::timeout_at(deadline, view(commands, address)).await.ok()?.ok()
    });
    apply_all(shared, views).await
}

/// Applies each view as it arrives.
async fn apply_all(
    shared: &Shared,
    views: impl Iterator<Item = impl Future<Output = Option<View>>>,
) -> bool {
    let mut views: FuturesUnordered<_> = views.collect();
    let mut applied = false;
    while let Some(view) = views.next().await {
        applied |= view.is_some_and(|view| shared.apply(view));
    }
    applied
}

/// What one server reports about its Cluster.
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
    let ranges = reply::slots(slots, own).ok_or_else(mismatch)?;
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

/// The table of CRC-16/XMODEM, which the slots of a Cluster are computed with.
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
    fn a_key_has_the_slot_that_redis_computes() {
        // The expected values are from CLUSTER KEYSLOT.
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
