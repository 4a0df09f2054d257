//! Tests of logins: how one begins, lives on with use and ends, what of it is accepted and what
//! is refused. Here are also a session that ends between two steps of a rule, and a store that
//! gives no answer or takes no writes.

use super::attributes::{CODE_BYTES_MAX, EMAIL_BYTES_MAX, TOKEN_BYTES_MAX};
use super::listing::{mark, token};
use super::*;
use crate::expiry::OVERDUE_RETENTION_MS;
use crate::testing::{EPOCH_MS, World, entry, field};
use session_store::Error;
use session_store::transaction::{Member, Operation, Reply};

const POLICY: Policy = Policy::DEFAULTS;
/// With an idle limit; a use is written down once a second, so that each gives 9 seconds.
const IDLE: Policy = Policy { user_session_idle_ms: 8000, ..POLICY };

fn id() -> String {
    Keys::of("u").session_id(|length| "x".repeat(length as usize))
}

fn record(id: &str) -> String {
    keys::user_session(id).expect("an id")
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

fn begin(world: &World, policy: &Policy) -> String {
    create(world, policy, &attributes("t")).expect("a session")
}

/// When the record of a session ends; none when there is no record.
fn record_ends_ms(world: &World, id: &str) -> Option<u64> {
    let read = Operation::HashGet { key: record(id), fields: None };
    let Reply::Record(hash) = world.perform(vec![read]).remove(0) else { panic!("a record") };
    hash.map(|hash| hash.expires_at.expect("it ends"))
}

/// A session that ends then.
fn member(name: impl Into<String>, expires_at: u64) -> Member {
    Member { name: name.into(), expires_at }
}

fn fields_of(refused: &Fault) -> Vec<&str> {
    refused.violations.iter().map(|violation| violation.field.as_str()).collect()
}

#[test]
fn a_session_begins_in_one_transaction() {
    let world = World::new();
    let device = Attributes { device_id: Some("tv".into()), ..attributes("t") };
    let id = create(&world, &POLICY, &device).expect("a session");
    assert_eq!(world.executed(), 1);
    let keys = Keys::of("u");
    let ends_ms = EPOCH_MS + POLICY.user_session_ttl_ms;
    let fields = [
        ("_created", EPOCH_MS.to_string()),
        ("_ends", ends_ms.to_string()),
        ("access_token", "t".into()),
        ("device_id", "tv".into()),
        ("user_id", "u".into()),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(world.hash(&record(&id)), Some(fields.into()));
    assert_eq!(record_ends_ms(&world, &id), Some(ends_ms));
    assert_eq!(world.members(keys.sessions), [member(&id, ends_ms)]);
    let in_order = order::deadline_of(EPOCH_MS).expect("a deadline");
    assert_eq!(world.members(keys.order), [member(&id, in_order)]);
    let queue = world.members(Kind::User.queue(keys.partition));
    assert_eq!(queue, [member(format!("u\n{id}"), ends_ms + OVERDUE_RETENTION_MS)]);
    let events = world.entries_of_events("u");
    let [event] = &events[..] else { panic!("one event, not {events:?}") };
    let texts = ["type", "session_id", "device_id"].map(|name| field(event, name));
    assert_eq!(texts, ["user.created", &id[..6], "tv"].map(|text| Some(text.to_owned())));
}

#[test]
fn the_sessions_of_a_user_are_limited() {
    let world = World::new();
    let keys = Keys::of("u");
    let ids: Vec<String> = (0..SESSIONS_MAX).map(|number| number.to_string()).collect();
    for ids in ids.chunks(4000) {
        let set = |id: &String| {
            let (key, member) = (keys.sessions.clone(), id.clone());
            Operation::MemberSet { key, member, ttl: 60_000 }
        };
        world.perform(ids.iter().map(set).collect());
    }
    let refused = create(&world, &POLICY, &attributes("t")).expect_err("a limit");
    assert_eq!(refused.reason, Reason::SessionLimitReached);
    let facts: Vec<_> = refused.metadata.iter().map(|fact| (&*fact.name, &*fact.value)).collect();
    assert_eq!(facts, [("limit", &*SESSIONS_MAX.to_string()), ("retry", "false")]);
    assert_eq!(world.events("u"), ["user.limit_reached"]);
    assert!(world.members(keys.order.as_str()).is_empty());
    assert!(world.members(Kind::User.queue(keys.partition)).is_empty());
    // The last one fits.
    world.perform(vec![Operation::MemberRemove { key: keys.sessions, member: ids[0].clone() }]);
    let last = begin(&world, &POLICY);
    assert_eq!(world.members(keys.order)[0].name, last);
}

#[test]
fn a_session_that_was_just_seen_is_only_read() {
    let world = World::new();
    let id = begin(&world, &IDLE);
    let before = world.hash(&record(&id));
    world.clock.advance(999);
    let asked = world.executed();
    let session = get(&world, &IDLE, &id).expect("a session");
    assert_eq!((session.created_at_ms, session.expires_at_ms), (EPOCH_MS, EPOCH_MS + 9000));
    assert_eq!(world.executed() - asked, 1);
    assert_eq!(world.hash(&record(&id)), before);
    assert_eq!(record_ends_ms(&world, &id), Some(EPOCH_MS + 9000));
}

#[test]
fn a_session_seen_again_lives_on_as_far_as_it_may() {
    for (user_session_ttl_ms, ttl_ms) in [(60_000, 9000), (9500, 8500)] {
        let policy = Policy { user_session_ttl_ms, ..IDLE };
        let world = World::new();
        let id = begin(&world, &policy);
        world.clock.advance(1000);
        let session = get(&world, &policy, &id).expect("a session");
        let expires_at_ms = EPOCH_MS + 1000 + ttl_ms;
        assert_eq!(session.expires_at_ms, expires_at_ms);
        let record = world.hash(&record(&id)).expect("a record");
        assert!(record.contains(&(SEEN_FIELD.into(), (EPOCH_MS + 1000).to_string())));
        // The record and its member of the user's sessions end together.
        assert_eq!(record_ends_ms(&world, &id), Some(expires_at_ms));
        assert_eq!(world.members(Keys::of("u").sessions), [member(&id, expires_at_ms)]);
    }
}

#[test]
fn a_session_lives_as_the_settings_of_today_say() {
    // Begun under a shorter idle limit, and seen just now.
    let shorter = Policy { user_session_ttl_ms: 100_000, ..IDLE };
    let longer = Policy { user_session_idle_ms: 80_000, ..POLICY };
    for (policy, ttl_ms) in [(POLICY, 99_999), (longer, 90_000)] {
        let world = World::new();
        let id = begin(&world, &shorter);
        world.clock.advance(1);
        let session = get(&world, &policy, &id).expect("a session");
        let expires_at_ms = EPOCH_MS + 1 + ttl_ms;
        assert_eq!(session.expires_at_ms, expires_at_ms);
        assert_eq!(record_ends_ms(&world, &id), Some(expires_at_ms));
    }
}

#[test]
fn a_session_past_its_end_is_gone_whatever_its_record_says() {
    let world = World::new();
    let policy = Policy { user_session_ttl_ms: 10_000, ..IDLE };
    let id = begin(&world, &policy);
    world.clock.advance(2000);
    // The record gets its deadline later than that was decided.
    world.meanwhile_after(1, |world| world.clock.advance(500));
    let session = get(&world, &policy, &id).expect("a session");
    assert_eq!(session.expires_at_ms, EPOCH_MS + 10_000);
    assert_eq!(record_ends_ms(&world, &id), Some(EPOCH_MS + 10_500));
    world.clock.advance(7499);
    let session = get(&world, &policy, &id).expect("a session");
    assert_eq!(session.expires_at_ms, EPOCH_MS + 10_000);
    world.clock.advance(1);
    let refused = get(&world, &policy, &id).expect_err("gone");
    assert_eq!(refused.reason, Reason::SessionNotFound);
    assert!(record_ends_ms(&world, &id).is_some());
}

#[test]
fn a_session_is_read_from_a_store_that_takes_no_writes() {
    for error in [Error::Unavailable("down".into()), Error::Full("full".into())] {
        let world = World::new();
        let id = begin(&world, &IDLE);
        world.clock.advance(1000);
        let asked = world.executed();
        world.fail_after(1, error);
        let session = get(&world, &IDLE, &id).expect("a session");
        assert_eq!(session.expires_at_ms, EPOCH_MS + 9000);
        assert_eq!(world.executed() - asked, 2);
    }
}

#[test]
fn a_session_that_ends_between_two_steps_is_gone() {
    let gone = |call: fn(&World, &str) -> Result<(), Fault>| {
        let world = World::new();
        let id = begin(&world, &IDLE);
        world.clock.advance(1000);
        let ending = id.clone();
        world.meanwhile_after(1, move |world| close(world, &IDLE, &ending).expect("closed"));
        assert_eq!(call(&world, &id).expect_err("gone").reason, Reason::SessionNotFound);
        // It is not restored, and it has ended once.
        assert_eq!(world.hash(&record(&id)), None);
        assert!(world.members(Keys::of("u").sessions).is_empty());
        assert_eq!(world.events("u"), ["user.created", "user.closed"]);
    };
    gone(|world, id| get(world, &IDLE, id).map(drop));
    gone(|world, id| close(world, &IDLE, id));
    gone(|world, id| update(world, &IDLE, id, attributes("t"), &[]).map(drop));
}

#[test]
fn a_page_token_marks_where_a_page_ends_and_gives_no_id_away() {
    let created_at_ms = 1_800_000_000_000;
    let expires_at_ms = order::deadline_of(created_at_ms).expect("a deadline");
    let last = crate::store::Member { name: id(), expires_at_ms };
    let given = token(&last);
    assert!(!given.contains(&last.name));
    let marked = mark(&given).expect("a mark");
    // Names are passed in falling order: the whole id lies before its beginning.
    assert!(marked.expires_at_ms == last.expires_at_ms && marked.name < last.name);
    for other in [
        "",
        "x",
        "c1.x",
        "cx.AAAAAAAAAAAAAAAA",
        "c1.AAAAAAAAAAAAAAA=",
        "c-1.AAAAAAAAAAAAAAAA",
        "c18446744073709551615.AAAAAAAAAAAAAAAA",
        // One of a release before, which meant another order.
        "1831536000000.AAAAAAAAAAAAAAAA",
    ] {
        assert!(mark(other).is_none(), "{other}");
    }
}

#[test]
fn a_store_that_takes_no_writes_is_listed_as_it_is() {
    let world = World::new();
    let ordered = begin(&world, &POLICY);
    // A session that is not in the order yet.
    let (keys, unordered) = (Keys::of("u"), id());
    let (key, member) = (keys.session(&unordered), unordered.clone());
    let before_ms = (EPOCH_MS - 1).to_string();
    let entries = vec![entry(USER_FIELD, "u"), entry(CREATED_FIELD, &before_ms)];
    world.perform(vec![
        Operation::HashSet { key, entries, ttl: Some(60_000) },
        Operation::MemberSet { key: keys.sessions, member, ttl: 60_000 },
    ]);
    let listed = || {
        let page = list(&world, "u", 0, "").expect("a page");
        page.sessions.into_iter().map(|session| session.session_id).collect::<Vec<_>>()
    };
    // The first write comes behind the page, both sets and the record.
    for error in [Error::Unavailable("full".into()), Error::Full("full".into())] {
        world.fail_after(4, error);
        assert_eq!(listed(), [ordered.as_str()]);
    }
    assert_eq!(listed(), [ordered, unordered]);
}

#[test]
fn a_removed_attribute_is_stored_as_one_that_was_never_given() {
    let world = World::new();
    let given = Attributes {
        auth_code: Some("c".into()),
        expiration_time: Some(7),
        user_email: Some("e".into()),
        ..attributes("before")
    };
    let id = create(&world, &POLICY, &given).expect("a session");
    let clear = ["auth_code", "expiration_time", "auth_code"].map(String::from);
    let updated = update(&world, &POLICY, &id, attributes("t"), &clear).expect("a session");
    let mut stored = world.hash(&record(&id)).expect("a record");
    stored.retain(|(name, _)| !name.starts_with('_'));
    let expected = [
        ("access_token", "t"),
        ("auth_code", ""),
        ("expiration_time", ""),
        ("user_email", "e"),
        ("user_id", "u"),
    ];
    assert_eq!(stored, expected.map(|(name, value)| (name.into(), value.into())));
    for read in [updated, get(&world, &POLICY, &id).expect("a session")] {
        let read = read.attributes;
        assert_eq!((read.auth_code.as_deref(), read.expiration_time), (Some(""), None));
    }
}

#[test]
fn an_attribute_that_cannot_be_removed_is_refused() {
    let world = World::new();
    let clear = ["user_id", "access_token", "colour", "_created", ""].map(String::from);
    let refused = update(&world, &POLICY, &id(), attributes("t"), &clear).expect_err("refused");
    assert_eq!(fields_of(&refused), ["user_id", "access_token", "clear", "clear", "clear"]);
    assert_eq!(world.executed(), 0);
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
        let refused = create(&World::new(), &POLICY, &wrong).expect_err("refused");
        let all = [USER_FIELD, DEVICE_FIELD, CODE_FIELD, ACCESS_FIELD, REFRESH_FIELD, EMAIL_FIELD];
        assert_eq!(fields_of(&refused), all);
        let says_where = |violation: &crate::faults::Violation| {
            violation.description.contains("control character")
                && violation.description.ends_with("at character 2")
        };
        assert!(refused.violations.iter().all(says_where), "{refused:?}");
    }
}

#[test]
fn every_breach_is_reported() {
    let wrong = Attributes {
        user_id: Some("a\nb".into()),
        device_id: Some("x".repeat(257)),
        auth_code: Some("x".repeat(CODE_BYTES_MAX + 1)),
        access_token: Some("x".repeat(TOKEN_BYTES_MAX + 1)),
        refresh_token: Some("x".repeat(TOKEN_BYTES_MAX)),
        expiration_time: None,
        user_email: Some("x".repeat(EMAIL_BYTES_MAX + 1)),
    };
    let world = World::new();
    let refused = create(&world, &POLICY, &wrong).expect_err("violations");
    let fields = ["user_id", "device_id", "auth_code", "access_token", "user_email"];
    assert_eq!(fields_of(&refused), fields);
    let nothing = Attributes { access_token: None, ..attributes("") };
    let refused = update(&world, &POLICY, &id(), nothing, &[]).expect_err("nothing to change");
    assert_eq!(refused.violations[0].field, "session_attributes");
    assert!(list(&world, "u", -1, "x").is_err_and(|refused| refused.violations.len() == 2));
    assert_eq!(world.executed(), 0);
}

#[test]
fn an_outage_is_reported_as_one() {
    let world = World::new();
    let down = |call: &dyn Fn() -> Result<(), Fault>| {
        world.fail_after(0, Error::Unavailable("down".into()));
        assert_eq!(call().expect_err("down").reason, Reason::StoreUnavailable);
    };
    down(&|| create(&world, &POLICY, &attributes("t")).map(drop));
    down(&|| get(&world, &POLICY, &id()).map(drop));
    down(&|| list(&world, "u", 0, "").map(drop));
    down(&|| update(&world, &POLICY, &id(), attributes("t"), &[]).map(drop));
    down(&|| close(&world, &POLICY, &id()));
    down(&|| close_all(&world, &POLICY, "u", None).map(drop));
}
