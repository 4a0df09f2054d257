//! What callers see of the service beside the rules: its paths, its ids, its log, and its
//! replies while the store is down.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value as Json, json};
use session_tests::client::{Wire, instant};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::wait;

use super::{close, close_all, get, log_in, log_in_many_times, update};

#[tokio::test]
async fn the_commands_of_the_seed_run_as_printed() {
    let host = Launch::in_memory().start();
    let run = |command: &str| -> Json {
        let command = command.replace("localhost:8090", host.address("rest"));
        let command = format!("{command} --silent --show-error 2>/dev/null");
        let output = Command::new("bash").args(["-c", &command]).output().unwrap();
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let create = "curl http://localhost:8090/a01/session -H \"Content-Type: application/json\" \
                  -X POST -d '{\"user_id\":\"user007\"}' -v";
    let created = run(create);
    let id = created["session_id"].as_str().unwrap();
    let seen = run(&format!("curl http://localhost:8090/a01/session/{id} -X GET -v"));
    assert_eq!(seen["user_id"], "user007");
    let closed = run(&format!("curl http://localhost:8090/a01/session/{id} -X DELETE -v"));
    assert_eq!(closed, created);
    let gone = run(&format!("curl http://localhost:8090/a01/session/{id} -X GET -v"));
    assert_eq!(gone["code"], 5);
}

#[tokio::test]
async fn rest_replies_as_clients_of_the_seed_expect() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let id = log_in(&client, "u", "phone").await;
    wait::next_millisecond().await;
    let http = session_tests::http();
    for prefix in ["", "/a01"] {
        let url = |path: &str| host.url("rest", &format!("{prefix}{path}"));
        // The body names the session; the reply repeats the attributes that were sent.
        let attributes = json!({ "access_token": format!("of {prefix}"), "user_id": "u" });
        let body = json!({ "session_id": id, "session_attributes": attributes });
        let answer = http.patch(url("/session")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Json>().await.unwrap(), attributes);
        let all: Json =
            http.get(url("/session/user/u")).send().await.unwrap().json().await.unwrap();
        let dated = &all[&id];
        assert_eq!(dated["device_id"], "phone");
        assert!(instant(&dated["update_date"]) > instant(&dated["create_date"]));
        let nested =
            json!({ "session_id": id, "session_attributes": { "access_token": 5, "x": 1 } });
        let answer = http.patch(url("/session")).json(&nested).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        let text = answer.text().await.unwrap();
        assert!(text.contains("access_token") && text.contains(r#""field":"x""#), "{text}");
        // The refusal does not also complain that no attribute is left.
        assert!(text.contains("2 violations"), "{text}");
        let answer = http.put(url("/session")).send().await.unwrap();
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"].to_str().unwrap().split(", ").count(), 6);
    }
    // REST accepts names in both cases, and numbers as text.
    let body = json!({ "userId": "u", "deviceId": "tv", "expirationTime": "60" });
    let answer = http.post(host.url("rest", "/session")).json(&body).send().await.unwrap();
    let created: Json = answer.json().await.unwrap();
    let session = get(&client, created["session_id"].as_str().unwrap()).await.unwrap();
    assert_eq!((&session["device_id"], &session["expiration_time"]), (&json!("tv"), &json!(60)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_unique_and_no_id_or_token_is_logged() {
    let host = Launch::in_memory().set("LOG_LEVEL", "trace").start();
    let rest = host.client(Wire::Rest).await;
    let grpc = host.client(Wire::Grpc).await;
    let mut ids = log_in_many_times(&grpc, "u", 500).await;
    ids.extend(log_in_many_times(&rest, "u", 500).await);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1000);
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!(ids.iter().all(|id| id.len() == 64 && id.bytes().all(base64url)));
    // The first character selects the partition; the other 63 are random.
    for position in 1..64 {
        let distinct: BTreeSet<u8> = ids.iter().map(|id| id.as_bytes()[position]).collect();
        assert!(distinct.len() > 48, "{} characters at {position}", distinct.len());
    }
    for client in [&rest, &grpc] {
        update(client, &ids[0], json!({ "access_token": "a-secret-token" })).await.unwrap();
        update(client, &ids[0], json!({ "user_id": "v", "access_token": "a-secret-token" }))
            .await
            .unwrap_err();
        get(client, &ids[1]).await.unwrap();
        close_all(client, "w", Some(&ids[1])).await.unwrap_err();
    }
    close(&rest, &ids[1]).await.unwrap();
    close(&grpc, &ids[1]).await.unwrap_err();
    let log = host.log();
    assert!(log.contains("request answered"));
    assert!(!log.contains("a-secret-token"));
    assert!(ids.iter().all(|id| !log.contains(&id[..12])), "the log contains an id");
    let metrics = session_tests::get(host.url("admin", "/metrics")).await.text().await.unwrap();
    assert!(ids.iter().all(|id| !metrics.contains(&id[..12])));
}

#[tokio::test]
async fn an_outage_never_looks_like_a_missing_session() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let mut redis = RedisServer::start().await;
        let host = Launch::redis(&redis).start();
        let client = host.client(wire).await;
        let id = log_in(&client, "u", "phone").await;
        redis.kill().await;
        let attributes = json!({ "user_id": "u", "access_token": "t" });
        for (operation, request) in [
            ("Create", json!({ "session_attributes": attributes })),
            ("Get", json!({ "session_id": id })),
            ("List", json!({ "user_id": "u" })),
            ("ListById", json!({ "user_id": "u" })),
            ("Update", json!({ "session_id": id, "session_attributes": attributes })),
            ("Delete", json!({ "session_id": id })),
            ("DeleteAll", json!({ "user_id": "u" })),
            ("DeleteAll", json!({ "user_id": "u", "keep": id })),
        ] {
            let refused = client.users(operation, request).await.unwrap_err();
            let found = (refused.reason.as_str(), refused.code);
            assert_eq!(found, ("STORE_UNAVAILABLE", 14), "{operation}");
            assert!(refused.http == 503 || refused.http == 0, "{operation}");
            assert!(refused.retry, "{operation}");
        }
        redis.restart().await;
        let found =
            wait::until("the store answers again", async || get(&client, &id).await.ok()).await;
        assert_eq!(found["user_id"], "u");
    }
}
