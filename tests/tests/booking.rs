//! Booking sessions as their users see them: every scenario over both wires and on every store.

use std::time::{Duration, Instant};

use prost::Message;
use serde_json::json;
use session_client::proto::sessionmanager::SessionReschedule;
use session_tests::client::{Conditions, GrpcClient, Wire};
use session_tests::redis_server::RedisServer;
use session_tests::wait;

use crate::everywhere::{On, Setting, everywhere, setting};

/// The maximum size of all values of a session together, in bytes.
const SESSION_BYTES_MAX: usize = (4 << 20) - (64 << 10);
/// Lifetimes that a test can wait for.
const SESSION_TTL_MS: u64 = 1500;

everywhere!(
    a_pre_order_keeps_its_list_request_and_response [],
    a_rental_is_written_in_five_steps_and_read_whole [],
    ez_pay_and_cititrans_keep_their_documents [],
    a_reschedule_keeps_the_types_of_its_fields [],
    one_of_fifty_readers_gets_a_one_time_session [],
    a_write_restarts_the_lifetime_and_a_read_does_not [("SESSION_TTL", "1500ms")],
    a_session_expires [("SESSION_TTL", "200ms")],
    versions_guard_writes [],
    versions_guard_deletes [],
    a_lock_excludes_others_until_it_expires [("SESSION_LOCK_TTL", "4s")],
    the_token_of_an_expired_lock_is_refused [("SESSION_LOCK_TTL", "300ms")],
    a_missing_key_is_generated [],
    deleting_is_idempotent [],
    a_session_has_a_size_limit [],
    all_violations_are_listed [],
    parallel_writes_of_one_session_all_count [],
);

async fn a_pre_order_keeps_its_list_request_and_response(s: Setting) {
    let request = json!({"pickup": {"latitude": -6.2, "longitude": 106.8}, "area": "Jakarta"});
    let response = json!({"fleets": [{"id": 1, "price": 45000.50}, {"id": 2, "price": null}]});
    let written = s.client.set("pre-order", "flow-1", json!({"fleet_list_request": request}));
    assert_eq!(written.await.unwrap().version, 1);
    let fields = json!({"fleet_list_response": response});
    assert_eq!(s.client.set("pre-order", "flow-1", fields).await.unwrap().version, 2);
    let session = s.client.get("pre-order", "flow-1").await.unwrap();
    assert_eq!(session["session_key"], "flow-1");
    assert_eq!(session["fleet_list_request"], request);
    assert_eq!(session["fleet_list_response"], response);
    assert_eq!(session["version"], "2");
    assert!(!session.contains_key("strikethrough_promo_response"), "{session:?}");

    if let Some(redis) = &s.redis {
        let mut connection = redis.connect(5).await;
        let hash: std::collections::HashMap<String, String> = redis::cmd("HGETALL")
            .arg("SESSION_PRE_ORDER:flow-1")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert_eq!(hash["FLEET_LIST_REQUEST"], request.to_string());
        assert_eq!(hash["FLEET_LIST_RESPONSE"], response.to_string());
        assert_eq!(hash["_version"], "2");
        assert_eq!(hash.len(), 3);
        let left: u64 = redis::cmd("PTTL")
            .arg("SESSION_PRE_ORDER:flow-1")
            .query_async(&mut connection)
            .await
            .unwrap();
        assert!((14 * 60_000..=15 * 60_000).contains(&left), "{left}");
    }
}

async fn a_rental_is_written_in_five_steps_and_read_whole(s: Setting) {
    let steps = [
        json!({"dynamic_fleet_list_request": {"days": 3}, "contact_information": {"name": "A"}}),
        json!({"dynamic_fleet_list_response": [{"fleet": "x"}], "passenger_information": [1]}),
        json!({"fleet_id": "fleet-7", "selected_fleet": {"fleet": "x"}}),
        json!({
            "recalculate_rent_price_request": {"hours": 12},
            "recalculate_rent_price_response": {"price": 1},
            "upsell_fleet_response": [],
            "selected_pickup": {"at": "airport"},
            "selected_dropoff": {"at": "hotel"},
        }),
        json!({
            "validate_prebook_request": true,
            "validate_prebook_response": "ok",
            "rent_order_confirmation_request": 1,
            "rent_order_confirmation_response": null,
        }),
    ];
    for (index, step) in steps.iter().enumerate() {
        let written = s.client.set("rent-revamp", "rental", step.clone()).await.unwrap();
        assert_eq!(written.version, index as u64 + 1);
    }
    let session = s.client.get("rent-revamp", "rental").await.unwrap();
    let all: Vec<_> = steps.iter().flat_map(|step| step.as_object().unwrap()).collect();
    assert_eq!(all.len(), 15);
    for (name, value) in all {
        assert_eq!(&session[name], value, "{name}");
    }
}

