//! The rules of booking sessions: named documents that are written step by step, and end
//! some minutes after the last write. Every rule is one transaction, so no change is half
//! done, and no rule retries.

mod replay;

use crate::booking_types::{Condition, Field, LockGrant, Session, StoredField, Write, Written};
use crate::catalog::Kind;
use crate::fault::{Reason, fault, fault_with, field_name, invalid, quote, refuse, violation};
use crate::faults::{Fault, Violation};
use crate::imports::{Durable, Imports};
use crate::keys::{self, TOKEN_FIELD, VERSION_FIELD};
use crate::policy::Policy;
use crate::schema::{self, Context, SESSION_BYTES_MAX};
use crate::store::{Entry, Hash};
use crate::transaction::{
    Branch, Conditions, Done, Handle, Transaction, entry, instant, text, unexpected_replies,
};
use crate::value;
use replay::Replay;

/// The most fields that one write may name.
const FIELDS_MAX: usize = 256;
const KEY_FIELD: &str = "session_key";
/// The idempotency key, as violations name it.
const REQUEST_FIELD: &str = "idempotency-key";
// The fields of an answer that is kept for a caller that asks again.
const REPLAYED_VERSION_FIELD: &str = "version";
const REPLAYED_ENDS_FIELD: &str = "expires_at";
/// The largest version: the largest number that a field of the store counts.
const VERSION_MAX: u64 = (1 << 53) - 1;
/// Characters of a session key that the service makes: 192 random bits.
const MADE_KEY_CHARACTERS: u32 = 32;
/// Characters of a lock token: 192 random bits.
const LOCK_TOKEN_CHARACTERS: u32 = 32;

/// Writes the given fields, keeps the others, restarts the lifetime and adds
/// one to the version.
///
/// # Errors
/// `UNKNOWN_CONTEXT`; `INVALID_REQUEST` with every violation;
/// `SESSION_LOCKED`; `VERSION_MISMATCH`; `IDEMPOTENCY_CONFLICT`; `STORE_UNAVAILABLE`.
pub fn set(imports: &impl Imports, policy: &Policy, mut write: Write) -> Result<Written, Fault> {
    let context = context(&write.context)?;
    let is_made = write.session_key.is_empty();
    if is_made {
        write.session_key = imports.token(MADE_KEY_CHARACTERS);
    }
    if write.fields.len() > FIELDS_MAX {
        let description = format!("are {}, at most {FIELDS_MAX} are accepted", write.fields.len());
        return Err(invalid(vec![violation("fields", description)]));
    }
    let mut violations = write.violations;
    keys::check_session_key(KEY_FIELD, &write.session_key, &mut violations);
    check_request(write.idempotency_key.as_deref(), &mut violations);
    let entries = entries(context, write.fields, &mut violations);
    let written_bytes: u64 = entries.iter().map(|entry| entry.value.len() as u64).sum();
    if written_bytes > SESSION_BYTES_MAX {
        violations.push(outgrown());
    }
    if !violations.is_empty() {
        return Err(invalid(violations));
    }

    let key = keys::session(context, &write.session_key);
    let lock = keys::lock(&key);
    let condition = write.condition;
    // The version that an unconditional write makes is not known before. The write overwrites any
    // value, so a repeat adds no new kind of risk. If the key is made now, a repeat gets another
    // key, so its answer is not kept.
    let made = match condition {
        _ if is_made => None,
        Condition { exists: Some(false), .. } => Some(1),
        Condition { version, .. } => version.map(|version| version.saturating_add(1)),
    };
    let replay = made.zip(write.idempotency_key.as_deref()).map(|(version, request)| {
        let condition = as_argument(condition);
        let token = write.lock_token.as_deref().unwrap_or_default();
        // Callers do not keep fields in an order.
        let mut sorted: Vec<&Entry> = entries.iter().collect();
        sorted.sort_unstable_by(|a, b| a.field.cmp(&b.field));
        let arguments = sorted.iter().flat_map(|entry| [entry.field.as_bytes(), &entry.value]);
        let arguments = arguments.chain([condition.as_bytes(), token.as_bytes()]);
        let replay = Replay::of(&key, "set", request, arguments);
        (replay, version)
    });
    let mut transaction = Transaction::new();
    require_open_lock(&mut transaction.when, &lock, write.lock_token.as_deref());
    require(&mut transaction.when, condition, &key);
    if context.may_outgrow_session() {
        let written = entries.iter().map(|entry| entry.field.clone());
        let except = written.chain([VERSION_FIELD.into()]).collect();
        transaction.when.size_at_most(key.as_str(), except, SESSION_BYTES_MAX - written_bytes);
    }
    let expires_at = transaction.then.write(key.as_str(), entries, policy.session_ttl_ms);
    let version = transaction.then.add(key.as_str(), VERSION_FIELD, 1);
    let found = Found::read(&mut transaction.otherwise, lock, key);
    let answer = replay.as_ref().map(|(replay, version)| {
        replay.require_new(&mut transaction.when);
        let kept = entry(REPLAYED_VERSION_FIELD, &version.to_string());
        replay.keep(&mut transaction.then, [kept]);
        replay.keep_time(&mut transaction.then, REPLAYED_ENDS_FIELD, policy.session_ttl_ms);
        replay.read(&mut transaction.otherwise)
    });
    let mut done = match condition {
        Condition { version: None, exists: None } => transaction.execute(imports)?,
        _ => transaction.execute(&Durable(imports))?,
    };
    if done.succeeded {
        let expires_at_ms = done.take(expires_at)?.ok_or_else(unexpected_replies)?;
        let version = done.take(version)?;
        return Ok(Written { session_key: write.session_key, version, expires_at_ms });
    }
    if let Some(((replay, _), answer)) = replay.as_ref().zip(answer)
        && let Some(answer) = replay.answer(done.take(answer)?)?
    {
        let version = instant(&answer, REPLAYED_VERSION_FIELD);
        let kept = version.zip(instant(&answer, REPLAYED_ENDS_FIELD));
        let (version, expires_at_ms) = kept.ok_or_else(unexpected_replies)?;
        return Ok(Written { session_key: write.session_key, version, expires_at_ms });
    }
    let refused = refused(condition, found, &mut done, write.lock_token.as_deref(), "written")?;
    Err(refused.unwrap_or_else(|| invalid(vec![outgrown()])))
}

