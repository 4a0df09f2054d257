//! The process: its settings, its ports, its signals, its log and its metrics.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use session_tests::client::{GrpcClient, Wire};
use session_tests::host::{Launch, binary};
use session_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_bad_setting_prevents_the_start_with_one_line() {
    for (name, value, expected) in [
        ("GRPC_PORT", "99999", "expected a port from 0 to 65535"),
        ("SESSION_TTL", "15", "expected a duration"),
        ("LOG_FORMAT", "xml", "expected text or json"),
        ("BIND_ADDRESS", "everywhere", "expected an IP address"),
        ("REDIS_DATABASE", "-1", "expected a database number"),
    ] {
        let output = Launch::in_memory().set(name, value).command().output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{name}");
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains(name) && line.contains(value) && line.contains(expected), "{line}");
        assert!(output.stdout.is_empty());
    }
}

#[tokio::test]
async fn help_documents_every_setting() {
    let output = std::process::Command::new(binary()).arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for setting in [
        "APP_NAME",
        "BIND_ADDRESS",
        "ADMIN_ADDRESS",
        "GRPC_PORT",
        "REST_PORT",
        "ADMIN_PORT",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "LOG_DIRECTORY",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_DATABASE",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "REDIS_URL",
        "DATA_DIR",
        "SESSION_TTL",
        "SESSION_LOCK_TTL",
        "USER_SESSION_TTL",
        "USER_SESSION_IDLE",
        "VIEWING_TTL",
        "VIEWING_MAX_SESSIONS",
        "COMPONENT",
    ] {
        assert!(help.contains(setting), "{setting}");
    }
}

#[tokio::test]
async fn an_unavailable_port_or_address_is_refused_with_its_setting() {
    let host = Launch::in_memory().start();
    let refused = |name: &str, value: &str| {
        let output = Launch::in_memory().set(name, value).command().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        complaint
    };
    for (setting, port) in [("GRPC_PORT", "grpc"), ("REST_PORT", "rest"), ("ADMIN_PORT", "admin")] {
        let port = host.address(port).rsplit(':').next().unwrap();
        let complaint = refused(setting, port);
        let expected = format!("{setting} {port} is taken on 127.0.0.1: end the process that");
        assert!(complaint.contains(&expected), "{complaint}");
    }
    // An address for documentation, which belongs to no machine.
    for setting in ["BIND_ADDRESS", "ADMIN_ADDRESS"] {
        let complaint = refused(setting, "192.0.2.1");
        let expected = format!("{setting} 192.0.2.1 is not an address of this machine");
        assert!(complaint.contains(&expected), "{complaint}");
    }
}

#[tokio::test]
async fn files_of_the_process_are_private_to_its_user() {
    let directory = tempfile::tempdir().unwrap();
    let (data, logs) = (directory.path().join("data"), directory.path().join("logs"));
    let launch = Launch::embedded(&data).set("LOG_DIRECTORY", logs.to_str().unwrap());
    let host = launch.start();
    let client = host.client(Wire::Rest).await;
    client.set("ez-pay", "k", json!({"request": 1})).await.unwrap();
    let mut directories = vec![data, logs];
    let mut files = 0;
    while let Some(directory) = directories.pop() {
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory) & 0o077, 0, "{}", directory.display());
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                files += 1;
                assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
            }
        }
    }
    assert!(files > 2, "a journal and a log at least");
}

#[tokio::test]
async fn the_process_writes_no_core_dump() {
    // The server runs as a user without rights, as intended. That user may not be able to reach
    // the binary by its path, so a file descriptor is passed on.
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("unprivileged");
    let as_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let user = if as_root { "setpriv --reuid 65534 --clear-groups" } else { "" };
    let binary = binary();
    let script =
        format!("#!/bin/sh\nexec 3<'{}'\nexec {user} /proc/self/fd/3 \"$@\"\n", binary.display());
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    let host = Launch::in_memory().program(&program).start();
    let process = format!("/proc/{}", host.process_id());
    let limits = std::fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The files in /proc of a process without core dumps belong to root.
    assert_eq!(std::fs::metadata(format!("{process}/environ")).unwrap().uid(), 0);
    // The process can still read its own files there.
    let metrics = session_tests::get(host.url("admin", "/metrics")).await.text().await.unwrap();
    assert!(metrics.contains("process_open_fds ") && metrics.contains("process_cpu_seconds_total"));
}

