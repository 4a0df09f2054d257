//! Reads logs in their total order while they grow, are trimmed and lose events.

use super::*;
use crate::logic::{BUILT_IN, Limits, Source};
use crate::telemetry::Metrics;
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::transaction::{Entry, Operation, Txn};

/// A feed of the logs of a store with a manual clock.
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

fn types(items: &[FeedItem]) -> Vec<String> {
    let of = |item: &FeedItem| match item {
        FeedItem::Event(event) => event.text("type").to_owned(),
        FeedItem::Gap(_) => "gap".to_owned(),
    };
    items.iter().map(of).collect()
}

#[tokio::test]
async fn events_of_all_logs_have_one_order_and_those_of_the_current_millisecond_wait() {
    let (feed, store, clock) = feed().await;
    let (from, baseline) = feed.now().await.expect("the store answers");
    append(&store, 7, "a7", 100).await;
    append(&store, 3, "a3", 100).await;
    append(&store, 7, "b7", 100).await;
    let batch = feed.read(from, Some(baseline)).await.expect("read");
    assert_eq!((types(&batch.items).len(), batch.more), (0, false));
    clock.advance(1);
    append(&store, 1, "c1", 100).await;
    let batch = feed.read(from, Some(baseline)).await.expect("read");
    assert_eq!(types(&batch.items), ["a3", "a7", "b7"]);
    clock.advance(1);
    let batch = feed.read(batch.to, Some(baseline)).await.expect("read");
    assert_eq!(types(&batch.items), ["c1"]);
    // A read from any cursor returns exactly the events after it.
    let all = feed.read(from, Some(baseline)).await.expect("read").items;
    for (at, item) in all.iter().enumerate() {
        let after = feed.read(item.cursor(), Some(baseline)).await.expect("read");
        assert_eq!(types(&after.items), types(&all[at + 1..]));
    }
}

#[tokio::test]
async fn a_long_log_is_read_page_by_page_and_the_others_keep_in_step() {
    let (feed, store, clock) = feed().await;
    let (mut at, baseline) = feed.now().await.expect("the store answers");
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
        let batch = feed.read(at, Some(baseline)).await.expect("read");
        read.extend(types(&batch.items));
        (at, batches) = (batch.to, batches + 1);
        if !batch.more {
            break;
        }
    }
    assert_eq!((read, batches), (expected, 4));
}

#[tokio::test]
async fn a_subscriber_behind_the_cache_reads_the_store_and_receives_gaps() {
    let (feed, store, clock) = feed().await;
    let running = tokio::spawn(Arc::clone(&feed).run());
    let mut old = feed.subscribe(None).await.expect("subscribed");
    append(&store, 5, "first", 50).await;
    clock.advance(1);
    assert_eq!(types(&old.next().await.expect("read")), ["first"]);
    // The feed stops reading until the log has been trimmed.
    running.abort();
    assert!(running.await.expect_err("aborted").is_cancelled());
    for number in 0..200 {
        append(&store, 5, &format!("{number}"), 50).await;
        clock.advance(1);
    }
    let _running = tokio::spawn(Arc::clone(&feed).run());
    let mut items = Vec::new();
    while types(&items).last().map(String::as_str) != Some("199") {
        items.extend(old.next().await.expect("read"));
    }
    assert_eq!(types(&items)[..2], ["gap", "150"]);
    assert_eq!(items.len(), 51);
    // A cursor of the future begins with a gap.
    let tomorrow = Cursor::before(clock.now() + 86_400_000);
    let mut early = feed.subscribe(Some(tomorrow)).await.expect("subscribed");
    assert_eq!(types(&early.next().await.expect("read")), ["gap"]);
    append(&store, 9, "today", 50).await;
    clock.advance(1);
    assert_eq!(types(&early.next().await.expect("read")), ["today"]);
}

