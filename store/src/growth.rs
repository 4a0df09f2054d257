//! What a transaction does to the memory that a store takes, and the one rule by which a
//! full store refuses it. Invariant: a store that is full applies every read, deletion,
//! renewal and end of a session, so that it can become empty again.

use crate::Error;
use crate::clock::Milliseconds;
use crate::transaction::{Operation, Txn};

/// What an operation does to the memory that a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Reads, or gives what is there a new deadline or another key.
    Keeps,
    /// Removes what is there.
    Frees,
    /// Makes a key or a member that is absent. What it adds to one that is there, a
    /// number at most, does not count: so a session is renewed in a full store too.
    Makes,
    /// Makes a key that is absent, or puts values in the place of others, which may be
    /// shorter.
    Writes,
    /// Appends an event to a log, which drops its oldest ones.
    Appends,
}

impl Operation {
    /// What it does to the memory that a store takes.
    pub fn effect(&self) -> Effect {
        match self {
            Self::HashGet { .. }
            | Self::MemberList { .. }
            | Self::HashExpire { .. }
            | Self::HashMove { .. }
            | Self::MemberRenew { .. } => Effect::Keeps,
            Self::HashDelete(_) | Self::MemberRemove { .. } | Self::MemberClear { .. } => {
                Effect::Frees
            }
            Self::HashAdd { .. }
            | Self::HashStamp { .. }
            | Self::MemberSet { .. }
            | Self::MemberSetUntil { .. } => Effect::Makes,
            Self::HashSet { .. } => Effect::Writes,
            Self::AppendEvent { .. } => Effect::Appends,
        }
    }

    /// Whether it would make a member that has ended already: then it removes it.
    pub fn is_of_the_past(&self, now: Milliseconds) -> bool {
        matches!(self, Self::MemberSetUntil { expires_at, .. } if *expires_at <= now)
    }
}

impl Txn {
    /// Whether a full store may have to refuse it. One that may not is never refused for
    /// want of memory, whatever the store holds.
    pub fn may_grow(&self) -> bool {
        let grows = |operation: &Operation| {
            matches!(operation.effect(), Effect::Makes | Effect::Writes | Effect::Appends)
        };
        self.success.iter().chain(&self.failure).any(grows)
    }
}

/// What one branch of a transaction does to what a store holds before it. In
/// `transaction.lua` stands the same for Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// It makes a key or a member that is absent.
    pub makes: bool,
    /// It makes the values of a hash longer, or appends an event.
    pub enlarges: bool,
    /// It removes something that is there: a session ends.
    pub frees: bool,
    /// The most bytes that it adds.
    pub bytes: u64,
}

impl Growth {
    /// Whether a full store refuses it. The end of a session passes with the event that
    /// reports it and the note of how it ended: it frees more than it adds, and sessions
    /// that cannot end would keep the store full.
    pub fn needs_room(&self) -> bool {
        self.makes || (self.enlarges && !self.frees)
    }
}

/// A full store, named by what limits it, refused a transaction; nothing happened.
pub fn full(store: &str, limit: &str) -> Error {
    Error::Full(format!(
        "{store} is full ({limit} is reached); nothing was written. Reads, renewals, closes \
         and deletes still work; try again when sessions have ended or there is more memory."
    ))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::transaction::{Entry, Order};

    fn every_operation() -> Vec<(Operation, Effect)> {
        let key = || "k".to_owned();
        let entries = || vec![Entry { field: "f".into(), value: Bytes::new() }];
        let (member, field) = (|| "m".to_owned(), || "f".to_owned());
        vec![
            (Operation::HashGet { key: key(), fields: None }, Effect::Keeps),
            (Operation::HashExpire { key: key(), ttl: 1 }, Effect::Keeps),
            (Operation::HashMove { key: key(), to: "l".into(), ttl: 1 }, Effect::Keeps),
            (Operation::MemberRenew { key: key(), member: member(), ttl: 1 }, Effect::Keeps),
            (
                Operation::MemberList {
                    key: key(),
                    order: Order::SoonestFirst,
                    after: None,
                    limit: 1,
                },
                Effect::Keeps,
            ),
            (Operation::HashDelete(key()), Effect::Frees),
            (Operation::MemberRemove { key: key(), member: member() }, Effect::Frees),
            (
                Operation::MemberClear {
                    key: key(),
                    except: None,
                    record_prefix: None,
                    also_in: None,
                },
                Effect::Frees,
            ),
            (Operation::HashAdd { key: key(), field: field(), delta: 1 }, Effect::Makes),
            (Operation::HashStamp { key: key(), field: field(), later: 0 }, Effect::Makes),
            (Operation::MemberSet { key: key(), member: member(), ttl: 1 }, Effect::Makes),
            (Operation::HashSet { key: key(), entries: entries(), ttl: None }, Effect::Writes),
            (Operation::AppendEvent { log: key(), entries: entries(), keep: 1 }, Effect::Appends),
        ]
    }

    #[test]
    fn a_transaction_may_grow_when_one_of_its_operations_may() {
        for (operation, effect) in every_operation() {
            assert_eq!(operation.effect(), effect, "{operation:?}");
            let grows = !matches!(effect, Effect::Keeps | Effect::Frees);
            let success = vec![Operation::HashDelete("k".into()), operation];
            let either = Txn { success: success.clone(), ..Txn::default() };
            let other = Txn { failure: success, ..Txn::default() };
            assert_eq!((either.may_grow(), other.may_grow()), (grows, grows), "{effect:?}");
        }
    }

    #[test]
    fn a_full_store_refuses_what_makes_or_enlarges_and_lets_ends_pass() {
        for (makes, enlarges, frees, refused) in [
            (false, false, false, false),
            (false, false, true, false),
            (false, true, true, false),
            (false, true, false, true),
            (true, false, false, true),
            (true, false, true, true),
            (true, true, true, true),
        ] {
            let growth = Growth { makes, enlarges, frees, bytes: 1 };
            assert_eq!(growth.needs_room(), refused, "{growth:?}");
        }
    }
}
