//! Reading logs in the one order there is, while they grow and lose their beginning.

use super::*;
use crate::logic::{BUILT_IN, Limits, Source};
use crate::telemetry::Metrics;
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::transaction::{Entry, Operation, Txn};

/// A feed of the logs of a store whose clock is moved by hand.
async fn feed() -> (Arc<Feed>, Arc<Memory>, Clock) {
    let clock = Clock::manual(10_000_000);
    let store = Arc::new(Memory::new(clock.clone()));
    let metrics = Arc::new(Metrics::new());
    let logic = Logic::start(
        bytes::Bytes::from_static(BUILT_IN),
        Source::BuiltIn,
        Arc::<Memory>::clone(&store),
        Vec::new(),
        Limits::default(),
        Arc::clone(&metrics),
    );
    let logic = logic.await.expect("the component");
    (Feed::new(Arc::<Memory>::clone(&store), logic, metrics), store, clock)
}

async fn append(store: &Memory, log: u16, what: &str, keep: u32) {
    let entry = Entry { field: "type".into(), value: what.to_owned().into() };
    let log = format!("EVENTS:{{p{log:02}}}");
    let append = Operation::AppendEvent { log, entries: vec![entry], keep };
    let txn = Txn { success: vec![append], ..Txn::default() };
    store.execute(txn).await.expect("appended");
}

fn types(told: &[Told]) -> Vec<String> {
    let of = |told: &Told| match told {
        Told::Event(event) => event.text("type").to_owned(),
        Told::Gap(_) => "gap".to_owned(),
    };
    told.iter().map(of).collect()
}

#[tokio::test]
async fn events_of_all_logs_are_in_one_order_and_those_of_this_moment_wait() {
    let (feed, store, clock) = feed().await;
    let (from, born) = feed.now().await.expect("the store answers");
    append(&store, 7, "a7", 100).await;
    append(&store, 3, "a3", 100).await;
    append(&store, 7, "b7", 100).await;
    let batch = feed.read(from, Some(born)).await.expect("read");
    assert_eq!((types(&batch.told).len(), batch.more), (0, false));
    clock.advance(1);
    append(&store, 1, "c1", 100).await;
    let batch = feed.read(from, Some(born)).await.expect("read");
    assert_eq!(types(&batch.told), ["a3", "a7", "b7"]);
    clock.advance(1);
    let batch = feed.read(batch.to, Some(born)).await.expect("read");
    assert_eq!(types(&batch.told), ["c1"]);
    // From any place on, those behind it and no others.
    let all = feed.read(from, Some(born)).await.expect("read").told;
    for (at, told) in all.iter().enumerate() {
        let behind = feed.read(told.place(), Some(born)).await.expect("read");
        assert_eq!(types(&behind.told), types(&all[at + 1..]));
    }
}

#[tokio::test]
async fn a_log_that_is_long_is_read_page_by_page_with_the_others_in_step() {
    let (feed, store, clock) = feed().await;
    let (mut at, born) = feed.now().await.expect("the store answers");
    let mut expected = Vec::new();
    for number in 0..3 * PAGE {
        append(&store, 5, &format!("long-{number}"), 10_000).await;
        expected.push(format!("long-{number}"));
        if number % 100 == 0 {
            append(&store, 60, &format!("short-{number}"), 10_000).await;
            expected.push(format!("short-{number}"));
        }
        clock.advance(1);
    }
    let (mut read, mut batches) = (Vec::new(), 0);
    loop {
        let batch = feed.read(at, Some(born)).await.expect("read");
        read.extend(types(&batch.told));
        (at, batches) = (batch.to, batches + 1);
        if !batch.more {
            break;
        }
    }
    assert_eq!((read, batches), (expected, 4));
}

#[tokio::test]
async fn who_is_behind_what_is_kept_reads_the_store_and_hears_of_gaps() {
    let (feed, store, clock) = feed().await;
    let running = tokio::spawn(Arc::clone(&feed).run());
    let mut old = feed.subscribe(None).await.expect("subscribed");
    append(&store, 5, "first", 50).await;
    clock.advance(1);
    assert_eq!(types(&old.next().await.expect("told")), ["first"]);
    // Nobody reads what then happens until it is too late.
    running.abort();
    assert!(running.await.expect_err("aborted").is_cancelled());
    for number in 0..200 {
        append(&store, 5, &format!("{number}"), 50).await;
        clock.advance(1);
    }
    let _running = tokio::spawn(Arc::clone(&feed).run());
    let mut told = Vec::new();
    while types(&told).last().map(String::as_str) != Some("199") {
        told.extend(old.next().await.expect("told"));
    }
    assert_eq!(types(&told)[..2], ["gap", "150"]);
    assert_eq!(told.len(), 51);
    // Nobody has seen the time to come.
    let tomorrow = Place::before(clock.now() + 86_400_000);
    let mut early = feed.subscribe(Some(tomorrow)).await.expect("subscribed");
    assert_eq!(types(&early.next().await.expect("told")), ["gap"]);
    append(&store, 9, "today", 50).await;
    clock.advance(1);
    assert_eq!(types(&early.next().await.expect("told")), ["today"]);
}

