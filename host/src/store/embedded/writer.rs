//! The two threads behind the journal. One writes what has gathered as one frame, so that many
//! transactions share a write and none of them blocks a thread that serves requests. The other
//! syncs, so that a slow disk delays only those who ask for a sync. When a sync takes so long
//! that a loss of power would take more than is promised, nothing more is acknowledged until it
//! ends.

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
use crate::store::embedded::frame::{Frame, HEADER_BYTES, Header, Kind, Origin};
use crate::store::embedded::mark::{Mark, Marks};
use crate::store::embedded::obstacle;
use session_store::Error;
use session_store::clock::Clock;
use session_store::rows::Row;

/// How long an acknowledged write waits until its sync is asked for.
const SYNC_INTERVAL: Duration = Duration::from_millis(500);
/// The most bytes of rows that one frame groups.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Who waits for the disk.
pub type Done = oneshot::Sender<Result<(), Error>>;

/// A message to the writer, which handles them in order.
pub enum Message {
    /// To write one change of a shard.
    Write {
        /// The shard.
        shard: usize,
        /// The number of the change in its shard.
        number: u64,
        /// What has changed.
        rows: Vec<Row>,
        /// Who waits for it.
        done: Option<Done>,
    },
    /// To answer when everything before is written.
    Wait(Done),
    /// To answer when everything before survives a loss of power.
    Sync(Done),
    /// To go on in another journal, and answer with the last frame of this one.
    Switch {
        /// The other one.
        journal: Journal,
        /// Who waits for it.
        done: mpsc::Sender<u64>,
    },
    /// To sync, and end.
    Stop,
}

/// A journal that is written to.
pub struct Journal {
    file: Arc<File>,
    origin: Origin,
    offset: u64,
}

impl Journal {
    /// One with nothing but its head.
    pub fn new(file: File, origin: Origin) -> Self {
        Self { file: Arc::new(file), origin, offset: HEADER_BYTES as u64 }
    }
}

/// How many changes of a shard were sent and written. It has a cache line of its own, as other
/// threads write those of other shards meanwhile.
#[derive(Default)]
#[repr(align(64))]
pub struct Progress {
    /// How many changes the shard has had; moves while the shard is locked.
    pub sent: AtomicU64,
    /// How many of them the operating system has.
    pub written: AtomicU64,
}

impl Progress {
    /// Whether a change that can be seen may still be lost with the process. For whoever
    /// has the lock of the shard.
    pub fn is_pending(&self) -> bool {
        self.written.load(Ordering::Acquire) < self.sent.load(Ordering::Relaxed)
    }
}

/// When a snapshot is due, and whom to ask for it.
pub struct SnapshotDue {
    /// The journals' length since the last snapshot, in bytes.
    pub journal_bytes: u64,
    /// How long they were when one was last asked for, so that one that fails is tried again
    /// after as much again, and not with the next write.
    pub asked_at_bytes: u64,
    /// The length that they may have, however small the snapshot.
    pub journal_bytes_max: u64,
    /// The length of the last snapshot.
    pub snapshot_bytes: Arc<AtomicU64>,
    /// Whether one is being taken.
    pub is_busy: Arc<AtomicBool>,
    /// Who takes it.
    pub requests: mpsc::Sender<()>,
}

impl SnapshotDue {
    /// Asks for a snapshot when the journals have grown enough and none is being taken.
    fn ask(&mut self) {
        let bound = self.journal_bytes_max.max(self.snapshot_bytes.load(Ordering::Relaxed));
        let grown = self.journal_bytes - self.asked_at_bytes;
        if grown > bound && !self.is_busy.swap(true, Ordering::Relaxed) {
            self.asked_at_bytes = self.journal_bytes;
            // Without the thread there is no snapshot, which is no harm.
            let _ = self.requests.send(());
        }
    }
}

/// The thread that writes.
pub struct Writer {
    /// Where changes go.
    pub journal: Journal,
    /// The frame written last.
    pub sequence: u64,
    /// The time.
    pub clock: Clock,
    /// Set when the disk refuses something.
    pub failed: Arc<AtomicBool>,
    /// How far each shard is.
    pub shards: Arc<[Progress]>,
    /// The last frame that is on the disk.
    pub synced: Arc<Synced>,
    /// The thread that syncs.
    pub syncs: mpsc::Sender<SyncRequest>,
    /// When a snapshot is due.
    pub snapshot: SnapshotDue,
    /// What is not on the disk.
    pub unsynced: Unsynced,
}

