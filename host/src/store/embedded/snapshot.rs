//! Snapshots: all data in one file, so that the journals before it are of no use any more. One
//! is written while the store serves: it may show some changes that the next journal has too,
//! which is no harm, as a row says what is and not what to add.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::store::embedded::directory::{Directory, MANIFEST_FILE, SyncFile};
use crate::store::embedded::frame::{FileKind, Frame, Header, Kind, Origin};
use crate::store::embedded::manifest::{JournalEntry, Manifest, SnapshotEntry};
use crate::store::embedded::obstacle;
use crate::store::embedded::start;
use crate::store::embedded::writer::{Journal, Message, Synced};
use session_store::clock::Clock;
use session_store::memory::Memory;

/// How many bytes of rows a frame of a snapshot takes before the next begins.
const FRAME_BYTES: usize = 1 << 20;

/// Writes everything in memory to a file that no manifest names yet, and returns its length;
/// `None` when it was told to stop.
///
/// # Errors
/// What the system refuses. Then, and when it has to stop, there is no file.
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
    let mut put = |frame: &mut Frame, kind: Kind| -> io::Result<()> {
        let milliseconds = clock.now();
        let header = Header { kind, length: 0, checksum: 0, sequence, milliseconds, synced: 0 };
        let bytes = frame.seal(header, &origin);
        file.write_all(bytes)?;
        sequence += 1;
        length += bytes.len() as u64;
        frame.clear();
        Ok(())
    };
    put(&mut frame, Kind::Head)?;
    let dumped = memory.dump(|changes| {
        if is_stopping.load(Ordering::Relaxed) {
            return Err(None);
        }
        changes.into_rows().iter().for_each(|row| frame.push(row));
        // All rows of a key are in one frame.
        if frame.len() < FRAME_BYTES { Ok(()) } else { put(&mut frame, Kind::Rows).map_err(Some) }
    });
    match dumped {
        Ok(()) => {}
        Err(None) => return Ok(None),
        Err(Some(error)) => return Err(error),
    }
    if !frame.is_empty() {
        put(&mut frame, Kind::Rows)?;
    }
    put(&mut frame, Kind::End)?;
    sync(&file)?;
    Ok(Some(length))
}

/// What the thread that takes snapshots works on.
pub struct Snapshots {
    /// Where the files are.
    pub directory: Arc<Directory>,
    /// What is to be written.
    pub memory: Arc<Memory>,
    /// The time.
    pub clock: Clock,
    /// Which files make up the store now.
    pub manifest: Manifest,
    /// The writer of the journal.
    pub journal: mpsc::Sender<Message>,
    /// The last frame that is on the disk.
    pub synced: Arc<Synced>,
    /// The length of the last snapshot in bytes.
    pub bytes: Arc<AtomicU64>,
    /// Whether one is being taken.
    pub is_busy: Arc<AtomicBool>,
    /// Whether the store is about to close.
    pub is_stopping: Arc<AtomicBool>,
}

impl Snapshots {
    /// Takes a snapshot whenever it is asked to, until nobody can ask any more.
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

    /// The only thing that a failure leaves behind is one more journal.
    fn take(&mut self) -> io::Result<()> {
        let number = self.manifest.number_max() + 1;
        let origin = self.manifest.origin(FileKind::Journal, number);
        self.directory.remove(&origin.file())?;
        let file = start::create_journal(&self.directory, origin, &self.clock)?;
        // It is named before anything is in it, so that its loss would be seen.
        self.manifest.journals.push(JournalEntry { number, ended: None });
        self.publish()?;
        let (done, switched) = mpsc::channel();
        let message = Message::Switch { journal: Journal::new(file, origin), done };
        if self.journal.send(message).is_err() {
            return Ok(());
        }
        // Without a writer nobody waits for a snapshot.
        let Ok(after) = switched.recv() else { return Ok(()) };
        let snapshot = self.manifest.origin(FileKind::Snapshot, number);
        let (directory, memory) = (&self.directory, &self.memory);
        let written = write(directory, memory, snapshot, &self.clock, &self.is_stopping);
        let Some(length) = written? else { return Ok(()) };
        // It has changes that the journal may not have on the disk yet.
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
        // The next start, or the next snapshot, tries again.
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
