//! Requests that are sent again because their callers do not know whether the first one was
//! received. The same idempotency key gets the same answer, and nothing happens twice.

use serde_json::json;
use session_tests::client::{Client, Conditions, Wire};
use session_tests::faulty_proxy::{Fault, FaultyProxy, Which};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::wait;

use crate::everywhere::{Setting, everywhere};

const KEY: &str = "3f0c9a52-4d0b-4e43";
const TOKEN: &str = "chosen-by-a-caller";

everywhere!(
    a_repeated_compare_and_set_gets_the_same_answer [],
    a_repeated_conditional_delete_gets_the_same_answer [],
    a_repeated_lock_gets_the_same_answer [("SESSION_LOCK_TTL", "5m")],
    a_caller_may_choose_the_token_of_a_lock [("SESSION_LOCK_TTL", "5m")],
    a_repeated_one_time_read_gets_the_same_answer [],
    a_key_is_valid_for_one_request [("SESSION_LOCK_TTL", "5m")],
    an_invalid_key_is_refused_and_nothing_happens [],
);

fn at(version: u64) -> Conditions<'static> {
    Conditions { if_version: Some(version), ..Conditions::default() }
}

async fn a_repeated_compare_and_set_gets_the_same_answer(Setting { client, .. }: Setting) {
    let fields = json!({ "fleet_list_request": 1 });
    for (version, key) in [(0, "the-first-request"), (1, "the-second-request")] {
        let asking = client.with_key(key);
        let first = asking.set_if("pre-order", "k", fields.clone(), at(version)).await.unwrap();
        assert_eq!(first.version, version + 1);
        let again = asking.set_if("pre-order", "k", fields.clone(), at(version)).await.unwrap();
        assert_eq!(again, first);
    }
    assert_eq!(client.get("pre-order", "k").await.unwrap()["version"], "2");
    // Without the key, or with another key, it is another request.
    for other in [client.clone(), client.with_key("yet-another-request")] {
        let refused = other.set_if("pre-order", "k", fields.clone(), at(1)).await.unwrap_err();
        assert_eq!(refused.reason, "VERSION_MISMATCH");
    }
    // The same key on another session is another request.
    let asking = client.with_key("the-first-request");
    assert_eq!(asking.set_if("pre-order", "l", fields.clone(), at(0)).await.unwrap().version, 1);
    // Each request without a session key creates its own session.
    let first = asking.set_if("pre-order", "", fields.clone(), at(0)).await.unwrap();
    let other = asking.set_if("pre-order", "", fields, at(0)).await.unwrap();
    assert_ne!(first.session_key, other.session_key);
}

async fn a_repeated_conditional_delete_gets_the_same_answer(Setting { client, .. }: Setting) {
    let fields = json!({ "fleet_list_request": 1 });
    client.set("pre-order", "k", fields).await.unwrap();
    let asking = client.with_key(KEY);
    asking.delete_if("pre-order", "k", at(1)).await.unwrap();
    asking.delete_if("pre-order", "k", at(1)).await.unwrap();
    let refused = client.delete_if("pre-order", "k", at(1)).await.unwrap_err();
    assert_eq!(refused.reason, "VERSION_MISMATCH");
}

async fn a_repeated_lock_gets_the_same_answer(Setting { client, .. }: Setting) {
    let asking = client.with_key(KEY);
    let first = asking.lock_with("pre-order", "k", "").await.unwrap();
    assert_eq!(asking.lock_with("pre-order", "k", "").await.unwrap(), first);
    let token = first["lock_token"].as_str().unwrap();
    assert_eq!(client.lock("pre-order", "k").await.unwrap_err().reason, "SESSION_LOCKED");
    client.unlock("pre-order", "k", token).await.unwrap();
    // The answer is repeated even after the lock has ended.
    assert_eq!(asking.lock_with("pre-order", "k", "").await.unwrap(), first);
    client.lock("pre-order", "k").await.unwrap();
}

