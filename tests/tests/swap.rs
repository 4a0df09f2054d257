//! Swapping the component: which components are accepted, which are refused, and that callers
//! notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};
use session_manager::logic::BUILT_IN;
use session_tests::admin::Admin;
use session_tests::client::{Client, GrpcClient, Wire, rest};
use session_tests::guest::{Change, build, changed, relabelled, second_version};
use session_tests::host::{Host, Launch, binary};
use session_tests::{raw, size, wait};

/// A server, its operator and a user.
struct Setting {
    host: Host,
    admin: Admin,
    user: Client,
}

async fn setting() -> Setting {
    let host = Launch::in_memory().start();
    let (admin, user) = (Admin::of(&host), host.client(Wire::Rest).await);
    Setting { host, admin, user }
}

fn change<'a>(file: &'a str, before: &'a str, after: &'a str) -> Change<'a> {
    Change { file, before, after }
}

/// The real component, whose reads trap.
fn trapping() -> Vec<u8> {
    const GET: &str =
        "super::booking::get(&Host, &context, &session_key, idempotency_key.as_deref())";
    let after =
        format!("if session_key == \"poison\" {{ panic!(\"as told\") }}\n            {GET}");
    changed("trapping", &[change("guest/src/lib.rs", GET, &after)])
}

/// A component with nested components.
fn nested(count: usize) -> Vec<u8> {
    wat::parse_str(format!("(component {})", "(component)".repeat(count))).unwrap()
}

/// A component that exports an interface of the contract in a version.
fn built_for(version: &str) -> Vec<u8> {
    let text = format!(
        "(component (instance $nothing) \
         (export \"session:manager/booking@{version}\" (instance $nothing)))"
    );
    wat::parse_str(text).unwrap()
}

/// A component with several core modules, each with the same content.
fn modules(count: usize, inside: &str) -> Vec<u8> {
    let modules = format!("(core module {inside})").repeat(count);
    wat::parse_str(format!("(component {modules})")).unwrap()
}

fn numbers(report: &Json) -> (u64, String) {
    (report["generation"].as_u64().unwrap(), report["digest"].as_str().unwrap().into())
}

/// The server reads this much of a refused body. A client that sends more may lose the answer
/// with the connection, unless it uses `expect: 100-continue`.
const DRAINED_BYTES_MAX: usize = 8 << 20;

/// Asks whether a component may be sent, as curl does for large bodies.
async fn announce(host: &Host, bytes: usize) -> (u16, Json) {
    let request = format!(
        "PUT /component HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         expect: 100-continue\r\ncontent-length: {bytes}\r\n\r\n"
    );
    let address = host.address("admin").to_owned();
    let asking = move || raw::ask(&address, request.as_bytes(), false);
    let answer = tokio::task::spawn_blocking(asking).await.unwrap().unwrap();
    (answer.status, answer.json())
}

#[tokio::test]
async fn each_bad_component_is_refused_at_its_gate_and_the_running_one_stays() {
    let Setting { host, admin, user } = setting().await;
    let schema = "guest/src/schema.rs";
    let shrunk =
        changed("shrunk", &[change(schema, "            text(\"fleet_id\", \"FLEET_ID\"),\n", "")]);
    let nonsense =
        changed("nonsense", &[change(schema, "name: \"ez-pay\"", "name: \"ez pay\\n\"")]);
    let undescribed = changed(
        "undescribed",
        &[change("guest/src/lib.rs", "super::describe(policy())", "loop {}")],
    );
    let before = numbers(&admin.component().await);
    let mut long = BUILT_IN.to_vec();
    long.resize((24 << 20) + 1, 0);
    for (component, gate, messages) in [
        (Vec::new(), "size", &["empty"][..]),
        (long, "size", &["larger than 24 MiB"]),
        (b"#!/bin/sh".to_vec(), "valid", &["not WebAssembly"]),
        (BUILT_IN[..BUILT_IN.len() / 2].to_vec(), "valid", &["no valid component"]),
        (wat::parse_str("(module)").unwrap(), "valid", &["core module", "wasm32-wasip2"]),
        (modules(49, ""), "valid", &["has 49 modules, 48 are accepted"]),
        (modules(5, "(memory 1)"), "valid", &["has 5 memories, 4 are accepted"]),
        (modules(17, "(table 1 funcref)"), "valid", &["has 17 tables, 16 are accepted"]),
        (nested(300), "valid", &["has 300 components inside, 256 are accepted"]),
        (
            built_for("1.0.0"),
            "imports",
            &["it is built for session:manager 1.x, build again", "wit/ of this host"],
        ),
        (built_for("3.1.0"), "imports", &["it is built for session:manager 3.x"]),
        (build("networked"), "imports", &["it imports wasi:sockets/tcp@0.2"]),
        (
            build("incomplete"),
            "exports",
            &[
                "it does not export session:manager/catalog@2.0.0",
                "it does not export session:manager/booking@2.0.0 unlock: \
                 func(context: string, session-key: string, lock-token: string) -> result<_, fault>",
                "its result has the fields version, not fields, version, expires-at-ms",
            ],
        ),
        (undescribed, "describes", &["does not describe itself", "interrupt"]),
        (nonsense, "describes", &["\"ez pay\\n\" is not named"]),
        (shrunk, "schema", &["the field fleet_id of the context rent-revamp is gone", "force"]),
        (build("misbehaving"), "schema", &["the context pre-order is gone"]),
    ] {
        let (status, body) = match component.len() > DRAINED_BYTES_MAX {
            false => admin.swap(component, "").await,
            true => announce(&host, component.len()).await,
        };
        assert_eq!((status, body["gate"].as_str()), (422, Some(gate)), "{body}");
        for message in messages {
            let text = body["message"].as_str().unwrap();
            assert!(text.contains(message) && !text.contains("session-manager: "), "{body}");
        }
        assert_eq!(numbers(&admin.component().await), before);
        assert!(user.set("pre-order", "k", json!({ "fleet_list_request": 1 })).await.is_ok());
    }
    let metrics = admin.metrics().await;
    let refused = "session_manager_component_swaps_total{outcome=\"refused\",source=\"upload\"} 17";
    assert!(metrics.contains(refused), "{refused}");
}

