//! Registering a connection, and whose an id is that several ask for.

use super::change::{Target, end, epoch_is, pod_member, user_member};
use super::record::{Ending, How, Record};
use super::{
    ATTEMPTS, CONNECTED_FIELD, CONNECTIONS_MAX, EPOCH_FIELD, FIELDS, LOCATED_FIELD, POD_FIELD,
    SESSION_FIELD, USER_FIELD, exists, listing, locator, look, restless, terminated,
};
use crate::connections_types::Connection;
use crate::events::{Event, Type};
use crate::fault::{at_limit, invalid, quote, refuse, violation};
use crate::faults::{Fault, Reason, Violation};
use crate::imports::Imports;
use crate::keys::{self, Partition, check_id};
use crate::maintenance::{self, Kind};
use crate::policy::Policy;
use crate::store::{
    Compare, Expiry, FieldTest, HashSet, HashStamp, MemberBound, MemberRef, MemberSet, Operation,
    Reply,
};
use crate::transaction::{entry, execute, read, text, unexpected_replies};

/// The length of an epoch and of a claim.
const EPOCH_CHARACTERS: u32 = 16;
/// What no connection is called, as it is what a route is called.
const RESERVED: &str = "stats";
/// How a connection ends whose id another user has got.
const TAKEN_OVER: Ending<'static> =
    Ending { how: How::Closed, reason: "another has registered the id", by: "" };
/// Who has claimed an id; changes with its user.
pub const CLAIM_FIELD: &str = "claim";
/// Changes each time that a connection was registered under the id.
const SEAL_FIELD: &str = "seal";

/// Registers a connection; the same one again moves it to the pod.
///
/// # Errors
/// `invalid-request`; `session-exists` when the id is another user's;
/// `session-terminated` when the connection was ended by somebody;
/// `session-limit-reached`; `store-unavailable`.
pub fn register(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
    pod_id: &str,
    session_id: Option<String>,
) -> Result<Connection, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    check_id(POD_FIELD, pod_id, &mut violations);
    if let Some(session_id) = &session_id {
        check_session_id(SESSION_FIELD, session_id, &mut violations);
    }
    refuse(violations)?;
    let partition = Partition::of(user_id);
    let Some(session_id) = session_id else {
        let session_id = keys::connection_id(partition, |length| imports.token(length));
        let place = Place { partition, user_id, pod_id, session_id: &session_id };
        return write(imports, policy, &place, (None, 0));
    };
    let place = Place { partition, user_id, pod_id, session_id: &session_id };
    if keys::is_made(&session_id) {
        let Some(named) = keys::partition_of_made(&session_id) else {
            let why = "begins with ~ and is none that was made here";
            return Err(invalid(vec![violation(SESSION_FIELD, why)]));
        };
        if named != partition {
            let (record, _) = look(imports, named, &session_id)?;
            return Err(match record {
                Some(_) => exists(),
                None => invalid(vec![violation(SESSION_FIELD, "was not made for this user")]),
            });
        }
        let found = look(imports, partition, &session_id)?;
        return write(imports, policy, &place, found);
    }
    register_chosen(imports, policy, &place)
}

/// Registers a connection under an id that somebody has chosen.
fn register_chosen(
    imports: &impl Imports,
    policy: &Policy,
    place: &Place<'_>,
) -> Result<Connection, Fault> {
    let mut found = look(imports, place.partition, place.session_id)?;
    // Whoever is refused anyhow leaves the id to others.
    match Before::of(found.0.as_ref(), place, policy, found.1) {
        Err(fault) if fault.reason == Reason::SessionTerminated => return Err(fault),
        _ => {}
    }
    let mut claim = claim(imports, policy, place)?;
    for _ in 0..ATTEMPTS {
        let connection = write_claimed(imports, policy, place, &mut claim, found)?;
        match confirm(imports, policy, place, &claim)? {
            Holder::Us => return Ok(connection),
            // What was written before that claim may still be ended by whoever lost the
            // id to it, so it is written again.
            Holder::OurUser(theirs) => claim = theirs,
            Holder::Another => {
                let lost = Target::of(place.partition, &connection);
                end(imports, policy, &[lost], &TAKEN_OVER)?;
                return Err(exists());
            }
        }
        found = look(imports, place.partition, place.session_id)?;
    }
    Err(restless())
}

