//! The promises of every store. The keys of one test share the tag `t`.

use futures_util::future::join_all;

use super::*;
use crate::transaction::{Copies, Member};
use crate::{LogMark, LogPage};

pub async fn a_write_keeps_other_fields_and_restarts_the_lifetime(f: &impl Subject) {
    let first = f.perform(vec![set("k{t}", &[("a", "1"), ("b", "2")], Some(60_000))]).await;
    f.pass(20).await;
    let outcome =
        f.run(Txn { success: vec![set("k{t}", &[("b", "3")], Some(60_000))], ..Txn::default() });
    let outcome = outcome.await;
    assert_eq!(outcome.replies, [Reply::Deadline(Some(outcome.now + 60_000))]);
    assert_ne!(first, outcome.replies);
    let hash = f.hash("k{t}").await.unwrap();
    assert_eq!(fields(&hash), [("a".into(), "1".into()), ("b".into(), "3".into())]);
    assert_eq!(hash.expires_at, Some(outcome.now + 60_000));
}

pub async fn a_read_takes_all_fields_or_those_named(f: &impl Subject) {
    f.perform(vec![set("k{t}", &[("a", "1"), ("b", "2"), ("c", "3")], Some(60_000))]).await;
    for (wanted, expected) in [(vec!["a", "x", "c"], 2), (vec![], 0), (vec!["x"], 0)] {
        let wanted: Vec<String> = wanted.into_iter().map(Into::into).collect();
        let read = Operation::HashGet { key: "k{t}".into(), fields: Some(wanted) };
        // On Redis a read alone is a plain command; with a write it is part of the script.
        for operations in [vec![read.clone()], vec![read, set("other{t}", &[("a", "1")], None)]] {
            let Reply::Record(Some(hash)) = f.perform(operations).await.remove(0) else {
                panic!("the hash is there");
            };
            assert_eq!(hash.entries.len(), expected);
            assert!(hash.expires_at.is_some());
        }
    }
    assert_eq!(f.hash("absent{t}").await, None);
    let absent = Operation::HashGet { key: "absent{t}".into(), fields: Some(vec![]) };
    assert_eq!(f.perform(vec![absent]).await, [Reply::Record(None)]);
}

pub async fn a_hash_ends_at_its_deadline(f: &impl Subject) {
    f.perform(vec![set("k{t}", &[("a", "1")], Some(2000))]).await;
    assert!(f.holds(Compare::Exists("k{t}".into())).await);
    f.pass(2001).await;
    assert!(f.holds(Compare::Absent("k{t}".into())).await);
    assert_eq!(f.hash("k{t}").await, None);
    // A later write makes a new hash.
    f.perform(vec![set("k{t}", &[("b", "2")], Some(60_000))]).await;
    assert_eq!(fields(&f.hash("k{t}").await.unwrap()), [("b".into(), "2".into())]);
}

pub async fn a_hash_without_a_lifetime_stays(f: &impl Subject) {
    assert_eq!(f.perform(vec![set("k{t}", &[("a", "1")], None)]).await, [Reply::Deadline(None)]);
    let hash = f.hash("k{t}").await.unwrap();
    assert_eq!(hash.expires_at, None);
    // A write without a lifetime keeps the deadline.
    f.perform(vec![set("k{t}", &[("a", "1")], Some(60_000))]).await;
    let replies = f.perform(vec![set("k{t}", &[("a", "2")], None)]).await;
    assert!(matches!(replies[..], [Reply::Deadline(Some(_))]));
}

pub async fn a_lifetime_can_be_renewed(f: &impl Subject) {
    let expire = || Operation::HashExpire { key: "k{t}".into(), ttl: 60_000 };
    assert_eq!(f.perform(vec![expire()]).await, [Reply::Deadline(None)]);
    assert_eq!(f.hash("k{t}").await, None);
    f.perform(vec![set("k{t}", &[("a", "1")], Some(2000))]).await;
    let outcome = f.run(Txn { success: vec![expire()], ..Txn::default() }).await;
    assert_eq!(outcome.replies, [Reply::Deadline(Some(outcome.now + 60_000))]);
    f.pass(2001).await;
    assert!(f.hash("k{t}").await.is_some());
}

pub async fn a_delete_reports_whether_the_hash_existed(f: &impl Subject) {
    f.perform(vec![set("k{t}", &[("a", "1")], None)]).await;
    let delete = || vec![Operation::HashDelete("k{t}".into())];
    assert_eq!(f.perform(delete()).await, [Reply::Existed(true)]);
    assert_eq!(f.perform(delete()).await, [Reply::Existed(false)]);
    assert_eq!(f.hash("k{t}").await, None);
}

