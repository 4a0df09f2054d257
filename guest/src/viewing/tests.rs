//! What no outside test can bring about at will: a home that changes between two
//! steps of a rule, and a store without an answer.

use super::*;
use crate::script::Script;
use crate::store::{MemberPage, StoreError};

const POLICY: Policy = Policy::DEFAULTS;

fn allows(max: u32) -> Reply {
    let entries = vec![entry(MAX_FIELD, &max.to_string())];
    Reply::Record(Some(Hash { entries, expires_at_ms: None }))
}

fn alive(members: &[&str]) -> Reply {
    let member = |name: &&str| Member { name: (*name).into(), expires_at_ms: 5000 };
    let members: Vec<_> = members.iter().map(member).collect();
    Reply::Members(MemberPage { live: members.len() as u32, members })
}

fn granted() -> (bool, Vec<Reply>) {
    (true, vec![Reply::Deadline(Some(121_000)), Reply::Deadline(Some(130_000))])
}

fn setup(replace: &[&str]) -> Setup {
    let replace = replace.iter().map(|id| (*id).into()).collect();
    Setup { account_id: "home".into(), device_id: "tv".into(), replace }
}

const ID: &str = "1b387cfb-aabe-4b94-ae7e-0f31fc6f909b";

#[test]
fn a_create_tries_again_when_the_limit_changes_under_it() {
    let store = Script::answering_each([
        (true, vec![allows(1)]),
        (false, vec![allows(2), alive(&[ID])]),
        (true, vec![allows(2)]),
        granted(),
    ]);
    let slot = create(&store, &POLICY, setup(&[])).expect("a slot");
    assert_eq!((slot.expires_at_ms, store.count()), (121_000, 4));
}

#[test]
fn a_create_tries_again_when_a_session_that_it_takes_over_ends_by_itself() {
    let store = Script::answering_each([
        (true, vec![allows(1), alive(&[ID])]),
        (false, vec![allows(1), alive(&[])]),
        (true, vec![allows(1), alive(&[])]),
        granted(),
    ]);
    assert!(create(&store, &POLICY, setup(&[ID])).is_ok());
    assert_eq!(store.count(), 4);
}

#[test]
fn a_home_that_never_rests_is_given_up() {
    let restless = (0..ATTEMPTS).flat_map(|attempt| {
        [(true, vec![allows(attempt)]), (false, vec![allows(attempt + 1), alive(&[])])]
    });
    let store = Script::answering_each(restless);
    let fault = create(&store, &POLICY, setup(&[])).expect_err("given up");
    assert_eq!(fault.reason, Reason::StoreUnavailable);
    assert_eq!(store.count(), 2 * ATTEMPTS as usize);
}

#[test]
fn a_home_without_a_free_slot_is_told_so_though_the_store_has_no_room_for_the_event() {
    let refused = || (false, vec![Reply::Record(None), alive(&[])]);
    let store = Script::answering_each([(true, vec![Reply::Record(None)]), refused()]);
    store.then_failing(StoreError::Full("full".into()));
    let fault = create(&store, &POLICY, setup(&[])).expect_err("no slot");
    assert_eq!(fault.reason, Reason::SessionLimitReached);
    let full = Script::failing(StoreError::Full("full".into()));
    let fault = create(&full, &POLICY, setup(&[])).expect_err("full");
    assert_eq!(fault.reason, Reason::StoreFull);
}

#[test]
fn a_heartbeat_is_one_transaction() {
    let store = Script::answering_each([granted()]);
    assert!(heartbeat(&store, &POLICY, "home".into(), ID.into()).is_ok());
    let txn = store.asked();
    assert!(
        matches!(&txn.compare[..], [Compare::MemberPresent(slot), Compare::Exists(_)] if slot.member == ID)
    );
}

#[test]
fn an_id_is_known_in_capitals_too() {
    let store = Script::answering_each([granted()]);
    let slot = heartbeat(&store, &POLICY, "home".into(), ID.to_uppercase());
    assert_eq!(slot.expect("a slot").session_id, ID);
    let store = Script::answering(true, vec![Reply::Existed(true), Reply::Existed(true)]);
    tear_down(&store, &POLICY, "home", &ID.to_uppercase()).expect("torn down");
    let removed = &store.asked().success[0];
    assert!(matches!(removed, Operation::MemberRemove(slot) if slot.member == ID));
}

#[test]
fn a_taken_over_session_is_remembered_as_long_as_its_device_may_not_ask() {
    let store = Script::answering_each([(true, vec![allows(1), alive(&[ID])]), granted()]);
    create(&store, &POLICY, setup(&[ID])).expect("a slot");
    let txn = store.last_asked();
    let ended = txn.success.iter().find_map(|operation| match operation {
        Operation::HashSet(set) if set.entries[0].field == ENDED_BY_FIELD => set.ttl_ms,
        _ => None,
    });
    assert_eq!(ended, Some(POLICY.viewing_ttl_ms + KNOWN_MS));
}

#[test]
fn a_number_that_is_none_is_said_to_be_none() {
    for stored in ["", "abc", "-1", "4294967295", "1001"] {
        let entries = vec![entry(MAX_FIELD, stored)];
        let home = Reply::Record(Some(Hash { entries, expires_at_ms: None }));
        let fault = create(&Script::answering(true, vec![home]), &POLICY, setup(&[]));
        assert_eq!(fault.expect_err("no number").reason, Reason::StoreRejected, "{stored}");
    }
}

#[test]
fn a_store_without_an_answer_is_never_a_missing_session() {
    let down = || Script::failing(StoreError::Unavailable("down".into()));
    for fault in [
        create(&down(), &POLICY, setup(&[])).expect_err("down"),
        heartbeat(&down(), &POLICY, "home".into(), ID.into()).expect_err("down"),
        tear_down(&down(), &POLICY, "home", ID).expect_err("down"),
        set_max(&down(), "home", 1).expect_err("down"),
        get_home(&down(), &POLICY, "home").expect_err("down"),
        get_device(&down(), "tv").expect_err("down"),
        create_for_device(&down(), &POLICY, "tv".into(), Vec::new()).expect_err("down"),
    ] {
        assert_eq!(fault.reason, Reason::StoreUnavailable);
    }
}

#[test]
fn a_refusal_names_few_holders_of_many() {
    let long = "\u{e9}".repeat(128);
    let members: Vec<String> =
        (0..40).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    let members: Vec<&str> = members.iter().map(String::as_str).collect();
    let entries = || vec![entry(DEVICE_FIELD, &long), entry(SINCE_FIELD, "1000")];
    let record = || Reply::Record(Some(Hash { entries: entries(), expires_at_ms: Some(9000) }));
    let store = Script::answering_each([
        (true, vec![allows(40)]),
        (false, vec![allows(40), alive(&members)]),
        (true, (0..HOLDERS_MAX).map(|_| record()).collect()),
    ]);
    let fault = create(&store, &POLICY, setup(&[])).expect_err("no slot");
    let fact = |name: &str| {
        let detail = fault.metadata.iter().find(|detail| detail.name == name);
        detail.expect(name).value.clone()
    };
    assert_eq!(fact("active"), "40");
    let sessions = fact("sessions");
    assert!(sessions.len() <= HOLDERS_BYTES_MAX + 1, "{}", sessions.len());
    let sessions: Vec<serde_json::Value> = serde_json::from_str(&sessions).expect("JSON");
    assert!(sessions.len() > 10, "{}", sessions.len());
    assert!(!fault.metadata.iter().any(|detail| detail.value.contains(members[0])));
}