async fn a_caller_may_choose_the_token_of_a_lock(Setting { client, .. }: Setting) {
    let first = client.lock_with("pre-order", "k", TOKEN).await.unwrap();
    assert_eq!(first["lock_token"], TOKEN);
    assert_eq!(client.lock_with("pre-order", "k", TOKEN).await.unwrap(), first);
    for other in ["", "chosen-by-somebody-else"] {
        let refused = client.lock_with("pre-order", "k", other).await.unwrap_err();
        assert_eq!(refused.reason, "SESSION_LOCKED");
    }
    let holding = Conditions { lock_token: TOKEN, ..Conditions::default() };
    let fields = json!({ "fleet_list_request": 1 });
    client.set_if("pre-order", "k", fields, holding).await.unwrap();
    client.unlock("pre-order", "k", TOKEN).await.unwrap();
    for out_of_form in ["too-short", "has a blank in its middle"] {
        let refused = client.lock_with("pre-order", "k", out_of_form).await.unwrap_err();
        assert_eq!(refused.reason, "INVALID_REQUEST");
        assert_eq!(refused.violations, ["lock_token"]);
    }
}

async fn a_repeated_one_time_read_gets_the_same_answer(Setting { client, .. }: Setting) {
    let once = json!({ "delete_after_get": true, "order_id": "42" });
    client.set("reschedule", "k", once).await.unwrap();
    let asking = client.with_key(KEY);
    let first = asking.get("reschedule", "k").await.unwrap();
    assert_eq!((&first["order_id"], &first["version"]), (&json!("42"), &json!("1")));
    // No other request gets the value.
    for other in [client.clone(), client.with_key("yet-another-request")] {
        let refused = other.get("reschedule", "k").await.unwrap_err();
        assert_eq!(refused.reason, "SESSION_NOT_FOUND");
    }
    assert_eq!(asking.get("reschedule", "k").await.unwrap(), first);
    // The answer to an ordinary read is not remembered.
    client.set("reschedule", "often", json!({ "order_id": "1" })).await.unwrap();
    assert_eq!(asking.get("reschedule", "often").await.unwrap()["order_id"], "1");
    client.set("reschedule", "often", json!({ "order_id": "2" })).await.unwrap();
    assert_eq!(asking.get("reschedule", "often").await.unwrap()["order_id"], "2");
}

async fn a_key_is_valid_for_one_request(Setting { client, .. }: Setting) {
    let asking = client.with_key(KEY);
    let fields = json!({ "fleet_list_request": 1 });
    asking.set_if("pre-order", "k", fields.clone(), at(0)).await.unwrap();
    let others = [(json!({ "fleet_list_request": 2 }), at(0)), (fields, at(1))];
    for (fields, conditions) in others {
        let refused = asking.set_if("pre-order", "k", fields, conditions).await.unwrap_err();
        assert_eq!((refused.reason.as_str(), refused.code), ("IDEMPOTENCY_CONFLICT", 6));
        assert!((refused.http == 409 || refused.http == 0) && !refused.retry, "{refused:?}");
    }
    assert_eq!(client.get("pre-order", "k").await.unwrap()["version"], "1");
    asking.lock_with("pre-order", "k", TOKEN).await.unwrap();
    let refused = asking.lock_with("pre-order", "k", "").await.unwrap_err();
    assert_eq!(refused.reason, "IDEMPOTENCY_CONFLICT");
    // The token of a lock is a part of the request.
    let fields = json!({ "fleet_list_request": 1 });
    asking.set_if("pre-order", "l", fields.clone(), at(0)).await.unwrap();
    let other = Conditions { lock_token: TOKEN, ..at(0) };
    let refused = asking.set_if("pre-order", "l", fields, other).await.unwrap_err();
    assert_eq!(refused.reason, "IDEMPOTENCY_CONFLICT");
}

async fn an_invalid_key_is_refused_and_nothing_happens(Setting { client, .. }: Setting) {
    client.set("reschedule", "k", json!({ "delete_after_get": true })).await.unwrap();
    let long = "x".repeat(129);
    for out_of_form in ["too-short", "with a blank in its middle", &long] {
        let asking = client.with_key(out_of_form);
        let fields = json!({ "fleet_list_request": 1 });
        for refused in [
            asking.set_if("pre-order", "k", fields, at(0)).await.map(drop),
            asking.get("reschedule", "k").await.map(drop),
            asking.lock("pre-order", "k").await.map(drop),
            asking.delete_if("reschedule", "k", at(1)).await,
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.reason, "INVALID_REQUEST");
            assert_eq!(refused.violations, ["idempotency-key"], "{}", refused.message);
        }
    }
    assert!(client.get("reschedule", "k").await.is_ok());
}

