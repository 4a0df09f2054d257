//! HTTP and the transport of gRPC: methods, hosts, refused bodies, compression, content types,
//! and errors that look the same wherever they come from.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use session_tests::client::{GrpcClient, Wire, rest};
use session_tests::host::{Host, Launch};
use session_tests::raw::{self, Answer, ask};

const KEY: &str = "/v1/pre-order/sessions/k";

fn host() -> Host {
    Launch::in_memory().set("PROBE_PORT", "0").start()
}

/// A request with a body that closes the connection after the answer.
fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

async fn asked(host: &Host, port: &str, bytes: Vec<u8>, half_close: bool) -> Answer {
    let address = host.address(port).to_owned();
    let asking = tokio::task::spawn_blocking(move || ask(&address, &bytes, half_close));
    asking.await.unwrap().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Checks what every error over HTTP has in common.
fn assert_error(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    assert!(answer.body.ends_with("}\n"), "{answer:?}");
    assert_eq!(answer.json()["details"][0]["reason"], reason, "{answer:?}");
}

#[tokio::test]
async fn a_client_with_a_large_refused_body_can_read_the_refusal() {
    let host = host();
    let body = vec![b'x'; 4 << 20];
    for (line, headers, status) in [
        ("POST /nowhere", "", 404),
        ("PATCH /v1/pre-order/sessions/k", "", 405),
        ("PUT /v1/pre-order/sessions/k", "content-type: text/plain\r\n", 415),
        ("PUT /v1/pre-order/sessions/k", "content-encoding: br\r\n", 415),
        ("GET /v1/contexts", "", 200),
        ("POST /docs", "", 405),
    ] {
        let answers = (0..8).map(|_| asked(&host, "rest", request(line, headers, &body), false));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.status, status, "{line}: {answer:?}");
        }
    }
    for (line, status) in [("PUT /nowhere", 404), ("PUT /metrics", 405), ("PUT /log-level", 413)] {
        let answers = (0..8).map(|_| asked(&host, "admin", request(line, "", &body), false));
        for answer in futures_util::future::join_all(answers).await {
            assert_eq!(answer.status, status, "{line}: {answer:?}");
        }
    }
}

/// Sends a request over HTTP/2 and closes the sending side at once; returns the status.
async fn half_closed_http2(host: &Host, port: &str) -> u16 {
    // The preface, SETTINGS and one GET. The sending side is closed after these frames.
    let path = if port == "rest" { KEY } else { "/livez" };
    let mut head = vec![0x82, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    head.extend(path.as_bytes());
    head.extend([0x41, 9]);
    head.extend(b"localhost");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend([0, 0, u8::try_from(head.len()).unwrap(), 1, 5, 0, 0, 0, 1]);
    bytes.extend(head);
    let address = host.address(port).to_owned();
    let asking = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(session_tests::wait::PATIENCE)).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answered = Vec::new();
        // The server may close or reset the connection, as the client did not end it properly.
        drop(stream.read_to_end(&mut answered));
        let mut rest = &answered[..];
        while let [a, b, c, kind, _, _, _, _, _, frame @ ..] = rest {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            // HPACK encodes the status 200 in one byte.
            if *kind == 1 {
                return if frame.first() == Some(&0x88) { 200 } else { 1 };
            }
            rest = &frame[length.min(frame.len())..];
        }
        0
    });
    asking.await.unwrap()
}