/// Writes a connection whose id is claimed.
fn write_claimed(
    imports: &impl Imports,
    policy: &Policy,
    place: &Place<'_>,
    claim: &mut String,
    found: (Option<Record>, u64),
) -> Result<Connection, Fault> {
    let mut written = write(imports, policy, place, found);
    for _ in 0..ATTEMPTS {
        if !matches!(&written, Err(fault) if fault.reason == Reason::SessionExists) {
            break;
        }
        // Somebody from whom the id was taken over has written before he found that out.
        give_way(imports, policy, place, claim)?;
        let found = look(imports, place.partition, place.session_id)?;
        written = write(imports, policy, place, found);
    }
    written
}

/// Ends the connection that another user of the partition has under an id whose claim is
/// ours, as he would himself in a moment. It is looked at before the claim is: whoever
/// takes the id over from us claims it first, so what he writes later is another one.
fn give_way(
    imports: &impl Imports,
    policy: &Policy,
    place: &Place<'_>,
    claim: &mut String,
) -> Result<(), Fault> {
    let (record, now_ms) = look(imports, place.partition, place.session_id)?;
    match holder(imports, place, claim, Vec::new())? {
        Holder::Us => {}
        Holder::OurUser(theirs) => *claim = theirs,
        Holder::Another => return Err(exists()),
    }
    let is_theirs =
        |record: &Record| record.user_id != place.user_id && record.is_alive(policy, now_ms);
    let Some(theirs) = record.filter(is_theirs) else {
        // He has found out meanwhile.
        return Ok(());
    };
    let connection = theirs.connection(policy, place.session_id.into());
    end(imports, policy, &[Target::of(place.partition, &connection)], &TAKEN_OVER).map(drop)
}

/// Who has claimed an id.
enum Holder {
    Us,
    /// Another request of our user, so.
    OurUser(String),
    /// Another user, or nobody.
    Another,
}

/// Has the claim be final when it still is: whoever wants to take the id over looks anew.
fn confirm(
    imports: &impl Imports,
    policy: &Policy,
    place: &Place<'_>,
    claim: &str,
) -> Result<Holder, Fault> {
    let sealed = Operation::HashSet(HashSet {
        key: keys::connection_of(place.session_id),
        entries: vec![entry(SEAL_FIELD, &imports.token(EPOCH_CHARACTERS))],
        ttl_ms: Some(locator::kept_ms(policy)),
    });
    holder(imports, place, claim, vec![sealed])
}

/// Looks who has claimed the id, and does this if it is us.
fn holder(
    imports: &impl Imports,
    place: &Place<'_>,
    claim: &str,
    then: Vec<Operation>,
) -> Result<Holder, Fault> {
    let test = located(place.session_id, CLAIM_FIELD, claim);
    let whose = read(test.key.as_str(), &[USER_FIELD, CLAIM_FIELD]);
    let outcome = execute(imports, vec![Compare::FieldEquals(test)], then, vec![whose])?;
    if outcome.succeeded {
        return Ok(Holder::Us);
    }
    let [Reply::Record(locator)] = &outcome.replies[..] else { return Err(unexpected_replies()) };
    let Some(locator) = locator else { return Ok(Holder::Another) };
    Ok(match (text(locator, USER_FIELD), text(locator, CLAIM_FIELD)) {
        (Some(user_id), Some(claim)) if user_id == place.user_id => Holder::OurUser(claim),
        _ => Holder::Another,
    })
}

/// Where a connection is to be registered.
struct Place<'a> {
    partition: Partition,
    user_id: &'a str,
    pod_id: &'a str,
    session_id: &'a str,
}

impl Place<'_> {
    /// The connection as one of its user's.
    fn of_user(&self) -> MemberRef {
        user_member(self.partition, self.user_id, self.session_id)
    }
}