async fn ez_pay_and_cititrans_keep_their_documents(s: Setting) {
    let pay = json!({
        "request": {"code": "A1"},
        "response": {"valid": true},
        "vehicle_info_bbd_response": {"plate": "B 1234 XY"},
    });
    s.client.set("ez-pay", "k", pay.clone()).await.unwrap();
    let shuttle = json!({"request": [1], "response": [2], "session_data": {"seat": 4}});
    s.client.set("cititrans", "k", shuttle.clone()).await.unwrap();
    for (context, expected) in [("ez-pay", pay), ("cititrans", shuttle)] {
        let session = s.client.get(context, "k").await.unwrap();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&session[name], value, "{context} {name}");
        }
    }
    if let Some(redis) = &s.redis {
        let mut connection = redis.connect(5).await;
        for (key, expected) in [
            (
                "SESSION_PRE_ORDER_EZ_PAY:k",
                ["BBDVehicleInfoResponse", "ValidateEZPayRequest", "ValidateEZPayResponse"],
            ),
            (
                "SESSION_PRE_ORDER_CITITRANS:k",
                ["SCHEDULE_LIST_REQUEST", "SCHEDULE_LIST_RESPONSE", "SESSION_DATA"],
            ),
        ] {
            let mut names: Vec<String> =
                redis::cmd("HKEYS").arg(key).query_async(&mut connection).await.unwrap();
            names.retain(|name| !name.starts_with('_'));
            names.sort();
            assert_eq!(names, expected);
        }
    }
}

async fn a_reschedule_keeps_the_types_of_its_fields(s: Setting) {
    let fields = json!({
        "pickup_time": "2026-01-01T08:00:00+07:00",
        "is_price_changed": true,
        "fixed": 125000.75,
        "estimated_high": 1e300,
        "is_promo_valid": false,
        "localized_message": {"id": "Harga berubah"},
        "order_id": "42",
    });
    s.client.set("reschedule", "k", fields.clone()).await.unwrap();
    let session = s.client.get("reschedule", "k").await.unwrap();
    for (name, value) in fields.as_object().unwrap() {
        assert_eq!(&session[name], value, "{name}");
    }
    // A scalar that was never written has its default, as grpc-gateway prints it.
    assert_eq!(session["delete_after_get"], false);
    assert_eq!(session["promo_code"], "");
    assert_eq!(session["fixed_base"].as_f64(), Some(0.0));
    // Without `delete_after_get`, the session can be read again.
    assert!(s.client.get("reschedule", "k").await.is_ok());
}

async fn one_of_fifty_readers_gets_a_one_time_session(s: Setting) {
    let fields = json!({"delete_after_get": true, "order_id": "42"});
    s.client.set("reschedule", "once", fields).await.unwrap();
    let mut readers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let client = s.client.clone();
        readers.spawn(async move { client.get("reschedule", "once").await });
    }
    let (mut got, mut missed) = (0, 0);
    for read in readers.join_all().await {
        match read {
            Ok(session) => {
                assert_eq!(session["order_id"], "42");
                got += 1;
            }
            Err(refusal) => {
                assert_eq!(refusal.reason, "SESSION_NOT_FOUND");
                missed += 1;
            }
        }
    }
    assert_eq!((got, missed), (1, 49));
}