#[tokio::test]
async fn sigterm_answers_requests_in_flight_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(directory.path());
    let mut host = launch.start();
    let client = host.client(Wire::Grpc).await;
    client.set("ez-pay", "k", json!({"request": 1})).await.unwrap();
    // A request whose body is incomplete when the signal arrives.
    let mut stream = TcpStream::connect(host.address("rest")).unwrap();
    let body = r#"{"request":2}"#;
    write!(
        stream,
        "PUT /v1/ez-pay/sessions/k HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{{",
        body.len()
    )
    .unwrap();
    let in_flight = "session_manager_requests_in_flight 1";
    wait::until("the request is in flight", async || {
        metrics(&host).await.contains(in_flight).then_some(())
    })
    .await;
    host.signal("TERM");
    let address = host.address("rest").to_owned();
    wait::until("no connection is accepted", async || TcpStream::connect(&address).err()).await;
    // Until the last request is answered, probes get the reason why the server accepts no more.
    for (path, status) in [("/readyz", 503), ("/livez", 200), ("/metrics", 200)] {
        let answer = session_tests::get(host.url("admin", path)).await;
        assert_eq!(answer.status(), status, "{path}");
    }
    stream.write_all(&body.as_bytes()[1..]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(client);
    assert_eq!(host.ended().await.code(), Some(0), "{}", host.log());

    let host = launch.start();
    let session = host.client(Wire::Rest).await.get("ez-pay", "k").await.unwrap();
    assert_eq!((&session["request"], &session["version"]), (&json!(2), &json!("2")));
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let mut host = Launch::in_memory().start();
    let mut stream = TcpStream::connect(host.address("rest")).unwrap();
    let head = "PUT /v1/ez-pay/sessions/k HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    wait::until("the request is in flight", async || {
        metrics(&host).await.contains("session_manager_requests_in_flight 1").then_some(())
    })
    .await;
    host.signal("TERM");
    wait::until("the server is stopping", async || host.log().contains("stopping").then_some(()))
        .await;
    host.signal("TERM");
    assert_eq!(host.ended().await.code(), Some(1));
}

async fn metrics(host: &session_tests::host::Host) -> String {
    session_tests::get(host.url("admin", "/metrics")).await.text().await.unwrap()
}

#[tokio::test]
async fn probes_and_metrics_answer_on_the_admin_port() {
    let host = Launch::in_memory().start();
    for (path, expected) in [("/livez", "alive\n"), ("/readyz", "ready\n")] {
        let response = session_tests::get(host.url("admin", path)).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.text().await.unwrap(), expected);
    }
    let client = host.client(Wire::Rest).await;
    client.set("ez-pay", "k", json!({"request": 1})).await.unwrap();
    client.get("ez-pay", "missing").await.unwrap_err();
    host.client(Wire::Grpc).await.get("ez-pay", "k").await.unwrap();
    let text = metrics(&host).await;
    for line in [
        r#"session_manager_requests_total{code="200",operation="session.booking.v1.Booking/Set",protocol="rest"} 1"#,
        r#"session_manager_requests_total{code="404",operation="session.booking.v1.Booking/Get",protocol="rest"} 1"#,
        r#"session_manager_requests_total{code="OK",operation="sessionmanager.SessionManager/GetSessionEZPay",protocol="grpc"} 1"#,
        "session_manager_component_generation 1",
        r#"session_manager_store_calls_total{operation="write",outcome="answered"} 1"#,
        r#"session_manager_build_info{app="session-manager",version=""#,
        "session_manager_store_up 1",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    // Sweeps read the store too.
    let reads = r#"session_manager_store_calls_total{operation="read",outcome="answered"} "#;
    let reads = text.lines().find_map(|line| line.strip_prefix(reads)).expect("there are some");
    assert!(reads.parse::<u64>().unwrap() >= 2, "{reads}");
    let refused = session_tests::get(host.url("admin", "/nothing")).await;
    assert_eq!(refused.status(), 404);
}

