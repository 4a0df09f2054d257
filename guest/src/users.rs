//! Logins of users. Each session has a record, found by its id alone; a user's ids
//! are the members of an expiring set in the same partition, each with the deadline of
//! its record, so that all of them are counted and closed in one step, and none outlives
//! its session there. A second set has the order in which they are listed.

use crate::events::{Event, Type};
use crate::fault::{at_limit, fault, refuse, violation};
use crate::faults::{Fault, Reason};
use crate::imports::{Durable, Imports};
use crate::keys::{self, User as Keys, check_id};
use crate::maintenance::{self, Kind};
use crate::policy::Policy;
use crate::store::{
    Compare, Copies, Expiry, FieldTest, Hash, HashGet, HashSet, HashStamp, MemberBound,
    MemberClear, MemberRef, MemberSet, Operation, Reply,
};
use crate::transaction::{execute, moment, read, text, unexpected_replies};
use crate::users::attributes::{
    ACCESS_FIELD, CODE_FIELD, EMAIL_FIELD, EXPIRATION_FIELD, REFRESH_FIELD, check, entries,
    take_back,
};
use crate::users_types::{Attributes, Session};

pub use attributes::{DEVICE_FIELD, USER_FIELD};
pub use listing::list;

/// The most sessions of one user.
pub const SESSIONS_MAX: u32 = 20_000;
/// How often at most it is noted that a session was seen.
const SEEN_EVERY_MS: u64 = 60 * 1000;
/// The same as a share of the idle limit.
const SEEN_EVERY_SHARE: u64 = 8;

const CREATED_FIELD: &str = "_created";
const UPDATED_FIELD: &str = "_updated";
const SEEN_FIELD: &str = "_seen";
/// When a session ends however much it is used.
const ENDS_FIELD: &str = "_ends";

/// Begins a session and returns its id.
///
/// # Errors
/// `invalid-request`; `session-limit-reached`; `store-unavailable`.
pub fn create(
    imports: &impl Imports,
    policy: &Policy,
    attributes: &Attributes,
) -> Result<String, Fault> {
    let mut violations = Vec::new();
    match &attributes.user_id {
        None => violations.push(violation(USER_FIELD, "must be given")),
        Some(user_id) => check_id(USER_FIELD, user_id, &mut violations),
    }
    check(attributes, &mut violations);
    refuse(violations)?;
    let user_id = attributes.user_id.as_deref().unwrap_or_default();
    let device_id = attributes.device_id.as_deref().unwrap_or_default();
    let keys = Keys::of(user_id);
    let partition = keys.partition;
    let session_id = keys.session_id(|length| imports.token(length));
    let record = keys.session(&session_id);
    let room = MemberBound { key: keys.sessions.clone(), limit: SESSIONS_MAX };
    let stamp = |field: &str, later_ms| {
        Operation::HashStamp(HashStamp { key: record.clone(), field: field.into(), later_ms })
    };
    let event = |type_, session_id| Event { device_id, ..Event::of(type_, user_id, session_id) };
    let place = order::place(&keys, &session_id);
    let begun = vec![
        Operation::HashSet(HashSet {
            key: record.clone(),
            entries: entries(attributes),
            ttl_ms: Some(first_ttl_ms(policy)),
        }),
        stamp(CREATED_FIELD, 0),
        stamp(ENDS_FIELD, policy.user_session_ttl_ms),
        Operation::MemberSet(MemberSet {
            key: keys.sessions,
            member: session_id.clone(),
            ttl_ms: first_ttl_ms(policy),
        }),
        place,
        maintenance::note(partition, Kind::User, user_id, &session_id, first_ttl_ms(policy)),
        event(Type::UserCreated, &session_id).append(policy, partition),
    ];
    let outcome = execute(imports, vec![Compare::MembersBelow(room)], begun, Vec::new())?;
    if outcome.succeeded {
        return Ok(session_id);
    }
    event(Type::UserLimitReached, "").tell(imports, policy, partition);
    let message = format!("The user has {SESSIONS_MAX} sessions, which is the most.");
    Err(at_limit(message, SESSIONS_MAX))
}

/// Reads a session.
///
/// # Errors
/// `session-not-found`; `store-unavailable`.
pub fn get(imports: &impl Imports, policy: &Policy, session_id: &str) -> Result<Session, Fault> {
    let record = keys::user_session(session_id).ok_or_else(not_found)?;
    let whole = Operation::HashGet(HashGet { key: record.clone(), fields: None });
    let outcome = execute(imports, Vec::new(), vec![whole], Vec::new())?;
    match outcome.replies.into_iter().next() {
        Some(Reply::Record(Some(hash))) => seen(imports, policy, record, &hash, outcome.now_ms),
        Some(Reply::Record(None)) => Err(not_found()),
        _ => Err(unexpected_replies()),
    }
}