#[tokio::test]
async fn a_subscriber_receives_a_gap_when_the_store_loses_its_baseline() {
    let (feed, store, clock) = feed().await;
    let _running = tokio::spawn(Arc::clone(&feed).run());
    let mut live = feed.subscribe(None).await.expect("subscribed");
    append(&store, 5, "before", 50).await;
    clock.advance(1);
    assert_eq!(types(&live.next().await.expect("read")), ["before"]);
    let seen = live.cursor();
    let success = vec![Operation::HashDelete("EVENTS:BORN".into())];
    store.execute(Txn { success, ..Txn::default() }).await.expect("deleted");
    clock.advance(1000);
    append(&store, 6, "after", 50).await;
    clock.advance(1);
    let mut items = Vec::new();
    while types(&items).last().map(String::as_str) != Some("after") {
        items.extend(live.next().await.expect("read"));
    }
    assert_eq!(types(&items)[0], "gap");
    let mut again = feed.subscribe(Some(seen)).await.expect("subscribed");
    assert_eq!(types(&again.next().await.expect("read"))[0], "gap");
}

/// The types that a subscriber receives up to this one, while the clock advances.
async fn types_until(subscription: &mut Subscription, clock: &Clock, last: &str) -> Vec<String> {
    let mut received = Vec::new();
    while received.last().map(String::as_str) != Some(last) {
        let next = tokio::time::timeout(Duration::from_secs(60), subscription.next());
        received.extend(types(&next.await.expect("in time").expect("read")));
        clock.advance(1);
    }
    received
}

#[tokio::test]
async fn events_arrive_at_once_after_one_gap_when_the_clock_is_set_back() {
    for back in [30_000, 3_600_000] {
        let (feed, store, clock) = feed().await;
        let _running = tokio::spawn(Arc::clone(&feed).run());
        let mut live = feed.subscribe(None).await.expect("subscribed");
        for log in [5, 6, 7] {
            append(&store, log, "before", 50).await;
        }
        clock.advance(1);
        let before = types_until(&mut live, &clock, "before").await;
        assert!(before.iter().all(|type_| type_ == "before"));
        let seen = live.cursor();
        clock.set(clock.now() - back);
        // The gap arrives before there is any new event.
        assert_eq!(types(&live.next().await.expect("read")), ["gap"]);
        append(&store, 6, "first", 50).await;
        append(&store, 40, "second", 50).await;
        clock.advance(1);
        assert_eq!(types_until(&mut live, &clock, "second").await, ["first", "second"]);
        // A subscriber that reconnects receives the gap once, and then the events.
        let mut again = feed.subscribe(Some(seen)).await.expect("subscribed");
        assert_eq!(types(&again.next().await.expect("read")), ["gap"]);
        // A new subscriber receives no gap.
        let mut new = feed.subscribe(None).await.expect("subscribed");
        append(&store, 5, "third", 50).await;
        clock.advance(1);
        for subscription in [&mut live, &mut again, &mut new] {
            assert_eq!(types_until(subscription, &clock, "third").await, ["third"]);
        }
    }
}

#[tokio::test]
async fn logs_with_a_baseline_of_the_future_cause_at_most_one_gap() {
    for stored in [13_600_000, 0] {
        let (feed, store, clock) = feed().await;
        // The baseline was stamped while the clock was an hour ahead, or is not a time.
        let at = clock.now();
        clock.advance(3_600_000);
        append(&store, 5, "ahead", 50).await;
        let value = if stored == 0 { "soon".to_owned() } else { stored.to_string() };
        let entries = vec![Entry { field: "at".into(), value: value.into() }];
        let baseline = Operation::HashSet { key: "EVENTS:BORN".into(), entries, ttl: None };
        store.execute(Txn { success: vec![baseline], ..Txn::default() }).await.expect("written");
        clock.set(at);
        let _running = tokio::spawn(Arc::clone(&feed).run());
        let mut old = feed.subscribe(Some(Cursor::before(at - 1000))).await.expect("subscribed");
        assert_eq!(types(&old.next().await.expect("read")), ["gap"]);
        let mut new = feed.subscribe(None).await.expect("subscribed");
        for log in [5, 6] {
            append(&store, log, "present", 50).await;
            clock.advance(1);
            for subscription in [&mut old, &mut new] {
                assert_eq!(types_until(subscription, &clock, "present").await, ["present"]);
            }
        }
    }
}
