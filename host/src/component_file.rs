//! The file that COMPONENT names: read at the start, watched from then on. A
//! change is a swap. A file that does not pass the gates is tried again, less and
//! less often, and what runs goes on.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::logic::{COMPONENT_BYTES_MAX, Logic, Source};

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
            self.seen = look(&self.path);
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
            if let Err(reason) = self.swap(&logic).await {
                let wait = (waited * 2).clamp(RETRY_MIN, RETRY_MAX);
                tracing::error!(reason, again_in = ?wait, "the component file is not used");
                retry = Some((Instant::now() + wait, wait));
            }
        }
    }

    async fn swap(&self, logic: &Arc<Logic>) -> Result<(), String> {
        let path = self.path.clone();
        let bytes = tokio::task::spawn_blocking(move || read(&path)).await;
        let bytes = bytes.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let swapped = logic.swap(bytes, Source::File, false).await;
        swapped.map(drop).map_err(|refusal| refusal.to_string())
    }
}

fn look(path: &Path) -> Option<Look> {
    let metadata = std::fs::metadata(path).ok()?;
    let (size, inode) = (metadata.size(), metadata.ino());
    Some(Look { modified: metadata.modified().ok(), size, inode })
}

/// Reads a component; of one that is too large only enough to see that it is.
///
/// # Errors
/// When the file cannot be read.
pub fn read(path: &Path) -> std::io::Result<Bytes> {
    let mut bytes = Vec::new();
    let most = COMPONENT_BYTES_MAX as u64 + 1;
    std::io::Read::read_to_end(
        &mut std::io::Read::take(std::fs::File::open(path)?, most),
        &mut bytes,
    )?;
    Ok(bytes.into())
}
