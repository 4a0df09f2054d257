//! Renewing and ending connections that were found, if they are still as they were.

use crate::connections::lease;
use crate::connections::record::{
    ALIVE_UNTIL_FIELD, BY_FIELD, ENDED_FIELD, EPOCH_FIELD, Ending, REASON_FIELD, pod_member, queued,
};
use crate::events::Event;
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::Partition;
use crate::policy::Policy;
use crate::transaction::{Branch, Conditions, Transaction, by_halves, entry};

/// How many connections one transaction changes; each needs two compares.
const BATCH: usize = 32;

/// A connection to change, if it is still alive and on the same pod.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The partition of its user.
    pub partition: Partition,
    /// Its user.
    pub user_id: &'a str,
    /// Its id.
    pub session_id: &'a str,
    /// The pod that holds it.
    pub pod_id: &'a str,
    /// The epoch of the registration that it must be; none for any.
    pub epoch: Option<&'a str>,
}

/// How long a connection lives on after a heartbeat.
#[derive(Clone, Copy, Debug)]
pub enum Life {
    /// For `CONNECTION_STALE`, as no other user can have its id.
    Full,
    /// For `CONNECTION_STALE` after a time, as far as the lease on its id allows.
    Leased {
        /// The store's clock before.
        now_ms: u64,
        /// When the lease ends.
        until_ms: u64,
    },
}

impl Life {
    /// Until when a connection lives that has a heartbeat at a time of the store's clock.
    pub fn alive_until_ms(self, policy: &Policy, now_ms: u64) -> u64 {
        match self {
            Self::Full => now_ms + policy.connection_stale_ms,
            Self::Leased { now_ms, until_ms } => lease::alive_until_ms(policy, now_ms, until_ms),
        }
    }
}

impl<'a> Target<'a> {
    /// A member of the set of a pod.
    pub fn listed(partition: Partition, pod_id: &'a str, member: &'a str) -> Option<Self> {
        let (user_id, session_id) = member.split_once('\n')?;
        Some(Self { partition, user_id, session_id, pod_id, epoch: None })
    }

    /// The key of its record.
    pub fn record(&self) -> String {
        self.partition.connection(self.session_id, self.user_id)
    }

    /// Requires that it is alive, on its pod, and the registration that it has to be.
    pub fn require(&self, when: &mut Conditions) {
        let member = pod_member(self.user_id, self.session_id);
        when.member(self.partition.pod(self.pod_id), member);
        match self.epoch {
            Some(epoch) => when.field_is(self.record(), EPOCH_FIELD, epoch),
            None => when.exists(self.record()),
        }
    }

    /// Keeps it for another lifetime.
    pub fn keep(&self, branch: &mut Branch, policy: &Policy, life: Life) {
        let stale_ms = policy.connection_stale_ms;
        let of_user = (self.partition.connections(self.user_id), self.session_id.to_owned());
        let of_pod = (self.partition.pod(self.pod_id), pod_member(self.user_id, self.session_id));
        for (set, member) in [of_user, of_pod] {
            match life {
                Life::Full => branch.put(set, member, stale_ms),
                Life::Leased { now_ms, until_ms } => {
                    let alive_until_ms = lease::alive_until_ms(policy, now_ms, until_ms);
                    branch.put_until(set, member, alive_until_ms)
                }
            };
        }
        match life {
            Life::Full => drop(branch.stamp(self.record(), ALIVE_UNTIL_FIELD, stale_ms)),
            Life::Leased { now_ms, until_ms } => {
                let alive_until_ms = lease::alive_until_ms(policy, now_ms, until_ms);
                let alive_until = entry(ALIVE_UNTIL_FIELD, &alive_until_ms.to_string());
                branch.update(self.record(), vec![alive_until]);
            }
        }
        branch.expire(self.record(), policy.connection_ttl_ms);
    }

    /// Ends it, and publishes that.
    fn end(&self, branch: &mut Branch, policy: &Policy, ending: &Ending<'_>) {
        let member = pod_member(self.user_id, self.session_id);
        branch.remove(self.partition.connections(self.user_id), self.session_id);
        branch.remove(self.partition.pod(self.pod_id), member);
        queued(self.partition, self.user_id, self.session_id).dequeue(branch);
        let entries = vec![
            entry(ENDED_FIELD, ending.how.name()),
            entry(REASON_FIELD, ending.reason()),
            entry(BY_FIELD, ending.by),
        ];
        branch.write(self.record(), entries, policy.connection_ttl_ms);
        let event = Event {
            pod_id: self.pod_id,
            reason: ending.reason(),
            by: ending.by,
            ..Event::of(ending.how.event(), self.user_id, self.session_id)
        };
        event.publish(branch, policy, self.partition);
    }
}

/// Ends the connections of one partition that are still as they were found, and says which.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn end(
    imports: &impl Imports,
    policy: &Policy,
    targets: &[Target<'_>],
    ending: &Ending<'_>,
) -> Result<Vec<bool>, Fault> {
    let mut ended = vec![false; targets.len()];
    by_halves(targets, BATCH, |start, batch| {
        let mut transaction = Transaction::new();
        for target in batch {
            target.require(&mut transaction.when);
            target.end(&mut transaction.then, policy, ending);
        }
        let succeeded = transaction.execute(imports)?.succeeded;
        ended[start..start + batch.len()].fill(succeeded);
        Ok(succeeded)
    })?;
    Ok(ended)
}

/// Keeps the connections of one partition and pod that are still as they were found. Returns
/// which, and the store's clock.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn renew(
    imports: &impl Imports,
    policy: &Policy,
    targets: &[(Target<'_>, Life)],
) -> Result<(Vec<bool>, u64), Fault> {
    let mut renewed = vec![false; targets.len()];
    let mut now_ms = 0;
    by_halves(targets, BATCH, |start, batch| {
        let mut transaction = Transaction::new();
        for (target, life) in batch {
            target.require(&mut transaction.when);
            target.keep(&mut transaction.then, policy, *life);
        }
        if let Some((first, _)) = batch.first() {
            let pods = first.partition.pods();
            transaction.then.put(pods, first.pod_id, policy.connection_stale_ms);
        }
        let done = transaction.execute(imports)?;
        now_ms = done.now_ms;
        renewed[start..start + batch.len()].fill(done.succeeded);
        Ok(done.succeeded)
    })?;
    Ok((renewed, now_ms))
}
