//! The store in memory: the reference for all other stores, and the data of the embedded one. All
//! keys of a tag are in one shard, so a transaction takes one short lock, and never waits inside.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use crate::capacity::Capacity;
use crate::clock::Clock;
use crate::rows::Changes;
use crate::shard::Shard;
use crate::transaction::{self, Outcome, Txn};
use crate::{Answer, Error, KeyCount, LogMark, Logs, MemoryUse, Store, Takes};

/// The number of shards.
pub const SHARDS: usize = 64;
/// How often expired values are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The most keys that one sweep of a shard visits while it holds the lock.
const SWEEP_BATCH: usize = 256;
/// The most keys that a dump records while it holds the lock of a shard.
const DUMP_BATCH: usize = 64;

/// A store whose data is lost when it is dropped.
pub struct Memory {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    clock: Clock,
    capacity: Capacity,
}

impl Memory {
    /// An empty store with this clock and no limit of memory.
    pub fn new(clock: Clock) -> Self {
        Self::limited(clock, None)
    }

    /// An empty store with this clock and a limit of memory.
    pub fn limited(clock: Clock, bytes_max: Option<u64>) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            clock,
            capacity: Capacity::new(bytes_max),
        }
    }

    /// The same, with removal of expired values in the background.
    pub fn swept(clock: Clock, bytes_max: Option<u64>) -> Arc<Self> {
        let memory = Arc::new(Self::limited(clock, bytes_max));
        sweep_in_background(Arc::downgrade(&memory), |memory| memory.sweep(false, |_, _| {}));
        memory
    }

    /// Applies a transaction. Passes the number of the shard and the changes to `record` while the
    /// shard is locked, so the records of a shard are in the order of its transactions. Returns the
    /// result of `record` too.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Full`]; then nothing has changed.
    pub fn apply<R>(
        &self,
        txn: Txn,
        mut changes: Changes,
        record: impl FnOnce(usize, Changes) -> R,
    ) -> Result<(Outcome, R), Error> {
        let index = self.index(txn.check()?);
        let mut shard = lock(&self.shards[index]);
        let mut reservation = self.capacity.open(shard.bytes());
        let executed = shard.execute(self.clock.now(), txn, &mut changes, &mut reservation);
        reservation.settle(shard.bytes());
        // Expired values that a refused transaction has removed stay removed.
        let recorded = record(index, changes);
        Ok((executed?, recorded))
    }

    /// Applies a transaction; a store in memory never waits.
    ///
    /// # Errors
    /// [`Error::Rejected`], [`Error::Full`]; then nothing has changed.
    pub fn perform(&self, txn: Txn) -> Result<Outcome, Error> {
        self.apply(txn, Changes::new(false), |_, _| {}).map(|(outcome, ())| outcome)
    }

    /// Removes expired values that no transaction has removed, and passes the removals of each
    /// shard to `record` as [`Memory::apply`] does.
    pub fn sweep(&self, journaled: bool, mut record: impl FnMut(usize, Changes)) {
        for (index, shard) in self.shards.iter().enumerate() {
            loop {
                let mut changes = Changes::new(journaled);
                let mut shard = lock(shard);
                let reservation = self.capacity.open(shard.bytes());
                let visited = shard.sweep(self.clock.now(), SWEEP_BATCH, &mut changes);
                reservation.settle(shard.bytes());
                if !changes.is_empty() {
                    record(index, changes);
                }
                if visited < SWEEP_BATCH {
                    break;
                }
            }
        }
    }

    /// Empties logs of the future, and passes the removals of each shard to `record` as
    /// [`Memory::apply`] does; see [`Store::empty_logs_ahead`].
    pub fn empty_ahead(
        &self,
        logs: &[String],
        journaled: bool,
        mut record: impl FnMut(usize, Changes),
    ) {
        for log in logs {
            let mut changes = Changes::new(journaled);
            let index = self.index(transaction::tag(log));
            let mut shard = lock(&self.shards[index]);
            let reservation = self.capacity.open(shard.bytes());
            shard.empty_if_ahead(self.clock.now(), log, &mut changes);
            reservation.settle(shard.bytes());
            if !changes.is_empty() {
                record(index, changes);
            }
        }
    }

    /// Passes everything to `take` as rows, in parts that have all rows of their keys. No lock is
    /// held for the whole time: changes made meanwhile may be included or not.
    ///
    /// # Errors
    /// Those of `take`, which end the dump.
    pub fn dump<E>(&self, mut take: impl FnMut(Changes) -> Result<(), E>) -> Result<(), E> {
        for shard in &self.shards {
            let keys = lock(shard).keys();
            for part in keys.chunks(DUMP_BATCH) {
                let mut changes = Changes::new(true);
                let locked = lock(shard);
                part.iter().for_each(|key| locked.record(key, &mut changes));
                drop(locked);
                take(changes)?;
            }
        }
        Ok(())
    }

    /// Counts the keys with one of the prefixes; see [`Store::count_keys`].
    pub fn keys(&self, prefixes: &[String]) -> KeyCount {
        let in_shard = |shard| lock(shard).count(prefixes);
        KeyCount { keys: self.shards.iter().map(in_shard).sum(), next: None }
    }

    /// Restores a record in the shard of a tag.
    pub fn restore(&self, tag: &str, restoring: impl FnOnce(&mut Shard)) {
        let mut shard = lock(&self.shards[self.index(tag)]);
        let reservation = self.capacity.open(shard.bytes());
        restoring(&mut shard);
        reservation.settle(shard.bytes());
    }

    /// The memory of its data.
    pub fn memory(&self) -> MemoryUse {
        self.capacity.now()
    }

    fn index(&self, tag: &str) -> usize {
        let hash = self.hasher.hash_one(tag);
        // The modulus is far below 2^32, so the cast loses nothing that counts.
        (hash as usize) % SHARDS
    }

    /// Reads events of logs; see [`Store::read_logs`]. Calls `seen` with the number of each shard
    /// read, while it is locked.
    pub fn events(&self, marks: &[LogMark], limit: usize, mut seen: impl FnMut(usize)) -> Logs {
        // An event that is appended after its shard was read has this time or a later one.
        let now = self.clock.now();
        let page = |mark: &LogMark| {
            let index = self.index(transaction::tag(&mark.log));
            let shard = lock(&self.shards[index]);
            seen(index);
            shard.events(now, mark, limit)
        };
        Logs { now, pages: marks.iter().map(page).collect() }
    }
}

