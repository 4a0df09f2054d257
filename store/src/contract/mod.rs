//! The contract of every store, as tests for any store. A store under test is a [`Subject`];
//! [`contract_tests!`](crate::contract_tests) makes a test of each promise for it, and [`model`]
//! compares it with the store in memory by random transactions.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected ends")]

#[allow(missing_docs, reason = "a promise is what its name says")]
mod full;
pub mod model;
#[allow(missing_docs, reason = "a promise is what its name says")]
mod promises;

pub use full::*;
pub use promises::*;

use std::sync::Arc;

use crate::transaction::{Compare, Entry, Hash, Operation, Order, Outcome, Reply, Txn};
use crate::{Error, Store};

/// The start time of a subject's manual clock.
pub const EPOCH: u64 = 1_800_000_000_000;
/// The memory limit of a subject that can be full, in bytes.
pub const BYTES_MAX: u64 = 4 << 20;

/// Makes a test of each promise: `contract_tests!(on_memory, memory().await)` makes a module of
/// that name. The expression gives a fresh [`Subject`](crate::contract::Subject), and is evaluated
/// in the scope around the module. The crate that uses it needs tokio with `macros` and `rt`.
#[macro_export]
macro_rules! contract_tests {
    ($store:ident, $subject:expr) => {
        $crate::contract_tests! { @each $store, $subject,
            a_write_keeps_other_fields_and_restarts_the_lifetime
            a_read_takes_all_fields_or_those_named
            a_hash_ends_at_its_deadline
            a_hash_without_a_lifetime_stays
            a_lifetime_can_be_renewed
            a_delete_reports_whether_the_hash_existed
            a_hash_moves_with_all_its_fields_and_replaces_another
            compares_hold_as_documented
            one_branch_runs_and_the_other_does_not
            a_counter_counts_and_restarts_if_it_is_not_a_number
            a_given_deadline_is_kept_and_one_that_has_passed_removes_the_member
            a_stamp_is_the_time_of_the_transaction
            a_refused_transaction_changes_nothing
            members_end_one_by_one
            a_member_gets_a_new_deadline
            a_member_that_has_ended_is_not_renewed
            a_listing_continues_after_any_member
            clearing_a_set_deletes_the_records_of_its_members
            events_are_read_in_order_after_any_of_them
            large_and_binary_values_are_returned_unchanged
            parallel_additions_are_all_counted
            a_limit_is_never_exceeded
            keys_of_several_tags_are_refused
            keys_are_counted_by_prefix
            a_full_store_refuses_every_addition_and_changes_nothing
            a_full_store_reads_renews_and_deletes
            a_session_ends_in_a_full_store_with_its_event
            a_store_with_room_again_accepts_what_it_refused
        }
    };
    (@each $store:ident, $subject:expr, $($promise:ident)+) => {
        mod $store {
            #[allow(unused_imports, reason = "the expression may need no import")]
            use super::*;
            $(#[tokio::test] async fn $promise() {
                $crate::contract::$promise(&$subject).await;
            })+
        }
    };
}

/// A store under test, and how a test acts on it from outside.
#[allow(async_fn_in_trait, reason = "tests run each subject in one task")]
pub trait Subject {
    /// The store.
    fn store(&self) -> &Arc<dyn Store>;

    /// Advances the store's clock by at least this time.
    async fn pass(&self, milliseconds: u64);

    /// Leaves no room for additions; see [`fill`].
    async fn fill(&self);

    /// Makes room again; see [`make_room`].
    async fn make_room(&self);

    /// Applies a transaction.
    async fn run(&self, txn: Txn) -> Outcome {
        self.store().execute(txn).await.expect("the store answers")
    }

    /// Applies operations without conditions and returns their replies.
    async fn perform(&self, success: Vec<Operation>) -> Vec<Reply> {
        self.run(Txn { success, ..Txn::default() }).await.replies
    }

    /// Whether a compare holds.
    async fn holds(&self, compare: Compare) -> bool {
        let (success, failure) = (vec![get("t{t}")], vec![get("t{t}")]);
        self.run(Txn { compare: vec![compare], success, failure, durable: false }).await.succeeded
    }