#[tokio::test]
async fn a_request_id_is_accepted_or_generated_and_logged() {
    let host = Launch::in_memory().set("LOG_LEVEL", "debug").set("LOG_FORMAT", "json").start();
    let http = session_tests::http();
    let url = host.url("rest", "/health");
    let response = http.get(&url).header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(response.headers()["x-request-id"], "mine-1");
    let response = http.get(&url).send().await.unwrap();
    assert!(!response.headers()["x-request-id"].is_empty());
    let line = wait::until("the request is logged", async || {
        host.log().lines().find(|line| line.contains("mine-1")).map(str::to_owned)
    })
    .await;
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&line["request_id"], &line["span"]["request_id"]),
        (&json!("mine-1"), &json!("mine-1"))
    );
    assert_eq!(line["code"], 200);
}

#[tokio::test]
async fn every_log_line_of_a_request_has_its_ids_at_the_top_level_and_numbers_as_numbers() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let host = Launch::in_memory().set("LOG_LEVEL", "debug").set("LOG_FORMAT", "json").start();
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let asked = session_tests::http()
        .get(host.url("rest", "/v1/pre-order/sessions/none"))
        .header("x-request-id", "over-rest\"}{")
        .header("traceparent", &parent);
    assert_eq!(asked.send().await.unwrap().status(), 404);
    // The server replaces an id that is not suitable for a log.
    let odd = "x".repeat(129);
    for odd in ["two words", "caf\u{e9}", "a\tb", &odd] {
        let asked = session_tests::http().get(host.url("rest", "/health"));
        let answer = asked.header("x-request-id", odd.as_bytes()).send().await.unwrap();
        let given = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(given.len() < 40 && given != odd, "{given}");
    }
    let grpc = host.client(Wire::Grpc).await;
    grpc.get("pre-order", "none").await.unwrap_err();
    let log = wait::until("both requests are logged", async || {
        let log = host.log();
        (log.contains("GetSession") && log.contains("over-rest")).then_some(log)
    })
    .await;
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let lines: Vec<Value> = lines.filter(|line| line["span"]["name"] == "request").collect();
    for line in &lines {
        assert_eq!(line["request_id"], line["span"]["request_id"], "{line}");
        assert!(line["request_id"].is_string(), "{line}");
        assert_eq!(line.get("trace_id"), line["span"].get("trace_id"), "{line}");
    }
    let answered = |operation: &str| {
        let of = |line: &&Value| line["span"]["operation"] == operation && line["code"].is_number();
        lines.iter().find(of).unwrap_or_else(|| panic!("{operation}: {log}"))
    };
    let rest = answered("session.booking.v1.Booking/Get");
    assert_eq!((&rest["code"], &rest["trace_id"]), (&json!(404), &json!(TRACE)));
    assert_eq!(rest["request_id"], "over-rest\"}{");
    let grpc = answered("sessionmanager.SessionManager/GetSession");
    assert_eq!((&grpc["code"], &grpc["status"]), (&json!(5), &json!("NOT_FOUND")));
    for line in [rest, grpc] {
        assert!(line["duration_us"].is_u64() && line.get("duration").is_none(), "{line}");
    }
}

#[tokio::test]
async fn a_log_directory_gets_daily_files() {
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    let mut host = Launch::in_memory().set("LOG_DIRECTORY", logs.to_str().unwrap()).start();
    host.signal("TERM");
    assert_eq!(host.ended().await.code(), Some(0));
    let file = std::fs::read_dir(&logs).unwrap().next().unwrap().unwrap();
    let name = file.file_name().into_string().unwrap();
    assert!(name.starts_with("session-manager.20") && name.ends_with(".log"), "{name}");
    let text = std::fs::read_to_string(file.path()).unwrap();
    assert!(text.contains("serving") && text.contains("stopped"), "{text}");
    assert_eq!(host.log(), "");
}

#[test]
fn a_log_directory_that_is_not_writable_prevents_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let output = Launch::in_memory().set("LOG_DIRECTORY", path).command().output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), complaint.lines().count()), (Some(64), 1), "{complaint}");
    assert!(complaint.contains("LOG_DIRECTORY") && complaint.contains(path), "{complaint}");
}

