//! Random transactions on a store and on memory: every outcome is the same, but
//! for what hangs on the time of day.

use proptest::prelude::*;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};
use session_manager::store::transaction::{Copies, Member};
use session_manager::store::{LogMark, Logs};

use super::*;

const HOUR: u64 = 3_600_000;
/// Lifetimes differ by this much, so that orders do not hang on milliseconds.
const STEP: u64 = 60_000;
/// A deadline that is far behind all others, as it is.
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

fn transactions() -> impl Strategy<Value = Vec<Txn>> {
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

/// An outcome without what hangs on the time of day or on the order of fields.
fn comparable(result: Result<Outcome, Error>) -> Result<(bool, Vec<Reply>), &'static str> {
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
    // What was stamped, and perhaps added to.
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

/// Runs `cases` sequences on memory and on what `other` makes; `between` is
/// called between transactions and may put the store back together.
fn compare_with_memory<S: 'static>(
    cases: u32,
    runtime: &tokio::runtime::Runtime,
    mut other: impl FnMut() -> S,
    store: impl Fn(&S) -> Arc<dyn Store>,
    mut between: impl FnMut(usize, S) -> S,
) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let other = std::cell::RefCell::new(&mut other);
    let between = std::cell::RefCell::new(&mut between);
    TestRunner::new(config)
        .run(&transactions(), |transactions| {
            let memory = Memory::new(Clock::System);
            let mut subject = (other.borrow_mut())();
            for (index, txn) in transactions.into_iter().enumerate() {
                let expected = runtime.block_on(memory.execute(txn.clone()));
                let found = runtime.block_on(store(&subject).execute(txn.clone()));
                prop_assert_eq!(comparable(found), comparable(expected), "{:?}", txn);
                subject = (between.borrow_mut())(index, subject);
            }
            for log in ["a{t}", "b{t}", "c{t}"] {
                let store = store(&subject);
                let marks = [LogMark { log: log.into(), after: None }];
                let count = |logs: Logs| logs.pages[0].events.len();
                let found = runtime.block_on(store.read_logs(&marks, 100)).map(count);
                let expected = runtime.block_on(memory.read_logs(&marks, 100)).map(count);
                // Memory has no events under a key of another type; Redis says so.
                prop_assert_eq!(found.unwrap_or(0), expected.unwrap_or(0));
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn redis_does_what_memory_does() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let redis: Arc<dyn Store> = {
        let _guard = runtime.enter();
        Arc::new(connect(&server))
    };
    let flush = || {
        runtime.block_on(async {
            let mut connection = server.connect(5).await;
            let _: () = ::redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
        });
        Arc::clone(&redis)
    };
    compare_with_memory(256, &runtime, flush, Arc::clone, |_, store| store);
}

#[test]
fn the_embedded_store_does_what_memory_does_and_keeps_it_when_reopened() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = |directory: tempfile::TempDir| {
        let store = Arc::new(Embedded::open(directory.path(), Clock::System).unwrap());
        (store, directory)
    };
    compare_with_memory(
        48,
        &runtime,
        || open(tempfile::tempdir().unwrap()),
        |(store, _)| Arc::clone(store) as Arc<dyn Store>,
        |index, (store, directory)| {
            if index % 13 != 12 {
                return (store, directory);
            }
            drop(store);
            open(directory)
        },
    );
}

#[test]
fn a_full_redis_refuses_what_a_full_embedded_store_refuses() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let redis = {
        let _guard = runtime.enter();
        connect(&server)
    };
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&transactions(), |transactions| {
            runtime.block_on(async {
                server.limit_memory(0).await;
                let mut connection = server.connect(5).await;
                let _: () = ::redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
            });
            let directory = tempfile::tempdir().unwrap();
            let half = transactions.len() / 2;
            let mut embedded = Embedded::open(directory.path(), Clock::System).unwrap();
            for (index, txn) in transactions.into_iter().enumerate() {
                if index == half {
                    drop(embedded);
                    let clock = Clock::System;
                    embedded = Embedded::limited(directory.path(), clock, Some(0)).unwrap();
                    runtime.block_on(server.limit_memory(1));
                }
                let expected = runtime.block_on(embedded.execute(txn.clone()));
                let found = runtime.block_on(redis.execute(txn.clone()));
                prop_assert_eq!(comparable(found), comparable(expected), "{:?}", txn);
            }
            Ok(())
        })
        .unwrap();
}
