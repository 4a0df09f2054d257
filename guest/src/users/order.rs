//! The order of a user's sessions: by creation, whatever their lifetimes. Their ids stand
//! in a second expiring set whose deadlines are no ends, but the instant of creation and
//! a constant, so that no use and no setting moves them.
//!
//! A release without this set may run beside this one, or have run since. So whoever lists
//! compares both sets, and puts the order right where they differ. Invariant: what has no
//! record has ended for good, as no id is used twice.

use std::collections::BTreeSet;

use crate::fault::fault;
use crate::faults::{Fault, Reason};
use crate::imports::Imports;
use crate::keys::User as Keys;
use crate::store::{
    Member, MemberClear, MemberList, MemberRef, MemberSet, MemberUntil, Operation, Order, Reply,
};
use crate::transaction::{execute, moment, read, unexpected_replies};
use crate::users::CREATED_FIELD;

/// What is added to the instant of creation: more than the 10 years that a session may live.
const BEHIND_ALL_MS: u64 = 11 * 366 * 24 * 3600 * 1000;
/// The most members that one listing reads.
const LISTED_MAX: u32 = 10_000;
/// The most listings of one set. It has as many members as a user may have sessions, and
/// those that ended unseen; what is behind that waits for the next repair.
const LISTINGS_MAX: usize = 8;
/// The most operations of one step of a repair.
const STEP_MAX: usize = 1000;

/// Puts a session that begins in this transaction into the order.
pub fn place(keys: &Keys, session_id: &str) -> Operation {
    let (key, member) = (keys.order.clone(), session_id.into());
    Operation::MemberSet(MemberSet { key, member, ttl_ms: BEHIND_ALL_MS })
}

/// Takes a session out of the order.
pub fn leave(keys: &Keys, session_id: &str) -> Operation {
    Operation::MemberRemove(MemberRef { key: keys.order.clone(), member: session_id.into() })
}

/// Takes all sessions out of the order, or all but one.
pub fn clear(keys: &Keys, except: Option<String>) -> Operation {
    let key = keys.order.clone();
    Operation::MemberClear(MemberClear { key, except, record_prefix: None, also_in: None })
}

/// When a session of the order was created.
pub fn created_at_ms(member: &Member) -> u64 {
    member.expires_at_ms.saturating_sub(BEHIND_ALL_MS)
}

/// The place in the order of what was created at an instant; none when no session was.
pub fn place_of(created_at_ms: u64) -> Option<u64> {
    created_at_ms.checked_add(BEHIND_ALL_MS)
}

/// Makes the order one of the sessions that are alive. To do so twice changes nothing.
///
/// # Errors
/// `store-unavailable`.
pub fn repair(imports: &impl Imports, keys: &Keys) -> Result<(), Fault> {
    // In this order, what begins between the two listings is seen as unplaced, and its
    // place is the one it has; what ends is seen as gone, and is.
    let ordered = all(imports, &keys.order)?;
    let alive = all(imports, &keys.sessions)?;
    let gone: Vec<Operation> = ordered.difference(&alive).map(|id| leave(keys, id)).collect();
    for step in gone.chunks(STEP_MAX) {
        execute(imports, Vec::new(), step.to_vec(), Vec::new())?;
    }
    let unplaced: Vec<&String> = alive.difference(&ordered).collect();
    for step in unplaced.chunks(STEP_MAX) {
        let records = step.iter().map(|id| read(keys.session(id), &[CREATED_FIELD]));
        let outcome = execute(imports, Vec::new(), records.collect(), Vec::new())?;
        let mut placed = Vec::with_capacity(step.len());
        for (id, reply) in step.iter().zip(outcome.replies) {
            let Reply::Record(record) = reply else { return Err(unexpected_replies()) };
            let created_at_ms = record.map(|hash| moment(&hash, CREATED_FIELD).unwrap_or_default());
            placed.push(match created_at_ms.and_then(place_of) {
                Some(expires_at_ms) => Operation::MemberSetUntil(MemberUntil {
                    key: keys.order.clone(),
                    member: (*id).clone(),
                    expires_at_ms,
                }),
                // Somebody has deleted its record alone.
                None => Operation::MemberRemove(MemberRef {
                    key: keys.sessions.clone(),
                    member: (*id).clone(),
                }),
            });
        }
        execute(imports, Vec::new(), placed, Vec::new())?;
    }
    Ok(())
}

/// The members of a set. One that gets a later deadline meanwhile is still seen.
fn all(imports: &impl Imports, key: &str) -> Result<BTreeSet<String>, Fault> {
    let mut names = BTreeSet::new();
    let mut after = None;
    for _ in 0..LISTINGS_MAX {
        let listing = MemberList {
            key: key.into(),
            order: Order::SoonestFirst,
            after: after.take(),
            limit: LISTED_MAX,
        };
        let listing = vec![Operation::MemberList(listing)];
        let outcome = execute(imports, Vec::new(), listing, Vec::new())?;
        let Some(Reply::Members(page)) = outcome.replies.into_iter().next() else {
            return Err(unexpected_replies());
        };
        let more = page.members.len() == LISTED_MAX as usize;
        after = page.members.last().filter(|_| more).cloned();
        names.extend(page.members.into_iter().map(|member| member.name));
        if after.is_none() {
            return Ok(names);
        }
    }
    Err(fault(Reason::StoreRejected, "The user has more sessions in the store than may be."))
}