async fn a_write_restarts_the_lifetime_and_a_read_does_not(s: Setting) {
    s.client.set("pre-order", "k", json!({"fleet_list_request": 1})).await.unwrap();
    s.client.set("pre-order", "other", json!({"fleet_list_request": 1})).await.unwrap();
    // Reads do not extend the lifetime of `other`; writes extend that of `k`.
    let mut written = Instant::now();
    wait::until("the session that is only read expires", async || {
        written = Instant::now();
        s.client.set("pre-order", "k", json!({"fleet_list_request": 1})).await.unwrap();
        s.client.get("pre-order", "other").await.is_err().then_some(())
    })
    .await;
    let is_there = s.client.get("pre-order", "k").await.is_ok();
    assert!(is_there || written.elapsed() >= Duration::from_millis(SESSION_TTL_MS));
    if let Some(redis) = &s.redis {
        let mut connection = redis.connect(5).await;
        let left: i64 = redis::cmd("PTTL")
            .arg("SESSION_PRE_ORDER:k")
            .query_async(&mut connection)
            .await
            .unwrap();
        // The key has a lifetime, unless it has expired already.
        assert!(left != -1 && left <= SESSION_TTL_MS.cast_signed(), "{left}");
    }
}

async fn a_session_expires(s: Setting) {
    s.client.set("ez-pay", "k", json!({"request": 1})).await.unwrap();
    let refusal =
        wait::until("the session expires", async || s.client.get("ez-pay", "k").await.err()).await;
    assert_eq!((refusal.reason.as_str(), refusal.code), ("SESSION_NOT_FOUND", 5));
    // A later write creates a new session.
    assert_eq!(s.client.set("ez-pay", "k", json!({"request": 1})).await.unwrap().version, 1);
}

async fn versions_guard_writes(s: Setting) {
    let at = |version| Conditions { if_version: Some(version), ..Conditions::default() };
    let fields = |n: u32| json!({"request": n});
    let refused = s.client.set_if("ez-pay", "k", fields(0), at(3)).await.unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.code), ("VERSION_MISMATCH", 10));
    assert_eq!(refused.metadata["currentVersion"], "0");
    assert!(s.client.get("ez-pay", "k").await.is_err(), "nothing was written");
    assert_eq!(s.client.set_if("ez-pay", "k", fields(1), at(0)).await.unwrap().version, 1);
    let refused = s.client.set_if("ez-pay", "k", fields(2), at(0)).await.unwrap_err();
    assert_eq!(refused.metadata["currentVersion"], "1");
    assert_eq!(s.client.set_if("ez-pay", "k", fields(3), at(1)).await.unwrap().version, 2);
    assert_eq!(s.client.get("ez-pay", "k").await.unwrap()["request"], 3);
}

async fn versions_guard_deletes(s: Setting) {
    let at = |version| Conditions { if_version: Some(version), ..Conditions::default() };
    let mismatch = |refused: session_tests::client::Refusal, current: &str| {
        assert_eq!((refused.reason.as_str(), refused.code), ("VERSION_MISMATCH", 10));
        assert_eq!(refused.metadata["currentVersion"], current);
        assert!(refused.message.contains("nothing was deleted"), "{}", refused.message);
    };
    // A missing session has no version.
    mismatch(s.client.delete_if("ez-pay", "k", at(1)).await.unwrap_err(), "0");
    s.client.delete_if("ez-pay", "k", at(0)).await.unwrap();
    for _ in 0..2 {
        s.client.set("ez-pay", "k", json!({"request": 1})).await.unwrap();
    }
    for version in [0, 1, 3, u64::MAX] {
        mismatch(s.client.delete_if("ez-pay", "k", at(version)).await.unwrap_err(), "2");
    }
    assert_eq!(s.client.get("ez-pay", "k").await.unwrap()["request"], 1, "nothing was deleted");
    let token = s.client.lock("ez-pay", "k").await.unwrap();
    let refused = s.client.delete_if("ez-pay", "k", at(2)).await.unwrap_err();
    assert_eq!(refused.reason, "SESSION_LOCKED");
    let both = Conditions { if_version: Some(2), lock_token: &token };
    s.client.delete_if("ez-pay", "k", both).await.unwrap();
    assert!(s.client.get("ez-pay", "k").await.is_err());
}

async fn the_token_of_an_expired_lock_is_refused(s: Setting) {
    let token = s.client.lock("cititrans", "k").await.unwrap();
    let fields = || json!({"request": 1});
    wait::until("the lock expires", async || s.client.set("cititrans", "k", fields()).await.ok())
        .await;
    let stale = Conditions { lock_token: &token, ..Conditions::default() };
    for refused in [
        s.client.set_if("cititrans", "k", json!({"request": 2}), stale).await.unwrap_err(),
        s.client.delete_if("cititrans", "k", stale).await.unwrap_err(),
    ] {
        assert_eq!((refused.reason.as_str(), refused.code), ("SESSION_LOCKED", 10));
        assert_eq!(refused.metadata["remainingMs"], "0");
        assert!(refused.message.contains("has ended"), "{}", refused.message);
        assert!(!refused.retry, "a retry does not help");
    }
    assert_eq!(s.client.get("cititrans", "k").await.unwrap()["request"], 1);
    // Unlocking with an expired token changes nothing and succeeds.
    s.client.unlock("cititrans", "k", &token).await.unwrap();
}

