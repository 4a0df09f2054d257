//! The time of a call, from its request to its answer, by the clock of the callers. A call
//! without an answer may have happened at any time after it was sent, or never.

use std::time::Duration;

/// The time of a call, since the start of the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it was sent.
    pub sent: Duration,
    /// When its answer was received; `None` when the outcome is unknown.
    pub answered: Option<Duration>,
}

impl Span {
    /// A call with an answer.
    pub fn known(sent: Duration, answered: Duration) -> Self {
        Self { sent, answered: Some(answered) }
    }

    /// A call with an unknown outcome.
    pub fn unknown(sent: Duration) -> Self {
        Self { sent, answered: None }
    }

    /// Whether it was answered before an instant.
    pub fn is_over_before(&self, instant: Duration) -> bool {
        self.answered.is_some_and(|answered| answered < instant)
    }

    /// Whether it may have happened before an instant.
    pub fn may_precede(&self, instant: Duration) -> bool {
        self.sent < instant
    }
}

#[cfg(test)]
pub(super) mod short {
    //! Short names for tables of histories; times are in milliseconds.

    use super::{Duration, Span};

    /// An instant.
    pub fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// A call with an answer.
    pub fn known(sent: u64, answered: u64) -> Span {
        Span::known(at(sent), at(answered))
    }

    /// A call with an unknown outcome.
    pub fn unknown(sent: u64) -> Span {
        Span::unknown(at(sent))
    }
}
