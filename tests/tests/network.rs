//! Limits of network connections by age, idleness and peer, and probes on their own port.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use session_tests::host::{Host, Launch};
use session_tests::wait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;

/// An HTTP/2 connection from an address of this machine, which answers pings.
struct Line {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Line {
    async fn open(host: &Host, port: &str, from: &str) -> Option<Self> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
        let stream = socket.connect(host.address(port).parse().unwrap()).await.ok()?;
        let (send, connection) = h2::client::handshake(stream).await.ok()?;
        Some(Self { send, connection: tokio::spawn(connection) })
    }

    /// Sends a request; returns a future of the answer.
    fn ask(&mut self, path: &str) -> ResponseFuture {
        let request = http::Request::get(format!("http://localhost{path}")).body(()).unwrap();
        self.send.send_request(request, true).unwrap().0
    }

    async fn ended(&self) {
        wait::until("the connection ends", async || self.connection.is_finished().then_some(()))
            .await;
    }
}

/// The status that a server returns to a caller at an address.
async fn status_from(host: &Host, port: &str, path: &str, from: &str) -> Option<u16> {
    let client = session_tests::http_from(from.parse().unwrap());
    let answer = client.get(host.url(port, path)).timeout(Duration::from_secs(20)).send().await;
    answer.ok().map(|answer| answer.status().as_u16())
}

#[tokio::test]
async fn an_idle_connection_ends_and_one_with_a_stream_stays_open() {
    let launch = Launch::in_memory().set("NETWORK_IDLE", "1s");
    let host = launch.set("CONNECTION_HEARTBEAT", "200ms").start();
    let idle = [
        Line::open(&host, "grpc", "127.0.0.1").await,
        Line::open(&host, "rest", "127.0.0.1").await,
    ];
    let mut busy = Line::open(&host, "rest", "127.0.0.1").await.unwrap();
    let answer = busy.ask("/v1/connect?user_id=u&pod_id=p").await.unwrap();
    let mut events = answer.into_body();
    for line in idle.iter().flatten() {
        line.ended().await;
    }
    let data = events.data().await.unwrap().unwrap();
    events.flow_control().release_capacity(data.len()).unwrap();
    assert!(events.data().await.is_some_and(|data| data.is_ok()), "the stream continues");
}

#[tokio::test]
async fn over_http_1_an_idle_connection_stays_open_for_half_a_minute() {
    let host = Launch::in_memory().start();
    let mut stream = TcpStream::connect(host.address("rest")).await.unwrap();
    // Measured from before the request, so that a delay of the client cannot shorten it.
    let since = Instant::now();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    let ended = stream.read_to_string(&mut answer);
    tokio::time::timeout(2 * wait::PATIENCE, ended).await.expect("the connection ends").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(since.elapsed() >= Duration::from_secs(30), "{:?}", since.elapsed());
}

#[tokio::test]
async fn at_its_maximum_age_a_connection_accepts_no_more_requests_and_keeps_its_streams() {
    let launch = Launch::in_memory().set("NETWORK_MAX_AGE", "1s");
    let host = launch.set("CONNECTION_HEARTBEAT", "200ms").start();
    let unused = Line::open(&host, "grpc", "127.0.0.1").await.unwrap();
    let mut streaming = Line::open(&host, "rest", "127.0.0.1").await.unwrap();
    let answer = streaming.ask("/v1/connect?user_id=u&pod_id=p").await.unwrap();
    let mut events = answer.into_body();
    unused.ended().await;
    // The other connection was asked to end too, but stays open as long as its stream.
    wait::until("the connection accepts no more requests", async || {
        std::future::poll_fn(|context| streaming.send.poll_ready(context)).await.err().map(drop)
    })
    .await;
    for _ in 0..3 {
        let data = events.data().await.unwrap().unwrap();
        events.flow_control().release_capacity(data.len()).unwrap();
    }
    // Over HTTP/1.1, the last answer announces the end.
    let mut client = tokio::net::TcpStream::connect(host.address("rest")).await.unwrap();
    wait::until("an answer announces the end", async || {
        let request = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n";
        client.write_all(request).await.ok()?;
        let mut answer = [0; 1024];
        let read = client.read(&mut answer).await.ok()?;
        let text = String::from_utf8_lossy(&answer[..read]).to_lowercase();
        (read == 0 || text.contains("connection: close")).then_some(())
    })
    .await;
}

