//! Viewing slots: a limit on the streams that a home plays at the same time. A slot is a
//! member of the home's expiring set, so it is free the moment its deadline has passed, with
//! or without a sweep. The limit is a compare of the transaction that takes a slot, so it is
//! exact however many take one. Beside the set, each session has a record. It outlives the
//! session for a while, to say how the session ended.

mod devices;
mod home;
#[cfg(test)]
mod tests;

pub use devices::{forget_device, get_device, register_device};

use self::devices::account_of;
use self::home::{
    Allowed, DEVICE_FIELD, MAX_FIELD, SESSIONS_MAX, SINCE_FIELD, allowed_in, limit_reached, list,
    look,
};
use crate::events::{Event, Type};
use crate::expiry::{Expiry, Kind, Queued};
use crate::fault::{Reason, fault, refuse, terminated, violation};
use crate::faults::{Fault, Violation};
use crate::imports::{Durable, Imports};
use crate::keys::{self, Home as Keys, check_id};
use crate::policy::Policy;
use crate::store::Hash;
use crate::transaction::{Deadline, Handle, Page, Transaction, entry, text, unexpected_replies};
use crate::viewing_types::{Home, Setup, Slot, Viewer};

/// The most sessions that one create may take over.
const REPLACE_MAX: usize = 16;
/// How long the record says how a session ended.
pub const KNOWN_MS: u64 = 10 * 60 * 1000;
/// How often a create tries again when another call changes what it has read.
const ATTEMPTS: u32 = 10;
const ENDED_BY_FIELD: &str = "ended_by";
/// Why a session has ended whose slot was taken over.
const REPLACED: &str = "REPLACED";

/// Takes a slot of a home.
///
/// # Errors
/// `INVALID_REQUEST`; `SESSION_LIMIT_REACHED` with the holders of the slots;
/// `STORE_UNAVAILABLE`.
pub fn create(imports: &impl Imports, policy: &Policy, setup: Setup) -> Result<Slot, Fault> {
    let imports = &Durable(imports);
    let Setup { account_id, device_id, mut replace } = setup;
    replace.iter_mut().for_each(|id| id.make_ascii_lowercase());
    let mut violations = Vec::new();
    check_id("account_id", &account_id, &mut violations);
    check_id("device_id", &device_id, &mut violations);
    check_replace(&replace, &mut violations);
    refuse(violations)?;
    replace.sort_unstable();
    replace.dedup();
    let keys = Keys::of(&account_id);
    for _ in 0..ATTEMPTS {
        let (allowed, alive, now_ms) = look(imports, policy, &keys, !replace.is_empty())?;
        // A session that has ended already makes room by itself.
        let replaced: Vec<&str> = replace
            .iter()
            .map(String::as_str)
            .filter(|id| alive.iter().any(|member| member.name == *id))
            .collect();
        let session_id = imports.uuid();
        let taking = Taking {
            account_id: &account_id,
            allowed: &allowed,
            replaced: &replaced,
            session_id: &session_id,
            device_id: &device_id,
            now_ms,
        };
        let (transaction, taken, found) = take(policy, &keys, &taking);
        let mut done = transaction.execute(imports)?;
        if done.succeeded {
            let expires_at_ms = done.take(taken)?.ok_or_else(unexpected_replies)?;
            return Ok(Slot { account_id, session_id, expires_at_ms });
        }
        let (home, page) = (done.take(found.0)?, done.take(found.1)?);
        let still = |id: &&str| page.members.iter().any(|member| member.name == **id);
        if allowed_in(home.as_ref(), policy)? == allowed && replaced.iter().all(still) {
            let event = Event::new(Type::ViewingLimitReached, &account_id);
            let event = Event { device_id: &device_id, ..event };
            return Err(limit_reached(imports, policy, &keys, allowed.max, &page.members, &event)?);
        }
    }
    Err(fault(Reason::StoreUnavailable, "The home changes too often; try again."))
}

/// The slot that a create takes, and the state that it has read before.
struct Taking<'a> {
    account_id: &'a str,
    allowed: &'a Allowed,
    replaced: &'a [&'a str],
    session_id: &'a str,
    device_id: &'a str,
    now_ms: u64,
}

