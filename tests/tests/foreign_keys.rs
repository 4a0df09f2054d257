//! Another program has stored a value of another Redis type under the key of a session. Every
//! operation of every kind reports the type, in the same way on both wires.

use serde_json::json;
use session_tests::client::{Client, Refusal, Wire};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;

/// Stores a value of a type under a key.
async fn store(redis: &RedisServer, type_: &str, key: &str) {
    let mut connection = redis.connect(5).await;
    let _: () = redis::cmd("DEL").arg(key).query_async(&mut connection).await.unwrap();
    let words: &[&str] = match type_ {
        "string" => &["SET", key, "x"],
        "list" => &["RPUSH", key, "x"],
        "set" => &["SADD", key, "x"],
        "sorted set" => &["ZADD", key, "9999999999999", "x"],
        "hash" => &["HSET", key, "f", "x"],
        _ => &["XADD", key, "*", "f", "x"],
    };
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    let _: redis::Value = command.query_async(&mut connection).await.unwrap();
}

/// Checks that an operation was refused with this sentence.
fn reports(what: &str, refused: Result<(), Refusal>, wire: Wire, sentence: &str) {
    let refused = refused.expect_err(what);
    let http = if wire == Wire::Rest { 500 } else { 0 };
    let found = (&*refused.reason, refused.code, refused.http, &*refused.message);
    assert_eq!(found, ("LOGIC_FAILED", 13, http, sentence), "{what} over {wire:?}");
}

async fn booking(client: &Client, context: &str) -> Vec<(&'static str, Result<(), Refusal>)> {
    let fields = match context {
        "reschedule" => json!({ "order_id": "o" }),
        _ => json!({ "fleet_list_request": 1 }),
    };
    vec![
        ("get", client.get(context, "k").await.map(drop)),
        ("set", client.set(context, "k", fields).await.map(drop)),
        ("delete", client.delete(context, "k").await),
    ]
}

#[tokio::test]
async fn every_booking_operation_reports_a_key_of_another_type() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).start();
    for type_ in ["string", "list", "set", "sorted set", "stream"] {
        let sentence = format!("The key holds a {type_}, not a session.");
        store(&redis, type_, "SESSION_PRE_ORDER:k").await;
        store(&redis, type_, "SESSION_RESCHEDULE:k").await;
        store(&redis, type_, "SESSION_LOCK:{SESSION_EZ_PAY:k}").await;
        store(&redis, type_, "SESSION_LOCK:{SESSION_PRE_ORDER_EZ_PAY:k}").await;
        for wire in [Wire::Rest, Wire::Grpc] {
            let client = host.client(wire).await;
            for context in ["pre-order", "reschedule"] {
                for (what, refused) in booking(&client, context).await {
                    reports(what, refused, wire, &sentence);
                }
            }
            reports("lock", client.lock("ez-pay", "k").await.map(drop), wire, &sentence);
            reports("unlock", client.unlock("ez-pay", "k", "t").await, wire, &sentence);
            let set = client.set("ez-pay", "k", json!({ "request": 1 })).await.map(drop);
            reports("set behind a lock", set, wire, &sentence);
        }
    }
}

#[tokio::test]
async fn operations_of_all_other_kinds_report_a_key_of_another_type() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).start();
    for wire in [Wire::Rest, Wire::Grpc] {
        let client = host.client(wire).await;
        let login = json!({ "session_attributes": { "user_id": "user" } });
        let login = client.users("Create", login).await.unwrap()["session_id"].clone();
        let connection = json!({ "user_id": "user", "pod_id": "pod", "session_id": "tab" });
        client.connections("Register", connection.clone()).await.unwrap();
        let slot = json!({ "accountId": "home", "deviceId": "tv" });
        let slot_id = client.viewing("CreateSession", slot.clone()).await.unwrap();
        client
            .viewing("SetMaxSession", json!({ "accountId": "home", "maxNbOfSession": 3 }))
            .await
            .unwrap();
        client
            .viewing("CreateDevice", json!({ "deviceId": "tv", "accountId": "home" }))
            .await
            .unwrap();

        let mut keys = redis.connect(5).await;
        let all: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut keys).await.unwrap();
        let all = all.into_iter().filter(|key| !key.starts_with("EVENTS:BORN"));
        for key in all {
            let type_: String = redis::cmd("TYPE").arg(&key).query_async(&mut keys).await.unwrap();
            let other = if type_ == "hash" { "list" } else { "string" };
            store(&redis, other, &key).await;
        }
        let sentence =
            |expected: &str, found: &str| format!("The key holds a {found}, not {expected}.");
        let session = sentence("a session", "list");
        let id = json!({ "session_id": login });
        let update = json!({ "session_id": login, "session_attributes": { "device_id": "d" } });
        for (operation, request) in [("Get", &id), ("Update", &update), ("Delete", &id)] {
            reports(
                operation,
                client.users(operation, request.clone()).await.map(drop),
                wire,
                &session,
            );
        }
        let tab = json!({ "session_id": "tab" });
        for operation in ["Get", "Heartbeat", "Close"] {
            let refused = client.connections(operation, tab.clone()).await.map(drop);
            reports(operation, refused, wire, &session);
        }
        let heartbeat = json!({ "accountId": "home", "sessionId": slot_id["sessionId"] });
        for (operation, request) in [
            ("CreateSession", &slot),
            ("GetHome", &json!({ "accountId": "home" })),
            ("GetDevice", &json!({ "deviceId": "tv" })),
        ] {
            reports(
                operation,
                client.viewing(operation, request.clone()).await.map(drop),
                wire,
                &session,
            );
        }
        let set = sentence("a set of sessions", "string");
        let user = json!({ "user_id": "user" });
        for (operation, refused) in [
            ("List", client.users("List", user.clone()).await.map(drop)),
            ("DeleteAll", client.users("DeleteAll", user.clone()).await.map(drop)),
            ("GetPresence", client.connections("GetPresence", user.clone()).await.map(drop)),
            ("HeartBeat", client.viewing("HeartBeat", heartbeat.clone()).await.map(drop)),
            ("TearDown", client.viewing("TearDown", heartbeat).await.map(drop)),
        ] {
            reports(operation, refused, wire, &set);
        }
        let _: () = redis::cmd("FLUSHDB").query_async(&mut keys).await.unwrap();
    }
}
