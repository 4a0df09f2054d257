//! Where sessions are kept. A store applies transactions atomically and keeps
//! time; it knows no kind of session. Three implementations pass one suite (in
//! `tests/tests/store`): memory, embedded (durable on disk), Redis.

pub mod embedded;
pub mod memory;
pub mod redis;
mod rows;
mod shard;
pub mod transaction;
mod value;

use std::pin::Pin;

use crate::store::transaction::{Entry, Outcome, Txn};

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
}

/// An event of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Place in the log, increasing: `<milliseconds>-<sequence>`.
    pub id: String,
    /// What happened.
    pub entries: Vec<Entry>,
}

/// Applies transactions: all of one or nothing of it, one after the other for
/// each tag, in an order that respects what callers have seen.
pub trait Store: Send + Sync + 'static {
    /// Applies one transaction.
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome>;

    /// Events of a log behind `after` (from its beginning when `None`), oldest
    /// first, at most `limit`.
    fn events<'a>(
        &'a self,
        log: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<Event>>;

    /// Whether the store can take a transaction now.
    fn ping(&self) -> Answer<'_, ()>;

    /// Makes everything acknowledged so far survive a loss of power.
    fn flush(&self) -> Answer<'_, ()>;

    /// What it is, for logs and metrics: `memory`, `embedded` or `redis`.
    fn name(&self) -> &'static str;
}