/// The transaction that takes the slot if what was read still holds and there is room, with the
/// deadline of the slot, and what is there otherwise: the home and its slots.
#[allow(clippy::type_complexity, reason = "the handles of one transaction")]
fn take(
    policy: &Policy,
    keys: &Keys,
    taking: &Taking<'_>,
) -> (Transaction, Handle<Deadline>, (Handle<Option<Hash>>, Handle<Page>)) {
    let Taking { account_id, allowed, replaced, session_id, device_id, now_ms } = *taking;
    let slots = keys.slots.as_str();
    let known_ms = policy.viewing_ttl_ms + KNOWN_MS;
    let mut transaction = Transaction::new();
    allowed.require(&mut transaction.when, keys);
    transaction.when.members_below(slots, allowed.max + replaced.len() as u32);
    replaced.iter().for_each(|&id| transaction.when.member(slots, id));
    let then = &mut transaction.then;
    let taken = then.put(slots, session_id, policy.viewing_ttl_ms);
    for &id in replaced {
        then.remove(slots, id);
        // Its own device may not ask before its lifetime would have passed.
        then.write(keys.session(id), vec![entry(ENDED_BY_FIELD, device_id)], known_ms);
        queued(keys, account_id, id).dequeue(then);
        let event = Event::of(Type::ViewingTerminated, account_id, id);
        Event { reason: REPLACED, by: device_id, ..event }.publish(then, policy, keys.partition);
    }
    let entries = vec![entry(DEVICE_FIELD, device_id), entry(SINCE_FIELD, &now_ms.to_string())];
    then.write(keys.session(session_id), entries, known_ms);
    queued(keys, account_id, session_id).enqueue(then, policy.viewing_ttl_ms);
    let event = Event::of(Type::ViewingCreated, account_id, session_id);
    Event { device_id, ..event }.publish(then, policy, keys.partition);
    let home = transaction.otherwise.read(keys.home.as_str(), &[MAX_FIELD]);
    let members = list(&mut transaction.otherwise, keys);
    (transaction, taken, (home, members))
}

/// A session in the expiry queue.
fn queued<'a>(keys: &Keys, account_id: &'a str, session_id: &'a str) -> Queued<'a> {
    let (partition, kind) = (keys.partition, Kind::Viewing);
    Queued { partition, kind, subject: account_id, session_id }
}

/// Takes a slot of the home that a device belongs to.
///
/// # Errors
/// `DEVICE_NOT_REGISTERED`, and as [`create`].
pub fn create_for_device(
    imports: &impl Imports,
    policy: &Policy,
    device_id: String,
    mut replace: Vec<String>,
) -> Result<Slot, Fault> {
    replace.iter_mut().for_each(|id| id.make_ascii_lowercase());
    let mut violations = Vec::new();
    check_id("device_id", &device_id, &mut violations);
    check_replace(&replace, &mut violations);
    refuse(violations)?;
    let account_id = account_of(imports, &device_id)?;
    create(imports, policy, Setup { account_id, device_id, replace })
}

/// Keeps a slot for another lifetime.
///
/// # Errors
/// `INVALID_REQUEST`; `SESSION_NOT_FOUND`; `SESSION_EXPIRED`; `SESSION_TERMINATED`
/// with who took the slot; `STORE_UNAVAILABLE`.
pub fn heartbeat(
    imports: &impl Imports,
    policy: &Policy,
    account_id: String,
    mut session_id: String,
) -> Result<Slot, Fault> {
    let imports = &Durable(imports);
    session_id.make_ascii_lowercase();
    check_session(&account_id, &session_id)?;
    let unknown = || fault(Reason::SessionNotFound, "Cannot renew non-existing session!");
    if !keys::is_uuid(&session_id) {
        return Err(unknown());
    }
    let keys = Keys::of(&account_id);
    let record = keys.session(&session_id);
    let mut transaction = Transaction::new();
    transaction.when.member(keys.slots.as_str(), session_id.as_str());
    // A slot whose holder is unknown is not renewed: it ends by itself.
    transaction.when.exists(record.as_str());
    let kept = transaction.then.put(keys.slots, session_id.as_str(), policy.viewing_ttl_ms);
    transaction.then.expire(record.as_str(), policy.viewing_ttl_ms + KNOWN_MS);
    let ended = transaction.otherwise.read(record, &[ENDED_BY_FIELD]);
    let mut done = transaction.execute(imports)?;
    if done.succeeded {
        let expires_at_ms = done.take(kept)?.ok_or_else(unexpected_replies)?;
        return Ok(Slot { account_id, session_id, expires_at_ms });
    }
    let record = done.take(ended)?.ok_or_else(unknown)?;
    let Some(device_id) = text(&record, ENDED_BY_FIELD) else {
        return Err(fault(Reason::SessionExpired, "Cannot renew expired session!"));
    };
    let message = "Cannot renew replaced session! Another device has taken its place.";
    Err(terminated(message, "replaced", REPLACED, &device_id))
}

