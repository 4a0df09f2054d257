//! What no outside test can bring about at will: a session that ends between two
//! steps of a rule, and a store without an answer. The store's clock stands at 1000.

use super::attributes::{CODE_BYTES_MAX, EMAIL_BYTES_MAX, TOKEN_BYTES_MAX};
use super::listing::{mark, token};
use super::*;
use crate::script::Script;
use crate::store::{Entry, Member, MemberPage, StoreError};
use crate::transaction::entry;

const POLICY: Policy = Policy::DEFAULTS;
/// Every second it is noted that a session was seen.
const IDLE: Policy = Policy { user_session_idle_ms: 8000, ..POLICY };

fn id() -> String {
    Keys::of("u").session_id(|length| "x".repeat(length as usize))
}

fn record(created_ms: u64, ends_ms: u64) -> Reply {
    let entries = vec![
        entry(USER_FIELD, "u"),
        entry(CREATED_FIELD, &created_ms.to_string()),
        entry(ENDS_FIELD, &ends_ms.to_string()),
    ];
    Reply::Record(Some(Hash { entries, expires_at_ms: Some(5000.min(ends_ms)) }))
}

fn attributes(access_token: &str) -> Attributes {
    Attributes {
        user_id: Some("u".into()),
        device_id: None,
        auth_code: None,
        access_token: Some(access_token.into()),
        refresh_token: None,
        expiration_time: None,
        user_email: None,
    }
}

#[test]
fn a_session_begins_in_one_transaction() {
    let store = Script::answering(true, vec![]);
    let id = create(&store, &POLICY, &attributes("t")).expect("a session");
    let asked = store.asked();
    let keys = Keys::of("u");
    let bound = MemberBound { key: keys.sessions.clone(), limit: SESSIONS_MAX };
    assert_eq!(asked.compare, [Compare::MembersBelow(bound)]);
    let ttl_ms = POLICY.user_session_ttl_ms;
    let place = MemberSet { key: keys.sessions, member: id.clone(), ttl_ms };
    assert!(asked.success.contains(&Operation::MemberSet(place)));
    assert!(asked.success.contains(&order::place(&Keys::of("u"), &id)));
    let note = maintenance::note(keys.partition, Kind::User, "u", &id, ttl_ms);
    assert!(asked.success.contains(&note));
    let event = Event::of(Type::UserCreated, "u", &id).append(&POLICY, keys.partition);
    assert_eq!(asked.success.last(), Some(&event));
    let full = Script::answering_each([(false, vec![]), (true, vec![])]);
    let refused = create(&full, &POLICY, &attributes("t")).expect_err("a limit");
    assert_eq!(refused.reason, Reason::SessionLimitReached);
    let told: Vec<_> = refused.metadata.iter().map(|fact| (&*fact.name, &*fact.value)).collect();
    assert_eq!(told, [("limit", &*SESSIONS_MAX.to_string()), ("retry", "false")]);
    let event = Event::new(Type::UserLimitReached, "u").append(&POLICY, keys.partition);
    assert_eq!(full.last_asked().success, [event]);
}

#[test]
fn a_session_that_was_just_seen_is_only_read() {
    let store = Script::answering(true, vec![record(1, 5000)]);
    let session = get(&store, &IDLE, &id()).expect("a session");
    assert_eq!((session.created_at_ms, session.expires_at_ms), (1, 5000));
    assert!(store.asked().compare.is_empty());
}

#[test]
fn a_session_seen_again_lives_on_as_far_as_it_may() {
    for (ends_ms, ttl_ms) in [(60_000, 9000), (5500, 4500)] {
        let noted = vec![Reply::Number(1000), Reply::Deadline(Some(7)), Reply::Deadline(Some(7))];
        let store = Script::answering_each([(true, vec![record(0, ends_ms)]), (true, noted)]);
        let session = get(&store, &IDLE, &id()).expect("a session");
        assert_eq!(session.expires_at_ms, 7);
        let asked = store.last_asked();
        let key = keys::user_session(&id()).expect("an id");
        assert_eq!(asked.compare, [Compare::Exists(key.clone())]);
        // The record and its place among the user's sessions end together.
        let place = MemberSet { key: Keys::of("u").sessions, member: id(), ttl_ms };
        assert_eq!(asked.success[1], Operation::MemberSet(place));
        assert_eq!(asked.success[2], Operation::HashExpire(Expiry { key, ttl_ms }));
    }
}

