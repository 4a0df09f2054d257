//! Sessions that end because nothing comes. Nobody makes a transaction when they do, so
//! each is noted, when it begins, in an expiring set of its kind and partition by when it is due.
//! Whoever sweeps looks after those that are: one that lives on is due again when it
//! would end now, and one that does not is told of in the log, in the step that takes it
//! off the set, so that all who sweep tell of it once.

use crate::connections;
use crate::events::{Event, Type};
use crate::fault::{invalid, violation};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::{self, Home, Partition, User};
use crate::maintenance_types::{LogCatalog, Swept, Tally};
use crate::policy::Policy;
use crate::store::{
    Compare, Hash, Member, MemberList, MemberRef, MemberSet, Operation, Order, Reply,
};
use crate::transaction::{execute, read, text, unexpected_replies};
use crate::{users, viewing};

/// How long a session is noted after it was due, for when nobody sweeps.
const NOTED_MS: u64 = 7 * 24 * 3600 * 1000;
/// The most sessions of a kind that one sweep looks after.
const SWEPT_MAX: u32 = 128;
/// The most that one transaction ends; each needs up to three compares.
const BATCH: usize = 21;
/// When to look again after one that began anew while it was told of.
const AGAIN_MS: u64 = 1000;
/// When to look again after what makes no sense.
const STRANGE_MS: u64 = 60 * 1000;

/// The kind of a session that ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A login.
    User,
    /// A connection.
    Connection,
    /// A viewing slot.
    Viewing,
}

impl Kind {
    /// All of them.
    const ALL: [Self; 3] = [Self::User, Self::Connection, Self::Viewing];

    /// What it is called.
    fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Connection => "connection",
            Self::Viewing => "viewing",
        }
    }

    /// The set where its sessions are noted.
    pub fn due(self, partition: Partition) -> String {
        partition.due(self.name())
    }
}

/// What stands before the ids of one subject's sessions where they are noted; no id of a
/// subject has a line break.
pub fn prefix(subject: &str) -> String {
    format!("{subject}\n")
}

/// Notes that a session has to be looked after in so long.
pub fn note(
    partition: Partition,
    kind: Kind,
    subject: &str,
    session_id: &str,
    ttl_ms: u64,
) -> Operation {
    let MemberRef { key, member } = noted(partition, kind, subject, session_id);
    Operation::MemberSet(MemberSet { key, member, ttl_ms: ttl_ms + NOTED_MS })
}

/// A session that is noted.
pub fn noted(partition: Partition, kind: Kind, subject: &str, session_id: &str) -> MemberRef {
    MemberRef { key: kind.due(partition), member: prefix(subject) + session_id }
}

/// Forgets a session that needs no looking after any more.
pub fn forget(partition: Partition, kind: Kind, subject: &str, session_id: &str) -> Operation {
    Operation::MemberRemove(noted(partition, kind, subject, session_id))
}

/// The logs, and what they tell of.
pub fn describe_logs() -> LogCatalog {
    LogCatalog {
        logs: Partition::all().map(Partition::log).collect(),
        born: keys::BORN.into(),
        types: Type::ALL.iter().map(|type_| type_.name().into()).collect(),
    }
}

/// Looks after the sessions of a partition that are due.
///
/// # Errors
/// `invalid-request` when there is no such log; `store-unavailable`.
pub fn sweep(imports: &impl Imports, policy: &Policy, log: u32) -> Result<Swept, Fault> {
    let unknown = || invalid(vec![violation("log", "is none")]);
    let partition = Partition::numbered(log).ok_or_else(unknown)?;
    let listing = |kind: Kind| {
        Operation::MemberList(MemberList {
            key: kind.due(partition),
            order: Order::SoonestFirst,
            after: None,
            limit: SWEPT_MAX,
        })
    };
    let listings = Kind::ALL.into_iter().map(listing).collect();
    let outcome = execute(imports, Vec::new(), listings, Vec::new())?;
    let now_ms = outcome.now_ms;
    let mut left = Vec::with_capacity(Kind::ALL.len());
    let mut due: Vec<(Kind, Member)> = Vec::new();
    let mut more = false;
    for (kind, reply) in Kind::ALL.into_iter().zip(outcome.replies) {
        let Reply::Members(page) = reply else { return Err(unexpected_replies()) };
        left.push(Tally { kind: kind.name().into(), sessions: page.live });
        let is_due = |member: &Member| member.expires_at_ms <= now_ms + NOTED_MS;
        let before = due.len();
        due.extend(page.members.into_iter().take_while(is_due).map(|member| (kind, member)));
        more |= due.len() - before == SWEPT_MAX as usize;
    }
    if due.is_empty() {
        return Ok(Swept { expired: 0, more, left });
    }
    let mut later = Vec::new();
    let mut sessions = Vec::with_capacity(due.len());
    for (kind, member) in &due {
        match member.name.split_once('\n') {
            Some((subject, session_id)) => {
                sessions.push(Session {
                    partition,
                    kind: *kind,
                    subject,
                    session_id,
                    record: None,
                });
            }
            // It may mean something to newer rules.
            None => later.push(renew(kind.due(partition), member.name.clone(), STRANGE_MS)),
        }
    }
    let reads = sessions.iter().map(Session::read).collect();
    let outcome = execute(imports, Vec::new(), reads, Vec::new())?;
    for (session, reply) in sessions.iter_mut().zip(outcome.replies) {
        let Reply::Record(record) = reply else { return Err(unexpected_replies()) };
        session.record = record.filter(|record| session.owns(record));
    }
    let now_ms = outcome.now_ms;
    let (alive, over): (Vec<_>, Vec<_>) =
        sessions.into_iter().partition(|session| session.ends_ms(policy) > now_ms);
    later.extend(alive.iter().map(|session| session.later(session.ends_ms(policy) - now_ms)));
    if !later.is_empty() {
        execute(imports, Vec::new(), later, Vec::new())?;
    }
    let mut expired = 0;
    for batch in over.chunks(BATCH) {
        expired += end(imports, policy, batch)?;
    }
    Ok(Swept { expired, more, left })
}

