//! The rules of booking sessions: named documents written step by step, gone
//! some minutes after the last write. Every rule is one transaction, so nothing
//! is ever half done, and needs no retry.

use crate::booking_types::{Condition, Field, LockGrant, Session, StoredField, Write, Written};
use crate::catalog::Kind;
use crate::fault::{fault, fault_with, field_name, invalid, quote, refuse, violation};
use crate::faults::{Fault, Reason, Violation};
use crate::imports::Imports;
use crate::keys::{self, TOKEN_FIELD, VERSION_FIELD};
use crate::policy::Policy;
use crate::schema::{self, Context, SESSION_BYTES_MAX};
use crate::store::{
    Compare, CountTest, Entry, FieldChoice, FieldTest, Hash, HashAdd, HashGet, HashSet, Operation,
    Outcome, Reply, SizeBound,
};
use crate::transaction::{execute, read, unexpected_replies};
use crate::value;

/// The most fields that one write may name.
const FIELDS_MAX: usize = 256;
const KEY_FIELD: &str = "session_key";
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
/// `session-locked`; `version-mismatch`; `store-unavailable`.
pub fn set(imports: &impl Imports, policy: &Policy, mut write: Write) -> Result<Written, Fault> {
    let context = context(&write.context)?;
    if write.session_key.is_empty() {
        write.session_key = imports.token(MADE_KEY_CHARACTERS);
    }
    if write.fields.len() > FIELDS_MAX {
        let description = format!("are {}, at most {FIELDS_MAX} are accepted", write.fields.len());
        return Err(invalid(vec![violation("fields", description)]));
    }
    let mut violations = write.violations;
    keys::check_session_key(KEY_FIELD, &write.session_key, &mut violations);
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
    let outcome = execute(
        imports,
        compare,
        vec![
            Operation::HashSet(HashSet {
                key: key.clone(),
                entries,
                ttl_ms: Some(policy.session_ttl_ms),
            }),
            Operation::HashAdd(HashAdd { key: key.clone(), field: VERSION_FIELD.into(), delta: 1 }),
        ],
        vec![read(lock, &[TOKEN_FIELD]), read(key, &[VERSION_FIELD])],
    )?;
    if !outcome.succeeded {
        let refused = refused(condition, &outcome, write.lock_token.as_deref(), "written");
        return Err(refused.unwrap_or_else(|| invalid(vec![outgrown()])));
    }
    let [Reply::Deadline(Some(expires_at_ms)), Reply::Number(version)] = outcome.replies[..] else {
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
) -> Result<Session, Fault> {
    let context = context(context_name)?;
    valid_session_key(session_key)?;
    let key = keys::session(context, session_key);
    let whole = |key| Operation::HashGet(HashGet { key, fields: None });
    let outcome = match context.one_time_field {
        None => execute(imports, Vec::new(), vec![whole(key)], Vec::new())?,
        Some(field) => execute(
            imports,
            vec![Compare::FieldAmong(FieldChoice {
                key: key.clone(),
                field: field.into(),
                values: value::TRUE.iter().map(|text| text.to_vec()).collect(),
            })],
            vec![whole(key.clone()), Operation::HashDelete(key.clone())],
            vec![whole(key)],
        )?,
    };
    match outcome.replies.into_iter().next() {
        Some(Reply::Record(Some(hash))) => Ok(session(context, hash)),
        Some(Reply::Record(None)) => {
            Err(fault(Reason::SessionNotFound, "There is no such session, or it has expired."))
        }
        _ => Err(unexpected_replies()),
    }
}

/// Deletes a session, whether or not it exists, when a condition holds.
///
/// # Errors
/// `unknown-context`; `invalid-request`; `session-locked`; `version-mismatch`;
/// `store-unavailable`.
pub fn delete(
    imports: &impl Imports,
    context_name: &str,
    session_key: &str,
    condition: Condition,
    lock_token: Option<&str>,
) -> Result<(), Fault> {
    let context = context(context_name)?;
    valid_session_key(session_key)?;
    let key = keys::session(context, session_key);
    let lock = keys::lock(&key);
    let mut compare = vec![lock_is_open(&lock, lock_token)];
    compare.extend(compares(condition, &key));
    let outcome = execute(
        imports,
        compare,
        vec![Operation::HashDelete(key.clone())],
        vec![read(lock, &[TOKEN_FIELD]), read(key, &[VERSION_FIELD])],
    )?;
    if outcome.succeeded {
        return Ok(());
    }
    Err(refused(condition, &outcome, lock_token, "deleted").unwrap_or_else(unexpected_replies))
}

/// Locks a session, whether or not it exists.
///
/// # Errors
/// `unknown-context`; `invalid-request`; `session-locked` when somebody has;
/// `store-unavailable`.
pub fn lock(
    imports: &impl Imports,
    policy: &Policy,
    context_name: &str,
    session_key: &str,
) -> Result<LockGrant, Fault> {
    let context = context(context_name)?;
    valid_session_key(session_key)?;
    let lock = keys::lock(&keys::session(context, session_key));
    let lock_token = imports.token(LOCK_TOKEN_CHARACTERS);
    let outcome = execute(
        imports,
        vec![Compare::Absent(lock.clone())],
        vec![Operation::HashSet(HashSet {
            key: lock.clone(),
            entries: vec![Entry { field: TOKEN_FIELD.into(), value: lock_token.clone().into() }],
            ttl_ms: Some(policy.session_lock_ttl_ms),
        })],
        vec![read(lock, &[])],
    )?;
    if !outcome.succeeded {
        return Err(locked(&outcome));
    }
    let [Reply::Deadline(Some(expires_at_ms))] = outcome.replies[..] else {
        return Err(unexpected_replies());
    };
    Ok(LockGrant { lock_token, expires_at_ms })
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

fn valid_session_key(session_key: &str) -> Result<(), Fault> {
    let mut violations = Vec::new();
    keys::check_session_key(KEY_FIELD, session_key, &mut violations);
    refuse(violations)
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
    let [Reply::Record(lock), Reply::Record(current)] = &outcome.replies[..] else {
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
