//! A home: how many sessions it may have, and which sessions hold its slots.

use crate::events::Event;
use crate::fault::{Reason, at_limit, fault};
use crate::faults::{Detail, Fault};
use crate::imports::Imports;
use crate::keys::Home as Keys;
use crate::policy::Policy;
use crate::store::{Hash, Member, Order};
use crate::transaction::{Branch, Conditions, Handle, Page, Transaction, instant, text};

/// The most sessions that a home may be allowed.
pub const SESSIONS_MAX: u32 = 1000;
/// The device that a session was made for.
pub const DEVICE_FIELD: &str = "device_id";
/// When a session took its slot.
pub const SINCE_FIELD: &str = "since";
/// The field with the limit of a home.
pub const MAX_FIELD: &str = "max";
/// How many holders of slots a refusal names, in how many bytes, and how many
/// characters of a device's name.
pub(super) const HOLDERS_MAX: usize = 16;
pub(super) const HOLDERS_BYTES_MAX: usize = 2048;
const HOLDER_CHARACTERS_MAX: usize = 32;

/// How many sessions a home is allowed, those that it has if `with_members`, and the store's
/// clock.
pub fn look(
    imports: &impl Imports,
    policy: &Policy,
    keys: &Keys,
    with_members: bool,
) -> Result<(Allowed, Vec<Member>, u64), Fault> {
    let mut transaction = Transaction::new();
    let home = transaction.then.read(keys.home.as_str(), &[MAX_FIELD]);
    let members = with_members.then(|| list(&mut transaction.then, keys));
    let mut done = transaction.execute(imports)?;
    let allowed = allowed_in(done.take(home)?.as_ref(), policy)?;
    let members = match members {
        Some(members) => done.take(members)?.members,
        None => Vec::new(),
    };
    Ok((allowed, members, done.now_ms))
}

/// Lists the sessions that hold a slot.
pub fn list(branch: &mut Branch, keys: &Keys) -> Handle<Page> {
    branch.list(keys.slots.as_str(), Order::SoonestFirst, None, SESSIONS_MAX)
}

/// How many sessions a home is allowed.
#[derive(PartialEq)]
pub struct Allowed {
    /// The limit.
    pub max: u32,
    /// As it is stored; none for a home without a limit of its own.
    stored: Option<String>,
}

impl Allowed {
    /// Requires that the home still has this limit.
    pub fn require(&self, when: &mut Conditions, keys: &Keys) {
        match &self.stored {
            Some(stored) => when.field_is(keys.home.as_str(), MAX_FIELD, stored),
            // A stored limit is never empty.
            None => when.field_is_or_absent(keys.home.as_str(), MAX_FIELD, ""),
        }
    }
}

/// The limit that the record of a home has.
///
/// # Errors
/// `STORE_REJECTED` when it is no number.
pub fn allowed_in(home: Option<&Hash>, policy: &Policy) -> Result<Allowed, Fault> {
    let entry = home.and_then(|home| home.entries.iter().find(|entry| entry.field == MAX_FIELD));
    let Some(entry) = entry else {
        return Ok(Allowed { max: policy.viewing_max_sessions, stored: None });
    };
    let stored = str::from_utf8(&entry.value).ok();
    let limit = stored.and_then(|stored| Some((stored, stored.parse().ok()?)));
    match limit.filter(|(_, max)| *max <= SESSIONS_MAX) {
        Some((stored, max)) => Ok(Allowed { max, stored: Some(stored.into()) }),
        None => {
            Err(fault(Reason::StoreRejected, "The stored session limit is not a valid number."))
        }
    }
}

/// A session that holds a slot.
pub struct Holder {
    /// Its id.
    pub session_id: String,
    /// The device that holds it.
    pub device_id: String,
    /// When it took the slot.
    pub since_ms: u64,
    /// When it ends without a heartbeat.
    pub expires_at_ms: u64,
}

impl Holder {
    fn of(member: &Member, record: &Hash) -> Option<Self> {
        Some(Self {
            session_id: member.name.clone(),
            device_id: text(record, DEVICE_FIELD)?,
            since_ms: instant(record, SINCE_FIELD)?,
            expires_at_ms: member.expires_at_ms,
        })
    }
}

/// The holders that the members of the set name, without those that ended meanwhile. An event
/// is published in the same transaction.
pub fn holders(
    imports: &impl Imports,
    policy: &Policy,
    keys: &Keys,
    members: &[Member],
    event: Option<&Event<'_>>,
) -> Result<Vec<Holder>, Fault> {
    if members.is_empty() && event.is_none() {
        return Ok(Vec::new());
    }
    let mut transaction = Transaction::new();
    let then = &mut transaction.then;
    let read =
        |member: &Member| then.read(keys.session(&member.name), &[DEVICE_FIELD, SINCE_FIELD]);
    let records: Vec<_> = members.iter().map(read).collect();
    if let Some(event) = event {
        event.publish(then, policy, keys.partition);
    }
    let mut done = transaction.execute(imports)?;
    let mut holders = Vec::with_capacity(members.len());
    for (member, record) in members.iter().zip(records) {
        holders.extend(done.take(record)?.and_then(|record| Holder::of(member, &record)));
    }
    Ok(holders)
}

/// The fault for a home without a free slot. It lists the holders with shortened ids: an error
/// never has a whole id.
pub fn limit_reached(
    imports: &impl Imports,
    policy: &Policy,
    keys: &Keys,
    max: u32,
    members: &[Member],
    event: &Event<'_>,
) -> Result<Fault, Fault> {
    let shown = &members[..members.len().min(HOLDERS_MAX)];
    let mut sessions = String::from("[");
    let holders = match holders(imports, policy, keys, shown, Some(event)) {
        // The refusal is the same when the store has no room for its event.
        Err(fault) if fault.reason == Reason::StoreFull => {
            holders(imports, policy, keys, shown, None)
        }
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
