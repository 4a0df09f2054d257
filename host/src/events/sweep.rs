//! Has the rules tell of sessions that have ended by themselves. Every host does; the
//! rules tell of each once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::logic::{Failure, Logic, Reason};
use crate::telemetry::Metrics;

/// How long a host waits between two sweeps at least, and how much longer by chance, so
/// that hosts do not sweep together.
const PAUSE: Duration = Duration::from_secs(3);
const PAUSE_MORE_MS: u32 = 2000;
/// The most calls for one log in one sweep.
const CALLS_MAX: u32 = 1000;

/// Sweeps now and then, for ever.
pub async fn sweep(logic: Arc<Logic>, metrics: Arc<Metrics>) {
    loop {
        let more = getrandom::u32().unwrap_or_default() % PAUSE_MORE_MS;
        tokio::time::sleep(PAUSE + Duration::from_millis(more.into())).await;
        match once(&logic).await {
            Ok(Swept { expired, left }) => {
                metrics.expired(expired);
                for (kind, sessions) in &left {
                    metrics.sessions(kind, *sessions);
                }
                tracing::debug!(expired, "swept");
            }
            Err(failure) => tracing::debug!(?failure, "the sweep was not finished"),
        }
    }
}

/// What a sweep of all logs has found.
#[derive(Default)]
struct Swept {
    /// How many sessions had ended.
    expired: u64,
    /// How many are left, by kind.
    left: BTreeMap<String, u64>,
}

/// Sweeps all logs.
async fn once(logic: &Logic) -> Result<Swept, Failure> {
    let logs = logic.describe_logs().await?.logs.len();
    let mut all = Swept::default();
    for log in 0..u32::try_from(logs).unwrap_or(u32::MAX) {
        for _ in 0..CALLS_MAX {
            match logic.sweep(log).await {
                Ok(swept) => {
                    all.expired += u64::from(swept.expired);
                    if !swept.more {
                        for tally in swept.left {
                            *all.left.entry(tally.kind).or_default() += u64::from(tally.sessions);
                        }
                        break;
                    }
                }
                // What is wrong with one log may not be with the others.
                Err(Failure::Fault(fault)) if fault.reason != Reason::StoreUnavailable => {
                    tracing::warn!(log, error = fault.message, "a log was not swept");
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(all)
}
