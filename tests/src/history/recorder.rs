//! A history while it is made: many callers add to it, by one clock that starts with it.
//! Also how many calls there were, how many of them have an unknown outcome, and for how long
//! some caller had no answer at all.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::History;
use super::span::Span;
use crate::client::Refusal;

/// What is being recorded.
pub struct Recorder {
    began: Instant,
    inside: Mutex<(History, Counts)>,
}

/// Figures of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls.
    pub operations: u64,
    /// Those of which nobody knows whether they happened.
    pub ambiguous: u64,
    /// Those that did not happen, as the service or its store had no room.
    pub refused: u64,
    /// The longest time that one caller had to wait for an answer, over all that it tried.
    pub unavailable_max: Duration,
}

/// What became of a call.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It was answered, or refused for what it asked.
    Answered(Span, Result<T, Refusal>),
    /// Nothing has happened.
    Nothing,
    /// It may have happened, or may happen later.
    Unknown(Span),
}

impl Recorder {
    /// A recorder of nothing yet.
    #[allow(clippy::new_without_default, reason = "it starts a clock")]
    pub fn new() -> Self {
        Self { began: Instant::now(), inside: Mutex::default() }
    }

    /// The time since it began.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Adds to the history.
    pub fn add(&self, add: impl FnOnce(&mut History)) {
        add(&mut self.inside().0);
    }

    /// Counts a call, and how long its caller was without an answer if it just got one.
    pub fn count<T>(&self, outcome: &Outcome<T>, waited: Duration) {
        let counts = &mut self.inside().1;
        counts.operations += 1;
        match outcome {
            Outcome::Answered(..) => counts.unavailable_max = counts.unavailable_max.max(waited),
            Outcome::Nothing => counts.refused += 1,
            Outcome::Unknown(_) => counts.ambiguous += 1,
        }
    }

    /// How many calls there were until now.
    pub fn counts(&self) -> Counts {
        self.inside().1
    }

    /// The history and its figures.
    pub fn finish(&self) -> (History, Counts) {
        self.inside().clone()
    }

    fn inside(&self) -> MutexGuard<'_, (History, Counts)> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an answer says about whether the call happened, by the table of errors in
/// `docs/operations.md`. A refusal without a reason is not of the service: the connection
/// broke, or nobody was there.
pub fn outcome<T>(span: Span, result: Result<T, Refusal>) -> Outcome<T> {
    match &result {
        Err(refusal) => match refusal.reason.as_str() {
            "" | "STORE_UNAVAILABLE" | "LOGIC_FAILED" | "LOGIC_TIMEOUT" => {
                Outcome::Unknown(Span::unknown(span.sent))
            }
            "OVERLOADED" | "STORE_FULL" => Outcome::Nothing,
            _ => Outcome::Answered(span, result),
        },
        Ok(_) => Outcome::Answered(span, result),
    }
}