    /// The store's clock.
    async fn now(&self) -> u64 {
        self.run(Txn { success: vec![get("t{t}")], ..Txn::default() }).await.now
    }

    /// The hash under a key.
    async fn hash(&self, key: &str) -> Option<Hash> {
        match self.perform(vec![get(key)]).await.remove(0) {
            Reply::Record(hash) => hash,
            other => panic!("a record, not {other:?}"),
        }
    }

    /// The live members of a set.
    async fn members(&self, key: &str) -> Vec<String> {
        match self.perform(vec![list(key, Order::SoonestFirst, 100)]).await.remove(0) {
            Reply::Members { members, live } => {
                assert_eq!(members.len(), live as usize);
                members.into_iter().map(|member| member.name).collect()
            }
            other => panic!("members, not {other:?}"),
        }
    }

    /// Expects that a transaction is rejected.
    async fn rejected(&self, txn: Txn) {
        match self.store().execute(txn).await {
            Err(Error::Rejected(_)) => {}
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// Expects that operations are refused for lack of memory.
    async fn refused_as_full(&self, success: Vec<Operation>) {
        match self.store().execute(Txn { success, ..Txn::default() }).await {
            Err(Error::Full(message)) => assert!(message.contains("still work"), "{message}"),
            other => panic!("expected a full store, got {other:?}"),
        }
    }
}

/// Fills a store that takes at most [`BYTES_MAX`].
///
/// # Panics
/// If it does not answer.
pub async fn fill(store: &dyn Store) {
    let mut size = 1 << 20;
    for number in 0.. {
        let more = set("filling", &[(&format!("f{number}"), &"x".repeat(size))], None);
        match store.execute(Txn { success: vec![more], ..Txn::default() }).await {
            Err(Error::Full(_)) if size == 1 => break,
            Err(Error::Full(_)) => size /= 2,
            answered => drop(answered.unwrap()),
        }
    }
    // The rest is smaller than a field.
    for length in 1.. {
        let longer = set("filling", &[("f0", &"x".repeat((1 << 20) + length))], None);
        match store.execute(Txn { success: vec![longer], ..Txn::default() }).await {
            Err(Error::Full(_)) => return,
            answered => drop(answered.unwrap()),
        }
    }
}

/// Makes room in a store that was filled.
///
/// # Panics
/// If it does not answer.
pub async fn make_room(store: &dyn Store) {
    let success = vec![Operation::HashDelete("filling".into())];
    store.execute(Txn { success, ..Txn::default() }).await.unwrap();
}

/// Reads all fields of a hash.
pub fn get(key: &str) -> Operation {
    Operation::HashGet { key: key.into(), fields: None }
}

/// Writes fields of a hash.
pub fn set(key: &str, fields: &[(&str, &str)], ttl: Option<u64>) -> Operation {
    Operation::HashSet { key: key.into(), entries: entries(fields), ttl }
}

/// Fields with text.
pub fn entries(fields: &[(&str, &str)]) -> Vec<Entry> {
    let entry = |(field, value): &(&str, &str)| Entry {
        field: (*field).into(),
        value: value.to_string().into(),
    };
    fields.iter().map(entry).collect()
}

/// Adds to a number in a field.
pub fn add(key: &str, field: &str, delta: u64) -> Operation {
    Operation::HashAdd { key: key.into(), field: field.into(), delta }
}

/// Adds a member to a set.
pub fn put(key: &str, member: &str, ttl: u64) -> Operation {
    Operation::MemberSet { key: key.into(), member: member.into(), ttl }
}

/// Lists the members of a set from its beginning.
pub fn list(key: &str, order: Order, limit: u32) -> Operation {
    Operation::MemberList { key: key.into(), order, after: None, limit }
}

/// The fields of a hash, sorted, as text.
pub fn fields(hash: &Hash) -> Vec<(String, String)> {
    let field =
        |entry: &Entry| (entry.field.clone(), String::from_utf8_lossy(&entry.value).into_owned());
    let mut fields: Vec<_> = hash.entries.iter().map(field).collect();
    fields.sort();
    fields
}
