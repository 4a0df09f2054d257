//! Invalid input: each one gets the documented error, and the process keeps working.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use session_tests::client::{Client, GrpcClient, Refusal, Wire, refusal_of, rest};
use session_tests::host::{Host, Launch};

struct Setting {
    host: Host,
    http: reqwest::Client,
}

async fn setting() -> Setting {
    let host = Launch::in_memory().start();
    Setting { host, http: session_tests::http() }
}

impl Setting {
    fn url(&self, path: &str) -> String {
        self.host.url("rest", path)
    }

    async fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> Refusal {
        let request = self.http.put(self.url(path)).header("content-type", "application/json");
        rest(request.body(body)).await.expect_err("a refusal")
    }

    /// Checks that the server still works over both wires.
    async fn works(&self) {
        for wire in [Wire::Rest, Wire::Grpc] {
            let client = Client::connect(&self.host, wire).await;
            client.set("pre-order", "alive", json!({"fleet_list_request": 1})).await.unwrap();
            assert!(client.get("pre-order", "alive").await.is_ok());
        }
    }
}

/// Reason, code and HTTP status of a refusal.
fn kind(refusal: &Refusal) -> (&str, i32, u16) {
    (&refusal.reason, refusal.code, refusal.http)
}

const INVALID: (&str, i32, u16) = ("INVALID_REQUEST", 3, 400);
const KEY: &str = "/v1/pre-order/sessions/k";
const DOCUMENT: &str = r#"{"fleet_list_request":1}"#;

