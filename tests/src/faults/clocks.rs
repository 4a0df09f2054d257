//! Clocks that are wrong: of hosts on one Redis, which counts by its own, and of a host whose
//! embedded store counts by the clock of the process.

use std::time::Duration;

use super::Outcome;
use super::hosts::{Hosts, Time};
use crate::fake_clock;
use crate::host::Launch;
use crate::redis_server::RedisServer;

/// Two hosts, ten minutes apart.
pub async fn hosts_apart(time: Duration) -> Outcome {
    let redis = RedisServer::start().await;
    let launch = |off| Launch::redis(&redis).clock(off, true);
    let hosts = Hosts::start([launch("+5m"), launch("-5m")]);
    let load = hosts.load().await;
    tokio::time::sleep(time).await;
    Ok(load.finish().await)
}

/// The clock of the process that has the store goes ahead and back.
pub async fn embedded_steps(time: Duration) -> Outcome {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let step = |off: &str| {
        // In one step, as the process reads it at any time.
        let (new, file) = (directory.path().join("new"), directory.path().join("clock"));
        let written = std::fs::write(&new, off).and_then(|()| std::fs::rename(new, &file));
        written.map(|()| file).map_err(|error| error.to_string())
    };
    let settings = fake_clock::stepping(&step("+0")?);
    let launch = Launch::embedded(&directory.path().join("data"));
    let launch = settings.iter().fold(launch, |launch, (name, value)| launch.set(name, value));
    let hosts = Hosts::start([launch]);
    let load = hosts.load().await;
    let time = Time::new(time);
    for off in ["+3s", "+0"].iter().cycle() {
        if !time.pass(2500).await {
            break;
        }
        step(off)?;
    }
    let left = load.finish().await;
    drop(hosts);
    Ok(left)
}
