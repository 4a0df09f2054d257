//! Machines of the test's own: network namespaces on one bridge, that can be cut off from one
//! another without closing a connection. Only root can make them.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

/// Where a process runs, and by which address others reach it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its address.
    pub address: IpAddr,
    /// Its namespace; none for the machine that the test runs on.
    namespace: Option<String>,
}

impl Machine {
    /// The one that the test runs on.
    pub fn here() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), namespace: None }
    }

    /// A command that runs there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program);
        command
    }

    /// Sends what is for another machine nowhere, or to it again.
    fn hear(&self, other: &Self, hears: bool) {
        let Some(namespace) = &self.namespace else { return };
        let address = other.address.to_string();
        // No device has this MAC address.
        let nowhere = ["lladdr", "02:00:00:00:00:00", "nud", "permanent"];
        let at = ["-n", namespace, "neigh"];
        let done = match hears {
            true => ip(&[&at[..], &["del", &address, "dev", "eth0"]].concat()),
            false => ip(&[&at[..], &["replace", &address, "dev", "eth0"], &nowhere].concat()),
        };
        done.unwrap_or_else(|why| panic!("{why}"));
    }
}

/// Machines on one network, which the test reaches too; they go with their owner.
pub struct Machines {
    bridge: String,
    machines: Vec<Machine>,
}

impl Machines {
    /// So many machines.
    ///
    /// # Errors
    /// Why they cannot be made.
    pub fn start(count: u8) -> Result<Self, String> {
        // The names of devices are short, and those of other tests are not ours.
        let number = std::process::id() % 60_000;
        let [high, low] = (number as u16).to_be_bytes();
        let bridge = format!("sm{number}");
        let mut machines = Self { bridge: bridge.clone(), machines: Vec::new() };
        ip(&["link", "add", &bridge, "type", "bridge"])
            .map_err(|why| format!("machines need root: {why}"))?;
        ip(&["address", "add", &format!("10.{high}.{low}.254/24"), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for place in 1..=count {
            let namespace = format!("{bridge}-{place}");
            let (own, far) = (format!("{bridge}a{place}"), "eth0");
            ip(&["netns", "add", &namespace])?;
            let address = Ipv4Addr::new(10, high, low, place);
            machines
                .machines
                .push(Machine { address: address.into(), namespace: Some(namespace.clone()) });
            let peer = ["peer", "name", far, "netns", &namespace];
            ip(&[&["link", "add", &own, "type", "veth"][..], &peer].concat())?;
            ip(&["link", "set", &own, "master", &bridge, "up"])?;
            ip(&["-n", &namespace, "address", "add", &format!("{address}/24"), "dev", far])?;
            ip(&["-n", &namespace, "link", "set", far, "up"])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        }
        Ok(machines)
    }

    /// The machine of a place, from 0.
    pub fn get(&self, place: usize) -> &Machine {
        &self.machines[place]
    }

    /// Cuts a machine off from all others but the test, or ends that.
    pub fn cut_off(&self, place: usize, cut_off: bool) {
        let machine = self.get(place);
        for other in self.machines.iter().filter(|other| other.address != machine.address) {
            machine.hear(other, !cut_off);
            other.hear(machine, !cut_off);
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
