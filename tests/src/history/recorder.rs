//! The recorder of a history: many callers add to it, with one clock that starts with it. It
//! also counts the calls, those with an unknown outcome, and the longest time that a caller
//! waited for an answer.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::History;
use super::span::Span;
use crate::client::Refusal;

/// A history that is being recorded.
pub struct Recorder {
    began: Instant,
    inside: Mutex<(History, Counts)>,
}

/// Figures of a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All calls.
    pub operations: u64,
    /// Calls with an unknown outcome.
    pub ambiguous: u64,
    /// Calls that did not happen because the service or its store had no room.
    pub refused: u64,
    /// The longest time that one caller waited for an answer, including its retries.
    pub unavailable_max: Duration,
}

/// The outcome of a call.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It was answered, or refused because of its content.
    Answered(Span, Result<T, Refusal>),
    /// It did not happen.
    Nothing,
    /// It may have happened, or may happen later.
    Unknown(Span),
}

impl Recorder {
    /// An empty recorder, whose clock starts now.
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

    /// Counts a call. `waited` is how long its caller has been without an answer.
    pub fn count<T>(&self, outcome: &Outcome<T>, waited: Duration) {
        let counts = &mut self.inside().1;
        counts.operations += 1;
        match outcome {
            Outcome::Answered(..) => counts.unavailable_max = counts.unavailable_max.max(waited),
            Outcome::Nothing => counts.refused += 1,
            Outcome::Unknown(_) => counts.ambiguous += 1,
        }
    }

    /// The figures so far.
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

/// Whether a call happened, according to its answer and the table of errors in
/// `docs/operations.md`. A refusal without a reason does not come from the service: the
/// connection broke, or no server was there.
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
