//! The rules of booking sessions: named documents written step by step, gone
//! some minutes after the last write. Every rule is one transaction, so nothing
//! is ever half done, and needs no retry.

mod replay;

use crate::booking_types::{Condition, Field, LockGrant, Session, StoredField, Write, Written};
use crate::catalog::Kind;
use crate::fault::{fault, fault_with, field_name, invalid, quote, refuse, violation};
use crate::faults::{Fault, Reason, Violation};
use crate::imports::{Durable, Imports};
use crate::keys::{self, TOKEN_FIELD, VERSION_FIELD};
use crate::policy::Policy;
use crate::schema::{self, Context, SESSION_BYTES_MAX};
use crate::store::{
    Compare, CountTest, Entry, FieldChoice, FieldTest, Hash, HashAdd, HashGet, HashSet, Operation,
    Outcome, Reply, SizeBound,
};
use crate::transaction::{entry, execute, moment, read, text, unexpected_replies};
use crate::value;
use replay::Replay;

/// The most fields that one write may name.
const FIELDS_MAX: usize = 256;
const KEY_FIELD: &str = "session_key";
/// What a caller who asks again gives the request by, as its violations name it.
const REQUEST_FIELD: &str = "idempotency-key";
/// What is kept of an answer that may be asked for again.
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
/// `unknown-context`; `invalid-request` with every violation;
/// `session-locked`; `version-mismatch`; `idempotency-conflict`; `store-unavailable`.
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
    // Which version an unconditional write makes is not known before. It overwrites whatever is
    // there, so repeating it adds no new kind of risk. Of a session whose key is made now nobody
    // asks again, as another request has another key.
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
    let mut compare = vec![lock_is_open(&lock, write.lock_token.as_deref())];
    compare.extend(compares(condition, &key));
    if context.may_outgrow_session() {
        compare.push(Compare::SizeAtMost(SizeBound {
            key: key.clone(),
            except: entries
                .iter()
                .map(|entry| entry.field.clone())
                .chain([VERSION_FIELD.into()])
                .collect(),
            limit: SESSION_BYTES_MAX - written_bytes,
        }));
    }
    let mut success = vec![
        Operation::HashSet(HashSet {
            key: key.clone(),
            entries,
            ttl_ms: Some(policy.session_ttl_ms),
        }),
        Operation::HashAdd(HashAdd { key: key.clone(), field: VERSION_FIELD.into(), delta: 1 }),
    ];
    let mut failure = vec![read(lock, &[TOKEN_FIELD]), read(key, &[VERSION_FIELD])];
    if let Some((replay, version)) = &replay {
        compare.push(replay.is_new());
        success.push(replay.keep([entry(REPLAYED_VERSION_FIELD, &version.to_string())]));
        success.push(replay.keep_time(REPLAYED_ENDS_FIELD, policy.session_ttl_ms));
        failure.push(replay.read());
    }
    let outcome = match condition {
        Condition { version: None, exists: None } => execute(imports, compare, success, failure)?,
        _ => execute(&Durable(imports), compare, success, failure)?,
    };
    if !outcome.succeeded {
        if let Some((replay, _)) = &replay
            && let Some(answer) = replay.answer(outcome.replies.last())?
        {
            return match (
                moment(answer, REPLAYED_VERSION_FIELD),
                moment(answer, REPLAYED_ENDS_FIELD),
            ) {
                (Some(version), Some(expires_at_ms)) => {
                    Ok(Written { session_key: write.session_key, version, expires_at_ms })
                }
                _ => Err(unexpected_replies()),
            };
        }
        let refused = refused(condition, &outcome, write.lock_token.as_deref(), "written");
        return Err(refused.unwrap_or_else(|| invalid(vec![outgrown()])));
    }
    let [Reply::Deadline(Some(expires_at_ms)), Reply::Number(version), ..] = outcome.replies[..]
    else {
        return Err(unexpected_replies());
    };
    Ok(Written { session_key: write.session_key, version: version.unsigned_abs(), expires_at_ms })
}

