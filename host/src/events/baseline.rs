//! The baseline of the event logs: the time since which the store has all events. It moves when
//! a store is emptied, when its clock is set back, or when a replica that lacks the latest events
//! takes over. A reader whose cursor is older than the baseline may have missed events, and
//! receives a gap. Invariant: a baseline never lies in the future, or readers would receive gaps
//! without end.

use bytes::Bytes;

use crate::events::event::text;
use session_store::clock::Milliseconds;
use session_store::transaction::{Compare, Entry, Operation, Outcome, Reply, Txn};
use session_store::{Error, Store};

const AT: &str = "at";
/// The history of the store when the baseline was stamped.
const HISTORY: &str = "history";

/// The baseline of the logs.
pub struct Baseline {
    /// The time by the store's clock when it was stamped.
    pub at: Milliseconds,
    /// The bytes stored for `at`; `None` if nothing is stored.
    stored: Option<Bytes>,
}

/// The stored fields of a baseline.
struct StoredFields {
    at: Bytes,
    history: Option<Bytes>,
}

/// Reads the baseline under a key, and stamps it if it is absent. Stamps it again if it lies in
/// the future (the clock was set back), is not a time, or belongs to another history than the
/// current one of the store.
///
/// # Errors
/// Those of the store.
pub async fn read(store: &dyn Store, key: &str) -> Result<Baseline, Error> {
    let only = Txn { success: vec![get(key)], ..Txn::default() };
    let outcome = store.execute(only).await?;
    // Read after the reply: without a connection there is no history yet.
    let history = store.history();
    let now = outcome.now;
    let Some(found) = stored(outcome) else {
        // Reading first keeps the usual case free of writes: the stamp is due once per store.
        return stamp(store, key, history, vec![Compare::Absent(key.into())]).await;
    };
    let Some(at) = time(&found.at).filter(|at| *at <= now) else {
        return stamp(store, key, history, vec![still_holds(key, AT, found.at)]).await;
    };
    match (&found.history, &history) {
        (Some(before), Some(now)) if **before != *now.as_bytes() => {
            let compare = still_holds(key, HISTORY, before.clone());
            tracing::warn!("a copy has taken the place of the store: events may be missing");
            stamp(store, key, history, vec![compare]).await
        }
        (None, Some(now)) => {
            // An older release stamped the baseline without a history.
            let txn = Txn {
                compare: vec![still_holds(key, AT, found.at.clone())],
                success: vec![history_entry(key, now)],
                ..Txn::default()
            };
            match store.execute(txn).await {
                Ok(_) | Err(Error::Full(_)) => Ok(Baseline { at, stored: Some(found.at) }),
                Err(error) => Err(error),
            }
        }
        _ => Ok(Baseline { at, stored: Some(found.at) }),
    }
}

/// Replaces a baseline that was read before. If several hosts do so at once, one of them stamps
/// it and all return the same baseline.
///
/// # Errors
/// Those of the store.
pub async fn renew(store: &dyn Store, key: &str, before: &Baseline) -> Result<Baseline, Error> {
    let compare = match &before.stored {
        Some(stored) => still_holds(key, AT, stored.clone()),
        None => Compare::Absent(key.into()),
    };
    stamp(store, key, store.history(), vec![compare]).await
}

async fn stamp(
    store: &dyn Store,
    key: &str,
    history: Option<String>,
    compare: Vec<Compare>,
) -> Result<Baseline, Error> {
    let stamp = Operation::HashStamp { key: key.into(), field: AT.into(), later: 0 };
    let history_entry = history.map(|history| history_entry(key, &history));
    let success = [Some(stamp), history_entry, Some(get(key))].into_iter().flatten().collect();
    let txn = Txn { compare, success, failure: vec![get(key)], durable: false };
    match store.execute(txn).await {
        Ok(outcome) => {
            let now = outcome.now;
            let stored = stored(outcome).map(|stored| stored.at);
            Ok(Baseline { at: stored.as_ref().and_then(time).unwrap_or(now).min(now), stored })
        }
        // A full store still takes events. The gap is reported once there is room for the stamp.
        Err(Error::Full(_)) => Ok(Baseline { at: 0, stored: None }),
        Err(error) => Err(error),
    }
}

fn history_entry(key: &str, history: &str) -> Operation {
    let entry = Entry { field: HISTORY.into(), value: history.as_bytes().to_vec().into() };
    Operation::HashSet { key: key.into(), entries: vec![entry], ttl: None }
}

fn get(key: &str) -> Operation {
    let fields = Some(vec![AT.to_owned(), HISTORY.to_owned()]);
    Operation::HashGet { key: key.into(), fields }
}

/// The fields in the last reply; an empty time if the hash exists without that field.
fn stored(outcome: Outcome) -> Option<StoredFields> {
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
    Some(StoredFields { at, history })
}

fn still_holds(key: &str, field: &str, value: Bytes) -> Compare {
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
    async fn hosts_that_renew_the_same_baseline_stamp_it_once() {
        let clock = Clock::manual(1000);
        let store = Memory::new(clock.clone());
        assert_eq!(read(&store, KEY).await.expect("stamped").at, 1000);
        clock.advance(500);
        let before = read(&store, KEY).await.expect("read");
        assert_eq!(before.at, 1000);
        assert_eq!(renew(&store, KEY, &before).await.expect("stamped").at, 1500);
        // A later host that read the same old baseline gets the new one.
        clock.advance(500);
        assert_eq!(renew(&store, KEY, &before).await.expect("read").at, 1500);
        // The clock is set back to before the baseline.
        clock.set(700);
        assert_eq!(read(&store, KEY).await.expect("stamped").at, 700);
    }

    #[tokio::test]
    async fn a_full_store_without_a_baseline_still_has_readable_logs() {
        let store = Memory::limited(Clock::manual(1000), Some(0));
        for _ in 0..2 {
            assert_eq!(read(&store, KEY).await.expect("no stamp is needed").at, 0);
        }
    }
}
