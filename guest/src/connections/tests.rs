//! What no outside test can bring about at will: an id that changes hands between two
//! steps of a rule, and a store without an answer. The store's clock stands at 1000.

use super::registration::CLAIM_FIELD;
use super::*;
use crate::maintenance::{self, Kind};
use crate::script::Script;
use crate::store::{Compare, Hash, MemberPage, MemberSet, StoreError, Txn};

const POLICY: Policy = Policy::DEFAULTS;

type Step = (bool, Vec<Reply>);

fn hash(fields: &[(&str, &str)], expires_at_ms: u64) -> Reply {
    let entries = fields.iter().map(|(field, value)| entry(field, value)).collect();
    Reply::Record(Some(Hash { entries, expires_at_ms: Some(expires_at_ms) }))
}

/// The record of a connection that was kept last at this time.
fn record(user_id: &str, kept_ms: u64, more: &[(&str, &str)]) -> Reply {
    let mut fields =
        vec![(USER_FIELD, user_id), (POD_FIELD, "pod"), (CONNECTED_FIELD, "1"), (EPOCH_FIELD, "e")];
    fields.extend(more);
    hash(&fields, kept_ms + POLICY.connection_ttl_ms)
}

fn nothing() -> Step {
    (true, vec![Reply::Record(None)])
}

fn done() -> Step {
    (true, vec![])
}

/// An id that somebody has chosen is looked up.
fn located(user_id: &str) -> Step {
    (true, vec![hash(&[(USER_FIELD, user_id)], 9_999_999)])
}

/// An id that a user has claimed.
fn claimed_by(user_id: &str) -> Step {
    (false, vec![hash(&[(USER_FIELD, user_id), (CLAIM_FIELD, "c")], 9_999_999)])
}

fn is_about_claim_c(txn: &Txn) -> bool {
    let is =
        |compare: &Compare| matches!(compare, Compare::FieldEquals(test) if test.value == b"c");
    txn.compare.iter().any(is)
}

fn refused(live: u32, record: Reply) -> Step {
    (false, vec![record, Reply::Members(MemberPage { members: vec![], live })])
}

fn chosen(store: &Script) -> Result<Connection, Fault> {
    register(store, &POLICY, "u", "pod", Some("tab".into()))
}

#[test]
fn a_new_connection_is_one_transaction() {
    let store = Script::answering_each([done()]);
    let connection = register(&store, &POLICY, "u", "pod", None).expect("a connection");
    let partition = Partition::of("u");
    assert_eq!(keys::partition_of_made(&connection.session_id), Some(partition));
    assert_eq!((connection.connected_at_ms, connection.expires_at_ms), (1000, 91_000));
    let asked = store.asked();
    let place = |key, member: &str, ttl_ms| {
        Operation::MemberSet(MemberSet { key, member: member.into(), ttl_ms })
    };
    let stale = POLICY.connection_stale_ms;
    let id = connection.session_id.as_str();
    for expected in [
        place(partition.connections("u"), id, stale),
        place(partition.pod("pod"), &format!("u\n{id}"), stale),
        place(partition.pods(), "pod", stale),
        maintenance::note(partition, Kind::Connection, "u", id, stale),
    ] {
        assert!(asked.success.contains(&expected), "{expected:?}");
    }
    assert!(matches!(asked.success.last(), Some(Operation::AppendEvent(_))));
}

#[test]
fn an_id_that_was_made_is_nobody_elses() {
    let id = keys::connection_id(Partition::of("u"), |length| "x".repeat(length as usize));
    let again = |record| {
        let store = Script::answering_each([(true, vec![record]), done()]);
        register(&store, &POLICY, "u", "pod", Some(id.clone()))
    };
    let over = [(ENDED_FIELD, "closed")];
    assert!(again(record("u", 900, &over)).is_ok());
    // One of the same partition, alive or not.
    for fields in [&[][..], &over] {
        let refusal = again(record("v", 900, fields)).expect_err("theirs");
        assert_eq!(refusal.reason, Reason::SessionExists);
    }
}

