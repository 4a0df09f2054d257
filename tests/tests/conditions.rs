//! Conditions in headers: a change applies only to the version that its sender has seen.

use reqwest::Response;
use serde_json::{Value, json};
use session_tests::client::Wire;
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;

const KEY: &str = "/v1/pre-order/sessions/k";

async fn send(host: &Host, line: &str, headers: &[(&str, &str)], body: Option<Value>) -> Response {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request =
        session_tests::http().request(method.parse().unwrap(), host.url("rest", path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    request.send().await.unwrap()
}

async fn refusal(response: Response) -> (u16, String, Value) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    let info = &body["details"][0];
    (status, info["reason"].as_str().unwrap().into(), info["metadata"]["currentVersion"].clone())
}

fn document(value: u64) -> Option<Value> {
    Some(json!({ "fleet_list_request": value }))
}

async fn conditions_guard_changes(launch: Launch) {
    let host = launch.start();
    let put = format!("PUT {KEY}");
    let (get, delete) = (format!("GET {KEY}"), format!("DELETE {KEY}"));
    let failed = |version: &str| (412, "PRECONDITION_FAILED".to_owned(), json!(version));
    // No session exists yet.
    let response = send(&host, &put, &[("if-match", "*")], document(1)).await;
    assert_eq!(refusal(response).await, failed("0"));
    let response = send(&host, &put, &[("if-match", "\"0\"")], document(1)).await;
    assert_eq!(refusal(response).await, failed("0"));
    let response = send(&host, &put, &[("if-none-match", "*")], document(1)).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["etag"]),
        (200, &"\"1\"".parse().unwrap())
    );
    // Now the session exists.
    let response = send(&host, &put, &[("if-none-match", "*")], document(2)).await;
    assert_eq!(refusal(response).await, failed("1"));
    let response = send(&host, &put, &[("if-match", "\"1\"")], document(2)).await;
    assert_eq!(response.headers()["etag"], "\"2\"");
    for stale in ["\"1\"", "\"3\"", "W/\"2\"", "\"abc\""] {
        let response = send(&host, &put, &[("if-match", stale)], document(9)).await;
        assert_eq!(refusal(response).await, failed("2"), "{stale}");
    }
    let response = send(&host, &get, &[("accept-encoding", "gzip")], None).await;
    assert_eq!(response.headers()["etag"], "\"2\"");
    let session: Value = response.json().await.unwrap();
    assert_eq!(session["fleet_list_request"], 2, "nothing was overwritten");
    // A condition in the body is refused as before. A request may not have both.
    let with_version = Some(json!({ "fleet_list_request": 3, "if_version": 1 }));
    let response = send(&host, &put, &[], with_version.clone()).await;
    assert_eq!(refusal(response).await.1, "VERSION_MISMATCH");
    let response = send(&host, &put, &[("if-match", "\"2\"")], with_version).await;
    assert_eq!(refusal(response).await.1, "INVALID_REQUEST");
    // Conditions guard deletes too.
    let response = send(&host, &delete, &[("if-match", "\"1\"")], None).await;
    assert_eq!(refusal(response).await, failed("2"));
    let response = send(&host, &format!("{delete}?if_version=1"), &[], None).await;
    assert_eq!(refusal(response).await.1, "VERSION_MISMATCH");
    let both = [("if-match", "\"2\"")];
    let response = send(&host, &format!("{delete}?if_version=2"), &both, None).await;
    assert_eq!(refusal(response).await.1, "INVALID_REQUEST");
    assert_eq!(send(&host, &delete, &both, None).await.status(), 200);
    let response = send(&host, &delete, &[("if-match", "*")], None).await;
    assert_eq!(refusal(response).await, failed("0"));
    assert_eq!(send(&host, &delete, &[], None).await.status(), 200);
}

#[tokio::test]
async fn conditions_in_headers_guard_changes_in_memory() {
    conditions_guard_changes(Launch::in_memory()).await;
}

#[tokio::test]
async fn conditions_in_headers_guard_changes_on_redis() {
    let redis = RedisServer::start().await;
    conditions_guard_changes(Launch::redis(&redis)).await;
}

#[tokio::test]
async fn a_condition_is_never_ignored() {
    let host = Launch::in_memory().start();
    let user = host.client(Wire::Rest).await;
    let login = user.users("Create", json!({ "user_id": "u" })).await.unwrap();
    let login = login["session_id"].as_str().unwrap();
    for line in [
        &*format!("PATCH /session/{login}"),
        &format!("DELETE /session/{login}"),
        "POST /home/h/sessions/create",
        "DELETE /v1/connections/0123456789abcdef",
    ] {
        for header in [("if-match", "\"1\""), ("if-none-match", "*")] {
            let response = send(&host, line, &[header], Some(json!({}))).await;
            assert_eq!(refusal(response).await.1, "INVALID_REQUEST", "{line}");
        }
    }
    for header in [("if-match", "1"), ("if-none-match", "\"1\""), ("if-unmodified-since", "x")] {
        let response = send(&host, &format!("PUT {KEY}"), &[header], document(1)).await;
        assert_eq!(refusal(response).await.1, "INVALID_REQUEST", "{header:?}");
    }
}

#[tokio::test]
async fn head_is_refused_for_a_session_that_is_read_once() {
    let host = Launch::in_memory().start();
    let path = "/v1/reschedule/sessions/k";
    let body = json!({ "order_id": "o", "delete_after_get": true });
    send(&host, &format!("PUT {path}"), &[], Some(body)).await;
    let head = send(&host, &format!("HEAD {path}"), &[], None).await;
    assert_eq!(head.status(), 405);
    assert!(!head.headers()["allow"].to_str().unwrap().contains("HEAD"));
    assert_eq!(send(&host, &format!("GET {path}"), &[], None).await.status(), 200);
    assert_eq!(send(&host, &format!("HEAD {KEY}"), &[], None).await.status(), 404);
}
