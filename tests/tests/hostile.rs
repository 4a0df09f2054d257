//! One caller who wants the memory of the process: the process lives, others are
//! answered meanwhile, and the memory comes back.

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

/// What the process may take at most.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;
/// What may be left of an attack.
const LEFT_BYTES_MAX: u64 = 100 << 20;
/// How long an attack goes on.
const HELD: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(40));
/// In the long form, this share of others is answered within this time.
const ANSWERED_PERCENT_MIN: u64 = 99;
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);
/// The attacker, and somebody else.
const ATTACKER: [u8; 4] = [127, 0, 0, 1];
const SOMEBODY_ELSE: [u8; 4] = [127, 0, 0, 2];
/// As many streams as a connection may have.
const STREAMS: usize = 100;
/// What is written of each body that never ends.
const BEGUN_BYTES: usize = 512 << 10;

/// What an attacker does on each stream, again and again.
#[derive(Clone, Copy, Debug)]
enum Attack {
    /// Asks for a large session, and reads nothing of it.
    AsksAndReadsNothing,
    /// Asks for a large session, and reads it.
    AsksAndReads,
    /// Begins to write a session, and never ends.
    WritesForEver,
    /// Writes large sessions that are small on their way here.
    WritesCompressed,
    /// Asks a gRPC server what it offers, three times, and reads nothing of it.
    AsksWhatThereIs,
    /// Asks for the figures of the process, and reads nothing of them.
    AsksForFigures,
    /// Asks for what there is not, and does not read that it is not there.
    AsksForNothing,
}

impl Attack {
    fn reads_nothing(self) -> bool {
        !matches!(self, Self::AsksAndReads | Self::WritesForEver | Self::WritesCompressed)
    }
}

/// Three documents of a megabyte in a few kilobytes, as JSON and as a message; an attacker
/// compresses them once.
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

