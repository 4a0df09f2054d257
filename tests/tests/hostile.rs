//! One caller tries to use up the memory of the process. The process survives, other callers get
//! answers meanwhile, and the memory is freed afterwards.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use h2::RecvStream;
use h2::client::{Builder, SendRequest};
use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

/// The maximum resident memory of the process during an attack.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;
/// The maximum growth of resident memory after an attack.
const LEFT_BYTES_MAX: u64 = 100 << 20;
/// The duration of an attack: in every run, and in the long form.
const ATTACK_TIME: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(40));
/// In the long form, this share of the calls of others is answered in time.
const ANSWERED_PERCENT_MIN: u64 = 99;
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// The addresses of the attacker and of another caller.
const ATTACKER: [u8; 4] = [127, 0, 0, 1];
const OTHER_CALLER: [u8; 4] = [127, 0, 0, 2];
/// The maximum number of streams of a connection.
const STREAMS: usize = 100;
/// The bytes sent of each body that never ends.
const SENT_BYTES: usize = 512 << 10;

/// What an attacker does on each stream, repeatedly.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Requests a large session, and does not read the reply.
    ReadsNoReply,
    /// Requests a large session, and reads the reply.
    ReadsReplies,
    /// Starts to write a session, and never finishes the body.
    NeverFinishes,
    /// Writes large sessions in small compressed bodies.
    WritesCompressed,
    /// Requests gRPC reflection three times, and does not read the replies.
    Reflection,
    /// Requests the metrics, and does not read the reply.
    Metrics,
    /// Requests an unknown path, and does not read the refusal.
    UnknownPath,
}

impl Attack {
    fn reads_nothing(self) -> bool {
        !matches!(self, Self::ReadsReplies | Self::NeverFinishes | Self::WritesCompressed)
    }
}

/// Three documents of a megabyte, compressed to a few kilobytes, as JSON and as a message. They
/// are compressed only once.
static COMPRESSED: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| {
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    let document = format!("\"{}\"", "x".repeat(1_000_000));
    let names = ["fleet_list_request", "fleet_list_response", "strikethrough_promo_response"];
    let fields = names.map(|name| format!("\"{name}\":{document}"));
    let mut message = vec![0x0a, 1, b'c'];
    for number in [2, 3, 4] {
        prost::encoding::bytes::encode(number, &document.clone().into_bytes(), &mut message);
    }
    let packed = gzip(&message);
    let length = u32::try_from(packed.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length, &packed].concat();
    [gzip(format!("{{{}}}", fields.join(",")).as_bytes()), message]
});

/// A request that writes them.
fn compressed(wire: Wire) -> (http::Request<()>, Vec<u8>) {
    let [json, message] = &*COMPRESSED;
    match wire {
        Wire::Rest => {
            let request = http::Request::put("http://localhost/v1/pre-order/sessions/c")
                .header("content-type", "application/json")
                .header("content-encoding", "gzip");
            (request.body(()).unwrap(), json.clone())
        }
        Wire::Grpc => {
            let mut request = call("SetSession");
            request.headers_mut().insert("grpc-encoding", "gzip".parse().unwrap());
            (request, message.clone())
        }
    }
}

