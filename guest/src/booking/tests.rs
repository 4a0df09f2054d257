//! Each rule against a store that is told what to answer: which transaction
//! it asks for, and what it makes of the outcome.

use super::*;
use crate::booking_types::Value;
use crate::script::Script;
use crate::store::StoreError;

const POLICY: Policy = Policy::DEFAULTS;

const WHATEVER: Condition = Condition { version: None, exists: None };

fn write(context: &str, key: &str, fields: &[(&str, &str)]) -> Write {
    let field = |(name, json): &(&str, &str)| Field {
        name: (*name).into(),
        value: Value::Json(json.as_bytes().to_vec()),
    };
    Write {
        context: context.into(),
        session_key: key.into(),
        fields: fields.iter().map(field).collect(),
        condition: WHATEVER,
        lock_token: None,
        idempotency_key: None,
        violations: Vec::new(),
    }
}

fn entry(field: &str, value: &str) -> Entry {
    Entry { field: field.into(), value: value.into() }
}

fn record(entries: &[(&str, &str)]) -> Reply {
    let entries = entries.iter().map(|(field, value)| entry(field, value)).collect();
    Reply::Record(Some(Hash { entries, expires_at_ms: Some(4000) }))
}

fn equals(key: &str, field: &str, value: &str) -> FieldTest {
    FieldTest { key: key.into(), field: field.into(), value: value.into() }
}

const PRE_ORDER: &str = "SESSION_PRE_ORDER:k";
const LOCK: &str = "SESSION_LOCK:{SESSION_PRE_ORDER:k}";

#[test]
fn a_write_is_one_transaction_that_checks_the_lock_and_counts_the_version() {
    let written = vec![Reply::Deadline(Some(901_000)), Reply::Number(7)];
    let script = Script::answering(true, written);
    let request = write("pre-order", "k", &[("fleetListRequest", "{}")]);
    let written = set(&script, &POLICY, request).expect("written");
    assert_eq!((written.version, written.expires_at_ms), (7, 901_000));
    let txn = script.asked();
    assert_eq!(txn.compare, [Compare::Absent(LOCK.into())]);
    assert_eq!(
        txn.success,
        [
            Operation::HashSet(HashSet {
                key: PRE_ORDER.into(),
                entries: vec![entry("FLEET_LIST_REQUEST", "{}")],
                ttl_ms: Some(900_000),
            }),
            Operation::HashAdd(HashAdd {
                key: PRE_ORDER.into(),
                field: "_version".into(),
                delta: 1,
            }),
        ]
    );
}

fn at_version(number: u64) -> Compare {
    let field = "_version".into();
    Compare::CountEquals(CountTest { key: PRE_ORDER.into(), field, number })
}

fn is_mine(token: &str) -> Compare {
    Compare::FieldEquals(equals(LOCK, "token", token))
}

#[test]
fn conditions_become_compares() {
    let (unlocked, absent) = (Compare::Absent(LOCK.into()), Compare::Absent(PRE_ORDER.into()));
    let there = Compare::Exists(PRE_ORDER.into());
    for (version, exists, lock_token, expected) in [
        (None, None, None, vec![unlocked.clone()]),
        (Some(0), None, None, vec![unlocked.clone(), at_version(0)]),
        (Some(3), None, Some("t"), vec![is_mine("t"), at_version(3)]),
        (None, Some(false), None, vec![unlocked.clone(), absent.clone()]),
        (None, Some(true), None, vec![unlocked.clone(), there]),
        (Some(0), Some(false), None, vec![unlocked, at_version(0), absent]),
    ] {
        let replies = vec![Reply::Deadline(Some(1)), Reply::Number(1)];
        let script = Script::answering(true, replies);
        let mut request = write("pre-order", "k", &[("fleet_list_request", "1")]);
        let condition = Condition { version, exists };
        request.condition = condition;
        request.lock_token = lock_token.map(Into::into);
        set(&script, &POLICY, request).expect("written");
        assert_eq!(script.asked().compare, expected);
        let script = Script::answering(true, vec![Reply::Existed(true)]);
        delete(&script, "pre-order", "k", condition, lock_token, None).expect("deleted");
        assert_eq!(script.asked().compare, expected);
    }
}

