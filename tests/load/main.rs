//! The load bench: real servers, real load generators, one table. The two sides of a pair are
//! measured in turns in the same run. `tests/bench` installs what it needs and starts it.
//! `docs/performance.md` explains the figures.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

mod generator;
mod growth;
mod open_loop;
mod pairs;
mod peers;
mod process;
mod streams;
mod swap;
mod table;
mod viewing;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The extent of the measurements.
pub struct Plan {
    /// The duration of one measurement.
    pub duration: Duration,
    /// The number of measurements of each side of a pair.
    pub rounds: usize,
    /// The numbers of connections.
    pub connections: Vec<u32>,
    /// The numbers of sessions that exist while an operation is measured.
    pub sessions: Vec<u64>,
    /// The binary with natively linked rules.
    pub native: PathBuf,
}

fn main() {
    // Cargo adds `--bench`; the script's own arguments follow.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let native = PathBuf::from(arguments.get(1).cloned().unwrap_or_default());
    let all = Plan {
        duration: Duration::from_secs(1),
        rounds: 3,
        connections: vec![1, 32, 256],
        sessions: vec![10_000, 100_000, 1_000_000],
        native,
    };
    let quick = |native| Plan {
        duration: Duration::from_millis(500),
        rounds: 1,
        connections: vec![32],
        sessions: vec![1000, 10_000],
        native,
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match arguments.first().map(String::as_str) {
        Some("echo") => runtime.block_on(peers::echo()),
        Some("against") => {
            let rounds = arguments.get(3).map_or(15, |pairs| pairs.parse().expect("a number"));
            let other = arguments.get(2).expect("against which binary?");
            runtime.block_on(pairs::against(&Plan { rounds, ..all }, Path::new(other)));
        }
        Some("all") => runtime.block_on(run(&all, "")),
        Some("quick") => runtime.block_on(run(&quick(all.native), "")),
        Some(
            part @ ("native" | "peers" | "open" | "growth" | "start" | "streams" | "swap"
            | "viewing"),
        ) => {
            runtime.block_on(run(&all, part));
        }
        _ => println!(
            "usage: tests/bench [all | quick | native | peers | open | growth | start | streams | swap | viewing | against BINARY [PAIRS]]"
        ),
    }
}

/// Runs one part, or all parts when `part` is empty.
async fn run(plan: &Plan, part: &str) {
    let wanted = |name| part.is_empty() || part == name;
    if wanted("native") {
        pairs::component_and_native(plan).await;
        viewing::component_and_native(plan).await;
    }
    if wanted("peers") {
        pairs::peers(plan).await;
    }
    if wanted("open") {
        pairs::open_loop(plan).await;
    }
    if wanted("growth") {
        growth::operations(plan).await;
    }
    if wanted("start") {
        growth::start_and_rest(plan).await;
    }
    if part == "viewing" {
        viewing::component_and_native(plan).await;
    }
    if wanted("streams") {
        streams::held().await;
    }
    if wanted("swap") {
        swap::under_load(plan).await;
    }
}
