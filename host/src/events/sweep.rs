//! The sweeper: has the rules publish the sessions that have expired. Every host sweeps; the
//! rules publish each expiry once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Reason;
use crate::logic::{Failure, Logic};
use crate::telemetry::Metrics;

/// The shortest time between two sweeps of a host.
const PAUSE: Duration = Duration::from_secs(3);
/// The jitter added to it, so that hosts do not sweep at the same time.
const JITTER_MS_MAX: u32 = 2000;
/// The most calls for one log in one sweep.
const CALLS_MAX: u32 = 1000;

/// Sweeps at intervals; never returns.
pub async fn sweep(logic: Arc<Logic>, metrics: Arc<Metrics>) {
    loop {
        let jitter_ms = getrandom::u32().unwrap_or_default() % JITTER_MS_MAX;
        tokio::time::sleep(PAUSE + Duration::from_millis(jitter_ms.into())).await;
        match once(&logic).await {
            Ok(SweepTotals { expired, left }) => {
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

/// The result of a sweep of all logs.
#[derive(Default)]
struct SweepTotals {
    /// The number of expiries published.
    expired: u64,
    /// The number of live sessions, by kind.
    left: BTreeMap<String, u64>,
}

/// Sweeps all logs.
async fn once(logic: &Logic) -> Result<SweepTotals, Failure> {
    let logs = logic.describe_logs().await?.logs.len();
    let mut all = SweepTotals::default();
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
                // A fault of one log, such as a damaged entry, must not stop the others.
                Err(Failure::Fault(fault))
                    if Reason::of_rules(&fault.reason) != Some(Reason::StoreUnavailable) =>
                {
                    tracing::warn!(log, error = fault.message, "a log was not swept");
                    break;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(all)
}
