//! The sweep: a pass over the sessions of a partition that are due. It publishes the expiry of
//! those that have ended, and queues the others again. Every host sweeps, yet each expiry is
//! published once.

use crate::connections::Connections;
use crate::events::{Event, Type};
use crate::expiry::{Expiry, OVERDUE_RETENTION_MS, Queued};
use crate::fault::{invalid, violation};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::{self, Partition};
use crate::maintenance_types::{LogCatalog, Swept, Tally};
use crate::policy::Policy;
use crate::store::{Hash, Member, Order};
use crate::transaction::{Branch, Transaction, by_halves, text};
use crate::users::Logins;
use crate::viewing::Slots;

/// The kinds that expire.
const KINDS: [&dyn Expiry; 3] = [&Logins, &Connections, &Slots];
/// The most sessions of a kind that one sweep looks at.
const SWEPT_MAX: u32 = 128;
/// How many sessions one transaction expires; each needs up to three compares.
const BATCH: usize = 21;
/// When to look again at a session that began again before its expiry was published.
const RETRY_MS: u64 = 1000;
/// When to look again at an entry that these rules do not understand.
const UNKNOWN_RETRY_MS: u64 = 60 * 1000;

/// The logs of events, and the types that they hold.
pub fn describe_logs() -> LogCatalog {
    LogCatalog {
        logs: Partition::all().map(Partition::log).collect(),
        baseline: keys::BASELINE.into(),
        types: Type::ALL.iter().map(|type_| type_.name().into()).collect(),
    }
}

/// A session that is due.
struct Due<'a> {
    expiry: &'static dyn Expiry,
    queued: Queued<'a>,
    record: Option<Hash>,
}

/// Sweeps a partition.
///
/// # Errors
/// `INVALID_REQUEST` when there is no such log; `STORE_UNAVAILABLE`.
pub fn sweep(imports: &impl Imports, policy: &Policy, log: u32) -> Result<Swept, Fault> {
    let unknown = || invalid(vec![violation("log", "does not exist")]);
    let partition = Partition::numbered(log).ok_or_else(unknown)?;
    let Queues { left, due, more } = Queues::read(imports, partition)?;
    if due.is_empty() {
        return Ok(Swept { expired: 0, more, left });
    }
    let mut postponed = Transaction::new();
    let mut sessions = Vec::with_capacity(due.len());
    for (expiry, member) in &due {
        match Queued::of_member(partition, expiry.kind(), member) {
            Some(queued) => sessions.push(Due { expiry: *expiry, queued, record: None }),
            // Newer rules may understand it.
            None => {
                let ttl_ms = UNKNOWN_RETRY_MS + OVERDUE_RETENTION_MS;
                postponed.then.renew(expiry.kind().queue(partition), member.as_str(), ttl_ms);
            }
        }
    }
    let now_ms = read_records(imports, &mut sessions)?;
    let (alive, over): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|session| session.expires_at_ms(policy) > now_ms);
    for session in &alive {
        session.queued.postpone(&mut postponed.then, session.expires_at_ms(policy) - now_ms);
    }
    if !postponed.then.is_empty() {
        postponed.execute(imports)?;
    }
    Ok(Swept { expired: expire(imports, policy, &over)?, more, left })
}

/// The contents of the expiry queues of a partition.
struct Queues {
    /// How many sessions of each kind there are.
    left: Vec<Tally>,
    /// Those that are due.
    due: Vec<(&'static dyn Expiry, String)>,
    /// Whether there may be more of them.
    more: bool,
}

impl Queues {
    fn read(imports: &impl Imports, partition: Partition) -> Result<Self, Fault> {
        let mut transaction = Transaction::new();
        let pages = KINDS.map(|expiry| {
            let queue = expiry.kind().queue(partition);
            transaction.then.list(queue, Order::SoonestFirst, None, SWEPT_MAX)
        });
        let mut done = transaction.execute(imports)?;
        let due_until_ms = done.now_ms + OVERDUE_RETENTION_MS;
        let mut queues =
            Self { left: Vec::with_capacity(KINDS.len()), due: Vec::new(), more: false };
        for (expiry, page) in KINDS.into_iter().zip(pages) {
            let page = done.take(page)?;
            queues.left.push(Tally { kind: expiry.kind().name().into(), sessions: page.live });
            let is_due = |member: &Member| member.expires_at_ms <= due_until_ms;
            let before = queues.due.len();
            let members = page.members.into_iter().take_while(is_due);
            queues.due.extend(members.map(|member| (expiry, member.name)));
            queues.more |= queues.due.len() - before == SWEPT_MAX as usize;
        }
        Ok(queues)
    }
}

/// Reads the records of sessions, and the store's clock.
fn read_records(imports: &impl Imports, sessions: &mut [Due<'_>]) -> Result<u64, Fault> {
    let mut transaction = Transaction::new();
    let records: Vec<_> = sessions
        .iter()
        .map(|session| {
            let (key, fields) = session.expiry.record(session.queued);
            transaction.then.read(key, fields)
        })
        .collect();
    if records.is_empty() {
        return Ok(0);
    }
    let mut done = transaction.execute(imports)?;
    for (session, record) in sessions.iter_mut().zip(records) {
        let record = done.take(record)?;
        session.record = record.filter(|record| session.expiry.owns(session.queued, record));
    }
    Ok(done.now_ms)
}

/// Expires the sessions that have ended for certain, and returns how many.
fn expire(imports: &impl Imports, policy: &Policy, sessions: &[Due<'_>]) -> Result<u32, Fault> {
    let mut expired = 0;
    by_halves(sessions, BATCH, |_, batch| {
        let mut transaction = Transaction::new();
        for Due { expiry, queued, record } in batch {
            queued.require(&mut transaction.when);
            transaction.when.no_member(expiry.live(*queued), queued.session_id);
            expiry.require(&mut transaction.when, *queued, record.as_ref());
            queued.dequeue(&mut transaction.then);
            publish(&mut transaction.then, policy, *expiry, *queued, record.as_ref());
            expiry.clean_up(&mut transaction.then, policy, *queued, record.as_ref());
        }
        let succeeded = transaction.execute(imports)?.succeeded;
        match batch {
            _ if succeeded => expired += batch.len() as u32,
            // Another host has published it, or the session has begun again.
            [only] => {
                let mut transaction = Transaction::new();
                only.queued.postpone(&mut transaction.then, RETRY_MS);
                transaction.execute(imports)?;
            }
            _ => {}
        }
        Ok(succeeded)
    })?;
    Ok(expired)
}

/// Publishes the expiry of a session, with the device or the pod that its record names.
fn publish(
    branch: &mut Branch,
    policy: &Policy,
    expiry: &dyn Expiry,
    session: Queued<'_>,
    record: Option<&Hash>,
) {
    let field_text = |field| record.and_then(|record| text(record, field)).unwrap_or_default();
    let (device_id, pod_id) = (field_text("device_id"), field_text("pod_id"));
    let event = Event::of(expiry.event(), session.subject, session.session_id);
    Event { device_id: &device_id, pod_id: &pod_id, ..event }.publish(
        branch,
        policy,
        session.partition,
    );
}

impl Due<'_> {
    /// When it expires without a use or a heartbeat; 0 when it has no record.
    fn expires_at_ms(&self, policy: &Policy) -> u64 {
        let expires_at_ms = |record| self.expiry.expires_at_ms(policy, self.queued, record);
        self.record.as_ref().map_or(0, expires_at_ms)
    }
}

#[cfg(test)]
mod tests;
