//! Full disks: small ones in memory, which only root can mount.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Outcome;
use super::hosts::{Hosts, Time};
use crate::host::Launch;
use crate::redis_server::RedisServer;

/// A small disk. Dropping it unmounts it.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    /// Mounts a disk of this many MiB.
    fn mount(mebibytes: u32) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "faults"]);
        let mounted = mount.arg(directory.path()).output().map_err(|error| error.to_string())?;
        if mounted.status.success() {
            return Ok(Self { directory });
        }
        let why = String::from_utf8_lossy(&mounted.stderr);
        Err(format!("a small disk needs root: {}", why.trim()))
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn filling(&self) -> PathBuf {
        self.path().join("filling")
    }

    /// Fills the disk.
    fn fill(&self) {
        let block = vec![1; 1 << 16];
        if let Ok(mut file) = std::fs::File::create(self.filling()) {
            while std::io::Write::write_all(&mut file, &block).is_ok() {}
        }
    }

    fn make_room(&self) {
        drop(std::fs::remove_file(self.filling()));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.path()).status());
    }
}

/// The disk of the embedded store is full. The host is restarted once there is room.
pub async fn embedded(time: Duration) -> Outcome {
    let disk = Disk::mount(96)?;
    let mut hosts = Hosts::start([Launch::embedded(&disk.path().join("data"))]);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(1500).await {
        disk.fill();
        time.pass(1000).await;
        disk.make_room();
        hosts.kill(0).await;
        hosts.restart(0);
    }
    let left = load.finish().await;
    drop(hosts);
    Ok(left)
}

/// The disk of Redis is full. Redis refuses writes until it can write its append-only file
/// again.
pub async fn redis(time: Duration) -> Outcome {
    let disk = Disk::mount(16)?;
    let directory = disk.path().display().to_string();
    let redis = RedisServer::with(&["--dir", &directory]).await;
    let hosts = Hosts::start([Launch::redis(&redis), Launch::redis(&redis)]);
    let load = hosts.load().await;
    let time = Time::new(time);
    while time.pass(1500).await {
        disk.fill();
        time.pass(1500).await;
        disk.make_room();
    }
    let left = load.finish().await;
    drop((hosts, redis));
    Ok(left)
}
