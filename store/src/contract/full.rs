//! The promises of a full store.

use super::*;
use crate::LogMark;

fn stamp(key: &str, field: &str) -> Operation {
    Operation::HashStamp { key: key.into(), field: field.into(), later: 0 }
}

fn renew(key: &str, member: &str, ttl: u64) -> Operation {
    Operation::MemberRenew { key: key.into(), member: member.into(), ttl }
}

fn remove(key: &str, member: &str) -> Operation {
    Operation::MemberRemove { key: key.into(), member: member.into() }
}

fn append(text: &str) -> Operation {
    Operation::AppendEvent { log: "log{t}".into(), entries: entries(&[("n", text)]), keep: 1000 }
}

/// Fills a store that has one session.
pub async fn filled(f: &impl Subject) {
    f.perform(vec![
        set("k{t}", &[("a", "12"), ("n", "7")], Some(600_000)),
        put("s{t}", "m", 600_000),
        append("first"),
    ])
    .await;
    f.fill().await;
}

pub async fn a_full_store_refuses_every_addition_and_changes_nothing(f: &impl Subject) {
    filled(f).await;
    for adds in [
        set("new{t}", &[("a", "1")], Some(600_000)),
        set("k{t}", &[("a", "123")], Some(900_000)),
        set("k{t}", &[("b", "1")], None),
        add("new{t}", "n", 1),
        stamp("new{t}", "at"),
        put("new-set{t}", "m", 600_000),
        put("s{t}", "another", 600_000),
        append("second"),
    ] {
        f.refused_as_full(vec![adds.clone()]).await;
        // The rest of the transaction is not applied either.
        let beside = vec![renew("s{t}", "m", 1), add("k{t}", "n", 1), adds.clone()];
        f.refused_as_full(beside).await;
        // A transaction that adds something has not removed anything either.
        let makes = !matches!(&adds, Operation::AppendEvent { .. })
            && !matches!(&adds, Operation::HashSet { key, .. } if key == "k{t}");
        if makes {
            f.refused_as_full(vec![remove("s{t}", "m"), adds]).await;
        }
    }
    let failing = Txn {
        compare: vec![Compare::Exists("absent{t}".into())],
        success: vec![get("k{t}")],
        failure: vec![set("new{t}", &[("a", "1")], None)],
        durable: false,
    };
    assert!(matches!(f.store().execute(failing).await, Err(Error::Full(_))));
    let hash = f.hash("k{t}").await.unwrap();
    assert_eq!(fields(&hash), [("a".into(), "12".into()), ("n".into(), "7".into())]);
    assert_eq!(f.members("s{t}").await, ["m"]);
    assert_eq!((f.hash("new{t}").await, f.members("new-set{t}").await.len()), (None, 0));
    let marks = [LogMark { log: "log{t}".into(), after: None }];
    assert_eq!(f.store().read_logs(&marks, 10).await.unwrap().pages[0].events.len(), 1);
    assert!(f.store().ping().await.is_ok());
}

pub async fn a_full_store_reads_renews_and_deletes(f: &impl Subject) {
    filled(f).await;
    // On Redis a read alone is a plain command; with a listing it is part of the script.
    assert!(f.hash("k{t}").await.is_some());
    f.perform(vec![get("k{t}"), list("s{t}", Order::SoonestFirst, 10)]).await;
    let renewed = vec![
        put("s{t}", "m", 900_000),
        Operation::HashExpire { key: "k{t}".into(), ttl: 900_000 },
        stamp("k{t}", "_seen"),
        add("k{t}", "n", 1),
        renew("s{t}", "m", 900_000),
        set("k{t}", &[("a", "34")], Some(900_000)),
    ];
    // The order does not matter.
    for first in 0..renewed.len() {
        let mut operations = renewed.clone();
        operations.rotate_left(first);
        f.perform(operations).await;
    }
    let outcome = f.run(Txn { success: vec![get("k{t}")], ..Txn::default() }).await;
    let [Reply::Record(Some(hash))] = &outcome.replies[..] else { panic!("a record") };
    assert!(hash.expires_at.unwrap() > outcome.now + 600_000);
    // If a compare fails, the failure branch may read.
    let conditional = Txn {
        compare: vec![Compare::Absent("k{t}".into())],
        success: vec![set("k{t}", &[("a", "1")], None)],
        failure: vec![get("k{t}")],
        durable: false,
    };
    assert!(!f.run(conditional).await.succeeded);
    assert_eq!(f.perform(vec![Operation::HashDelete("k{t}".into())]).await, [Reply::Existed(true)]);
    assert_eq!(f.perform(vec![remove("s{t}", "m")]).await, [Reply::Existed(true)]);
    assert_eq!(f.hash("k{t}").await, None);
}

pub async fn a_session_ends_in_a_full_store_with_its_event(f: &impl Subject) {
    filled(f).await;
    // The record of how it ended is written too, in any order.
    let with_reason =
        vec![append("ended"), set("k{t}", &[("how", "closed")], None), remove("s{t}", "m")];
    f.perform(with_reason).await;
    let hash = f.hash("k{t}").await.unwrap();
    assert!(fields(&hash).contains(&("how".into(), "closed".into())));
    assert!(f.members("s{t}").await.is_empty());
    f.perform(vec![append("gone"), Operation::HashDelete("k{t}".into())]).await;
    let marks = [LogMark { log: "log{t}".into(), after: None }];
    let logs = f.store().read_logs(&marks, 10).await.unwrap();
    let found: Vec<_> = logs.pages[0].events.iter().map(|event| &event.entries).collect();
    assert_eq!(
        found,
        ["first", "ended", "gone"].map(|n| entries(&[("n", n)])).iter().collect::<Vec<_>>()
    );
    // A transaction that ends no session may not add an event to a full store.
    f.fill().await;
    let nothing = vec![remove("s{t}", "m"), Operation::HashDelete("k{t}".into()), append("again")];
    f.refused_as_full(nothing).await;
}

pub async fn a_store_with_room_again_accepts_what_it_refused(f: &impl Subject) {
    filled(f).await;
    let create = || vec![set("new{t}", &[("a", "1")], Some(600_000)), append("created")];
    f.refused_as_full(create()).await;
    f.make_room().await;
    f.perform(create()).await;
    assert!(f.hash("new{t}").await.is_some());
}