#[test]
fn a_refused_write_or_delete_says_which_condition_failed() {
    let locked = || record(&[("token", "theirs")]);
    let at = |version| record(&[("_version", version)]);
    let absent = || Reply::Record(None);
    for (version, token, replies, reason, fact) in [
        (None, None, vec![locked(), absent()], Reason::SessionLocked, "3000"),
        (Some(1), None, vec![locked(), at("2")], Reason::SessionLocked, "3000"),
        (Some(1), None, vec![absent(), at("2")], Reason::VersionMismatch, "2"),
        (Some(1), None, vec![absent(), absent()], Reason::VersionMismatch, "0"),
        (Some(0), None, vec![absent(), at("2")], Reason::VersionMismatch, "2"),
        (Some(1), None, vec![absent(), record(&[])], Reason::VersionMismatch, "0"),
        (Some(1), None, vec![absent(), at("007")], Reason::VersionMismatch, "0"),
        (Some(7), None, vec![absent(), at("007")], Reason::VersionMismatch, "0"),
        (Some(1), None, vec![absent(), at("9007199254740992")], Reason::VersionMismatch, "0"),
        (Some(1), Some("theirs"), vec![locked(), at("2")], Reason::VersionMismatch, "2"),
        (Some(1), Some("mine"), vec![locked(), at("2")], Reason::SessionLocked, "3000"),
        (None, Some("stale"), vec![absent(), at("2")], Reason::SessionLocked, "0"),
        (Some(1), Some("stale"), vec![absent(), at("2")], Reason::SessionLocked, "0"),
    ] {
        let script = || {
            let copies = replies.iter().map(|reply| match reply {
                Reply::Record(hash) => Reply::Record(hash.clone()),
                _ => panic!("records alone"),
            });
            Script::answering(false, copies.collect())
        };
        let mut request = write("pre-order", "k", &[("fleet_list_request", "1")]);
        let condition = Condition { version, exists: None };
        request.condition = condition;
        request.lock_token = token.map(Into::into);
        let deleted = delete(&script(), "pre-order", "k", condition, token, None);
        for fault in
            [set(&script(), &POLICY, request).expect_err("refused"), deleted.expect_err("refused")]
        {
            assert_eq!((fault.reason, fault.metadata[0].value.as_str()), (reason, fact));
            let ended = fault.message.contains("has ended");
            assert_eq!(ended, token == Some("stale"), "{}", fault.message);
        }
    }
}

#[test]
fn a_write_that_demands_nothing_there_is_told_what_is() {
    for (there, current) in [(record(&[]), "0"), (record(&[("_version", "2")]), "2")] {
        let script = Script::answering(false, vec![Reply::Record(None), there]);
        let mut request = write("pre-order", "k", &[("fleet_list_request", "1")]);
        request.condition.exists = Some(false);
        let fault = set(&script, &POLICY, request).expect_err("refused");
        assert_eq!(fault.reason, Reason::VersionMismatch);
        assert_eq!(fault.metadata[0].value, current);
        assert!(fault.message.contains("already"), "{}", fault.message);
    }
}

#[test]
fn a_lock_that_has_ended_is_given_back_all_the_same() {
    let script = Script::answering(true, vec![Reply::Existed(false)]);
    unlock(&script, "pre-order", "k", "stale").expect("nothing to do");
    let open = Compare::FieldEqualsOrAbsent(equals(LOCK, "token", "stale"));
    assert_eq!(script.asked().compare, [open]);
}

#[test]
fn only_a_context_that_can_outgrow_a_session_is_measured() {
    let replies = vec![Reply::Record(None), record(&[("_version", "1")])];
    let script = Script::answering(false, replies);
    let request = write("rent-revamp", "k", &[("fleet_id", "\"ab\"")]);
    let fault = set(&script, &POLICY, request).expect_err("too large");
    assert_eq!((fault.reason, fault.violations.len()), (Reason::InvalidRequest, 1));
    let bound = SizeBound {
        key: "SESSION_RENT_REVAMP:k".into(),
        except: vec!["FLEET_ID".into(), "_version".into()],
        limit: SESSION_BYTES_MAX - 2,
    };
    assert_eq!(script.asked().compare[1], Compare::SizeAtMost(bound));
}

