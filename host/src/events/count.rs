//! Counts booking sessions now and then. The others stand in sets, where a sweep counts
//! them; a booking session is one plain hash, and has to be met to be counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::logic::Logic;
use crate::telemetry::{Metrics, StoreOperation, StoreOutcome};
use session_store::Store;

/// How long a host waits between two counts.
const PAUSE: Duration = Duration::from_secs(5);
/// How long it leaves the store to others between two parts of one.
const STEP_PAUSE: Duration = Duration::from_millis(100);
/// What they are called in metrics.
const KIND: &str = "booking";

/// Counts, for ever.
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
        let asked = Instant::now();
        let counted = store.count_keys(prefixes, &at).await;
        let outcome = StoreOutcome::from(&counted);
        metrics.counts().store.call(StoreOperation::Count, outcome, asked.elapsed());
        let counted = counted?;
        sessions += counted.keys;
        cursor = counted.next;
        if cursor.is_some() {
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }
    Ok(sessions)
}