#[tokio::test]
async fn a_client_that_closes_its_sending_side_gets_its_answer() {
    let host = host();
    let write = request(
        "PUT /v1/pre-order/sessions/k",
        "content-type: application/json\r\n",
        br#"{"fleet_list_request":1}"#,
    );
    for _ in 0..20 {
        assert_eq!(asked(&host, "rest", write.clone(), true).await.status, 200);
    }
    assert_eq!(
        asked(&host, "rest", request(&format!("GET {KEY}"), "", b""), true).await.status,
        200
    );
    assert_eq!(asked(&host, "admin", request("GET /livez", "", b""), true).await.status, 200);
    for headers in ["", "connection: close\r\n"] {
        let head = format!(
            "PUT /v1/pre-order/sessions/k HTTP/1.1\r\nhost: localhost\r\n{headers}\
             content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let chunks = "18\r\n{\"fleet_list_request\":2}\r\n0\r\n\r\n";
        for _ in 0..20 {
            let chunked = [&head, chunks].concat().into_bytes();
            assert_eq!(asked(&host, "rest", chunked, true).await.status, 200);
        }
    }
    let session = rest(session_tests::http().get(host.url("rest", KEY))).await.unwrap();
    assert_eq!(session["fleet_list_request"], 2);
    for port in ["rest", "admin"] {
        for _ in 0..20 {
            assert_eq!(half_closed_http2(&host, port).await, 200, "{port}");
        }
    }
    // A client that closes its side of an event stream has left.
    let mut stream = TcpStream::connect(host.address("rest")).unwrap();
    let line = "GET /v1/connect?user_id=u&pod_id=p&session_id=0123456789abcdef HTTP/1.1";
    write!(stream, "{line}\r\nhost: localhost\r\n\r\n").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    session_tests::wait::until("the connection is removed", async || {
        let url = host.url("rest", "/v1/users/u/presence");
        let presence = rest(session_tests::http().get(url)).await.unwrap();
        (presence["online"] == false).then_some(())
    })
    .await;
}

#[tokio::test]
async fn head_is_served_where_reading_has_no_effect() {
    let host = host();
    host.client(Wire::Rest)
        .await
        .set("pre-order", "k", json!({"fleet_list_request": 1}))
        .await
        .unwrap();
    for (port, path) in [
        ("rest", KEY),
        ("rest", "/v1/contexts"),
        ("rest", "/health"),
        ("rest", "/openapi.json"),
        ("rest", "/docs"),
        ("admin", "/livez"),
        ("admin", "/readyz"),
        ("admin", "/component"),
        ("admin", "/log-level"),
    ] {
        let whole = asked(&host, port, request(&format!("GET {path}"), "", b""), false).await;
        let head = asked(&host, port, request(&format!("HEAD {path}"), "", b""), false).await;
        assert_eq!((whole.status, head.status, &*head.body), (200, 200, ""), "{path}");
        if path != "/component" {
            assert_eq!(whole.header("content-length"), head.header("content-length"), "{path}");
        }
        assert_eq!(whole.header("content-type"), head.header("content-type"), "{path}");
    }
    for path in ["/v1/connect?user_id=u&pod_id=p", "/v1/events"] {
        let answer = asked(&host, "rest", request(&format!("HEAD {path}"), "", b""), false).await;
        assert_eq!(answer.status, 405, "{path}");
    }
    for (port, path, allowed) in [
        ("rest", KEY, "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("rest", "/v1/events", "GET, OPTIONS"),
        ("rest", "*", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        ("rest", "/docs", "GET, HEAD, OPTIONS"),
        ("admin", "/component", "GET, HEAD, PUT, OPTIONS"),
        ("admin", "/component/rollback", "POST, OPTIONS"),
        ("admin", "*", "GET, HEAD, POST, PUT, OPTIONS"),
        ("probe", "/livez", "GET, HEAD, OPTIONS"),
        ("probe", "*", "GET, HEAD, OPTIONS"),
    ] {
        let answer = asked(&host, port, request(&format!("OPTIONS {path}"), "", b""), false).await;
        let sorted = |methods: &str| {
            let mut methods: Vec<_> = methods.split(", ").map(str::to_uppercase).collect();
            methods.sort_unstable();
            methods
        };
        let given = answer.header("allow").map(sorted);
        assert_eq!((answer.status, given), (204, Some(sorted(allowed))), "{path}");
    }
    for (port, line) in [
        ("rest", "OPTIONS /nowhere"),
        ("rest", "GET *"),
        ("rest", "DELETE *"),
        ("admin", "GET *"),
        ("probe", "GET *"),
    ] {
        let answer = asked(&host, port, request(line, "", b""), false).await;
        assert_error(&answer, 404, "ROUTE_NOT_FOUND");
    }
}

#[tokio::test]
async fn a_request_names_its_host_once() {
    let host = host();
    for (bytes, port, status) in [
        ("GET /v1/contexts HTTP/1.1\r\nconnection: close\r\n\r\n", "rest", 400),
        (
            "GET /v1/contexts HTTP/1.1\r\nhost: a\r\nhost: a\r\nconnection: close\r\n\r\n",
            "rest",
            400,
        ),
        ("GET /v1/contexts HTTP/1.1\r\nhost: u@a\r\nconnection: close\r\n\r\n", "rest", 400),
        ("GET /v1/contexts HTTP/1.0\r\n\r\n", "rest", 400),
        ("GET /health HTTP/1.0\r\n\r\n", "rest", 200),
        ("GET /health HTTP/1.1\r\nconnection: close\r\n\r\n", "rest", 400),
        ("GET /livez HTTP/1.0\r\n\r\n", "admin", 200),
        ("GET /component HTTP/1.1\r\nconnection: close\r\n\r\n", "admin", 400),
        ("GET /livez HTTP/1.0\r\n\r\n", "probe", 200),
        ("GET /livez HTTP/1.1\r\n\r\n", "probe", 400),
        ("GET /livez HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "probe", 400),
    ] {
        let answer = asked(&host, port, bytes.into(), false).await;
        assert_eq!(answer.status, status, "{bytes:?}: {answer:?}");
        if status == 400 {
            assert_error(&answer, 400, "INVALID_REQUEST");
        }
    }
}

#[tokio::test]
async fn refusals_of_the_parser_look_like_all_other_refusals() {
    let host = host();
    let long = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(64 << 10));
    for port in ["rest", "admin", "probe"] {
        for (bytes, status, reason) in [
            ("nonsense\r\n\r\n", 400, "INVALID_REQUEST"),
            ("GET / HTTP/1.1\nhost: localhost\r\n\r\n", 400, "INVALID_REQUEST"),
            ("GET / HTTP/1.1\r\nhost: localhost\nx: y\r\n\r\n", 400, "INVALID_REQUEST"),
            // The head never ends, because its last line end is wrong.
            ("GET / HTTP/1.1\r\nhost: localhost\r\nx: y\n\r\n", 400, "INVALID_REQUEST"),
            ("GET / HTTP/1.1\r\nhost: localhost\r\n\n", 400, "INVALID_REQUEST"),
            ("GET / HTTP/1.1\nhost: localhost\n\n", 400, "INVALID_REQUEST"),
            (
                "GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n",
                400,
                "INVALID_REQUEST",
            ),
            (&long, 431, "REQUEST_TOO_LARGE"),
        ] {
            let answer = asked(&host, port, bytes.into(), false).await;
            assert_error(&answer, status, reason);
        }
        if port == "probe" {
            continue;
        }
        // The same inside chunks of a body, in trailers, and in another transfer coding.
        for body in [
            "chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n",
            "chunked\r\n\r\n2\r\n{}\r\n0\r\nx: y\n\r\n",
            "chunked\r\n\r\n2\r\n{}\r\n0\r\n\n",
            "gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ] {
            let head = "PUT /v1/pre-order/sessions/k HTTP/1.1\r\nhost: localhost\r\n\
                        content-type: application/json\r\ntransfer-encoding: ";
            // A path without a body answers before the body arrives.
            if port == "rest" || body.starts_with("gzip") {
                let answer = asked(&host, port, format!("{head}{body}").into(), false).await;
                assert_error(&answer, 400, "INVALID_REQUEST");
            }
        }
        // The same in a second request, after a valid one.
        for before in [
            "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
            "POST /livez HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n\
             1\r\n\n\r\n0\r\n\r\n",
        ] {
            let both = format!("{before}GET / HTTP/1.1\nhost: a\r\n\r\n");
            let answer = asked(&host, port, both.into(), false).await;
            assert!(answer.body.contains("INVALID_REQUEST"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn compressed_bodies_are_limited_by_their_decompressed_size() {
    let host = host();
    let put = |encoding: &str, body: &[u8]| {
        let headers = format!("content-type: application/json\r\ncontent-encoding: {encoding}\r\n");
        asked(&host, "rest", request(&format!("PUT {KEY}"), &headers, body), false)
    };
    let json = br#"{"fleet_list_request":{"from":"here"}}"#;
    assert_eq!(put("gzip", &gzip(json)).await.status, 200);
    assert_eq!(put("GZIP", &[gzip(&json[..9]), gzip(&json[9..])].concat()).await.status, 200);
    assert_eq!(put("identity", json).await.status, 200);
    let session = asked(&host, "rest", request(&format!("GET {KEY}"), "", b""), false).await;
    assert_eq!(session.json()["fleet_list_request"]["from"], "here");
    for encoding in ["br", "deflate", "gzip, gzip"] {
        let answer = put(encoding, json).await;
        assert_error(&answer, 415, "UNSUPPORTED_ENCODING");
        assert_eq!(answer.header("accept-encoding"), Some("gzip, identity"));
    }
    assert_error(&put("gzip", json).await, 400, "INVALID_REQUEST");
    assert_error(&put("gzip", &gzip(json)[..20]).await, 400, "INVALID_REQUEST");
    let bomb = gzip(&vec![b' '; 64 << 20]);
    assert_error(&put("gzip", &bomb).await, 413, "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn large_replies_are_compressed_on_request_unless_their_length_could_reveal_a_secret() {
    let host = host();
    let user = host.client(Wire::Rest).await;
    user.set("pre-order", "k", json!({"fleet_list_request": "x".repeat(5000)})).await.unwrap();
    let login = json!({"user_id": "u", "access_token": "x".repeat(4000)});
    let login =
        user.users("Create", login).await.unwrap()["session_id"].as_str().unwrap().to_owned();
    let get = async |path: &str| {
        let url = host.url("rest", path);
        let asking = session_tests::http().get(url).header("accept-encoding", "gzip");
        let answer = asking.send().await.unwrap();
        let compressed = answer.headers().get("content-encoding").is_some();
        let bytes = answer.bytes().await.unwrap();
        let mut text = String::new();
        match compressed {
            true => GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap(),
            false => (&bytes[..]).read_to_string(&mut text).unwrap(),
        };
        (compressed, serde_json::from_str::<Value>(&text).unwrap())
    };
    let (compressed, session) = get(KEY).await;
    assert!(compressed && session["fleet_list_request"].as_str().unwrap().len() == 5000);
    assert!(get("/openapi.json").await.0);
    assert!(!get("/health").await.0, "it is small");
    assert!(!get(&format!("/session/{login}")).await.0, "it holds a token");
    let plain = asked(&host, "rest", request(&format!("GET {KEY}"), "", b""), false).await;
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
}

/// Calls a method with an encoded message.
async fn grpc(
    host: &Host,
    path: &str,
    headers: &[(&str, &str)],
    message: Vec<u8>,
) -> (http::Response<()>, Vec<u8>, Option<http::HeaderMap>) {
    let stream = tokio::net::TcpStream::connect(host.address("grpc")).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{}{path}", host.address("grpc")));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (answer, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(message.into(), true).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    let mut bytes = Vec::new();
    while let Some(data) = body.data().await {
        let data: Bytes = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        bytes.extend(data);
    }
    let trailers = body.trailers().await.unwrap();
    connection.abort();
    (http::Response::from_parts(head, ()), bytes, trailers)
}

fn frame(compressed: bool, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[u8::from(compressed)], &length[..], message].concat()
}

#[tokio::test]
async fn grpc_accepts_and_sends_gzip_and_names_what_it_accepts() {
    let host = host();
    let client = GrpcClient::connect(host.address("grpc")).await;
    let document = vec![b'1'; 5000];
    let message = [&b"\x0a\x01k\x12\x88\x27"[..], &document].concat();
    let set = "/sessionmanager.SessionManager/SetSession";
    let get = "/sessionmanager.SessionManager/GetSession";
    let grpc_type = ("content-type", "application/grpc");
    let (head, _, _) =
        grpc(&host, set, &[grpc_type, ("grpc-encoding", "gzip")], frame(true, &gzip(&message)))
            .await;
    assert_eq!(head.status(), 200);
    let plain = client.raw(get, Bytes::from_static(b"\x0a\x01k")).await.unwrap();
    assert!(plain.windows(5000).any(|window| window == &document[..]));
    let accepts = [grpc_type, ("grpc-accept-encoding", "gzip")];
    let (head, reply, _) = grpc(&host, get, &accepts, frame(false, b"\x0a\x01k")).await;
    assert_eq!(head.headers()["grpc-encoding"], "gzip");
    assert!(reply[0] == 1 && reply.len() < 1000, "{}", reply.len());
    let small = "/sessionmanager.SessionManager/HealthCheck";
    let (_, reply, _) = grpc(&host, small, &accepts, frame(false, b"")).await;
    assert_eq!(reply[0], 0, "a small reply is not compressed");
    let create = "/session.users.v1.UserSessions/Create";
    let (_, reply, _) = grpc(&host, create, &accepts, frame(false, b"\x0a\x03\x0a\x01u")).await;
    assert_eq!(reply[0], 0, "a reply with a secret is not compressed");
    // Every service accepts gzip, up to the maximum size of a message after decompression.
    for (path, message, status) in
        [("/grpc.health.v1.Health/Check", Vec::new(), "0"), (set, vec![b' '; 64 << 20], "3")]
    {
        let message = frame(true, &gzip(&message));
        let headers = [grpc_type, ("grpc-encoding", "gzip")];
        let (head, reply, trailers) = grpc(&host, path, &headers, message).await;
        let trailers = trailers.unwrap_or_default();
        let given = head.headers().get("grpc-status").or(trailers.get("grpc-status"));
        assert_eq!(given.unwrap(), status, "{path}: {head:?} {reply:?}");
    }
    let headers = [grpc_type, ("grpc-encoding", "gzip")];
    let (head, _, _) = grpc(&host, set, &headers, frame(true, b"no gzip at all")).await;
    assert_eq!(head.headers()["grpc-status"], "3");
    // The refusal of another compression names the accepted ones.
    let deflate = [grpc_type, ("grpc-encoding", "deflate")];
    let (head, _, _) = grpc(&host, set, &deflate, frame(true, b"x")).await;
    assert_eq!(head.headers()["grpc-status"], "12");
    assert_eq!(head.headers()["grpc-accept-encoding"], "identity,gzip");
    assert!(head.headers().contains_key("grpc-status-details-bin"));
}

/// Some clients announce a body and send an empty one.
#[tokio::test]
async fn an_empty_body_needs_no_content_type() {
    let host = host();
    for (body, status) in [("0\r\n\r\n", 200), ("2\r\n{}\r\n0\r\n\r\n", 415)] {
        let head = "POST /v1/pre-order/sessions/q/lock HTTP/1.1\r\nhost: localhost\r\n\
                    transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
        let answer = asked(&host, "rest", format!("{head}{body}").into(), false).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
}

#[tokio::test]
async fn the_grpc_port_says_that_it_serves_only_grpc() {
    let host = host();
    for headers in
        [&[("content-type", "application/json")][..], &[], &[("content-type", "application/grpcx")]]
    {
        let path = "/sessionmanager.SessionManager/HealthCheck";
        let (head, body, _) = grpc(&host, path, headers, frame(false, b"")).await;
        assert_eq!(head.status(), 415, "{headers:?}");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert!(body["message"].as_str().unwrap().contains("application/grpc"));
        assert_eq!(body["details"][0]["reason"], "UNSUPPORTED_MEDIA_TYPE");
    }
}

#[tokio::test]
async fn every_answer_forbids_sniffing_and_ends_with_a_newline() {
    let host = host();
    let put = request(
        "PUT /v1/pre-order/sessions/k",
        "content-type: application/json\r\n",
        br#"{"fleet_list_request":1}"#,
    );
    for (port, bytes) in [
        ("rest", put),
        ("rest", request(&format!("GET {KEY}"), "", b"")),
        ("rest", request("GET /openapi.json", "", b"")),
        ("rest", request("GET /docs", "", b"")),
        ("rest", request("GET /nowhere", "", b"")),
        ("admin", request("GET /component", "", b"")),
        ("admin", request("GET /metrics", "", b"")),
        ("admin", request("POST /component/rollback", "", b"")),
        ("admin", request("PUT /component", "", b"")),
        ("admin", request("PUT /log-level", "", b"{}")),
        ("admin", request("GET /nowhere", "", b"")),
    ] {
        let answer = asked(&host, port, bytes, false).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{answer:?}");
        assert!(answer.body.ends_with('\n'), "{answer:?}");
        if answer.status >= 400 {
            let details = &answer.json()["details"][0];
            assert!(details["reason"].is_string(), "{answer:?}");
        }
    }
}

#[test]
fn an_answer_is_read_from_its_bytes() {
    let answer = raw::parse(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody").unwrap();
    assert_eq!((answer.status, answer.header("x"), &*answer.body), (200, Some("y"), "body"));
    assert!(raw::parse(b"nonsense").is_err());
}

/// A session may contain text that looks like an error of the HTTP parser, anywhere in its reply.
#[tokio::test]
async fn a_session_that_looks_like_a_refusal_is_returned_unchanged() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let line = "HTTP/1.1 400 Bad";
    for shift in 0..line.len() {
        let text = ["-".repeat(shift), line.repeat(20_000)].concat();
        let document = json!({ "fleet_list_request": text });
        client.set("pre-order", "k", document.clone()).await.unwrap();
        assert_eq!(client.get("pre-order", "k").await.unwrap()["fleet_list_request"], text);
    }
}

#[tokio::test]
async fn invalid_percent_encoding_is_refused() {
    let host = host();
    for path in ["/v1/pre-order/sessions/%zz", "/v1/pre-order/sessions/a%2"] {
        let answer = asked(&host, "rest", request(&format!("GET {path}"), "", b""), false).await;
        assert_error(&answer, 400, "INVALID_REQUEST");
        assert!(answer.body.contains("hexadecimal"), "{answer:?}");
    }
}