#[test]
fn an_id_that_another_takes_before_the_claim_is_confirmed_is_given_up() {
    // Nothing there, claimed, written; then the claim is another user's.
    let lost = [nothing(), done(), done(), claimed_by("v"), done()];
    let store = Script::answering_each(lost);
    assert_eq!(chosen(&store).expect_err("lost").reason, Reason::SessionExists);
    // What was written is taken back, if it is still the same.
    let undone = store.last_asked();
    let same = |compare: &Compare| matches!(compare, Compare::FieldEquals(test) if test.field == EPOCH_FIELD);
    assert!(undone.compare.iter().any(same));
    // The same user may well have got it back; then it is written again.
    let ours = (true, vec![record("u", 900, &[])]);
    let again = [nothing(), done(), done(), claimed_by("u"), ours, done(), done()];
    let store = Script::answering_each(again);
    assert!(chosen(&store).is_ok());
    assert_eq!(store.count(), 7);
    assert!(is_about_claim_c(&store.last_asked()));
}

#[test]
fn an_id_is_taken_over_only_as_it_was_read() {
    let theirs = || claimed_by("v");
    // Theirs is alive.
    let alive = (true, vec![record("v", 900, &[])]);
    let refusal =
        chosen(&Script::answering_each([nothing(), theirs(), alive])).expect_err("theirs");
    assert_eq!(refusal.reason, Reason::SessionExists);
    // Theirs is over, but somebody was quicker; then it is free.
    let over = || (true, vec![record("v", 900, &[(ENDED_FIELD, "closed")])]);
    let store = Script::answering_each([
        nothing(),
        theirs(),
        over(),
        (false, vec![]),
        theirs(),
        over(),
        done(),
        done(),
        done(),
    ]);
    assert!(chosen(&store).is_ok());
    assert_eq!(store.count(), 9);
}

#[test]
fn who_is_refused_anyhow_does_not_claim_the_id() {
    let store =
        Script::answering_each([(true, vec![record("u", 900, &[(ENDED_FIELD, "terminated")])])]);
    assert_eq!(chosen(&store).expect_err("ended").reason, Reason::SessionTerminated);
    assert_eq!(store.count(), 1);
}

#[test]
fn a_connection_that_has_ended_unnoticed_is_told_of_before_it_begins_anew() {
    let unnoticed = || record("u", 1000 - POLICY.connection_stale_ms.min(1000), &[]);
    let policy = Policy { connection_stale_ms: 500, ..POLICY };
    let id = keys::connection_id(Partition::of("u"), |length| "x".repeat(length as usize));
    let store = Script::answering_each([(true, vec![unnoticed()]), done()]);
    register(&store, &policy, "u", "pod", Some(id.clone())).expect("a connection");
    let asked = store.last_asked();
    let noted = maintenance::noted(Partition::of("u"), Kind::Connection, "u", &id);
    assert!(asked.compare.contains(&Compare::MemberPresent(noted)));
    let types = asked.success.iter().filter_map(|operation| match operation {
        Operation::AppendEvent(event) => Some(event.entries[0].value.clone()),
        _ => None,
    });
    assert_eq!(
        types.collect::<Vec<_>>(),
        [b"connection.expired".to_vec(), b"connection.created".to_vec()]
    );
    // Whoever sweeps was quicker: it is told of already.
    let swept = record("u", 1000 - 1000, &[(ENDED_FIELD, "expired")]);
    let store = Script::answering_each([(true, vec![unnoticed()]), refused(0, swept), done()]);
    register(&store, &policy, "u", "pod", Some(id)).expect("a connection");
    let events = store.last_asked().success;
    assert_eq!(events.iter().filter(|o| matches!(o, Operation::AppendEvent(_))).count(), 1);
}

#[test]
fn a_user_with_too_many_is_refused_and_told_of() {
    let store = Script::answering_each([refused(CONNECTIONS_MAX, Reply::Record(None)), done()]);
    let fault = register(&store, &POLICY, "u", "pod", None).expect_err("a limit");
    assert_eq!(fault.reason, Reason::SessionLimitReached);
    assert!(fault.metadata.iter().any(|fact| fact.name == "retry" && fact.value == "false"));
    assert!(matches!(&store.last_asked().success[..], [Operation::AppendEvent(_)]));
}

