//! Faults of the network between a host and Redis, injected by a proxy.

use std::time::Duration;

use super::Outcome;
use super::hosts::{Hosts, Time};
use crate::faulty_proxy::{Fault, FaultyProxy, Which};
use crate::host::Launch;
use crate::redis_server::RedisServer;
use crate::redis_topology::follows;

/// A host that uses Redis through a proxy.
fn through(proxy: &FaultyProxy) -> Launch {
    let url = format!("redis://127.0.0.1:{}/5", proxy.port);
    Launch::redis_at(&url).set("REDIS_TIMEOUT", "1s")
}

/// Replies are lost, doubled, delayed or cut off, one after the other. With `waiting`, hosts wait
/// for a replica.
pub async fn replies(time: Duration, waiting: bool) -> Outcome {
    let redis = RedisServer::start().await;
    let proxy = FaultyProxy::before(redis.port).await;
    let mut launches = [through(&proxy), Launch::redis(&redis)];
    let of = format!("127.0.0.1 {}", redis.port);
    let replica = match waiting {
        true => Some(RedisServer::with(&["--replicaof", &of]).await),
        false => None,
    };
    if let Some(replica) = &replica {
        follows(replica).await;
        launches = launches.map(|launch| launch.set("REDIS_WAIT_REPLICAS", "1"));
    }
    let hosts = Hosts::start(launches);
    let load = hosts.load().await;
    let time = Time::new(time);
    let faults = [
        Fault::CutInside,
        Fault::CutBefore,
        Fault::Drop,
        Fault::Double,
        Fault::Delay(Duration::from_millis(300)),
    ];
    for (turn, fault) in faults.iter().cycle().enumerate() {
        if !time.pass(150).await {
            break;
        }
        // The reply to `WAIT` is a number, so half of the faults may affect any reply.
        let which = if waiting && turn % 2 == 0 { Which::Any } else { Which::Array };
        proxy.next(*fault, which);
    }
    Ok(load.finish().await)
}

/// For two seconds, nothing passes between Redis and one of two hosts. No connection is closed.
pub async fn partition(time: Duration) -> Outcome {
    let redis = RedisServer::start().await;
    let proxy = FaultyProxy::before(redis.port).await;
    let hosts = Hosts::start([through(&proxy), Launch::redis(&redis)]);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(1000).await {
        proxy.silence(true);
        time.pass(2000).await;
        proxy.silence(false);
    }
    Ok(load.finish().await)
}