/// One connection of an attacker, and the next when it was ended.
async fn attack(address: SocketAddr, wire: Wire, attack: Attack) {
    loop {
        if let Err(error) = attack_once(address, wire, attack).await {
            // The server has ended it, as it should; do not spin on a refusal.
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
                // A stream that was reset is followed by another.
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
    // A request, what of its body is sent, and whether that is all of it.
    let (request, body, is_whole) = match (attack, wire) {
        (Attack::WritesForEver, Wire::Rest) => {
            let request = http::Request::put("http://localhost/v1/pre-order/sessions/w");
            let request = request.header("content-type", "application/json").body(()).unwrap();
            (request, vec![b' '; BEGUN_BYTES], false)
        }
        (Attack::WritesForEver, Wire::Grpc) => {
            let message = [&[0, 0, 63, 0, 0][..], &[b' '; BEGUN_BYTES]].concat();
            (call("SetSession"), message, false)
        }
        (Attack::WritesCompressed, wire) => {
            let (request, body) = compressed(wire);
            (request, body, true)
        }
        (Attack::AsksWhatThereIs, _) => {
            let name = b"session-manager.proto";
            let length = name.len() as u8;
            let question = [&[0, 0, 0, 0, length + 2, 0x1a, length][..], name].concat();
            let uri = "http://localhost/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
            (grpc(uri), question.repeat(3), true)
        }
        (Attack::AsksForFigures, _) => (get("http://localhost/metrics"), Vec::new(), true),
        (Attack::AsksForNothing, _) => (get("http://localhost/nothing"), Vec::new(), true),
        (Attack::AsksAndReadsNothing | Attack::AsksAndReads, Wire::Rest) => {
            (get(large), Vec::new(), true)
        }
        (Attack::AsksAndReadsNothing | Attack::AsksAndReads, Wire::Grpc) => {
            (call("GetSession"), b"\0\0\0\0\x07\x0a\x05large".to_vec(), true)
        }
    };
    let (answer, mut sending) = send.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        sending.send_data(body.into(), is_whole)?;
    }
    read(answer.await?.into_body()).await
}

/// Reads to the end, as far as there is a window.
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

/// What was seen while somebody was at it.
#[derive(Default)]
struct Seen {
    resident_max: AtomicU64,
    asked: AtomicU64,
    answered: AtomicU64,
    answered_in_time: AtomicU64,
    done: AtomicBool,
}

/// Writes a small session from elsewhere and reads it; whether both were answered.
async fn asks_elsewhere(host: &Host, elsewhere: &reqwest::Client) -> [Option<Duration>; 2] {
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

/// Watches the memory, and asks for small sessions from elsewhere, until it is done.
async fn watch(host: &Host, seen: &Seen) {
    let memory = async {
        while !seen.done.load(Ordering::Relaxed) {
            seen.resident_max.fetch_max(host.resident_bytes(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let asking = async {
        let elsewhere = session_tests::http_from(SOMEBODY_ELSE.into());
        while !seen.done.load(Ordering::Relaxed) {
            for answered in asks_elsewhere(host, &elsewhere).await {
                let in_time = answered.is_some_and(|after| after < ANSWERED_WITHIN);
                seen.asked.fetch_add(1, Ordering::Relaxed);
                seen.answered.fetch_add(answered.is_some().into(), Ordering::Relaxed);
                seen.answered_in_time.fetch_add(in_time.into(), Ordering::Relaxed);
            }
        }
    };
    tokio::join!(memory, asking);
}

/// Attacks a server on several connections, and sees that it lives.
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
        (Attack::AsksForFigures, _) => "admin",
        (_, Wire::Rest) => "rest",
        (_, Wire::Grpc) => "grpc",
    };
    let address: SocketAddr = host.address(port).parse().unwrap();
    let mut attacks = JoinSet::new();
    for _ in 0..connections {
        attacks.spawn(attack(address, wire, how));
    }
    let attacking = async {
        tokio::time::sleep(size(HELD.0, HELD.1)).await;
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
    let elsewhere = session_tests::http_from(SOMEBODY_ELSE.into());
    wait::until("others are answered", async || {
        asks_elsewhere(&host, &elsewhere).await.iter().all(Option::is_some).then_some(())
    })
    .await;
    wait::until("the memory comes back", async || {
        (host.resident_bytes() < before + LEFT_BYTES_MAX).then_some(())
    })
    .await;
}

/// Every attack, on a store.
async fn survives_all(launch: impl Fn() -> Launch, what: &str) {
    for wire in [Wire::Rest, Wire::Grpc] {
        for (attack, connections) in [
            (Attack::AsksAndReadsNothing, 8),
            (Attack::AsksAndReads, 4),
            (Attack::WritesForEver, 12),
            (Attack::WritesCompressed, 6),
        ] {
            survives(launch(), what, wire, attack, connections).await;
        }
    }
}

#[tokio::test]
async fn no_caller_takes_the_memory_of_the_process_in_memory() {
    survives_all(Launch::in_memory, "in memory").await;
}

#[tokio::test]
async fn no_caller_takes_the_memory_of_the_process_on_redis() {
    let redis = RedisServer::start().await;
    survives_all(|| Launch::redis(&redis), "on Redis").await;
}

/// What is no session takes memory too.
#[tokio::test]
async fn no_caller_takes_the_memory_of_the_process_without_a_session() {
    survives(Launch::in_memory(), "in memory", Wire::Grpc, Attack::AsksWhatThereIs, 120).await;
    survives(Launch::in_memory(), "in memory", Wire::Rest, Attack::AsksForFigures, 30).await;
    // A refusal takes memory, too: each of them little, and 20,000 of them.
    for wire in [Wire::Rest, Wire::Grpc] {
        survives(Launch::in_memory(), "in memory", wire, Attack::AsksForNothing, 200).await;
    }
}

#[tokio::test]
async fn whoever_watches_the_health_takes_memory_that_is_counted() {
    let host = Launch::in_memory().start();
    // The next request is not expected to be as large.
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
    // A connection takes a little more than it needs.
    assert!((100.0 * 8192.0..101.0 * 8192.0 + 65536.0).contains(&held), "{held}");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_loses_its_connection() {
    let host = Launch::in_memory().start();
    let large = json!({ "fleet_list_request": "x".repeat(1_000_000) });
    host.client(Wire::Rest).await.set("pre-order", "large", large).await.unwrap();
    let unread = async |port: &str, wire| {
        let address = host.address(port).parse().unwrap();
        let ended = attack_once(address, wire, Attack::AsksAndReadsNothing);
        tokio::time::timeout(wait::PATIENCE, ended).await.expect("the connection ends").ok();
    };
    tokio::join!(unread("rest", Wire::Rest), unread("grpc", Wire::Grpc));
}

/// HTTP/1.1 has no window of its own, so a system that takes little in stands for it.
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
        wait::until("the answer is held, and then no more", async || {
            let held = figure(&host, "session_manager_body_memory_bytes").await?;
            ((held > 5e5) == is_held).then_some(())
        })
        .await;
    }
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    assert!(read.is_err() || answer.len() < 1_000_000, "all {} bytes came", answer.len());
}

/// What the process says of itself.
async fn figure(host: &Host, name: &str) -> Option<f64> {
    let text = session_tests::get(host.url("admin", "/metrics")).await.text().await.ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// A body that stops half-way: what is answered to it, and whether it is after its time.
#[tokio::test]
async fn a_body_that_does_not_come_in_time_is_refused_on_both_wires() {
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
    tokio::time::timeout(2 * wait::PATIENCE, both).await.expect("answers");
}

#[tokio::test]
async fn an_operator_gets_through_when_one_caller_has_all_the_memory_that_he_may_have() {
    let host = Launch::in_memory().start();
    let address: SocketAddr = host.address("rest").parse().unwrap();
    let mut attacks = JoinSet::new();
    for _ in 0..12 {
        attacks.spawn(attack(address, Wire::Rest, Attack::WritesForEver));
    }
    let taken =
        async || (figure(&host, "session_manager_body_memory_bytes").await? > 16e6).then_some(());
    wait::until("memory is taken", taken).await;
    for level in ["debug", "trace"] {
        let request = session_tests::http().put(host.url("admin", "/log-level"));
        let request = request.header("content-type", "application/json");
        let answer = request.body(format!("{{\"level\": \"{level}\"}}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
}

/// What one large session has grown is not kept for small ones.
#[tokio::test]
async fn an_instance_that_has_grown_is_dropped_when_its_call_has_ended() {
    let host = Launch::in_memory().set("LOGIC_INSTANCES", "1").start();
    let client = host.client(Wire::Rest).await;
    // The service itself makes calls, too.
    for (bytes, kept) in [(10, 1.0), (1_000_000, 0.0)] {
        let text = "x".repeat(bytes);
        let session = json!({
            "dynamic_fleet_list_request": text,
            "dynamic_fleet_list_response": text,
            "selected_fleet": text,
            "recalculate_rent_price_request": text,
        });
        wait::until("as many instances are kept as expected", async || {
            client.set("rent-revamp", "k", session.clone()).await.unwrap();
            let idle = figure(&host, "session_manager_component_instances_idle").await;
            (idle == Some(kept)).then_some(())
        })
        .await;
    }
}