/// The connections of an attacker, one after the other.
async fn attack(address: SocketAddr, wire: Wire, attack: Attack) {
    loop {
        if let Err(error) = attack_once(address, wire, attack).await {
            // The server has closed the connection, as it should. The pause avoids a busy loop.
            drop(error);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn attack_once(
    address: SocketAddr,
    wire: Wire,
    attack: Attack,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(ATTACKER.into(), 0))?;
    let stream = socket.connect(address).await?;
    let window = if attack.reads_nothing() { 0 } else { 1 << 20 };
    let mut builder = Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(1 << 30);
    let (send, connection) = builder.handshake(stream).await?;
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let send = send.clone();
        streams.spawn(async move {
            while let Ok(send) = send.clone().ready().await {
                // A new stream follows a stream that was reset.
                drop(attack_on_stream(send, wire, attack).await);
                tokio::task::yield_now().await;
            }
        });
    }
    drop(send);
    Ok(connection.await?)
}

async fn attack_on_stream(
    mut send: SendRequest<Bytes>,
    wire: Wire,
    attack: Attack,
) -> Result<(), h2::Error> {
    let get = |uri: &str| http::Request::get(uri).body(()).unwrap();
    let large = "http://localhost/v1/pre-order/sessions/large";
    // The request, the part of its body to send, and whether that is the whole body.
    let (request, body, is_whole) = match (attack, wire) {
        (Attack::NeverFinishes, Wire::Rest) => {
            let request = http::Request::put("http://localhost/v1/pre-order/sessions/w");
            let request = request.header("content-type", "application/json").body(()).unwrap();
            (request, vec![b' '; SENT_BYTES], false)
        }
        (Attack::NeverFinishes, Wire::Grpc) => {
            let message = [&[0, 0, 63, 0, 0][..], &[b' '; SENT_BYTES]].concat();
            (call("SetSession"), message, false)
        }
        (Attack::WritesCompressed, wire) => {
            let (request, body) = compressed(wire);
            (request, body, true)
        }
        (Attack::Reflection, _) => {
            let name = b"session-manager.proto";
            let length = name.len() as u8;
            let question = [&[0, 0, 0, 0, length + 2, 0x1a, length][..], name].concat();
            let uri = "http://localhost/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
            (grpc(uri), question.repeat(3), true)
        }
        (Attack::Metrics, _) => (get("http://localhost/metrics"), Vec::new(), true),
        (Attack::UnknownPath, _) => (get("http://localhost/nothing"), Vec::new(), true),
        (Attack::ReadsNoReply | Attack::ReadsReplies, Wire::Rest) => (get(large), Vec::new(), true),
        (Attack::ReadsNoReply | Attack::ReadsReplies, Wire::Grpc) => {
            (call("GetSession"), b"\0\0\0\0\x07\x0a\x05large".to_vec(), true)
        }
    };
    let (answer, mut sending) = send.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        sending.send_data(body.into(), is_whole)?;
    }
    read(answer.await?.into_body()).await
}

/// Reads a body to its end, and releases the window for it.
async fn read(mut body: RecvStream) -> Result<(), h2::Error> {
    while let Some(part) = body.data().await {
        body.flow_control().release_capacity(part?.len())?;
    }
    Ok(())
}

fn call(method: &str) -> http::Request<()> {
    grpc(&format!("http://localhost/sessionmanager.SessionManager/{method}"))
}

fn grpc(uri: &str) -> http::Request<()> {
    http::Request::post(uri).header("content-type", "application/grpc").body(()).unwrap()
}

/// What was observed during an attack.
#[derive(Default)]
struct Seen {
    resident_max: AtomicU64,
    asked: AtomicU64,
    answered: AtomicU64,
    answered_in_time: AtomicU64,
    done: AtomicBool,
}

/// Writes and reads a small session from another address; returns how long each call took, if it
/// was answered.
async fn call_from(host: &Host, elsewhere: &reqwest::Client) -> [Option<Duration>; 2] {
    let body = json!({ "fleet_list_request": "x".repeat(1024) });
    let address = host.url("rest", "/v1/pre-order/sessions/small");
    let timed = async |request: reqwest::RequestBuilder| {
        let asked = Instant::now();
        let answer = request.timeout(wait::PATIENCE).send().await;
        let is_answered = answer.is_ok_and(|answer| answer.status().is_success());
        is_answered.then(|| asked.elapsed())
    };
    [timed(elsewhere.put(&address).json(&body)).await, timed(elsewhere.get(&address)).await]
}

