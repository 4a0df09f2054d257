//! Connections of users. A connection has a record, and is a member of the expiring sets of its
//! user and of its pod. Both members end a short while after its last heartbeat. The record
//! outlives them, to say how the connection ended. All of this is in the partition of the user,
//! and changes in one transaction, so presence and the counts of pods always agree.
//!
//! An id that the service has made names the partition. For an id that a caller has chosen, a
//! lease in the partition of the id says which user owns it (`lease`).

mod change;
mod lease;
mod pods;
#[cfg(test)]
mod races;
mod record;
mod registration;
#[cfg(test)]
mod tests;

pub use pods::{drain_pod, heartbeat_pod, list_pod, stats};
pub use registration::register;

use self::change::{Life, Target, end, renew};
use self::record::{
    ATTEMPTS, ENDED_FIELD, EPOCH_FIELD, Ending, How, REASON_BYTES_MAX, Record, SESSION_FIELD,
    USER_FIELD, alive, contended, expired, look, not_found, terminated,
};
use self::registration::CONNECTIONS_MAX;
use crate::connections_types::Connection;
use crate::events::Type;
use crate::expiry::{Expiry, Kind, Queued};
use crate::fault::{Reason, is_any, refuse};
use crate::faults::Fault;
use crate::imports::{Durable, Imports};
use crate::keys::{self, Partition, check_id, check_text};
use crate::policy::Policy;
use crate::store::{Hash, Order};
use crate::transaction::{Branch, Conditions, Transaction, entry, instant, text};

/// Restricts a call to one connection of an id.
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
/// `INVALID_REQUEST`; `SESSION_NOT_FOUND`; `SESSION_EXPIRED`; `SESSION_TERMINATED` with
/// why and by whom; `STORE_UNAVAILABLE`.
pub fn get(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    only: Only<'_>,
) -> Result<Connection, Fault> {
    check(session_id)?;
    let found = find(imports, session_id, only)?;
    Ok(found.record.connection(policy.connection_stale_ms, session_id.into()))
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
    check(session_id)?;
    if !keys::is_made(session_id)
        && let Some(kept) = heartbeat_under_lease(imports, policy, session_id, only)?
    {
        return Ok(kept);
    }
    for _ in 0..ATTEMPTS {
        let Found { partition, record } = find(imports, session_id, only)?;
        let life = match keys::is_made(session_id) {
            true => Life::Full,
            false => {
                let leases = lease::renew(imports, policy, &[(&record.user_id, session_id)])?;
                let (now_ms, until_ms) = leases[0].ok_or_else(expired)?;
                Life::Leased { now_ms, until_ms }
            }
        };
        let target = target(partition, session_id, &record);
        let (renewed, renewed_ms) = renew(imports, policy, &[(target, life)])?;
        if renewed[0] {
            let alive_until_ms = life.alive_until_ms(policy, renewed_ms);
            let record = Record { alive_until_ms, ..record };
            return Ok(record.connection(policy.connection_stale_ms, session_id.into()));
        }
    }
    Err(contended())
}

/// Keeps a connection of a chosen id in two transactions. That is possible when the registration
/// that wrote the connection has also taken its lease; none when the connection has to be found
/// otherwise.
fn heartbeat_under_lease(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    only: Only<'_>,
) -> Result<Option<Connection>, Fault> {
    let held = lease::touch(imports, policy, session_id, only.user_id)?;
    let Some(held) = held.filter(|held| held.is_of(only.user_id, only.epoch)) else {
        return Ok(None);
    };
    let target = held_target(&held, session_id);
    let lease::Held { holder, until_ms, now_ms, .. } = &held;
    let life = Life::Leased { now_ms: *now_ms, until_ms: *until_ms };
    let mut transaction = Transaction::new();
    target.require(&mut transaction.when);
    target.keep(&mut transaction.then, policy, life);
    transaction.then.put(target.partition.pods(), target.pod_id, policy.connection_stale_ms);
    let kept = transaction.then.read(target.record(), &record::FIELDS);
    let refused = transaction.otherwise.read(target.record(), &record::FIELDS);
    let mut done = transaction.execute(imports)?;
    let record = done.take(if done.succeeded { kept } else { refused })?;
    let Some(record) = record.as_ref().and_then(Record::of) else { return Ok(None) };
    if done.succeeded {
        return Ok(Some(record.connection(policy.connection_stale_ms, session_id.into())));
    }
    // The connection of the registration that holds the lease has ended. The lease is given back,
    // so that these heartbeats do not keep other users from the id.
    if record.epoch == holder.epoch && !record.is_alive(done.now_ms) {
        lease::release(imports, session_id, &holder.epoch)?;
    }
    Ok(None)
}

