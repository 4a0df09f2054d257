//! Fault schedules: a mixed load while faults are injected, judged by the history checker.
//! `tests/faults` runs them and prints the violations of each in a table. A schedule names the
//! judges that must find nothing. Violations of other judges are only shown: the service
//! makes no such promise under that fault.

mod clocks;
mod disks;
mod hosts;
mod network;
mod processes;
mod table;
mod topologies;

use std::time::Duration;

pub use self::table::{Row, heading};
use crate::history::recorder::Counts;
use crate::history::{History, Judge, stale};
use crate::mixed_load::TERMS;

/// A fault, and the promises that must hold in spite of it.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub does: &'static str,
    /// The judges that must find nothing.
    pub promised: &'static [Judge],
    /// The longest time that a caller may wait for an answer, where that is promised.
    pub silence_max: Option<Duration>,
}

/// What the load has recorded, or why the schedule cannot run on this machine.
type Outcome = Result<(History, Counts), String>;

const ALL: &[Judge] = &Judge::ALL;
/// Operations that wait for all replicas survive. Events may be lost, and subscribers then
/// receive a gap. Writes without a condition do not wait, nor does the creation of a login.
const WAITING: &[Judge] =
    &[Judge::Compared, Judge::ReadOnce, Judge::Locks, Judge::Slots, Judge::Closed, Judge::Events];
/// Replication is asynchronous, so a failover loses the last writes; subscribers receive a gap.
const EVENTS: &[Judge] = &[Judge::Events];
/// A clock that is ahead for a while expires locks and slots too early.
const STEPS: &[Judge] = &[
    Judge::Registers,
    Judge::Compared,
    Judge::Writes,
    Judge::ReadOnce,
    Judge::Closed,
    Judge::Logins,
    Judge::Events,
    Judge::Order,
];
/// Twice the node timeout of the Clusters here, and `REDIS_TIMEOUT`.
const SILENCE_MAX: Duration = Duration::from_secs(9);

const fn schedule(name: &'static str, does: &'static str, promised: &'static [Judge]) -> Schedule {
    Schedule { name, does, promised, silence_max: None }
}

/// A schedule that takes away a node of a Cluster. Operations that wait for replicas have to
/// wait longer: until the node is back, as the replica of its successor.
const fn nodes(name: &'static str, does: &'static str, promised: &'static [Judge]) -> Schedule {
    Schedule { name, does, promised, silence_max: Some(SILENCE_MAX) }
}

/// All schedules, in the order in which they run.
pub const SCHEDULES: &[Schedule] = &[
    schedule("nothing", "two hosts on one Redis, and nothing goes wrong", ALL),
    schedule("kill-host", "kill -9 of one of two hosts on one Redis, in turns", ALL),
    schedule("kill-embedded", "kill -9 of a host on the embedded store", ALL),
    schedule("kill-redis", "kill -9 of Redis with appendfsync always", ALL),
    schedule("stop-host", "SIGSTOP of one of two hosts for a second", ALL),
    schedule("stop-redis", "SIGSTOP of Redis for a second", ALL),
    schedule("replies", "replies of Redis lost, doubled, late or cut off, by a proxy", ALL),
    schedule("replies-waiting", "the same with a replica and REDIS_WAIT_REPLICAS=1", ALL),
    schedule("partition", "a proxy passes nothing on between Redis and one of two hosts", ALL),
    schedule("clock-hosts", "two hosts whose clocks are 5 minutes ahead and behind", ALL),
    schedule("clock-embedded", "the clock of an embedded store steps 3 s and back", STEPS),
    schedule("disk-embedded", "a full disk under the embedded store; restart with room", ALL),
    schedule(
        "disk-redis",
        "a full disk under the append-only file of Redis, until it has room",
        ALL,
    ),
    schedule("failover", "planned failover by Sentinels, no waiting for replicas", EVENTS),
    schedule("failover-waiting", "the same with REDIS_WAIT_REPLICAS=1, which is all", WAITING),
    schedule("failover-two-waiting", "with two replicas and REDIS_WAIT_REPLICAS=2", WAITING),
    schedule("failover-one-of-two", "with two replicas and REDIS_WAIT_REPLICAS=1", EVENTS),
    schedule("failover-kill", "kill -9 of the primary that Sentinels watch", EVENTS),
    schedule("failover-kill-waiting", "the same with REDIS_WAIT_REPLICAS=1", WAITING),
    schedule("partition-primary", "a primary and a host cut off from all others for 12 s", EVENTS),
    schedule("partition-primary-waiting", "the same with REDIS_WAIT_REPLICAS=1", WAITING),
    schedule("cluster-failover", "planned failover in a Cluster", ALL),
    schedule("cluster-failover-waiting", "the same with REDIS_WAIT_REPLICAS=1", ALL),
    nodes("cluster-kill", "kill -9 of a primary of a Cluster", EVENTS),
    schedule("cluster-kill-waiting", "the same with REDIS_WAIT_REPLICAS=1", WAITING),
    nodes("cluster-stop", "SIGSTOP of a primary of a Cluster until its replica is there", EVENTS),
    schedule("cluster-stop-waiting", "the same with REDIS_WAIT_REPLICAS=1", WAITING),
    schedule("cluster-partition", "a machine of a Cluster and its host cut off for 12 s", EVENTS),
    schedule("cluster-partition-waiting", "the same with REDIS_WAIT_REPLICAS=1", WAITING),
    schedule("reshard", "slots of a Cluster move from one primary to another and back", ALL),
];