/// Has an id that somebody has chosen belong to the user, and returns the claim: requests
/// of one user share it.
fn claim(imports: &impl Imports, policy: &Policy, place: &Place<'_>) -> Result<String, Fault> {
    let key = keys::connection_of(place.session_id);
    let ttl_ms = locator::kept_ms(policy);
    let mine = |claim: &str| {
        Operation::HashSet(HashSet {
            key: key.clone(),
            entries: vec![entry(USER_FIELD, place.user_id), entry(CLAIM_FIELD, claim)],
            ttl_ms: Some(ttl_ms),
        })
    };
    for _ in 0..ATTEMPTS {
        let claim = imports.token(EPOCH_CHARACTERS);
        let free = vec![Compare::Absent(key.clone())];
        let whose = vec![
            read(key.as_str(), &[USER_FIELD, CLAIM_FIELD, SEAL_FIELD]),
            // It shall be there still when it is confirmed.
            Operation::HashExpire(Expiry { key: key.clone(), ttl_ms }),
        ];
        let outcome = execute(imports, free, vec![mine(&claim)], whose)?;
        if outcome.succeeded {
            return Ok(claim);
        }
        let [Reply::Record(Some(locator)), ..] = &outcome.replies[..] else { continue };
        let (Some(user_id), Some(theirs)) = (text(locator, USER_FIELD), text(locator, CLAIM_FIELD))
        else {
            return Err(unexpected_replies());
        };
        if user_id == place.user_id {
            return Ok(theirs);
        }
        let (record, now_ms) = look(imports, Partition::of(&user_id), place.session_id)?;
        let alive = |record: &Record| record.user_id == user_id && record.is_alive(policy, now_ms);
        if record.as_ref().is_some_and(alive) {
            return Err(exists());
        }
        // And not confirmed meanwhile.
        let seal = text(locator, SEAL_FIELD).unwrap_or_default();
        let unchanged = vec![
            Compare::FieldEquals(located(place.session_id, CLAIM_FIELD, &theirs)),
            Compare::FieldEqualsOrAbsent(located(place.session_id, SEAL_FIELD, &seal)),
        ];
        if execute(imports, unchanged, vec![mine(&claim)], Vec::new())?.succeeded {
            return Ok(claim);
        }
    }
    Err(restless())
}

/// The locator of an id says this.
fn located(session_id: &str, field: &str, value: &str) -> FieldTest {
    FieldTest { key: keys::connection_of(session_id), field: field.into(), value: value.into() }
}

/// Writes a connection, of which this was read before, and when.
fn write(
    imports: &impl Imports,
    policy: &Policy,
    place: &Place<'_>,
    (mut record, mut now_ms): (Option<Record>, u64),
) -> Result<Connection, Fault> {
    let Place { partition, user_id, session_id, .. } = *place;
    let mut before = Before::of(record.as_ref(), place, policy, now_ms)?;
    for _ in 0..ATTEMPTS {
        let epoch = imports.token(EPOCH_CHARACTERS);
        let compare = before.still(place, record.as_ref());
        let success = before.replace(policy, place, record.as_ref(), &epoch);
        let failure = vec![
            read(partition.connection(session_id), &FIELDS),
            listing(partition.connections(user_id), None, 0),
        ];
        let outcome = execute(imports, compare, success, failure)?;
        if outcome.succeeded {
            return Ok(Connection {
                user_id: user_id.into(),
                session_id: session_id.into(),
                pod_id: place.pod_id.into(),
                connected_at_ms: outcome.now_ms,
                last_heartbeat_at_ms: outcome.now_ms,
                expires_at_ms: outcome.now_ms + policy.connection_stale_ms,
                epoch,
            });
        }
        let [Reply::Record(hash), Reply::Members(page)] = &outcome.replies[..] else {
            return Err(unexpected_replies());
        };
        let present = hash.as_ref().and_then(Record::of);
        let epochs = [&present, &record].map(|of| of.as_ref().map(|known| &known.epoch));
        let unchanged = epochs[0] == epochs[1];
        if unchanged && !matches!(before, Before::Alive) && page.live >= CONNECTIONS_MAX {
            return Err(limit_reached(imports, policy, place));
        }
        (record, now_ms) = (present, outcome.now_ms);
        let told = Before::of(record.as_ref(), place, policy, now_ms)?;
        before = if unchanged { before.otherwise() } else { told };
    }
    Err(restless())
}

/// What there was of a connection before it is registered.
enum Before {
    /// It is alive, and moves.
    Alive,
    /// There is none. When one of the user is still noted that has ended by itself,
    /// nobody has told of its end.
    Over { noted: bool },
}

impl Before {
    fn of(
        record: Option<&Record>,
        place: &Place<'_>,
        policy: &Policy,
        now_ms: u64,
    ) -> Result<Self, Fault> {
        let Some(record) = record else { return Ok(Self::Over { noted: false }) };
        let same_user = record.user_id == place.user_id;
        // An id that was made is nobody else's, whatever became of the connection.
        if !same_user && keys::is_made(place.session_id) {
            return Err(exists());
        }
        match &record.ended {
            Some((how @ How::Terminated, reason, by)) if same_user => {
                Err(terminated(how.name(), reason, by))
            }
            Some(_) => Ok(Self::Over { noted: false }),
            None if record.is_alive(policy, now_ms) && same_user => Ok(Self::Alive),
            None if record.is_alive(policy, now_ms) => Err(exists()),
            // Of another's, whoever sweeps tells.
            None => Ok(Self::Over { noted: same_user }),
        }
    }

