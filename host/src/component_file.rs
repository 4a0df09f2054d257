//! The file that COMPONENT names: read at the start, watched from then on. A
//! change is a swap. A file that cannot be read or is not whole is tried again, less
//! and less often; one that another gate refuses waits for its next change. What runs
//! goes on.

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

/// How often the file is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How soon, and how late, a file that was refused is tried again.
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
    /// When anything of it was changed, which nobody can set back.
    changed: (i64, i64),
}

/// The file, and what was last seen of it.
pub struct ComponentFile {
    path: PathBuf,
    seen: Option<Look>,
}

impl ComponentFile {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> std::io::Result<(Self, Bytes)> {
        let file = Self { path: path.into(), seen: look(path) };
        let bytes = read(&file.path)?;
        Ok((file, bytes))
    }

    /// Swaps in what the file holds whenever it has changed, or `reload` says so.
    pub async fn watch(mut self, logic: Arc<Logic>, reload: Arc<Notify>) {
        let mut retry: Option<(Instant, Duration)> = None;
        loop {
            let told = tokio::time::timeout(LOOK_INTERVAL, reload.notified()).await.is_ok();
            let before = self.seen;
            let path = self.path.clone();
            // The file may be on a disk that does not answer.
            self.seen = tokio::task::spawn_blocking(move || look(&path)).await.ok().flatten();
            if self.seen.is_none() {
                if before.is_some() {
                    tracing::warn!("the component file is gone; the component goes on");
                }
                continue;
            }
            let due = retry.is_some_and(|(due, _)| Instant::now() >= due);
            if before != self.seen {
                // It may still be written to: it is read when it has settled.
                retry = Some((Instant::now(), Duration::ZERO));
                if !told {
                    continue;
                }
            } else if !told && !due {
                continue;
            }
            let waited = retry.take().map_or(Duration::ZERO, |(_, waited)| waited);
            match self.swap(&logic).await {
                Ok(()) => {}
                Err(Refused { reason, again: false }) => {
                    tracing::error!(reason, "the component file is not used until it changes");
                }
                Err(Refused { reason, again: true }) => {
                    let wait = (waited * 2).clamp(RETRY_MIN, RETRY_MAX);
                    let again_in_ms = milliseconds(wait);
                    tracing::error!(reason, again_in_ms, "the component file is not used");
                    retry = Some((Instant::now() + wait, wait));
                }
            }
        }
    }

    async fn swap(&self, logic: &Arc<Logic>) -> Result<(), Refused> {
        let path = self.path.clone();
        let bytes = match tokio::task::spawn_blocking(move || read(&path)).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => return Err(Refused { reason: error.to_string(), again: true }),
            Err(error) => return Err(Refused { reason: error.to_string(), again: true }),
        };
        let swapped = logic.swap(bytes, Source::File, false).await;
        swapped.map(drop).map_err(|refusal| Refused {
            // It may still be on its way to us.
            again: matches!(refusal.gate, Gate::Size | Gate::Valid),
            reason: refusal.to_string(),
        })
    }
}

/// Why a file is not used, and whether it may be of use without a change.
struct Refused {
    reason: String,
    again: bool,
}

fn look(path: &Path) -> Option<Look> {
    let metadata = std::fs::metadata(path).ok()?;
    let (size, inode) = (metadata.size(), metadata.ino());
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Some(Look { modified: metadata.modified().ok(), size, inode, changed })
}

/// Reads a component; of one that is too large only enough to see that it is.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> std::io::Result<Bytes> {
    // Opening a pipe would wait for somebody who writes to it.
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    file.take(COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