#[tokio::test]
async fn a_new_context_is_served_on_both_wires_without_a_change_of_the_host() {
    let Setting { host, admin, user } = setting().await;
    user.set("reschedule", "k", json!({ "order_id": "before" })).await.unwrap();
    let v1 = admin.component().await;
    assert_eq!((&v1["generation"], &v1["source"]), (&json!(1), &json!("built-in")));
    let flight = |session: &Json| {
        rest(session_tests::http().put(host.url("rest", "/v1/flight/sessions/k")).json(session))
    };
    assert_eq!(flight(&json!({ "seat": "1A" })).await.unwrap_err().reason, "UNKNOWN_CONTEXT");

    let (status, v2) = admin.swap(second_version(), "").await;
    assert_eq!(status, 200, "{v2}");
    assert_eq!((&v2["generation"], &v2["source"]), (&json!(2), &json!("upload")));
    assert_eq!(v2["version"], "2.0.0");
    let gates: Vec<_> = v2["gates"].as_array().unwrap().iter().map(|gate| &gate["gate"]).collect();
    let all = [
        "size",
        "quarantine",
        "valid",
        "imports",
        "exports",
        "compiles",
        "instantiates",
        "describes",
        "schema",
    ];
    assert_eq!(gates, all);

    // REST with flat bodies.
    flight(&json!({ "seat": "1A", "offer": { "price": 7 } })).await.unwrap();
    let get = |path: &str| rest(session_tests::http().get(host.url("rest", path)));
    let read = get("/v1/flight/sessions/k").await.unwrap();
    assert_eq!((&read["seat"], &read["offer"]["price"]), (&json!("1A"), &json!(7)));
    // gRPC with the context by name.
    let grpc = GrpcClient::connect(host.address("grpc")).await;
    let method = grpc.method("Get");
    let mut request = prost_reflect::DynamicMessage::new(method.input());
    request.set_field_by_name("context", prost_reflect::Value::String("flight".into()));
    request.set_field_by_name("session_key", prost_reflect::Value::String("k".into()));
    let session = grpc.call(&method, request).await.unwrap();
    assert!(session.to_string().contains("seat"), "{session}");
    // A new field of an existing context, beside a field that was written earlier.
    user.set("reschedule", "k", json!({ "terminal": "T3" })).await.unwrap();
    let read = user.get("reschedule", "k").await.unwrap();
    assert_eq!((&read["order_id"], &read["terminal"]), (&json!("before"), &json!("T3")));
    // The lists of contexts.
    let contexts = get("/v1/contexts").await.unwrap();
    assert!(contexts.to_string().contains("\"flight\""), "{contexts}");
    let openapi = get("/openapi.json").await.unwrap();
    let write = &openapi["components"]["schemas"]["flight.Write"]["properties"];
    assert_eq!(write["seat"]["type"], json!(["string", "null"]), "{write}");
    assert!(openapi["paths"].get("/v1/flight/sessions/{session_key}").is_some());

    // The same component again changes nothing.
    let (status, again) = admin.swap(second_version(), "").await;
    assert_eq!((status, &again["generation"]), (200, &json!(2)));
    // The operator rolls back.
    let (status, _) = admin.roll_back("?from=1").await;
    assert_eq!(status, 409, "another generation runs");
    let (status, v3) = admin.roll_back("?from=2").await;
    assert_eq!((status, &v3["generation"], &v3["digest"]), (200, &json!(3), &v1["digest"]));
    assert_eq!(flight(&json!({ "seat": "1A" })).await.unwrap_err().reason, "UNKNOWN_CONTEXT");
    assert!(user.get("reschedule", "k").await.unwrap().get("terminal").is_none());
    assert_eq!(admin.roll_back("").await.0, 409);
    let history = admin.component().await["history"].clone();
    let ends: Vec<_> = history.as_array().unwrap().iter().map(|past| &past["ended"]).collect();
    assert_eq!(ends, [&Json::Null, &json!("rolled back"), &json!("replaced")]);
    // With force, the operator may remove fields that stored sessions have.
    assert_eq!(admin.swap(second_version(), "").await.0, 200);
    let (status, refused) = admin.swap(BUILT_IN.to_vec(), "").await;
    assert_eq!((status, &refused["gate"]), (422, &json!("schema")));
    assert_eq!(admin.swap(BUILT_IN.to_vec(), "?force=true").await.0, 200);
}

