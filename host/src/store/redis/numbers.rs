//! The numbers by which replies are known to belong to their commands.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers of the commands on one connection.
#[derive(Clone)]
pub struct Numbers {
    next: Arc<AtomicU64>,
    /// The command that repeats a number: ECHO, or PING if the user may not run ECHO. A server
    /// that cannot write to its disk refuses a PING.
    pub repeat: &'static str,
}

impl Numbers {
    /// The numbers after `first`.
    pub fn after(first: u64, repeat: &'static str) -> Self {
        Self { next: Arc::new((first + 1).into()), repeat }
    }

    /// The number of the next command.
    pub fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}