#[tokio::test]
async fn unknown_contexts_and_fields_are_named() {
    let s = setting().await;
    let refusal = s.put("/v1/pre-ordr/sessions/k", DOCUMENT).await;
    assert_eq!(kind(&refusal), ("UNKNOWN_CONTEXT", 5, 404));
    assert!(refusal.message.contains("\"pre-ordr\""), "{}", refusal.message);
    let refusal = s.put(KEY, r#"{"fleet_list":1, "fleet_list_request":1, "x":2}"#).await;
    assert_eq!(kind(&refusal), INVALID);
    assert_eq!(refusal.violations, ["fleet_list", "x"]);
    s.works().await;
}

#[tokio::test]
async fn invalid_keys_are_refused_over_both_wires() {
    let s = setting().await;
    let grpc = Client::connect(&s.host, Wire::Grpc).await;
    for (key, in_path) in [
        ("k".repeat(300), "k".repeat(300)),
        ("a{b}".into(), "a%7Bb%7D".into()),
        ("a/b".into(), "a%2Fb".into()),
        ("a\nb".into(), "a%0Ab".into()),
        ("a b".into(), "a%20b".into()),
        ("a?b".into(), "a%3Fb".into()),
        ("a#b".into(), "a%23b".into()),
        ("\u{fc}".into(), "%C3%BC".into()),
    ] {
        let refusal = s.put(&format!("/v1/pre-order/sessions/{in_path}"), DOCUMENT).await;
        assert_eq!(kind(&refusal), INVALID, "{key:?}");
        assert_eq!(refusal.violations, ["session_key"], "{key:?}");
        let refusal = grpc.get("pre-order", &key).await.unwrap_err();
        assert_eq!(refusal.violations, ["session_key"], "{key:?}");
    }
    let refusal = s.put("/v1/pre-order/sessions/%FF", DOCUMENT).await;
    assert_eq!(kind(&refusal), INVALID);
    assert_eq!(grpc.get("pre-order", "").await.unwrap_err().violations, ["session_key"]);
    s.works().await;
}

#[tokio::test]
async fn bodies_that_are_not_json_objects_are_refused() {
    let s = setting().await;
    for (body, expected) in [
        ("{", "EOF"),
        ("[]", "expected a JSON object"),
        ("\"text\"", "expected a JSON object"),
        (r#"{"fleet_list_request" = 1}"#, "expected `:`"),
        (r#"{"fleet_list_request":1} x"#, "trailing"),
    ] {
        let refusal = s.put(KEY, body).await;
        assert_eq!(kind(&refusal), INVALID, "{body}");
        assert!(refusal.message.contains(expected), "{body}: {}", refusal.message);
    }
    let refusal = s.put(KEY, &b"{\"fleet_list_request\":\"\xff\"}"[..]).await;
    assert_eq!(kind(&refusal), INVALID);
    let refusal = s.put(KEY, r#"{"fleet_list_request":1,"fleetListRequest":2}"#).await;
    assert_eq!(refusal.violations, ["fleet_list_request"]);
    assert!(refusal.message.contains("more than once"));
    let deep = format!(r#"{{"fleet_list_request":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let refusal = s.put(KEY, deep).await;
    assert_eq!(kind(&refusal), INVALID);
    assert!(refusal.message.contains("nested 10000 deep"), "{}", refusal.message);
    let refusal = s.put(KEY, "{}").await;
    assert_eq!(refusal.violations, ["fields"]);
    let refusal = s.put(KEY, "").await;
    assert_eq!(refusal.violations, ["fields"]);
    s.works().await;
}

#[tokio::test]
async fn wrong_types_in_json_are_each_named() {
    let s = setting().await;
    let body = json!({
        "fixed": "much", "is_price_changed": 1, "order_id": 5, "pickup_time": {},
        "if_version": "x", "lock_token": false,
    });
    let refusal = s.put("/v1/reschedule/sessions/k", body.to_string()).await;
    let mut violations = refusal.violations.clone();
    violations.sort();
    assert_eq!(
        violations,
        ["fixed", "if_version", "is_price_changed", "lock_token", "order_id", "pickup_time"]
    );
    s.works().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_too_large() {
    let s = setting().await;
    let body = format!(r#"{{"fleet_list_request":"{}"}}"#, "x".repeat(5 << 20));
    let refusal = s.put(KEY, body.clone()).await;
    assert_eq!(kind(&refusal), ("REQUEST_TOO_LARGE", 3, 413));
    // A body without a declared length is refused while it is sent.
    let chunks = body.into_bytes().chunks(1 << 16).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut stream = TcpStream::connect(s.host.address("rest")).unwrap();
    write!(stream, "PUT {KEY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        .unwrap();
    write!(stream, "transfer-encoding: chunked\r\n\r\n").unwrap();
    for chunk in chunks {
        // The server may close the connection before everything is sent.
        if write!(stream, "{:x}\r\n", chunk.len()).is_err() || stream.write_all(&chunk).is_err() {
            break;
        }
        drop(stream.write_all(b"\r\n"));
    }
    drop(stream.write_all(b"0\r\n\r\n"));
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    s.works().await;
}

#[tokio::test]
async fn a_body_of_another_type_is_refused() {
    let s = setting().await;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let request = s.http.put(s.url(KEY)).header("content-type", content_type).body(DOCUMENT);
        let refusal = rest(request).await.unwrap_err();
        assert_eq!(kind(&refusal), ("UNSUPPORTED_MEDIA_TYPE", 3, 415), "{content_type}");
    }
    let request = s.http.put(s.url(KEY)).header("content-type", "Application/JSON; charset=utf-8");
    assert!(rest(request.body(DOCUMENT)).await.is_ok());
}

#[tokio::test]
async fn unknown_paths_methods_and_parameters_are_distinguished() {
    let s = setting().await;
    for path in ["/", "/v1", "/v1/pre-order", "/v1/pre-order/sessions/k/x", "/v2/contexts"] {
        let refusal = rest(s.http.get(s.url(path))).await.unwrap_err();
        assert_eq!(kind(&refusal), ("ROUTE_NOT_FOUND", 5, 404), "{path}");
    }
    let response = s.http.patch(s.url(KEY)).send().await.unwrap();
    assert_eq!(response.status(), 405);
    let mut allowed: Vec<&str> =
        response.headers()["allow"].to_str().unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "OPTIONS", "PUT"]);
    for path in [&format!("{KEY}?x=1"), "/v1/contexts?x=1", "/health?x=1"] {
        let refusal = rest(s.http.get(s.url(path))).await.unwrap_err();
        assert_eq!(kind(&refusal), INVALID, "{path}");
        assert_eq!(refusal.violations, ["x"], "{path}");
    }
}

#[tokio::test]
async fn protobuf_that_does_not_decode_is_an_invalid_request() {
    let s = setting().await;
    let grpc = GrpcClient::connect(s.host.address("grpc")).await;
    let path = "/sessionmanager.SessionManager/SetSession";
    for (message, expected) in [
        // A field that declares ten bytes and has three.
        (&b"\x0a\x0aabc"[..], "buffer underflow"),
        (b"\x0a\x02\xff\xfe", "SessionData.session_key"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "varint"),
    ] {
        let status = grpc.raw(path, Bytes::from_static(message)).await.unwrap_err();
        let refusal = refusal_of(&status);
        assert_eq!(kind(&refusal), ("INVALID_REQUEST", 3, 0), "{expected}");
        assert!(refusal.message.contains(expected), "{}", refusal.message);
    }
    // A field that only newer callers know is ignored.
    let unknown = Bytes::from_static(b"\x0a\x01k\x12\x01x\xba\x3f\x01z");
    assert!(grpc.raw(path, unknown).await.is_ok());
    s.works().await;
}

#[tokio::test]
async fn a_message_over_the_limit_is_too_large() {
    let s = setting().await;
    let grpc = GrpcClient::connect(s.host.address("grpc")).await;
    let message = Bytes::from(vec![0; 5 << 20]);
    let status = grpc.raw("/sessionmanager.SessionManager/SetSession", message).await.unwrap_err();
    assert_eq!(kind(&refusal_of(&status)), ("REQUEST_TOO_LARGE", 3, 0));
    s.works().await;
}

#[tokio::test]
async fn an_unknown_grpc_method_is_unimplemented() {
    let s = setting().await;
    let grpc = GrpcClient::connect(s.host.address("grpc")).await;
    for path in ["/sessionmanager.SessionManager/Nothing", "/no.such.Service/Get"] {
        let status = grpc.raw(path, Bytes::new()).await.unwrap_err();
        assert_eq!(kind(&refusal_of(&status)), ("METHOD_NOT_FOUND", 12, 0), "{path}");
    }
    s.works().await;
}

#[tokio::test]
async fn silent_and_malformed_connections_do_no_harm() {
    let s = setting().await;
    let mut silent = Vec::new();
    for port in ["rest", "grpc", "admin"] {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(s.host.address(port)).unwrap();
            stream.write_all(b"GET /hea").unwrap();
            silent.push(stream);
        }
        let mut stream = TcpStream::connect(s.host.address(port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(b"\x00\x01nonsense\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        // The server answers or closes the connection; either way, the exchange ends.
        drop(stream.read_to_end(&mut answer));
    }
    s.works().await;
    drop(silent);
    s.works().await;
}

#[tokio::test]
async fn bytes_that_are_not_json_are_sent_in_base64_and_back() {
    let s = setting().await;
    let grpc = GrpcClient::connect(s.host.address("grpc")).await;
    // session_key "k", fleet_list_request 08 ff.
    let message = Bytes::from_static(b"\x0a\x01k\x12\x02\x08\xff");
    grpc.raw("/sessionmanager.SessionManager/SetSession", message).await.unwrap();
    let session = rest(s.http.get(s.url(KEY))).await.unwrap();
    assert_eq!(session["fleet_list_request"], json!({"$bytes": "CP8="}));
    // A caller can write back what it has read, unchanged.
    let request = s.http.put(s.url(KEY)).json(&session);
    assert_eq!(rest(request).await.unwrap()["version"], "2");
    let reply =
        grpc.raw("/sessionmanager.SessionManager/GetSession", Bytes::from_static(b"\x0a\x01k"));
    let reply = reply.await.unwrap();
    assert!(reply.starts_with(b"\x0a\x01k\x12\x02\x08\xff"), "{reply:?}");
    // A text that looks like encoded bytes stays a text.
    let like = br#"{"$bytes":"AA=="}"#;
    let message = [b"\x0a\x01k\x12", &[u8::try_from(like.len()).unwrap()][..], like].concat();
    grpc.raw("/sessionmanager.SessionManager/SetSession", message.into()).await.unwrap();
    let session = rest(s.http.get(s.url(KEY))).await.unwrap();
    rest(s.http.put(s.url(KEY)).json(&session)).await.unwrap();
    let key = Bytes::from_static(b"\x0a\x01k");
    let reply = grpc.raw("/sessionmanager.SessionManager/GetSession", key).await.unwrap();
    assert!(reply.windows(like.len()).any(|window| window == like), "{reply:?}");
    let refusal = s.put(KEY, r#"{"fleet_list_request":{"$bytes":"*"}}"#).await;
    assert_eq!(refusal.violations, ["fleet_list_request"]);
}

#[tokio::test]
async fn a_document_is_returned_as_the_same_text() {
    let s = setting().await;
    let text = r#"{"n": 1.50, "big": 123456789012345678901234567890, "e": "\u00e9", "n": 2}"#;
    let body = format!(r#"{{"fleet_list_request": {text} }}"#);
    let request = s.http.put(s.url(KEY)).header("content-type", "application/json").body(body);
    rest(request).await.unwrap();
    let answer = s.http.get(s.url(KEY)).send().await.unwrap().text().await.unwrap();
    assert!(answer.contains(text), "{answer}");
    let parsed: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(parsed["fleet_list_request"]["e"], "\u{e9}");
}
