//! What tells the user of a connection whose id somebody has chosen. It is in the partition
//! of the id, and has to outlive the record, which is in that of the user.

use super::{LOCATED_FIELD, USER_FIELD};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::{self, Partition};
use crate::policy::Policy;
use crate::store::{Compare, Expiry, HashStamp, Operation, Reply};
use crate::transaction::{execute, moment, read, text, unexpected_replies};

/// How long a locator is kept.
pub fn kept_ms(policy: &Policy) -> u64 {
    2 * policy.connection_ttl_ms
}

/// Keeps the locators of those connections for which it is time.
pub fn keep_due(
    imports: &impl Imports,
    policy: &Policy,
    partition: Partition,
    session_ids: &[&str],
    now_ms: u64,
) -> Result<(), Fault> {
    if session_ids.is_empty() {
        return Ok(());
    }
    let stamps = session_ids.iter().map(|id| read(partition.connection(id), &[LOCATED_FIELD]));
    let outcome = execute(imports, Vec::new(), stamps.collect(), Vec::new())?;
    let asks = |reply: &Reply| match reply {
        Reply::Record(Some(record)) => is_due(policy, moment(record, LOCATED_FIELD), now_ms),
        _ => false,
    };
    let due = session_ids.iter().zip(&outcome.replies).filter(|(_, reply)| asks(reply));
    let due: Vec<&str> = due.map(|(id, _)| *id).collect();
    keep(imports, policy, partition, &due)
}

/// Has the locators of connections outlive their records.
pub fn keep(
    imports: &impl Imports,
    policy: &Policy,
    partition: Partition,
    session_ids: &[&str],
) -> Result<(), Fault> {
    let mut placed: Vec<(Partition, &str)> =
        session_ids.iter().map(|id| (Partition::of(id), *id)).collect();
    placed.sort_unstable();
    for same in placed.chunk_by(|(a, _), (b, _)| a == b) {
        let ttl_ms = kept_ms(policy);
        let kept = same
            .iter()
            .map(|(_, id)| Operation::HashExpire(Expiry { key: keys::connection_of(id), ttl_ms }));
        execute(imports, Vec::new(), kept.collect(), Vec::new())?;
    }
    for id in session_ids {
        let key = partition.connection(id);
        let stamp = HashStamp { key: key.clone(), field: LOCATED_FIELD.into(), later_ms: 0 };
        let there = vec![Compare::Exists(key)];
        execute(imports, there, vec![Operation::HashStamp(stamp)], Vec::new())?;
    }
    Ok(())
}

/// Whether half of the time of a locator has passed, if there is one.
pub fn is_due(policy: &Policy, located_ms: Option<u64>, now_ms: u64) -> bool {
    located_ms.is_some_and(|located_ms| now_ms >= located_ms + policy.connection_ttl_ms)
}

/// Whose connection an id is that somebody has chosen.
pub fn user_of(imports: &impl Imports, session_id: &str) -> Result<Option<String>, Fault> {
    let locator = read(keys::connection_of(session_id), &[USER_FIELD]);
    let outcome = execute(imports, Vec::new(), vec![locator], Vec::new())?;
    match &outcome.replies[..] {
        [Reply::Record(locator)] => {
            Ok(locator.as_ref().and_then(|locator| text(locator, USER_FIELD)))
        }
        _ => Err(unexpected_replies()),
    }
}