pub async fn a_hash_moves_with_all_its_fields_and_replaces_another(f: &impl Subject) {
    let to = |to: &str| Operation::HashMove { key: "k{t}".into(), to: to.into(), ttl: 60_000 };
    assert_eq!(f.perform(vec![to("l{t}")]).await, [Reply::Deadline(None)]);
    f.perform(vec![
        set("k{t}", &[("a", "1"), ("b", "2")], Some(2000)),
        set("l{t}", &[("c", "3")], None),
    ])
    .await;
    let success = vec![to("l{t}"), get("l{t}"), get("k{t}")];
    let outcome = f.run(Txn { success, ..Txn::default() }).await;
    let deadline = Some(outcome.now + 60_000);
    let [Reply::Deadline(there), Reply::Record(Some(moved)), Reply::Record(None)] =
        &outcome.replies[..]
    else {
        panic!("{outcome:?}");
    };
    assert_eq!((*there, moved.expires_at), (deadline, deadline));
    assert_eq!(fields(moved), [("a".into(), "1".into()), ("b".into(), "2".into())]);
    f.pass(2001).await;
    assert!(f.hash("l{t}").await.is_some());
    // Moving an absent hash leaves the other one.
    assert_eq!(f.perform(vec![to("l{t}")]).await, [Reply::Deadline(None)]);
    assert!(f.hash("l{t}").await.is_some());
    f.rejected(Txn { success: vec![to("k{t}")], ..Txn::default() }).await;
    f.rejected(Txn { success: vec![to("k{u}")], ..Txn::default() }).await;
    f.perform(vec![put("s{t}", "m", 60_000)]).await;
    f.rejected(Txn { success: vec![to("s{t}")], ..Txn::default() }).await;
}

pub async fn compares_hold_as_documented(f: &impl Subject) {
    f.perform(vec![
        set("k{t}", &[("a", "1"), ("b", "22")], None),
        put("s{t}", "x", 60_000),
        put("s{t}", "y", 60_000),
    ])
    .await;
    let field = |key: &str, field: &str, value: &str, or_absent| Compare::FieldEquals {
        key: key.into(),
        field: field.into(),
        value: value.to_owned().into(),
        or_absent,
    };
    let among = |key: &str, field: &str, values: &[&'static str]| Compare::FieldAmong {
        key: key.into(),
        field: field.into(),
        values: values.iter().map(|value| bytes::Bytes::from_static(value.as_bytes())).collect(),
    };
    let size = |key: &str, except: &[&str], limit| Compare::SizeAtMost {
        key: key.into(),
        except: except.iter().map(|&field| field.into()).collect(),
        limit,
    };
    let member = |key: &str, member: &str, alive| Compare::Member {
        key: key.into(),
        member: member.into(),
        alive,
    };
    let below = |key: &str, limit| Compare::MembersBelow { key: key.into(), limit };
    for (compare, expected) in [
        (Compare::Exists("k{t}".into()), true),
        (Compare::Exists("absent{t}".into()), false),
        (Compare::Absent("k{t}".into()), false),
        (Compare::Absent("absent{t}".into()), true),
        (field("k{t}", "a", "1", false), true),
        (field("k{t}", "a", "2", false), false),
        (field("k{t}", "x", "1", false), false),
        (field("absent{t}", "a", "1", false), false),
        (field("k{t}", "a", "1", true), true),
        (field("k{t}", "a", "2", true), false),
        (field("k{t}", "x", "1", true), true),
        (field("absent{t}", "a", "1", true), true),
        (among("k{t}", "b", &["1", "22", "3"]), true),
        (among("k{t}", "b", &["22"]), true),
        (among("k{t}", "b", &["2", "222"]), false),
        (among("k{t}", "b", &[]), false),
        (among("k{t}", "x", &["", "0", "false"]), false),
        (among("absent{t}", "a", &["1"]), false),
        (size("k{t}", &[], 3), true),
        (size("k{t}", &[], 2), false),
        (size("k{t}", &["b"], 1), true),
        (size("k{t}", &["a", "b"], 0), true),
        (size("absent{t}", &[], 0), true),
        (member("s{t}", "x", true), true),
        (member("s{t}", "z", true), false),
        (member("s{t}", "x", false), false),
        (member("s{t}", "z", false), true),
        (member("absent{t}", "x", false), true),
        (below("s{t}", 3), true),
        (below("s{t}", 2), false),
        (below("absent{t}", 1), true),
        (below("absent{t}", 0), false),
    ] {
        assert_eq!(f.holds(compare.clone()).await, expected, "{compare:?}");
    }
}

