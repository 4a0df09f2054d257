//! A mixed load on two hosts, and across a kill: all answers agree with what the service
//! promises. No check depends on how long something takes, so a machine that stalls makes the
//! load smaller and not the result wrong.

use std::time::Duration;

use session_tests::faults::Schedule;
use session_tests::history::History;
use session_tests::history::recorder::Counts;
use session_tests::host::Launch;
use session_tests::mixed_load::{MixedLoad, TERMS, terms_of};
use session_tests::redis_server::{RedisServer, free_port};
use session_tests::size;

/// How long the load runs.
fn load_time() -> Duration {
    Duration::from_secs(size(10, 60))
}

/// Lets the load run until it has made this many calls.
async fn reach_calls(load: &MixedLoad, at_least: u64) {
    while load.counts().operations < at_least {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn assert_promises_hold(history: &History, counts: Counts) {
    let judgement = history.judge(&TERMS);
    assert!(judgement.violations.is_empty(), "{counts:?}: {:#?}", judgement.violations);
    assert!(judgement.undecided.is_empty(), "{:?}", judgement.undecided);
    // The load has recorded something for every judge.
    let sizes = [
        history.registers.len(),
        history.compared.len(),
        history.written.values().flatten().count(),
        history.read_once.len(),
        history.locks.len(),
        history.slots.len(),
        history.logins.len(),
        history.changes.len(),
        history.subscribers.len(),
    ];
    assert!(sizes.iter().all(|size| *size > 0), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_two_hosts_on_one_redis_agree() {
    let redis = RedisServer::start().await;
    let launch = terms_of(Launch::redis(&redis));
    let (a, b) = (launch.start(), launch.start());
    let load = MixedLoad::start(&[&a, &b]).await;
    tokio::time::sleep(load_time()).await;
    reach_calls(&load, 500).await;
    let (history, counts) = load.finish().await;
    assert_promises_hold(&history, counts);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_from_before_a_kill_still_hold_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut launch = terms_of(Launch::embedded(directory.path()));
    for port in ["REST_PORT", "GRPC_PORT"] {
        launch = launch.set(port, &free_port().to_string());
    }
    let mut host = launch.start();
    let load = MixedLoad::start(&[&host]).await;
    tokio::time::sleep(load_time() / 2).await;
    reach_calls(&load, 250).await;
    host.signal("KILL");
    host.ended().await;
    let host = launch.start();
    let before = load.counts();
    tokio::time::sleep(load_time() / 2).await;
    reach_calls(&load, before.operations + 250).await;
    let (history, counts) = load.finish().await;
    assert_promises_hold(&history, counts);
    drop(host);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fault_schedules_break_no_promise() {
    for name in ["kill-host", "replies"] {
        let schedule = Schedule::named(name).unwrap();
        let row = schedule.run(Duration::from_secs(size(2, 20))).await.unwrap();
        assert!(row.counts.operations > 0, "{row}");
        let broken: Vec<_> = row.broken().collect();
        assert!(broken.is_empty(), "{row}: {broken:#?}");
    }
}
