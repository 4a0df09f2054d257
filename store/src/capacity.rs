//! How much memory the data of a store in memory takes, and how much it may take.
//! Invariant: what a transaction adds is reserved before it is applied, so that
//! transactions on different shards never exceed the limit together.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::MemoryUse;

/// The account of all shards.
#[derive(Debug)]
pub struct Capacity {
    bytes: AtomicU64,
    bytes_max: Option<u64>,
}

impl Capacity {
    /// Nothing is taken yet; `None` limits nothing.
    pub fn new(bytes_max: Option<u64>) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max }
    }

    /// What is taken, and what may be.
    pub fn now(&self) -> MemoryUse {
        MemoryUse { bytes: self.bytes.load(Ordering::Relaxed), bytes_max: self.bytes_max }
    }

    /// Whether there is a limit to ask before something is added.
    pub fn is_limited(&self) -> bool {
        self.bytes_max.is_some()
    }

    /// Opens an account of what one shard adds and removes. What the shard takes before
    /// is `before`; the account is settled with what it takes afterwards.
    pub fn open(&self, before: u64) -> Account<'_> {
        Account { capacity: self, before, reserved: 0 }
    }
}

/// What one shard adds and removes while it is locked.
#[derive(Debug)]
pub struct Account<'a> {
    capacity: &'a Capacity,
    before: u64,
    reserved: u64,
}

impl Account<'_> {
    /// Whether somebody has to ask before something is added.
    pub fn is_limited(&self) -> bool {
        self.capacity.is_limited()
    }

    /// Sets so many bytes aside, if there are as many left.
    pub fn reserve(&mut self, bytes: u64) -> bool {
        let Some(bytes_max) = self.capacity.bytes_max else { return true };
        let sum = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= bytes_max);
        let (order, taken) = (Ordering::Relaxed, &self.capacity.bytes);
        let has_room = taken.fetch_update(order, order, sum).is_ok();
        if has_room {
            self.reserved += bytes;
        }
        has_room
    }

    /// The shard takes so much now.
    pub fn settle(self, after: u64) {
        let taken = &self.capacity.bytes;
        let expected = self.before + self.reserved;
        // Reads change nothing, and leave the one counter of all cores alone.
        match after.cmp(&expected) {
            Greater => _ = taken.fetch_add(after - expected, Ordering::Relaxed),
            Less => _ = taken.fetch_sub(expected - after, Ordering::Relaxed),
            Equal => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_never_more_than_the_limit() {
        let capacity = Capacity::new(Some(100));
        let (mut one, mut other) = (capacity.open(0), capacity.open(0));
        assert!(one.reserve(60) && !other.reserve(41) && other.reserve(40));
        assert_eq!(capacity.now().bytes, 100);
        // One has added less than it might have, the other nothing at all.
        one.settle(50);
        other.settle(0);
        assert_eq!(capacity.now().bytes, 50);
        let mut third = capacity.open(50);
        assert!(!third.reserve(u64::MAX) && third.reserve(50));
        third.settle(0);
        assert_eq!(capacity.now(), MemoryUse { bytes: 0, bytes_max: Some(100) });
    }

    #[test]
    fn without_a_limit_everything_fits_and_is_counted() {
        let capacity = Capacity::new(None);
        let mut account = capacity.open(0);
        assert!(account.reserve(u64::MAX) && !account.is_limited());
        account.settle(7);
        assert_eq!(capacity.now(), MemoryUse { bytes: 7, bytes_max: None });
    }
}