async fn a_lock_excludes_others_until_it_expires(s: Setting) {
    let fields = || json!({"request": 1});
    let token = s.client.lock("cititrans", "k").await.unwrap();
    let with = |lock_token| Conditions { lock_token, ..Conditions::default() };
    let refused = s.client.set("cititrans", "k", fields()).await.unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.code), ("SESSION_LOCKED", 10));
    assert!(refused.retry);
    let left: u64 = refused.metadata["remainingMs"].parse().unwrap();
    assert!((1..=4000).contains(&left), "{left}");
    assert_eq!(s.client.delete("cititrans", "k").await.unwrap_err().reason, "SESSION_LOCKED");
    assert_eq!(s.client.lock("cititrans", "k").await.unwrap_err().reason, "SESSION_LOCKED");
    let refused = s.client.unlock("cititrans", "k", "wrong").await.unwrap_err();
    assert_eq!(refused.reason, "SESSION_LOCKED");
    let refused = s.client.set_if("cititrans", "k", fields(), with("wrong")).await.unwrap_err();
    assert_eq!(refused.reason, "SESSION_LOCKED");
    // The holder gets the refusal of its own mistake, and not that of the lock.
    let stale = Conditions { if_version: Some(9), lock_token: &token };
    let refused = s.client.set_if("cititrans", "k", fields(), stale).await.unwrap_err();
    assert_eq!(refused.reason, "VERSION_MISMATCH");
    assert!(s.client.set_if("cititrans", "k", fields(), with(&token)).await.is_ok());
    assert!(s.client.get("cititrans", "k").await.is_ok(), "reads need no lock");
    s.client.unlock("cititrans", "k", &token).await.unwrap();
    s.client.unlock("cititrans", "k", &token).await.unwrap();
    assert!(s.client.set("cititrans", "k", fields()).await.is_ok());
    // A lock that is not released expires.
    s.client.lock("cititrans", "k").await.unwrap();
    wait::until("the lock expires", async || s.client.set("cititrans", "k", fields()).await.ok())
        .await;
}

async fn a_missing_key_is_generated(s: Setting) {
    let mut keys = std::collections::HashSet::new();
    for n in 0..20 {
        let written =
            s.client.set("pre-order", "", json!({"fleet_list_request": n})).await.unwrap();
        assert_eq!(written.session_key.len(), 32);
        let session = s.client.get("pre-order", &written.session_key).await.unwrap();
        assert_eq!(session["fleet_list_request"], n);
        assert!(keys.insert(written.session_key));
    }
}

async fn deleting_is_idempotent(s: Setting) {
    s.client.set("reschedule", "k", json!({"order_id": "1"})).await.unwrap();
    s.client.delete("reschedule", "k").await.unwrap();
    s.client.delete("reschedule", "k").await.unwrap();
    assert_eq!(s.client.get("reschedule", "k").await.unwrap_err().reason, "SESSION_NOT_FOUND");
}

