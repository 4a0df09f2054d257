//! Keeping and ending connections that were found, if they are still as they were.

use super::record::Ending;
use super::{BY_FIELD, ENDED_FIELD, EPOCH_FIELD, REASON_FIELD};
use crate::connections_types::Connection;
use crate::events::Event;
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::Partition;
use crate::maintenance::{self, Kind};
use crate::policy::Policy;
use crate::store::{Compare, Expiry, FieldTest, HashSet, MemberRef, MemberSet, Operation};
use crate::transaction::{entry, execute};

/// How many connections one transaction changes; each needs two compares.
const BATCH: usize = 32;

/// A connection to be changed, if it is still alive and where it was found.
pub struct Target<'a> {
    partition: Partition,
    pub user_id: &'a str,
    pub session_id: &'a str,
    pub pod_id: &'a str,
    /// When it has to be as it was read.
    epoch: Option<&'a str>,
}

impl<'a> Target<'a> {
    pub fn of(partition: Partition, connection: &'a Connection) -> Self {
        let Connection { user_id, session_id, pod_id, epoch, .. } = connection;
        Self { partition, user_id, session_id, pod_id, epoch: Some(epoch) }
    }

    /// A member of the set of a pod.
    pub fn listed(partition: Partition, pod_id: &'a str, name: &'a str) -> Option<Self> {
        let (user_id, session_id) = name.split_once('\n')?;
        Some(Self { partition, user_id, session_id, pod_id, epoch: None })
    }

    fn of_pod(&self) -> MemberRef {
        let member = pod_member(self.user_id, self.session_id);
        MemberRef { key: self.partition.pod(self.pod_id), member }
    }

    fn of_user(&self) -> MemberRef {
        user_member(self.partition, self.user_id, self.session_id)
    }

    fn holds(&self) -> impl Iterator<Item = Compare> {
        let test = |epoch| epoch_is(self.partition, self.session_id, epoch);
        let epoch = self.epoch.map(test).map(Compare::FieldEquals);
        std::iter::once(Compare::MemberPresent(self.of_pod())).chain(epoch)
    }

    fn keep(&self, policy: &Policy) -> [Operation; 3] {
        let place = |MemberRef { key, member }| {
            Operation::MemberSet(MemberSet { key, member, ttl_ms: policy.connection_stale_ms })
        };
        [
            place(self.of_user()),
            place(self.of_pod()),
            Operation::HashExpire(Expiry {
                key: self.partition.connection(self.session_id),
                ttl_ms: policy.connection_ttl_ms,
            }),
        ]
    }

    fn end(&self, policy: &Policy, ending: &Ending<'_>) -> [Operation; 5] {
        let event = Event {
            pod_id: self.pod_id,
            reason: ending.reason(),
            by: ending.by,
            ..Event::of(ending.how.event(), self.user_id, self.session_id)
        };
        [
            Operation::MemberRemove(self.of_user()),
            Operation::MemberRemove(self.of_pod()),
            maintenance::forget(self.partition, Kind::Connection, self.user_id, self.session_id),
            Operation::HashSet(HashSet {
                key: self.partition.connection(self.session_id),
                entries: vec![
                    entry(ENDED_FIELD, ending.how.name()),
                    entry(REASON_FIELD, ending.reason()),
                    entry(BY_FIELD, ending.by),
                ],
                ttl_ms: Some(policy.connection_ttl_ms),
            }),
            event.append(policy, self.partition),
        ]
    }
}

/// Ends the connections that are still as they were found, and returns how many.
pub fn end(
    imports: &impl Imports,
    policy: &Policy,
    targets: &[Target<'_>],
    ending: &Ending<'_>,
) -> Result<u32, Fault> {
    let change = |target: &Target<'_>| target.end(policy, ending).to_vec();
    let (ended, _) = change_all(imports, targets, &change, &[])?;
    Ok(ended.into_iter().filter(|ended| *ended).count() as u32)
}

/// Keeps the connections that are still as they were found, and tells which, and when.
pub fn renew(
    imports: &impl Imports,
    policy: &Policy,
    targets: &[Target<'_>],
) -> Result<(Vec<bool>, u64), Fault> {
    let Some(first) = targets.first() else { return Ok((Vec::new(), 0)) };
    let pod = Operation::MemberSet(MemberSet {
        key: first.partition.pods(),
        member: first.pod_id.into(),
        ttl_ms: policy.connection_stale_ms,
    });
    change_all(imports, targets, &|target| target.keep(policy).to_vec(), &[pod])
}

/// Changes connections of one partition, as many in one step as may be, and tells which
/// were still as they were found, and when that was.
fn change_all(
    imports: &impl Imports,
    targets: &[Target<'_>],
    change: &dyn Fn(&Target<'_>) -> Vec<Operation>,
    also: &[Operation],
) -> Result<(Vec<bool>, u64), Fault> {
    let mut changed = Vec::with_capacity(targets.len());
    let mut now_ms = 0;
    // From the front to the back; a batch that does not hold is halved.
    let mut batches: Vec<&[Target<'_>]> = targets.chunks(BATCH).rev().collect();
    while let Some(batch) = batches.pop() {
        let compare = batch.iter().flat_map(Target::holds).collect();
        let mut success: Vec<Operation> = batch.iter().flat_map(change).collect();
        success.extend(also.iter().cloned());
        let outcome = execute(imports, compare, success, Vec::new())?;
        now_ms = outcome.now_ms;
        match batch {
            _ if outcome.succeeded => changed.extend(batch.iter().map(|_| true)),
            [] | [_] => changed.push(false),
            several => {
                let (these, those) = several.split_at(several.len() / 2);
                batches.extend([those, these]);
            }
        }
    }
    Ok((changed, now_ms))
}

/// What a connection is called among those of a pod; no id of a user has a line break.
pub fn pod_member(user_id: &str, session_id: &str) -> String {
    format!("{user_id}\n{session_id}")
}

/// A connection among those of its user.
pub fn user_member(partition: Partition, user_id: &str, session_id: &str) -> MemberRef {
    MemberRef { key: partition.connections(user_id), member: session_id.into() }
}

/// The registration is still this one.
pub fn epoch_is(partition: Partition, session_id: &str, epoch: &str) -> FieldTest {
    FieldTest {
        key: partition.connection(session_id),
        field: EPOCH_FIELD.into(),
        value: epoch.into(),
    }
}
