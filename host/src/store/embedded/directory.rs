//! The directory of a store. One process holds it, and changes it a whole file at a time: after a
//! loss of power a replaced file is either the old one or the new one.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::store::embedded::frame::FileKind;
use crate::store::embedded::names::{LOCK_FILE, MANIFEST_FILE, VERSION_FILE};
use crate::store::embedded::obstacle::{self, OpenError};

/// The highest number of a journal or snapshot. A file with a higher number is not ours.
const NUMBER_MAX: u32 = u32::MAX / 2;

/// How often the lock is tried. The process that holds it may be ending.
const LOCK_TRIES: u32 = 3;
/// The pause between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// Makes the bytes of a file survive a loss of power. Tests replace it.
pub type SyncFile = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// The function used outside of tests.
pub fn sync_file() -> SyncFile {
    Arc::new(|file: &File| file.sync_data())
}

/// A directory held by this process.
pub struct Directory {
    path: PathBuf,
    sync: SyncFile,
    _lock: Option<File>,
}

impl Directory {
    /// Makes the directory if it is absent, and locks it for this process.
    ///
    /// # Errors
    /// If another process holds it, or it cannot be used.
    pub fn lock(path: &Path, sync: SyncFile) -> Result<Self, OpenError> {
        let refused = |error: io::Error| OpenError::of_system(&error, path);
        // Sessions must not be readable by other users of the machine.
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refused)?;
        let file = path.join(LOCK_FILE);
        let is_used = [VERSION_FILE, MANIFEST_FILE].iter().any(|name| path.join(name).exists());
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        // If somebody has deleted the lock file, the process that holds it cannot be detected. So a
        // lock file is made for a new directory only.
        let lock = options.create(!is_used).open(file).map_err(refused)?;
        Self::take(path, lock, sync)
    }

    /// The same for a process that only reads, and may not have permission to write.
    ///
    /// # Errors
    /// If another process holds it, or it cannot be used.
    pub fn lock_to_read(path: &Path, sync: SyncFile) -> Result<Self, OpenError> {
        let lock = File::open(path.join(LOCK_FILE));
        Self::take(path, lock.map_err(|error| OpenError::of_system(&error, path))?, sync)
    }

    fn take(path: &Path, lock: File, sync: SyncFile) -> Result<Self, OpenError> {
        let mut tries = 1;
        while let Err(error) = lock.try_lock() {
            match error {
                TryLockError::Error(error) => return Err(OpenError::of_system(&error, path)),
                TryLockError::WouldBlock if tries == LOCK_TRIES => return Err(OpenError::InUse),
                TryLockError::WouldBlock => std::thread::sleep(LOCK_PAUSE),
            }
            tries += 1;
        }
        Ok(Self { path: path.to_owned(), sync, _lock: Some(lock) })
    }

    /// A directory that the library of an earlier release holds for this process.
    pub fn held(path: &Path, sync: SyncFile) -> Self {
        Self { path: path.to_owned(), sync, _lock: None }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes one of its files survive a loss of power.
    pub fn sync_file(&self) -> &SyncFile {
        &self.sync
    }

    /// Makes a file that does not exist yet.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(self.path.join(name)).map_err(|error| of_file(name, &error))
    }

    /// Replaces a file as a whole, and makes it survive a loss of power.
    ///
    /// # Errors
    /// What the system refuses; then the old file is still there.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<File> {
        let new = format!("{name}.new");
        let made = self.remove(&new).and_then(|()| self.create(&new));
        let mut file = made?;
        let put = |file: &mut File| {
            file.write_all(bytes)?;
            (self.sync)(file)?;
            std::fs::rename(self.path.join(&new), self.path.join(name))
        };
        put(&mut file).map_err(|error| self.given_up(&new, &error))?;
        self.sync_names()?;
        Ok(file)
    }

    /// Removes a file that could not be completed, and names it in the error.
    pub fn given_up(&self, name: &str, error: &io::Error) -> io::Error {
        // Removing may be what fails.
        drop(self.remove(name));
        of_file(name, error)
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|error| of_file(name, &error)),
        }
    }

    /// Makes the names of the files survive a loss of power.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn sync_names(&self) -> io::Result<()> {
        sync_names(&self.path)
    }

    /// The next number that is used by neither a journal nor a snapshot.
    pub fn free_number(&self, after: u32) -> u32 {
        let is_taken = |number: u32| {
            let kinds = [FileKind::Journal, FileKind::Snapshot];
            kinds.iter().any(|kind| self.path.join(kind.file(number)).exists())
        };
        let mut number = after + 1;
        while is_taken(number) {
            number += 1;
        }
        number
    }

    /// Its journals and snapshots, by number.
    pub fn numbered(&self) -> Vec<(FileKind, u32)> {
        numbered(&self.path)
    }
}

/// The error with the name of its file.
fn of_file(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("`{name}`: {}", obstacle::words(error)))
}

/// Makes the names of the files in a directory survive a loss of power.
///
/// # Errors
/// What the system refuses.
pub fn sync_names(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The journals and snapshots in a directory, by number.
pub fn numbered(directory: &Path) -> Vec<(FileKind, u32)> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<(FileKind, u32)> = names
        .filter_map(|entry| {
            let name = entry.file_name();
            let (kind, number) = name.to_str()?.rsplit_once('-')?;
            let kinds = [FileKind::Journal, FileKind::Snapshot];
            let kind = kinds.into_iter().find(|it| it.name() == kind)?;
            let number = number.parse().ok().filter(|number| (1..=NUMBER_MAX).contains(number))?;
            (name.to_str() == Some(&kind.file(number))).then_some((kind, number))
        })
        .collect();
    found.sort_unstable_by_key(|(_, number)| *number);
    found
}