#[test]
fn a_heartbeat_goes_after_a_connection_that_moves() {
    let found = || (true, vec![record("u", 900, &[])]);
    let id = keys::connection_id(Partition::of("u"), |length| "x".repeat(length as usize));
    let registered = |pod: &str, epoch: &str| {
        let fields =
            [(USER_FIELD, "u"), (POD_FIELD, pod), (CONNECTED_FIELD, "1"), (EPOCH_FIELD, epoch)];
        (true, vec![hash(&fields, 900 + POLICY.connection_ttl_ms)])
    };
    let moved = registered("other", "f");
    let store = Script::answering_each([found(), (false, vec![]), moved, done()]);
    let kept = heartbeat(&store, &POLICY, &id, Only::default()).expect("kept");
    assert_eq!((kept.last_heartbeat_at_ms, store.count()), (1000, 4));
    // With another epoch it is not the same any more.
    let other = Only { epoch: Some("other"), ..Only::default() };
    let fault = heartbeat(&Script::answering_each([found()]), &POLICY, &id, other);
    let fault = fault.expect_err("moved");
    assert_eq!(
        (fault.reason, fault.metadata[0].value.as_str()),
        (Reason::SessionTerminated, "moved")
    );
    // And one that never rests is given up.
    let restless = (0..ATTEMPTS).flat_map(|n| [registered("pod", &n.to_string()), (false, vec![])]);
    let fault = heartbeat(&Script::answering_each(restless), &POLICY, &id, Only::default());
    assert_eq!(fault.expect_err("given up").reason, Reason::StoreUnavailable);
}

#[test]
fn whoever_holds_an_id_learns_nothing_of_another_who_has_got_it() {
    let only = Only { user_id: Some("u"), epoch: Some("e") };
    let ended = [(ENDED_FIELD, "terminated"), (REASON_FIELD, "why"), (BY_FIELD, "admin")];
    for (whose, record, reason) in [
        ("u", record("u", 900, &[]), None),
        // Taken over by one of the same partition, and by one of another.
        ("u", record("v", 900, &[]), Some(Reason::SessionExpired)),
        ("v", record("v", 900, &[]), Some(Reason::SessionExpired)),
        ("v", record("u", 900, &[]), Some(Reason::SessionExpired)),
        // What became of the own one is told all the same.
        ("v", record("u", 900, &ended), Some(Reason::SessionTerminated)),
        ("u", Reply::Record(None), Some(Reason::SessionNotFound)),
    ] {
        let store = Script::answering_each([located(whose), (true, vec![record])]);
        let got = get(&store, &POLICY, "tab", only);
        assert_eq!(got.err().map(|fault| fault.reason), reason, "{whose}");
    }
    // One that has moved is not told how its successor ended, but that it has moved.
    let store = Script::answering_each([located("u"), (true, vec![record("u", 900, &ended)])]);
    let before = Only { user_id: Some("u"), epoch: Some("d") };
    let fault = get(&store, &POLICY, "tab", before).expect_err("moved");
    assert_eq!(fault.metadata[0].value, "moved");
    // Everybody else is told of an id that is about to be taken over that it is free.
    let store = Script::answering_each([located("u"), (true, vec![record("v", 900, &[])])]);
    let fault = get(&store, &POLICY, "tab", Only::default()).expect_err("not yet there");
    assert_eq!(fault.reason, Reason::SessionNotFound);
}

#[test]
fn a_locator_is_kept_when_half_of_its_time_has_passed() {
    let policy = Policy { connection_ttl_ms: 800, connection_stale_ms: 400, ..POLICY };
    for (located_ms, steps) in [("100", 5), ("900", 3)] {
        let fields = [
            (USER_FIELD, "u"),
            (POD_FIELD, "pod"),
            (CONNECTED_FIELD, "1"),
            (EPOCH_FIELD, "e"),
            (LOCATED_FIELD, located_ms),
        ];
        let found = (true, vec![hash(&fields, 900 + 800)]);
        let store = Script::answering_each([located("u"), found, done(), done(), done(), done()]);
        heartbeat(&store, &policy, "tab", Only::default()).expect("kept");
        assert_eq!(store.count(), steps, "{located_ms}");
    }
}

#[test]
fn those_that_change_do_not_keep_the_others_from_ending() {
    let members: Vec<Member> =
        (0..3).map(|n| Member { name: format!("u\n~id-{n}"), expires_at_ms: 5000 }).collect();
    let store = Script::answering_each([
        (true, vec![Reply::Members(MemberPage { members, live: 3 })]),
        // All three, then one, then two, then each of them.
        (false, vec![]),
        done(),
        (false, vec![]),
        (false, vec![]),
        done(),
    ]);
    let drained = drain_pod(&store, &POLICY, "pod", "", "7").expect("drained");
    assert_eq!((drained.closed, drained.next.as_deref()), (2, Some("8")));
    assert_eq!(store.count(), 6);
}

