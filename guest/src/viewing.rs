//! Viewing slots: at most so many streams per home at the same time. A slot is a
//! member of the home's expiring set, so it is free the moment its deadline has
//! passed, whoever sweeps or does not; the limit is a compare of the transaction
//! that takes a slot, so it is exact however many take one. Beside the set, each
//! session has a record that outlives it for a while, to tell what became of it.

use crate::events::{Event, Type};
use crate::fault::{at_limit, fault, fault_with, refuse, violation};
use crate::faults::{Detail, Fault, Reason, Violation};
use crate::imports::{Durable, Imports};
use crate::keys::{self, Home as Keys, check_id};
use crate::maintenance::{self, Kind};
use crate::policy::Policy;
use crate::store::{
    Compare, Entry, Expiry, FieldTest, Hash, HashSet, Member, MemberBound, MemberList, MemberRef,
    MemberSet, Operation, Order, Outcome, Reply,
};
use crate::transaction::{entry, execute, moment, read, text, unexpected_replies};
use crate::viewing_types::{Home, Setup, Slot, Viewer};

/// The most sessions that a home may be allowed.
pub const SESSIONS_MAX: u32 = 1000;
/// The most sessions that one create may take over.
const REPLACE_MAX: usize = 16;
/// How long it is known what became of a session.
pub const KNOWN_MS: u64 = 10 * 60 * 1000;
/// How often a create tries again when somebody changes what it has read.
const ATTEMPTS: u32 = 10;
/// How many holders of slots a refusal names, in how many bytes, and how many
/// characters of a device's name.
const HOLDERS_MAX: u32 = 16;
const HOLDERS_BYTES_MAX: usize = 2048;
const HOLDER_CHARACTERS_MAX: usize = 32;

const MAX_FIELD: &str = "max";
const ACCOUNT_FIELD: &str = "account_id";
/// The device that a session was made for.
pub const DEVICE_FIELD: &str = "device_id";
const SINCE_FIELD: &str = "since";
const ENDED_BY_FIELD: &str = "ended_by";
/// Why a session has ended whose slot was taken over.
const REPLACED: &str = "REPLACED";

/// Takes a slot of a home.
///
/// # Errors
/// `invalid-request`; `session-limit-reached` with the holders of the slots;
/// `store-unavailable`.
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
        let (allowed, alive, now) = look(imports, policy, &keys, !replace.is_empty())?;
        // What has ended already makes room by itself.
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
            now,
        };
        let outcome = commit(imports, policy, &keys, &taking)?;
        if outcome.succeeded {
            let Some(Reply::Deadline(Some(expires_at_ms))) = outcome.replies.first() else {
                return Err(unexpected_replies());
            };
            return Ok(Slot { account_id, session_id, expires_at_ms: *expires_at_ms });
        }
        let [Reply::Record(home), Reply::Members(page)] = &outcome.replies[..] else {
            return Err(unexpected_replies());
        };
        let still = |id: &&str| page.members.iter().any(|member| member.name == **id);
        if allowed_in(home.as_ref(), policy)? == allowed && replaced.iter().all(still) {
            let event = Event::new(Type::ViewingLimitReached, &account_id);
            let event = Event { device_id: &device_id, ..event }.append(policy, keys.partition);
            return Err(limit_reached(imports, &keys, allowed.max, &page.members, event)?);
        }
    }
    Err(fault(Reason::StoreUnavailable, "The home changes too often; try again."))
}

/// What a create takes, and what it has read before.
struct Taking<'a> {
    account_id: &'a str,
    allowed: &'a Allowed,
    replaced: &'a [&'a str],
    session_id: &'a str,
    device_id: &'a str,
    now: u64,
}