#[test]
fn every_violation_is_told_and_nothing_is_asked_of_the_store() {
    let mut request = write(
        "reschedule",
        "a b",
        &[("nothing", "1"), ("fixed", "\"x\""), ("order_id", "1"), ("orderId", "\"1\"")],
    );
    request.violations = vec![violation("if_version", "is wrong")];
    let script = Script::default();
    let fault = set(&script, &POLICY, request).expect_err("refused");
    let fields: Vec<&str> = fault.violations.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["if_version", "session_key", "nothing", "fixed", "order_id"]);
    assert!(script.asked_nothing());
}

#[test]
fn a_write_names_at_least_one_value() {
    for fields in [&[][..], &[("order_id", "null")]] {
        let fault = set(&Script::default(), &POLICY, write("reschedule", "k", fields));
        assert_eq!(fault.expect_err("refused").violations[0].field, "fields");
    }
}

#[test]
fn a_key_is_made_when_there_is_none() {
    let replies = vec![Reply::Deadline(Some(1)), Reply::Number(1)];
    let script = Script::answering(true, replies);
    let request = write("pre-order", "", &[("fleet_list_request", "1")]);
    let written = set(&script, &POLICY, request).expect("written");
    assert_eq!(written.session_key, "T".repeat(32));
}

#[test]
fn a_read_answers_what_the_schema_knows() {
    let stored = [
        ("ORDER_ID", "42"),
        ("IS_PROMO_VALID", "true"),
        ("_version", "5"),
        ("SOMEBODY_ELSES", "x"),
    ];
    let script = Script::answering(false, vec![record(&stored)]);
    let session = get(&script, "reschedule", "k", None).expect("read");
    assert_eq!((session.version, session.expires_at_ms), (5, Some(4000)));
    let written: Vec<(&str, &[u8])> = session
        .fields
        .iter()
        .filter_map(|field| Some((field.name.as_str(), field.value.as_deref()?)))
        .collect();
    assert_eq!(written, [("is_promo_valid", &b"1"[..]), ("order_id", b"42")]);
    // Scalars that were never written are told as such, documents are not.
    assert_eq!(session.fields.len(), 11);
    assert!(session.fields.iter().all(|field| field.name != "localized_message"));
}

#[test]
fn a_one_time_session_is_deleted_by_the_transaction_that_reads_it() {
    let script = Script::answering(true, vec![record(&[("_version", "1")]), Reply::Existed(true)]);
    get(&script, "reschedule", "k", None).expect("read");
    let txn = script.asked();
    let key = "SESSION_RESCHEDULE:k";
    let [Compare::FieldAmong(choice)] = &txn.compare[..] else { panic!("{:?}", txn.compare) };
    assert_eq!((&*choice.key, &*choice.field), (key, "DELETE_AFTER_GET"));
    // What reads as true acts as true, and nothing else does.
    for text in ["1", "true", "TRUE", "t", "0", "false", "F", "yes", ""] {
        let text = text.as_bytes().to_vec();
        let is_true = value::from_stored(Kind::Boolean, text.clone()).as_deref() == Some(b"1");
        assert_eq!(choice.values.contains(&text), is_true, "{text:?}");
    }
    assert_eq!(txn.success[1], Operation::HashDelete(key.into()));
    assert_eq!(txn.failure.len(), 1);
}

#[test]
fn an_outage_is_never_a_missing_session() {
    let down = || Script::failing(StoreError::Unavailable("down".into()));
    let reasons = [
        get(&down(), "pre-order", "k", None).expect_err("down").reason,
        delete(&down(), "pre-order", "k", WHATEVER, None, None).expect_err("down").reason,
        lock(&down(), &POLICY, "pre-order", "k", None, None).expect_err("down").reason,
        unlock(&down(), "pre-order", "k", "t").expect_err("down").reason,
    ];
    assert_eq!(reasons, [Reason::StoreUnavailable; 4]);
    let missing = Script::answering(true, vec![Reply::Record(None)]);
    let fault = get(&missing, "pre-order", "k", None).expect_err("missing");
    assert_eq!(fault.reason, Reason::SessionNotFound);
}

#[test]
fn no_fault_repeats_the_session_key() {
    let key = "somebodys key";
    for fault in [
        get(&Script::default(), "pre-order", key, None).expect_err("refused"),
        get(&Script::answering(true, vec![Reply::Record(None)]), "pre-order", "somebodys", None)
            .expect_err("missing"),
    ] {
        assert!(!format!("{fault:?}").contains("somebodys"), "{fault:?}");
    }
}
