//! The two threads of the journal. The writer writes all changes that have gathered as one frame,
//! so many transactions share a write and none blocks a thread that serves requests. The syncer
//! syncs, so a slow disk delays only the callers that ask for a sync. If a sync takes so long that
//! a loss of power would lose more than promised, nothing is acknowledged until it ends.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::store::embedded::directory::SyncFile;
use crate::store::embedded::frame::{Frame, FrameKind, HEADER_BYTES, Header, Origin};
use crate::store::embedded::mark::{Mark, Marks};
use crate::store::embedded::obstacle;
use session_store::Error;
use session_store::clock::Clock;
use session_store::rows::Row;

/// How long an acknowledged write waits for its sync to start.
const SYNC_INTERVAL: Duration = Duration::from_millis(500);
/// The most bytes of rows in one frame.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Notifies the caller that waits for the disk.
pub type Done = oneshot::Sender<Result<(), Error>>;

/// A message to the writer, which handles them in order.
pub enum Message {
    /// Writes one change of a shard.
    Write {
        /// The shard.
        shard: usize,
        /// The number of the change in its shard.
        number: u64,
        /// The changed rows.
        rows: Vec<Row>,
        /// The caller that waits for it.
        done: Option<Done>,
    },
    /// Answers once everything before it is written.
    Wait(Done),
    /// Answers once everything before it survives a loss of power.
    Sync(Done),
    /// Continues in another journal, and answers with the last frame of this one.
    Switch {
        /// The other journal.
        journal: Journal,
        /// The thread that waits for it.
        done: mpsc::Sender<u64>,
    },
    /// Syncs and ends.
    Stop,
}

/// A journal that is being written.
pub struct Journal {
    file: Arc<File>,
    origin: Origin,
    offset: u64,
}

impl Journal {
    /// A journal that holds only its head.
    pub fn new(file: File, origin: Origin) -> Self {
        Self { file: Arc::new(file), origin, offset: HEADER_BYTES as u64 }
    }
}

/// How many changes of a shard were sent and written. Each has its own cache line, as other
/// threads write those of other shards at the same time.
#[derive(Default)]
#[repr(align(64))]
pub struct Progress {
    /// The number of changes of the shard; grows while the shard is locked.
    pub sent: AtomicU64,
    /// How many of them the operating system has.
    pub written: AtomicU64,
}

impl Progress {
    /// Whether a visible change may still be lost with the process. The caller must hold the
    /// lock of the shard.
    pub fn is_pending(&self) -> bool {
        self.written.load(Ordering::Acquire) < self.sent.load(Ordering::Relaxed)
    }
}

/// Decides when a snapshot is due, and requests it.
pub struct SnapshotDue {
    /// The length of the journals since the last snapshot, in bytes.
    pub journal_bytes: u64,
    /// That length at the last request. A failed snapshot is tried again after as many bytes
    /// more, and not at the next write.
    pub asked_at_bytes: u64,
    /// The length that the journals may have, however small the snapshot.
    pub journal_bytes_max: u64,
    /// The length of the last snapshot, in bytes.
    pub snapshot_bytes: Arc<AtomicU64>,
    /// Whether a snapshot is being taken.
    pub is_busy: Arc<AtomicBool>,
    /// The thread that takes snapshots.
    pub requests: mpsc::Sender<()>,
}

impl SnapshotDue {
    /// Requests a snapshot if the journals have grown enough and none is being taken.
    fn ask(&mut self) {
        let bound = self.journal_bytes_max.max(self.snapshot_bytes.load(Ordering::Relaxed));
        let grown = self.journal_bytes - self.asked_at_bytes;
        if grown > bound && !self.is_busy.swap(true, Ordering::Relaxed) {
            self.asked_at_bytes = self.journal_bytes;
            // Without the thread there is no snapshot, which does no harm.
            let _ = self.requests.send(());
        }
    }
}

/// The state of the writer.
pub struct Writer {
    /// The current journal.
    pub journal: Journal,
    /// The last frame written.
    pub sequence: u64,
    /// The clock.
    pub clock: Clock,
    /// Set once the disk has refused something.
    pub failed: Arc<AtomicBool>,
    /// The progress of each shard.
    pub shards: Arc<[Progress]>,
    /// The last synced frame.
    pub synced: Arc<Synced>,
    /// The syncer.
    pub syncs: mpsc::Sender<SyncRequest>,
    /// Decides when a snapshot is due.
    pub snapshot: SnapshotDue,
    /// What is written and not synced.
    pub unsynced: Unsynced,
}

/// What is written and not synced, as far as the writer knows.
pub struct Unsynced {
    /// The longest time between the acknowledgements of two unsynced writes. A loss of power
    /// loses the writes of no longer time.
    span_max: Duration,
    /// The acknowledgement of the first write without a requested sync.
    since: Option<Instant>,
    /// Journals with writes without a requested sync.
    files: Vec<Arc<File>>,
    /// The requested syncs, oldest first: the last frame of each, and when its first write was
    /// acknowledged.
    asked: VecDeque<(u64, Instant)>,
}