impl Schedule {
    /// The schedule with a name.
    pub fn named(name: &str) -> Option<Self> {
        SCHEDULES.iter().find(|schedule| schedule.name == name).copied()
    }

    /// Runs it for a duration, and judges the recorded history.
    ///
    /// # Errors
    /// Why it cannot run on this machine.
    pub async fn run(self, time: Duration) -> Result<Row, String> {
        let (history, counts) = Box::pin(self.load(time)).await?;
        let stale = stale::longest(&history.overwritten);
        let written = history.written.len();
        let judgement = history.judge(&TERMS);
        Ok(Row { schedule: self, counts, stale, written, judgement })
    }

    async fn load(self, time: Duration) -> Outcome {
        let waiting = self.name.ends_with("-waiting");
        let waits_for = u32::from(waiting);
        match self.name.trim_end_matches("-waiting") {
            "nothing" => processes::nothing(time).await,
            "kill-host" => processes::kill_host(time).await,
            "kill-embedded" => processes::kill_embedded(time).await,
            "kill-redis" => processes::kill_redis(time).await,
            "stop-host" => processes::stop_host(time).await,
            "stop-redis" => processes::stop_redis(time).await,
            "replies" => network::replies(time, waiting).await,
            "partition" => network::partition(time).await,
            "clock-hosts" => clocks::hosts_apart(time).await,
            "clock-embedded" => clocks::embedded_steps(time).await,
            "disk-embedded" => disks::embedded(time).await,
            "disk-redis" => disks::redis(time).await,
            "failover" => topologies::fail_over(time, 1, waits_for).await,
            "failover-two" => topologies::fail_over(time, 2, 2).await,
            "failover-one-of-two" => topologies::fail_over(time, 2, 1).await,
            "failover-kill" => topologies::kill_primary(time, waits_for).await,
            "partition-primary" => topologies::partition(time, waits_for).await,
            "cluster-failover" => topologies::cluster_fail_over(time, waits_for).await,
            "cluster-kill" => topologies::cluster_kill(time, waits_for).await,
            "cluster-stop" => topologies::cluster_stop(time, waits_for).await,
            "cluster-partition" => topologies::cluster_partition(time, waits_for).await,
            "reshard" => topologies::reshard(time).await,
            other => Err(format!("schedule {other} is not implemented")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_has_its_own_name() {
        for schedule in SCHEDULES {
            let same = SCHEDULES.iter().filter(|other| other.name == schedule.name);
            assert_eq!(same.count(), 1, "{}", schedule.name);
            assert!(Schedule::named(schedule.name).is_some());
        }
    }
}
