//! Has the rules tell of sessions that have ended by themselves. Every host does; the
//! rules tell of each once.

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
            Ok(0) => {}
            Ok(expired) => {
                metrics.expired(expired);
                tracing::debug!(expired, "told of sessions that have ended by themselves");
            }
            Err(failure) => tracing::debug!(?failure, "the sweep was not finished"),
        }
    }
}

/// Sweeps all logs and returns how many sessions had ended.
async fn once(logic: &Logic) -> Result<u64, Failure> {
    let logs = logic.describe_logs().await?.logs.len();
    let mut expired = 0;
    for log in 0..u32::try_from(logs).unwrap_or(u32::MAX) {
        for _ in 0..CALLS_MAX {
            match logic.sweep(log).await {
                Ok(swept) => {
                    expired += u64::from(swept.expired);
                    if !swept.more {
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
    Ok(expired)
}