/// Closes a connection, whether or not it is alive.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
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
    let ending = Ending { how: How::Closed, reason, by };
    if !keys::is_made(session_id)
        && let Some(held) = lease::look(imports, session_id)?
        && held.is_of(only.user_id, only.epoch)
        && end(imports, policy, &[held_target(&held, session_id)], &ending)?[0]
    {
        return lease::release(imports, session_id, &held.holder.epoch);
    }
    for _ in 0..ATTEMPTS {
        let found = match find(imports, session_id, only) {
            Err(fault) if is_over(&fault) => return Ok(()),
            found => found?,
        };
        let target = target(found.partition, session_id, &found.record);
        if end(imports, policy, &[target], &ending)?[0] {
            return release(imports, session_id, &found.record);
        }
    }
    Err(contended())
}

/// The connections of a user, the oldest first.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn list_user(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
) -> Result<Vec<Connection>, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    refuse(violations)?;
    let stale_ms = policy.connection_stale_ms;
    let found = of_user(imports, user_id)?.into_iter();
    let mut connections: Vec<_> =
        found.map(|(id, record)| record.connection(stale_ms, id)).collect();
    connections.sort_by(|a, b| {
        (a.connected_at_ms, &a.session_id).cmp(&(b.connected_at_ms, &b.session_id))
    });
    Ok(connections)
}

/// Ends all connections of a user, and returns how many.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
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
    let mut found = of_user(imports, user_id)?;
    let mut count = 0;
    for _ in 0..ATTEMPTS {
        let targets: Vec<_> =
            found.iter().map(|(id, record)| target(partition, id, record)).collect();
        let ended = end(imports, policy, &targets, &ending)?;
        for ((id, record), _) in found.iter().zip(ended).filter(|(_, ended)| *ended) {
            release(imports, id, record)?;
            count += 1;
        }
        // Connections that moved meanwhile are tried again. Those that are new may stay.
        let mut left = of_user(imports, user_id)?;
        left.retain(|(id, _)| found.iter().any(|(found_id, _)| found_id == id));
        if left.is_empty() {
            return Ok(count);
        }
        found = left;
    }
    Err(contended())
}

/// How many connections a user has.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn presence(imports: &impl Imports, user_id: &str) -> Result<u32, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    refuse(violations)?;
    let mut transaction = Transaction::new();
    let connections = Partition::of(user_id).connections(user_id);
    let page = transaction.then.list(connections, Order::SoonestFirst, None, 0);
    Ok(transaction.execute(imports)?.take(page)?.live)
}

/// A connection that is alive.
struct Found {
    partition: Partition,
    record: Record,
}

fn target<'a>(partition: Partition, session_id: &'a str, record: &'a Record) -> Target<'a> {
    let Record { user_id, pod_id, epoch, .. } = record;
    Target { partition, user_id, session_id, pod_id, epoch: Some(epoch) }
}

/// The connection that the holder of a lease has most likely written.
fn held_target<'a>(held: &'a lease::Held, session_id: &'a str) -> Target<'a> {
    Target {
        partition: Partition::of(&held.user_id),
        user_id: &held.user_id,
        session_id,
        pod_id: &held.holder.pod_id,
        epoch: Some(&held.holder.epoch),
    }
}

fn check(session_id: &str) -> Result<(), Fault> {
    let mut violations = Vec::new();
    keys::check_session_key(SESSION_FIELD, session_id, &mut violations);
    refuse(violations)
}

