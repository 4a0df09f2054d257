//! The file of the setting COMPONENT: read at the start and then watched. A change is a swap. A
//! file that cannot be read or is incomplete is tried again, at growing intervals. A file that
//! another gate refuses waits for its next change. The running component continues meanwhile.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::logic::{COMPONENT_BYTES_MAX, Gate, Logic, Source};
use crate::telemetry::milliseconds;

/// How often the file is checked for a change.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest and the longest delay before a refused file is tried again.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Identifies a state of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
    /// The time of the last change of the inode, which no program can set.
    changed: (i64, i64),
}

/// The file, and its last known state.
pub struct ComponentFile {
    path: PathBuf,
    seen: Option<FileState>,
}

impl ComponentFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn open(path: &Path) -> std::io::Result<(Self, Bytes)> {
        let file = Self { path: path.into(), seen: file_state(path) };
        let bytes = read(&file.path)?;
        Ok((file, bytes))
    }

    /// Swaps in the content of the file whenever it has changed, or `reload` is notified.
    pub async fn watch(mut self, logic: Arc<Logic>, reload: Arc<Notify>) {
        let mut retry: Option<(Instant, Duration)> = None;
        loop {
            let requested = tokio::time::timeout(CHECK_INTERVAL, reload.notified()).await.is_ok();
            let before = self.seen;
            let path = self.path.clone();
            // The file may be on a disk that does not answer.
            self.seen = tokio::task::spawn_blocking(move || file_state(&path)).await.ok().flatten();
            if self.seen.is_none() {
                if before.is_some() {
                    tracing::warn!("the component file is gone; the running component continues");
                }
                continue;
            }
            let due = retry.is_some_and(|(due, _)| Instant::now() >= due);
            if before != self.seen {
                // It may still be written to. It is read once it stays the same.
                retry = Some((Instant::now(), Duration::ZERO));
                if !requested {
                    continue;
                }
            } else if !requested && !due {
                continue;
            }
            let waited = retry.take().map_or(Duration::ZERO, |(_, waited)| waited);
            match self.swap(&logic).await {
                Ok(()) => {}
                Err(Unusable { reason, again: false }) => {
                    tracing::error!(reason, "the component file is not used until it changes");
                }
                Err(Unusable { reason, again: true }) => {
                    let wait = (waited * 2).clamp(RETRY_MIN, RETRY_MAX);
                    let again_in_ms = milliseconds(wait);
                    tracing::error!(reason, again_in_ms, "the component file is not used");
                    retry = Some((Instant::now() + wait, wait));
                }
            }
        }
    }

    async fn swap(&self, logic: &Arc<Logic>) -> Result<(), Unusable> {
        let path = self.path.clone();
        let bytes = match tokio::task::spawn_blocking(move || read(&path)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(Unusable { reason: error.to_string(), again: true }),
            Err(error) => return Err(Unusable { reason: error.to_string(), again: true }),
        };
        let swapped = logic.swap(bytes, Source::File, false).await;
        swapped.map(drop).map_err(|refusal| Unusable {
            // An incomplete file may still be on its way to this machine.
            again: matches!(refusal.gate, Gate::Size | Gate::Valid),
            reason: refusal.to_string(),
        })
    }
}

/// Why a file is not used, and whether it is tried again without a change.
struct Unusable {
    reason: String,
    again: bool,
}

fn file_state(path: &Path) -> Option<FileState> {
    let metadata = std::fs::metadata(path).ok()?;
    let (size, inode) = (metadata.size(), metadata.ino());
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Some(FileState { modified: metadata.modified().ok(), size, inode, changed })
}

/// Reads a component. Of one that is too large it reads only enough to notice that.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> std::io::Result<Bytes> {
    // Opening a pipe would otherwise wait for a writer.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
