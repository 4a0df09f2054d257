//! Redis on several servers: primaries that are replaced, die or hang, and slots that move.
//! After a kill, a schedule waits until there is a primary again, however long that takes.

use std::time::Duration;

use super::Outcome;
use super::hosts::{Hosts, Time};
use crate::host::Launch;
use crate::redis_topology::{Cluster, Sentinels};
use crate::wait;

/// Two hosts on whatever is at a URL, which wait for one replica or for none.
fn two(url: &str, waiting: bool) -> Hosts {
    let launch = Launch::redis_at(url).set("REDIS_TIMEOUT", "1s");
    let launch = if waiting { launch.set("REDIS_WAIT_REPLICAS", "1") } else { launch };
    Hosts::start([launch.clone(), launch])
}

/// Sentinels replace a primary that is well; they do so every ten seconds at most.
pub async fn fail_over(time: Duration, waiting: bool) -> Outcome {
    let sentinels = Sentinels::start().await;
    let hosts = two(&sentinels.url(), waiting);
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

/// The primary dies; it comes back as a replica once its replica has taken over.
pub async fn kill_primary(time: Duration, waiting: bool) -> Outcome {
    let mut sentinels = Sentinels::start().await;
    let hosts = two(&sentinels.url(), waiting);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        let killed = wait::until("there is a primary", async || sentinels.primary()).await;
        sentinels.servers[killed].kill().await;
        wait::until("the replica takes over", async || {
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

/// A replica of a Cluster takes over from a primary that hands over.
pub async fn cluster_fail_over(time: Duration) -> Outcome {
    let cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), false);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        cluster.fail_over();
    }
    Ok(load.finish().await)
}

/// A primary of a Cluster dies, and comes back once its replica has taken over.
pub async fn cluster_kill(time: Duration, waiting: bool) -> Outcome {
    let mut cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), waiting);
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

/// A primary of a Cluster hangs until its replica has taken over.
pub async fn cluster_stop(time: Duration) -> Outcome {
    let cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), false);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(2000).await {
        let stopped = cluster.primaries()[0];
        let replicas = cluster.replicas_of(stopped);
        cluster.servers[stopped].signal("STOP");
        wait::until("the replica takes over", async || {
            replicas.iter().any(|replica| cluster.is_primary(*replica)).then_some(())
        })
        .await;
        time.pass(1000).await;
        cluster.servers[stopped].signal("CONT");
        time.pass(3000).await;
    }
    Ok(load.finish().await)
}

async fn three_primaries(cluster: &Cluster, without: usize) {
    wait::until("the replica takes over", async || {
        let primaries = cluster.primaries();
        (primaries.len() == 3 && !primaries.contains(&without)).then_some(())
    })
    .await;
}

/// Slots move while they are used.
pub async fn reshard(time: Duration) -> Outcome {
    let cluster = Cluster::start().await;
    let hosts = two(&cluster.url(), false);
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