/// Takes the slot if what was read still holds and there is room.
fn commit(
    imports: &impl Imports,
    policy: &Policy,
    keys: &Keys,
    taking: &Taking<'_>,
) -> Result<Outcome, Fault> {
    let Taking { account_id, allowed, replaced, session_id, device_id, now } = taking;
    let member = |id: &str| MemberRef { key: keys.slots.clone(), member: id.into() };
    let mut compare = vec![
        still_allows(keys, allowed),
        Compare::MembersBelow(MemberBound {
            key: keys.slots.clone(),
            limit: allowed.max + replaced.len() as u32,
        }),
    ];
    compare.extend(replaced.iter().map(|id| Compare::MemberPresent(member(id))));
    let event = |type_, id| Event::of(type_, account_id, id);
    let mut success = Vec::with_capacity(4 * replaced.len() + 4);
    success.push(Operation::MemberSet(MemberSet {
        key: keys.slots.clone(),
        member: (*session_id).into(),
        ttl_ms: policy.viewing_ttl_ms,
    }));
    for id in *replaced {
        success.push(Operation::MemberRemove(member(id)));
        success.push(Operation::HashSet(HashSet {
            key: keys.session(id),
            entries: vec![entry(ENDED_BY_FIELD, device_id)],
            // Its own device may not ask before its lifetime would have passed.
            ttl_ms: Some(policy.viewing_ttl_ms + KNOWN_MS),
        }));
        success.push(maintenance::forget(keys.partition, Kind::Viewing, account_id, id));
        let ended = Event { reason: REPLACED, by: device_id, ..event(Type::ViewingTerminated, id) };
        success.push(ended.append(policy, keys.partition));
    }
    success.push(Operation::HashSet(HashSet {
        key: keys.session(session_id),
        entries: vec![entry(DEVICE_FIELD, device_id), entry(SINCE_FIELD, &now.to_string())],
        ttl_ms: Some(policy.viewing_ttl_ms + KNOWN_MS),
    }));
    success.push(maintenance::note(
        keys.partition,
        Kind::Viewing,
        account_id,
        session_id,
        policy.viewing_ttl_ms,
    ));
    let created = Event { device_id, ..event(Type::ViewingCreated, session_id) };
    success.push(created.append(policy, keys.partition));
    execute(imports, compare, success, vec![read(keys.home.as_str(), &[MAX_FIELD]), list(keys)])
}

/// Takes a slot of the home that a device belongs to.
///
/// # Errors
/// `device-not-registered`, and as [`create`].
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
/// `invalid-request`; `session-not-found`; `session-expired`; `session-terminated`
/// with who took the slot; `store-unavailable`.
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
    let outcome = execute(
        imports,
        vec![
            Compare::MemberPresent(MemberRef {
                key: keys.slots.clone(),
                member: session_id.clone(),
            }),
            // A slot whose holder nobody knows is not kept: it ends by itself.
            Compare::Exists(record.clone()),
        ],
        vec![
            Operation::MemberSet(MemberSet {
                key: keys.slots.clone(),
                member: session_id.clone(),
                ttl_ms: policy.viewing_ttl_ms,
            }),
            Operation::HashExpire(Expiry {
                key: record.clone(),
                ttl_ms: policy.viewing_ttl_ms + KNOWN_MS,
            }),
        ],
        vec![read(&record, &[ENDED_BY_FIELD])],
    )?;
    match (outcome.succeeded, outcome.replies.first()) {
        (true, Some(Reply::Deadline(Some(expires_at_ms)))) => {
            Ok(Slot { account_id, session_id, expires_at_ms: *expires_at_ms })
        }
        (false, Some(Reply::Record(None))) => Err(unknown()),
        (false, Some(Reply::Record(Some(record)))) => Err(match text(record, ENDED_BY_FIELD) {
            None => fault(Reason::SessionExpired, "Cannot renew expired session!"),
            Some(device_id) => {
                let mut ended = fault_with(
                    Reason::SessionTerminated,
                    "Cannot renew replaced session! Another device has taken its place.",
                    "reason",
                    REPLACED.into(),
                );
                ended.metadata.push(Detail { name: "by".into(), value: device_id });
                ended
            }
        }),
        _ => Err(unexpected_replies()),
    }
}

/// Gives a slot back, whether or not it is held.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
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
    let slot = MemberRef { key: keys.slots, member: session_id.clone() };
    let given_back = vec![
        Operation::MemberRemove(slot.clone()),
        Operation::HashDelete(record.clone()),
        maintenance::forget(keys.partition, Kind::Viewing, account_id, &session_id),
        event.append(policy, keys.partition),
    ];
    let forgotten = vec![Operation::HashDelete(record)];
    execute(imports, vec![Compare::MemberPresent(slot)], given_back, forgotten).map(drop)
}

