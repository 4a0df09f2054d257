//! The birth of the event logs: the time from which on the store has all events. A store may be
//! emptied, its clock set back, or a copy without the latest events may take its place. A reader
//! that comes back from before the birth may have missed events, and receives a gap.
//! Invariant: a birth never lies in the future, or readers would receive gaps without end.

use bytes::Bytes;

use crate::events::text;
use session_store::clock::Milliseconds;
use session_store::transaction::{Compare, Entry, Operation, Outcome, Reply, Txn};
use session_store::{Error, Store};

const AT: &str = "at";
/// The history that the store followed at the birth.
const HISTORY: &str = "history";

/// The birth of the logs.
pub struct Birth {
    /// When it was, by the clock of the store then.
    pub at: Milliseconds,
    /// As it is stored; `None` when it is not.
    stored: Option<Bytes>,
}

/// What is stored of a birth.
struct Stored {
    at: Bytes,
    history: Option<Bytes>,
}

/// Reads the birth under a key. Stamps one when there is none. Stamps it anew when it lies in
/// the future (the clock has gone back), is not a time, or belongs to another history than the
/// one that the store follows now.
///
/// # Errors
/// Those of the store.
pub async fn read(store: &dyn Store, key: &str) -> Result<Birth, Error> {
    let only = Txn { success: vec![get(key)], ..Txn::default() };
    let outcome = store.execute(only).await?;
    // Read after the answer: before it there may have been no connection, and so no history.
    let history = store.history();
    let now = outcome.now;
    let Some(found) = stored(outcome) else {
        // A read comes first, as there is something to write only once in the life of a store.
        return stamp(store, key, history, vec![Compare::Absent(key.into())]).await;
    };
    let Some(at) = time(&found.at).filter(|at| *at <= now) else {
        return stamp(store, key, history, vec![unchanged(key, AT, found.at)]).await;
    };
    match (&found.history, &history) {
        (Some(before), Some(now)) if **before != *now.as_bytes() => {
            let compare = unchanged(key, HISTORY, before.clone());
            tracing::warn!("a copy has taken the place of the store: events may be missing");
            stamp(store, key, history, vec![compare]).await
        }
        (None, Some(now)) => {
            // A release before has stamped it.
            let txn = Txn {
                compare: vec![unchanged(key, AT, found.at.clone())],
                success: vec![noted(key, now)],
                ..Txn::default()
            };
            match store.execute(txn).await {
                Ok(_) | Err(Error::Full(_)) => Ok(Birth { at, stored: Some(found.at) }),
                Err(error) => Err(error),
            }
        }
        _ => Ok(Birth { at, stored: Some(found.at) }),
    }
}

/// Stamps a birth anew that was read before. Of several who do, one does, and all get the
/// same.
///
/// # Errors
/// Those of the store.
pub async fn again(store: &dyn Store, key: &str, before: &Birth) -> Result<Birth, Error> {
    let compare = match &before.stored {
        Some(stored) => unchanged(key, AT, stored.clone()),
        None => Compare::Absent(key.into()),
    };
    stamp(store, key, store.history(), vec![compare]).await
}

async fn stamp(
    store: &dyn Store,
    key: &str,
    history: Option<String>,
    compare: Vec<Compare>,
) -> Result<Birth, Error> {
    let stamp = Operation::HashStamp { key: key.into(), field: AT.into(), later: 0 };
    let noted = history.map(|history| noted(key, &history));
    let success = [Some(stamp), noted, Some(get(key))].into_iter().flatten().collect();
    let txn = Txn { compare, success, failure: vec![get(key)], durable: false };
    match store.execute(txn).await {
        Ok(outcome) => {
            let now = outcome.now;
            let stored = stored(outcome).map(|stored| stored.at);
            Ok(Birth { at: stored.as_ref().and_then(time).unwrap_or(now).min(now), stored })
        }
        // A full store still takes events. The gap is reported once there is room for the stamp.
        Err(Error::Full(_)) => Ok(Birth { at: 0, stored: None }),
        Err(error) => Err(error),
    }
}

fn noted(key: &str, history: &str) -> Operation {
    let entry = Entry { field: HISTORY.into(), value: history.as_bytes().to_vec().into() };
    Operation::HashSet { key: key.into(), entries: vec![entry], ttl: None }
}

fn get(key: &str) -> Operation {
    let fields = Some(vec![AT.to_owned(), HISTORY.to_owned()]);
    Operation::HashGet { key: key.into(), fields }
}

/// What is stored; an empty time when the hash is there and the field is not.
fn stored(outcome: Outcome) -> Option<Stored> {
    let Some(Reply::Record(Some(hash))) = outcome.replies.into_iter().next_back() else {
        return None;
    };
    let (mut at, mut history) = (Bytes::new(), None);
    for Entry { field, value } in hash.entries {
        match &*field {
            AT => at = value,
            HISTORY => history = Some(value),
            _ => {}
        }
    }
    Some(Stored { at, history })
}

fn unchanged(key: &str, field: &str, value: Bytes) -> Compare {
    let or_absent = value.is_empty();
    Compare::FieldEquals { key: key.into(), field: field.into(), value, or_absent }
}

fn time(value: &Bytes) -> Option<Milliseconds> {
    text(value)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use session_store::clock::Clock;
    use session_store::memory::Memory;

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