pub async fn one_branch_runs_and_the_other_does_not(f: &impl Subject) {
    let txn = || Txn {
        compare: vec![Compare::Absent("k{t}".into()), Compare::Absent("l{t}".into())],
        success: vec![set("k{t}", &[("a", "1")], None)],
        failure: vec![get("k{t}"), set("m{t}", &[("a", "1")], None)],
        durable: false,
    };
    let first = f.run(txn()).await;
    assert!(first.succeeded);
    assert_eq!(first.replies, [Reply::Deadline(None)]);
    assert_eq!(f.hash("m{t}").await, None);
    let second = f.run(txn()).await;
    assert!(!second.succeeded);
    assert!(matches!(second.replies[..], [Reply::Record(Some(_)), Reply::Deadline(None)]));
    assert!(f.hash("m{t}").await.is_some());
}

pub async fn a_counter_counts_and_restarts_if_it_is_not_a_number(f: &impl Subject) {
    let counts = async |number| {
        f.holds(Compare::CountEquals { key: "k{t}".into(), field: "n".into(), number }).await
    };
    assert!(counts(0).await && !counts(1).await);
    assert_eq!(f.perform(vec![add("k{t}", "n", 5)]).await, [Reply::Number(5)]);
    let both = vec![add("k{t}", "n", 2), add("k{t}", "n", 0)];
    assert_eq!(f.perform(both).await, [Reply::Number(7), Reply::Number(7)]);
    assert!(counts(7).await && !counts(0).await && !counts(u64::MAX).await);
    for text in [
        "x",
        "",
        "1.5",
        "007",
        "+1",
        "-1",
        " 1",
        "1e3",
        "0x1",
        "inf",
        "9007199254740992",
        "99999999999999999999",
    ] {
        f.perform(vec![set("k{t}", &[("n", text)], None)]).await;
        assert!(counts(0).await && !counts(1).await, "{text}");
        assert_eq!(f.perform(vec![add("k{t}", "n", 1)]).await, [Reply::Number(1)], "{text}");
        assert_eq!(fields(&f.hash("k{t}").await.unwrap()), [("n".into(), "1".into())], "{text}");
    }
    // The largest number that every store can represent; then the count restarts.
    f.perform(vec![set("k{t}", &[("n", "9007199254740990")], None)]).await;
    let last = 9_007_199_254_740_991;
    assert_eq!(f.perform(vec![add("k{t}", "n", 1)]).await, [Reply::Number(last)]);
    assert!(counts(last.unsigned_abs()).await);
    assert_eq!(f.perform(vec![add("k{t}", "n", 1)]).await, [Reply::Number(1)]);
}

pub async fn a_given_deadline_is_kept_and_one_that_has_passed_removes_the_member(f: &impl Subject) {
    let until = |member: &str, expires_at| Operation::MemberSetUntil {
        key: "s{t}".into(),
        member: member.into(),
        expires_at,
    };
    let now = f.now().await;
    let later = Reply::Deadline(Some(now + 60_000));
    assert_eq!(f.perform(vec![until("a", now + 60_000)]).await, std::slice::from_ref(&later));
    f.pass(20).await;
    // A repetition gives the same deadline at any time.
    assert_eq!(f.perform(vec![until("a", now + 60_000)]).await, [later]);
    f.perform(vec![until("b", now + 30_000), until("gone", now)]).await;
    assert_eq!(f.members("s{t}").await, ["b", "a"]);
    assert_eq!(f.perform(vec![until("a", 1)]).await, [Reply::Deadline(None)]);
    assert_eq!(f.members("s{t}").await, ["b"]);
    assert_eq!(
        f.perform(vec![until("b", 1), until("x", 1)]).await,
        [Reply::Deadline(None), Reply::Deadline(None)]
    );
    assert!(f.members("s{t}").await.is_empty());
}