#[tokio::test]
async fn idle_connections_of_one_peer_exclude_no_caller() {
    // One peer may have 256 of the 272 connections.
    let host = Launch::in_memory().files_max(400).start();
    let mut idle = Vec::new();
    for _ in 0..290 {
        idle.extend(Line::open(&host, "grpc", "127.0.0.1").await);
    }
    assert_eq!(status_from(&host, "rest", "/health", "127.0.0.1").await, Some(200));
    assert_eq!(status_from(&host, "rest", "/health", "127.0.0.2").await, Some(200));
    wait::until("the oldest connections are closed", async || {
        let open = idle.iter().filter(|line| !line.connection.is_finished()).count();
        (open <= 256).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_peer_with_only_busy_connections_gets_no_more_than_its_share() {
    let host = Launch::in_memory().set("NETWORK_PER_PEER", "4").start();
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut line = Line::open(&host, "rest", "127.0.0.1").await.unwrap();
        let answer = line.ask("/v1/events").await.unwrap();
        busy.push((line, answer));
    }
    assert_eq!(status_from(&host, "rest", "/health", "127.0.0.1").await, None);
    assert_eq!(status_from(&host, "rest", "/health", "127.0.0.2").await, Some(200));
    drop(busy.pop());
    wait::until("a connection is free again", async || {
        status_from(&host, "rest", "/health", "127.0.0.1").await
    })
    .await;
}

#[tokio::test]
async fn idle_connections_on_the_admin_port_delay_no_probe_and_no_operator() {
    let host = Launch::in_memory().set("PROBE_PORT", "0").start();
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.extend(Line::open(&host, "admin", "127.0.0.1").await);
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(status_from(&host, "admin", path, "127.0.0.1").await, Some(200), "{path}");
    }
}

#[tokio::test]
async fn probes_have_their_own_port_without_delay() {
    let host = Launch::in_memory().set("PROBE_PORT", "0").start();
    let silent: Vec<_> =
        (0..200).map(|_| std::net::TcpStream::connect(host.address("probe")).unwrap()).collect();
    for (path, status) in [("/livez", 200), ("/readyz", 200), ("/metrics", 404), ("/health", 404)] {
        assert_eq!(status_from(&host, "probe", path, "127.0.0.1").await, Some(status), "{path}");
    }
    drop(silent);
    let without = Launch::in_memory().start();
    assert!(!without.has_port("probe"), "it is off by default");
}

#[tokio::test]
async fn a_trusted_proxy_may_have_as_many_connections_as_it_needs() {
    let launch = Launch::in_memory().set("NETWORK_PER_PEER", "1");
    let host = launch.set("TRUSTED_PROXIES", "127.0.0.3/32").start();
    let mut busy = Vec::new();
    for _ in 0..3 {
        let mut line = Line::open(&host, "rest", "127.0.0.3").await.unwrap();
        let answer = line.ask("/v1/events").await.unwrap();
        busy.push((line, answer));
    }
    assert_eq!(status_from(&host, "rest", "/health", "127.0.0.3").await, Some(200));
}

/// Clients that start to upload a component and stop do not delay probes.
#[tokio::test]
async fn unfinished_requests_on_the_admin_port_delay_no_caller() {
    let host = Launch::in_memory().start();
    let mut unfinished = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(host.address("admin")).await.unwrap();
        let head = "PUT /component HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
                    application/wasm\r\ncontent-length: 20000000\r\n\r\nabc";
        // The server may have closed this connection already.
        drop(stream.write_all(head.as_bytes()).await);
        unfinished.push(stream);
    }
    for _ in 0..10 {
        let asking = session_tests::get(host.url("admin", "/livez"));
        let answer = tokio::time::timeout(Duration::from_secs(20), asking).await.expect("in time");
        assert_eq!(answer.status(), 200);
    }
}

#[tokio::test]
async fn a_low_file_limit_and_exhausted_connections_are_logged() {
    let host = Launch::in_memory().files_max(64).start();
    let log = host.log();
    let warned = log.lines().find(|line| line.contains("few files open"));
    let warned = warned.unwrap_or_else(|| panic!("{log}"));
    assert!(warned.contains("files=64") && warned.contains("connections=16"), "{warned}");
    // Each connection waits for the body of its request.
    let mut held = Vec::new();
    let warning = wait::until("all connections are in use", async || {
        let mut stream = TcpStream::connect(host.address("rest")).await.ok()?;
        let head = "PUT /v1/pre-order/sessions/k HTTP/1.1\r\nhost: localhost\r\n\
                    content-type: application/json\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.ok()?;
        held.push(stream);
        let log = host.log();
        let line = log.lines().find(|line| line.contains("all places for connections are taken"));
        line.map(str::to_owned)
    })
    .await;
    assert!(warning.contains("places=16"), "{warning}");
}
