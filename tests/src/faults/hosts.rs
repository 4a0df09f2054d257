//! Hosts under load that keep their ports across restarts, and the duration of a schedule.

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
    /// Starts a host for each launch, with the settings that the load expects.
    pub fn start(launches: impl IntoIterator<Item = Launch>) -> Self {
        let launches = launches.into_iter().map(|launch| {
            let launch = terms_of(launch).set("REST_PORT", &free_port().to_string());
            launch.set("GRPC_PORT", &free_port().to_string())
        });
        let launches: Vec<Launch> = launches.collect();
        let hosts = launches.iter().map(Launch::start).collect();
        Self { launches, hosts }
    }

    /// Starts the load on all hosts.
    pub async fn load(&self) -> MixedLoad {
        MixedLoad::start(&self.hosts.iter().collect::<Vec<_>>()).await
    }

    /// The number of hosts.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// Sends a signal to one host.
    pub fn signal(&self, number: usize, name: &str) {
        self.hosts[number].signal(name);
    }

    /// Kills one host.
    pub async fn kill(&mut self, number: usize) {
        self.hosts[number].signal("KILL");
        self.hosts[number].ended().await;
    }

    /// Starts a host again after its end.
    pub fn restart(&mut self, number: usize) {
        self.hosts[number] = self.launches[number].start();
    }
}

/// The duration of a schedule.
pub struct Time {
    end: Instant,
}

impl Time {
    /// Starts now.
    pub fn new(time: Duration) -> Self {
        Self { end: Instant::now() + time }
    }

    /// Lets the load run for this many milliseconds; returns whether there is time left.
    pub async fn pass(&self, milliseconds: u64) -> bool {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        Instant::now() < self.end
    }
}
