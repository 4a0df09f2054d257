//! Settings of network connections: how many, how old, how idle, how much memory their
//! requests and replies take, and from where web pages may ask.

use std::time::Duration;

use clap::Args;

use super::given::given;
use super::refusal::PortSettings;
use super::values;
use crate::network;
use crate::network::address::Range;

/// What a port of probes that could not be opened is called.
pub const PROBE: PortSettings = PortSettings { port: "PROBE_PORT", address: "BIND_ADDRESS" };

/// What one caller may take, and from where web pages may ask.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Callers")]
pub struct Callers {
    /// Memory that all bodies of requests and replies may take at once, with what is made
    /// of them on their way.
    #[arg(long, env = "BODY_MEMORY", default_value = "128MiB", global = true,
          value_parser = given(values::body_memory))]
    body_memory: usize,

    /// Age at which a network connection is asked to end, give or take a tenth; what goes
    /// on over it is kept.
    #[arg(long, env = "NETWORK_MAX_AGE", default_value = "1h", global = true,
          value_parser = given(values::network_age))]
    network_max_age: Duration,

    /// How long an HTTP/2 connection may be without a stream.
    #[arg(long, env = "NETWORK_IDLE", default_value = "5m", global = true,
          value_parser = given(values::network_age))]
    network_idle: Duration,

    /// Network connections of one peer, an address or a /64 of IPv6; empty for an eighth of
    /// all places, at least 256.
    #[arg(long, env = "NETWORK_PER_PEER", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::connections_of_peer))]
    network_per_peer: PerPeer,

    /// Proxies, as CIDRs with commas between them, whose X-Forwarded-For names the peer.
    #[arg(long, env = "TRUSTED_PROXIES", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::ranges))]
    trusted_proxies: Ranges,

    /// Port of probes alone, /livez and /readyz, on BIND_ADDRESS; 0 picks a free one.
    #[arg(long, env = "PROBE_PORT", default_value = "off", global = true,
          value_parser = given(values::probe_port))]
    probe_port: ProbePort,

    /// Names, with commas between them, that the REST and admin ports are reached by.
    #[arg(long, env = "ALLOWED_HOSTS", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::hosts))]
    allowed_hosts: Texts,

    /// Origins, each a scheme and a host, with commas between them, whose web pages may ask.
    #[arg(long, env = "CORS_ORIGINS", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::origins))]
    cors_origins: Texts,
}

/// Connections of one peer; none for a share of all.
#[derive(Clone, Copy, Debug)]
pub struct PerPeer(pub Option<usize>);
/// Ranges of addresses.
#[derive(Clone, Debug)]
pub struct Ranges(pub Vec<Range>);
/// A port, unless it is off.
#[derive(Clone, Copy, Debug)]
pub struct ProbePort(pub Option<u16>);
/// Some texts.
#[derive(Clone, Debug)]
pub struct Texts(pub Vec<String>);

impl Callers {
    /// What is accepted of network connections, with so many calls of the rules at a time and
    /// so many subscriptions.
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

    /// The port of probes.
    pub fn probe_port(&self) -> Option<u16> {
        self.probe_port.0
    }

    /// Names of hosts that the ports are reached by, in lower case.
    pub fn allowed_hosts(&self) -> &[String] {
        &self.allowed_hosts.0
    }

    /// Origins whose web pages may ask.
    pub fn cors_origins(&self) -> &[String] {
        &self.cors_origins.0
    }
}