    /// What it is when the record does not tell: it may not say that an end is noted, and
    /// it was perhaps written when a lifetime was another one.
    fn otherwise(self) -> Self {
        match self {
            Self::Over { noted: false } => Self::Over { noted: true },
            Self::Over { noted: true } => Self::Alive,
            Self::Alive => Self::Over { noted: false },
        }
    }

    /// What has to hold still.
    fn still(&self, place: &Place<'_>, record: Option<&Record>) -> Vec<Compare> {
        let Place { partition, user_id, session_id, .. } = *place;
        let epoch = |epoch| epoch_is(partition, session_id, epoch);
        let mut compare = vec![match record {
            // No epoch is empty.
            None => Compare::FieldEqualsOrAbsent(epoch("")),
            Some(record) => Compare::FieldEquals(epoch(&record.epoch)),
        }];
        match self {
            Self::Alive => compare.push(Compare::MemberPresent(place.of_user())),
            Self::Over { noted } => {
                let note = maintenance::noted(partition, Kind::Connection, user_id, session_id);
                let key = partition.connections(user_id);
                compare.extend([
                    if *noted { Compare::MemberPresent(note) } else { Compare::MemberAbsent(note) },
                    Compare::MemberAbsent(place.of_user()),
                    Compare::MembersBelow(MemberBound { key, limit: CONNECTIONS_MAX }),
                ]);
            }
        }
        compare
    }

    /// What takes the place of it.
    fn replace(
        &self,
        policy: &Policy,
        place: &Place<'_>,
        record: Option<&Record>,
        epoch: &str,
    ) -> Vec<Operation> {
        let Place { partition, user_id, pod_id, session_id } = *place;
        let key = partition.connection(session_id);
        let event = |type_, pod_id: &str| {
            Event { pod_id, ..Event::of(type_, user_id, session_id) }.append(policy, partition)
        };
        let before = record.filter(|record| record.user_id == user_id);
        let before_on = before.map_or("", |record| &record.pod_id);
        let mut operations = Vec::with_capacity(10);
        match self {
            Self::Alive if before_on != pod_id => {
                operations.push(Operation::MemberRemove(MemberRef {
                    key: partition.pod(before_on),
                    member: pod_member(user_id, session_id),
                }));
            }
            Self::Over { noted: true } => {
                operations.push(event(Type::ConnectionExpired, before_on));
            }
            _ => {}
        }
        operations.push(Operation::HashDelete(key.clone()));
        operations.push(Operation::HashSet(HashSet {
            key: key.clone(),
            entries: vec![
                entry(USER_FIELD, user_id),
                entry(SESSION_FIELD, session_id),
                entry(POD_FIELD, pod_id),
                entry(EPOCH_FIELD, epoch),
            ],
            ttl_ms: Some(policy.connection_ttl_ms),
        }));
        let stamp = |field: &str| {
            Operation::HashStamp(HashStamp { key: key.clone(), field: field.into(), later_ms: 0 })
        };
        operations.push(stamp(CONNECTED_FIELD));
        if !keys::is_made(session_id) {
            operations.push(stamp(LOCATED_FIELD));
        }
        let alive = |key, member| {
            let ttl_ms = policy.connection_stale_ms;
            Operation::MemberSet(MemberSet { key, member, ttl_ms })
        };
        operations.push(alive(partition.connections(user_id), session_id.into()));
        operations.push(alive(partition.pod(pod_id), pod_member(user_id, session_id)));
        operations.push(alive(partition.pods(), pod_id.into()));
        let ttl_ms = policy.connection_stale_ms;
        let kind = Kind::Connection;
        operations.push(maintenance::note(partition, kind, user_id, session_id, ttl_ms));
        let type_ = match self {
            Self::Alive => Type::ConnectionMoved,
            Self::Over { .. } => Type::ConnectionCreated,
        };
        operations.push(event(type_, pod_id));
        operations
    }
}

fn check_session_id(field: &str, session_id: &str, violations: &mut Vec<Violation>) {
    keys::check_session_key(field, session_id, violations);
    if session_id == RESERVED {
        violations.push(violation(field, format!("must not be {}", quote(RESERVED))));
    }
}

fn limit_reached(imports: &impl Imports, policy: &Policy, place: &Place<'_>) -> Fault {
    let event =
        Event { pod_id: place.pod_id, ..Event::new(Type::ConnectionLimitReached, place.user_id) };
    event.tell(imports, policy, place.partition);
    let message = format!("The user has {CONNECTIONS_MAX} connections, which is the most.");
    at_limit(message, CONNECTIONS_MAX)
}