pub async fn a_stamp_is_the_time_of_the_transaction(f: &impl Subject) {
    let stamp = |field: &str, later| Operation::HashStamp {
        key: "k{t}".into(),
        field: field.into(),
        later,
    };
    let success = vec![stamp("now", 0), set("k{t}", &[("a", "1")], Some(60_000)), stamp("b", 500)];
    let outcome = f.run(Txn { success, ..Txn::default() }).await;
    let (now, later) = (outcome.now, outcome.now + 500);
    let number = |at: u64| Reply::Number(at.try_into().unwrap());
    assert_eq!(outcome.replies, [number(now), Reply::Deadline(Some(now + 60_000)), number(later)]);
    let hash = f.hash("k{t}").await.unwrap();
    let expected = [("a", "1"), ("b", &*later.to_string()), ("now", &*now.to_string())];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(fields(&hash), expected);
    assert_eq!(hash.expires_at, Some(now + 60_000));
}

pub async fn a_refused_transaction_changes_nothing(f: &impl Subject) {
    f.perform(vec![set("k{t}", &[("text", "x")], None), put("s{t}", "m", 60_000)]).await;
    for culprit in [add("s{t}", "m", 1), set("s{t}", &[("a", "1")], None), put("k{t}", "m", 1000)] {
        let success = vec![set("new{t}", &[("a", "1")], None), culprit];
        f.rejected(Txn { success, ..Txn::default() }).await;
        assert_eq!(f.hash("new{t}").await, None);
    }
    // The types of the branch that would not run count too.
    let failure = vec![set("s{t}", &[("a", "1")], None)];
    f.rejected(Txn { success: vec![get("k{t}")], failure, ..Txn::default() }).await;
    // A plain read of another type is refused as well.
    f.rejected(Txn { success: vec![get("s{t}")], ..Txn::default() }).await;
}

pub async fn members_end_one_by_one(f: &impl Subject) {
    f.perform(vec![put("s{t}", "short", 2000), put("s{t}", "long", 60_000)]).await;
    assert_eq!(f.members("s{t}").await, ["short", "long"]);
    f.pass(2001).await;
    let below = Compare::MembersBelow { key: "s{t}".into(), limit: 2 };
    assert!(f.holds(below).await);
    assert_eq!(f.members("s{t}").await, ["long"]);
    let remove =
        |member: &str| Operation::MemberRemove { key: "s{t}".into(), member: member.into() };
    assert_eq!(f.perform(vec![remove("short")]).await, [Reply::Existed(false)]);
    assert_eq!(f.perform(vec![remove("long")]).await, [Reply::Existed(true)]);
    assert!(f.members("s{t}").await.is_empty());
}

pub async fn a_member_gets_a_new_deadline(f: &impl Subject) {
    f.perform(vec![put("s{t}", "a", 50), put("s{t}", "b", 60_000)]).await;
    f.perform(vec![put("s{t}", "a", 120_000)]).await;
    f.pass(60).await;
    assert_eq!(f.members("s{t}").await, ["b", "a"]);
}

pub async fn a_member_that_has_ended_is_not_renewed(f: &impl Subject) {
    let renew = |member: &str| Operation::MemberRenew {
        key: "s{t}".into(),
        member: member.into(),
        ttl: 60_000,
    };
    assert_eq!(f.perform(vec![renew("a")]).await, [Reply::Deadline(None)]);
    f.perform(vec![put("s{t}", "a", 50), put("s{t}", "b", 2000)]).await;
    let success = vec![renew("b"), renew("x")];
    let outcome = f.run(Txn { success, ..Txn::default() }).await;
    let renewed = Reply::Deadline(Some(outcome.now + 60_000));
    assert_eq!(outcome.replies, [renewed, Reply::Deadline(None)]);
    f.pass(51).await;
    assert_eq!(f.perform(vec![renew("a")]).await, [Reply::Deadline(None)]);
    f.pass(2000).await;
    assert_eq!(f.members("s{t}").await, ["b"]);
}

