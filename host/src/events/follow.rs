//! Renews the baseline of the event logs after this host has switched to a replica that took
//! over from the store. Hosts do not switch at the same moment. Subscribers receive a gap when
//! the first host switches. An event that a later host still wrote to the former store is lost
//! after that gap, and nothing would show it. So each host renews the baseline after its own
//! switch, and subscribers receive another gap.

use std::sync::Arc;
use std::time::Duration;

use crate::events::baseline;
use crate::events::feed::ReadError;
use crate::logic::{Failure, Logic};
use session_store::Store;

/// How often the history of the store is checked.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long after its first connection the last connection of a host may take to switch.
const SETTLING: Duration = Duration::from_secs(1);

/// Follows the history of the store; never returns.
pub async fn follow(store: Arc<dyn Store>, logic: Arc<Logic>) {
    let mut follower = Follower::default();
    loop {
        tokio::time::sleep(INTERVAL).await;
        let key = async { logic.describe_logs().await.map(|catalog| catalog.baseline) };
        if let Err(error) = follower.check(&*store, key).await {
            tracing::debug!(?error, "the baseline of the event logs was not renewed");
        }
    }
}

/// One host's view of the history of the store.
#[derive(Default)]
struct Follower {
    /// The history at the last check.
    history: Option<String>,
}

impl Follower {
    /// Renews the baseline if the history has changed. Only then is its key resolved.
    async fn check(
        &mut self,
        store: &dyn Store,
        key: impl Future<Output = Result<String, Failure>>,
    ) -> Result<(), ReadError> {
        let Some(history) = store.history() else { return Ok(()) };
        if self.history.as_ref().is_some_and(|before| *before != history) {
            tokio::time::sleep(SETTLING).await;
            let key = key.await.map_err(ReadError::Logic)?;
            let before = baseline::read(store, &key).await.map_err(ReadError::Store)?;
            baseline::renew(store, &key, &before).await.map_err(ReadError::Store)?;
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
    struct HostView {
        store: Arc<Memory>,
        history: Mutex<Option<&'static str>>,
    }

    impl HostView {
        fn of(store: &Arc<Memory>, history: &'static str) -> Self {
            Self { store: Arc::clone(store), history: Mutex::new(Some(history)) }
        }

        fn switch_to(&self, history: Option<&'static str>) {
            *self.history.lock().expect("no panic") = history;
        }
    }

    impl Store for HostView {
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
            "host view"
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_host_renews_the_baseline_after_it_has_switched() {
        let clock = Clock::manual(1000);
        let store = Arc::new(Memory::new(clock.clone()));
        let (early, late) = (HostView::of(&store, "former"), HostView::of(&store, "former"));
        let (mut of_early, mut of_late) = (Follower::default(), Follower::default());
        let baseline_at = async || baseline::read(&late, KEY).await.expect("read").at;
        assert_eq!(baseline_at().await, 1000);
        clock.advance(100);
        of_early.check(&early, key()).await.expect("checked");
        of_late.check(&late, key()).await.expect("checked");
        assert_eq!(baseline_at().await, 1000, "no host has switched");
        early.switch_to(Some("new"));
        of_early.check(&early, key()).await.expect("checked");
        assert_eq!(baseline::read(&early, KEY).await.expect("read").at, 1100);
        // A host without a connection has not switched yet.
        clock.advance(100);
        late.switch_to(None);
        of_late.check(&late, key()).await.expect("checked");
        assert_eq!(baseline::read(&early, KEY).await.expect("read").at, 1100);
        late.switch_to(Some("new"));
        of_late.check(&late, key()).await.expect("checked");
        assert_eq!(baseline_at().await, 1200, "its last writes need a second gap");
        clock.advance(100);
        of_late.check(&late, key()).await.expect("checked");
        assert_eq!(baseline_at().await, 1200, "a switch renews the baseline once");
    }
}
