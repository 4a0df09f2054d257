//! Waiting for a condition, with a limit.

use std::time::{Duration, Instant};

/// How long a test waits for something that has to happen, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` gives a value.
///
/// # Panics
/// When it does not within [`PATIENCE`].
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

/// Lets the present millisecond pass, so that what follows is later by any clock.
pub async fn next_millisecond() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}