/// Changes some attributes of a session that exists, and takes back those named in `clear`.
///
/// # Errors
/// `invalid-request`; `session-not-found`; `session-exists` when it is another
/// user's; `store-unavailable`.
pub fn update(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    mut attributes: Attributes,
    clear: &[String],
) -> Result<Session, Fault> {
    let user_id = attributes.user_id.take();
    let mut violations = Vec::new();
    if let Some(user_id) = &user_id {
        check_id(USER_FIELD, user_id, &mut violations);
    }
    check(&attributes, &mut violations);
    let mut changed = entries(&attributes);
    take_back(clear, &mut changed, &mut violations);
    if changed.is_empty() && clear.is_empty() {
        violations.push(violation("session_attributes", "must have an attribute to change"));
    }
    refuse(violations)?;
    let record = keys::user_session(session_id).ok_or_else(not_found)?;
    let mut compare = vec![Compare::Exists(record.clone())];
    compare.extend(user_id.map(|user_id| is_of(&record, &user_id)));
    let change = vec![
        Operation::HashSet(HashSet { key: record.clone(), entries: changed, ttl_ms: None }),
        Operation::HashStamp(HashStamp {
            key: record.clone(),
            field: UPDATED_FIELD.into(),
            later_ms: 0,
        }),
        Operation::HashGet(HashGet { key: record.clone(), fields: None }),
    ];
    let whose = vec![read(record.as_str(), &[USER_FIELD])];
    let outcome = execute(imports, compare, change, whose)?;
    match (outcome.succeeded, outcome.replies.into_iter().last()) {
        (true, Some(Reply::Record(Some(hash)))) => {
            seen(imports, policy, record, &hash, outcome.now_ms)
        }
        (false, Some(Reply::Record(None))) => Err(not_found()),
        (false, Some(Reply::Record(Some(_)))) => {
            Err(fault(Reason::SessionExists, "The session belongs to another user."))
        }
        _ => Err(unexpected_replies()),
    }
}

/// Closes a session.
///
/// # Errors
/// `session-not-found`; `store-unavailable`.
pub fn close(imports: &impl Imports, policy: &Policy, session_id: &str) -> Result<(), Fault> {
    let imports = &Durable(imports);
    let record = keys::user_session(session_id).ok_or_else(not_found)?;
    let whose = vec![read(record.as_str(), &[USER_FIELD, DEVICE_FIELD])];
    let outcome = execute(imports, Vec::new(), whose, Vec::new())?;
    let [Reply::Record(found)] = &outcome.replies[..] else { return Err(unexpected_replies()) };
    let known = |field| found.as_ref().and_then(|hash| text(hash, field));
    let user_id = known(USER_FIELD).ok_or_else(not_found)?;
    let device_id = known(DEVICE_FIELD).unwrap_or_default();
    let keys = Keys::of(&user_id);
    let event = Event::of(Type::UserClosed, &user_id, session_id);
    let closed = vec![
        Operation::HashDelete(record.clone()),
        order::leave(&keys, session_id),
        Operation::MemberRemove(MemberRef { key: keys.sessions, member: session_id.into() }),
        maintenance::forget(keys.partition, Kind::User, &user_id, session_id),
        Event { device_id: &device_id, ..event }.append(policy, keys.partition),
    ];
    let outcome = execute(imports, vec![Compare::Exists(record)], closed, Vec::new())?;
    if outcome.succeeded { Ok(()) } else { Err(not_found()) }
}

/// Closes all sessions of a user, or all but one, and returns how many.
///
/// # Errors
/// `invalid-request`; `session-not-found` when the one to keep is not one of the
/// user's, and then nothing is closed; `store-unavailable`.
pub fn close_all(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
    keep: Option<String>,
) -> Result<u32, Fault> {
    let imports = &Durable(imports);
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    refuse(violations)?;
    let unknown = || {
        let message = "The session to keep does not exist; nothing was closed.";
        fault(Reason::SessionNotFound, message)
    };
    let mut compare = Vec::new();
    if let Some(keep) = &keep {
        // The record says whose it is, and is gone when the session is idle too long.
        let record = keys::user_session(keep).ok_or_else(unknown)?;
        if !Keys::of(user_id).holds(keep) {
            return Err(unknown());
        }
        compare.push(is_of(&record, user_id));
    }
    let keys = Keys::of(user_id);
    let partition = keys.partition;
    let nobody = Compare::MembersBelow(MemberBound { key: keys.sessions.clone(), limit: 1 });
    let clear_order = order::clear(&keys, keep.clone());
    let clear = Operation::MemberClear(MemberClear {
        record_prefix: Some(keys.session("")),
        key: keys.sessions,
        except: keep.clone(),
        also_in: Some(Copies {
            key: Kind::User.due(partition),
            prefix: maintenance::prefix(user_id),
        }),
    });
    let event = Event::new(Type::UserClosedAll, user_id).append(policy, partition);
    let closed = vec![clear, clear_order.clone(), event];
    // Without any session there is nothing to tell of.
    let outcome = match keep {
        Some(_) => execute(imports, compare, closed, Vec::new())?,
        None => execute(imports, vec![nobody], vec![clear_order], closed)?,
    };
    match (outcome.succeeded, keep, &outcome.replies[..]) {
        (true, Some(_), [Reply::Members(page), ..]) | (false, None, [Reply::Members(page), ..]) => {
            Ok(u32::try_from(page.members.len()).unwrap_or(u32::MAX))
        }
        (true, None, [_]) => Ok(0),
        (false, Some(_), []) => Err(unknown()),
        _ => Err(unexpected_replies()),
    }
}