#[test]
fn a_session_lives_as_the_settings_of_today_say() {
    // Begun under a shorter idle limit, and seen just now.
    let longer = Policy { user_session_idle_ms: 80_000, ..POLICY };
    for (policy, ttl_ms) in [(POLICY, 99_000), (longer, 90_000)] {
        let noted = vec![Reply::Number(1000), Reply::Deadline(Some(7)), Reply::Deadline(Some(7))];
        let store = Script::answering_each([(true, vec![record(999, 100_000)]), (true, noted)]);
        assert!(get(&store, &policy, &id()).is_ok());
        let key = keys::user_session(&id()).expect("an id");
        let expire = Operation::HashExpire(Expiry { key, ttl_ms });
        assert_eq!(store.last_asked().success.last(), Some(&expire));
    }
}

#[test]
fn a_session_past_its_end_is_gone_whatever_its_record_says() {
    let store = Script::answering(true, vec![record(0, 1000)]);
    let refused = get(&store, &IDLE, &id()).expect_err("gone");
    assert_eq!(refused.reason, Reason::SessionNotFound);
    let noted = vec![Reply::Number(1000), Reply::Deadline(None), Reply::Deadline(Some(2500))];
    let store = Script::answering_each([(true, vec![record(0, 2000)]), (true, noted)]);
    assert_eq!(get(&store, &IDLE, &id()).expect("a session").expires_at_ms, 2000);
}

#[test]
fn a_session_is_read_from_a_store_that_takes_no_writes() {
    for error in [StoreError::Unavailable("down".into()), StoreError::Full("full".into())] {
        let store = Script::answering(true, vec![record(0, 60_000)]);
        store.then_failing(error);
        assert_eq!(get(&store, &IDLE, &id()).expect("a session").expires_at_ms, 5000);
    }
}

#[test]
fn a_session_that_ends_between_two_steps_is_gone() {
    let gone = |result: Result<(), Fault>| {
        assert_eq!(result.expect_err("gone").reason, Reason::SessionNotFound);
    };
    let store = || Script::answering_each([(true, vec![record(0, 60_000)]), (false, vec![])]);
    gone(get(&store(), &IDLE, &id()).map(drop));
    gone(close(&store(), &POLICY, &id()));
    let updated = vec![Reply::Deadline(None), Reply::Number(1000), record(0, 60_000)];
    let store = Script::answering_each([(true, updated), (false, vec![])]);
    gone(update(&store, &IDLE, &id(), attributes("t"), &[]).map(drop));
}

#[test]
fn a_page_token_marks_a_place_and_gives_no_id_away() {
    let created_at_ms = 1_800_000_000_000;
    let expires_at_ms = order::place_of(created_at_ms).expect("a place");
    let last = Member { name: id(), expires_at_ms };
    let told = token(&last);
    assert!(!told.contains(&last.name));
    let place = mark(&told).expect("a place");
    // Names are passed in falling order: the whole id lies before its beginning.
    assert!(place.expires_at_ms == last.expires_at_ms && place.name < last.name);
    for other in [
        "",
        "x",
        "c1.x",
        "cx.AAAAAAAAAAAAAAAA",
        "c1.AAAAAAAAAAAAAAA=",
        "c-1.AAAAAAAAAAAAAAAA",
        "c18446744073709551615.AAAAAAAAAAAAAAAA",
        // What a release before has told, which meant another order.
        "1831536000000.AAAAAAAAAAAAAAAA",
    ] {
        assert!(mark(other).is_none(), "{other}");
    }
}

#[test]
fn a_store_that_takes_no_writes_is_listed_as_it_is() {
    let page = |names: &[String]| {
        let expires_at_ms = order::place_of(1).expect("a place");
        let members = names.iter().map(|name| Member { name: name.clone(), expires_at_ms });
        Reply::Members(MemberPage { members: members.collect(), live: names.len() as u32 })
    };
    let (known, unknown) = (id(), id().replace('x', "y"));
    let both = [known.clone(), unknown];
    let store = Script::answering_each([
        (true, vec![page(&both[..1]), page(&both)]),
        (true, vec![page(&both[..1])]),
        (true, vec![page(&both)]),
        (true, vec![record(1, 60_000)]),
    ]);
    store.then_failing(StoreError::Unavailable("full".into()));
    store.then_answering(true, vec![record(1, 60_000)]);
    let page = list(&store, "u", 0, "").expect("a page");
    let listed: Vec<_> = page.sessions.iter().map(|session| &session.session_id).collect();
    assert_eq!(listed, [&known]);
}

