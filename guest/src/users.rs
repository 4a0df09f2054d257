//! Logins of users. Each session has a record, found by its id alone; a user's ids
//! are the members of an expiring set in the same partition, each with the deadline of
//! its record, so that all of them are listed and closed in one step, and none outlives
//! its session there.

use crate::events::{Event, Type};
use crate::fault::{fault, fault_with, refuse, violation};
use crate::faults::{Fault, Reason, Violation};
use crate::imports::Imports;
use crate::keys::{self, User as Keys, check_id};
use crate::maintenance::{self, Kind};
use crate::policy::Policy;
use crate::store::{
    Compare, Copies, Entry, Expiry, FieldTest, Hash, HashGet, HashSet, HashStamp, Member,
    MemberBound, MemberClear, MemberList, MemberRef, MemberSet, Operation, Order, Reply,
};
use crate::transaction::{entry, execute, moment, read, text, unexpected_replies};
use crate::users_types::{Attributes, Overview, Page, Session};

/// The most sessions of one user.
pub const SESSIONS_MAX: u32 = 20_000;
/// How many sessions a page has when nobody says how many.
const PAGE_SIZE: u32 = 100;
/// The most sessions of one page.
const PAGE_SIZE_MAX: u32 = 1000;
/// How often at most it is noted that a session was seen.
const SEEN_EVERY_MS: u64 = 60 * 1000;
/// The same as a share of the idle limit.
const SEEN_EVERY_SHARE: u64 = 8;
const CODE_BYTES_MAX: usize = 4096;
const TOKEN_BYTES_MAX: usize = 16 << 10;
const EMAIL_BYTES_MAX: usize = 320;
/// How many characters of an id mark its place in a list.
const MARK_CHARACTERS: usize = 16;

/// Whose session it is.
pub const USER_FIELD: &str = "user_id";
/// The device.
pub const DEVICE_FIELD: &str = "device_id";
const CODE_FIELD: &str = "auth_code";
const ACCESS_FIELD: &str = "access_token";
const REFRESH_FIELD: &str = "refresh_token";
const EXPIRATION_FIELD: &str = "expiration_time";
const EMAIL_FIELD: &str = "user_email";
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
        maintenance::note(partition, Kind::User, user_id, &session_id, first_ttl_ms(policy)),
        event(Type::UserCreated, &session_id).append(policy, partition),
    ];
    let outcome = execute(imports, vec![Compare::MembersBelow(room)], begun, Vec::new())?;
    if outcome.succeeded {
        return Ok(session_id);
    }
    event(Type::UserLimitReached, "").tell(imports, policy, partition);
    let message = format!("The user has {SESSIONS_MAX} sessions, which is the most.");
    Err(fault_with(Reason::SessionLimitReached, message, "limit", SESSIONS_MAX.to_string()))
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

/// Lists the sessions of a user, the newest first.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn list(
    imports: &impl Imports,
    user_id: &str,
    page_size: i32,
    page_token: &str,
) -> Result<Page, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    let size = u32::try_from(page_size).ok();
    if size.is_none() {
        violations.push(violation("page_size", "must not be negative"));
    }
    let after = mark(page_token);
    if !page_token.is_empty() && after.is_none() {
        violations.push(violation("page_token", "is not what a page before has told"));
    }
    refuse(violations)?;
    let limit = match size {
        None | Some(0) => PAGE_SIZE,
        Some(size) => size.min(PAGE_SIZE_MAX),
    };
    let keys = Keys::of(user_id);
    let listing = Operation::MemberList(MemberList {
        key: keys.sessions.clone(),
        order: Order::LatestFirst,
        after,
        // One more, to know whether there are any behind.
        limit: limit + 1,
    });
    let outcome = execute(imports, Vec::new(), vec![listing], Vec::new())?;
    let Some(Reply::Members(page)) = outcome.replies.into_iter().next() else {
        return Err(unexpected_replies());
    };
    let mut members = page.members;
    let more = members.len() > limit as usize;
    members.truncate(limit as usize);
    let next_page_token = members.last().filter(|_| more).map(token).unwrap_or_default();
    Ok(Page { sessions: overviews(imports, &keys, members)?, next_page_token })
}

