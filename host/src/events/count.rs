//! Counts booking sessions at intervals. Sessions of the other kinds are members of sets, which
//! the sweep counts. A booking session is one plain hash, so counting needs a scan of the keys.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::logic::Logic;
use crate::telemetry::{Metrics, StoreOperation, StoreOutcome};
use session_store::Store;

/// The time between two counts of a host.
const PAUSE: Duration = Duration::from_secs(5);
/// The pause between two steps of a scan, which leaves the store to requests.
const STEP_PAUSE: Duration = Duration::from_millis(100);
/// The kind in the metric's label.
const KIND: &str = "booking";

/// Counts at intervals; never returns.
pub async fn count(store: Arc<dyn Store>, logic: Arc<Logic>, metrics: Arc<Metrics>) {
    loop {
        let contexts = logic.generation();
        let contexts = contexts.description().contexts.iter();
        let prefixes: Vec<String> = contexts.map(|context| context.key_prefix.clone()).collect();
        match once(&*store, &prefixes, &metrics).await {
            Ok(sessions) => metrics.sessions(KIND, sessions),
            Err(error) => tracing::debug!(%error, "booking sessions were not counted"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn once(
    store: &dyn Store,
    prefixes: &[String],
    metrics: &Metrics,
) -> Result<u64, session_store::Error> {
    let mut sessions = 0;
    let mut cursor = Some(String::new());
    while let Some(at) = cursor {
        let started = Instant::now();
        let counted = store.count_keys(prefixes, &at).await;
        let outcome = StoreOutcome::from(&counted);
        metrics.counts().store.call(StoreOperation::Count, outcome, started.elapsed());
        let counted = counted?;
        sessions += counted.keys;
        cursor = counted.next;
        if cursor.is_some() {
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }
    Ok(sessions)
}
