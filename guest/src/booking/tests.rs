//! The rules of booking sessions on the store in memory: what each of them answers, what it
//! leaves under the keys, and why it refuses. A rule is one transaction. What is in the store
//! before comes from the rules themselves, or is put there as another program may write it.

use super::*;
use crate::booking_types::Value;
use crate::testing::{EPOCH_MS, World, entry};
use session_store::Error;
use session_store::transaction::Operation;

const POLICY: Policy = Policy::DEFAULTS;

const UNCONDITIONAL: Condition = Condition { version: None, exists: None };

const PRE_ORDER: &str = "SESSION_PRE_ORDER:k";
const RESCHEDULE: &str = "SESSION_RESCHEDULE:k";
const LOCK: &str = "SESSION_LOCK:{SESSION_PRE_ORDER:k}";

const MINE: &str = "the-token-of-my-lock";
const THEIRS: &str = "the-token-of-their-lock";

/// Fields of a hash; without fields there is no hash.
type Fields<'a> = &'a [(&'a str, &'a str)];

const NOTHING: Fields = &[];
/// A session that another program wrote, without a version.
const UNVERSIONED: Fields = &[("FLEET_LIST_REQUEST", "0")];
const AT_3: Fields = &[("FLEET_LIST_REQUEST", "0"), ("_version", "3")];

fn write(context: &str, key: &str, fields: Fields) -> Write {
    let field = |(name, json): &(&str, &str)| Field {
        name: (*name).into(),
        value: Value::Json(json.as_bytes().to_vec()),
    };
    Write {
        context: context.into(),
        session_key: key.into(),
        fields: fields.iter().map(field).collect(),
        condition: UNCONDITIONAL,
        lock_token: None,
        idempotency_key: None,
        violations: Vec::new(),
    }
}

/// A write to the pre-order session.
fn change(condition: Condition, token: Option<&str>) -> Write {
    let request = write("pre-order", "k", &[("fleet_list_request", "1")]);
    Write { condition, lock_token: token.map(Into::into), ..request }
}

/// Puts a hash into the store beside the rules, for a minute.
fn put(world: &World, key: &str, fields: Fields) {
    if !fields.is_empty() {
        let entries = fields.iter().map(|(field, value)| entry(field, value)).collect();
        world.perform(vec![Operation::HashSet { key: key.into(), entries, ttl: Some(60_000) }]);
    }
}

/// A world with these fields in the pre-order session, whose lock another caller holds.
fn world_with(fields: Fields, holder: Option<&str>) -> World {
    let world = World::new();
    put(&world, PRE_ORDER, fields);
    if let Some(holder) = holder {
        lock(&world, &POLICY, "pre-order", "k", Some(holder), None).expect("locked");
    }
    world
}

/// The fields that the store has under a key, as [`World::hash`] shows them.
fn stored(fields: Fields) -> Option<Vec<(String, String)>> {
    let own = |(field, value): &(&str, &str)| ((*field).into(), (*value).into());
    Some(fields.iter().map(own).collect())
}

/// The answer of a rule that asks the store for one transaction.
fn in_one_transaction<T>(world: &World, rule: impl FnOnce() -> T) -> T {
    let before = world.executed();
    let answer = rule();
    assert_eq!(world.executed() - before, 1, "a rule is one transaction");
    answer
}

fn set_once(world: &World, request: Write) -> Result<Written, Fault> {
    in_one_transaction(world, || set(world, &POLICY, request))
}

fn get_once(world: &World, context: &str) -> Result<Session, Fault> {
    in_one_transaction(world, || get(world, context, "k", None))
}

fn delete_once(world: &World, condition: Condition, token: Option<&str>) -> Result<(), Fault> {
    in_one_transaction(world, || delete(world, "pre-order", "k", condition, token, None))
}

fn unlock_once(world: &World, token: &str) -> Result<(), Fault> {
    in_one_transaction(world, || unlock(world, "pre-order", "k", token))
}

#[test]
fn a_write_is_one_transaction_that_checks_the_lock_and_counts_the_version() {
    let world = World::new();
    put(&world, PRE_ORDER, &[("FLEET_LIST_RESPONSE", "[]"), ("_version", "6")]);
    world.clock.advance(1000);
    let request = || write("pre-order", "k", &[("fleetListRequest", "{}")]);
    let written = set_once(&world, request()).expect("written");
    assert_eq!((written.version, written.expires_at_ms), (7, EPOCH_MS + 1000 + 900_000));
    assert_eq!(written.session_key, "k");
    let after =
        stored(&[("FLEET_LIST_REQUEST", "{}"), ("FLEET_LIST_RESPONSE", "[]"), ("_version", "7")]);
    assert_eq!(world.hash(PRE_ORDER), after);

    lock(&world, &POLICY, "pre-order", "k", Some(THEIRS), None).expect("locked");
    let fault = set_once(&world, request()).expect_err("locked");
    assert_eq!(fault.reason, Reason::SessionLocked);
    assert_eq!(world.hash(PRE_ORDER), after);

    world.clock.advance(899_999);
    assert_eq!(world.hash(PRE_ORDER), after);
    world.clock.advance(1);
    assert_eq!(world.hash(PRE_ORDER), None);
}