pub async fn a_listing_continues_after_any_member(f: &impl Subject) {
    // Members of one transaction have equal deadlines, so names decide the order.
    let names = ["a", "b", "c", "d", "e", "B", "\u{e9}"];
    f.perform(names.iter().map(|name| put("s{t}", name, 60_000)).collect()).await;
    f.perform(vec![put("s{t}", "first", 30_000), put("s{t}", "last", 90_000)]).await;
    let mut expected: Vec<&str> = names.to_vec();
    expected.sort_unstable();
    expected.insert(0, "first");
    expected.push("last");
    for order in [Order::SoonestFirst, Order::LatestFirst] {
        for limit in [1, 2, 4, 100] {
            let mut seen: Vec<Member> = Vec::new();
            loop {
                let after = seen.last().cloned();
                let page = Operation::MemberList { key: "s{t}".into(), order, after, limit };
                let Reply::Members { members, live } = f.perform(vec![page]).await.remove(0) else {
                    panic!("members");
                };
                assert_eq!(live, 9);
                if members.is_empty() {
                    break;
                }
                assert!(members.len() <= limit as usize);
                seen.extend(members);
            }
            let mut seen: Vec<&str> = seen.iter().map(|member| member.name.as_str()).collect();
            if order == Order::LatestFirst {
                seen.reverse();
            }
            assert_eq!(seen, expected, "{order:?} by {limit}");
        }
    }
    // A listing continues after a member that was removed; a limit of 0 only counts.
    let Reply::Members { members, .. } =
        f.perform(vec![list("s{t}", Order::SoonestFirst, 3)]).await.remove(0)
    else {
        panic!("members");
    };
    let mark = members[2].clone();
    f.perform(vec![Operation::MemberRemove { key: "s{t}".into(), member: mark.name.clone() }])
        .await;
    for (order, expected) in [(Order::SoonestFirst, "b"), (Order::LatestFirst, "B")] {
        let after = Some(mark.clone());
        let page = Operation::MemberList { key: "s{t}".into(), order, after, limit: 1 };
        let Reply::Members { members, .. } = f.perform(vec![page]).await.remove(0) else {
            panic!("members");
        };
        assert_eq!(members[0].name, expected);
    }
    let counted = f.perform(vec![list("s{t}", Order::SoonestFirst, 0)]).await;
    assert_eq!(counted, [Reply::Members { members: vec![], live: 8 }]);
}

pub async fn clearing_a_set_deletes_the_records_of_its_members(f: &impl Subject) {
    for name in ["a", "b", "c"] {
        f.perform(vec![
            put("s{t}", name, 60_000),
            put("copies{t}", &format!("x:{name}"), 60_000),
            set(&format!("record{{t}}:{name}"), &[("f", name)], None),
        ])
        .await;
    }
    f.perform(vec![put("copies{t}", "y:a", 90_000)]).await;
    f.perform(vec![put("s{t}", "dead", 30), set("record{t}:dead", &[("f", "d")], None)]).await;
    f.pass(31).await;
    let clear = |except: Option<&str>| Operation::MemberClear {
        key: "s{t}".into(),
        except: except.map(Into::into),
        record_prefix: Some("record{t}:".into()),
        also_in: Some(Copies { key: "copies{t}".into(), prefix: "x:".into() }),
    };
    let Reply::Members { members, live } = f.perform(vec![clear(Some("b"))]).await.remove(0) else {
        panic!("members");
    };
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    assert_eq!((names, live), (vec!["a", "c"], 1));
    assert_eq!(f.members("s{t}").await, ["b"]);
    assert_eq!(f.members("copies{t}").await, ["x:b", "y:a"]);
    assert_eq!(f.hash("record{t}:a").await, None);
    assert!(f.hash("record{t}:b").await.is_some());
    f.perform(vec![clear(None)]).await;
    assert!(f.members("s{t}").await.is_empty());
    assert_eq!(f.hash("record{t}:b").await, None);
}

pub async fn events_are_read_in_order_after_any_of_them(f: &impl Subject) {
    let append = |n: u32| Operation::AppendEvent {
        log: "log{t}".into(),
        entries: entries(&[("n", &n.to_string())]),
        keep: 1_000_000,
    };
    let mut ids = Vec::new();
    for n in 0..10 {
        let Reply::Appended(id) = f.perform(vec![append(n)]).await.remove(0) else {
            panic!("an event's id");
        };
        ids.push(id);
    }
    let read = async |log: &str, after: Option<&String>, limit| {
        let after = after.map(|id| id.parse().unwrap());
        // A second log does not matter.
        let marks = [log, "other{t}"].map(|log| LogMark { log: log.into(), after });
        let logs = f.store().read_logs(&marks, limit).await.unwrap();
        assert!(logs.pages[0].events.iter().all(|event| event.id.milliseconds <= logs.now));
        assert_eq!((logs.pages.len(), &logs.pages[1]), (2, &LogPage::default()));
        logs.pages.into_iter().next().unwrap()
    };
    let ids_of = |page: LogPage| -> Vec<String> {
        assert!(!page.trimmed);
        page.events.iter().map(|event| event.id.to_string()).collect()
    };
    let all = read("log{t}", None, 100).await;
    assert_eq!(all.events[3].entries, entries(&[("n", "3")]));
    assert_eq!(ids_of(all), ids);
    assert_eq!(ids_of(read("log{t}", Some(&ids[3]), 2).await), ids[4..6]);
    assert_eq!(ids_of(read("log{t}", Some(&ids[9]), 5).await), [""; 0]);
    assert_eq!(ids_of(read("log{t}", Some(&"1-0".into()), 1).await), ids[..1]);
    assert_eq!(ids_of(read("absent{t}", None, 5).await), [""; 0]);
    // About as many events as requested are kept: Redis trims by whole nodes.
    for _ in 0..1000 {
        let append = Operation::AppendEvent {
            log: "log{t}".into(),
            entries: entries(&[("n", "x")]),
            keep: 100,
        };
        f.perform(vec![append]).await;
    }
    let kept = read("log{t}", None, 10_000).await;
    assert!((100..=300).contains(&kept.events.len()), "{}", kept.events.len());
    // A reader of the first few events has missed some.
    assert!(!kept.trimmed && read("log{t}", Some(&ids[3]), 1).await.trimmed);
    let last = kept.events[kept.events.len() - 2].id.to_string();
    assert!(!read("log{t}", Some(&last), 1).await.trimmed);
}