/// What was written and is not on the disk, as far as its writer knows.
pub struct Unsynced {
    /// The time that may lie between the acknowledgements of two writes that are not on the
    /// disk: a loss of power takes the writes of no longer time.
    span_max: Duration,
    /// When the first write was acknowledged of which no sync was asked for.
    since: Option<Instant>,
    /// Journals that have something which no sync was asked for.
    files: Vec<Arc<File>>,
    /// The syncs that were asked for, oldest first: up to which frame, and when the first
    /// write of it was acknowledged.
    asked: VecDeque<(u64, Instant)>,
}

impl Unsynced {
    /// Nothing.
    pub fn new(span_max: Duration) -> Self {
        Self { span_max, since: None, files: Vec::new(), asked: VecDeque::new() }
    }
}

/// The last frame that is on the disk, and who waits for it.
pub struct Synced {
    last: AtomicU64,
    moved: (Mutex<()>, Condvar),
}

impl Synced {
    /// Up to a frame.
    pub fn new(last: u64) -> Self {
        Self { last: last.into(), moved: (Mutex::default(), Condvar::new()) }
    }

    /// The last frame.
    pub fn get(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    fn set(&self, last: u64) {
        self.last.store(last, Ordering::Release);
        self.wake();
    }

    /// Has those who wait look again.
    fn wake(&self) {
        // No code panics while it holds this lock.
        drop(self.moved.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.moved.1.notify_all();
    }

    /// Waits until a frame is on the disk, or the disk has failed.
    fn wait_for(&self, frame: u64, failed: &AtomicBool) {
        let mut guard = self.moved.0.lock().unwrap_or_else(PoisonError::into_inner);
        while self.get() < frame && !failed.load(Ordering::Acquire) {
            guard = self.moved.1.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What came together and is written as one frame.
#[derive(Default)]
struct Group {
    changes: Vec<(usize, u64)>,
    waiting: Vec<Done>,
    syncing: Vec<Done>,
    switch: Option<(Journal, mpsc::Sender<u64>)>,
    stop: bool,
}

impl Writer {
    /// Writes until it is told to stop.
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
            self.hold_back();
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
                // A caller that has gone does not wait for its answer.
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
                // Whoever asked for it may have given up.
                let _ = done.send(self.sequence);
            }
            self.snapshot.ask();
            if group.stop {
                return;
            }
        }
    }

    /// Waits for the disk while the first write that is not on it was acknowledged too long
    /// ago.
    fn hold_back(&mut self) {
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
            kind: Kind::Rows,
            length: 0,
            checksum: 0,
            sequence: self.sequence + 1,
            milliseconds: self.clock.now(),
            synced: self.synced.get(),
        };
        let bytes = frame.seal(header, &self.journal.origin);
        let written = self.journal.file.write_all_at(bytes, self.journal.offset);
        let length = bytes.len() as u64;
        frame.clear();
        written.map_err(|error| fail(&self.failed, &error))?;
        self.journal.offset += length;
        self.snapshot.journal_bytes += length;
        self.sequence += 1;
        Ok(())
    }

    /// Asks for a sync of everything that is written.
    fn sync(&mut self, done: Vec<Done>, closed: bool) {
        self.unsynced.files.push(Arc::clone(&self.journal.file));
        let files = std::mem::take(&mut self.unsynced.files);
        if let Some(since) = self.unsynced.since.take() {
            self.unsynced.asked.push_back((self.sequence, since));
        }
        let request = SyncRequest { files, sequence: self.sequence, closed, done };
        // Without the other thread, whoever waits gets an error.
        drop(self.syncs.send(request));
    }
}

/// Takes what is there, up to so many bytes, into the frame.
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

/// What the other thread is asked for.
pub struct SyncRequest {
    files: Vec<Arc<File>>,
    sequence: u64,
    closed: bool,
    done: Vec<Done>,
}

/// The thread that syncs.
pub struct Syncer {
    /// How a file is synced.
    pub sync: SyncFile,
    /// The file that says how far it is.
    pub marks: Marks,
    /// The time.
    pub clock: Clock,
    /// Set when the disk refuses something.
    pub failed: Arc<AtomicBool>,
    /// The last frame that is on the disk.
    pub synced: Arc<Synced>,
}

impl Drop for Syncer {
    fn drop(&mut self) {
        // Nobody is to wait for what does not come any more.
        if std::thread::panicking() {
            self.failed.store(true, Ordering::Release);
            self.synced.wake();
        }
    }
}

impl Syncer {
    /// Syncs until nobody can ask any more.
    pub fn run(mut self, requests: &mpsc::Receiver<SyncRequest>) {
        while let Ok(mut request) = requests.recv() {
            // What has gathered during the last sync is one.
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

/// After a failure nobody knows what the disk holds; only a new start does.
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
    fn a_snapshot_that_failed_is_asked_for_again_after_as_much_again() {
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
