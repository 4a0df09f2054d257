//! A disk that tests hold up, break, and copy at its syncs; and random numbers with a seed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::store::embedded::directory::SyncFile;

/// The most copies of a directory that a test checks.
const COPIES_MAX: usize = 120;

/// Random numbers from a seed (SplitMix64).
pub struct Seed(u64);

impl Seed {
    pub fn new(number: u64) -> Self {
        Self(number.wrapping_mul(0x5851_f42d_4c95_7f2d))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}

#[derive(Default)]
struct Control {
    is_held: bool,
    is_broken: bool,
    waiting: usize,
}

/// Controls the syncs of a test.
#[derive(Clone, Default)]
pub struct Disk {
    control: Arc<(Mutex<Control>, Condvar)>,
    copied: Option<PathBuf>,
    /// The number of acknowledged writes. No test writes while it is locked.
    acknowledged: Arc<Mutex<usize>>,
    copies: Arc<Mutex<Vec<(tempfile::TempDir, usize)>>>,
}

/// Holds up the syncs until it is dropped.
pub struct Hold<'a>(&'a Disk);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.0.control.0.lock().unwrap().is_held = false;
        self.0.control.1.notify_all();
    }
}

impl Disk {
    /// A disk whose syncs do nothing.
    pub fn quick() -> Self {
        Self::default()
    }

    /// A disk whose directory is copied at each sync of the snapshot thread, as a kill would leave
    /// it.
    pub fn copied(directory: &Path) -> Self {
        Self { copied: Some(directory.to_owned()), ..Self::default() }
    }

    pub fn sync(&self) -> SyncFile {
        let disk = self.clone();
        Arc::new(move |_: &File| disk.synced())
    }

    fn synced(&self) -> io::Result<()> {
        let is_snapshot = std::thread::current().name() == Some("store-snapshot");
        if let Some(directory) = self.copied.as_deref().filter(|_| is_snapshot) {
            let acknowledged = self.acknowledged.lock().unwrap();
            let mut copies = self.copies.lock().unwrap();
            if copies.len() < COPIES_MAX {
                copies.push((copy(directory), *acknowledged));
            }
        }
        let (control, changed) = &*self.control;
        let mut control = control.lock().unwrap();
        control.waiting += 1;
        changed.notify_all();
        while control.is_held {
            control = changed.wait(control).unwrap();
        }
        control.waiting -= 1;
        if control.is_broken { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    }

    pub fn hold(&self) -> Hold<'_> {
        self.control.0.lock().unwrap().is_held = true;
        Hold(self)
    }

    pub fn until_a_sync_waits(&self) {
        let (control, changed) = &*self.control;
        let mut control = control.lock().unwrap();
        while control.waiting == 0 {
            control = changed.wait(control).unwrap();
        }
    }

    pub fn break_down(&self) {
        self.control.0.lock().unwrap().is_broken = true;
    }

    pub fn freeze(&self) -> MutexGuard<'_, usize> {
        self.acknowledged.lock().unwrap()
    }

    pub fn copy_count(&self) -> usize {
        self.copies.lock().unwrap().len()
    }

    pub fn copies(&self) -> Vec<(tempfile::TempDir, usize)> {
        std::mem::take(&mut *self.copies.lock().unwrap())
    }
}

/// A copy of the files of a directory, without its lock.
pub fn copy(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files(directory) {
        std::fs::write(copy.path().join(name), bytes).unwrap();
    }
    std::fs::write(copy.path().join("lock"), "").unwrap();
    copy
}

/// The files of a directory with their contents, without its lock.
pub fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_file() && name != "lock" {
            files.push((name, std::fs::read(path).unwrap()));
        }
    }
    files.sort();
    files
}