/// Changes some attributes of a session that exists.
///
/// # Errors
/// `invalid-request`; `session-not-found`; `session-exists` when it is another
/// user's; `store-unavailable`.
pub fn update(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    mut attributes: Attributes,
) -> Result<Session, Fault> {
    let user_id = attributes.user_id.take();
    let mut violations = Vec::new();
    if let Some(user_id) = &user_id {
        check_id(USER_FIELD, user_id, &mut violations);
    }
    check(&attributes, &mut violations);
    let changed = entries(&attributes);
    if changed.is_empty() {
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
    let record = keys::user_session(session_id).ok_or_else(not_found)?;
    let whose = vec![read(record.as_str(), &[USER_FIELD, DEVICE_FIELD])];
    let outcome = execute(imports, Vec::new(), whose, Vec::new())?;
    let [Reply::Record(found)] = &outcome.replies[..] else { return Err(unexpected_replies()) };
    let known = |field| found.as_ref().and_then(|hash| text(hash, field));
    let user_id = known(USER_FIELD).ok_or_else(not_found)?;
    let device_id = known(DEVICE_FIELD).unwrap_or_default();
    let keys = Keys::of(&user_id);
    let place = MemberRef { key: keys.sessions, member: session_id.into() };
    let event = Event::of(Type::UserClosed, &user_id, session_id);
    let closed = vec![
        Operation::HashDelete(record.clone()),
        Operation::MemberRemove(place),
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
    let closed = vec![clear, event];
    // Without any session there is nothing to tell of.
    let outcome = match keep {
        Some(_) => execute(imports, compare, closed, Vec::new())?,
        None => execute(imports, vec![nobody], Vec::new(), closed)?,
    };
    match (outcome.succeeded, keep, &outcome.replies[..]) {
        (true, Some(_), [Reply::Members(page), _]) | (false, None, [Reply::Members(page), _]) => {
            Ok(u32::try_from(page.members.len()).unwrap_or(u32::MAX))
        }
        (true, None, []) => Ok(0),
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
        Err(fault) if fault.reason == Reason::StoreUnavailable => Ok(session),
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

/// What the members of a user's set are, the newest first; one that has ended meanwhile
/// is left out.
fn overviews(
    imports: &impl Imports,
    keys: &Keys,
    members: Vec<Member>,
) -> Result<Vec<Overview>, Fault> {
    if members.is_empty() {
        return Ok(Vec::new());
    }
    let fields = [DEVICE_FIELD, CREATED_FIELD, UPDATED_FIELD, SEEN_FIELD];
    let records = members.iter().map(|member| read(keys.session(&member.name), &fields)).collect();
    let outcome = execute(imports, Vec::new(), records, Vec::new())?;
    let overview = |(member, reply): (Member, Reply)| {
        let Reply::Record(Some(hash)) = reply else { return None };
        let created_at_ms = moment(&hash, CREATED_FIELD).unwrap_or_default();
        let updated_at_ms = moment(&hash, UPDATED_FIELD).unwrap_or(created_at_ms);
        let seen_at_ms = moment(&hash, SEEN_FIELD).unwrap_or(created_at_ms);
        Some(Overview {
            session_id: member.name,
            device_id: text(&hash, DEVICE_FIELD).unwrap_or_default(),
            created_at_ms,
            updated_at_ms,
            last_seen_at_ms: seen_at_ms.max(updated_at_ms),
        })
    };
    let mut sessions: Vec<_> =
        members.into_iter().zip(outcome.replies).filter_map(overview).collect();
    // Without an idle limit they are in this order already.
    sessions.sort_by_key(|session| std::cmp::Reverse(session.created_at_ms));
    Ok(sessions)
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

/// The attributes that are given, as they are stored.
fn entries(attributes: &Attributes) -> Vec<Entry> {
    let Attributes {
        user_id,
        device_id,
        auth_code,
        access_token,
        refresh_token,
        expiration_time,
        user_email,
    } = attributes;
    let expiration_time = expiration_time.map(|seconds| seconds.to_string());
    let texts = [
        (USER_FIELD, user_id),
        (DEVICE_FIELD, device_id),
        (CODE_FIELD, auth_code),
        (ACCESS_FIELD, access_token),
        (REFRESH_FIELD, refresh_token),
        (EXPIRATION_FIELD, &expiration_time),
        (EMAIL_FIELD, user_email),
    ];
    let given = texts.into_iter().filter_map(|(field, text)| Some(entry(field, text.as_ref()?)));
    given.collect()
}

/// What is wrong with attributes other than the user's id.
fn check(attributes: &Attributes, violations: &mut Vec<Violation>) {
    // A device that is taken away again is empty.
    if let Some(device_id) = attributes.device_id.as_deref().filter(|id| !id.is_empty()) {
        check_id(DEVICE_FIELD, device_id, violations);
    }
    for (field, text, bytes_max) in [
        (CODE_FIELD, &attributes.auth_code, CODE_BYTES_MAX),
        (ACCESS_FIELD, &attributes.access_token, TOKEN_BYTES_MAX),
        (REFRESH_FIELD, &attributes.refresh_token, TOKEN_BYTES_MAX),
        (EMAIL_FIELD, &attributes.user_email, EMAIL_BYTES_MAX),
    ] {
        let bytes = text.as_ref().map_or(0, String::len);
        if bytes > bytes_max {
            let description = format!("has {bytes} bytes, at most {bytes_max} are accepted");
            violations.push(violation(field, description));
        }
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

/// Where a page has ended, without giving away an id.
fn token(last: &Member) -> String {
    let name: String = last.name.chars().take(MARK_CHARACTERS).collect();
    format!("{}.{name}", last.expires_at_ms)
}

/// The place that a token names. Of ids with one deadline, the longest comes first,
/// so that the whole id of the beginning that a token has lies before it.
fn mark(token: &str) -> Option<Member> {
    let (expires_at, name) = token.split_once('.')?;
    let expires_at_ms = expires_at.parse().ok()?;
    let fits = name.len() == MARK_CHARACTERS && name.bytes().all(keys::is_base64url);
    fits.then(|| Member { name: name.into(), expires_at_ms })
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

#[cfg(test)]
mod tests;
