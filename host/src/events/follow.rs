//! Stamps the birth of the event logs anew when this host has changed over to a copy that took
//! the place of the store. Hosts do not change over together. Subscribers receive a gap when
//! the first one does; an event that a later one has still written to the former store is lost
//! after that gap, and nothing would show it. So each host stamps another birth after its own
//! change, and subscribers receive another gap.

use std::sync::Arc;
use std::time::Duration;

use crate::events::{Silence, birth};
use crate::logic::{Failure, Logic};
use session_store::Store;

/// How often it is looked at which store is followed.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a host's last connection to the former store may take to end after its first one.
const SETTLING: Duration = Duration::from_secs(1);

/// Follows the store, for ever.
pub async fn follow(store: Arc<dyn Store>, logic: Arc<Logic>) {
    let mut follower = Follower::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let key = async { logic.describe_logs().await.map(|catalog| catalog.born) };
        if let Err(silence) = follower.look(&*store, key).await {
            tracing::debug!(?silence, "the birth of the logs was not stamped");
        }
    }
}

/// One host that goes from store to store.
#[derive(Default)]
struct Follower {
    /// The history that was followed when last seen.
    history: Option<String>,
}

impl Follower {
    /// Stamps the birth anew when another history is followed than before; only then is
    /// anybody asked for its key.
    async fn look(
        &mut self,
        store: &dyn Store,
        key: impl Future<Output = Result<String, Failure>>,
    ) -> Result<(), Silence> {
        let Some(history) = store.history() else { return Ok(()) };
        if self.history.as_ref().is_some_and(|before| *before != history) {
            tokio::time::sleep(SETTLING).await;
            let key = key.await.map_err(Silence::Logic)?;
            let before = birth::read(store, &key).await.map_err(Silence::Store)?;
            birth::again(store, &key, &before).await.map_err(Silence::Store)?;
        }
        self.history = Some(history);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use session_store::clock::Clock;
    use session_store::memory::Memory;
    use session_store::transaction::{Outcome, Txn};
    use session_store::{Answer, KeyCount, LogMark, Logs, Takes};

    const KEY: &str = "EVENTS:BORN";

    async fn key() -> Result<String, Failure> {
        Ok(KEY.into())
    }

    /// The store as one host sees it.
    struct Seen {
        store: Arc<Memory>,
        history: Mutex<Option<&'static str>>,
    }

    impl Seen {
        fn of(store: &Arc<Memory>, history: &'static str) -> Self {
            Self { store: Arc::clone(store), history: Mutex::new(Some(history)) }
        }

        fn goes_over(&self, history: Option<&'static str>) {
            *self.history.lock().expect("no panic") = history;
        }
    }

    impl Store for Seen {
        fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
            self.store.execute(txn)
        }

        fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs> {
            self.store.read_logs(marks, limit)
        }

        fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()> {
            self.store.empty_logs_ahead(logs)
        }

        fn count_keys<'a>(&'a self, of: &'a [String], cursor: &'a str) -> Answer<'a, KeyCount> {
            self.store.count_keys(of, cursor)
        }

        fn ping(&self) -> Answer<'_, Takes> {
            self.store.ping()
        }

        fn history(&self) -> Option<String> {
            self.history.lock().expect("no panic").map(str::to_owned)
        }

        fn flush(&self) -> Answer<'_, ()> {
            self.store.flush()
        }

        fn name(&self) -> &'static str {
            "seen"
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_host_that_goes_over_gives_the_logs_another_birth() {
        let clock = Clock::manual(1000);
        let store = Arc::new(Memory::new(clock.clone()));
        let (early, late) = (Seen::of(&store, "former"), Seen::of(&store, "former"));
        let (mut of_early, mut of_late) = (Follower::default(), Follower::default());
        let born = async || birth::read(&late, KEY).await.expect("read").at;
        assert_eq!(born().await, 1000);
        clock.advance(100);
        of_early.look(&early, key()).await.expect("looked");
        of_late.look(&late, key()).await.expect("looked");
        assert_eq!(born().await, 1000, "nobody has gone anywhere");
        early.goes_over(Some("new"));
        of_early.look(&early, key()).await.expect("looked");
        assert_eq!(birth::read(&early, KEY).await.expect("read").at, 1100);
        // A host without a connection has not gone anywhere yet.
        clock.advance(100);
        late.goes_over(None);
        of_late.look(&late, key()).await.expect("looked");
        assert_eq!(birth::read(&early, KEY).await.expect("read").at, 1100);
        late.goes_over(Some("new"));
        of_late.look(&late, key()).await.expect("looked");
        assert_eq!(born().await, 1200, "what it wrote to the former one is behind the first gap");
        clock.advance(100);
        of_late.look(&late, key()).await.expect("looked");
        assert_eq!(born().await, 1200, "once");
    }
}
