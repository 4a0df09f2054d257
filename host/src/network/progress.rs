//! How far a request and its reply have come, as the connection that carries them has to know.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The progress of one exchange.
#[derive(Default)]
pub struct Progress {
    /// Whether the whole request was received.
    received: AtomicBool,
    /// Whether the reply is a stream without an announced end.
    streaming: AtomicBool,
    /// Whether a part of the reply waits to be read by the client.
    has_unread: AtomicBool,
    /// Counts the parts that begin to wait for the client or are read by it. Requests only count;
    /// the check that compares the counts reads the clock.
    parts: AtomicU32,
    /// The count at the last check, and the time since which it is the same.
    last_check: Mutex<Option<(u32, Instant)>>,
    /// Parts of the reply that the connection has not sent.
    unsent: AtomicUsize,
}

impl Progress {
    /// Marks the request as wholly received.
    pub fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
    }

    /// Marks the reply as a stream without an announced end.
    pub fn stream(&self) {
        self.streaming.store(true, Ordering::Relaxed);
    }

    /// How long the client has made no progress in reading, measured from the first check that
    /// found this progress.
    pub fn unread_for(&self, now: Instant) -> Duration {
        // No code panics while it holds this lock.
        let mut last = self.last_check.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has_unread.load(Ordering::Relaxed) {
            *last = None;
            return Duration::ZERO;
        }
        let parts = self.parts.load(Ordering::Relaxed);
        match *last {
            Some((before, since)) if before == parts => now.saturating_duration_since(since),
            _ => {
                *last = Some((parts, now));
                Duration::ZERO
            }
        }
    }

    /// Records that a part begins to wait for the client.
    pub fn mark_unread(&self) {
        self.has_unread.store(true, Ordering::Relaxed);
        self.parts.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that a part of the reply was handed to the connection.
    pub fn hand_over(&self) {
        let nothing_waited = !self.has_unread.load(Ordering::Relaxed);
        if self.unsent.fetch_add(1, Ordering::Relaxed) == 0 && nothing_waited {
            self.mark_unread();
        }
    }

    /// Records that the connection has sent a part of the reply.
    pub fn part_sent(&self) {
        let last = self.unsent.fetch_sub(1, Ordering::Relaxed) == 1;
        if last && self.is_streaming() {
            self.has_unread.store(false, Ordering::Relaxed);
        } else {
            self.mark_unread();
        }
    }

    /// Whether the reply is a stream without an announced end.
    pub fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::Relaxed)
    }

    /// Whether the client is still sending the request.
    pub fn is_uploading(&self) -> bool {
        !self.received.load(Ordering::Relaxed) && !self.is_streaming()
    }

    /// Whether the whole request was received, and its reply has an end.
    pub fn is_reply_due(&self, all_received: bool) -> bool {
        (all_received || self.received.load(Ordering::Relaxed)) && !self.is_streaming()
    }
}