pub async fn large_and_binary_values_are_returned_unchanged(f: &impl Subject) {
    let value: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 251) as u8).collect();
    let entry = Entry { field: "f".into(), value: value.into() };
    let write = Operation::HashSet { key: "k{t}".into(), entries: vec![entry.clone()], ttl: None };
    f.perform(vec![write]).await;
    assert_eq!(f.hash("k{t}").await.unwrap().entries, [entry]);
}

pub async fn parallel_additions_are_all_counted(f: &impl Subject) {
    let txn = || Txn { success: vec![add("k{t}", "n", 1)], ..Txn::default() };
    let added = join_all((0..200).map(|_| f.store().execute(txn()))).await;
    added.into_iter().for_each(|result| assert!(result.is_ok()));
    assert_eq!(fields(&f.hash("k{t}").await.unwrap()), [("n".into(), "200".into())]);
}

pub async fn a_limit_is_never_exceeded(f: &impl Subject) {
    let txn = |n: u32| Txn {
        compare: vec![Compare::MembersBelow { key: "s{t}".into(), limit: 3 }],
        success: vec![put("s{t}", &format!("m{n}"), 60_000)],
        failure: vec![],
        durable: false,
    };
    let granted = join_all((0..200).map(|n| f.store().execute(txn(n)))).await;
    let granted = granted.into_iter().filter(|outcome| outcome.as_ref().unwrap().succeeded).count();
    assert_eq!(granted, 3);
    assert_eq!(f.members("s{t}").await.len(), 3);
}

pub async fn keys_of_several_tags_are_refused(f: &impl Subject) {
    f.rejected(Txn { success: vec![get("a"), get("b")], ..Txn::default() }).await;
    f.rejected(Txn::default()).await;
}

pub async fn keys_are_counted_by_prefix(f: &impl Subject) {
    let count = async |prefixes: &[&str]| {
        let prefixes: Vec<String> = prefixes.iter().map(|&prefix| prefix.into()).collect();
        let (mut keys, mut cursor) = (0, Some(String::new()));
        while let Some(at) = cursor {
            let counted = f.store().count_keys(&prefixes, &at).await.expect("the store answers");
            keys += counted.keys;
            cursor = counted.next;
        }
        keys
    };
    assert_eq!(count(&["A:"]).await, 0);
    for number in 0..2500 {
        f.perform(vec![set(&format!("A:{number}"), &[("a", "1")], Some(600_000))]).await;
    }
    f.perform(vec![set("A_B:1", &[("a", "1")], Some(60_000))]).await;
    f.perform(vec![set("A*:1", &[("a", "1")], Some(60_000))]).await;
    f.perform(vec![set("C:A:1", &[("a", "1")], Some(60_000))]).await;
    assert_eq!(count(&["A:"]).await, 2500);
    assert_eq!(count(&["A:", "A_B:"]).await, 2501);
    assert_eq!(count(&["A*:"]).await, 1);
    assert_eq!(count(&["C:A:", "B:"]).await, 1);
    assert_eq!(count(&[]).await, 0);
    for number in 0..2000 {
        f.perform(vec![Operation::HashDelete(format!("A:{number}"))]).await;
    }
    assert_eq!(count(&["A:"]).await, 500);
}