/// Tells that sessions have ended, those that really have, and how many those are.
fn end(imports: &impl Imports, policy: &Policy, sessions: &[Session<'_>]) -> Result<u32, Fault> {
    let compare = sessions.iter().flat_map(|session| {
        [Compare::MemberPresent(session.noted()), Compare::MemberAbsent(session.place())]
            .into_iter()
            .chain(session.unchanged())
    });
    let told = sessions.iter().flat_map(|session| session.tell(policy));
    let outcome = execute(imports, compare.collect(), told.collect(), Vec::new())?;
    match sessions {
        _ if outcome.succeeded => Ok(sessions.len() as u32),
        [] => Ok(0),
        // Somebody else has told of it, or it began anew.
        [only] => execute(imports, Vec::new(), vec![only.later(AGAIN_MS)], Vec::new()).map(|_| 0),
        several => {
            let (these, those) = several.split_at(several.len() / 2);
            Ok(end(imports, policy, these)? + end(imports, policy, those)?)
        }
    }
}

fn renew(key: String, member: String, ttl_ms: u64) -> Operation {
    Operation::MemberRenew(MemberSet { key, member, ttl_ms: ttl_ms + NOTED_MS })
}

/// A session that is due.
struct Session<'a> {
    partition: Partition,
    kind: Kind,
    subject: &'a str,
    session_id: &'a str,
    record: Option<Hash>,
}

impl Session<'_> {
    fn noted(&self) -> MemberRef {
        noted(self.partition, self.kind, self.subject, self.session_id)
    }

    /// Its place among those that are alive.
    fn place(&self) -> MemberRef {
        let key = match self.kind {
            Kind::User => User::of(self.subject).sessions,
            Kind::Connection => self.partition.connections(self.subject),
            Kind::Viewing => Home::of(self.subject).slots,
        };
        MemberRef { key, member: self.session_id.into() }
    }

    /// Reads what its record says of its end.
    fn read(&self) -> Operation {
        match self.kind {
            Kind::User => {
                // What is no id of one has no record.
                let record = keys::user_session(self.session_id).unwrap_or_default();
                read(record, &[users::USER_FIELD, users::DEVICE_FIELD])
            }
            Kind::Connection => {
                let fields =
                    [connections::USER_FIELD, connections::POD_FIELD, connections::EPOCH_FIELD];
                read(self.partition.connection(self.session_id), &fields)
            }
            Kind::Viewing => {
                read(Home::of(self.subject).session(self.session_id), &[viewing::DEVICE_FIELD])
            }
        }
    }

    /// That the record of a connection is the one that was read: it is marked.
    fn unchanged(&self) -> Option<Compare> {
        let record = self.record.as_ref().filter(|_| self.kind == Kind::Connection)?;
        let epoch = text(record, connections::EPOCH_FIELD)?;
        let test = connections::epoch_is(self.partition, self.session_id, &epoch);
        Some(Compare::FieldEquals(test))
    }

    /// Whether the record is of this very session: another user may have the id of a
    /// connection by now.
    fn owns(&self, record: &Hash) -> bool {
        self.kind != Kind::Connection
            || text(record, connections::USER_FIELD).as_deref() == Some(self.subject)
    }

    /// When it ends unless something comes; 0 when there is nothing left of it.
    fn ends_ms(&self, policy: &Policy) -> u64 {
        let Some(expires_at_ms) = self.record.as_ref().and_then(|record| record.expires_at_ms)
        else {
            return 0;
        };
        match self.kind {
            Kind::User => expires_at_ms,
            Kind::Connection => connections::ends_ms(policy, expires_at_ms),
            Kind::Viewing => expires_at_ms.saturating_sub(viewing::KNOWN_MS),
        }
    }

    /// Has it looked after again in so long, if nobody has forgotten it meanwhile.
    fn later(&self, ttl_ms: u64) -> Operation {
        let MemberRef { key, member } = self.noted();
        renew(key, member, ttl_ms)
    }

    /// Forgets it and tells that it has ended.
    fn tell(&self, policy: &Policy) -> Vec<Operation> {
        let known = |field| self.record.as_ref().and_then(|record| text(record, field));
        let (type_, device, pod) = match self.kind {
            Kind::User => (Type::UserExpired, known(users::DEVICE_FIELD), None),
            Kind::Connection => (Type::ConnectionExpired, None, known(connections::POD_FIELD)),
            Kind::Viewing => (Type::ViewingExpired, known(viewing::DEVICE_FIELD), None),
        };
        let event = Event {
            device_id: device.as_deref().unwrap_or_default(),
            pod_id: pod.as_deref().unwrap_or_default(),
            ..Event::of(type_, self.subject, self.session_id)
        };
        let mut told = vec![
            forget(self.partition, self.kind, self.subject, self.session_id),
            event.append(policy, self.partition),
        ];
        if self.kind == Kind::User {
            told.push(users::order::leave(&User::of(self.subject), self.session_id));
        }
        if self.kind == Kind::Connection && self.record.is_some() {
            told.push(connections::mark_expired(policy, self.partition, self.session_id));
        }
        told
    }
}

#[cfg(test)]
mod tests;