/// Allows a home so many sessions from now on; nobody is ended.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn set_max(imports: &impl Imports, account_id: &str, max: i32) -> Result<(), Fault> {
    let imports = &Durable(imports);
    let mut violations = Vec::new();
    check_id("account_id", account_id, &mut violations);
    if !u32::try_from(max).is_ok_and(|max| max <= SESSIONS_MAX) {
        let description = format!("must be from 0 to {SESSIONS_MAX}");
        violations.push(violation("max_nb_of_session", description));
    }
    refuse(violations)?;
    let set = Operation::HashSet(HashSet {
        key: Keys::of(account_id).home,
        entries: vec![entry(MAX_FIELD, &max.to_string())],
        ttl_ms: None,
    });
    execute(imports, Vec::new(), vec![set], Vec::new()).map(drop)
}

/// The sessions of a home, the oldest first.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn get_home(imports: &impl Imports, policy: &Policy, account_id: &str) -> Result<Home, Fault> {
    let mut violations = Vec::new();
    check_id("account_id", account_id, &mut violations);
    refuse(violations)?;
    let keys = Keys::of(account_id);
    let (allowed, alive, _) = look(imports, policy, &keys, true)?;
    let mut viewers: Vec<(u64, Viewer)> = holders(imports, &keys, &alive, None)?
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

/// Gives a device to an account; one that had another is taken from it.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn register_device(
    imports: &impl Imports,
    device_id: &str,
    account_id: &str,
) -> Result<(), Fault> {
    let mut violations = Vec::new();
    check_id("device_id", device_id, &mut violations);
    check_id("account_id", account_id, &mut violations);
    refuse(violations)?;
    let set = Operation::HashSet(HashSet {
        key: keys::device(device_id),
        entries: vec![entry(ACCOUNT_FIELD, account_id)],
        ttl_ms: None,
    });
    execute(imports, Vec::new(), vec![set], Vec::new()).map(drop)
}

/// Takes a device from its account, whether or not it has one.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn forget_device(imports: &impl Imports, device_id: &str) -> Result<(), Fault> {
    let mut violations = Vec::new();
    check_id("device_id", device_id, &mut violations);
    refuse(violations)?;
    let delete = Operation::HashDelete(keys::device(device_id));
    execute(imports, Vec::new(), vec![delete], Vec::new()).map(drop)
}

/// The account of a device.
///
/// # Errors
/// `invalid-request`; `device-not-registered`; `store-unavailable`.
pub fn get_device(imports: &impl Imports, device_id: &str) -> Result<String, Fault> {
    let mut violations = Vec::new();
    check_id("device_id", device_id, &mut violations);
    refuse(violations)?;
    account_of(imports, device_id)
}

fn account_of(imports: &impl Imports, device_id: &str) -> Result<String, Fault> {
    let device = read(keys::device(device_id), &[ACCOUNT_FIELD]);
    let outcome = execute(imports, Vec::new(), vec![device], Vec::new())?;
    match &outcome.replies[..] {
        [Reply::Record(device)] => {
            let account = device.as_ref().and_then(|device| text(device, ACCOUNT_FIELD));
            account.ok_or_else(|| fault(Reason::DeviceNotRegistered, "Device not registered"))
        }
        _ => Err(unexpected_replies()),
    }
}

/// How many sessions the home is allowed, which it has when `who` asks for them,
/// and the store's clock.
fn look(
    imports: &impl Imports,
    policy: &Policy,
    keys: &Keys,
    who: bool,
) -> Result<(Allowed, Vec<Member>, u64), Fault> {
    let mut operations = vec![read(keys.home.as_str(), &[MAX_FIELD])];
    if who {
        operations.push(list(keys));
    }
    let mut outcome = execute(imports, Vec::new(), operations, Vec::new())?;
    let alive = match (who, outcome.replies.pop()) {
        (true, Some(Reply::Members(page))) => page.members,
        (false, Some(home)) => {
            outcome.replies.push(home);
            Vec::new()
        }
        _ => return Err(unexpected_replies()),
    };
    match &outcome.replies[..] {
        [Reply::Record(home)] => Ok((allowed_in(home.as_ref(), policy)?, alive, outcome.now_ms)),
        _ => Err(unexpected_replies()),
    }
}

/// How many sessions a home is allowed.
#[derive(PartialEq)]
struct Allowed {
    max: u32,
    /// As it is stored; none for a home that was not told.
    stored: Option<Vec<u8>>,
}