/// Reads a session; the first read of one marked for a single read deletes it.
///
/// # Errors
/// `UNKNOWN_CONTEXT`; `INVALID_REQUEST`; `SESSION_NOT_FOUND`;
/// `STORE_UNAVAILABLE`.
pub fn get(
    imports: &impl Imports,
    context_name: &str,
    session_key: &str,
    idempotency_key: Option<&str>,
) -> Result<Session, Fault> {
    let context = context(context_name)?;
    valid(session_key, idempotency_key)?;
    let key = keys::session(context, session_key);
    let mut transaction = Transaction::new();
    let hash = match (context.one_time_field, idempotency_key) {
        (None, _) => {
            let hash = transaction.then.read_whole(key);
            transaction.execute(imports)?.take(hash)?
        }
        (Some(field), None) => {
            transaction.when.field_among(key.as_str(), field, &value::TRUE);
            let last = transaction.then.read_whole(key.as_str());
            transaction.then.delete(key.as_str());
            let other = transaction.otherwise.read_whole(key);
            let mut done = transaction.execute(&Durable(imports))?;
            done.take(if done.succeeded { last } else { other })?
        }
        (Some(field), Some(request)) => {
            let replay = Replay::of(&key, "get", request, []);
            transaction.when.field_among(key.as_str(), field, &value::TRUE);
            replay.require_new(&mut transaction.when);
            replay.keep_session(&mut transaction.then, key.as_str());
            let last = replay.read(&mut transaction.then);
            let other = transaction.otherwise.read_whole(key);
            let before = replay.read(&mut transaction.otherwise);
            let mut done = transaction.execute(&Durable(imports))?;
            match done.succeeded {
                true => done.take(last)?,
                // A repeat of this request gets the session that the first one has read.
                false => match done.take(before)? {
                    None => done.take(other)?,
                    read => read,
                },
            }
        }
    };
    let hash = hash.ok_or_else(|| {
        fault(Reason::SessionNotFound, "There is no such session, or it has expired.")
    })?;
    Ok(session(context, hash))
}

