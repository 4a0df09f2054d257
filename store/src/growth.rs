//! How transactions change the memory of a store, and the one rule by which a full store refuses
//! them. Invariant: a full store accepts every read, deletion, renewal and end of a session, so
//! that it can become empty again.

use crate::Error;
use crate::clock::Milliseconds;
use crate::transaction::{Operation, Txn};

/// The effect of an operation on the memory of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Reads, or changes a deadline or a key.
    Keeps,
    /// Removes something.
    Frees,
    /// Adds a key or a member if it is absent. What it adds to a present one, at most a number,
    /// does not count, so a session can be renewed in a full store.
    Makes,
    /// Adds a key if it is absent, or replaces values, by shorter ones perhaps.
    Writes,
    /// Appends an event to a log, which drops its oldest ones.
    Appends,
}

impl Operation {
    /// The effect on the memory of a store.
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

    /// Whether its deadline has passed, so that it removes the member instead of adding it.
    pub fn has_passed(&self, now: Milliseconds) -> bool {
        matches!(self, Self::MemberSetUntil { expires_at, .. } if *expires_at <= now)
    }
}

impl Txn {
    /// Whether a full store may refuse it. Other transactions are never refused for lack of memory.
    pub fn may_grow(&self) -> bool {
        let grows = |operation: &Operation| {
            matches!(operation.effect(), Effect::Makes | Effect::Writes | Effect::Appends)
        };
        self.success.iter().chain(&self.failure).any(grows)
    }
}

/// The effect of one branch of a transaction on the content of a store. `transaction.lua` computes
/// the same for Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// It adds a key or a member.
    pub makes: bool,
    /// It makes the values of a hash longer, or appends an event.
    pub enlarges: bool,
    /// It removes something, so a session ends.
    pub frees: bool,
    /// The most bytes that it adds.
    pub bytes: u64,
}

impl Growth {
    /// Whether a full store refuses it. The end of a session is accepted with its event and the
    /// record of how it ended: it frees more than it adds, and sessions that cannot end would keep
    /// the store full.
    pub fn needs_room(&self) -> bool {
        self.makes || (self.enlarges && !self.frees)
    }
}

/// The error of a full store, with the limit that it has reached. Nothing has happened.
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
    fn a_transaction_may_grow_if_one_of_its_operations_may() {
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
    fn a_full_store_refuses_growth_and_accepts_the_end_of_sessions() {
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
