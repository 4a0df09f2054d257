//! The lease on a chosen id. Users may choose any id, so a lease in the partition of the id says
//! whose it is; the connection itself is in the partition of its user.
//!
//! Invariants, on one store's clock:
//! - Only the user who holds the lease on an id has a live connection of it. A connection was
//!   last renewed under some lease, and is alive at most until [`SKEW_MS`] before that lease ends.
//! - A lease is taken when no user or the same user holds it, in one transaction.
//! - A lease is given back only after the connection has ended, and only by the registration
//!   that has taken it last. So an earlier registration cannot give back the lease of a later one.
//!
//! When a holder crashes, another user gets the id once the lease has ended: `CONNECTION_STALE`
//! and [`SKEW_MS`] after the last heartbeat.

use crate::connections::record::{EPOCH_FIELD, POD_FIELD, USER_FIELD};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::{self, Partition};
use crate::policy::Policy;
use crate::store::Hash;
use crate::transaction::{Transaction, by_halves, entry, read, read_all, text, unexpected_replies};

/// How far the clocks of two servers of a store may be apart.
pub const SKEW_MS: u64 = 5000;

/// The registration that a lease names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its epoch.
    pub epoch: String,
    /// Its pod.
    pub pod_id: String,
}

/// A lease that was just taken.
#[derive(Debug)]
pub struct Taken {
    /// When it ends.
    pub until_ms: u64,
    /// The store's clock.
    pub now_ms: u64,
    /// The registration of the same user that held it before.
    pub before: Option<Holder>,
}

/// How long a lease lasts.
fn ttl_ms(policy: &Policy) -> u64 {
    policy.connection_stale_ms + SKEW_MS
}

/// How long the store keeps who had an id last: as long as the record.
fn owner_ttl_ms(policy: &Policy) -> u64 {
    policy.connection_ttl_ms + ttl_ms(policy)
}

/// How long a connection may live after a heartbeat now, under a lease that ends then.
pub fn alive_until_ms(policy: &Policy, now_ms: u64, leased_until_ms: u64) -> u64 {
    let leased_ms = leased_until_ms.saturating_sub(SKEW_MS);
    leased_ms.min(now_ms + policy.connection_stale_ms)
}

/// Takes the lease for a registration; none when another user holds it.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn take(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    user_id: &str,
    holder: &Holder,
) -> Result<Option<Taken>, Fault> {
    let lease = keys::connection_lease(session_id);
    let mut transaction = Transaction::new();
    transaction.when.field_is_or_absent(lease.as_str(), USER_FIELD, user_id);
    let before = transaction.then.read(lease.as_str(), &FIELDS);
    let entries = vec![
        entry(USER_FIELD, user_id),
        entry(EPOCH_FIELD, &holder.epoch),
        entry(POD_FIELD, &holder.pod_id),
    ];
    let until = transaction.then.write(lease, entries, ttl_ms(policy));
    let owner = keys::connection_owner(session_id);
    transaction.then.write(owner, vec![entry(USER_FIELD, user_id)], owner_ttl_ms(policy));
    let mut done = transaction.execute(imports)?;
    if !done.succeeded {
        return Ok(None);
    }
    let before = done.take(before)?.and_then(|lease| Held::of(&lease, done.now_ms));
    let before = before.map(|held| held.holder);
    let until_ms = done.take(until)?.ok_or_else(unexpected_replies)?;
    Ok(Some(Taken { until_ms, now_ms: done.now_ms, before }))
}

/// Gives a lease back whose connection has ended, unless a later registration has taken it.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn release(imports: &impl Imports, session_id: &str, epoch: &str) -> Result<(), Fault> {
    let lease = keys::connection_lease(session_id);
    let mut transaction = Transaction::new();
    transaction.when.field_is(lease.as_str(), EPOCH_FIELD, epoch);
    transaction.then.delete(lease);
    transaction.execute(imports).map(drop)
}

/// A lease as it was found.
#[derive(Debug)]
pub struct Held {
    /// Its user.
    pub user_id: String,
    /// The registration that has taken it.
    pub holder: Holder,
    /// When it ends.
    pub until_ms: u64,
    /// The store's clock.
    pub now_ms: u64,
}

