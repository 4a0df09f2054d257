//! Random transactions on a store and on memory: every outcome must be the same, except what
//! depends on the time of day.

use proptest::prelude::*;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};

use super::*;
use crate::clock::Clock;
use crate::memory::Memory;
use crate::transaction::{Copies, Member};
use crate::{LogMark, Logs};

const HOUR: u64 = 3_600_000;
/// The step between lifetimes, so that orders do not depend on milliseconds.
const STEP: u64 = 60_000;
/// A deadline far after all others, compared as it is.
const FAR: u64 = 5_000_000_000_000;

fn name(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(names).prop_map(Into::into)
}

fn key() -> impl Strategy<Value = String> {
    name(&["a{t}", "b{t}", "c{t}"])
}

fn field() -> impl Strategy<Value = String> {
    name(&["f", "g", "n"])
}

fn member() -> impl Strategy<Value = String> {
    name(&["x", "y", "z"])
}

fn value() -> impl Strategy<Value = bytes::Bytes> {
    prop::sample::select(
        &["", "1", "-20", "007", "text", "9007199254740991", "9007199254740992"][..],
    )
    .prop_map(|text| bytes::Bytes::from_static(text.as_bytes()))
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        key().prop_map(Compare::Exists),
        key().prop_map(Compare::Absent),
        (key(), field(), value(), any::<bool>()).prop_map(|(key, field, value, or_absent)| {
            Compare::FieldEquals { key, field, value, or_absent }
        }),
        (key(), field(), prop::collection::vec(value(), 0..3))
            .prop_map(|(key, field, values)| Compare::FieldAmong { key, field, values }),
        (key(), field(), prop::sample::select(&[0, 1, 2, 4, (1 << 53) - 1, u64::MAX][..]))
            .prop_map(|(key, field, number)| Compare::CountEquals { key, field, number }),
        (key(), prop::collection::vec(field(), 0..3), 0_u64..8)
            .prop_map(|(key, except, limit)| Compare::SizeAtMost { key, except, limit }),
        (key(), member(), any::<bool>()).prop_map(|(key, member, alive)| Compare::Member {
            key,
            member,
            alive
        }),
        (key(), 0_u32..4).prop_map(|(key, limit)| Compare::MembersBelow { key, limit }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let entry = || (field(), value()).prop_map(|(field, value)| Entry { field, value });
    prop_oneof![
        4 => (key(), prop::collection::vec(entry(), 1..3), any::<bool>()).prop_map(
            |(key, entries, ttl)| Operation::HashSet { key, entries, ttl: ttl.then_some(HOUR) }
        ),
        2 => (key(), prop::option::of(prop::collection::vec(field(), 0..3)))
            .prop_map(|(key, fields)| Operation::HashGet { key, fields }),
        2 => (key(), field(), 0_u64..4)
            .prop_map(|(key, field, delta)| Operation::HashAdd { key, field, delta }),
        1 => (key(), field())
            .prop_map(|(key, field)| Operation::HashStamp { key, field, later: HOUR }),
        1 => key().prop_map(Operation::HashDelete),
        1 => key().prop_map(|key| Operation::HashExpire { key, ttl: HOUR }),
        1 => (key(), key()).prop_map(|(key, to)| Operation::HashMove { key, to, ttl: HOUR }),
        4 => (key(), member())
            .prop_map(|(key, member)| Operation::MemberSet { key, member, ttl: HOUR }),
        1 => (key(), member()).prop_map(|(key, member)| Operation::MemberRemove { key, member }),
        2 => (key(), any::<bool>(), 0_u32..4).prop_map(|(key, soonest, limit)| {
            let order = if soonest { Order::SoonestFirst } else { Order::LatestFirst };
            Operation::MemberList { key, order, after: None, limit }
        }),
        1 => (key(), member())
            .prop_map(|(key, member)| Operation::MemberRenew { key, member, ttl: HOUR }),
        1 => (key(), member(), prop::sample::select(&[1_u64, FAR][..])).prop_map(
            |(key, member, expires_at)| Operation::MemberSetUntil { key, member, expires_at }
        ),
        1 => (key(), prop::option::of(member()), any::<bool>(), prop::option::of(key())).prop_map(
            |(key, except, records, copies)| {
                let record_prefix = records.then(|| "a{t}".into());
                let also_in = copies.map(|key| Copies { key, prefix: String::new() });
                Operation::MemberClear { key, except, record_prefix, also_in }
            }
        ),
        1 => key().prop_map(|log| Operation::AppendEvent {
            log,
            entries: entries(&[("e", "1")]),
            keep: 1_000_000,
        }),
    ]
}

/// Transactions on a few keys of all types.
pub fn transactions() -> impl Strategy<Value = Vec<Txn>> {
    let branch = || prop::collection::vec(operation(), 0..4);
    let txn = (prop::collection::vec(compare(), 0..3), branch(), branch())
        .prop_map(|(compare, success, failure)| Txn { compare, success, failure, durable: false });
    prop::collection::vec(txn, 1..40).prop_map(|mut transactions| {
        let mut steps = 0;
        for txn in &mut transactions {
            for operation in txn.success.iter_mut().chain(&mut txn.failure) {
                if let Operation::MemberSet { ttl, .. } | Operation::MemberRenew { ttl, .. } =
                    operation
                {
                    steps += 1;
                    *ttl = HOUR + steps * STEP;
                }
            }
        }
        transactions
    })
}

/// An outcome without what depends on the time of day or on the order of fields.
///
/// # Panics
/// If the store was not available.
pub fn comparable(result: Result<Outcome, Error>) -> Result<(bool, Vec<Reply>), &'static str> {
    let Outcome { succeeded, mut replies, now } = match result {
        Ok(outcome) => outcome,
        Err(Error::Rejected(_)) => return Err("rejected"),
        Err(Error::Full(_)) => return Err("full"),
        Err(Error::Unavailable(message)) => panic!("unavailable: {message}"),
    };
    let left = |at: u64| match at {
        FAR => FAR,
        at => (at - now + STEP / 2) / STEP * STEP,
    };
    // A stamp, or a stamp with an addition.
    let stamped = |number: u64| (now..now + 10 * HOUR).contains(&number);
    for reply in &mut replies {
        match reply {
            Reply::Number(number) => {
                if let Some(at) = u64::try_from(*number).ok().filter(|at| stamped(*at)) {
                    *number = left(at).try_into().unwrap();
                }
            }
            Reply::Deadline(deadline) => *deadline = deadline.map(left),
            Reply::Record(Some(hash)) => {
                hash.entries.sort_by(|a, b| a.field.cmp(&b.field));
                for entry in &mut hash.entries {
                    let number = str::from_utf8(&entry.value).ok().and_then(|n| n.parse().ok());
                    if let Some(at) = number.filter(|at| stamped(*at)) {
                        entry.value = left(at).to_string().into();
                    }
                }
                hash.expires_at = hash.expires_at.map(left);
            }
            Reply::Members { members, .. } => members
                .iter_mut()
                .for_each(|Member { expires_at, .. }| *expires_at = left(*expires_at)),
            Reply::Appended(id) => id.clear(),
            _ => {}
        }
    }
    Ok((succeeded, replies))
}

