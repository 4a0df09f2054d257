//! The embedded store on a disk that fails as a seed decides. Its state after a kill, a loss of
//! power or damage is compared with what was acknowledged.

mod damage;
mod disk;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use self::disk::{Disk, Seed};
use super::*;
use session_store::restore;
use session_store::transaction::{Entry, Operation, Reply};

const NOW: u64 = 1_800_000_000_000;

/// Everything in memory, as rows.
type State = BTreeMap<Vec<u8>, Bytes>;

fn state(memory: &Memory) -> State {
    let mut state = State::new();
    let take = |changes: Changes| -> Result<(), ()> {
        state.extend(changes.into_rows().into_iter().map(|row| (row.key, row.value.unwrap())));
        Ok(())
    };
    memory.dump(take).unwrap();
    state
}

fn open(path: &Path, disk: &Disk, journal_bytes_max: u64) -> Result<Embedded, OpenError> {
    Embedded::on_disk(path, Clock::manual(NOW), None, settings(disk.sync(), journal_bytes_max))
}

/// Disk settings without a limit on the time of a sync.
fn settings(sync: SyncFile, journal_bytes_max: u64) -> DiskSettings {
    DiskSettings { sync, journal_bytes_max, unsynced_span_max: Duration::MAX }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn txn(operation: Operation) -> Txn {
    Txn { success: vec![operation], ..Txn::default() }
}

fn set(key: &str, value: &str) -> Txn {
    let entries = vec![Entry { field: "f".into(), value: Bytes::from(value.to_owned()) }];
    txn(Operation::HashSet { key: key.into(), entries, ttl: Some(60_000) })
}

fn get(key: &str) -> Txn {
    txn(Operation::HashGet { key: key.into(), fields: None })
}

/// A change of few keys of all types.
fn change(seed: &mut Seed) -> Txn {
    let key = |letter: &str, seed: &mut Seed| format!("{letter}:{}", seed.below(6));
    let text = |seed: &mut Seed| "x".repeat(seed.below(60) as usize);
    txn(match seed.below(8) {
        0 => Operation::HashDelete(key("booking", seed)),
        1 => Operation::HashAdd { key: key("booking", seed), field: "n".into(), delta: 1 },
        2 => Operation::MemberRemove { key: key("user", seed), member: key("m", seed) },
        3 | 4 => Operation::MemberSet {
            key: key("user", seed),
            member: key("m", seed),
            ttl: 1000 + seed.below(1000),
        },
        5 => {
            let entries = vec![Entry { field: "e".into(), value: text(seed).into() }];
            Operation::AppendEvent { log: key("log", seed), entries, keep: 3 }
        }
        _ => {
            let field = format!("f{}", seed.below(3));
            let entries = vec![Entry { field, value: text(seed).into() }];
            let ttl = Some(1000 + seed.below(1000));
            Operation::HashSet { key: key("booking", seed), entries, ttl }
        }
    })
}

#[test]
fn replayed_rows_restore_the_state() {
    for number in 0..40 {
        let mut seed = Seed::new(number);
        let memory = Memory::new(Clock::manual(NOW));
        let (mut rows, mut copy, mut from) = (Vec::new(), None, 0);
        let (copy_at, from_at) = (seed.below(60) + 20, seed.below(20));
        for index in 0..100 {
            if index == from_at {
                from = rows.len();
            }
            if index == copy_at {
                copy = Some(state(&memory));
            }
            let record = |_, changes: Changes| rows.extend(changes.into_rows());
            memory.apply(change(&mut seed), Changes::new(true), record).unwrap();
        }
        let replay = |memory: &Memory, from: usize| {
            for row in &rows[from..] {
                restore::row(memory, &row.key, row.value.as_deref()).unwrap();
            }
        };
        let (plain, later) = (Memory::new(Clock::manual(NOW)), Memory::new(Clock::manual(NOW)));
        replay(&plain, 0);
        // A snapshot that is newer than the journal behind it.
        for (key, value) in copy.unwrap() {
            restore::row(&later, &key, Some(&value)).unwrap();
        }
        replay(&later, from);
        for replayed in [plain, later] {
            assert_eq!(state(&replayed), state(&memory), "{number}");
            assert_eq!(replayed.memory(), memory.memory(), "{number}");
            let prefixes = ["booking:", "user:", "log:"].map(str::to_owned);
            assert_eq!(replayed.keys(&prefixes), memory.keys(&prefixes));
        }
    }
}

#[test]
fn a_kill_at_any_moment_of_a_snapshot_loses_nothing() {
    let path = tempfile::tempdir().unwrap();
    let disk = Disk::copied(path.path());
    let store = open(path.path(), &disk, 2000).unwrap();
    let (mut seed, mut states) = (Seed::new(1), vec![State::new()]);
    for index in 0.. {
        // The thread that takes snapshots has its own pace.
        if index >= 1000 && disk.copy_count() > 20 {
            break;
        }
        let mut acknowledged = disk.freeze();
        wait(store.execute(change(&mut seed))).unwrap();
        states.push(state(&store.inner.memory));
        *acknowledged += 1;
        drop(acknowledged);
        if index % 8 == 0 {
            wait(store.flush()).unwrap();
        }
    }
    let copies = disk.copies();
    drop(store);
    for (copy, acknowledged) in copies {
        let store = open(copy.path(), &Disk::quick(), u64::MAX).unwrap();
        assert_eq!(state(&store.inner.memory), states[acknowledged]);
    }
    let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
    assert_eq!(Some(&state(&store.inner.memory)), states.last());
}

#[test]
fn snapshots_keep_the_directory_small_and_are_taken_while_it_serves() {
    let path = tempfile::tempdir().unwrap();
    let store = open(path.path(), &Disk::quick(), 10_000).unwrap();
    let mut seed = Seed::new(2);
    let is_small = || {
        let files = directory::numbered(path.path());
        let length = |(kind, number): &(frame::FileKind, u32)| {
            // It may be gone by now.
            std::fs::metadata(path.path().join(kind.file(*number))).map_or(0, |it| it.len())
        };
        let has_snapshot = files.iter().any(|(kind, _)| *kind == frame::FileKind::Snapshot);
        has_snapshot && files.iter().map(length).sum::<u64>() < 300_000
    };
    // The thread that takes snapshots has its own pace.
    let mut written = 0;
    while written < 3000 || !is_small() {
        wait(store.execute(change(&mut seed))).unwrap();
        written += 1;
    }
    let expected = state(&store.inner.memory);
    drop(store);
    for _ in 0..20 {
        let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
        assert_eq!(state(&store.inner.memory), expected);
    }
}

#[test]
fn a_read_is_answered_when_the_changes_it_saw_are_written() {
    let path = tempfile::tempdir().unwrap();
    let (journal, messages) = mpsc::channel();
    // The test is the writer.
    let store = Embedded {
        inner: Arc::new(Inner {
            memory: Arc::new(Memory::new(Clock::manual(NOW))),
            journal,
            failed: Arc::default(),
            shards: (0..memory::SHARDS).map(|_| Progress::default()).collect(),
        }),
        is_stopping: Arc::default(),
        threads: Vec::new(),
        _directory: Arc::new(Directory::lock(path.path(), directory::sync_file()).unwrap()),
    };
    let log = [LogMark { log: "k".into(), after: None }];
    let mut written = pin!(store.execute(set("k", "1")));
    let mut read = pin!(store.execute(get("k")));
    let mut read_log = pin!(store.read_logs(&log, 10));
    assert!(poll(written.as_mut()).is_pending());
    assert!(poll(read.as_mut()).is_pending(), "what it saw is not written");
    assert!(poll(read_log.as_mut()).is_pending(), "it may have seen something");
    let is_answered = |n: u64| poll(pin!(store.execute(get(&format!("other{n}"))))).is_ready();
    assert!((0..40).any(is_answered), "other keys wait for nothing");
    for message in messages.try_iter() {
        match message {
            Message::Write { shard, number, done, .. } => {
                store.inner.shards[shard].written.store(number, Ordering::Release);
                done.unwrap().send(Ok(())).unwrap();
            }
            Message::Wait(done) => drop(done.send(Ok(()))),
            _ => panic!("no other message was sent"),
        }
    }
    assert!(poll(written).is_ready() && poll(read_log).is_ready());
    let Poll::Ready(Ok(outcome)) = poll(read) else { panic!("it is written") };
    assert!(matches!(&outcome.replies[..], [Reply::Record(Some(_))]));
    assert!(poll(pin!(store.execute(get("k")))).is_ready(), "nothing is pending");
    // A read does not return what the disk refused.
    let _never_written = store.execute(set("k", "2"));
    let read = store.execute(get("k"));
    drop(messages);
    assert!(matches!(wait(read), Err(Error::Unavailable(_))));
}

#[test]
fn a_slow_sync_delays_only_callers_that_ask_for_it() {
    let path = tempfile::tempdir().unwrap();
    let disk = Disk::quick();
    let store = open(path.path(), &disk, u64::MAX).unwrap();
    wait(store.execute(set("k", "1"))).unwrap();
    let held = disk.hold();
    let mut flushed = pin!(store.flush());
    disk.until_a_sync_waits();
    for n in 0..100 {
        wait(store.execute(set(&format!("k{n}"), "1"))).unwrap();
        wait(store.execute(get("k"))).unwrap();
    }
    assert!(poll(flushed.as_mut()).is_pending());
    drop(held);
    wait(flushed).unwrap();
}

#[test]
fn nothing_is_acknowledged_while_a_sync_takes_too_long() {
    let path = tempfile::tempdir().unwrap();
    let disk = Disk::quick();
    let settings =
        DiskSettings { unsynced_span_max: Duration::ZERO, ..settings(disk.sync(), u64::MAX) };
    let store = Embedded::on_disk(path.path(), Clock::manual(NOW), None, settings).unwrap();
    let held = disk.hold();
    wait(store.execute(set("a", "1"))).unwrap();
    // Only the journal itself has requested the sync.
    disk.until_a_sync_waits();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Long enough for an answer that waits for nothing.
            std::thread::sleep(Duration::from_millis(100));
            is_over.store(true, Ordering::Release);
            drop(held);
        });
        wait(store.execute(set("b", "1"))).unwrap();
        assert!(is_over.load(Ordering::Acquire), "it was acknowledged during the sync");
    });
    // No call waits for a disk that has failed.
    disk.break_down();
    drop(wait(store.execute(set("c", "1"))));
    assert!(matches!(wait(store.execute(set("d", "1"))), Err(Error::Unavailable(_))));
}

#[test]
fn after_a_failed_sync_every_call_fails_until_a_new_start() {
    let path = tempfile::tempdir().unwrap();
    let disk = Disk::quick();
    let store = open(path.path(), &disk, u64::MAX).unwrap();
    wait(store.execute(set("k", "1"))).unwrap();
    disk.break_down();
    let unavailable = |result| matches!(result, Err(Error::Unavailable(_)));
    assert!(unavailable(wait(store.flush())));
    assert!(unavailable(wait(store.execute(get("k"))).map(drop)));
    assert!(unavailable(wait(store.execute(set("k", "2"))).map(drop)));
    drop(store);
    let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
    assert!(wait(store.execute(get("k"))).is_ok());
}