#[test]
fn a_write_or_delete_happens_exactly_when_its_conditions_hold() {
    let sessions = [NOTHING, UNVERSIONED, AT_3];
    let holders = [None, Some(MINE), Some(THEIRS)];
    for (version, exists, token, fitting) in [
        (None, None, None, &sessions[..]),
        (Some(0), None, None, &[NOTHING, UNVERSIONED]),
        (Some(3), None, Some(MINE), &[AT_3]),
        (None, Some(false), None, &[NOTHING]),
        (None, Some(true), None, &[UNVERSIONED, AT_3]),
        (Some(0), Some(false), None, &[NOTHING]),
    ] {
        let condition = Condition { version, exists };
        for (session, holder) in sessions.iter().flat_map(|s| holders.map(|holder| (*s, holder))) {
            let case = format!("{condition:?} with {token:?}: {session:?} locked by {holder:?}");
            let holds = fitting.contains(&session) && holder == token;

            let world = world_with(session, holder);
            let (before, locked) = (world.hash(PRE_ORDER), world.hash(LOCK));
            let written = set_once(&world, change(condition, token));
            assert_eq!(written.is_ok(), holds, "{case}");
            // A write that happens changes the version at least.
            assert_eq!(world.hash(PRE_ORDER) != before, holds, "{case}");
            assert_eq!(world.hash(LOCK), locked, "{case}");

            let world = world_with(session, holder);
            assert_eq!(delete_once(&world, condition, token).is_ok(), holds, "{case}");
            let after = if holds { None } else { before };
            assert_eq!(world.hash(PRE_ORDER), after, "{case}");
            assert_eq!(world.hash(LOCK), locked, "{case}");
        }
    }
}

#[test]
fn a_refused_write_or_delete_says_which_condition_failed() {
    // Who has locked the session, and how long ago. A lock lasts for three seconds.
    let (free, held, ended) = (None, Some((THEIRS, 1000)), Some((MINE, 3000)));
    let at_2: Fields = &[("_version", "2")];
    let at_007: Fields = &[("_version", "007")];
    let beyond: Fields = &[("_version", "9007199254740992")];
    for (version, token, lock_taken, session, reason, fact) in [
        (None, None, held, NOTHING, Reason::SessionLocked, "2000"),
        (Some(1), None, held, at_2, Reason::SessionLocked, "2000"),
        (Some(1), None, free, at_2, Reason::VersionMismatch, "2"),
        (Some(1), None, ended, at_2, Reason::VersionMismatch, "2"),
        (Some(1), None, free, NOTHING, Reason::VersionMismatch, "0"),
        (Some(0), None, free, at_2, Reason::VersionMismatch, "2"),
        (Some(1), None, free, UNVERSIONED, Reason::VersionMismatch, "0"),
        (Some(1), None, free, at_007, Reason::VersionMismatch, "0"),
        (Some(7), None, free, at_007, Reason::VersionMismatch, "0"),
        (Some(1), None, free, beyond, Reason::VersionMismatch, "0"),
        (Some(1), Some(THEIRS), held, at_2, Reason::VersionMismatch, "2"),
        (Some(1), Some(MINE), held, at_2, Reason::SessionLocked, "2000"),
        (None, Some(MINE), ended, at_2, Reason::SessionLocked, "0"),
        (Some(1), Some(MINE), ended, at_2, Reason::SessionLocked, "0"),
    ] {
        let case = format!("version {version:?} with {token:?}: {session:?}, {lock_taken:?}");
        let world = world_with(session, lock_taken.map(|(holder, _)| holder));
        world.clock.advance(lock_taken.map_or(0, |(_, ago_ms)| ago_ms));
        let before = world.hash(PRE_ORDER);
        let condition = Condition { version, exists: None };
        let written = set_once(&world, change(condition, token));
        let deleted = delete_once(&world, condition, token);
        assert_eq!(world.hash(PRE_ORDER), before, "{case}");
        for (fault, undone) in [
            (written.expect_err(&case), "nothing was written"),
            (deleted.expect_err(&case), "nothing was deleted"),
        ] {
            assert_eq!(fault.reason, reason, "{case}");
            assert_eq!(fault.metadata[0].value, fact, "{case}");
            let says = |text| fault.message.contains(text);
            assert_eq!(says("has ended"), fact == "0" && token == Some(MINE), "{case}");
            assert_eq!(says(undone), reason == Reason::VersionMismatch, "{case}");
        }
    }
}