#[test]
fn a_store_without_an_answer_is_never_a_missing_connection() {
    let down = || Script::failing(StoreError::Unavailable("down".into()));
    let id = keys::connection_id(Partition::of("u"), |length| "x".repeat(length as usize));
    for fault in [
        register(&down(), &POLICY, "u", "pod", None).expect_err("down"),
        register(&down(), &POLICY, "u", "pod", Some("tab".into())).expect_err("down"),
        get(&down(), &POLICY, &id, Only::default()).expect_err("down"),
        get(&down(), &POLICY, "tab", Only::default()).expect_err("down"),
        heartbeat(&down(), &POLICY, &id, Only::default()).expect_err("down"),
        heartbeat_pod(&down(), &POLICY, "pod", None, "").expect_err("down"),
        heartbeat_pod(&down(), &POLICY, "pod", Some(vec![id.clone()]), "").expect_err("down"),
        close(&down(), &POLICY, &id, "", "", Only::default()).expect_err("down"),
        list_user(&down(), &POLICY, "u").expect_err("down"),
        terminate_user(&down(), &POLICY, "u", "", "").expect_err("down"),
        presence(&down(), "u").expect_err("down"),
        list_pod(&down(), &POLICY, "pod", "").expect_err("down"),
        drain_pod(&down(), &POLICY, "pod", "", "").expect_err("down"),
        stats(&down(), "").expect_err("down"),
    ] {
        assert_eq!(fault.reason, Reason::StoreUnavailable);
    }
}

#[test]
fn who_has_taken_an_id_over_ends_what_the_other_has_written_and_nothing_of_his_own() {
    let theirs = || (true, vec![record("v", 900, &[])]);
    let ours = || (true, vec![record("u", 900, &[])]);
    // Theirs is there; claimed; the claim is still ours; it is ended, and made way.
    let store = Script::answering_each([
        theirs(),
        done(),
        theirs(),
        done(),
        done(),
        nothing(),
        done(),
        done(),
    ]);
    assert!(chosen(&store).is_ok());
    // Meanwhile another request of the same user has written it: that one is left alone.
    let store = Script::answering_each([theirs(), done(), ours(), done(), ours(), done(), done()]);
    assert!(chosen(&store).is_ok());
    assert_eq!(store.count(), 7);
    // Or has claimed it: then that claim will do.
    let store = Script::answering_each([
        theirs(),
        done(),
        theirs(),
        claimed_by("u"),
        done(),
        nothing(),
        done(),
        done(),
    ]);
    assert!(chosen(&store).is_ok());
    assert!(is_about_claim_c(&store.last_asked()));
    // Meanwhile a third has taken the id over: what is there may be his, and stays.
    let store = Script::answering_each([theirs(), done(), theirs(), claimed_by("w")]);
    assert_eq!(chosen(&store).expect_err("lost").reason, Reason::SessionExists);
    assert_eq!(store.count(), 4);
}

#[test]
fn no_part_of_a_pods_connections_is_empty_but_the_last() {
    let id = |partition: u32| {
        let partition = Partition::numbered(partition).expect("one");
        keys::connection_id(partition, |length| "x".repeat(length as usize))
    };
    let page = |names: Vec<String>| {
        let live = names.len() as u32;
        let members = names.into_iter().map(|name| Member { name, expires_at_ms: 91_000 });
        (true, vec![Reply::Members(MemberPage { members: members.collect(), live })])
    };
    let none = || page(vec![]);
    let listed = |id: String| page(vec![format!("u\n{id}")]);
    let alive = || (true, vec![record("u", 900, &[])]);
    let gone = || (true, vec![Reply::Record(None)]);
    // Nothing in the first; in the second what has moved away meanwhile; then one.
    let store =
        Script::answering_each([none(), listed(id(1)), gone(), none(), listed(id(3)), alive()]);
    let part = list_pod(&store, &POLICY, "pod", "").expect("a part");
    assert_eq!(part.connections.len(), 1);
    assert_eq!((part.next.as_deref(), store.count()), (Some("4"), 6));
    // The last one may be.
    let store = Script::answering_each([none(), none()]);
    let part = list_pod(&store, &POLICY, "pod", "62").expect("a part");
    assert_eq!((part.connections.len(), part.next), (0, None));
}
