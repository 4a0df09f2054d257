//! Snapshots: all data in one file, which makes the journals before it unnecessary. A snapshot is
//! written while the store serves, so it may contain changes that the next journal has too. That
//! does no harm, as a row holds a whole value and never an increment.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::store::embedded::directory::{Directory, SyncFile};
use crate::store::embedded::frame::{FileKind, Frame, FrameKind, Header, Origin};
use crate::store::embedded::manifest::{JournalEntry, Manifest, SnapshotEntry};
use crate::store::embedded::names::MANIFEST_FILE;
use crate::store::embedded::obstacle;
use crate::store::embedded::start;
use crate::store::embedded::writer::{Journal, Message, Synced};
use session_store::clock::Clock;
use session_store::memory::Memory;

/// How many bytes of rows a frame holds before the next one begins.
const FRAME_BYTES: usize = 1 << 20;

/// Writes everything in memory to a file that no manifest names yet. Returns its length, or
/// `None` if the store is stopping.
///
/// # Errors
/// What the system refuses. Without a length there is no file either.
pub fn write(
    directory: &Directory,
    memory: &Memory,
    origin: Origin,
    clock: &Clock,
    is_stopping: &AtomicBool,
) -> io::Result<Option<u64>> {
    let name = origin.file();
    let file = directory.create(&name)?;
    let written = write_to(file, directory.sync_file(), memory, origin, clock, is_stopping);
    match written {
        Ok(Some(length)) => Ok(Some(length)),
        Ok(None) => directory.remove(&name).map(|()| None),
        Err(error) => Err(directory.given_up(&name, &error)),
    }
}

fn write_to(
    mut file: File,
    sync: &SyncFile,
    memory: &Memory,
    origin: Origin,
    clock: &Clock,
    is_stopping: &AtomicBool,
) -> io::Result<Option<u64>> {
    let (mut frame, mut sequence, mut length) = (Frame::new(), 0, 0);
    let mut put = |frame: &mut Frame, kind: FrameKind| -> io::Result<()> {
        let milliseconds = clock.now();
        let header = Header { kind, length: 0, checksum: 0, sequence, milliseconds, synced: 0 };
        let bytes = frame.finish(header, &origin);
        file.write_all(bytes)?;
        sequence += 1;
        length += bytes.len() as u64;
        frame.clear();
        Ok(())
    };
    put(&mut frame, FrameKind::Head)?;
    let dumped = memory.dump(|changes| {
        if is_stopping.load(Ordering::Relaxed) {
            return Err(None);
        }
        changes.into_rows().iter().for_each(|row| frame.push(row));
        // All rows of a key are in one frame.
        if frame.len() < FRAME_BYTES {
            Ok(())
        } else {
            put(&mut frame, FrameKind::Rows).map_err(Some)
        }
    });
    match dumped {
        Ok(()) => {}
        Err(None) => return Ok(None),
        Err(Some(error)) => return Err(error),
    }
    if !frame.is_empty() {
        put(&mut frame, FrameKind::Rows)?;
    }
    put(&mut frame, FrameKind::End)?;
    sync(&file)?;
    Ok(Some(length))
}

/// The state of the thread that takes snapshots.
pub struct Snapshots {
    /// The directory of the files.
    pub directory: Arc<Directory>,
    /// The data.
    pub memory: Arc<Memory>,
    /// The clock.
    pub clock: Clock,
    /// The files that make up the store now.
    pub manifest: Manifest,
    /// The writer of the journal.
    pub journal: mpsc::Sender<Message>,
    /// The last synced frame.
    pub synced: Arc<Synced>,
    /// The length of the last snapshot, in bytes.
    pub bytes: Arc<AtomicU64>,
    /// Whether a snapshot is being taken.
    pub is_busy: Arc<AtomicBool>,
    /// Whether the store is closing.
    pub is_stopping: Arc<AtomicBool>,
}

impl Snapshots {
    /// Takes a snapshot for each request, until the requests end.
    pub fn run(mut self, requests: &mpsc::Receiver<()>) {
        while let Ok(()) = requests.recv() {
            let taken = self.take();
            if let Err(error) = taken {
                let error = obstacle::words(&error);
                tracing::warn!(error, "no snapshot was taken; the journal grows until one is");
            }
            self.is_busy.store(false, Ordering::Relaxed);
        }
    }

    /// Takes a snapshot. A failure leaves nothing behind but one more journal.
    fn take(&mut self) -> io::Result<()> {
        let number = self.manifest.number_max() + 1;
        let origin = self.manifest.origin(FileKind::Journal, number);
        self.directory.remove(&origin.file())?;
        let file = start::create_journal(&self.directory, origin, &self.clock)?;
        // The manifest names the journal while it is empty. Otherwise its loss would go unnoticed.
        self.manifest.journals.push(JournalEntry { number, ended: None });
        self.publish()?;
        let (done, switched) = mpsc::channel();
        let message = Message::Switch { journal: Journal::new(file, origin), done };
        if self.journal.send(message).is_err() {
            return Ok(());
        }
        // Without a writer no snapshot is needed.
        let Ok(after) = switched.recv() else { return Ok(()) };
        let snapshot = self.manifest.origin(FileKind::Snapshot, number);
        let (directory, memory) = (&self.directory, &self.memory);
        let written = write(directory, memory, snapshot, &self.clock, &self.is_stopping);
        let Some(length) = written? else { return Ok(()) };
        // The snapshot may contain changes that the journal has not synced yet.
        let (done, synced) = oneshot::channel();
        let asked = self.journal.send(Message::Sync(done)).is_ok();
        if !asked || !matches!(synced.blocking_recv(), Ok(Ok(()))) {
            return directory.remove(&snapshot.file());
        }
        let covers = self.synced.get();
        let old = self.manifest.clone();
        self.manifest.after = after;
        self.manifest.snapshot = Some(SnapshotEntry { number, length, covers });
        self.manifest.journals = vec![JournalEntry { number, ended: None }];
        if let Err(error) = self.publish() {
            self.manifest = old;
            return Err(error);
        }
        self.bytes.store(length, Ordering::Relaxed);
        // The next start or snapshot tries again.
        if let Err(error) = start::remove_unnamed(&self.directory, &self.manifest) {
            let error = obstacle::words(&error);
            tracing::warn!(error, "files that a snapshot has replaced were not removed");
        }
        Ok(())
    }

    fn publish(&self) -> io::Result<()> {
        self.directory.replace(MANIFEST_FILE, self.manifest.encode().as_bytes()).map(drop)
    }
}