#[test]
fn a_refused_write_of_a_new_session_says_which_session_exists() {
    for (session, current) in [(UNVERSIONED, "0"), (AT_3, "3")] {
        let world = world_with(session, None);
        let condition = Condition { version: None, exists: Some(false) };
        let fault = set_once(&world, change(condition, None)).expect_err("refused");
        assert_eq!(fault.reason, Reason::VersionMismatch);
        assert_eq!(fault.metadata[0].value, current);
        assert!(fault.message.contains("already"), "{}", fault.message);
        assert_eq!(world.hash(PRE_ORDER), stored(session));
    }
}

#[test]
fn a_lock_that_has_ended_is_given_back_all_the_same() {
    let world = world_with(NOTHING, Some(MINE));
    unlock_once(&world, MINE).expect("given back");
    assert_eq!(world.hash(LOCK), None);
    unlock_once(&world, MINE).expect("nothing to do");

    let world = world_with(NOTHING, Some(MINE));
    world.clock.advance(POLICY.session_lock_ttl_ms);
    unlock_once(&world, MINE).expect("nothing to do");
    lock(&world, &POLICY, "pre-order", "k", Some(THEIRS), None).expect("locked");
    world.clock.advance(1000);
    // Another caller has locked it since.
    let fault = unlock_once(&world, MINE).expect_err("not mine");
    assert_eq!((&*fault.reason, &*fault.metadata[0].value), (Reason::SessionLocked.name(), "2000"));
    assert_eq!(world.hash(LOCK), stored(&[("token", THEIRS)]));
}

#[test]
fn only_a_context_that_can_outgrow_a_session_is_measured() {
    let world = World::new();
    let key = "SESSION_RENT_REVAMP:k";
    let largest = "x".repeat(usize::try_from(SESSION_BYTES_MAX).unwrap());
    // Neither the version nor what a write replaces is measured.
    let others = &largest[2..];
    put(&world, key, &[("SELECTED_FLEET", others), ("FLEET_ID", "longer"), ("_version", "1")]);
    let before = world.hash(key);
    let too_large = write("rent-revamp", "k", &[("fleet_id", "\"abc\"")]);
    let fault = set_once(&world, too_large).expect_err("too large");
    assert_eq!((&*fault.reason, fault.violations.len()), (Reason::InvalidRequest.name(), 1));
    assert_eq!(fault.violations[0].field, "fields");
    assert!(world.hash(key) == before, "nothing is written");
    let fits = write("rent-revamp", "k", &[("fleet_id", "\"ab\"")]);
    assert_eq!(set_once(&world, fits).expect("written").version, 2);

    put(&world, PRE_ORDER, &[("FLEET_LIST_RESPONSE", &largest)]);
    assert_eq!(set_once(&world, change(UNCONDITIONAL, None)).expect("written").version, 1);
}

#[test]
fn every_violation_is_listed_and_nothing_is_asked_of_the_store() {
    let mut request = write(
        "reschedule",
        "a b",
        &[("nothing", "1"), ("fixed", "\"x\""), ("order_id", "1"), ("orderId", "\"1\"")],
    );
    request.violations = vec![violation("if_version", "is wrong")];
    let world = World::new();
    let fault = set(&world, &POLICY, request).expect_err("refused");
    let fields: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["if_version", "session_key", "nothing", "fixed", "order_id"]);
    assert_eq!(world.executed(), 0);
}

#[test]
fn a_write_names_at_least_one_value() {
    let world = World::new();
    for fields in [&[][..], &[("order_id", "null")]] {
        let fault = set(&world, &POLICY, write("reschedule", "k", fields));
        assert_eq!(fault.expect_err("refused").violations[0].field, "fields");
    }
    assert_eq!(world.executed(), 0);
    assert_eq!(world.hash(RESCHEDULE), None);
}

#[test]
fn a_key_is_made_when_there_is_none() {
    let world = World::new();
    // The tokens of this world are numbers.
    for made in ["0".repeat(32), format!("{:032}", 1)] {
        let request = write("pre-order", "", &[("fleet_list_request", "1")]);
        let written = set_once(&world, request).expect("written");
        assert_eq!((written.session_key.as_str(), written.version), (made.as_str(), 1));
        let session = stored(&[("FLEET_LIST_REQUEST", "1"), ("_version", "1")]);
        assert_eq!(world.hash(&format!("SESSION_PRE_ORDER:{made}")), session);
    }
}

