//! Connections of users. A connection has a record, and a place in the expiring set of
//! its user and in that of its user's partition of its pod, which both end a short while
//! after its last heartbeat; the record outlives them, to tell what became of it. All of
//! it is in the partition of the user, and changes in one step, so that presence and the
//! counts of pods never drift apart.
//!
//! An id that the service has made names the partition. For one that somebody has chosen,
//! a locator in the partition of the id itself tells whose it is. To register is to claim
//! the locator, write the record, and confirm the claim: whoever took the id over from a
//! user whose connection was not alive changes the claim, so that of two who race one
//! finds theirs gone, and gives up.

mod change;
mod locator;
mod pods;
mod record;
mod registration;

pub use change::epoch_is;
use change::{Target, end, renew};
pub use pods::{drain_pod, heartbeat_pod, list_pod, stats};
use record::{Ending, How, Record};
pub use registration::register;

use crate::connections_types::Connection;
use crate::fault::{fault, fault_with, refuse};
use crate::faults::{Detail, Fault, Reason};
use crate::imports::{Durable, Imports};
use crate::keys::{self, Partition, check_id, check_text};
use crate::policy::Policy;
use crate::store::{HashSet, Member, MemberList, Operation, Order, Reply};
use crate::transaction::{entry, execute, read, unexpected_replies};

/// The most connections of one user.
pub const CONNECTIONS_MAX: u32 = 1000;
/// How often a rule tries again when somebody changes what it has read.
const ATTEMPTS: u32 = 16;
/// The most bytes of the reason for an end, and of who brought it about.
const REASON_BYTES_MAX: usize = 256;

/// Whose connection it is.
pub const USER_FIELD: &str = "user_id";
/// Where it is held.
pub const POD_FIELD: &str = "pod_id";
const SESSION_FIELD: &str = "session_id";
const CONNECTED_FIELD: &str = "connected_at";
/// Tells one registration of it from another.
pub const EPOCH_FIELD: &str = "_epoch";
/// When its locator was written last.
const LOCATED_FIELD: &str = "_located";
const ENDED_FIELD: &str = "_ended";
const REASON_FIELD: &str = "_reason";
const BY_FIELD: &str = "_by";

/// The fields of a record.
const FIELDS: [&str; 8] = [
    USER_FIELD,
    POD_FIELD,
    CONNECTED_FIELD,
    EPOCH_FIELD,
    LOCATED_FIELD,
    ENDED_FIELD,
    REASON_FIELD,
    BY_FIELD,
];

/// When a connection ends whose record ends then.
pub fn ends_ms(policy: &Policy, record_expires_at_ms: u64) -> u64 {
    (record_expires_at_ms + policy.connection_stale_ms).saturating_sub(policy.connection_ttl_ms)
}

/// Notes in a record that its connection has ended by itself.
pub fn mark_expired(policy: &Policy, partition: Partition, session_id: &str) -> Operation {
    Operation::HashSet(HashSet {
        key: partition.connection(session_id),
        entries: vec![entry(ENDED_FIELD, How::Expired.name())],
        ttl_ms: Some(policy.connection_ttl_ms),
    })
}

/// Which connection is meant, when not whichever has the id.
#[derive(Clone, Copy, Debug, Default)]
pub struct Only<'a> {
    /// That of this user.
    pub user_id: Option<&'a str>,
    /// The one of this registration; given with its user.
    pub epoch: Option<&'a str>,
}

/// Reads a connection that is alive.
///
/// # Errors
/// `invalid-request`; `session-not-found`; `session-expired`; `session-terminated` with
/// why and by whom; `store-unavailable`.
pub fn get(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    only: Only<'_>,
) -> Result<Connection, Fault> {
    find(imports, policy, session_id, only).map(|found| found.connection)
}

/// Keeps a connection that is alive for another lifetime.
///
/// # Errors
/// As [`get`].
pub fn heartbeat(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    only: Only<'_>,
) -> Result<Connection, Fault> {
    let mut before = None;
    for _ in 0..ATTEMPTS {
        let found = find(imports, policy, session_id, only)?;
        // Its record was written when a lifetime was another one.
        if before.as_ref() == Some(&found.connection.epoch) {
            return Err(expired());
        }
        let (kept, now_ms) = renew(imports, policy, &[found.target()])?;
        if kept.first() == Some(&true) {
            found.keep_located(imports, policy)?;
            let expires_at_ms = now_ms + policy.connection_stale_ms;
            return Ok(Connection {
                last_heartbeat_at_ms: now_ms,
                expires_at_ms,
                ..found.connection
            });
        }
        before = Some(found.connection.epoch);
    }
    Err(restless())
}

