//! The durable store of a single host: it reads and decides in memory, and keeps a journal on
//! disk. A change is handed to the operating system before any reply shows it, so a kill of the
//! process loses nothing. A loss of power loses the most recent writes only, and no more than were
//! acknowledged within a second; the next start logs it. Anything else that is missing is damage,
//! and stops the start.

mod directory;
mod former;
mod frame;
mod inspection;
mod manifest;
mod mark;
mod names;
mod obstacle;
mod reader;
mod recovery;
mod snapshot;
mod start;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::store::embedded::directory::{Directory, SyncFile};
use crate::store::embedded::snapshot::Snapshots;
use crate::store::embedded::start::Started;
use crate::store::embedded::writer::{
    Done, Message, Progress, SnapshotDue, Synced, Syncer, Unsynced, Writer, disk_failure,
};
pub use inspection::{Verdict, inspect};
pub use obstacle::OpenError;
use session_store::clock::Clock;
use session_store::memory::{self, Memory};
use session_store::rows::Changes;
use session_store::transaction::{Outcome, Txn};
use session_store::{Answer, Error, KeyCount, LogMark, Logs, MemoryUse, Store, Takes};

/// How long the journals may be, unless the last snapshot is longer. A start reads this much
/// again.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// The longest time between the acknowledgements of the first and the last unsynced write: a
/// second, less the time to write one.
const UNSYNCED_SPAN_MAX: Duration = Duration::from_millis(900);
/// The most journals before a snapshot is due. Each start begins one.
const JOURNALS_MAX: usize = 16;

/// How the disk is used.
struct DiskSettings {
    /// How a file is synced.
    sync: SyncFile,
    /// The length of the journals at which a snapshot is due, in bytes.
    journal_bytes_max: u64,
    /// See [`UNSYNCED_SPAN_MAX`].
    unsynced_span_max: Duration,
}

/// A store that keeps its data in a directory.
pub struct Embedded {
    inner: Arc<Inner>,
    is_stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _directory: Arc<Directory>,
}

struct Inner {
    memory: Arc<Memory>,
    journal: mpsc::Sender<Message>,
    /// Set once the disk has refused a write. Memory then holds more than the disk, so nothing
    /// may be acknowledged any more.
    failed: Arc<AtomicBool>,
    shards: Arc<[Progress]>,
}

type Written = oneshot::Receiver<Result<(), Error>>;

impl Inner {
    /// Sends the changes of a locked shard to the writer. The lock keeps them in order.
    fn send(&self, shard: usize, changes: Changes, done: Option<Done>) {
        // The lock excludes other senders.
        let number = self.shards[shard].sent.fetch_add(1, Ordering::Relaxed) + 1;
        let write = Message::Write { shard, number, rows: changes.into_rows(), done };
        // Without a writer the caller gets an error when it waits for its change.
        drop(self.journal.send(write));
    }

    /// Completes when everything sent before is written.
    fn wait(&self) -> Written {
        let (done, receiver) = oneshot::channel();
        drop(self.journal.send(Message::Wait(done)));
        receiver
    }

    fn sweep(&self) {
        self.memory.sweep(true, |shard, changes| self.send(shard, changes, None));
    }

    /// Refuses every call once the disk has failed, as memory may hold more than the disk.
    fn unless_failed<T>(&self, ask: impl FnOnce() -> T) -> Result<T, Error> {
        match self.failed.load(Ordering::Acquire) {
            true => Err(disk_failure()),
            false => Ok(ask()),
        }
    }
}

async fn written(receiver: Option<Written>) -> Result<(), Error> {
    match receiver {
        None => Ok(()),
        Some(receiver) => receiver.await.unwrap_or_else(|_| Err(disk_failure())),
    }
}

