//! Logins of users. Each session has a record, found by its id alone. A user's ids are the
//! members of an expiring set in the same partition, each with the deadline of its record.
//! So all of them are counted and closed in one step, and no member outlives its session. A
//! second set has the order in which they are listed.

use crate::events::{Event, Type};
use crate::expiry::{self, Expiry, Kind, Queued};
use crate::fault::{Reason, at_limit, fault, is_any, refuse, violation};
use crate::faults::Fault;
use crate::imports::{Durable, Imports};
use crate::keys::{self, Partition, User as Keys, check_id};
use crate::policy::Policy;
use crate::store::{Copies, Hash};
use crate::transaction::{
    Branch, Handle, Page, Transaction, instant, read, text, unexpected_replies,
};
use crate::users::attributes::{
    ACCESS_FIELD, CODE_FIELD, CREATED_FIELD, EMAIL_FIELD, ENDS_FIELD, EXPIRATION_FIELD,
    REFRESH_FIELD, SEEN_FIELD, UPDATED_FIELD, check, entries, take_back,
};
use crate::users_types::{Attributes, Session};

pub use attributes::{DEVICE_FIELD, USER_FIELD};
pub use listing::list;

/// The most sessions of one user.
pub const SESSIONS_MAX: u32 = 20_000;
/// The least time between two writes of when a session was last seen.
const SEEN_EVERY_MS: u64 = 60 * 1000;
/// The same time as a share of the idle limit.
const SEEN_EVERY_SHARE: u64 = 8;

/// Begins a session and returns its id.
///
/// # Errors
/// `INVALID_REQUEST`; `SESSION_LIMIT_REACHED`; `STORE_UNAVAILABLE`.
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
    let ttl_ms = first_ttl_ms(policy);
    let event = |type_, session_id| Event { device_id, ..Event::of(type_, user_id, session_id) };
    let mut transaction = Transaction::new();
    transaction.when.members_below(keys.sessions.as_str(), SESSIONS_MAX);
    let begin = &mut transaction.then;
    begin.write(record.as_str(), entries(attributes), ttl_ms);
    begin.stamp(record.as_str(), CREATED_FIELD, 0);
    begin.stamp(record, ENDS_FIELD, policy.user_session_ttl_ms);
    begin.put(keys.sessions.as_str(), session_id.as_str(), ttl_ms);
    order::insert(begin, &keys, &session_id);
    queued(partition, user_id, &session_id).enqueue(begin, ttl_ms);
    event(Type::UserCreated, &session_id).publish(begin, policy, partition);
    if transaction.execute(imports)?.succeeded {
        return Ok(session_id);
    }
    event(Type::UserLimitReached, "").publish_alone(imports, policy, partition);
    let message = format!("The user has {SESSIONS_MAX} sessions, which is the most.");
    Err(at_limit(message, SESSIONS_MAX))
}

/// Reads a session.
///
/// # Errors
/// `SESSION_NOT_FOUND`; `STORE_UNAVAILABLE`.
pub fn get(imports: &impl Imports, policy: &Policy, session_id: &str) -> Result<Session, Fault> {
    let record = keys::user_session(session_id).ok_or_else(not_found)?;
    let mut transaction = Transaction::new();
    let hash = transaction.then.read_whole(record.as_str());
    let mut done = transaction.execute(imports)?;
    let hash = done.take(hash)?.ok_or_else(not_found)?;
    seen(imports, policy, &record, &hash, done.now_ms)
}

/// Changes some attributes of a session that exists, and removes those named in `clear`.
///
/// # Errors
/// `INVALID_REQUEST`; `SESSION_NOT_FOUND`; `SESSION_EXISTS` when it is another
/// user's; `STORE_UNAVAILABLE`.
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
    let mut transaction = Transaction::new();
    transaction.when.exists(record.as_str());
    if let Some(user_id) = &user_id {
        transaction.when.field_is(record.as_str(), USER_FIELD, user_id);
    }
    transaction.then.update(record.as_str(), changed);
    transaction.then.stamp(record.as_str(), UPDATED_FIELD, 0);
    let updated = transaction.then.read_whole(record.as_str());
    let another = transaction.otherwise.read(record.as_str(), &[USER_FIELD]);
    let mut done = transaction.execute(imports)?;
    if done.succeeded {
        let hash = done.take(updated)?.ok_or_else(unexpected_replies)?;
        return seen(imports, policy, &record, &hash, done.now_ms);
    }
    Err(match done.take(another)? {
        None => not_found(),
        Some(_) => fault(Reason::SessionExists, "The session belongs to another user."),
    })
}