/// Closes a connection, whether or not it is alive.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn close(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    reason: &str,
    by: &str,
    only: Only<'_>,
) -> Result<(), Fault> {
    let imports = &Durable(imports);
    let mut violations = Vec::new();
    keys::check_session_key(SESSION_FIELD, session_id, &mut violations);
    check_text("reason", reason, REASON_BYTES_MAX, &mut violations);
    check_text("by", by, REASON_BYTES_MAX, &mut violations);
    if let Some(user_id) = only.user_id {
        check_id(USER_FIELD, user_id, &mut violations);
    }
    refuse(violations)?;
    let mut before = None;
    for _ in 0..ATTEMPTS {
        let found = match find(imports, policy, session_id, only) {
            Err(fault) if is_over(&fault) => return Ok(()),
            found => found?,
        };
        // As above.
        if before.as_ref() == Some(&found.connection.epoch) {
            return Ok(());
        }
        let ending = Ending { how: How::Closed, reason, by };
        if end(imports, policy, &[found.target()], &ending)? == 1 {
            return Ok(());
        }
        before = Some(found.connection.epoch);
    }
    Err(restless())
}

/// The connections of a user, the oldest first.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn list_user(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
) -> Result<Vec<Connection>, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    refuse(violations)?;
    let mut connections = of_user(imports, policy, user_id)?;
    connections.sort_by(|a, b| {
        (a.connected_at_ms, &a.session_id).cmp(&(b.connected_at_ms, &b.session_id))
    });
    Ok(connections)
}

/// Ends all connections of a user, and returns how many.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn terminate_user(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
    reason: &str,
    by: &str,
) -> Result<u32, Fault> {
    let imports = &Durable(imports);
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    check_text("reason", reason, REASON_BYTES_MAX, &mut violations);
    check_text("by", by, REASON_BYTES_MAX, &mut violations);
    refuse(violations)?;
    let partition = Partition::of(user_id);
    let ending = Ending { how: How::Terminated, reason, by };
    let mut connections = of_user(imports, policy, user_id)?;
    let mut ended = 0;
    for _ in 0..ATTEMPTS {
        let targets = connections.iter().map(|one| Target::of(partition, one));
        ended += end(imports, policy, &targets.collect::<Vec<_>>(), &ending)?;
        // Those that moved meanwhile are still there; those that came since may stay.
        let mut left = of_user(imports, policy, user_id)?;
        left.retain(|one| connections.iter().any(|known| known.session_id == one.session_id));
        if left.is_empty() {
            return Ok(ended);
        }
        connections = left;
    }
    Err(restless())
}

/// How many connections a user has.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn presence(imports: &impl Imports, user_id: &str) -> Result<u32, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    refuse(violations)?;
    let connections = Partition::of(user_id).connections(user_id);
    let (_, live, _) = members(imports, connections, None, 0)?;
    Ok(live)
}

/// A connection that is alive.
struct Found {
    partition: Partition,
    connection: Connection,
    located_ms: Option<u64>,
    now_ms: u64,
}

impl Found {
    fn target(&self) -> Target<'_> {
        Target::of(self.partition, &self.connection)
    }

    /// Has the locator outlive the record, when half of its time has passed.
    fn keep_located(&self, imports: &impl Imports, policy: &Policy) -> Result<(), Fault> {
        if !locator::is_due(policy, self.located_ms, self.now_ms) {
            return Ok(());
        }
        locator::keep(imports, policy, self.partition, &[&self.connection.session_id])
    }
}

