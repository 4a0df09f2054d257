//! Stores: the transactions that the rules send, the [`Store`] trait, and the store in memory,
//! which is the reference for every other one. A store applies transactions atomically and has a
//! clock; it knows no kind of session. Nothing here does any I/O, and time passes as a
//! [`clock::Clock`] says.

mod capacity;
pub mod clock;
#[cfg(feature = "contract")]
pub mod contract;
mod conversions;
pub mod growth;
pub mod memory;
pub mod restore;
pub mod rows;
mod shard;
pub mod transaction;
mod value;

use std::pin::Pin;

use crate::clock::Milliseconds;
use crate::transaction::{Entry, Outcome, Shape, Txn};

/// The future of a store's reply.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Why a store gives no outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No answer, or not in time: the transaction may or may not have happened.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// The store refused it and will again; nothing happened.
    #[error("the store refused the transaction: {0}")]
    Rejected(String),
    /// The store has no memory left for what it would add; nothing happened.
    #[error("{0}")]
    Full(String),
}

impl Error {
    /// A key holds another type than the transaction expects.
    pub fn wrong_type(found: &str, expected: Shape) -> Self {
        let expected = match expected {
            Shape::Hash => "a session",
            Shape::Set => "a set of sessions",
            Shape::Log => "a log of events",
        };
        Self::Rejected(format!("The key holds a {found}, not {expected}."))
    }
}

/// The position of an event in its log; ids increase with the store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// When it was appended.
    pub milliseconds: Milliseconds,
    /// Its number within that millisecond.
    pub sequence: u64,
}

impl std::fmt::Display for EventId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.milliseconds, self.sequence)
    }
}

impl std::str::FromStr for EventId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (milliseconds, sequence) = text.split_once('-').unwrap_or((text, ""));
        Ok(Self { milliseconds: milliseconds.parse()?, sequence: sequence.parse()? })
    }
}

/// An event of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// Its fields.
    pub entries: Vec<Entry>,
}

/// A position in a log to read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// The log.
    pub log: String,
    /// The event to read after; the start of the log if `None`.
    pub after: Option<EventId>,
}

/// How far the newest event of a log may lie in the future of the store's clock. Events are in
/// the order of their ids, so all events after one of the future are of the future too. Until the
/// clock catches up, new events would stay invisible.
pub const EVENT_AHEAD_MS_MAX: Milliseconds = 1000;

/// A page of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Whether events after the mark were dropped; on Redis, whether they may have been.
    pub trimmed: bool,
    /// Whether the last event lies more than [`EVENT_AHEAD_MS_MAX`] in the future, because the
    /// clock was set back after it.
    pub ahead: bool,
}

/// A page of each of some logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// The store's clock. All earlier events are in the logs; more may follow in this
    /// millisecond.
    pub now: Milliseconds,
    /// A page for each mark, in order.
    pub pages: Vec<LogPage>,
}

/// One step of a count of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCount {
    /// The keys found in this step.
    pub keys: u64,
    /// The cursor of the next step; `None` if this was the last one.
    pub next: Option<String>,
}

/// The memory of the data of a store, events included, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// The memory in use.
    pub bytes: u64,
    /// Its limit, if there is one.
    pub bytes_max: Option<u64>,
}

/// The transactions that a store accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Every transaction.
    All,
    /// Those that only read: it cannot keep changes now.
    ReadsOnly,
}

/// Applies transactions: each one wholly or not at all, and those of one tag one after the other,
/// in an order that respects what callers have seen.
pub trait Store: Send + Sync + 'static {
    /// Applies one transaction.
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome>;

    /// Reads events of each log after a mark, at most `limit` of each.
    fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs>;

    /// Empties each of the logs whose newest event lies more than [`EVENT_AHEAD_MS_MAX`] in the
    /// future, so that new events are visible at once.
    fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()>;

    /// Counts the keys with one of the prefixes, step by step, from an empty cursor. The count is
    /// approximate: a key that changes meanwhile may be counted or not, and on Redis a key may be
    /// counted twice while the table grows.
    fn count_keys<'a>(&'a self, prefixes: &'a [String], cursor: &'a str) -> Answer<'a, KeyCount>;

    /// The memory of its data; `None` if the data is in another process.
    fn memory(&self) -> Option<MemoryUse> {
        None
    }

    /// Why it does not answer, if it knows more than its errors say. For operators, and without
    /// secrets.
    fn obstacle(&self) -> Option<String> {
        None
    }

    /// The servers that it consists of, each with its address and whether it is connected; empty
    /// for a store in this process.
    fn nodes(&self) -> Vec<(String, bool)> {
        Vec::new()
    }

    /// Checks whether the store answers, and what it accepts now.
    fn ping(&self) -> Answer<'_, Takes>;

    /// The history of changes that the store follows. Another one begins when a replica takes
    /// over, which may lack the latest changes. `None` while it is unknown, or if there are no
    /// replicas.
    fn history(&self) -> Option<String> {
        None
    }

    /// Makes everything acknowledged so far survive a loss of power.
    fn flush(&self) -> Answer<'_, ()>;

    /// Its name in logs and metrics: `memory`, `embedded` or `redis`.
    fn name(&self) -> &'static str;
}