impl Embedded {
    /// Opens a directory, or makes it, and reads what it holds.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, clock: Clock) -> Result<Self, OpenError> {
        Self::limited(directory, clock, None)
    }

    /// The same, with a limit on the memory of its data.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn limited(
        directory: &Path,
        clock: Clock,
        bytes_max: Option<u64>,
    ) -> Result<Self, OpenError> {
        let settings = DiskSettings {
            sync: directory::sync_file(),
            journal_bytes_max: JOURNAL_BYTES_MAX,
            unsynced_span_max: UNSYNCED_SPAN_MAX,
        };
        Self::on_disk(directory, clock, bytes_max, settings)
    }

    /// The same, with other disk settings.
    fn on_disk(
        path: &Path,
        clock: Clock,
        bytes_max: Option<u64>,
        settings: DiskSettings,
    ) -> Result<Self, OpenError> {
        former::convert(path, &clock, &settings.sync)?;
        let directory = Arc::new(Directory::lock(path, SyncFile::clone(&settings.sync))?);
        former::move_old_files(&directory)?;
        let memory = Arc::new(Memory::limited(clock.clone(), bytes_max));
        let started = start::open(&directory, &memory, &clock)?;
        let running = Self::run(directory, memory, clock, started, settings);
        running.map_err(|error| OpenError::of_system(&error, path))
    }

    /// Starts the threads.
    fn run(
        directory: Arc<Directory>,
        memory: Arc<Memory>,
        clock: Clock,
        started: Started,
        settings: DiskSettings,
    ) -> std::io::Result<Self> {
        let DiskSettings { sync, journal_bytes_max, unsynced_span_max } = settings;
        let is_crowded = started.manifest.journals.len() > JOURNALS_MAX;
        let snapshot_bytes = started.manifest.snapshot.map_or(0, |snapshot| snapshot.length);
        let (journal, messages) = mpsc::channel();
        let (syncs, sync_requests) = mpsc::channel();
        let (snapshots, snapshot_requests) = mpsc::channel();
        let failed = Arc::new(AtomicBool::new(false));
        let synced = Arc::new(Synced::new(started.sequence));
        let snapshot_bytes = Arc::new(AtomicU64::new(snapshot_bytes));
        let is_busy = Arc::new(AtomicBool::new(false));
        let is_stopping = Arc::new(AtomicBool::new(false));
        let shards: Arc<[Progress]> = (0..memory::SHARDS).map(|_| Progress::default()).collect();
        let writer = Writer {
            journal: started.journal,
            sequence: started.sequence,
            clock: clock.clone(),
            failed: Arc::clone(&failed),
            shards: Arc::clone(&shards),
            synced: Arc::clone(&synced),
            syncs,
            snapshot: SnapshotDue {
                // Many short journals are due for a snapshot just as a long one is.
                journal_bytes: if is_crowded { u64::MAX / 2 } else { started.journal_bytes },
                asked_at_bytes: 0,
                journal_bytes_max,
                snapshot_bytes: Arc::clone(&snapshot_bytes),
                is_busy: Arc::clone(&is_busy),
                requests: snapshots,
            },
            unsynced: Unsynced::new(unsynced_span_max),
        };
        let syncer = Syncer {
            sync,
            marks: started.marks,
            clock: clock.clone(),
            failed: Arc::clone(&failed),
            synced: Arc::clone(&synced),
        };
        let snapshot_taker = Snapshots {
            directory: Arc::clone(&directory),
            memory: Arc::clone(&memory),
            clock,
            manifest: started.manifest,
            journal: journal.clone(),
            synced,
            bytes: snapshot_bytes,
            is_busy,
            is_stopping: Arc::clone(&is_stopping),
        };
        let threads = [
            thread("store-journal", move || writer.run(&messages)),
            thread("store-snapshot", move || snapshot_taker.run(&snapshot_requests)),
            thread("store-sync", move || syncer.run(&sync_requests)),
        ];
        let threads = threads.into_iter().collect::<Result<_, _>>()?;
        let inner = Arc::new(Inner { memory, journal, failed, shards });
        memory::sweep_in_background(Arc::downgrade(&inner), Inner::sweep);
        Ok(Self { inner, is_stopping, threads, _directory: directory })
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body)
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        // The writer may have ended by itself; then there is nothing to stop.
        drop(self.inner.journal.send(Message::Stop));
        // Each thread ends after the one before it.
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Store for Embedded {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        let inner = &self.inner;
        let applied = inner.unless_failed(|| {
            inner.memory.apply(txn, Changes::new(true), |shard, changes| {
                if changes.is_empty() {
                    // What this read has seen may not be written yet.
                    return inner.shards[shard].is_pending().then(|| inner.wait());
                }
                let (done, receiver) = oneshot::channel();
                inner.send(shard, changes, Some(done));
                Some(receiver)
            })
        });
        Box::pin(async move {
            let (outcome, receiver) = applied??;
            written(receiver).await?;
            Ok(outcome)
        })
    }

    fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs> {
        let inner = &self.inner;
        let read = inner.unless_failed(|| {
            let mut is_pending = false;
            let pend = |shard: usize| is_pending |= inner.shards[shard].is_pending();
            let logs = inner.memory.events(marks, limit, pend);
            (logs, is_pending.then(|| inner.wait()))
        });
        Box::pin(async move {
            let (logs, receiver) = read?;
            written(receiver).await?;
            Ok(logs)
        })
    }

    fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()> {
        let inner = &self.inner;
        let mut waiting = Vec::new();
        inner.memory.empty_ahead(logs, true, |shard, changes| {
            let (done, receiver) = oneshot::channel();
            inner.send(shard, changes, Some(done));
            waiting.push(receiver);
        });
        Box::pin(async move {
            for receiver in waiting {
                written(Some(receiver)).await?;
            }
            Ok(())
        })
    }

    fn count_keys<'a>(&'a self, prefixes: &'a [String], _: &'a str) -> Answer<'a, KeyCount> {
        let keys = self.inner.unless_failed(|| self.inner.memory.keys(prefixes));
        Box::pin(std::future::ready(keys))
    }

    fn memory(&self) -> Option<MemoryUse> {
        Some(self.inner.memory.memory())
    }

    fn ping(&self) -> Answer<'_, Takes> {
        Box::pin(std::future::ready(self.inner.unless_failed(|| Takes::All)))
    }

    fn flush(&self) -> Answer<'_, ()> {
        let (done, receiver) = oneshot::channel();
        drop(self.inner.journal.send(Message::Sync(done)));
        Box::pin(written(Some(receiver)))
    }

    fn name(&self) -> &'static str {
        "embedded"
    }
}

#[cfg(test)]
mod tests;