/// Finds a connection that is alive by its id.
fn find(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    only: Only<'_>,
) -> Result<Found, Fault> {
    let mut violations = Vec::new();
    keys::check_session_key(SESSION_FIELD, session_id, &mut violations);
    refuse(violations)?;
    let located = match keys::is_made(session_id) {
        true => None,
        false => Some(locator::user_of(imports, session_id)?.ok_or_else(not_found)?),
    };
    let whose = only.user_id.or(located.as_deref());
    let partition = whose.map(Partition::of).or_else(|| keys::partition_of_made(session_id));
    let partition = partition.ok_or_else(not_found)?;
    let (record, now_ms) = look(imports, partition, session_id)?;
    let record = record.ok_or_else(not_found)?;
    if whose.is_some_and(|whose| whose != record.user_id) {
        return Err(match only.user_id {
            // Another of the partition has got the id, once this one's was over; how it
            // ended is not there any more.
            Some(_) => expired(),
            // It has just been taken over, and nothing is written yet.
            None => not_found(),
        });
    }
    if only.epoch.is_some_and(|epoch| epoch != record.epoch) {
        return Err(terminated("moved", "MOVED", &record.pod_id));
    }
    if let Some((how, reason, by)) = &record.ended {
        return Err(match how {
            How::Expired => expired(),
            How::Closed | How::Terminated | How::Drained => terminated(how.name(), reason, by),
        });
    }
    let is_lost = located.is_some_and(|located| located != record.user_id);
    if is_lost || !record.is_alive(policy, now_ms) {
        return Err(expired());
    }
    let located_ms = record.located_ms;
    let connection = record.connection(policy, session_id.into());
    Ok(Found { partition, connection, located_ms, now_ms })
}

/// Reads a record, and the store's clock.
fn look(
    imports: &impl Imports,
    partition: Partition,
    session_id: &str,
) -> Result<(Option<Record>, u64), Fault> {
    let record = read(partition.connection(session_id), &FIELDS);
    let outcome = execute(imports, Vec::new(), vec![record], Vec::new())?;
    match &outcome.replies[..] {
        [Reply::Record(hash)] => Ok((hash.as_ref().and_then(Record::of), outcome.now_ms)),
        _ => Err(unexpected_replies()),
    }
}

/// Those of the connections that are alive.
fn alive(
    imports: &impl Imports,
    policy: &Policy,
    partition: Partition,
    session_ids: &[&str],
) -> Result<Vec<Connection>, Fault> {
    if session_ids.is_empty() {
        return Ok(Vec::new());
    }
    let records = session_ids.iter().map(|id| read(partition.connection(id), &FIELDS)).collect();
    let outcome = execute(imports, Vec::new(), records, Vec::new())?;
    let connection = |(id, reply): (&&str, Reply)| {
        let Reply::Record(Some(hash)) = reply else { return None };
        let record = Record::of(&hash)?;
        let alive = record.is_alive(policy, outcome.now_ms);
        alive.then(|| record.connection(policy, (*id).into()))
    };
    Ok(session_ids.iter().zip(outcome.replies).filter_map(connection).collect())
}

fn of_user(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
) -> Result<Vec<Connection>, Fault> {
    let partition = Partition::of(user_id);
    let (members, _, _) = members(imports, partition.connections(user_id), None, CONNECTIONS_MAX)?;
    let ids: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut connections = alive(imports, policy, partition, &ids)?;
    connections.retain(|one| one.user_id == user_id);
    Ok(connections)
}

/// Members of a set, how many are alive in it, and the store's clock.
fn members(
    imports: &impl Imports,
    key: String,
    after: Option<Member>,
    limit: u32,
) -> Result<(Vec<Member>, u32, u64), Fault> {
    let outcome = execute(imports, Vec::new(), vec![listing(key, after, limit)], Vec::new())?;
    match outcome.replies.into_iter().next() {
        Some(Reply::Members(page)) => Ok((page.members, page.live, outcome.now_ms)),
        _ => Err(unexpected_replies()),
    }
}

fn listing(key: String, after: Option<Member>, limit: u32) -> Operation {
    Operation::MemberList(MemberList { key, order: Order::SoonestFirst, after, limit })
}

/// Whether a fault says that a connection is not alive.
fn is_over(fault: &Fault) -> bool {
    use Reason::{SessionExpired, SessionNotFound, SessionTerminated};
    matches!(fault.reason, SessionNotFound | SessionExpired | SessionTerminated)
}

fn not_found() -> Fault {
    fault(Reason::SessionNotFound, "The connection does not exist.")
}

fn expired() -> Fault {
    fault(Reason::SessionExpired, "The connection has expired; no heartbeat came in time.")
}

fn exists() -> Fault {
    fault(Reason::SessionExists, "Another user has a connection of this id.")
}

fn terminated(how: &str, reason: &str, by: &str) -> Fault {
    let message = format!("The connection was {how}.");
    let mut fault = fault_with(Reason::SessionTerminated, message, "how", how.into());
    for (name, value) in [("reason", reason), ("by", by)] {
        fault.metadata.push(Detail { name: name.into(), value: value.into() });
    }
    fault
}

fn restless() -> Fault {
    fault(Reason::StoreUnavailable, "The connection changes too often; try again.")
}

#[cfg(test)]
mod tests;
