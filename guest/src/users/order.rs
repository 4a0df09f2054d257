//! The order of a user's sessions: by creation, whatever their lifetimes. Their ids are in a
//! second expiring set. Its deadlines are not ends: they are the instant of creation plus a
//! constant, so no use and no setting moves them.
//!
//! A release without this set may run beside this one, or have run since. So each list
//! compares both sets, and repairs the order where they differ. Invariant: a session without
//! a record has ended for good, as no id is used twice.

use std::collections::BTreeSet;

use crate::fault::{Reason, fault};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::User as Keys;
use crate::store::{Member, Order};
use crate::transaction::{Branch, Transaction, instant, read_all};
use crate::users::attributes::CREATED_FIELD;

/// The constant that is added to the instant of creation: more than the 10 years that a session
/// may live.
const BEYOND_LIFETIME_MS: u64 = 11 * 366 * 24 * 3600 * 1000;
/// The most members that one listing reads.
const LISTED_MAX: u32 = 10_000;
/// The most listings of one set. It has as many members as a user may have sessions, and those
/// that ended unnoticed. The next repair handles the members after that.
const LISTINGS_MAX: usize = 8;
/// The most operations of one step of a repair.
const STEP_MAX: usize = 1000;

/// Puts a session that begins in this transaction into the order.
pub fn insert(branch: &mut Branch, keys: &Keys, session_id: &str) {
    branch.put(keys.order.as_str(), session_id, BEYOND_LIFETIME_MS);
}

/// Takes a session out of the order.
pub fn remove(branch: &mut Branch, keys: &Keys, session_id: &str) {
    branch.remove(keys.order.as_str(), session_id);
}

/// Takes all sessions out of the order, or all but one.
pub fn clear(branch: &mut Branch, keys: &Keys, except: Option<String>) {
    branch.clear(keys.order.as_str(), except, None, None);
}

/// When a session of the order was created.
pub fn created_at_ms(member: &Member) -> u64 {
    member.expires_at_ms.saturating_sub(BEYOND_LIFETIME_MS)
}

/// The deadline, in the order, of a session that was created at an instant; none when no
/// session can have been.
pub fn deadline_of(created_at_ms: u64) -> Option<u64> {
    created_at_ms.checked_add(BEYOND_LIFETIME_MS)
}

/// Repairs the order, so that it has exactly the sessions that are alive. A second repair
/// changes nothing.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn repair(imports: &impl Imports, keys: &Keys) -> Result<(), Fault> {
    // The order is listed first. A session that begins between the two listings looks missing,
    // and the repair writes the deadline that it has already. A session that ends between them
    // looks gone, and is.
    let ordered = all(imports, &keys.order)?;
    let alive = all(imports, &keys.sessions)?;
    let gone: Vec<&String> = ordered.difference(&alive).collect();
    for step in gone.chunks(STEP_MAX) {
        let mut transaction = Transaction::new();
        step.iter().for_each(|id| remove(&mut transaction.then, keys, id));
        transaction.execute(imports)?;
    }
    let missing: Vec<&String> = alive.difference(&ordered).collect();
    for step in missing.chunks(STEP_MAX) {
        let records = step.iter().map(|id| keys.session(id));
        let (records, _) = read_all(imports, records, &[CREATED_FIELD])?;
        let mut transaction = Transaction::new();
        for (&id, record) in step.iter().zip(records) {
            let created_at_ms =
                record.map(|hash| instant(&hash, CREATED_FIELD).unwrap_or_default());
            match created_at_ms.and_then(deadline_of) {
                Some(at_ms) => drop(transaction.then.put_until(keys.order.as_str(), id, at_ms)),
                // Another program has deleted only its record.
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