/// Calls `sweep` every second while its owner lives.
pub fn sweep_in_background<T: Send + Sync + 'static>(
    owner: Weak<T>,
    sweep: impl Fn(&T) + Send + 'static,
) {
    let body = move || {
        loop {
            std::thread::sleep(SWEEP_INTERVAL);
            let Some(owner) = owner.upgrade() else { return };
            sweep(&owner);
        }
    };
    std::thread::Builder::new()
        .name("store-sweep".into())
        .spawn(body)
        .expect("a process that cannot start a thread cannot serve");
}

/// Ignores poisoning: a panic inside the lock is a defect of this store, and what was written
/// before it is still consistent value by value.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Store for Memory {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        Box::pin(std::future::ready(self.perform(txn)))
    }

    fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs> {
        Box::pin(std::future::ready(Ok(self.events(marks, limit, |_| {}))))
    }

    fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()> {
        self.empty_ahead(logs, false, |_, _| {});
        Box::pin(std::future::ready(Ok(())))
    }

    fn count_keys<'a>(&'a self, prefixes: &'a [String], _: &'a str) -> Answer<'a, KeyCount> {
        Box::pin(std::future::ready(Ok(self.keys(prefixes))))
    }

    fn memory(&self) -> Option<MemoryUse> {
        Some(self.memory())
    }

    fn ping(&self) -> Answer<'_, Takes> {
        Box::pin(std::future::ready(Ok(Takes::All)))
    }

    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}
