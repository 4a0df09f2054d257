//! One caller of the mixed load. It makes one call at a time, over both wires and on all hosts
//! in turn. It gives up after a time-out, and uses the next host or wire after a call without an
//! answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::client::{Client, Refusal};
use crate::history::recorder::{Outcome, Recorder, outcome};
use crate::history::span::Span;

/// How long a caller waits for an answer. Slower answers only make more outcomes unknown.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The pause between two calls.
const PACE: Duration = Duration::from_millis(15);
/// The pause after a call without an answer.
const PAUSE: Duration = Duration::from_millis(100);

/// What all callers share.
#[derive(Clone)]
pub struct Stage {
    /// A client for each host and wire.
    pub clients: Arc<[Client]>,
    /// The recorder of their calls.
    pub recorder: Arc<Recorder>,
    /// Whether the load has ended.
    pub ended: watch::Receiver<bool>,
}

/// A caller.
pub struct Caller {
    /// The recorder of its calls.
    pub recorder: Arc<Recorder>,
    clients: Arc<[Client]>,
    ended: watch::Receiver<bool>,
    at: usize,
    /// It always uses the same host and wire.
    stays: bool,
    /// It pauses between two calls.
    has_pace: bool,
    random: u64,
    /// When it sent the first call since its last answer.
    waiting: Option<Duration>,
}

impl Stage {
    /// A caller with its own number.
    pub fn caller(&self, number: usize) -> Caller {
        Caller {
            recorder: Arc::clone(&self.recorder),
            clients: Arc::clone(&self.clients),
            ended: self.ended.clone(),
            at: number,
            stays: false,
            has_pace: true,
            random: (number as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            waiting: None,
        }
    }
}

impl Caller {
    /// The same caller, but it always uses one host and wire.
    pub fn staying_at(self, client: usize) -> Self {
        Self { at: client, stays: true, ..self }
    }

    /// The same caller, without a pause between calls.
    pub fn without_pace(self) -> Self {
        Self { has_pace: false, ..self }
    }

    /// Whether the load continues.
    pub fn goes_on(&self) -> bool {
        !*self.ended.borrow()
    }

    /// A random number below a bound (xorshift).
    pub fn chance(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    /// Moves on to the next host or wire.
    pub fn turn(&mut self) {
        self.at += usize::from(!self.stays);
    }

    /// Makes a call, and pauses.
    pub async fn call<T, F>(&mut self, ask: impl FnOnce(Client) -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let client = self.clients[self.at % self.clients.len()].clone();
        let sent = self.recorder.now();
        let result = tokio::time::timeout(TIMEOUT, ask(client)).await;
        let answered = self.recorder.now();
        let outcome = match result {
            Ok(result) => outcome(Span::known(sent, answered), result),
            Err(_) => Outcome::Unknown(Span::unknown(sent)),
        };
        let since = *self.waiting.get_or_insert(sent);
        self.recorder.count(&outcome, answered - since);
        match outcome {
            Outcome::Answered(..) => {
                self.waiting = None;
                if self.has_pace {
                    tokio::time::sleep(PACE).await;
                }
            }
            Outcome::Nothing | Outcome::Unknown(_) => {
                self.turn();
                tokio::time::sleep(PAUSE).await;
            }
        }
        outcome
    }

    /// Repeats a call until there is an answer; `None` when there is none for a minute.
    pub async fn insist<T, F>(
        &mut self,
        ask: impl Fn(Client) -> F,
    ) -> Option<(Span, Result<T, Refusal>)>
    where
        F: Future<Output = Result<T, Refusal>>,
    {
        let began = self.recorder.now();
        while self.recorder.now() - began < crate::wait::PATIENCE {
            if let Outcome::Answered(span, result) = self.call(&ask).await {
                return Some((span, result));
            }
        }
        None
    }
}
