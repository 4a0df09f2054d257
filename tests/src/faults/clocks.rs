//! Clocks that are wrong. Redis uses its own clock, so those of its hosts do not matter; an
//! embedded store uses the clock of the process.

use std::time::Duration;

use super::Outcome;
use super::hosts::{Hosts, Time};
use crate::fake_clock;
use crate::host::Launch;
use crate::redis_server::RedisServer;

/// Two hosts on one Redis, whose clocks differ by ten minutes.
pub async fn hosts_apart(time: Duration) -> Outcome {
    let redis = RedisServer::start().await;
    let launch = |off| Launch::redis(&redis).clock(off, true);
    let hosts = Hosts::start([launch("+5m"), launch("-5m")]);
    let load = hosts.load().await;
    tokio::time::sleep(time).await;
    Ok(load.finish().await)
}

/// A clock that steps on demand.
struct Stepping(tempfile::TempDir);

impl Stepping {
    fn new() -> Result<Self, String> {
        let clock = Self(tempfile::tempdir().map_err(|error| error.to_string())?);
        clock.step("+0")?;
        Ok(clock)
    }

    /// The environment of a process with this clock.
    fn environment(&self) -> [(String, String); 4] {
        fake_clock::stepping(&self.0.path().join("clock"))
    }

    /// Replaces the file in one step, because the process may read it at any time.
    fn step(&self, off: &str) -> Result<(), String> {
        let (new, file) = (self.0.path().join("new"), self.0.path().join("clock"));
        let written = std::fs::write(&new, off).and_then(|()| std::fs::rename(new, &file));
        written.map_err(|error| error.to_string())
    }

    /// Steps forward and back until the time is over.
    async fn run(&self, time: Duration) -> Result<(), String> {
        let time = Time::new(time);
        for off in ["+3s", "+0"].iter().cycle() {
            if !time.pass(2500).await {
                break;
            }
            self.step(off)?;
        }
        Ok(())
    }
}

/// The clock of the process with the embedded store steps forward and back.
pub async fn embedded_steps(time: Duration) -> Outcome {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let clock = Stepping::new()?;
    let launch = Launch::embedded(directory.path());
    let settings = clock.environment();
    let launch = settings.iter().fold(launch, |launch, (name, value)| launch.set(name, value));
    let hosts = Hosts::start([launch]);
    let load = hosts.load().await;
    clock.run(time).await?;
    let left = load.finish().await;
    drop(hosts);
    Ok(left)
}
