//! What no outside test can bring about at will: two who sweep at once, and what newer
//! rules have noted. The store's clock stands at 1000.

use super::*;
use crate::events::Type;
use crate::script::Script;
use crate::store::{MemberPage, StoreError};
use crate::transaction::entry;

const POLICY: Policy = Policy::DEFAULTS;
const LOG: u32 = 5;

fn listed(names: &[&str]) -> (bool, Vec<Reply>) {
    let member = |name: &&str| Member { name: (*name).into(), expires_at_ms: NOTED_MS + 900 };
    let members: Vec<Member> = names.iter().map(member).collect();
    (true, vec![Reply::Members(MemberPage { live: members.len() as u32, members })])
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
    let later = Member { name: "u\na\nb".into(), expires_at_ms: NOTED_MS + 1001 };
    let page = MemberPage { members: vec![later], live: 1 };
    let store = Script::answering(true, vec![Reply::Members(page)]);
    assert_eq!(sweep(&store, &POLICY, LOG).expect("swept"), Swept { expired: 0, more: false });
    let fault = sweep(&store, &POLICY, 64).expect_err("no log");
    assert_eq!(fault.violations[0].field, "log");
}

#[test]
fn one_that_lives_on_is_due_when_it_would_end_now() {
    let store = Script::answering_each([
        listed(&["v\nhome\ns"]),
        (true, vec![viewer(4000)]),
        (true, vec![Reply::Deadline(Some(1))]),
    ]);
    assert_eq!(sweep(&store, &POLICY, LOG).expect("swept").expired, 0);
    let later = renew(partition().due(), "v\nhome\ns".into(), 3000);
    assert_eq!(store.last_asked().success, [later]);
}

#[test]
fn one_that_does_not_is_told_of_in_the_step_that_forgets_it() {
    let store = Script::answering_each([
        listed(&["v\nhome\ns", "u\nalice\nx"]),
        (true, vec![viewer(1000), Reply::Record(None)]),
        (true, vec![]),
    ]);
    assert_eq!(sweep(&store, &POLICY, LOG).expect("swept").expired, 2);
    let asked = store.last_asked();
    let gone = noted(partition(), Kind::Viewing, "home", "s");
    let place = MemberRef { key: Home::of("home").slots, member: "s".into() };
    assert_eq!(
        asked.compare[..2],
        [Compare::MemberPresent(gone.clone()), Compare::MemberAbsent(place)]
    );
    let event = Event { device_id: "tv", ..Event::of(Type::ViewingExpired, "home", "s") };
    let event = event.append(&POLICY, partition());
    assert_eq!(asked.success[..2], [Operation::MemberRemove(gone), event]);
    let event = Event::of(Type::UserExpired, "alice", "x").append(&POLICY, partition());
    assert_eq!(asked.success.last(), Some(&event));
}

#[test]
fn who_is_late_leaves_the_others_what_is_left() {
    let store = Script::answering_each([
        listed(&["u\na\n1", "u\na\n2"]),
        (true, vec![Reply::Record(None), Reply::Record(None)]),
        // Both, then the first, which somebody has told of, then the second.
        (false, vec![]),
        (false, vec![]),
        (true, vec![Reply::Deadline(None)]),
        (true, vec![]),
    ]);
    assert_eq!(sweep(&store, &POLICY, LOG).expect("swept").expired, 1);
    assert_eq!(store.count(), 6);
}

#[test]
fn another_users_connection_of_the_same_id_is_not_this_one() {
    let theirs = [(connections::USER_FIELD, "v"), (connections::POD_FIELD, "p")];
    let entries = theirs.iter().map(|(field, value)| entry(field, value)).collect();
    let record = Hash { entries, expires_at_ms: Some(9_000_000) };
    let store = Script::answering_each([
        listed(&["c\nu\ntab"]),
        (true, vec![Reply::Record(Some(record))]),
        (true, vec![]),
    ]);
    assert_eq!(sweep(&store, &POLICY, LOG).expect("swept").expired, 1);
    // Theirs is left alone.
    let touched = |operation: &Operation| matches!(operation, Operation::HashSet(_));
    assert!(!store.last_asked().success.iter().any(touched));
}

#[test]
fn what_newer_rules_have_noted_is_left_to_them() {
    let store = Script::answering_each([
        listed(&["x\nwhat\never", "nonsense"]),
        (true, vec![]),
        (true, vec![]),
    ]);
    assert_eq!(sweep(&store, &POLICY, LOG).expect("swept"), Swept { expired: 0, more: false });
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
