//! The order of a user's sessions: by creation, whatever their lifetimes. Their ids stand
//! in a second expiring set whose deadlines are no ends, but the instant of creation and
//! a constant, so that no use and no setting moves them.
//!
//! A release without this set may run beside this one, or have run since. So whoever lists
//! compares both sets, and puts the order right where they differ. Invariant: what has no
//! record has ended for good, as no id is used twice.

use std::collections::BTreeSet;

use crate::fault::{Reason, fault};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::User as Keys;
use crate::store::{Member, Order};
use crate::transaction::{Branch, Transaction, instant, read_all};
use crate::users::attributes::CREATED_FIELD;

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
pub fn place(branch: &mut Branch, keys: &Keys, session_id: &str) {
    branch.put(keys.order.as_str(), session_id, BEHIND_ALL_MS);
}

/// Takes a session out of the order.
pub fn leave(branch: &mut Branch, keys: &Keys, session_id: &str) {
    branch.remove(keys.order.as_str(), session_id);
}

/// Takes all sessions out of the order, or all but one.
pub fn clear(branch: &mut Branch, keys: &Keys, except: Option<String>) {
    branch.clear(keys.order.as_str(), except, None, None);
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
    let gone: Vec<&String> = ordered.difference(&alive).collect();
    for step in gone.chunks(STEP_MAX) {
        let mut transaction = Transaction::new();
        step.iter().for_each(|id| leave(&mut transaction.then, keys, id));
        transaction.execute(imports)?;
    }
    let unplaced: Vec<&String> = alive.difference(&ordered).collect();
    for step in unplaced.chunks(STEP_MAX) {
        let records = step.iter().map(|id| keys.session(id));
        let (records, _) = read_all(imports, records, &[CREATED_FIELD])?;
        let mut transaction = Transaction::new();
        for (&id, record) in step.iter().zip(records) {
            let created_at_ms =
                record.map(|hash| instant(&hash, CREATED_FIELD).unwrap_or_default());
            match created_at_ms.and_then(place_of) {
                Some(place) => drop(transaction.then.put_until(keys.order.as_str(), id, place)),
                // Somebody has deleted its record alone.
                None => drop(transaction.then.remove(keys.sessions.as_str(), id)),
            }
        }
        transaction.execute(imports)?;
    }
    Ok(())
}

/// The members of a set. One that gets a later deadline meanwhile is still seen.
fn all(imports: &impl Imports, key: &str) -> Result<BTreeSet<String>, Fault> {
    let mut names = BTreeSet::new();
    let mut after = None;
    for _ in 0..LISTINGS_MAX {
        let mut transaction = Transaction::new();
        let page = transaction.then.list(key, Order::SoonestFirst, after.take(), LISTED_MAX);
        let page = transaction.execute(imports)?.take(page)?;
        let more = page.members.len() == LISTED_MAX as usize;
        after = page.members.last().filter(|_| more).cloned();
        names.extend(page.members.into_iter().map(|member| member.name));
        if after.is_none() {
            return Ok(names);
        }
    }
    Err(fault(Reason::StoreRejected, "The user has more sessions in the store than may be."))
}
