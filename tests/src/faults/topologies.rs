//! Redis on several servers: primaries that are replaced, killed or stopped, and slots that
//! move. After a kill, a schedule waits until there is a primary again.

use std::time::Duration;

use super::Outcome;
use super::hosts::{Hosts, Time};
use crate::host::Launch;
use crate::machine::Machines;
use crate::redis_topology::{Cluster, Sentinels};
use crate::wait;

/// A host on the Redis at a URL, which waits for this many replicas.
fn launch(url: &str, waits_for: u32) -> Launch {
    let launch = Launch::redis_at(url).set("REDIS_TIMEOUT", "1s");
    launch.set("REDIS_WAIT_REPLICAS", &waits_for.to_string())
}

fn two(url: &str, waits_for: u32) -> Hosts {
    Hosts::start([launch(url, waits_for), launch(url, waits_for)])
}

/// Sentinels replace a healthy primary, at most every ten seconds.
pub async fn fail_over(time: Duration, replicas: usize, waits_for: u32) -> Outcome {
    let sentinels = Sentinels::with_replicas(replicas).await;
    let hosts = two(&sentinels.url(), waits_for);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        sentinels.fail_over().await;
        if !time.pass(10_000).await {
            break;
        }
    }
    Ok(load.finish().await)
}

/// The primary is killed. It is restarted as a replica once its replica was promoted.
pub async fn kill_primary(time: Duration, waits_for: u32) -> Outcome {
    let mut sentinels = Sentinels::start().await;
    let hosts = two(&sentinels.url(), waits_for);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        let killed = wait::until("there is a primary", async || sentinels.primary()).await;
        sentinels.servers[killed].kill().await;
        wait::until("the replica is promoted", async || {
            sentinels.primary().filter(|primary| *primary != killed)
        })
        .await;
        time.pass(1000).await;
        sentinels.servers[killed].restart().await;
        if !time.pass(10_000).await {
            break;
        }
    }
    Ok(load.finish().await)
}

/// The primary and a host are cut off from all others for twelve seconds, and the replica is
/// promoted. Then the same happens the other way round.
pub async fn partition(time: Duration, waits_for: u32) -> Outcome {
    let machines = Machines::start(3)?;
    let sentinels = Sentinels::on([0, 1, 2].map(|number| machines.get(number)), 1).await;
    let launch = launch(&sentinels.url(), waits_for);
    let hosts = Hosts::start([0, 1].map(|number| launch.clone().on(machines.get(number))));
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        let cut = wait::until("there is a primary", async || sentinels.primary()).await;
        machines.cut_off(cut, true);
        time.pass(12_000).await;
        machines.cut_off(cut, false);
        wait::until("the replica is the only primary", async || {
            (sentinels.primaries() == [1 - cut]).then_some(())
        })
        .await;
        time.pass(5000).await;
    }
    let left = load.finish().await;
    drop((hosts, sentinels));
    Ok(left)
}

/// A healthy primary of a Cluster hands over to its replica.
pub async fn cluster_fail_over(time: Duration, waits_for: u32) -> Outcome {
    let cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), waits_for);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        cluster.fail_over();
    }
    Ok(load.finish().await)
}

/// A primary of a Cluster is killed. It is restarted once its replica was promoted.
pub async fn cluster_kill(time: Duration, waits_for: u32) -> Outcome {
    let mut cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), waits_for);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        let killed = cluster.primaries()[0];
        cluster.servers[killed].kill().await;
        three_primaries(&cluster, killed).await;
        time.pass(1000).await;
        cluster.servers[killed].restart().await;
        time.pass(3000).await;
    }
    Ok(load.finish().await)
}

/// A primary of a Cluster is stopped until its replica was promoted.
pub async fn cluster_stop(time: Duration, waits_for: u32) -> Outcome {
    let cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), waits_for);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        let stopped = cluster.primaries()[0];
        let replicas = cluster.replicas_of(stopped);
        cluster.servers[stopped].signal("STOP");
        wait::until("the replica is promoted", async || {
            replicas.iter().any(|replica| cluster.is_primary(*replica)).then_some(())
        })
        .await;
        time.pass(1000).await;
        cluster.servers[stopped].signal("CONT");
        time.pass(3000).await;
    }
    Ok(load.finish().await)
}

/// A machine of a Cluster is cut off from all others for twelve seconds. It runs a primary, the
/// replica of another primary, and a host.
pub async fn cluster_partition(time: Duration, waits_for: u32) -> Outcome {
    let machines = Machines::start(3)?;
    let cluster = Cluster::on([0, 1, 2].map(|number| machines.get(number))).await;
    let launch = launch(&cluster.url(), waits_for);
    let hosts = Hosts::start([0, 1].map(|number| launch.clone().on(machines.get(number))));
    let load = hosts.load().await;
    let time = Time::new(time);
    for cut in (0..3).cycle() {
        if !time.pass(2000).await {
            break;
        }
        let before = cluster.primaries();
        machines.cut_off(cut, true);
        time.pass(12_000).await;
        machines.cut_off(cut, false);
        wait::until("there are three primaries on the other machines", async || {
            let primaries = cluster.primaries();
            let is_over = before.iter().all(|it| it % 3 != cut || !primaries.contains(it));
            (is_over && primaries.len() == 3).then_some(())
        })
        .await;
        time.pass(5000).await;
    }
    let left = load.finish().await;
    drop((hosts, cluster));
    Ok(left)
}

async fn three_primaries(cluster: &Cluster, without: usize) {
    wait::until("the replica is promoted", async || {
        let primaries = cluster.primaries();
        (primaries.len() == 3 && !primaries.contains(&without)).then_some(())
    })
    .await;
}

/// Slots move from one primary to another while they are in use.
pub async fn reshard(time: Duration) -> Outcome {
    let cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), 0);
    let load = hosts.load().await;
    let time = Time::new(time);
    let primaries = cluster.primaries();
    let (mut from, mut to) = (primaries[0], primaries[1]);
    while time.pass(1000).await {
        if !cluster.reshard(from, to, 1000).await {
            return Err("redis-cli does not move slots".into());
        }
        (from, to) = (to, from);
    }
    Ok(load.finish().await)
}