/// A session that was just read or updated. That it was is noted now and then, and
/// lets it live on when it has an idle limit.
fn seen(
    imports: &impl Imports,
    policy: &Policy,
    record: String,
    hash: &Hash,
    now_ms: u64,
) -> Result<Session, Fault> {
    let session = session(hash);
    let ends_ms = moment(hash, ENDS_FIELD).unwrap_or(u64::MAX);
    // The deadline of the record is reckoned from a moment after this was decided.
    if now_ms >= ends_ms {
        return Err(not_found());
    }
    let session = Session { expires_at_ms: session.expires_at_ms.min(ends_ms), ..session };
    let last_seen_ms = moment(hash, SEEN_FIELD).unwrap_or(session.created_at_ms);
    // What an idle limit of before has left of its life may be less than it has now.
    let due_ms = match policy.user_session_idle_ms {
        0 => ends_ms,
        _ => ends_ms.min(last_seen_ms + idle_ttl_ms(policy)),
    };
    let just_seen = now_ms.saturating_sub(last_seen_ms) < seen_every_ms(policy);
    if just_seen && session.expires_at_ms >= due_ms {
        return Ok(session);
    }
    let stamp = HashStamp { key: record.clone(), field: SEEN_FIELD.into(), later_ms: 0 };
    let mut noted = vec![Operation::HashStamp(stamp)];
    let user_id = session.attributes.user_id.as_deref();
    if let Some(user_id) = user_id.filter(|_| session.expires_at_ms < ends_ms) {
        let left_ms = ends_ms - now_ms;
        let ttl_ms = match policy.user_session_idle_ms {
            0 => left_ms,
            _ => left_ms.min(idle_ttl_ms(policy)),
        };
        noted.push(Operation::MemberSet(MemberSet {
            key: Keys::of(user_id).sessions,
            member: keys::session_of(&record).into(),
            ttl_ms,
        }));
        noted.push(Operation::HashExpire(Expiry { key: record.clone(), ttl_ms }));
    }
    match execute(imports, vec![Compare::Exists(record)], noted, Vec::new()) {
        // It was read; a store that takes no writes now does not change that.
        Err(Fault { reason: Reason::StoreUnavailable | Reason::StoreFull, .. }) => Ok(session),
        Err(fault) => Err(fault),
        Ok(outcome) if !outcome.succeeded => Err(not_found()),
        Ok(outcome) => match outcome.replies.last() {
            Some(Reply::Deadline(Some(expires_at_ms))) => {
                Ok(Session { expires_at_ms: ends_ms.min(*expires_at_ms), ..session })
            }
            _ => Ok(session),
        },
    }
}

fn session(hash: &Hash) -> Session {
    let created_at_ms = moment(hash, CREATED_FIELD).unwrap_or_default();
    let given = |field| text(hash, field);
    Session {
        attributes: Attributes {
            user_id: given(USER_FIELD),
            device_id: given(DEVICE_FIELD),
            auth_code: given(CODE_FIELD),
            access_token: given(ACCESS_FIELD),
            refresh_token: given(REFRESH_FIELD),
            expiration_time: given(EXPIRATION_FIELD).and_then(|text| text.parse().ok()),
            user_email: given(EMAIL_FIELD),
        },
        created_at_ms,
        updated_at_ms: moment(hash, UPDATED_FIELD).unwrap_or(created_at_ms),
        expires_at_ms: hash.expires_at_ms.unwrap_or_default(),
    }
}

/// The record is one of this user's.
fn is_of(record: &str, user_id: &str) -> Compare {
    Compare::FieldEquals(FieldTest {
        key: record.into(),
        field: USER_FIELD.into(),
        value: user_id.into(),
    })
}

fn first_ttl_ms(policy: &Policy) -> u64 {
    match policy.user_session_idle_ms {
        0 => policy.user_session_ttl_ms,
        _ => policy.user_session_ttl_ms.min(idle_ttl_ms(policy)),
    }
}

/// How long a session lives on when it is seen: no use within the idle limit may come
/// too late because the one before was not noted.
fn idle_ttl_ms(policy: &Policy) -> u64 {
    policy.user_session_idle_ms + seen_every_ms(policy)
}

fn seen_every_ms(policy: &Policy) -> u64 {
    match policy.user_session_idle_ms {
        0 => SEEN_EVERY_MS,
        idle_ms => SEEN_EVERY_MS.min(idle_ms / SEEN_EVERY_SHARE),
    }
}

fn not_found() -> Fault {
    fault(Reason::SessionNotFound, "The session does not exist.")
}

mod attributes;
mod listing;
pub mod order;
#[cfg(test)]
mod tests;