/// Renews the lease on an id: for any holder, or only if this user holds it. None when there is
/// no such lease.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn touch(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    user_id: Option<&str>,
) -> Result<Option<Held>, Fault> {
    let lease = keys::connection_lease(session_id);
    let mut transaction = Transaction::new();
    match user_id {
        Some(user_id) => transaction.when.field_is(lease.as_str(), USER_FIELD, user_id),
        None => transaction.when.exists(lease.as_str()),
    }
    transaction.then.expire(lease.as_str(), ttl_ms(policy));
    transaction.then.expire(keys::connection_owner(session_id), owner_ttl_ms(policy));
    let held = transaction.then.read(lease, &FIELDS);
    let mut done = transaction.execute(imports)?;
    if !done.succeeded {
        return Ok(None);
    }
    let held = done.take(held)?;
    Ok(held.and_then(|lease| Held::of(&lease, done.now_ms)))
}

/// The lease on an id; none when there is none.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn look(imports: &impl Imports, session_id: &str) -> Result<Option<Held>, Fault> {
    let (lease, now_ms) = read(imports, keys::connection_lease(session_id), &FIELDS)?;
    Ok(lease.and_then(|lease| Held::of(&lease, now_ms)))
}

/// The fields of a lease.
const FIELDS: [&str; 3] = [USER_FIELD, EPOCH_FIELD, POD_FIELD];

impl Held {
    fn of(lease: &Hash, now_ms: u64) -> Option<Self> {
        let pod_id = text(lease, POD_FIELD).unwrap_or_default();
        let holder = Holder { epoch: text(lease, EPOCH_FIELD)?, pod_id };
        Some(Self {
            user_id: text(lease, USER_FIELD)?,
            holder,
            until_ms: lease.expires_at_ms?,
            now_ms,
        })
    }

    /// Whether it is of this user and registration, or none is named.
    pub fn is_of(&self, user_id: Option<&str>, epoch: Option<&str>) -> bool {
        user_id.is_none_or(|user_id| user_id == self.user_id)
            && epoch.is_none_or(|epoch| epoch == self.holder.epoch)
    }
}

/// How many leases one transaction renews, each with a compare.
const BATCH: usize = 64;

/// Renews the leases of users and ids, and returns the store's clock and until when each lasts, in
/// order; none for one that its user does not hold any more.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn renew(
    imports: &impl Imports,
    policy: &Policy,
    holders: &[(&str, &str)],
) -> Result<Vec<Option<(u64, u64)>>, Fault> {
    let mut renewed = vec![None; holders.len()];
    let mut placed: Vec<(Partition, usize)> =
        holders.iter().enumerate().map(|(at, (_, id))| (Partition::of(id), at)).collect();
    placed.sort_unstable();
    for same in placed.chunk_by(|(a, _), (b, _)| a == b) {
        by_halves(same, BATCH, |_, batch| {
            let mut transaction = Transaction::new();
            let mut leases = Vec::with_capacity(batch.len());
            for &(_, at) in batch {
                let (user_id, session_id) = holders[at];
                let lease = keys::connection_lease(session_id);
                transaction.when.field_is(lease.as_str(), USER_FIELD, user_id);
                leases.push((at, transaction.then.expire(lease, ttl_ms(policy))));
                let owner = keys::connection_owner(session_id);
                transaction.then.expire(owner, owner_ttl_ms(policy));
            }
            let mut done = transaction.execute(imports)?;
            if done.succeeded {
                for (at, lease) in leases {
                    renewed[at] = done.take(lease)?.map(|until_ms| (done.now_ms, until_ms));
                }
            }
            Ok(done.succeeded)
        })?;
    }
    Ok(renewed)
}

/// The user who had an id last.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn owner(imports: &impl Imports, session_id: &str) -> Result<Option<String>, Fault> {
    Ok(owners(imports, &[session_id])?.pop().flatten())
}

/// The users who had ids of one partition last.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn owners(imports: &impl Imports, ids: &[&str]) -> Result<Vec<Option<String>>, Fault> {
    let keys = ids.iter().map(|id| keys::connection_owner(id));
    let (owners, _) = read_all(imports, keys, &[USER_FIELD])?;
    Ok(owners.iter().map(|owner| text(owner.as_ref()?, USER_FIELD)).collect())
}