/// Deletes a session, whether or not it exists, when a condition holds.
///
/// # Errors
/// `UNKNOWN_CONTEXT`; `INVALID_REQUEST`; `SESSION_LOCKED`; `VERSION_MISMATCH`;
/// `IDEMPOTENCY_CONFLICT`; `STORE_UNAVAILABLE`.
pub fn delete(
    imports: &impl Imports,
    context_name: &str,
    session_key: &str,
    condition: Condition,
    lock_token: Option<&str>,
    idempotency_key: Option<&str>,
) -> Result<(), Fault> {
    let imports = &Durable(imports);
    let context = context(context_name)?;
    valid(session_key, idempotency_key)?;
    let key = keys::session(context, session_key);
    let lock = keys::lock(&key);
    let is_conditional = condition.version.is_some() || condition.exists.is_some();
    let replay = idempotency_key.filter(|_| is_conditional).map(|request| {
        let token = lock_token.unwrap_or_default();
        let condition = as_argument(condition);
        Replay::of(&key, "delete", request, [condition.as_bytes(), token.as_bytes()])
    });
    let mut transaction = Transaction::new();
    require_open_lock(&mut transaction.when, &lock, lock_token);
    require(&mut transaction.when, condition, &key);
    transaction.then.delete(key.as_str());
    let found = Found::read(&mut transaction.otherwise, lock, key);
    let answer = replay.as_ref().map(|replay| {
        replay.require_new(&mut transaction.when);
        replay.keep(&mut transaction.then, []);
        replay.read(&mut transaction.otherwise)
    });
    let mut done = transaction.execute(imports)?;
    if done.succeeded {
        return Ok(());
    }
    if let Some((replay, answer)) = replay.zip(answer)
        && replay.answer(done.take(answer)?)?.is_some()
    {
        return Ok(());
    }
    let refused = refused(condition, found, &mut done, lock_token, "deleted")?;
    Err(refused.unwrap_or_else(unexpected_replies))
}

/// Locks a session, whether or not it exists. A caller that has chosen the token of the lock
/// that exists gets the same answer again.
///
/// # Errors
/// `UNKNOWN_CONTEXT`; `INVALID_REQUEST`; `SESSION_LOCKED` when another caller holds the lock;
/// `IDEMPOTENCY_CONFLICT`; `STORE_UNAVAILABLE`.
pub fn lock(
    imports: &impl Imports,
    policy: &Policy,
    context_name: &str,
    session_key: &str,
    chosen: Option<&str>,
    idempotency_key: Option<&str>,
) -> Result<LockGrant, Fault> {
    let imports = &Durable(imports);
    let context = context(context_name)?;
    let mut violations = Vec::new();
    keys::check_session_key(KEY_FIELD, session_key, &mut violations);
    check_request(idempotency_key, &mut violations);
    if let Some(chosen) = chosen {
        keys::check_chosen("lock_token", chosen, &mut violations);
    }
    refuse(violations)?;
    let session = keys::session(context, session_key);
    let lock = keys::lock(&session);
    let token = chosen.map_or_else(|| imports.token(LOCK_TOKEN_CHARACTERS), str::to_owned);
    let replay = idempotency_key.map(|request| {
        Replay::of(&session, "lock", request, [chosen.unwrap_or_default().as_bytes()])
    });
    let mut transaction = Transaction::new();
    transaction.when.absent(lock.as_str());
    let ttl_ms = policy.session_lock_ttl_ms;
    let expires_at =
        transaction.then.write(lock.as_str(), vec![entry(TOKEN_FIELD, &token)], ttl_ms);
    let held = transaction.otherwise.read(lock, &[TOKEN_FIELD]);
    let answer = replay.as_ref().map(|replay| {
        replay.require_new(&mut transaction.when);
        replay.keep(&mut transaction.then, [entry(TOKEN_FIELD, &token)]);
        replay.keep_time(&mut transaction.then, REPLAYED_ENDS_FIELD, ttl_ms);
        replay.read(&mut transaction.otherwise)
    });
    let mut done = transaction.execute(imports)?;
    if done.succeeded {
        let expires_at_ms = done.take(expires_at)?.ok_or_else(unexpected_replies)?;
        return Ok(LockGrant { lock_token: token, expires_at_ms });
    }
    if let Some((replay, answer)) = replay.zip(answer)
        && let Some(answer) = replay.answer(done.take(answer)?)?
    {
        let kept = text(&answer, TOKEN_FIELD).zip(instant(&answer, REPLAYED_ENDS_FIELD));
        let (lock_token, expires_at_ms) = kept.ok_or_else(unexpected_replies)?;
        return Ok(LockGrant { lock_token, expires_at_ms });
    }
    let held = done.take(held)?;
    let ours = held.as_ref().filter(|held| text(held, TOKEN_FIELD).as_deref() == chosen);
    match ours.and_then(|held| held.expires_at_ms) {
        Some(expires_at_ms) if chosen.is_some() => {
            Ok(LockGrant { lock_token: token, expires_at_ms })
        }
        _ => Err(locked(held.as_ref(), done.now_ms)),
    }
}