/// Only successful answers are kept, and for ten seconds.
#[tokio::test]
async fn refusals_are_not_kept_and_answers_expire() {
    // The clock runs 60 times as fast.
    let launch = Launch::in_memory().clock("+0 x60", false).set("SESSION_LOCK_TTL", "1s");
    let host = launch.set("SESSION_TTL", "24h").start();
    let client = host.client(Wire::Rest).await;
    let asking = client.with_key(KEY);
    let fields = json!({ "fleet_list_request": 1 });
    let refused = asking.set_if("pre-order", "k", fields.clone(), at(1)).await.unwrap_err();
    assert_eq!(refused.reason, "VERSION_MISMATCH");
    client.set("pre-order", "k", fields.clone()).await.unwrap();
    assert_eq!(asking.set_if("pre-order", "k", fields, at(1)).await.unwrap().version, 2);
    let first = asking.lock_with("pre-order", "l", "").await.unwrap();
    wait::until("the key is accepted for another request", async || {
        let again = asking.lock_with("pre-order", "l", "").await.ok()?;
        (again != first).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_same_fields_in_another_order_are_the_same_request() {
    let host = Launch::in_memory().start();
    let mut versions = Vec::new();
    for body in [
        r#"{"if_version":0,"fleet_list_request":1,"fleet_list_response":2}"#,
        r#"{"fleet_list_response":2,"fleet_list_request":1,"if_version":0}"#,
    ] {
        let request = session_tests::http().put(host.url("rest", "/v1/pre-order/sessions/k"));
        let request = request.header("content-type", "application/json").body(body);
        let answer = request.header("idempotency-key", KEY).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        versions.push(answer.text().await.unwrap());
    }
    assert_eq!(versions[0], versions[1]);
}

/// Repeats a request until it is answered, as a client does that does not know its outcome.
async fn until_answered<T>(ask: impl AsyncFn() -> Result<T, session_tests::client::Refusal>) -> T {
    wait::until("the request is answered", async || match ask().await {
        Err(refusal) if refusal.reason == "STORE_UNAVAILABLE" => None,
        answered => Some(answered.unwrap()),
    })
    .await
}

/// Loses the reply of Redis to the next change, after the change has happened.
async fn lose_the_next_answer(proxy: &FaultyProxy, client: &Client, number: usize) {
    // This opens the connection and loads the script.
    let key = format!("before-{number}");
    until_answered(async || {
        client.set("pre-order", &key, json!({ "fleet_list_request": 1 })).await
    })
    .await;
    proxy.next(Fault::CutBefore, Which::Array);
}

#[tokio::test]
async fn a_lost_answer_is_repeated_for_the_same_key() {
    let redis = RedisServer::start().await;
    let proxy = FaultyProxy::before(redis.port).await;
    let host = Launch::redis_at(&format!("redis://127.0.0.1:{}/5", proxy.port)).start();
    for wire in [Wire::Rest, Wire::Grpc] {
        let client = host.client(wire).await;
        let asking = client.with_key(KEY);
        let name = format!("{wire:?}");
        let once = json!({ "delete_after_get": true, "order_id": "42" });
        client.set("reschedule", &name, once).await.unwrap();

        lose_the_next_answer(&proxy, &client, 0).await;
        let read = until_answered(async || asking.get("reschedule", &name).await).await;
        assert_eq!(read["order_id"], "42");

        lose_the_next_answer(&proxy, &client, 1).await;
        let fields = json!({ "fleet_list_request": 1 });
        let set = async || asking.set_if("pre-order", &name, fields.clone(), at(0)).await;
        assert_eq!(until_answered(set).await.version, 1);

        lose_the_next_answer(&proxy, &client, 2).await;
        let grant = until_answered(async || asking.lock_with("ez-pay", &name, "").await).await;
        client.unlock("ez-pay", &name, grant["lock_token"].as_str().unwrap()).await.unwrap();
    }
    assert_eq!(proxy.done(), 6);
}
