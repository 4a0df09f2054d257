//! The memory of the data of a store in memory, and its limit. Invariant: memory is reserved before
//! a transaction is applied, so transactions on different shards never exceed the limit together.

use std::cmp::Ordering::{Equal, Greater, Less};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::MemoryUse;

/// The memory of all shards.
#[derive(Debug)]
pub struct Capacity {
    bytes: AtomicU64,
    bytes_max: Option<u64>,
}

impl Capacity {
    /// A capacity with nothing used; `None` means no limit.
    pub fn new(bytes_max: Option<u64>) -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max }
    }

    /// The memory in use, and the limit.
    pub fn now(&self) -> MemoryUse {
        MemoryUse { bytes: self.bytes.load(Ordering::Relaxed), bytes_max: self.bytes_max }
    }

    /// Whether memory must be reserved before it is used.
    pub fn is_limited(&self) -> bool {
        self.bytes_max.is_some()
    }

    /// Opens a reservation for the changes of one shard, which uses `before` bytes. It must be
    /// settled with the memory of the shard afterwards.
    pub fn open(&self, before: u64) -> Reservation<'_> {
        Reservation { capacity: self, before, reserved: 0 }
    }
}

/// The memory that the changes of one locked shard may use.
#[derive(Debug)]
pub struct Reservation<'a> {
    capacity: &'a Capacity,
    before: u64,
    reserved: u64,
}

impl Reservation<'_> {
    /// Whether memory must be reserved before it is used.
    pub fn is_limited(&self) -> bool {
        self.capacity.is_limited()
    }

    /// Reserves memory, if as much is left.
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

    /// Closes the reservation: the shard uses `after` bytes now.
    pub fn settle(self, after: u64) {
        let taken = &self.capacity.bytes;
        let expected = self.before + self.reserved;
        // Reads change nothing, and must not write to the counter that all cores share.
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
    fn reservations_never_exceed_the_limit() {
        let capacity = Capacity::new(Some(100));
        let (mut one, mut other) = (capacity.open(0), capacity.open(0));
        assert!(one.reserve(60) && !other.reserve(41) && other.reserve(40));
        assert_eq!(capacity.now().bytes, 100);
        // One transaction used less than it reserved, the other nothing.
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
        let mut reservation = capacity.open(0);
        assert!(reservation.reserve(u64::MAX) && !reservation.is_limited());
        reservation.settle(7);
        assert_eq!(capacity.now(), MemoryUse { bytes: 7, bytes_max: None });
    }
}