/// Gives a lock back. It succeeds without a lock, for instance when the lock has ended by
/// itself: a caller that asks again after a lost reply gets the same answer.
///
/// # Errors
/// `UNKNOWN_CONTEXT`; `INVALID_REQUEST`; `SESSION_LOCKED` when another caller
/// holds it; `STORE_UNAVAILABLE`.
pub fn unlock(
    imports: &impl Imports,
    context_name: &str,
    session_key: &str,
    lock_token: &str,
) -> Result<(), Fault> {
    let imports = &Durable(imports);
    let context = context(context_name)?;
    let mut violations = Vec::new();
    keys::check_session_key(KEY_FIELD, session_key, &mut violations);
    if lock_token.is_empty() {
        violations.push(violation("lock_token", "must not be empty"));
    }
    if !violations.is_empty() {
        return Err(invalid(violations));
    }
    let lock = keys::lock(&keys::session(context, session_key));
    let mut transaction = Transaction::new();
    transaction.when.field_is_or_absent(lock.as_str(), TOKEN_FIELD, lock_token);
    transaction.then.delete(lock.as_str());
    let held = transaction.otherwise.read(lock, &[]);
    let mut done = transaction.execute(imports)?;
    match done.succeeded {
        true => Ok(()),
        false => Err(locked(done.take(held)?.as_ref(), done.now_ms)),
    }
}

fn context(name: &str) -> Result<&'static Context, Fault> {
    schema::context(name).ok_or_else(|| {
        fault(Reason::UnknownContext, format!("There is no booking context {}.", quote(name)))
    })
}

fn valid(session_key: &str, idempotency_key: Option<&str>) -> Result<(), Fault> {
    let mut violations = Vec::new();
    keys::check_session_key(KEY_FIELD, session_key, &mut violations);
    check_request(idempotency_key, &mut violations);
    refuse(violations)
}

/// Checks the idempotency key of a request.
fn check_request(idempotency_key: Option<&str>, violations: &mut Vec<Violation>) {
    if let Some(request) = idempotency_key {
        keys::check_chosen(REQUEST_FIELD, request, violations);
    }
}

/// The fields of a write as entries of the hash; every violation is added.
fn entries(context: &Context, fields: Vec<Field>, violations: &mut Vec<Violation>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(fields.len());
    let given = !fields.is_empty();
    let violations_before = violations.len();
    for Field { name, value } in fields {
        let Some(field) = context.field_index(&name).map(|index| &context.fields[index]) else {
            let description = format!("is not a field of the context {}", context.name);
            violations.push(violation(field_name(&name), description));
            continue;
        };
        if entries.iter().any(|entry| entry.field == field.stored_as) {
            violations.push(violation(field.name, "is given more than once"));
            continue;
        }
        match value::to_stored(field, value) {
            Ok(Some(value)) => {
                entries.push(Entry { field: field.stored_as.into(), value });
            }
            Ok(None) => {}
            Err(description) => violations.push(violation(field.name, description)),
        }
    }
    if entries.is_empty() && violations.len() == violations_before {
        let description = if given {
            "hold only nulls; a write names at least one value"
        } else {
            "are missing; a write names at least one field"
        };
        violations.push(violation("fields", description));
    }
    entries
}

fn outgrown() -> Violation {
    violation("fields", format!("make the session larger than {SESSION_BYTES_MAX} bytes"))
}

/// A condition as an argument of a request with an idempotency key.
fn as_argument(condition: Condition) -> String {
    format!("{:?} {:?}", condition.version, condition.exists)
}

