//! The durable store of a single host: memory for reading and deciding, a
//! journal on disk for keeping. A transaction is acknowledged when the operating
//! system has it, so a kill of the process loses nothing, and synced to the disk
//! within a second. A loss of power costs at most that second, unless the disk writes it
//! half and out of order: then the start is refused, rather than guessed.

mod obstacle;

use std::collections::BTreeMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::store::memory::{self, Memory};
use crate::store::rows::{self, Changes, Row};
use crate::store::transaction::{Outcome, Txn};
use crate::store::{Answer, Error, KeyCount, LogMark, Logs, MemoryUse, Store, Takes};
pub use obstacle::OpenError;

/// How long an acknowledged write may stay unsynced.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// The most bytes of rows that one commit groups.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Rows are served from memory, so the disk needs little cache and small
/// buffers; a short journal makes a quick start.
const DISK_CACHE_BYTES: u64 = 4 << 20;
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
const MEMTABLE_BYTES_MAX: u64 = 8 << 20;

/// A store that keeps its data in a directory.
pub struct Embedded {
    inner: Arc<Inner>,
    writer: Option<JoinHandle<()>>,
}

struct Inner {
    memory: Memory,
    journal: mpsc::Sender<Message>,
    /// Set when the disk refused a write: what memory holds is then more than
    /// what the disk holds, so nothing may be acknowledged any more.
    failed: Arc<AtomicBool>,
}

impl Inner {
    fn sweep(&self) {
        self.memory.sweep(true, |changes| {
            // Without a writer there is nothing left to keep in step.
            drop(self.journal.send(Message::Write { rows: changes.into_rows(), done: None }));
        });
    }
}

type Done = oneshot::Sender<Result<(), Error>>;

enum Message {
    Write { rows: Vec<Row>, done: Option<Done> },
    Sync(Done),
    Stop,
}

impl Embedded {
    /// Opens a directory, made when absent, and reads what it holds.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(directory: &Path, clock: Clock) -> Result<Self, OpenError> {
        Self::limited(directory, clock, None)
    }

    /// The same, whose data takes so much memory at most.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn limited(
        directory: &Path,
        clock: Clock,
        bytes_max: Option<u64>,
    ) -> Result<Self, OpenError> {
        let opened = |error: fjall::Error| OpenError::of(&error, directory);
        // What is in it is nobody else's to read.
        let mut made = std::fs::DirBuilder::new();
        made.recursive(true).mode(0o700);
        made.create(directory).map_err(|error| OpenError::of_system(&error, directory))?;
        let database = Database::builder(directory)
            .cache_size(DISK_CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open()
            .map_err(opened)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX);
        let keyspace = database.keyspace("rows", options).map_err(opened)?;
        let memory = Memory::limited(clock, bytes_max);
        for guard in keyspace.iter() {
            let (key, value) = guard.into_inner().map_err(opened)?;
            rows::restore(&memory, &key, &value).map_err(|row| OpenError::of_row(&row))?;
        }
        let (journal, messages) = mpsc::channel();
        let failed = Arc::new(AtomicBool::new(false));
        let writer =
            Writer { database, keyspace, failed: Arc::clone(&failed), unsynced_since: None };
        let writer = std::thread::Builder::new()
            .name("store-journal".into())
            .spawn(move || writer.run(&messages))
            .map_err(|error| OpenError::of_system(&error, directory))?;
        let inner = Arc::new(Inner { memory, journal, failed });
        memory::sweep_in_background(Arc::downgrade(&inner), Inner::sweep);
        Ok(Self { inner, writer: Some(writer) })
    }

    /// Nothing is told any more once the disk has failed: what is in memory may not be on it.
    fn unless_failed<T>(&self, ask: impl FnOnce() -> T) -> Result<T, Error> {
        match self.inner.failed.load(Ordering::Relaxed) {
            true => Err(disk_failure()),
            false => Ok(ask()),
        }
    }

    async fn written(&self, receiver: oneshot::Receiver<Result<(), Error>>) -> Result<(), Error> {
        receiver.await.unwrap_or_else(|_| Err(disk_failure()))
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The writer may have ended on its own; then there is nothing to stop.
        drop(self.inner.journal.send(Message::Stop));
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

impl Store for Embedded {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        if self.inner.failed.load(Ordering::Relaxed) {
            return Box::pin(std::future::ready(Err(disk_failure())));
        }
        let applied = self.inner.memory.apply(txn, Changes::new(true), |changes| {
            if changes.is_empty() {
                return None;
            }
            let (done, receiver) = oneshot::channel();
            let write = Message::Write { rows: changes.into_rows(), done: Some(done) };
            // Without a writer the receiver reports it.
            drop(self.inner.journal.send(write));
            Some(receiver)
        });
        Box::pin(async move {
            let (outcome, receiver) = applied?;
            if let Some(receiver) = receiver {
                self.written(receiver).await?;
            }
            Ok(outcome)
        })
    }

    fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs> {
        let logs = self.unless_failed(|| self.inner.memory.events(marks, limit));
        Box::pin(std::future::ready(logs))
    }

    fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()> {
        let mut waiting = Vec::new();
        self.inner.memory.empty_ahead(logs, true, |changes| {
            let (done, receiver) = oneshot::channel();
            let write = Message::Write { rows: changes.into_rows(), done: Some(done) };
            // Without a writer the receiver reports it.
            drop(self.inner.journal.send(write));
            waiting.push(receiver);
        });
        Box::pin(async move {
            for receiver in waiting {
                self.written(receiver).await?;
            }
            Ok(())
        })
    }

    fn count_keys<'a>(&'a self, prefixes: &'a [String], _: &'a str) -> Answer<'a, KeyCount> {
        let keys = self.unless_failed(|| self.inner.memory.keys(prefixes));
        Box::pin(std::future::ready(keys))
    }

    fn memory(&self) -> Option<MemoryUse> {
        Some(self.inner.memory.memory())
    }

    fn ping(&self) -> Answer<'_, Takes> {
        Box::pin(std::future::ready(self.unless_failed(|| Takes::All)))
    }

    fn flush(&self) -> Answer<'_, ()> {
        let (done, receiver) = oneshot::channel();
        drop(self.inner.journal.send(Message::Sync(done)));
        Box::pin(self.written(receiver))
    }

    fn name(&self) -> &'static str {
        "embedded"
    }
}