/// Stores that are compared with memory, a new one for each sequence of transactions.
pub trait Subjects {
    /// A store, and what it lives on.
    type Subject;

    /// An empty store.
    fn fresh(&self) -> Self::Subject;

    /// The store of a subject.
    fn store<'a>(&'a self, subject: &'a Self::Subject) -> &'a dyn Store;

    /// An action after the transaction with this number, such as a restart.
    fn behind(&self, _transaction: usize, subject: Self::Subject) -> Self::Subject {
        subject
    }

    /// Waits for a reply of a store.
    fn wait<T>(&self, answer: impl Future<Output = T>) -> T;
}

/// Runs `cases` sequences of transactions on memory and on other stores.
///
/// # Panics
/// If another store behaves differently than memory.
pub fn compare_with_memory(subjects: &impl Subjects, cases: u32) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&transactions(), |transactions| {
            let memory = Memory::new(Clock::System);
            let mut subject = subjects.fresh();
            for (index, txn) in transactions.into_iter().enumerate() {
                let expected = subjects.wait(memory.execute(txn.clone()));
                let found = subjects.wait(subjects.store(&subject).execute(txn.clone()));
                prop_assert_eq!(comparable(found), comparable(expected), "{:?}", txn);
                subject = subjects.behind(index, subject);
            }
            for log in ["a{t}", "b{t}", "c{t}"] {
                let store = subjects.store(&subject);
                let marks = [LogMark { log: log.into(), after: None }];
                let count = |logs: Logs| logs.pages[0].events.len();
                let found = subjects.wait(store.read_logs(&marks, 100)).map(count);
                let expected = subjects.wait(memory.read_logs(&marks, 100)).map(count);
                // Memory has no events under a key of another type; Redis reports an error.
                prop_assert_eq!(found.unwrap_or(0), expected.unwrap_or(0));
            }
            Ok(())
        })
        .unwrap();
}