fn allowed_in(home: Option<&Hash>, policy: &Policy) -> Result<Allowed, Fault> {
    let entry = home.and_then(|home| home.entries.iter().find(|entry| entry.field == MAX_FIELD));
    let Some(Entry { value, .. }) = entry else {
        return Ok(Allowed { max: policy.viewing_max_sessions, stored: None });
    };
    let max = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    match max.filter(|max| *max <= SESSIONS_MAX) {
        Some(max) => Ok(Allowed { max, stored: Some(value.clone()) }),
        None => Err(fault(Reason::StoreRejected, "The number of sessions of the home is none.")),
    }
}

/// The home still allows as many sessions as were read.
fn still_allows(keys: &Keys, allowed: &Allowed) -> Compare {
    let test = |value| FieldTest { key: keys.home.clone(), field: MAX_FIELD.into(), value };
    match &allowed.stored {
        Some(stored) => Compare::FieldEquals(test(stored.clone())),
        // Nobody stores an empty number.
        None => Compare::FieldEqualsOrAbsent(test(Vec::new())),
    }
}

/// A session that holds a slot.
struct Holder {
    session_id: String,
    device_id: String,
    since_ms: u64,
    expires_at_ms: u64,
}

/// Who the members of the set are; those that ended meanwhile are left out. An event is
/// told in the same step.
fn holders(
    imports: &impl Imports,
    keys: &Keys,
    members: &[Member],
    event: Option<Operation>,
) -> Result<Vec<Holder>, Fault> {
    let fields = [DEVICE_FIELD, SINCE_FIELD];
    let records = members.iter().map(|member| read(keys.session(&member.name), &fields));
    let operations: Vec<Operation> = records.chain(event).collect();
    if operations.is_empty() {
        return Ok(Vec::new());
    }
    let outcome = execute(imports, Vec::new(), operations, Vec::new())?;
    let holder = |(member, reply): (&Member, Reply)| match reply {
        Reply::Record(Some(record)) => Some(Holder {
            session_id: member.name.clone(),
            device_id: text(&record, DEVICE_FIELD)?,
            since_ms: moment(&record, SINCE_FIELD)?,
            expires_at_ms: member.expires_at_ms,
        }),
        _ => None,
    };
    Ok(members.iter().zip(outcome.replies).filter_map(holder).collect())
}

/// The fault for a home without a free slot: who holds them, ids shortened, as an
/// error is no place for a whole one.
fn limit_reached(
    imports: &impl Imports,
    keys: &Keys,
    max: u32,
    members: &[Member],
    event: Operation,
) -> Result<Fault, Fault> {
    let shown = &members[..members.len().min(HOLDERS_MAX as usize)];
    let mut sessions = String::from("[");
    let holders = match holders(imports, keys, shown, Some(event)) {
        // What the refusal says does not depend on whether its event has room.
        Err(fault) if fault.reason == Reason::StoreFull => holders(imports, keys, shown, None),
        found => found,
    };
    for holder in holders? {
        let mut device: String = holder.device_id.chars().take(HOLDER_CHARACTERS_MAX).collect();
        if device.len() < holder.device_id.len() {
            device.push('\u{2026}');
        }
        let entry = format!(
            "{}{{\"session\":\"{}\",\"deviceId\":{},\"since\":\"{}\",\"expiration\":\"{}\"}}",
            if sessions.len() > 1 { "," } else { "" },
            holder.session_id.chars().take(6).collect::<String>(),
            serde_json::to_string(&device).unwrap_or_default(),
            holder.since_ms / 1000,
            holder.expires_at_ms / 1000,
        );
        if sessions.len() + entry.len() > HOLDERS_BYTES_MAX {
            break;
        }
        sessions += &entry;
    }
    sessions.push(']');
    let message = format!("Cannot create session. Max of active sessions ({max}) exhausted!");
    let mut fault = at_limit(message, max);
    fault.metadata.push(Detail { name: "active".into(), value: members.len().to_string() });
    fault.metadata.push(Detail { name: "sessions".into(), value: sessions });
    Ok(fault)
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

fn list(keys: &Keys) -> Operation {
    Operation::MemberList(MemberList {
        key: keys.slots.clone(),
        order: Order::SoonestFirst,
        after: None,
        limit: SESSIONS_MAX,
    })
}

#[cfg(test)]
mod tests;
