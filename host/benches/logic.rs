//! What the component costs: a warm call of it against the same rule linked
//! natively, both on a store that answers at once, and the pool of instances
//! under 1, 8 and 64 concurrent callers.

#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

mod canned;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use canned::{component, component_write, native, native_write};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use session_guest::policy::Policy;
use session_manager::logic::Logic;
use session_manager::workers::{self, Workers};
use tokio::runtime::Runtime;

/// Pairs: the component and the native rule, in one run.
fn calls(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let logic = component(&runtime, 64);
    let native = native();
    let policy = Policy::read(&native);
    let mut group = criterion.benchmark_group("booking_get_1kb");
    group.bench_function("component", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            logic
                .booking_get(black_box("pre-order"), black_box("a-session-key"), None)
                .await
                .unwrap()
        });
    });
    group.bench_function("native", |bencher| {
        bencher.iter(|| {
            let key = black_box("a-session-key");
            session_guest::booking::get(&native, black_box("pre-order"), key, None).unwrap()
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
    let logic = component(&runtime, 64);
    let workers = Workers::start(workers::processors()).unwrap();
    let mut group = criterion.benchmark_group("pool_booking_get_1kb");
    group.throughput(Throughput::Elements(1));
    for callers in [1_u64, 8, 64] {
        group.bench_with_input(BenchmarkId::new("callers", callers), &callers, |bencher, _| {
            bencher
                .iter_custom(|calls| runtime.block_on(elapsed(&workers, &logic, callers, calls)));
        });
    }
    group.finish();
}

/// The time that `callers`, spread over the workers, need for `calls` calls in all.
async fn elapsed(workers: &Workers, logic: &Arc<Logic>, callers: u64, calls: u64) -> Duration {
    let each = calls.div_ceil(callers);
    let started = Instant::now();
    let count = workers.count() as u64;
    let shares = (0..count).map(|worker| callers / count + u64::from(worker < callers % count));
    let working = workers.spawn_on_each(shares, |callers| {
        let logic = Arc::clone(logic);
        async move {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..callers {
                let logic = Arc::clone(&logic);
                tasks.spawn(async move {
                    for _ in 0..each {
                        logic.booking_get("pre-order", "a-session-key", None).await.unwrap();
                        // A real call waits for its store here and there.
                        tokio::task::yield_now().await;
                    }
                });
            }
            tasks.join_all().await;
        }
    });
    for worker in working {
        worker.await.unwrap();
    }
    started.elapsed()
}

criterion_group!(benches, calls, pool);
criterion_main!(benches);