#[tokio::test]
async fn no_secret_and_no_whole_session_key_is_logged_or_returned() {
    let host = Launch::in_memory().set("LOG_LEVEL", "trace").start();
    let key = "a-session-key-nobody-should-see";
    for wire in [Wire::Rest, Wire::Grpc] {
        let client = host.client(wire).await;
        client.set("ez-pay", key, json!({"request": "a-document-of-somebody"})).await.unwrap();
        client.get("ez-pay", key).await.unwrap();
        let token = client.lock("ez-pay", key).await.unwrap();
        let refusals = [
            client.get("pre-order", key).await.unwrap_err(),
            client.delete("ez-pay", key).await.unwrap_err(),
            client.get("ez-pay", &format!("{key} x")).await.unwrap_err(),
        ];
        for refusal in refusals {
            let text = format!("{refusal:?}");
            assert!(!text.contains(key) && !text.contains(&token), "{text}");
        }
        client.unlock("ez-pay", key, &token).await.unwrap();
        let log = host.log();
        assert!(
            !log.contains(key) && !log.contains(&token) && !log.contains("a-document"),
            "{log}"
        );
    }
    assert!(!metrics(&host).await.contains(key));
}

#[tokio::test]
async fn grpc_serves_its_health_and_its_contract() {
    let host = Launch::in_memory().start();
    let grpc = GrpcClient::connect(host.address("grpc")).await;
    for service in ["", "sessionmanager.SessionManager", "session.booking.v1.Booking"] {
        let request = [&[0x0a, u8::try_from(service.len()).unwrap()], service.as_bytes()].concat();
        let reply = grpc.raw("/grpc.health.v1.Health/Check", request.into()).await.unwrap();
        // status = SERVING
        assert_eq!(&reply[..], b"\x08\x01", "{service}");
    }
    let unknown = grpc.raw("/grpc.health.v1.Health/Check", bytes::Bytes::from_static(b"\x0a\x01x"));
    assert_eq!(unknown.await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_health_watch_reports_changes_and_does_not_delay_the_stop() {
    let mut host = Launch::in_memory().start();
    let grpc = GrpcClient::connect(host.address("grpc")).await;
    let mut health =
        grpc.stream("/grpc.health.v1.Health/Watch", bytes::Bytes::new()).await.unwrap();
    assert_eq!(&health.message().await.unwrap().unwrap()[..], b"\x08\x01", "SERVING");
    // The server checks its health every second, and reports only changes.
    let unchanged = tokio::time::timeout(Duration::from_millis(2500), health.message()).await;
    assert!(unchanged.is_err(), "{unchanged:?}");
    host.signal("TERM");
    assert_eq!(&health.message().await.unwrap().unwrap()[..], b"\x08\x02", "NOT_SERVING");
    assert!(matches!(health.message().await, Ok(None) | Err(_)));
    drop((health, grpc));
    assert_eq!(host.ended().await.code(), Some(0));
    assert!(!host.log().contains("cut off"), "{}", host.log());
}

#[tokio::test]
async fn a_request_dropped_by_its_caller_is_counted_and_no_longer_in_flight() {
    let host = Launch::in_memory().start();
    let mut stream = TcpStream::connect(host.address("rest")).unwrap();
    let head = "PUT /v1/ez-pay/sessions/k HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let in_flight = |n: u32| format!("session_manager_requests_in_flight {n}");
    let until = async |text: String| {
        wait::until(&text, async || metrics(&host).await.contains(&text).then_some(())).await;
    };
    until(in_flight(1)).await;
    drop(stream);
    until(in_flight(0)).await;
}

#[tokio::test]
async fn silent_connections_leave_files_for_the_store_and_the_probes() {
    let directory = tempfile::tempdir().unwrap();
    let host = Launch::embedded(directory.path()).files_max(256).start();
    // One HTTP/2 connection, opened before the silent ones.
    let client = host.client(Wire::Grpc).await;
    let megabyte = "x".repeat(1 << 19);
    client.set("ez-pay", "k", json!({"request": megabyte})).await.unwrap();
    let hoard: Vec<TcpStream> = ["rest", "grpc"]
        .iter()
        .flat_map(|port| (0..100).map(|_| TcpStream::connect(host.address(port)).unwrap()))
        .collect();
    for n in 0..40 {
        let fields = json!({"request": megabyte, "response": n});
        // The server may close this connection as the one idle for longest, so the client
        // reconnects.
        wait::until("the session is written", async || {
            client.set("ez-pay", &format!("k{n}"), fields.clone()).await.ok()
        })
        .await;
    }
    let ready = session_tests::get(host.url("admin", "/readyz")).await;
    assert_eq!(ready.status(), 200);
    drop(hoard);
    for wire in [Wire::Rest, Wire::Grpc] {
        assert!(host.client(wire).await.health().await.is_ok());
    }
}

#[tokio::test]
async fn the_log_level_can_be_changed_at_run_time() {
    let host = Launch::in_memory().set("LOG_LEVEL", "warn").start();
    let http = session_tests::http();
    let url = host.url("admin", "/log-level");
    let put = async |body: &'static str| {
        let answer = http.put(&url).body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let present = async || http.get(&url).send().await.unwrap().text().await.unwrap();
    let ask = async || {
        let url = host.url("rest", "/v1/pre-order/sessions/none");
        http.get(url).header("x-request-id", "asked").send().await.unwrap();
    };
    assert_eq!(present().await, "{\"level\":\"warn\"}\n");
    ask().await;
    assert!(!host.log().contains("asked"));
    assert_eq!(put(r#"{"level": "debug"}"#).await, (200, "{\"level\":\"debug\"}\n".into()));
    ask().await;
    let log = host.log();
    assert!(log.contains("the level of the log was changed before=warn level=debug"), "{log}");
    assert!(log.contains("asked"), "{log}");
    for wrong in ["", "debug", r#"{"level": "loud"}"#, r#"{"level": "5"}"#, r#"{"level": 1}"#] {
        let (status, text) = put(wrong).await;
        assert_eq!(status, 400, "{wrong}");
        assert!(text.contains("off, error, warn, info, debug or trace"), "{text}");
    }
    assert_eq!(put(r#"{"level": "off"}"#).await.0, 200);
    let before = host.log();
    ask().await;
    assert_eq!(host.log(), before);
    assert_eq!(present().await, "{\"level\":\"off\"}\n");
    let page = http.put(&url).header("origin", "http://x").body(r#"{"level":"trace"}"#);
    assert_eq!(page.send().await.unwrap().status(), 403);
    assert_eq!(http.delete(&url).send().await.unwrap().status(), 405);
}

/// Sends requests on one connection until the connection ends; returns the number of answers,
/// and whether the last answer announced the end.
async fn ask_until_closed(address: &str) -> (u32, bool) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut answers = 0;
    loop {
        let request = "GET /v1/contexts HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        loop {
            let mut part = [0; 16384];
            let length = stream.read(&mut part).await.unwrap_or(0);
            if length == 0 {
                return (answers, false);
            }
            answer.extend(&part[..length]);
            if answer.ends_with(b"]}\n") {
                break;
            }
        }
        answers += 1;
        let text = String::from_utf8(answer).unwrap();
        if text.contains("\r\nconnection: close\r\n") {
            return (answers, true);
        }
    }
}

#[tokio::test]
async fn requests_during_a_stop_are_answered_before_their_connections_close() {
    let mut host = Launch::in_memory().start();
    let address = host.address("rest").to_owned();
    let asking = futures_util::future::join_all((0..16).map(|_| ask_until_closed(&address)));
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        host.signal("TERM");
        host.ended().await
    };
    let (answers, ended) = tokio::join!(asking, stopping);
    assert!(ended.success());
    assert!(answers.iter().all(|(count, announced)| *announced && *count > 0), "{answers:?}");
}

#[tokio::test]
async fn a_connection_at_its_maximum_age_closes_after_an_answer() {
    let host = Launch::in_memory().set("NETWORK_MAX_AGE", "1s").start();
    let (answers, announced) = ask_until_closed(host.address("rest")).await;
    assert!(announced && answers > 1, "{answers}");
}
