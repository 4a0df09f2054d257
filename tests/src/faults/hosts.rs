//! Hosts under load that keep their ports over a restart, and the time that a schedule has.

use std::time::{Duration, Instant};

use crate::host::{Host, Launch};
use crate::mixed_load::{MixedLoad, terms_of};
use crate::redis_server::free_port;

/// Hosts of one service.
pub struct Hosts {
    launches: Vec<Launch>,
    hosts: Vec<Host>,
}

impl Hosts {
    /// Starts one for each launch, with the terms of the load.
    pub fn start(launches: impl IntoIterator<Item = Launch>) -> Self {
        let launches = launches.into_iter().map(|launch| {
            let launch = terms_of(launch).set("REST_PORT", &free_port().to_string());
            launch.set("GRPC_PORT", &free_port().to_string())
        });
        let launches: Vec<Launch> = launches.collect();
        let hosts = launches.iter().map(Launch::start).collect();
        Self { launches, hosts }
    }

    /// Begins the load on all of them.
    pub async fn load(&self) -> MixedLoad {
        MixedLoad::start(&self.hosts.iter().collect::<Vec<_>>()).await
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// Sends a signal to one of them.
    pub fn signal(&self, number: usize, name: &str) {
        self.hosts[number].signal(name);
    }

    /// Kills one of them.
    pub async fn kill(&mut self, number: usize) {
        self.hosts[number].signal("KILL");
        self.hosts[number].ended().await;
    }

    /// Starts one again that was killed or has ended.
    pub fn restart(&mut self, number: usize) {
        self.hosts[number] = self.launches[number].start();
    }
}

/// The time that a schedule has.
pub struct Time {
    end: Instant,
}

impl Time {
    /// From now on.
    pub fn new(time: Duration) -> Self {
        Self { end: Instant::now() + time }
    }

    /// Lets the load go on for so many milliseconds; returns whether there is time left.
    pub async fn pass(&self, milliseconds: u64) -> bool {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        Instant::now() < self.end
    }
}
