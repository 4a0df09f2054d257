//! What the component costs: a warm call of it against the same rule linked
//! natively, both on a store that answers at once, and the pool of instances
//! under 1, 8 and 64 concurrent callers.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use session_guest::booking_types;
use session_guest::imports::Imports;
use session_guest::policy::Policy;
use session_guest::store as guest_store;
use session_manager::logic::{self, Limits, Logic};
use session_manager::store::transaction::{Entry, Hash, Operation, Outcome, Reply, Txn};
use session_manager::store::{Answer, Event, Store};
use session_manager::telemetry::Metrics;
use tokio::runtime::Runtime;

const NOW: u64 = 1_800_000_000_000;
const EXPIRES: u64 = NOW + 900_000;

fn document() -> Vec<u8> {
    format!("{{\"fleets\":\"{}\"}}", "x".repeat(1000)).into_bytes()
}

/// Answers every transaction of the booking rules at once.
struct Canned {
    session: Hash,
}

impl Store for Canned {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        let reply = |operation: &Operation| match operation {
            Operation::HashGet { .. } => Reply::Record(Some(self.session.clone())),
            Operation::HashAdd { .. } => Reply::Number(2),
            _ => Reply::Deadline(Some(EXPIRES)),
        };
        let replies = txn.success.iter().map(reply).collect();
        Box::pin(std::future::ready(Ok(Outcome { succeeded: true, replies, now: NOW })))
    }

    fn events<'a>(&'a self, _: &'a str, _: Option<&'a str>, _: usize) -> Answer<'a, Vec<Event>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn ping(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "canned"
    }
}

/// The same answers for the rules linked natively.
struct Native {
    session: guest_store::Hash,
}

impl Imports for Native {
    fn execute(
        &self,
        txn: &guest_store::Txn,
    ) -> Result<guest_store::Outcome, guest_store::StoreError> {
        let reply = |operation: &guest_store::Operation| match operation {
            guest_store::Operation::HashGet(_) => {
                guest_store::Reply::Record(Some(self.session.clone()))
            }
            guest_store::Operation::HashAdd(_) => guest_store::Reply::Number(2),
            _ => guest_store::Reply::Deadline(Some(EXPIRES)),
        };
        let replies = txn.success.iter().map(reply).collect();
        Ok(guest_store::Outcome { succeeded: true, replies, now_ms: NOW })
    }

    fn token(&self, length: u32) -> String {
        "T".repeat(length as usize)
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }
}

fn component(runtime: &Runtime) -> Arc<Logic> {
    let entry = |field: &str, value: Bytes| Entry { field: field.into(), value };
    let session = Hash {
        entries: vec![
            entry("FLEET_LIST_REQUEST", document().into()),
            entry("_version", Bytes::from_static(b"1")),
        ],
        expires_at: Some(EXPIRES),
    };
    let started = Logic::start(
        Bytes::from_static(logic::BUILT_IN),
        Arc::new(Canned { session }),
        Vec::new(),
        Limits::default(),
        Arc::clone(&Metrics::new().logic),
    );
    Arc::new(runtime.block_on(started).unwrap())
}

fn native() -> Native {
    let entry = |field: &str, value: Vec<u8>| guest_store::Entry { field: field.into(), value };
    let entries = vec![entry("FLEET_LIST_REQUEST", document()), entry("_version", b"1".to_vec())];
    Native { session: guest_store::Hash { entries, expires_at_ms: Some(EXPIRES) } }
}

fn component_write() -> logic::Write {
    logic::Write {
        context: "pre-order".into(),
        session_key: "a-session-key".into(),
        fields: vec![logic::Field {
            name: "fleet_list_request".into(),
            value: logic::Value::Json(document()),
        }],
        if_version: None,
        lock_token: None,
        violations: Vec::new(),
    }
}

fn native_write() -> booking_types::Write {
    booking_types::Write {
        context: "pre-order".into(),
        session_key: "a-session-key".into(),
        fields: vec![booking_types::Field {
            name: "fleet_list_request".into(),
            value: booking_types::Value::Json(document()),
        }],
        if_version: None,
        lock_token: None,
        violations: Vec::new(),
    }
}

/// Pairs: the component and the native rule, in one run.
fn calls(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let logic = component(&runtime);
    let native = native();
    let policy = Policy::read(&native);
    let mut group = criterion.benchmark_group("booking_get_1kb");
    group.bench_function("component", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            logic.booking_get(black_box("pre-order"), black_box("a-session-key")).await.unwrap()
        });
    });
    group.bench_function("native", |bencher| {
        bencher.iter(|| {
            let key = black_box("a-session-key");
            session_guest::booking::get(&native, black_box("pre-order"), key).unwrap()
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("booking_set_1kb");
    group.bench_function("component", |bencher| {
        let write = component_write();
        bencher
            .to_async(&runtime)
            .iter(|| async { logic.booking_set(black_box(&write)).await.unwrap() });
    });
    group.bench_function("native", |bencher| {
        bencher.iter(|| {
            session_guest::booking::set(&native, &policy, black_box(native_write())).unwrap()
        });
    });
    group.finish();
}

/// Throughput of the pool: all callers together.
fn pool(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let logic = component(&runtime);
    let mut group = criterion.benchmark_group("pool_booking_get_1kb");
    group.throughput(Throughput::Elements(1));
    for callers in [1_u64, 8, 64] {
        group.bench_with_input(BenchmarkId::new("callers", callers), &callers, |bencher, _| {
            bencher.iter_custom(|calls| runtime.block_on(elapsed(&logic, callers, calls)));
        });
    }
    group.finish();
}

/// The time that `callers` need for `calls` calls in all.
async fn elapsed(logic: &Arc<Logic>, callers: u64, calls: u64) -> Duration {
    let mut tasks = tokio::task::JoinSet::new();
    let started = Instant::now();
    for caller in 0..callers {
        let logic = Arc::clone(logic);
        let share = calls / callers + u64::from(caller < calls % callers);
        tasks.spawn(async move {
            for _ in 0..share {
                logic.booking_get("pre-order", "a-session-key").await.unwrap();
                // A real call waits for its store here and there.
                tokio::task::yield_now().await;
            }
        });
    }
    tasks.join_all().await;
    started.elapsed()
}

criterion_group!(benches, calls, pool);
criterion_main!(benches);