/// Gives a slot back, whether or not it is held.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn tear_down(
    imports: &impl Imports,
    policy: &Policy,
    account_id: &str,
    session_id: &str,
) -> Result<(), Fault> {
    let imports = &Durable(imports);
    check_session(account_id, session_id)?;
    let session_id = session_id.to_ascii_lowercase();
    if !keys::is_uuid(&session_id) {
        return Ok(());
    }
    let keys = Keys::of(account_id);
    let record = keys.session(&session_id);
    let event = Event::of(Type::ViewingClosed, account_id, &session_id);
    let slots = keys.slots.as_str();
    let mut transaction = Transaction::new();
    transaction.when.member(slots, session_id.as_str());
    transaction.then.remove(slots, session_id.as_str());
    transaction.then.delete(record.as_str());
    queued(&keys, account_id, &session_id).dequeue(&mut transaction.then);
    event.publish(&mut transaction.then, policy, keys.partition);
    transaction.otherwise.delete(record);
    transaction.execute(imports).map(drop)
}

/// Sets how many sessions a home may have from now on. It ends no session.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn set_max(imports: &impl Imports, account_id: &str, max: i32) -> Result<(), Fault> {
    let imports = &Durable(imports);
    let mut violations = Vec::new();
    check_id("account_id", account_id, &mut violations);
    if !u32::try_from(max).is_ok_and(|max| max <= SESSIONS_MAX) {
        let description = format!("must be from 0 to {SESSIONS_MAX}");
        violations.push(violation("max_nb_of_session", description));
    }
    refuse(violations)?;
    let mut transaction = Transaction::new();
    transaction.then.update(Keys::of(account_id).home, vec![entry(MAX_FIELD, &max.to_string())]);
    transaction.execute(imports).map(drop)
}

/// The sessions of a home, the oldest first.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn get_home(imports: &impl Imports, policy: &Policy, account_id: &str) -> Result<Home, Fault> {
    let mut violations = Vec::new();
    check_id("account_id", account_id, &mut violations);
    refuse(violations)?;
    let keys = Keys::of(account_id);
    let (allowed, alive, _) = look(imports, policy, &keys, true)?;
    let mut viewers: Vec<(u64, Viewer)> = home::holders(imports, policy, &keys, &alive, None)?
        .into_iter()
        .map(|holder| {
            let viewer = Viewer {
                device_id: holder.device_id,
                session_id: holder.session_id,
                expires_at_ms: holder.expires_at_ms,
            };
            (holder.since_ms, viewer)
        })
        .collect();
    viewers.sort_by(|(one, a), (other, b)| (one, &a.session_id).cmp(&(other, &b.session_id)));
    let sessions = viewers.into_iter().map(|(_, viewer)| viewer).collect();
    Ok(Home { sessions, max_sessions: allowed.max })
}

fn check_replace(replace: &[String], violations: &mut Vec<Violation>) {
    if replace.len() > REPLACE_MAX {
        violations.push(violation("replace", format!("names more than {REPLACE_MAX} sessions")));
    } else if !replace.iter().all(|id| keys::is_uuid(id)) {
        violations.push(violation("replace", "has an item that is no session id"));
    }
}

fn check_session(account_id: &str, session_id: &str) -> Result<(), Fault> {
    let mut violations = Vec::new();
    check_id("account_id", account_id, &mut violations);
    if session_id.is_empty() {
        violations.push(violation("session_id", "must not be empty"));
    }
    refuse(violations)
}

/// How slots expire: when no heartbeat renews them.
pub struct Slots;

impl Expiry for Slots {
    fn kind(&self) -> Kind {
        Kind::Viewing
    }

    fn live(&self, session: Queued<'_>) -> String {
        Keys::of(session.subject).slots
    }

    fn record(&self, session: Queued<'_>) -> (String, &'static [&'static str]) {
        (Keys::of(session.subject).session(session.session_id), &[DEVICE_FIELD])
    }

    fn expires_at_ms(&self, _: &Policy, _: Queued<'_>, record: &Hash) -> u64 {
        record.expires_at_ms.unwrap_or_default().saturating_sub(KNOWN_MS)
    }

    fn event(&self) -> Type {
        Type::ViewingExpired
    }
}