/// Observes the memory, and makes small calls from another address, until the attack is over.
async fn watch(host: &Host, seen: &Seen) {
    let memory = async {
        while !seen.done.load(Ordering::Relaxed) {
            seen.resident_max.fetch_max(host.resident_bytes(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let asking = async {
        let elsewhere = session_tests::http_from(OTHER_CALLER.into());
        while !seen.done.load(Ordering::Relaxed) {
            for answered in call_from(host, &elsewhere).await {
                let in_time = answered.is_some_and(|after| after < ANSWERED_WITHIN);
                seen.asked.fetch_add(1, Ordering::Relaxed);
                seen.answered.fetch_add(answered.is_some().into(), Ordering::Relaxed);
                seen.answered_in_time.fetch_add(in_time.into(), Ordering::Relaxed);
            }
        }
    };
    tokio::join!(memory, asking);
}

/// Attacks a server on several connections, and checks that it survives.
#[allow(clippy::print_stdout, reason = "figures for whoever asks to see what a test prints")]
async fn survives(launch: Launch, what: &str, wire: Wire, how: Attack, connections: usize) {
    let host = launch.start();
    let large = json!({
        "fleet_list_request": "x".repeat(1_000_000),
        "fleet_list_response": "x".repeat(1_000_000),
        "strikethrough_promo_response": "x".repeat(1_000_000),
    });
    host.client(Wire::Rest).await.set("pre-order", "large", large).await.unwrap();
    let before = host.resident_bytes();
    let seen = Seen::default();
    let port = match (how, wire) {
        (Attack::Metrics, _) => "admin",
        (_, Wire::Rest) => "rest",
        (_, Wire::Grpc) => "grpc",
    };
    let address: SocketAddr = host.address(port).parse().unwrap();
    let mut attacks = JoinSet::new();
    for _ in 0..connections {
        attacks.spawn(attack(address, wire, how));
    }
    let attacking = async {
        tokio::time::sleep(size(ATTACK_TIME.0, ATTACK_TIME.1)).await;
        seen.done.store(true, Ordering::Relaxed);
    };
    tokio::join!(watch(&host, &seen), attacking);
    let [asked, answered, in_time] = [&seen.asked, &seen.answered, &seen.answered_in_time]
        .map(|count| count.load(Ordering::Relaxed));
    let resident = seen.resident_max.load(Ordering::Relaxed);
    println!(
        "{what}, {wire:?}, {how:?}: {} MiB before, {} at most; of {asked} requests from \
         elsewhere {answered} were answered, {in_time} within a second",
        before >> 20,
        resident >> 20,
    );
    assert!(resident < RESIDENT_BYTES_MAX, "{what}: {} MiB", resident >> 20);
    let enough = answered * 100 >= asked * ANSWERED_PERCENT_MIN;
    assert!(enough, "{what}: {answered} of {asked} were answered");
    if size(false, true) {
        assert!(in_time * 100 >= asked * ANSWERED_PERCENT_MIN, "{what}: {in_time} of {asked}");
    }
    attacks.shutdown().await;
    let elsewhere = session_tests::http_from(OTHER_CALLER.into());
    wait::until("others are answered", async || {
        call_from(&host, &elsewhere).await.iter().all(Option::is_some).then_some(())
    })
    .await;
    wait::until("the memory is freed", async || {
        (host.resident_bytes() < before + LEFT_BYTES_MAX).then_some(())
    })
    .await;
}

/// Runs every attack on sessions against a store.
async fn survives_all(launch: impl Fn() -> Launch, what: &str) {
    for wire in [Wire::Rest, Wire::Grpc] {
        for (attack, connections) in [
            (Attack::ReadsNoReply, 8),
            (Attack::ReadsReplies, 4),
            (Attack::NeverFinishes, 12),
            (Attack::WritesCompressed, 6),
        ] {
            survives(launch(), what, wire, attack, connections).await;
        }
    }
}

#[tokio::test]
async fn no_caller_uses_up_the_memory_with_the_store_in_memory() {
    survives_all(Launch::in_memory, "in memory").await;
}

#[tokio::test]
async fn no_caller_uses_up_the_memory_with_the_store_on_redis() {
    let redis = RedisServer::start().await;
    survives_all(|| Launch::redis(&redis), "on Redis").await;
}

/// Requests that concern no session use memory too.
#[tokio::test]
async fn no_caller_uses_up_the_memory_without_a_session() {
    survives(Launch::in_memory(), "in memory", Wire::Grpc, Attack::Reflection, 120).await;
    survives(Launch::in_memory(), "in memory", Wire::Rest, Attack::Metrics, 30).await;
    // Refusals use memory too: little for each, but here are 20,000 of them.
    for wire in [Wire::Rest, Wire::Grpc] {
        survives(Launch::in_memory(), "in memory", wire, Attack::UnknownPath, 200).await;
    }
}

#[tokio::test]
async fn watching_the_health_uses_memory_that_is_counted() {
    let host = Launch::in_memory().start();
    // The size of this request must not count for the next one.
    let large = json!({ "fleet_list_request": "x".repeat(1_000_000) });
    host.client(Wire::Grpc).await.set("pre-order", "large", large).await.unwrap();
    let stream = tokio::net::TcpStream::connect(host.address("grpc")).await.unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut watching = Vec::new();
    for _ in 0..STREAMS {
        let request = grpc("http://localhost/grpc.health.v1.Health/Watch");
        let mut send = send.clone().ready().await.unwrap();
        let (answer, mut body) = send.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(&[0; 5]), true).unwrap();
        watching.push(answer.await.unwrap());
    }
    let held = figure(&host, "session_manager_body_memory_bytes").await.unwrap();
    // A connection reserves a little more than it needs.
    assert!((100.0 * 8192.0..101.0 * 8192.0 + 65536.0).contains(&held), "{held}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_loses_its_connection() {
    let host = Launch::in_memory().start();
    let large = json!({ "fleet_list_request": "x".repeat(1_000_000) });
    host.client(Wire::Rest).await.set("pre-order", "large", large).await.unwrap();
    let unread = async |port: &str, wire| {
        let address = host.address(port).parse().unwrap();
        let ended = attack_once(address, wire, Attack::ReadsNoReply);
        tokio::time::timeout(wait::PATIENCE, ended).await.expect("the connection ends").ok();
    };
    tokio::join!(unread("rest", Wire::Rest), unread("grpc", Wire::Grpc));
}

/// HTTP/1.1 has no window, so a small receive buffer of the system replaces it.
#[tokio::test]
async fn a_client_that_does_not_read_its_answer_over_http_1_loses_its_connection() {
    let host = Launch::in_memory().start();
    let large = json!({ "fleet_list_request": "x".repeat(1_000_000) });
    host.client(Wire::Rest).await.set("pre-order", "large", large).await.unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(host.address("rest").parse().unwrap()).await.unwrap();
    let request = "GET /v1/pre-order/sessions/large HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    for is_held in [true, false] {
        wait::until("the memory of the answer is used, and then freed", async || {
            let held = figure(&host, "session_manager_body_memory_bytes").await?;
            ((held > 5e5) == is_held).then_some(())
        })
        .await;
    }
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    assert!(read.is_err() || answer.len() < 1_000_000, "all {} bytes came", answer.len());
}

/// A value of the metrics.
async fn figure(host: &Host, name: &str) -> Option<f64> {
    let text = session_tests::get(host.url("admin", "/metrics")).await.text().await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// A body that stops half-way is refused after its time-out.
#[tokio::test]
async fn a_body_that_arrives_too_late_is_refused_on_both_wires() {
    let host = Launch::in_memory().start();
    let rest = async {
        let mut stream = tokio::net::TcpStream::connect(host.address("rest")).await.unwrap();
        let head = "PUT /v1/pre-order/sessions/k HTTP/1.1\r\nhost: localhost\r\n\
                    content-type: application/json\r\ncontent-length: 100\r\n\r\n{";
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(answer.contains("does not arrive in time"), "{answer}");
    };
    let grpc = async {
        let stream = tokio::net::TcpStream::connect(host.address("grpc")).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut send = send.ready().await.unwrap();
        let (answer, mut body) = send.send_request(call("SetSession"), false).unwrap();
        body.send_data(Bytes::from_static(b"\0\0\0\0\x20{"), false).unwrap();
        let answer = answer.await.unwrap();
        let message = answer.headers()["grpc-message"].to_str().unwrap();
        assert!(message.contains("does%20not%20arrive%20in%20time"), "{message}");
    };
    let both = async { tokio::join!(rest, grpc) };
    tokio::time::timeout(2 * wait::PATIENCE, both).await.expect("both answers in time");
}

#[tokio::test]
async fn an_operator_is_served_while_one_caller_uses_its_whole_share_of_memory() {
    let host = Launch::in_memory().start();
    let address: SocketAddr = host.address("rest").parse().unwrap();
    let mut attacks = JoinSet::new();
    for _ in 0..12 {
        attacks.spawn(attack(address, Wire::Rest, Attack::NeverFinishes));
    }
    let used =
        async || (figure(&host, "session_manager_body_memory_bytes").await? > 16e6).then_some(());
    wait::until("the attack uses the memory", used).await;
    for level in ["debug", "trace"] {
        let request = session_tests::http().put(host.url("admin", "/log-level"));
        let request = request.header("content-type", "application/json");
        let answer = request.body(format!("{{\"level\": \"{level}\"}}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

/// Memory that grew for one large session is not kept for small ones.
#[tokio::test]
async fn an_instance_that_has_grown_is_dropped_after_its_call() {
    let host = Launch::in_memory().set("LOGIC_INSTANCES", "1").start();
    let client = host.client(Wire::Rest).await;
    // The service calls the component too, so the number may differ at first.
    for (bytes, kept) in [(10, 1.0), (1_000_000, 0.0)] {
        let text = "x".repeat(bytes);
        let session = json!({
            "dynamic_fleet_list_request": text,
            "dynamic_fleet_list_response": text,
            "selected_fleet": text,
            "recalculate_rent_price_request": text,
        });
        wait::until("the expected number of instances is idle", async || {
            client.set("rent-revamp", "k", session.clone()).await.unwrap();
            let idle = figure(&host, "session_manager_component_instances_idle").await;
            (idle == Some(kept)).then_some(())
        })
        .await;
    }
}