#[tokio::test]
async fn who_is_there_when_all_is_lost_hears_of_a_gap() {
    let (feed, store, clock) = feed().await;
    let _running = tokio::spawn(Arc::clone(&feed).run());
    let mut live = feed.subscribe(None).await.expect("subscribed");
    append(&store, 5, "before", 50).await;
    clock.advance(1);
    assert_eq!(types(&live.next().await.expect("told")), ["before"]);
    let seen = live.at();
    // What was there is not any more.
    let success = vec![Operation::HashDelete("EVENTS:BORN".into())];
    store.execute(Txn { success, ..Txn::default() }).await.expect("deleted");
    clock.advance(1000);
    append(&store, 6, "after", 50).await;
    clock.advance(1);
    let mut told = Vec::new();
    while types(&told).last().map(String::as_str) != Some("after") {
        told.extend(live.next().await.expect("told"));
    }
    assert_eq!(types(&told)[0], "gap");
    let mut again = feed.subscribe(Some(seen)).await.expect("subscribed");
    assert_eq!(types(&again.next().await.expect("told"))[0], "gap");
}

/// What a subscriber hears until an event of this type, while the clock goes on.
async fn heard(subscription: &mut Subscription, clock: &Clock, last: &str) -> Vec<String> {
    let mut heard = Vec::new();
    while heard.last().map(String::as_str) != Some(last) {
        let next = tokio::time::timeout(Duration::from_secs(60), subscription.next());
        heard.extend(types(&next.await.expect("in time").expect("told")));
        clock.advance(1);
    }
    heard
}

#[tokio::test]
async fn events_come_at_once_behind_one_gap_when_the_clock_goes_back() {
    for back in [30_000, 3_600_000] {
        let (feed, store, clock) = feed().await;
        let _running = tokio::spawn(Arc::clone(&feed).run());
        let mut live = feed.subscribe(None).await.expect("subscribed");
        for log in [5, 6, 7] {
            append(&store, log, "before", 50).await;
        }
        clock.advance(1);
        let before = heard(&mut live, &clock, "before").await;
        assert!(before.iter().all(|type_| type_ == "before"));
        let seen = live.at();
        clock.set(clock.now() - back);
        // The gap is told without any event.
        assert_eq!(types(&live.next().await.expect("told")), ["gap"]);
        append(&store, 6, "first", 50).await;
        append(&store, 40, "second", 50).await;
        clock.advance(1);
        assert_eq!(heard(&mut live, &clock, "second").await, ["first", "second"]);
        // Who comes back hears of the gap once, and then of what follows.
        let mut again = feed.subscribe(Some(seen)).await.expect("subscribed");
        assert_eq!(types(&again.next().await.expect("told")), ["gap"]);
        // And who comes now of no gap.
        let mut new = feed.subscribe(None).await.expect("subscribed");
        append(&store, 5, "third", 50).await;
        clock.advance(1);
        for subscription in [&mut live, &mut again, &mut new] {
            assert_eq!(heard(subscription, &clock, "third").await, ["third"]);
        }
    }
}

#[tokio::test]
async fn logs_that_began_in_the_future_are_told_of_with_one_gap_at_most() {
    for stored in [13_600_000, 0] {
        let (feed, store, clock) = feed().await;
        // Whoever was there when the clock was an hour ahead, or has written nonsense.
        let at = clock.now();
        clock.advance(3_600_000);
        append(&store, 5, "ahead", 50).await;
        let value = if stored == 0 { "soon".to_owned() } else { stored.to_string() };
        let entries = vec![Entry { field: "at".into(), value: value.into() }];
        let born = Operation::HashSet { key: "EVENTS:BORN".into(), entries, ttl: None };
        store.execute(Txn { success: vec![born], ..Txn::default() }).await.expect("written");
        clock.set(at);
        let _running = tokio::spawn(Arc::clone(&feed).run());
        let mut old = feed.subscribe(Some(Place::before(at - 1000))).await.expect("subscribed");
        assert_eq!(types(&old.next().await.expect("told")), ["gap"]);
        let mut new = feed.subscribe(None).await.expect("subscribed");
        for log in [5, 6] {
            append(&store, log, "present", 50).await;
            clock.advance(1);
            for subscription in [&mut old, &mut new] {
                assert_eq!(heard(subscription, &clock, "present").await, ["present"]);
            }
        }
    }
}