/// Reads a session; the first read of one marked for a single read deletes it.
///
/// # Errors
/// `unknown-context`; `invalid-request`; `session-not-found`;
/// `store-unavailable`.
pub fn get(
    imports: &impl Imports,
    context_name: &str,
    session_key: &str,
    idempotency_key: Option<&str>,
) -> Result<Session, Fault> {
    let context = context(context_name)?;
    valid(session_key, idempotency_key)?;
    let key = keys::session(context, session_key);
    let whole = |key| Operation::HashGet(HashGet { key, fields: None });
    let outcome = match (context.one_time_field, idempotency_key) {
        (None, _) => execute(imports, Vec::new(), vec![whole(key)], Vec::new())?,
        (Some(field), None) => execute(
            &Durable(imports),
            vec![is_one_time(&key, field)],
            vec![whole(key.clone()), Operation::HashDelete(key.clone())],
            vec![whole(key)],
        )?,
        (Some(field), Some(request)) => {
            let replay = Replay::of(&key, "get", request, []);
            let mut outcome = execute(
                &Durable(imports),
                vec![is_one_time(&key, field), replay.is_new()],
                vec![replay.keep_session(key.clone()), replay.read()],
                vec![whole(key), replay.read()],
            )?;
            // What was read before stands in the place of what is there now.
            if outcome.succeeded || matches!(outcome.replies[..], [_, Reply::Record(Some(_))]) {
                outcome.replies.reverse();
            }
            outcome
        }
    };
    match outcome.replies.into_iter().next() {
        Some(Reply::Record(Some(hash))) => Ok(session(context, hash)),
        Some(Reply::Record(None)) => {
            Err(fault(Reason::SessionNotFound, "There is no such session, or it has expired."))
        }
        _ => Err(unexpected_replies()),
    }
}

/// The next read of a session is to be the last one.
fn is_one_time(key: &str, field: &str) -> Compare {
    Compare::FieldAmong(FieldChoice {
        key: key.into(),
        field: field.into(),
        values: value::TRUE.iter().map(|text| text.to_vec()).collect(),
    })
}

/// Deletes a session, whether or not it exists, when a condition holds.
///
/// # Errors
/// `unknown-context`; `invalid-request`; `session-locked`; `version-mismatch`;
/// `idempotency-conflict`; `store-unavailable`.
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
    let mut compare = vec![lock_is_open(&lock, lock_token)];
    compare.extend(compares(condition, &key));
    let mut success = vec![Operation::HashDelete(key.clone())];
    let mut failure = vec![read(lock, &[TOKEN_FIELD]), read(key, &[VERSION_FIELD])];
    if let Some(replay) = &replay {
        compare.push(replay.is_new());
        success.push(replay.keep([]));
        failure.push(replay.read());
    }
    let outcome = execute(imports, compare, success, failure)?;
    if outcome.succeeded {
        return Ok(());
    }
    if let Some(replay) = &replay
        && replay.answer(outcome.replies.last())?.is_some()
    {
        return Ok(());
    }
    Err(refused(condition, &outcome, lock_token, "deleted").unwrap_or_else(unexpected_replies))
}

/// Locks a session, whether or not it exists. Whoever has chosen the token and holds the
/// lock already is told so again.
///
/// # Errors
/// `unknown-context`; `invalid-request`; `session-locked` when somebody has;
/// `idempotency-conflict`; `store-unavailable`.
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
    let mut compare = vec![Compare::Absent(lock.clone())];
    let mut success = vec![Operation::HashSet(HashSet {
        key: lock.clone(),
        entries: vec![entry(TOKEN_FIELD, &token)],
        ttl_ms: Some(policy.session_lock_ttl_ms),
    })];
    let mut failure = vec![read(lock, &[TOKEN_FIELD])];
    if let Some(replay) = &replay {
        compare.push(replay.is_new());
        success.push(replay.keep([entry(TOKEN_FIELD, &token)]));
        success.push(replay.keep_time(REPLAYED_ENDS_FIELD, policy.session_lock_ttl_ms));
        failure.push(replay.read());
    }
    let outcome = execute(imports, compare, success, failure)?;
    match (outcome.succeeded, outcome.replies.first()) {
        (true, Some(Reply::Deadline(Some(expires_at_ms)))) => {
            Ok(LockGrant { lock_token: token, expires_at_ms: *expires_at_ms })
        }
        (false, Some(Reply::Record(held))) => {
            if let Some(replay) = &replay
                && let Some(answer) = replay.answer(outcome.replies.last())?
            {
                let kept = text(answer, TOKEN_FIELD).zip(moment(answer, REPLAYED_ENDS_FIELD));
                let (lock_token, expires_at_ms) = kept.ok_or_else(unexpected_replies)?;
                return Ok(LockGrant { lock_token, expires_at_ms });
            }
            let held = held.as_ref().filter(|_| chosen.is_some());
            if let Some(held) = held.filter(|held| text(held, TOKEN_FIELD).as_ref() == Some(&token))
                && let Some(expires_at_ms) = held.expires_at_ms
            {
                return Ok(LockGrant { lock_token: token, expires_at_ms });
            }
            Err(locked(&outcome))
        }
        _ => Err(unexpected_replies()),
    }
}