/// Closes a session.
///
/// # Errors
/// `SESSION_NOT_FOUND`; `STORE_UNAVAILABLE`.
pub fn close(imports: &impl Imports, policy: &Policy, session_id: &str) -> Result<(), Fault> {
    let imports = &Durable(imports);
    let record = keys::user_session(session_id).ok_or_else(not_found)?;
    let (found, _) = read(imports, record.as_str(), &[USER_FIELD, DEVICE_FIELD])?;
    let field_text = |field| found.as_ref().and_then(|hash| text(hash, field));
    let user_id = field_text(USER_FIELD).ok_or_else(not_found)?;
    let device_id = field_text(DEVICE_FIELD).unwrap_or_default();
    let keys = Keys::of(&user_id);
    let event = Event::of(Type::UserClosed, &user_id, session_id);
    let mut transaction = Transaction::new();
    transaction.when.exists(record.as_str());
    let close = &mut transaction.then;
    close.delete(record);
    order::remove(close, &keys, session_id);
    close.remove(keys.sessions, session_id);
    queued(keys.partition, &user_id, session_id).dequeue(close);
    Event { device_id: &device_id, ..event }.publish(close, policy, keys.partition);
    if transaction.execute(imports)?.succeeded { Ok(()) } else { Err(not_found()) }
}

/// Closes all sessions of a user, or all but one, and returns how many.
///
/// # Errors
/// `INVALID_REQUEST`; `SESSION_NOT_FOUND` when the one to keep is not one of the
/// user's, and then nothing is closed; `STORE_UNAVAILABLE`.
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
    let keys = Keys::of(user_id);
    let mut transaction = Transaction::new();
    let Some(keep) = keep else {
        // Without any session nothing is published.
        transaction.when.members_below(keys.sessions.as_str(), 1);
        order::clear(&mut transaction.then, &keys, None);
        let closed = clear(&mut transaction.otherwise, policy, &keys, user_id, None);
        let mut done = transaction.execute(imports)?;
        return if done.succeeded { Ok(0) } else { Ok(count(&done.take(closed)?)) };
    };
    // The record says whose it is, and is gone when the session is idle too long.
    let record = keys::user_session(&keep).filter(|_| keys.holds(&keep)).ok_or_else(unknown)?;
    transaction.when.field_is(record, USER_FIELD, user_id);
    let closed = clear(&mut transaction.then, policy, &keys, user_id, Some(keep));
    let mut done = transaction.execute(imports)?;
    if done.succeeded { Ok(count(&done.take(closed)?)) } else { Err(unknown()) }
}

/// Removes all sessions of a user, or all but one, and publishes that.
fn clear(
    branch: &mut Branch,
    policy: &Policy,
    keys: &Keys,
    user_id: &str,
    except: Option<String>,
) -> Handle<Page> {
    let queue = Kind::User.queue(keys.partition);
    let also_in = Some(Copies { key: queue, prefix: expiry::prefix(user_id) });
    let records = Some(keys.session(""));
    let closed = branch.clear(keys.sessions.as_str(), except.clone(), records, also_in);
    order::clear(branch, keys, except);
    Event::new(Type::UserClosedAll, user_id).publish(branch, policy, keys.partition);
    closed
}

fn count(closed: &Page) -> u32 {
    u32::try_from(closed.members.len()).unwrap_or(u32::MAX)
}

/// A session in the expiry queue.
fn queued<'a>(partition: Partition, user_id: &'a str, session_id: &'a str) -> Queued<'a> {
    Queued { partition, kind: Kind::User, subject: user_id, session_id }
}

/// How logins expire: with their record, which each use may postpone.
pub struct Logins;

impl Expiry for Logins {
    fn kind(&self) -> Kind {
        Kind::User
    }