async fn a_session_has_a_size_limit(s: Setting) {
    let megabyte = "x".repeat((1 << 20) - 2);
    for document in ["selected_fleet", "contact_information", "passenger_information"] {
        s.client.set("rent-revamp", "k", json!({document: megabyte})).await.unwrap();
    }
    let refused = s.client.set("rent-revamp", "k", json!({"selected_pickup": megabyte})).await;
    let refused = refused.unwrap_err();
    assert!(refused.message.contains("larger than 4128768 bytes"), "{}", refused.message);
    let rest = "x".repeat((1 << 20) - (64 << 10) - 2);
    s.client.set("rent-revamp", "k", json!({"selected_pickup": rest})).await.unwrap();
    // By default, gRPC clients accept messages of up to 4 MiB.
    let grpc = GrpcClient::connect(s.host.address("grpc")).await;
    let key = key_request("k");
    let whole = grpc.raw("/sessionmanager.SessionManager/GetSessionRentRevamp", key).await.unwrap();
    assert!(whole.len() > SESSION_BYTES_MAX && whole.len() <= 4 << 20, "{}", whole.len());
    // The session is full. A document that replaces one of the same size fits.
    let refused = s.client.set("rent-revamp", "k", json!({"fleet_id": "f"})).await.unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.violations.len()), ("INVALID_REQUEST", 1));
    s.client.set("rent-revamp", "k", json!({"selected_pickup": "small"})).await.unwrap();
    s.client.set("rent-revamp", "k", json!({"fleet_id": "f"})).await.unwrap();
    let too_large = json!({"selected_fleet": "x".repeat(1 << 20)});
    let refused = s.client.set("rent-revamp", "k", too_large).await.unwrap_err();
    assert_eq!(refused.violations, ["selected_fleet"]);
    let session = s.client.get("rent-revamp", "k").await.unwrap();
    assert_eq!(session["selected_fleet"], megabyte.as_str(), "nothing was lost");
}

/// An encoded `GetSessionRequest`.
fn key_request(key: &str) -> bytes::Bytes {
    let length = u8::try_from(key.len()).unwrap();
    [&[0x0a, length][..], key.as_bytes()].concat().into()
}

/// Stores fields under a key as another program or release does.
async fn store(redis: &RedisServer, key: &str, fields: &[(&str, &str)]) {
    let mut connection = redis.connect(5).await;
    let _: () = redis::pipe()
        .del(key)
        .hset_multiple(key, fields)
        .query_async(&mut connection)
        .await
        .unwrap();
}

async fn on_redis(wire: Wire) -> (Setting, RedisServer) {
    let mut setting = setting(On::Redis, wire, &[]).await;
    let redis = setting.redis.take().unwrap();
    (setting, redis)
}

#[tokio::test]
async fn an_unset_scalar_has_its_default_in_json_and_no_field_in_a_message() {
    let s = setting(On::Memory, Wire::Rest, &[]).await;
    s.client.set("reschedule", "k", json!({"order_id": "42"})).await.unwrap();
    let session = s.client.get("reschedule", "k").await.unwrap();
    let scalars = [&session["promo_code"], &session["fixed"], &session["is_promo_valid"]];
    assert_eq!(scalars, [&json!(""), &json!(0), &json!(false)]);
    assert!(!session.contains_key("localized_message"), "{session:?}");
    let grpc = GrpcClient::connect(s.host.address("grpc")).await;
    let path = "/sessionmanager.SessionManager/GetSessionReschedule";
    let message = grpc.raw(path, key_request("k")).await.unwrap();
    let message = SessionReschedule::decode(message).unwrap();
    assert_eq!(message.order_id.as_deref(), Some("42"));
    assert_eq!((message.promo_code, message.fixed, message.is_promo_valid), (None, None, None));
}

#[tokio::test]
async fn a_session_of_another_program_has_version_0_and_can_be_written() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let (s, redis) = on_redis(wire).await;
        let at = |version| Conditions { if_version: Some(version), ..Conditions::default() };
        let left = [("ValidateEZPayRequest", "1"), ("THEIRS", "x")];
        store(&redis, "SESSION_PRE_ORDER_EZ_PAY:k", &left).await;
        assert_eq!(s.client.get("ez-pay", "k").await.unwrap()["version"], "0");
        let fields = || json!({"response": 2});
        let refused = s.client.set_if("ez-pay", "k", fields(), at(1)).await.unwrap_err();
        assert_eq!(refused.metadata["currentVersion"], "0");
        assert_eq!(s.client.set_if("ez-pay", "k", fields(), at(0)).await.unwrap().version, 1);
        assert_eq!(s.client.get("ez-pay", "k").await.unwrap()["request"], 1, "kept");
        let refused = s.client.set_if("ez-pay", "k", fields(), at(0)).await.unwrap_err();
        assert_eq!(refused.metadata["currentVersion"], "1");
        store(&redis, "SESSION_PRE_ORDER_EZ_PAY:k", &left).await;
        s.client.delete_if("ez-pay", "k", at(0)).await.unwrap();
        assert!(s.client.get("ez-pay", "k").await.is_err());
    }
}

