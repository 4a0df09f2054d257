//! Waiting for a condition, with a time limit.

use std::time::{Duration, Instant};

/// How long a test waits for a condition. It allows for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` returns a value.
///
/// # Panics
/// When it returns none within [`PATIENCE`].
pub async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(started.elapsed() < PATIENCE, "waited too long until {what}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits for the next millisecond, so that what follows has a later timestamp.
pub async fn next_millisecond() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}