/// The one thread that writes to the disk, so that many transactions share one
/// commit and none of them blocks a thread that serves requests.
struct Writer {
    database: Database,
    keyspace: Keyspace,
    failed: Arc<AtomicBool>,
    unsynced_since: Option<Instant>,
}

impl Writer {
    fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut waiting: Vec<Done> = Vec::new();
        loop {
            let first = match self.unsynced_since {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => messages.recv_timeout(SYNC_INTERVAL.saturating_sub(since.elapsed())),
            };
            let mut group: BTreeMap<Vec<u8>, Option<Bytes>> = BTreeMap::new();
            let (mut sync, mut stop, mut bytes) = (Vec::new(), false, 0);
            let mut next = match first {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
            };
            while let Some(message) = next {
                match message {
                    Message::Write { rows, done } => {
                        waiting.extend(done);
                        for Row { key, value } in rows {
                            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                            group.insert(key, value);
                        }
                    }
                    Message::Sync(done) => sync.push(done),
                    Message::Stop => stop = true,
                }
                next =
                    if stop || bytes > GROUP_BYTES_MAX { None } else { messages.try_recv().ok() };
            }
            let committed = self.commit(group);
            for done in waiting.drain(..) {
                // A caller that has gone does not wait for its answer.
                drop(done.send(committed.clone()));
            }
            let due = self.unsynced_since.is_some_and(|since| since.elapsed() >= SYNC_INTERVAL);
            if due || stop || !sync.is_empty() {
                let synced = self.sync();
                for done in sync {
                    drop(done.send(synced.clone()));
                }
            }
            if stop {
                return;
            }
        }
    }

    fn commit(&mut self, group: BTreeMap<Vec<u8>, Option<Bytes>>) -> Result<(), Error> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(disk_failure());
        }
        if group.is_empty() {
            return Ok(());
        }
        let mut batch = self.database.batch().durability(Some(PersistMode::Buffer));
        for (key, value) in group {
            match value {
                Some(value) => batch.insert(&self.keyspace, key, &value[..]),
                None => batch.remove(&self.keyspace, key),
            }
        }
        let result = batch.commit();
        self.unsynced_since.get_or_insert_with(Instant::now);
        self.guard(result)
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.unsynced_since = None;
        let result = self.database.persist(PersistMode::SyncData);
        self.guard(result)
    }

    /// After a failure nobody knows what the disk holds; only a new start does.
    fn guard(&self, result: fjall::Result<()>) -> Result<(), Error> {
        result.map_err(|error| {
            let error = obstacle::refusal(&error);
            tracing::error!(%error, "the disk refused a write; restart when it is mended");
            self.failed.store(true, Ordering::Relaxed);
            disk_failure()
        })
    }
}

fn disk_failure() -> Error {
    Error::Unavailable("the disk refused a write".into())
}