#[test]
fn a_read_answers_the_fields_of_the_schema() {
    let world = World::new();
    let fields = [
        ("ORDER_ID", "42"),
        ("IS_PROMO_VALID", "true"),
        ("_version", "5"),
        ("SOMEBODY_ELSES", "x"),
    ];
    put(&world, RESCHEDULE, &fields);
    world.clock.advance(1000);
    let session = get_once(&world, "reschedule").expect("read");
    // A read does not make it live longer.
    assert_eq!((session.version, session.expires_at_ms), (5, Some(EPOCH_MS + 60_000)));
    let written: Vec<(&str, &[u8])> = session
        .fields
        .iter()
        .filter_map(|field| Some((field.name.as_str(), field.value.as_deref()?)))
        .collect();
    assert_eq!(written, [("is_promo_valid", &b"1"[..]), ("order_id", b"42")]);
    // Scalars that were never written are listed without a value, documents are not listed.
    assert_eq!(session.fields.len(), 11);
    assert!(session.fields.iter().all(|field| field.name != "localized_message"));
}

#[test]
fn a_one_time_session_is_deleted_by_the_transaction_that_reads_it() {
    // Every stored text that means true has this effect, and no other does.
    for text in ["1", "true", "TRUE", "True", "t", "T", "0", "false", "F", "yes", ""] {
        let world = World::new();
        let fields = [("DELETE_AFTER_GET", text), ("ORDER_ID", "42"), ("_version", "1")];
        put(&world, RESCHEDULE, &fields);
        let first = get_once(&world, "reschedule").expect("read");
        let value = |name| {
            let field = first.fields.iter().find(|field| field.name == name).expect("listed");
            field.value.as_deref()
        };
        assert_eq!((first.version, value("order_id")), (1, Some(&b"42"[..])), "{text:?}");
        let is_last = value("delete_after_get") == Some(b"1");
        let left = if is_last { None } else { stored(&fields) };
        assert_eq!(world.hash(RESCHEDULE), left, "{text:?}");
        let again = get_once(&world, "reschedule").map_err(|fault| fault.reason);
        let not_found = Reason::SessionNotFound.name();
        assert_eq!(again.err().as_deref(), is_last.then_some(not_found), "{text:?}");
    }
    // Neither a session of another context nor one without the field is for a single read.
    for (context, key, fields) in [
        ("pre-order", PRE_ORDER, &[("DELETE_AFTER_GET", "1"), ("_version", "1")]),
        ("reschedule", RESCHEDULE, &[("ORDER_ID", "42"), ("_version", "1")]),
    ] {
        let world = World::new();
        put(&world, key, fields);
        get_once(&world, context).expect("read");
        assert_eq!(world.hash(key), stored(fields));
    }
}

#[test]
fn an_outage_is_never_a_missing_session() {
    let world = World::new();
    let down = || {
        world.fail_after(0, Error::Unavailable("down".into()));
        &world
    };
    let reasons = [
        set(down(), &POLICY, change(UNCONDITIONAL, None)).expect_err("down").reason,
        get(down(), "pre-order", "k", None).expect_err("down").reason,
        get(down(), "reschedule", "k", None).expect_err("down").reason,
        delete(down(), "pre-order", "k", UNCONDITIONAL, None, None).expect_err("down").reason,
        lock(down(), &POLICY, "pre-order", "k", None, None).expect_err("down").reason,
        unlock(down(), "pre-order", "k", MINE).expect_err("down").reason,
    ];
    assert_eq!(reasons, [Reason::StoreUnavailable; 6]);
    // None of these rules tries again.
    assert_eq!(world.executed(), 6);
    for context in ["pre-order", "reschedule"] {
        let fault = get_once(&world, context).expect_err("missing");
        assert_eq!(fault.reason, Reason::SessionNotFound);
    }
}

#[test]
fn no_fault_repeats_the_session_key() {
    let world = World::new();
    let key = "somebodys";
    let missing = get(&world, "pre-order", key, None).expect_err("missing");
    let malformed = get(&world, "pre-order", "somebodys key", None).expect_err("malformed");
    let condition = Condition { version: Some(1), exists: None };
    let mismatch = delete(&world, "pre-order", key, condition, None, None).expect_err("mismatch");
    lock(&world, &POLICY, "pre-order", key, Some(THEIRS), None).expect("locked");
    let locked = unlock(&world, "pre-order", key, MINE).expect_err("locked");
    for (fault, reason) in [
        (missing, Reason::SessionNotFound),
        (malformed, Reason::InvalidRequest),
        (mismatch, Reason::VersionMismatch),
        (locked, Reason::SessionLocked),
    ] {
        assert_eq!(fault.reason, reason);
        assert!(!format!("{fault:?}").contains("somebodys"), "{fault:?}");
    }
}