/// Finds a connection that is alive by its id.
fn find(imports: &impl Imports, session_id: &str, only: Only<'_>) -> Result<Found, Fault> {
    let owner = match only.user_id {
        Some(user_id) => Some(user_id.to_owned()),
        None if keys::is_made(session_id) => None,
        None => Some(lease::owner(imports, session_id)?.ok_or_else(not_found)?),
    };
    let partition = match &owner {
        Some(user_id) => Some(Partition::of(user_id)),
        None => keys::partition_of_made(session_id),
    };
    let partition = partition.ok_or_else(not_found)?;
    let user_id = owner.as_deref().unwrap_or_default();
    let (record, now_ms) = look(imports, partition, session_id, user_id)?;
    let record = record.ok_or_else(not_found)?;
    if owner.is_some_and(|user_id| user_id != record.user_id) {
        return Err(expired());
    }
    if only.epoch.is_some_and(|epoch| epoch != record.epoch) {
        return Err(terminated("moved", "MOVED", &record.pod_id));
    }
    match &record.ended {
        Some(ended) if ended.how != How::Expired => {
            return Err(terminated(ended.how.name(), &ended.reason, &ended.by));
        }
        _ if !record.is_alive(now_ms) => return Err(expired()),
        _ => {}
    }
    Ok(Found { partition, record })
}

/// Gives the lease back on the id of a connection that was ended.
fn release(imports: &impl Imports, session_id: &str, record: &Record) -> Result<(), Fault> {
    match keys::is_made(session_id) {
        true => Ok(()),
        false => lease::release(imports, session_id, &record.epoch),
    }
}

/// The connections of a user that are alive.
fn of_user(imports: &impl Imports, user_id: &str) -> Result<Vec<(String, Record)>, Fault> {
    let partition = Partition::of(user_id);
    let connections = partition.connections(user_id);
    let mut transaction = Transaction::new();
    let page = transaction.then.list(connections, Order::SoonestFirst, None, CONNECTIONS_MAX);
    let page = transaction.execute(imports)?.take(page)?;
    let ids: Vec<_> = page.members.iter().map(|member| (user_id, member.name.as_str())).collect();
    alive(imports, partition, &ids)
}

/// Whether a fault says that a connection is not alive.
fn is_over(fault: &Fault) -> bool {
    use Reason::{SessionExpired, SessionNotFound, SessionTerminated};
    is_any(fault, &[SessionNotFound, SessionExpired, SessionTerminated])
}

/// How connections expire: when no heartbeat has come in time.
pub struct Connections;

impl Expiry for Connections {
    fn kind(&self) -> Kind {
        Kind::Connection
    }

    fn live(&self, session: Queued<'_>) -> String {
        session.partition.connections(session.subject)
    }

    fn record(&self, session: Queued<'_>) -> (String, &'static [&'static str]) {
        let Queued { partition, subject, session_id, .. } = session;
        (partition.connection(session_id, subject), &record::FIELDS)
    }

    fn expires_at_ms(&self, _: &Policy, _: Queued<'_>, record: &Hash) -> u64 {
        instant(record, record::ALIVE_UNTIL_FIELD).unwrap_or_default()
    }

    fn require(&self, when: &mut Conditions, session: Queued<'_>, record: Option<&Hash>) {
        // The registration that was read is the one that is marked.
        if let Some(epoch) = record.and_then(|record| text(record, EPOCH_FIELD)) {
            when.field_is(self.record(session).0, EPOCH_FIELD, &epoch);
        }
    }

    fn owns(&self, session: Queued<'_>, record: &Hash) -> bool {
        text(record, USER_FIELD).as_deref() == Some(session.subject)
    }

    fn event(&self) -> Type {
        Type::ConnectionExpired
    }

    fn clean_up(
        &self,
        branch: &mut Branch,
        policy: &Policy,
        session: Queued<'_>,
        record: Option<&Hash>,
    ) {
        if record.is_some() {
            let entries = vec![entry(ENDED_FIELD, How::Expired.name())];
            branch.write(self.record(session).0, entries, policy.connection_ttl_ms);
        }
    }
}
