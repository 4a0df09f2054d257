//! Machines for tests: network namespaces on one bridge. A test can cut them off from one
//! another without closing a connection. Only root can create them.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// A machine that processes run on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its address.
    pub address: IpAddr,
    /// Its network namespace; none for the machine that the test runs on.
    namespace: Option<String>,
}

impl Machine {
    /// The machine that the test runs on.
    pub fn here() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), namespace: None }
    }

    /// A command that runs on it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    /// Discards all packets to another machine, or stops discarding them.
    fn discard(&self, other: &Self, discards: bool) {
        let Some(namespace) = &self.namespace else { return };
        let address = other.address.to_string();
        // No device has this MAC address.
        let nowhere = ["lladdr", "02:00:00:00:00:00", "nud", "permanent"];
        let at = ["-n", namespace, "neigh"];
        let done = match discards {
            false => ip(&[&at[..], &["del", &address, "dev", "eth0"]].concat()),
            true => ip(&[&at[..], &["replace", &address, "dev", "eth0"], &nowhere].concat()),
        };
        done.unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Machines on one network, which the test can reach too. Dropping them removes them.
pub struct Machines {
    bridge: String,
    machines: Vec<Machine>,
}

impl Machines {
    /// Creates machines.
    ///
    /// # Errors
    /// Why they cannot be created.
    pub fn start(count: u8) -> Result<Self, String> {
        // Names of devices are short, and must differ from those of other tests.
        let own = std::process::id() % 60_000;
        let [high, low] = (own as u16).to_be_bytes();
        let bridge = format!("sm{own}");
        let mut machines = Self { bridge: bridge.clone(), machines: Vec::new() };
        ip(&["link", "add", &bridge, "type", "bridge"])
            .map_err(|why| format!("machines need root: {why}"))?;
        ip(&["address", "add", &format!("10.{high}.{low}.254/24"), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for number in 1..=count {
            let namespace = format!("{bridge}-{number}");
            let (near, far) = (format!("{bridge}a{number}"), "eth0");
            ip(&["netns", "add", &namespace])?;
            let address = Ipv4Addr::new(10, high, low, number);
            machines
                .machines
                .push(Machine { address: address.into(), namespace: Some(namespace.clone()) });
            let peer = ["peer", "name", far, "netns", &namespace];
            ip(&[&["link", "add", &near, "type", "veth"][..], &peer].concat())?;
            ip(&["link", "set", &near, "master", &bridge, "up"])?;
            ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", far])?;
            ip(&["-n", &namespace, "link", "set", far, "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(machines)
    }

    /// One of the machines, counted from 0.
    pub fn get(&self, number: usize) -> &Machine {
        &self.machines[number]
    }

    /// Cuts a machine off from all others but not from the test, or reconnects it.
    pub fn cut_off(&self, number: usize, cut_off: bool) {
        let machine = self.get(number);
        for other in self.machines.iter().filter(|other| other.address != machine.address) {
            machine.discard(other, cut_off);
            other.discard(machine, cut_off);
        }
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        for namespace in self.machines.iter().filter_map(|machine| machine.namespace.as_ref()) {
            drop(ip(&["netns", "del", namespace]));
        }
        drop(ip(&["link", "del", &self.bridge]));
    }
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", arguments.join(" "), why.trim()))
}