/// Gives a lock back. Without a lock, and so when it has ended by itself, there is nothing
/// to do: whoever asks again after a lost reply is answered the same.
///
/// # Errors
/// `unknown-context`; `invalid-request`; `session-locked` when somebody else
/// holds it; `store-unavailable`.
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
    let outcome = execute(
        imports,
        vec![Compare::FieldEqualsOrAbsent(token_is(&lock, lock_token))],
        vec![Operation::HashDelete(lock.clone())],
        vec![read(lock, &[])],
    )?;
    if outcome.succeeded { Ok(()) } else { Err(locked(&outcome)) }
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

/// Checks what a caller gives the request by that it may ask again.
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
            Ok(Some(value)) => entries.push(Entry { field: field.stored_as.into(), value }),
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

/// A condition as an argument by which a request with an idempotency key is known again.
fn as_argument(condition: Condition) -> String {
    format!("{:?} {:?}", condition.version, condition.exists)
}

/// The compares of a condition.
fn compares(condition: Condition, key: &str) -> impl Iterator<Item = Compare> {
    let at = |number| {
        let field = VERSION_FIELD.into();
        Compare::CountEquals(CountTest { key: key.into(), field, number })
    };
    let exists = condition.exists.map(|exists| match exists {
        true => Compare::Exists(key.into()),
        false => Compare::Absent(key.into()),
    });
    condition.version.map(at).into_iter().chain(exists)
}

/// Why a transaction has not succeeded that demands an open lock and a condition, told by
/// what it has read of both instead; none when both hold. The message says what was not
/// `done`.
fn refused(
    condition: Condition,
    outcome: &Outcome,
    lock_token: Option<&str>,
    done: &str,
) -> Option<Fault> {
    let [Reply::Record(lock), Reply::Record(current), ..] = &outcome.replies[..] else {
        return Some(unexpected_replies());
    };
    let token = lock.as_ref().and_then(|lock| lock.entries.first());
    if token.map(|entry| &entry.value[..]) != lock_token.map(str::as_bytes) {
        return Some(locked(outcome));
    }
    let version = current.as_ref().map_or(0, version);
    let what = match condition.exists {
        Some(false) if current.is_some() => "There is a session under this key already",
        Some(true) if current.is_none() => "There is no session under this key",
        _ if condition.version.is_some_and(|expected| expected != version) => {
            "The session is at another version"
        }
        _ => return None,
    };
    let message = format!("{what}; nothing was {done}.");
    let reason = Reason::VersionMismatch;
    Some(fault_with(reason, message, "currentVersion", version.to_string()))
}

/// The caller holds the lock, or says nothing of one and there is none.
fn lock_is_open(lock: &str, lock_token: Option<&str>) -> Compare {
    match lock_token {
        None => Compare::Absent(lock.into()),
        Some(token) => Compare::FieldEquals(token_is(lock, token)),
    }
}

fn token_is(lock: &str, token: &str) -> FieldTest {
    FieldTest { key: lock.into(), field: TOKEN_FIELD.into(), value: token.into() }
}

/// The fault for a lock that is not the caller's; the first reply is the lock, if any.
fn locked(outcome: &Outcome) -> Fault {
    let (message, remaining_ms) = match outcome.replies.first() {
        Some(Reply::Record(Some(lock))) => {
            let left_ms = lock.expires_at_ms.unwrap_or(0).saturating_sub(outcome.now_ms);
            ("Somebody else holds the lock of the session.", left_ms)
        }
        _ => ("The lock of this lock_token has ended; lock the session again.", 0),
    };
    let remaining_ms = remaining_ms.to_string();
    fault_with(Reason::SessionLocked, message, "remainingMs", remaining_ms)
}

/// The number of writes; whatever is no plain number is none, and so it is in the store.
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