#[test]
fn what_is_taken_back_is_stored_as_if_it_was_never_given() {
    let updated = vec![Reply::Deadline(None), Reply::Number(1000), record(999, 5000)];
    let store = Script::answering_each([(true, updated)]);
    let clear = ["auth_code", "expiration_time", "auth_code"].map(String::from);
    update(&store, &POLICY, &id(), attributes("t"), &clear).expect("a session");
    let Operation::HashSet(HashSet { entries, .. }) = &store.asked().success[0] else {
        panic!("it is written");
    };
    let written: Vec<_> =
        entries.iter().map(|Entry { field, value }| (&**field, &value[..])).collect();
    let expected: [(&str, &[u8]); 3] =
        [("access_token", b"t"), ("auth_code", b""), ("expiration_time", b"")];
    assert_eq!(written, expected);
    let entries = vec![entry(CODE_FIELD, ""), entry(EXPIRATION_FIELD, "")];
    let read = session(&Hash { entries, expires_at_ms: None }).attributes;
    assert_eq!((read.auth_code.as_deref(), read.expiration_time), (Some(""), None));
}

#[test]
fn what_cannot_be_taken_back_is_told() {
    let store = Script::default();
    let clear = ["user_id", "access_token", "colour", "_created", ""].map(String::from);
    let refused = update(&store, &POLICY, &id(), attributes("t"), &clear).expect_err("refused");
    let fields: Vec<_> = refused.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["user_id", "access_token", "clear", "clear", "clear"]);
    assert!(store.asked_nothing());
}

#[test]
fn no_attribute_has_a_control_character() {
    for control in ["\r\nBcc: x", "\0", "\u{7f}", "\u{85}", "\t"] {
        let text = Some(format!("a{control}"));
        let wrong = Attributes {
            user_id: text.clone(),
            device_id: text.clone(),
            auth_code: text.clone(),
            access_token: text.clone(),
            refresh_token: text.clone(),
            expiration_time: None,
            user_email: text,
        };
        let refused = create(&Script::default(), &POLICY, &wrong).expect_err("refused");
        let fields: Vec<_> = refused.violations.iter().map(|v| v.field.as_str()).collect();
        let all = [USER_FIELD, DEVICE_FIELD, CODE_FIELD, ACCESS_FIELD, REFRESH_FIELD, EMAIL_FIELD];
        assert_eq!(fields, all);
        let told = |violation: &crate::faults::Violation| {
            violation.description.contains("control character")
                && violation.description.ends_with("at character 2")
        };
        assert!(refused.violations.iter().all(told), "{refused:?}");
    }
}

#[test]
fn every_breach_is_told() {
    let wrong = Attributes {
        user_id: Some("a\nb".into()),
        device_id: Some("x".repeat(257)),
        auth_code: Some("x".repeat(CODE_BYTES_MAX + 1)),
        access_token: Some("x".repeat(TOKEN_BYTES_MAX + 1)),
        refresh_token: Some("x".repeat(TOKEN_BYTES_MAX)),
        expiration_time: None,
        user_email: Some("x".repeat(EMAIL_BYTES_MAX + 1)),
    };
    let store = Script::default();
    let refused = create(&store, &POLICY, &wrong).expect_err("violations");
    let fields: Vec<_> = refused.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["user_id", "device_id", "auth_code", "access_token", "user_email"]);
    let nothing = Attributes { access_token: None, ..attributes("") };
    let refused = update(&store, &POLICY, &id(), nothing, &[]).expect_err("nothing to change");
    assert_eq!(refused.violations[0].field, "session_attributes");
    assert!(list(&store, "u", -1, "x").is_err_and(|refused| refused.violations.len() == 2));
    assert!(store.asked_nothing());
}

#[test]
fn an_outage_is_told_as_one() {
    let failing = || Script::failing(StoreError::Unavailable("down".into()));
    let down = |result: Result<(), Fault>| {
        assert_eq!(result.expect_err("down").reason, Reason::StoreUnavailable);
    };
    down(create(&failing(), &POLICY, &attributes("t")).map(drop));
    down(get(&failing(), &POLICY, &id()).map(drop));
    down(list(&failing(), "u", 0, "").map(drop));
    down(update(&failing(), &POLICY, &id(), attributes("t"), &[]).map(drop));
    down(close(&failing(), &POLICY, &id()));
    down(close_all(&failing(), &POLICY, "u", None).map(drop));
}