#[tokio::test]
async fn an_invalid_version_reads_as_0_and_the_next_write_repairs_it() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let (s, redis) = on_redis(wire).await;
        let at = |version| Conditions { if_version: Some(version), ..Conditions::default() };
        for broken in ["abc", "007", "-3", "9007199254740992", "99999999999999999999", ""] {
            for condition in [Conditions::default(), at(0)] {
                let fields = [("ValidateEZPayRequest", "1"), ("_version", broken)];
                store(&redis, "SESSION_PRE_ORDER_EZ_PAY:k", &fields).await;
                assert_eq!(s.client.get("ez-pay", "k").await.unwrap()["version"], "0", "{broken}");
                let refused = s.client.set_if("ez-pay", "k", json!({"response": 2}), at(7)).await;
                assert_eq!(refused.unwrap_err().metadata["currentVersion"], "0", "{broken}");
                let written = s.client.set_if("ez-pay", "k", json!({"response": 2}), condition);
                assert_eq!(written.await.unwrap().version, 1, "{broken}");
                let written = s.client.set_if("ez-pay", "k", json!({"response": 2}), at(1));
                assert_eq!(written.await.unwrap().version, 2, "{broken}");
            }
        }
    }
}

#[tokio::test]
async fn a_session_marked_by_another_program_is_read_once() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let (s, redis) = on_redis(wire).await;
        for (mark, once) in
            [("true", true), ("TRUE", true), ("1", true), ("t", true), ("no", false), ("F", false)]
        {
            let fields = [("ORDER_ID", "42"), ("DELETE_AFTER_GET", mark)];
            store(&redis, "SESSION_RESCHEDULE:o1", &fields).await;
            let mut readers = tokio::task::JoinSet::new();
            for _ in 0..8 {
                let client = s.client.clone();
                readers.spawn(async move { client.get("reschedule", "o1").await });
            }
            let mut got = 0;
            for read in readers.join_all().await {
                match read {
                    Ok(session) => {
                        assert_eq!(session["delete_after_get"], once, "{mark}");
                        got += 1;
                    }
                    Err(refusal) => assert_eq!(refusal.reason, "SESSION_NOT_FOUND"),
                }
            }
            assert_eq!(got, if once { 1 } else { 8 }, "{mark}");
        }
    }
}

#[tokio::test]
async fn a_larger_session_of_an_earlier_release_stays_readable() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let (s, redis) = on_redis(wire).await;
        let document = json!("x".repeat((1 << 20) - 2)).to_string();
        let names =
            ["SELECTED_FLEET", "CONTACT_INFORMATION", "PASSENGER_INFORMATION", "SELECTED_PICKUP"];
        let fields = names.map(|name| (name, document.as_str()));
        store(&redis, "SESSION_RENT_REVAMP:k", &fields).await;
        let session = s.client.get("rent-revamp", "k").await.unwrap();
        assert_eq!(session["selected_pickup"].to_string(), document);
    }
}

async fn all_violations_are_listed(s: Setting) {
    let fields = json!({"fleet_id": "x".repeat(5000), "selected_fleet": "y".repeat(1 << 20)});
    let refused = s.client.set("rent-revamp", "k|k", fields).await;
    let refused = refused.unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.code), ("INVALID_REQUEST", 3));
    let mut violations = refused.violations.clone();
    violations.sort();
    assert_eq!(violations, ["fleet_id", "selected_fleet"]);
    let refused = s.client.set("ez-pay", "k", json!({})).await.unwrap_err();
    assert_eq!(refused.violations, ["fields"]);
    let fields = json!({"order_id": "4\u{1b}[2J", "promo_code": "A\r\nB", "product_type": "taxi"});
    let refused = s.client.set("reschedule", "k", fields).await.unwrap_err();
    let mut violations = refused.violations.clone();
    violations.sort();
    assert_eq!(violations, ["order_id", "promo_code"]);
    assert!(refused.message.contains("control character"), "{}", refused.message);
}

async fn parallel_writes_of_one_session_all_count(s: Setting) {
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..60 {
        let client = s.client.clone();
        writers.spawn(async move { client.set("ez-pay", "k", json!({"request": n})).await });
    }
    let mut versions: Vec<u64> =
        writers.join_all().await.into_iter().map(|written| written.unwrap().version).collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=60).collect::<Vec<_>>());
    assert!(s.host.log().contains("component loaded"));
}
