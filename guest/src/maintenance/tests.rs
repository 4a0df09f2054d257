//! What no outside test can bring about at will: two who sweep at once, and what newer
//! rules have noted. The store's clock stands at 1000.

use super::*;
use crate::events::Type;
use crate::script::Script;
use crate::store::{MemberPage, StoreError};
use crate::transaction::entry;

const POLICY: Policy = Policy::DEFAULTS;
const LOG: u32 = 5;

/// What is due of users, of connections and of viewing sessions.
fn listed(names: [&[&str]; 3]) -> (bool, Vec<Reply>) {
    let member = |name: &&str| Member { name: (*name).into(), expires_at_ms: NOTED_MS + 900 };
    let page = |names: &[&str]| {
        let members: Vec<Member> = names.iter().map(member).collect();
        Reply::Members(MemberPage { live: members.len() as u32, members })
    };
    (true, names.map(page).into())
}

fn swept(store: &Script) -> (u32, bool) {
    let swept = sweep(store, &POLICY, LOG).expect("swept");
    (swept.expired, swept.more)
}

fn partition() -> Partition {
    Partition::numbered(LOG).expect("a partition")
}

/// A viewing session that ends then.
fn viewer(ends_ms: u64) -> Reply {
    let entries = vec![entry(viewing::DEVICE_FIELD, "tv")];
    let expires_at_ms = Some(ends_ms + viewing::KNOWN_MS);
    Reply::Record(Some(Hash { entries, expires_at_ms }))
}

#[test]
fn when_nothing_is_due_that_is_all() {
    let later = Member { name: "a\nb".into(), expires_at_ms: NOTED_MS + 1001 };
    let page = |members, live| Reply::Members(MemberPage { members, live });
    let pages = vec![page(vec![later], 7), page(vec![], 0), page(vec![], 0)];
    let store = Script::answering(true, pages);
    let swept = sweep(&store, &POLICY, LOG).expect("swept");
    assert_eq!((swept.expired, swept.more), (0, false));
    let left: Vec<_> = swept.left.iter().map(|tally| (&*tally.kind, tally.sessions)).collect();
    assert_eq!(left, [("user", 7), ("connection", 0), ("viewing", 0)]);
    let fault = sweep(&store, &POLICY, 64).expect_err("no log");
    assert_eq!(fault.violations[0].field, "log");
}

#[test]
fn one_that_lives_on_is_due_when_it_would_end_now() {
    let store = Script::answering_each([
        listed([&[], &[], &["home\ns"]]),
        (true, vec![viewer(4000)]),
        (true, vec![Reply::Deadline(Some(1))]),
    ]);
    assert_eq!(swept(&store), (0, false));
    let later = renew(Kind::Viewing.due(partition()), "home\ns".into(), 3000);
    assert_eq!(store.last_asked().success, [later]);
}

#[test]
fn one_that_does_not_is_told_of_in_the_step_that_forgets_it() {
    let store = Script::answering_each([
        listed([&["alice\nx"], &[], &["home\ns"]]),
        (true, vec![Reply::Record(None), viewer(1000)]),
        (true, vec![]),
    ]);
    assert_eq!(swept(&store), (2, false));
    let asked = store.last_asked();
    let gone = noted(partition(), Kind::User, "alice", "x");
    let place = MemberRef { key: User::of("alice").sessions, member: "x".into() };
    let compare = [Compare::MemberPresent(gone.clone()), Compare::MemberAbsent(place)];
    assert_eq!(asked.compare[..2], compare);
    let event = Event::of(Type::UserExpired, "alice", "x").append(&POLICY, partition());
    assert_eq!(asked.success[..2], [Operation::MemberRemove(gone), event]);
    let event = Event { device_id: "tv", ..Event::of(Type::ViewingExpired, "home", "s") };
    assert_eq!(asked.success.last(), Some(&event.append(&POLICY, partition())));
}

#[test]
fn who_is_late_leaves_the_others_what_is_left() {
    let store = Script::answering_each([
        listed([&["a\n1", "a\n2"], &[], &[]]),
        (true, vec![Reply::Record(None), Reply::Record(None)]),
        // Both, then the first, which somebody has told of, then the second.
        (false, vec![]),
        (false, vec![]),
        (true, vec![Reply::Deadline(None)]),
        (true, vec![]),
    ]);
    assert_eq!(swept(&store), (1, false));
    assert_eq!(store.count(), 6);
}

#[test]
fn another_users_connection_of_the_same_id_is_not_this_one() {
    let theirs = [(connections::USER_FIELD, "v"), (connections::POD_FIELD, "p")];
    let entries = theirs.iter().map(|(field, value)| entry(field, value)).collect();
    let record = Hash { entries, expires_at_ms: Some(9_000_000) };
    let store = Script::answering_each([
        listed([&[], &["u\ntab"], &[]]),
        (true, vec![Reply::Record(Some(record))]),
        (true, vec![]),
    ]);
    assert_eq!(swept(&store), (1, false));
    // Theirs is left alone.
    let touched = |operation: &Operation| matches!(operation, Operation::HashSet(_));
    assert!(!store.last_asked().success.iter().any(touched));
}

#[test]
fn what_newer_rules_have_noted_is_left_to_them() {
    let store = Script::answering_each([
        listed([&["nonsense"], &[], &["whatever"]]),
        (true, vec![]),
        (true, vec![]),
    ]);
    assert_eq!(swept(&store), (0, false));
    let asked = store.last_asked().success;
    assert!(asked.iter().all(|operation| matches!(operation, Operation::MemberRenew(_))));
    assert_eq!(asked.len(), 2);
}

#[test]
fn a_store_without_an_answer_ends_the_sweep() {
    let down = Script::failing(StoreError::Unavailable("down".into()));
    let fault = sweep(&down, &POLICY, LOG).expect_err("down");
    assert_eq!(fault.reason, crate::faults::Reason::StoreUnavailable);
    assert_eq!(describe_logs().logs.len(), 64);
}
