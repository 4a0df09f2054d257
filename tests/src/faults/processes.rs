//! Hosts and Redis servers that are killed, or stopped for a while.

use std::time::Duration;

use super::Outcome;
use super::hosts::{Hosts, Time};
use crate::host::Launch;
use crate::redis_server::RedisServer;

/// No fault.
pub async fn nothing(time: Duration) -> Outcome {
    let redis = RedisServer::start().await;
    let hosts = Hosts::start([Launch::redis(&redis), Launch::redis(&redis)]);
    let load = hosts.load().await;
    tokio::time::sleep(time).await;
    Ok(load.finish().await)
}

/// The two hosts are killed and restarted in turns.
pub async fn kill_host(time: Duration) -> Outcome {
    let redis = RedisServer::start().await;
    let mut hosts = Hosts::start([Launch::redis(&redis), Launch::redis(&redis)]);
    let load = hosts.load().await;
    let time = Time::new(time);
    let mut number = 0;
    while time.pass(1000).await {
        hosts.kill(number).await;
        hosts.restart(number);
        number = (number + 1) % hosts.count();
    }
    Ok(load.finish().await)
}

/// The only host is killed and restarted on its files.
pub async fn kill_embedded(time: Duration) -> Outcome {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut hosts = Hosts::start([Launch::embedded(directory.path())]);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(1500).await {
        hosts.kill(0).await;
        hosts.restart(0);
    }
    let left = load.finish().await;
    drop(hosts);
    Ok(left)
}

/// Redis is killed and restarted on its append-only file, which it syncs before each answer.
pub async fn kill_redis(time: Duration) -> Outcome {
    let mut redis = RedisServer::with(&["--appendfsync", "always"]).await;
    let launch = Launch::redis(&redis).set("REDIS_TIMEOUT", "1s");
    let hosts = Hosts::start([launch.clone(), launch]);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(1500).await {
        redis.kill().await;
        time.pass(300).await;
        redis.restart().await;
    }
    Ok(load.finish().await)
}

/// The two hosts are stopped in turns.
pub async fn stop_host(time: Duration) -> Outcome {
    let redis = RedisServer::start().await;
    let hosts = Hosts::start([Launch::redis(&redis), Launch::redis(&redis)]);
    let load = hosts.load().await;
    let time = Time::new(time);
    let mut number = 0;
    while time.pass(1000).await {
        hosts.signal(number, "STOP");
        time.pass(1000).await;
        hosts.signal(number, "CONT");
        number = (number + 1) % hosts.count();
    }
    Ok(load.finish().await)
}

/// Redis is stopped for longer than the time-out of its hosts.
pub async fn stop_redis(time: Duration) -> Outcome {
    let redis = RedisServer::start().await;
    let launch = Launch::redis(&redis).set("REDIS_TIMEOUT", "500ms");
    let hosts = Hosts::start([launch.clone(), launch]);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(1500).await {
        redis.signal("STOP");
        time.pass(1000).await;
        redis.signal("CONT");
    }
    Ok(load.finish().await)
}
