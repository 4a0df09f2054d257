//! Since when there are logs in the store. It may have been emptied, or its clock put
//! back: who reads a log from before its birth has missed events, and hears of a gap.
//! Invariant: a birth never lies in the future, or all readers would hear of nothing else.

use bytes::Bytes;

use crate::clock::Milliseconds;
use crate::events::text;
use crate::store::transaction::{Compare, Operation, Outcome, Reply, Txn};
use crate::store::{Error, Store};

const FIELD: &str = "at";

/// The birth of the logs.
pub struct Birth {
    /// When it was, by the clock of the store then.
    pub at: Milliseconds,
    /// As it is stored; `None` when it is not.
    stored: Option<Bytes>,
}

/// Reads the birth under a key; stamps it when there is none, and anew when it lies in the
/// future, as the clock has gone back, or is not a time at all.
///
/// # Errors
/// Those of the store.
pub async fn read(store: &dyn Store, key: &str) -> Result<Birth, Error> {
    let only = Txn { success: vec![get(key)], ..Txn::default() };
    let outcome = store.execute(only).await?;
    let now = outcome.now;
    match stored(outcome) {
        // Only once is there anything to write.
        None => stamp(store, key, Compare::Absent(key.into())).await,
        Some(found) => match time(&found).filter(|at| *at <= now) {
            Some(at) => Ok(Birth { at, stored: Some(found) }),
            None => stamp(store, key, unchanged(key, found)).await,
        },
    }
}

/// Stamps a birth anew that was read before. Of several who do, one does, and all get the
/// same.
///
/// # Errors
/// Those of the store.
pub async fn again(store: &dyn Store, key: &str, before: &Birth) -> Result<Birth, Error> {
    let compare = match &before.stored {
        Some(stored) => unchanged(key, stored.clone()),
        None => Compare::Absent(key.into()),
    };
    stamp(store, key, compare).await
}

async fn stamp(store: &dyn Store, key: &str, compare: Compare) -> Result<Birth, Error> {
    let stamp = Operation::HashStamp { key: key.into(), field: FIELD.into(), later: 0 };
    let txn =
        Txn { compare: vec![compare], success: vec![stamp, get(key)], failure: vec![get(key)] };
    match store.execute(txn).await {
        Ok(outcome) => {
            let now = outcome.now;
            let stored = stored(outcome);
            Ok(Birth { at: stored.as_ref().and_then(time).unwrap_or(now).min(now), stored })
        }
        // Events go on. Who reads from before hears of a gap when there is room.
        Err(Error::Full(_)) => Ok(Birth { at: 0, stored: None }),
        Err(error) => Err(error),
    }
}

fn get(key: &str) -> Operation {
    Operation::HashGet { key: key.into(), fields: Some(vec![FIELD.to_owned()]) }
}

/// What is stored; empty when the hash is there and the field is not.
fn stored(outcome: Outcome) -> Option<Bytes> {
    let Some(Reply::Record(Some(hash))) = outcome.replies.into_iter().next_back() else {
        return None;
    };
    let entry = hash.entries.into_iter().find(|entry| entry.field == FIELD);
    Some(entry.map(|entry| entry.value).unwrap_or_default())
}

fn unchanged(key: &str, value: Bytes) -> Compare {
    let or_absent = value.is_empty();
    Compare::FieldEquals { key: key.into(), field: FIELD.into(), value, or_absent }
}

fn time(value: &Bytes) -> Option<Milliseconds> {
    text(value)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::store::memory::Memory;

    const KEY: &str = "EVENTS:BORN";

    #[tokio::test]
    async fn a_birth_is_stamped_once_for_all_who_find_it_wrong() {
        let clock = Clock::manual(1000);
        let store = Memory::new(clock.clone());
        assert_eq!(read(&store, KEY).await.expect("stamped").at, 1000);
        clock.advance(500);
        let before = read(&store, KEY).await.expect("read");
        assert_eq!(before.at, 1000);
        assert_eq!(again(&store, KEY, &before).await.expect("stamped").at, 1500);
        // Whoever has read the one before, and is later, gets the same.
        clock.advance(500);
        assert_eq!(again(&store, KEY, &before).await.expect("read").at, 1500);
        // The clock goes back behind it.
        clock.set(700);
        assert_eq!(read(&store, KEY).await.expect("stamped").at, 700);
    }

    #[tokio::test]
    async fn a_store_that_is_full_before_there_is_a_birth_has_logs_all_the_same() {
        let store = Memory::limited(Clock::manual(1000), Some(0));
        for _ in 0..2 {
            assert_eq!(read(&store, KEY).await.expect("none is needed").at, 0);
        }
    }
}
