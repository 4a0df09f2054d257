//! Where sessions are kept: the transactions that the rules ask for, the [`Store`] trait, and the
//! store in memory, which is the reference for every other one. A store applies transactions
//! atomically and keeps time; it knows no kind of session. Nothing here does any I/O, and time
//! passes as a [`clock::Clock`] says.

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

/// A future of a store's answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// Why a store has no answer.
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
    /// A key holds something else than the transaction expects of it.
    pub fn holds_another(found: &str, expected: Shape) -> Self {
        let expected = match expected {
            Shape::Hash => "a session",
            Shape::Set => "a set of sessions",
            Shape::Log => "a log of events",
        };
        Self::Rejected(format!("The key holds a {found}, not {expected}."))
    }
}

/// The place of an event in its log; increasing, by the store's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// When it was appended.
    pub milliseconds: Milliseconds,
    /// Which of that millisecond.
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
    /// Its place.
    pub id: EventId,
    /// What happened.
    pub entries: Vec<Entry>,
}

/// A place in a log from where to read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogMark {
    /// The log.
    pub log: String,
    /// The event behind which to read; the log's beginning when `None`.
    pub after: Option<EventId>,
}

/// How far the newest event of a log may lie in the future of the store's clock. Events
/// are in the order of their ids, so behind one of the future there is only the future:
/// until the clock is there, no event of the log is of the present.
pub const EVENT_AHEAD_MS_MAX: Milliseconds = 1000;

/// Some events of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Events behind the mark were dropped before this; on Redis, may have been.
    pub trimmed: bool,
    /// The last of these events lies more than [`EVENT_AHEAD_MS_MAX`] in the future: the
    /// clock has gone back since it was appended.
    pub ahead: bool,
}

/// Some events of some logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logs {
    /// The store's clock. Events before it are all there; of its millisecond more may
    /// come.
    pub now: Milliseconds,
    /// A page for each mark, in order.
    pub pages: Vec<LogPage>,
}

/// How many keys a part of a count has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyCount {
    /// So many.
    pub keys: u64,
    /// What asks for the next part; `None` when there is none.
    pub next: Option<String>,
}

/// How much memory the data of a store takes, events included, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// What it takes now.
    pub bytes: u64,
    /// What it may take; `None` for as much as there is.
    pub bytes_max: Option<u64>,
}

/// What a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Every transaction.
    All,
    /// Those that only read: it cannot keep changes now.
    ReadsOnly,
}

/// Applies transactions: all of one or nothing of it, one after the other for
/// each tag, in an order that respects what callers have seen.
pub trait Store: Send + Sync + 'static {
    /// Applies one transaction.
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome>;

    /// Events of each log behind a mark, at most `limit` of each.
    fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs>;

    /// Empties each of the logs whose newest event lies more than [`EVENT_AHEAD_MS_MAX`]
    /// in the future, so that what is appended from now on is of the present.
    fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()>;

    /// Counts keys that begin with one of the prefixes, part by part, from an empty cursor.
    /// About right: what changes meanwhile may be counted or not, and on Redis a key may be
    /// met twice while its table grows.
    fn count_keys<'a>(&'a self, prefixes: &'a [String], cursor: &'a str) -> Answer<'a, KeyCount>;

    /// The memory that its data takes; `None` when that is another process's to know.
    fn memory(&self) -> Option<MemoryUse> {
        None
    }

    /// Why it does not answer, when it knows more than its errors say: for operators, and
    /// without a secret.
    fn obstacle(&self) -> Option<String> {
        None
    }

    /// The servers that it is made of, each by its address and whether there is a connection
    /// to it; none for a store in this process.
    fn nodes(&self) -> Vec<(String, bool)> {
        Vec::new()
    }

    /// Whether the store answers, and what it takes now.
    fn ping(&self) -> Answer<'_, Takes>;

    /// Which history of changes the store follows; another one begins when a copy takes its
    /// place, which may lack the latest changes. `None` while that is not known, or when
    /// there can be no copy.
    fn history(&self) -> Option<String> {
        None
    }

    /// Makes everything acknowledged so far survive a loss of power.
    fn flush(&self) -> Answer<'_, ()>;

    /// What it is, for logs and metrics: `memory`, `embedded` or `redis`.
    fn name(&self) -> &'static str;
}