/// Requires what a condition says of the session under a key.
fn require(when: &mut Conditions, condition: Condition, key: &str) {
    if let Some(version) = condition.version {
        when.count_is(key, VERSION_FIELD, version);
    }
    match condition.exists {
        Some(true) => when.exists(key),
        Some(false) => when.absent(key),
        None => {}
    }
}

/// Requires that the caller holds the lock, or names none and there is none.
fn require_open_lock(when: &mut Conditions, lock: &str, lock_token: Option<&str>) {
    match lock_token {
        None => when.absent(lock),
        Some(token) => when.field_is(lock, TOKEN_FIELD, token),
    }
}

/// The lock and the session, as they are read when a change is refused.
#[derive(Clone, Copy)]
struct Found {
    lock: Handle<Option<Hash>>,
    session: Handle<Option<Hash>>,
}

impl Found {
    fn read(branch: &mut Branch, lock: String, session: String) -> Self {
        Self {
            lock: branch.read(lock, &[TOKEN_FIELD]),
            session: branch.read(session, &[VERSION_FIELD]),
        }
    }
}

/// Why a transaction was refused that requires an open lock and a condition; none when both
/// hold. The message says what was not `done`.
///
/// # Errors
/// `STORE_REJECTED` when the replies do not fit.
fn refused(
    condition: Condition,
    found: Found,
    done: &mut Done,
    lock_token: Option<&str>,
    what: &str,
) -> Result<Option<Fault>, Fault> {
    let (lock, current) = (done.take(found.lock)?, done.take(found.session)?);
    let token = lock.as_ref().and_then(|lock| lock.entries.first());
    if token.map(|entry| &entry.value[..]) != lock_token.map(str::as_bytes) {
        return Ok(Some(locked(lock.as_ref(), done.now_ms)));
    }
    let version = current.as_ref().map_or(0, version);
    let because = match condition.exists {
        Some(false) if current.is_some() => "There is a session under this key already",
        Some(true) if current.is_none() => "There is no session under this key",
        _ if condition.version.is_some_and(|expected| expected != version) => {
            "The session is at another version"
        }
        _ => return Ok(None),
    };
    let message = format!("{because}; nothing was {what}.");
    let reason = Reason::VersionMismatch;
    Ok(Some(fault_with(reason, message, "currentVersion", version.to_string())))
}

/// The fault for a lock that is not the caller's.
fn locked(lock: Option<&Hash>, now_ms: u64) -> Fault {
    let (message, remaining_ms) = match lock {
        Some(lock) => {
            let left_ms = lock.expires_at_ms.unwrap_or(0).saturating_sub(now_ms);
            ("Somebody else holds the lock of the session.", left_ms)
        }
        None => ("The lock of this lock_token has ended; lock the session again.", 0),
    };
    let locked =
        fault_with(Reason::SessionLocked, message, "remainingMs", remaining_ms.to_string());
    Fault { retry_after_ms: Some(remaining_ms), ..locked }
}

/// The number of writes. A value that is not a plain number counts as none, as in the store.
fn version(hash: &Hash) -> u64 {
    hash.entries
        .iter()
        .find(|entry| entry.field == VERSION_FIELD)
        .and_then(|entry| plain_number(&entry.value))
        .unwrap_or(0)
}

/// A number as the store counts: decimal digits without leading zeros.
fn plain_number(text: &[u8]) -> Option<u64> {
    let text = str::from_utf8(text).ok()?;
    let number = text.parse::<u64>().ok().filter(|number| *number <= VERSION_MAX)?;
    // No other text of the number is one that counts.
    (number.to_string() == text).then_some(number)
}

fn session(context: &Context, mut hash: Hash) -> Session {
    let version = version(&hash);
    let mut fields = Vec::with_capacity(context.fields.len());
    for field in context.fields {
        let value = hash
            .entries
            .iter_mut()
            .find(|entry| entry.field == field.stored_as)
            .and_then(|entry| value::from_stored(field.kind, std::mem::take(&mut entry.value)));
        if value.is_some() || field.kind != Kind::Document {
            fields.push(StoredField { name: field.name.into(), kind: field.kind, value });
        }
    }
    Session { fields, version, expires_at_ms: hash.expires_at_ms }
}

#[cfg(test)]
mod tests;
