//! The only reader of the wall clock. Stores that keep their own time take a [`Clock`], which
//! tests move by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, UTC.
pub type Milliseconds = u64;

/// A source of the current time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's wall clock.
    System,
    /// A clock that stands still until it is moved.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that stands at `now` until it is moved with [`Clock::advance`].
    pub fn manual(now: Milliseconds) -> Self {
        Self::Manual(Arc::new(AtomicU64::new(now)))
    }

    /// The time now.
    #[allow(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn now(&self) -> Milliseconds {
        match self {
            Self::System => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            Self::Manual(now) => now.load(Ordering::SeqCst),
        }
    }

    /// Sets a manual clock, as an operator may set the system's.
    pub fn set(&self, to: Milliseconds) {
        if let Self::Manual(now) = self {
            now.store(to, Ordering::SeqCst);
        }
    }

    /// Moves a manual clock forward; the system's clock moves by itself.
    pub fn advance(&self, by: Milliseconds) {
        if let Self::Manual(now) = self {
            now.fetch_add(by, Ordering::SeqCst);
        }
    }
}