#[tokio::test]
async fn a_component_that_keeps_trapping_is_rolled_back_and_quarantined() {
    let Setting { host, admin, user } = setting().await;
    let v1 = numbers(&admin.component().await).1;
    let bad = trapping();
    user.set("pre-order", "poison", json!({ "fleet_list_request": 1 })).await.unwrap();
    assert_eq!(admin.swap(bad.clone(), "").await.0, 200);
    let mut failed = 0;
    // Other calls are served meanwhile.
    while let Err(refusal) = user.get("pre-order", "poison").await {
        assert_eq!((refusal.reason.as_str(), refusal.http), ("LOGIC_FAILED", 500));
        failed += 1;
        assert!(failed <= 5, "still not rolled back");
        user.set("pre-order", "k", json!({ "fleet_list_request": failed })).await.unwrap();
    }
    assert_eq!(failed, 5);
    let now = admin.component().await;
    assert_eq!(numbers(&now), (3, v1));
    assert_eq!(now["history"][1]["ended"], "rolled back as its calls kept failing");
    let (status, body) = admin.swap(bad.clone(), "").await;
    assert_eq!((status, &body["gate"]), (422, &json!("quarantine")), "{body}");
    assert_eq!(now["quarantine"].as_array().unwrap().len(), 1);
    let metrics = admin.metrics().await;
    for line in [
        "session_manager_component_rollbacks_total{cause=\"failures\"} 1",
        "session_manager_component_generation 3",
        "session_manager_component_calls_total{outcome=\"trapped\"} 5",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    let log = host.log();
    assert!(log.contains("rolled back") && !log.contains("poison"), "{log}");
    // An operator may force the component. When a roll back activates it again, it is on trial
    // again, and put into quarantine again.
    assert_eq!(admin.swap(bad, "?force=true").await.0, 200);
    assert_eq!(admin.component().await["quarantine"], json!([]));
    assert_eq!(admin.swap(relabelled(BUILT_IN, 1), "").await.0, 200);
    assert_eq!(admin.roll_back("").await.0, 200);
    let failed = async || user.get("pre-order", "poison").await.is_err();
    for _ in 0..5 {
        assert!(failed().await);
    }
    assert!(!failed().await);
    assert_eq!(admin.component().await["quarantine"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn stalled_uploads_delay_no_other_call() {
    let Setting { host, admin, user: _ } = setting().await;
    let mut stalled = Vec::new();
    let head = "PUT /component HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000\r\n\r\nx";
    for _ in 0..8 {
        let mut connection = std::net::TcpStream::connect(host.address("admin")).unwrap();
        std::io::Write::write_all(&mut connection, head.as_bytes()).unwrap();
        stalled.push(connection);
    }
    wait::until("an upload is in progress", async || {
        (admin.swap(b"x".to_vec(), "").await.0 == 409).then_some(())
    })
    .await;
    assert_eq!(admin.component().await["generation"], 1);
    assert_eq!(admin.roll_back("").await.0, 409);
    drop(stalled);
    wait::until("no upload is in progress", async || {
        (admin.swap(b"x".to_vec(), "").await.0 == 422).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_misbehaving_component_fails_only_its_own_calls() {
    let Setting { host, admin, user: _ } = setting().await;
    let swapped = admin.swap(build("misbehaving"), "?force=true").await;
    assert_eq!(swapped.0, 200, "{}", swapped.1);
    let http = session_tests::http();
    let get =
        |context: &str| rest(http.get(host.url("rest", &format!("/v1/{context}/sessions/k"))));
    for (context, reason, status) in [
        ("allocate", "LOGIC_FAILED", 500),
        ("sleep", "LOGIC_FAILED", 500),
        ("loop", "LOGIC_TIMEOUT", 504),
        ("garbage", "LOGIC_FAILED", 500),
        // A reason that this host does not know.
        ("future", "LOGIC_FAILED", 500),
    ] {
        let refusal = get(context).await.unwrap_err();
        assert_eq!((refusal.reason.as_str(), refusal.http), (reason, status), "{context}");
        assert_eq!(get("fine").await.unwrap_err().reason, "UNKNOWN_CONTEXT");
    }
}

#[tokio::test]
async fn a_web_page_cannot_act_as_an_operator() {
    let Setting { host, admin, user: _ } = setting().await;
    let post = session_tests::http()
        .post(host.url("admin", "/component/rollback"))
        .header("origin", "https://example.com");
    assert_eq!(post.send().await.unwrap().status(), 403);
    let (status, _) = admin.swap(BUILT_IN.to_vec(), "?fast=true").await;
    assert_eq!(status, 400);
    let delete = session_tests::http().delete(host.url("admin", "/component"));
    let answer = delete.send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"GET, HEAD, PUT, OPTIONS".parse().unwrap())
    );
}

async fn log_has(host: &Host, what: &str) {
    wait::until(what, async || host.log().contains(what).then_some(())).await;
}

#[tokio::test]
async fn the_component_file_is_watched_and_reloaded_at_a_hangup() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.wasm");
    let put = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    put(BUILT_IN);
    let launch = Launch::in_memory().set("COMPONENT", file.to_str().unwrap());
    let mut host = launch.start();
    let admin = Admin::of(&host);
    assert_eq!(admin.component().await["source"], "file");
    let generation = async |expected: u64| {
        wait::until(&format!("generation {expected} answers"), async || {
            (admin.component().await["generation"] == expected).then_some(())
        })
        .await;
    };

    put(&second_version());
    generation(2).await;
    // The server retries a broken file, with growing delays.
    put(b"broken");
    log_has(&host, "again_in_ms=2000").await;
    log_has(&host, "again_in_ms=4000").await;
    assert_eq!(admin.component().await["generation"], 2);
    put(&relabelled(&second_version(), 1));
    generation(3).await;
    // A file that is renamed to the path, as deployments do.
    let other = directory.path().join("other.wasm");
    std::fs::write(&other, relabelled(&second_version(), 2)).unwrap();
    std::fs::rename(&other, &file).unwrap();
    generation(4).await;
    // A hangup loads the file again after a roll back.
    assert_eq!(admin.roll_back("").await.0, 200);
    generation(5).await;
    host.signal("HUP");
    generation(6).await;
    // A file that is refused is not retried until it changes.
    put(BUILT_IN);
    log_has(&host, "gate schema: the context flight is gone").await;
    log_has(&host, "until it changes").await;
    // A pipe is not a file, and the server does not wait for it.
    std::fs::remove_file(&file).unwrap();
    log_has(&host, "the component file is gone").await;
    assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
    log_has(&host, "it is not a file").await;
    assert_eq!(admin.component().await["generation"], 6);
    host.signal("TERM");
    assert_eq!(host.ended().await.code(), Some(0));

    // Without a file, a hangup changes nothing.
    let host = Launch::in_memory().start();
    host.signal("HUP");
    wait::until("the hangup is logged", async || {
        host.log().contains("no COMPONENT file").then_some(())
    })
    .await;
    assert_eq!(Admin::of(&host).component().await["generation"], 1);
}

#[tokio::test]
async fn an_unusable_component_file_prevents_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.wasm");
    let start = || {
        let launch = Launch::in_memory().set("COMPONENT", file.to_str().unwrap());
        let output = launch.command().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(start().contains("COMPONENT"), "{}", start());
    std::fs::write(&file, build("networked")).unwrap();
    assert!(start().contains("gate imports: it imports wasi:sockets/"), "{}", start());
}

#[tokio::test]
async fn a_component_is_checked_without_a_server() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rules.wasm");
    let check_with = |flags: &[&str], component: &[u8], against: &str| {
        std::fs::write(&file, component).unwrap();
        let mut command = std::process::Command::new(binary());
        command.arg("check").args(flags).arg(&file).env("COMPONENT", against);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let check = |component: &[u8], against: &str| check_with(&[], component, against);
    let (code, report) = check(&second_version(), "");
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report.matches("passed in").count(), 9, "{report}");
    assert!(report.contains("version 2.0.0, contexts: flight, pre-order"), "{report}");
    let (code, report) = check(&build("incomplete"), "");
    assert_eq!(code, Some(1));
    assert!(report.contains("exports      REFUSED: it does not export"), "{report}");
    let other = directory.path().join("running.wasm");
    std::fs::write(&other, second_version()).unwrap();
    let (code, report) = check(BUILT_IN, other.to_str().unwrap());
    assert_eq!(code, Some(1));
    assert!(report.contains("schema       REFUSED: the context flight is gone"), "{report}");
    // The flag does the same as ?force=true for a swap.
    let (code, report) = check_with(&["--force"], BUILT_IN, other.to_str().unwrap());
    assert_eq!((code, report.contains("REFUSED")), (Some(0), false), "{report}");
    let (code, report) = check_with(&["--force"], &build("incomplete"), "");
    assert_eq!(code, Some(1), "{report}");
}

/// What the clients of the load have observed.
#[derive(Default)]
struct Seen {
    calls: AtomicU64,
    stop: AtomicBool,
}

/// Writes and reads its own session until the load stops. Any unexpected answer fails the test.
async fn load(user: Client, key: String, seen: Arc<Seen>) {
    let mut last = 0;
    for number in 1_u64.. {
        if seen.stop.load(Ordering::Relaxed) {
            break;
        }
        let fields = json!({ "order_id": format!("order-{number}"), "promo_code": format!("promo-{number}") });
        let written = user.set("reschedule", &key, fields).await.expect("a write during swaps");
        assert_eq!(written.version, number, "a write was lost");
        let read = user.get("reschedule", &key).await.expect("a read during swaps");
        let text = |name: &str| read[name].as_str().unwrap().to_owned();
        assert_eq!(text("order_id"), format!("order-{number}"));
        assert_eq!(text("promo_code"), format!("promo-{number}"));
        // A generation has both new fields or neither.
        if read.contains_key("terminal") || read.contains_key("platform") {
            assert_eq!((text("terminal"), text("platform")), (String::new(), String::new()));
        }
        seen.calls.fetch_add(2, Ordering::Relaxed);
        last = number;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(last > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_fail_no_request_and_leave_no_instance() {
    let (swaps, client_count) = size((8, 8), (200, 64));
    let host = Launch::in_memory().start();
    let admin = Admin::of(&host);
    let seen = Arc::new(Seen::default());
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..client_count {
        let wire = if number % 2 == 0 { Wire::Rest } else { Wire::Grpc };
        let user = host.client(wire).await;
        clients.spawn(load(user, format!("session-{number}"), Arc::clone(&seen)));
    }
    let versions = [BUILT_IN.to_vec(), second_version()];
    let mut early = None;
    for swap in 1..=swaps {
        // Each component has a new digest.
        let component = relabelled(&versions[swap as usize % 2], swap);
        let (status, body) = admin.swap(component, "?force=true").await;
        assert_eq!((status, &body["generation"]), (200, &json!(swap + 1)), "{body}");
        if swap == 20 {
            early = Some(host.resident_bytes());
        }
        let before = seen.calls.load(Ordering::Relaxed);
        wait::until("the clients have called the new generation", async || {
            if let Some(ended) = clients.try_join_next() {
                ended.unwrap();
            }
            let calls = seen.calls.load(Ordering::Relaxed) - before;
            (calls > 4 * client_count as u64).then_some(())
        })
        .await;
    }
    let late = host.resident_bytes();
    seen.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let calls = seen.calls.load(Ordering::Relaxed);
    eprintln!("{swaps} swaps, {calls} calls, resident after 20 {early:?}, after all {late}");
    // A leak of generations shows only after many swaps.
    if let Some(early) = early {
        assert!((late as f64) < early as f64 * 1.15, "{early} bytes after 20 swaps, {late}");
    }
    wait::until("the old generations have no instances", async || {
        let history = admin.component().await["history"].clone();
        let past = history.as_array().unwrap()[1..].iter();
        past.map(|past| past["live_instances"].as_u64().unwrap()).sum::<u64>().eq(&0).then_some(())
    })
    .await;
    assert!(!host.log().contains("request failed"));
}
