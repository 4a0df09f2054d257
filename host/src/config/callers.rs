//! Limits of callers: the number, age and idle time of network connections, the memory of their
//! requests and replies, and the web pages that may send requests.

use std::time::Duration;

use clap::Args;

use super::early_exit::PortSettings;
use super::given::given;
use super::values::{self, PerPeer, ProbePort, Ranges, Texts};
use crate::network;

/// The settings of the probe port.
pub const PROBE: PortSettings = PortSettings { port: "PROBE_PORT", address: "BIND_ADDRESS" };

/// The limits of callers, and the web pages that may send requests.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Callers")]
pub struct Callers {
    /// Memory for all bodies of requests and replies at a time, with their copies.
    #[arg(long, env = "BODY_MEMORY", default_value = "128MiB", global = true,
          value_parser = given(values::body_memory))]
    body_memory: usize,

    /// Age at which a network connection is closed, plus or minus a tenth; requests in flight are
    /// answered.
    #[arg(long, env = "NETWORK_MAX_AGE", default_value = "1h", global = true,
          value_parser = given(values::network_age))]
    network_max_age: Duration,

    /// How long an HTTP/2 connection may be without a stream.
    #[arg(long, env = "NETWORK_IDLE", default_value = "5m", global = true,
          value_parser = given(values::network_age))]
    network_idle: Duration,

    /// Most network connections of one peer, an address or a /64 of IPv6; empty for an eighth of
    /// all connections, at least 256.
    #[arg(long, env = "NETWORK_PER_PEER", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::connections_of_peer))]
    network_per_peer: PerPeer,

    /// Proxies whose X-Forwarded-For names the peer, as CIDRs separated by commas.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::ranges))]
    trusted_proxies: Ranges,

    /// Port of probes only, /livez and /readyz, on BIND_ADDRESS; 0 picks a free one.
    #[arg(long, env = "PROBE_PORT", default_value = "off", global = true,
          value_parser = given(values::probe_port))]
    probe_port: ProbePort,

    /// Host names of the REST and admin ports, separated by commas.
    #[arg(long, env = "ALLOWED_HOSTS", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::hosts))]
    allowed_hosts: Texts,

    /// Origins whose web pages may send requests, each a scheme and a host, separated by commas.
    #[arg(long, env = "CORS_ORIGINS", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::origins))]
    cors_origins: Texts,
}

impl Callers {
    /// The limits of network connections, for a number of calls of the rules and of subscriptions.
    pub fn limits(&self, calls: u32, subscriptions: usize) -> network::Limits {
        network::Limits {
            body_memory: self.body_memory,
            calls: calls as usize,
            subscriptions,
            age_max: self.network_max_age,
            idle_max: self.network_idle,
            per_peer: self.network_per_peer.0,
            trusted_proxies: self.trusted_proxies.0.clone(),
        }
    }

    /// The port of probes, if it is on.
    pub fn probe_port(&self) -> Option<u16> {
        self.probe_port.0
    }

    /// The host names of the ports, in lower case.
    pub fn allowed_hosts(&self) -> &[String] {
        &self.allowed_hosts.0
    }

    /// The origins whose web pages may send requests.
    pub fn cors_origins(&self) -> &[String] {
        &self.cors_origins.0
    }
}