impl Unsynced {
    /// Nothing is written yet.
    pub fn new(span_max: Duration) -> Self {
        Self { span_max, since: None, files: Vec::new(), asked: VecDeque::new() }
    }
}

/// The last synced frame, and its waiters.
pub struct Synced {
    last: AtomicU64,
    changed: (Mutex<()>, Condvar),
}

impl Synced {
    /// Everything up to a frame is synced.
    pub fn new(last: u64) -> Self {
        Self { last: last.into(), changed: (Mutex::default(), Condvar::new()) }
    }

    /// The last synced frame.
    pub fn get(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    fn set(&self, last: u64) {
        self.last.store(last, Ordering::Release);
        self.wake();
    }

    /// Wakes the waiters.
    fn wake(&self) {
        // No code panics while it holds this lock.
        drop(self.changed.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.1.notify_all();
    }

    /// Waits until a frame is synced, or the disk has failed.
    fn wait_for(&self, frame: u64, failed: &AtomicBool) {
        let mut guard = self.changed.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.get() < frame && !failed.load(Ordering::Acquire) {
            guard = self.changed.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Messages that are handled together, with their changes as one frame.
#[derive(Default)]
struct Group {
    changes: Vec<(usize, u64)>,
    waiting: Vec<Done>,
    syncing: Vec<Done>,
    switch: Option<(Journal, mpsc::Sender<u64>)>,
    stop: bool,
}

impl Writer {
    /// Writes until it receives [`Message::Stop`].
    pub fn run(mut self, messages: &mpsc::Receiver<Message>) {
        let mut frame = Frame::new();
        let interval = SYNC_INTERVAL.min(self.unsynced.span_max);
        loop {
            let first = match self.unsynced.since {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => messages.recv_timeout(interval.saturating_sub(since.elapsed())),
            };
            let first = match first {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Message::Stop),
            };
            self.wait_for_disk();
            let group = gather(first, messages, &mut frame);
            if !frame.is_empty() {
                self.unsynced.since.get_or_insert_with(Instant::now);
            }
            let committed = self.commit(&mut frame);
            if committed.is_ok() {
                for (shard, number) in group.changes {
                    self.shards[shard].written.store(number, Ordering::Release);
                }
            }
            for done in group.waiting {
                // The caller may have stopped waiting.
                drop(done.send(committed.clone()));
            }
            let is_due = self.unsynced.since.is_some_and(|since| since.elapsed() >= interval);
            if is_due || group.stop || !group.syncing.is_empty() {
                self.sync(group.syncing, group.stop);
            }
            if let Some((journal, done)) = group.switch {
                let before = std::mem::replace(&mut self.journal, journal);
                self.unsynced.files.push(before.file);
                self.snapshot.journal_bytes = 0;
                self.snapshot.asked_at_bytes = 0;
                // The snapshot thread may have given up.
                let _ = done.send(self.sequence);
            }
            self.snapshot.ask();
            if group.stop {
                return;
            }
        }
    }

    /// Waits for the disk while the first unsynced write was acknowledged too long ago.
    fn wait_for_disk(&mut self) {
        let span_max = self.unsynced.span_max;
        while !self.failed.load(Ordering::Acquire) {
            let synced = self.synced.get();
            while self.unsynced.asked.front().is_some_and(|(frame, _)| *frame <= synced) {
                self.unsynced.asked.pop_front();
            }
            match (self.unsynced.asked.front(), self.unsynced.since) {
                (Some((frame, since)), _) if since.elapsed() >= span_max => {
                    self.synced.wait_for(*frame, &self.failed);
                }
                (None, Some(since)) if since.elapsed() >= span_max => self.sync(Vec::new(), false),
                _ => return,
            }
        }
    }

    /// Hands the frame to the operating system.
    fn commit(&mut self, frame: &mut Frame) -> Result<(), Error> {
        if self.failed.load(Ordering::Acquire) {
            frame.clear();
            return Err(disk_failure());
        }
        if frame.is_empty() {
            return Ok(());
        }
        let header = Header {
            kind: FrameKind::Rows,
            length: 0,
            checksum: 0,
            sequence: self.sequence + 1,
            milliseconds: self.clock.now(),
            synced: self.synced.get(),
        };
        let bytes = frame.finish(header, &self.journal.origin);
        let written = self.journal.file.write_all_at(bytes, self.journal.offset);
        let length = bytes.len() as u64;
        frame.clear();
        written.map_err(|error| fail(&self.failed, &error))?;
        self.journal.offset += length;
        self.snapshot.journal_bytes += length;
        self.sequence += 1;
        Ok(())
    }

    /// Requests a sync of everything written.
    fn sync(&mut self, done: Vec<Done>, closed: bool) {
        self.unsynced.files.push(Arc::clone(&self.journal.file));
        let files = std::mem::take(&mut self.unsynced.files);
        if let Some(since) = self.unsynced.since.take() {
            self.unsynced.asked.push_back((self.sequence, since));
        }
        let request = SyncRequest { files, sequence: self.sequence, closed, done };
        // Without the syncer the callers get an error.
        drop(self.syncs.send(request));
    }
}

/// Takes the messages that have gathered, up to a number of bytes.
fn gather(first: Option<Message>, messages: &mpsc::Receiver<Message>, frame: &mut Frame) -> Group {
    let mut group = Group::default();
    let mut next = first;
    while let Some(message) = next {
        match message {
            Message::Write { shard, number, rows, done } => {
                rows.iter().for_each(|row| frame.push(row));
                group.changes.push((shard, number));
                group.waiting.extend(done);
            }
            Message::Wait(done) => group.waiting.push(done),
            Message::Sync(done) => group.syncing.push(done),
            Message::Switch { journal, done } => group.switch = Some((journal, done)),
            Message::Stop => group.stop = true,
        }
        let is_full = group.stop || group.switch.is_some() || frame.len() > GROUP_BYTES_MAX;
        next = if is_full { None } else { messages.try_recv().ok() };
    }
    group
}

/// A request to the syncer.
pub struct SyncRequest {
    files: Vec<Arc<File>>,
    sequence: u64,
    closed: bool,
    done: Vec<Done>,
}

/// The state of the syncer.
pub struct Syncer {
    /// Syncs a file.
    pub sync: SyncFile,
    /// The file that records how far the journal is synced.
    pub marks: Marks,
    /// The clock.
    pub clock: Clock,
    /// Set once the disk has refused something.
    pub failed: Arc<AtomicBool>,
    /// The last synced frame.
    pub synced: Arc<Synced>,
}

impl Drop for Syncer {
    fn drop(&mut self) {
        // Otherwise the writer would wait for ever for this thread.
        if std::thread::panicking() {
            self.failed.store(true, Ordering::Release);
            self.synced.wake();
        }
    }
}

impl Syncer {
    /// Syncs until the requests end.
    pub fn run(mut self, requests: &mpsc::Receiver<SyncRequest>) {
        while let Ok(mut request) = requests.recv() {
            // Requests that have gathered during the last sync share one.
            for later in requests.try_iter() {
                request.files.extend(later.files);
                request.done.extend(later.done);
                (request.sequence, request.closed) = (later.sequence, later.closed);
            }
            let synced = self.sync(&request);
            for done in request.done {
                drop(done.send(synced.clone()));
            }
        }
    }

    fn sync(&mut self, request: &SyncRequest) -> Result<(), Error> {
        if self.failed.load(Ordering::Acquire) {
            return Err(disk_failure());
        }
        let synced = self.sync_files(request).map_err(|error| fail(&self.failed, &error));
        match synced {
            Ok(()) => self.synced.set(request.sequence),
            Err(_) => self.synced.wake(),
        }
        synced
    }

    fn sync_files(&mut self, request: &SyncRequest) -> io::Result<()> {
        let mut before: Option<&Arc<File>> = None;
        for file in &request.files {
            if before.is_none_or(|before| !Arc::ptr_eq(before, file)) {
                (self.sync)(file)?;
            }
            before = Some(file);
        }
        let SyncRequest { sequence, closed, .. } = *request;
        let mark = Mark { sequence, milliseconds: self.clock.now(), closed };
        let file = self.marks.write(mark)?;
        (self.sync)(file)
    }
}

/// After a failure the content of the disk is unknown until a new start reads it.
fn fail(failed: &AtomicBool, error: &io::Error) -> Error {
    let error = obstacle::words(error);
    tracing::error!(error, "the disk refused a write; restart when it is mended");
    failed.store(true, Ordering::Release);
    disk_failure()
}

/// The error of every call once the disk has refused a write.
pub fn disk_failure() -> Error {
    Error::Unavailable("the disk refused a write".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_snapshot_is_requested_again_after_as_many_bytes_more() {
        let (requests, asked) = mpsc::channel();
        let is_busy = Arc::new(AtomicBool::new(false));
        let mut due = SnapshotDue {
            journal_bytes: 0,
            asked_at_bytes: 0,
            journal_bytes_max: 100,
            snapshot_bytes: Arc::default(),
            is_busy: Arc::clone(&is_busy),
            requests,
        };
        let mut asked_at = Vec::new();
        for bytes in 0..=250 {
            due.journal_bytes = bytes;
            due.ask();
            if asked.try_recv().is_ok() {
                asked_at.push(bytes);
                // It fails at once.
                is_busy.store(false, Ordering::Relaxed);
            }
        }
        assert_eq!(asked_at, [101, 202]);
    }
}
