//! What callers notice during repeated swaps of the component.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use session_manager::logic::BUILT_IN;
use session_tests::admin::Admin;
use session_tests::guest;
use session_tests::host::Launch;

use crate::Plan;
use crate::generator::Protocol;
use crate::pairs::{Operation, Side, booking, nothing_failed, seed};
use crate::table::{self, Figures};

const CONNECTIONS: u32 = 32;
const BYTES: usize = 1 << 10;
/// The duration of a measurement, long enough for some swaps.
const MEASURED: u32 = 5;

/// Measures in turns, without swaps and during continuous swaps.
pub async fn under_load(plan: &Plan) {
    table::head("One swap after the other, in memory, 32 connections", "calm req/s");
    let host = Launch::in_memory().start();
    let admin = Admin::of(&host);
    seed(&host, BYTES).await;
    for (operation, name) in [(Operation::Get, "get"), (Operation::Set, "set")] {
        let request = booking(&host, Protocol::Http1, operation, BYTES);
        let side = Side { request, server: host.process_id(), redis: None };
        let measure =
            || side.measure(|request| request.closed_loop(CONNECTIONS, plan.duration * MEASURED));
        let (mut calm, mut swapped) = (Vec::new(), Vec::new());
        let (mut swaps, mut spent) = (0, Duration::ZERO);
        for _ in 0..plan.rounds {
            calm.push(tokio::task::block_in_place(measure));
            let swapping = Swapping::start(admin.clone());
            swapped.push(tokio::task::block_in_place(measure));
            let (count, time) = swapping.stop().await;
            swaps += count;
            spent += time;
        }
        let ratios = swapped.iter().zip(&calm).map(|(s, c)| s.sample.rate / c.sample.rate);
        let ratio = table::median(ratios);
        let (calm, swapped) = (Figures::median(&calm), Figures::median(&swapped));
        table::row(&format!("{name} 1 KB, no swaps"), &calm, None);
        table::row(&format!("{name} 1 KB, during {swaps} swaps"), &swapped, Some((&calm, ratio)));
        println!("A swap took {:.0} ms.", spent.as_secs_f64() * 1000.0 / f64::from(swaps));
    }
    nothing_failed(&host).await;
    println!("Resident after all swaps: {} MiB.", host.resident_bytes() >> 20);
}

/// An operator that swaps without a pause.
struct Swapping {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<(u32, Duration)>,
}

impl Swapping {
    fn start(admin: Admin) -> Self {
        static LABEL: AtomicU32 = AtomicU32::new(0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let (started, mut swaps) = (Instant::now(), 0);
            while !stopped.load(Ordering::Relaxed) {
                // Each component has a new digest.
                let label = LABEL.fetch_add(1, Ordering::Relaxed);
                let (status, body) = admin.swap(guest::relabelled(BUILT_IN, label), "").await;
                assert_eq!(status, 200, "{body}");
                swaps += 1;
            }
            (swaps, started.elapsed())
        });
        Self { stop, task }
    }

    async fn stop(self) -> (u32, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