    fn live(&self, session: Queued<'_>) -> String {
        Keys::of(session.subject).sessions
    }

    fn record(&self, session: Queued<'_>) -> (String, &'static [&'static str]) {
        // An id of another form has no record.
        let record = keys::user_session(session.session_id);
        let nowhere = || Keys::of(session.subject).session("");
        (record.unwrap_or_else(nowhere), &[USER_FIELD, DEVICE_FIELD])
    }

    fn expires_at_ms(&self, _: &Policy, _: Queued<'_>, record: &Hash) -> u64 {
        record.expires_at_ms.unwrap_or_default()
    }

    fn event(&self) -> Type {
        Type::UserExpired
    }

    fn clean_up(&self, branch: &mut Branch, _: &Policy, session: Queued<'_>, _: Option<&Hash>) {
        order::remove(branch, &Keys::of(session.subject), session.session_id);
    }
}

/// A session that was just read or updated. At intervals this writes when it was last seen,
/// and renews a session that has an idle limit.
fn seen(
    imports: &impl Imports,
    policy: &Policy,
    record: &str,
    hash: &Hash,
    now_ms: u64,
) -> Result<Session, Fault> {
    let session = session(hash);
    let ends_ms = instant(hash, ENDS_FIELD).unwrap_or(u64::MAX);
    // The deadline of the record counts from a moment after the end was decided, so the record
    // may outlive the session.
    if now_ms >= ends_ms {
        return Err(not_found());
    }
    let session = Session { expires_at_ms: session.expires_at_ms.min(ends_ms), ..session };
    let last_seen_ms = instant(hash, SEEN_FIELD).unwrap_or(session.created_at_ms);
    // The record may end earlier than the present idle limit allows, if the limit was shorter.
    let due_ms = match policy.user_session_idle_ms {
        0 => ends_ms,
        _ => ends_ms.min(last_seen_ms + idle_ttl_ms(policy)),
    };
    let just_seen = now_ms.saturating_sub(last_seen_ms) < seen_every_ms(policy);
    if just_seen && session.expires_at_ms >= due_ms {
        return Ok(session);
    }
    let mut transaction = Transaction::new();
    transaction.when.exists(record);
    transaction.then.stamp(record, SEEN_FIELD, 0);
    let user_id = session.attributes.user_id.as_deref();
    let postponed = user_id.filter(|_| session.expires_at_ms < ends_ms).map(|user_id| {
        let left_ms = ends_ms - now_ms;
        let ttl_ms = match policy.user_session_idle_ms {
            0 => left_ms,
            _ => left_ms.min(idle_ttl_ms(policy)),
        };
        let session_id = keys::session_of(record);
        transaction.then.put(Keys::of(user_id).sessions, session_id, ttl_ms);
        transaction.then.expire(record, ttl_ms)
    });
    let mut done = match transaction.execute(imports) {
        // The read succeeded, even if the store takes no writes now.
        Err(fault) if is_any(&fault, &[Reason::StoreUnavailable, Reason::StoreFull]) => {
            return Ok(session);
        }
        done => done?,
    };
    if !done.succeeded {
        return Err(not_found());
    }
    let Some(postponed) = postponed else { return Ok(session) };
    let expires_at_ms = done.take(postponed)?.unwrap_or(session.expires_at_ms);
    Ok(Session { expires_at_ms: ends_ms.min(expires_at_ms), ..session })
}

fn session(hash: &Hash) -> Session {
    let created_at_ms = instant(hash, CREATED_FIELD).unwrap_or_default();
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
        updated_at_ms: instant(hash, UPDATED_FIELD).unwrap_or(created_at_ms),
        expires_at_ms: hash.expires_at_ms.unwrap_or_default(),
    }
}

fn first_ttl_ms(policy: &Policy) -> u64 {
    match policy.user_session_idle_ms {
        0 => policy.user_session_ttl_ms,
        _ => policy.user_session_ttl_ms.min(idle_ttl_ms(policy)),
    }
}

/// How long a session lives on when it is seen: longer than the idle limit by the time between
/// two writes. Otherwise a use within the limit could come too late, because the use before it
/// was not written.
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
#[cfg(test)]
mod lists;
pub mod order;
#[cfg(test)]
mod tests;
