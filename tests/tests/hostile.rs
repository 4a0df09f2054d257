//! One caller who wants the memory of the process: the process lives, others are
//! answered meanwhile, and the memory comes back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

/// What the process may take at most.
const RESIDENT_BYTES_MAX: u64 = 512 << 20;
/// What may be left of an attack.
const LEFT_BYTES_MAX: u64 = 100 << 20;
/// How long an attacker keeps what he has.
const HELD: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(40));
/// The attacker, and somebody else.
const ATTACKER: [u8; 4] = [127, 0, 0, 1];
const SOMEBODY_ELSE: [u8; 4] = [127, 0, 0, 2];

/// What an attacker holds on one connection.
#[derive(Default)]
struct Held {
    answers: Vec<ResponseFuture>,
    bodies: Vec<SendStream<Bytes>>,
}

struct Attack {
    wire: Wire,
    send: SendRequest<Bytes>,
    connection: JoinHandle<()>,
    held: Held,
}

impl Attack {
    /// Opens a connection; over `window` bytes of answers nothing is read.
    async fn open(host: &Host, wire: Wire, window: u32) -> Self {
        let port = if wire == Wire::Rest { "rest" } else { "grpc" };
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(ATTACKER.into(), 0)).unwrap();
        let stream = socket.connect(host.address(port).parse().unwrap()).await.unwrap();
        let mut builder = Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(1 << 30);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        Self { wire, send, connection, held: Held::default() }
    }

    /// Asks for a session and keeps what comes of it.
    async fn ask_for(&mut self, key: &str) {
        let Ok(mut send) = self.send.clone().ready().await else { return };
        let (answer, mut body) = match self.wire {
            Wire::Rest => {
                let uri = format!("http://localhost/v1/pre-order/sessions/{key}");
                send.send_request(http::Request::get(uri).body(()).unwrap(), true).unwrap()
            }
            Wire::Grpc => send.send_request(call("GetSession"), false).unwrap(),
        };
        if self.wire == Wire::Grpc {
            let length = u8::try_from(key.len()).unwrap();
            let message = [&[0, 0, 0, 0, length + 2, 0x0a, length], key.as_bytes()].concat();
            drop(body.send_data(message.into(), true));
        }
        self.held.answers.push(answer);
    }

    /// Begins to write a session, and never ends.
    async fn write_for_ever(&mut self, bytes: usize) {
        let Ok(mut send) = self.send.clone().ready().await else { return };
        let request = match self.wire {
            Wire::Rest => http::Request::put("http://localhost/v1/pre-order/sessions/w")
                .header("content-type", "application/json")
                .body(())
                .unwrap(),
            Wire::Grpc => call("SetSession"),
        };
        let (answer, mut body) = send.send_request(request, false).unwrap();
        let message = [&[0, 0, 63, 0, 0][..], &vec![b' '; bytes]].concat();
        drop(body.send_data(message.into(), false));
        self.held.answers.push(answer);
        self.held.bodies.push(body);
    }
}

fn call(method: &str) -> http::Request<()> {
    http::Request::post(format!("http://localhost/sessionmanager.SessionManager/{method}"))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap()
}

/// What was seen while somebody was at it.
#[derive(Default)]
struct Seen {
    resident_max: AtomicU64,
    asked: AtomicU64,
    answered: AtomicU64,
    done: AtomicBool,
}

/// Writes a small session from elsewhere; whether it was answered.
async fn write_elsewhere(host: &Host) -> bool {
    let elsewhere = session_tests::http_from(SOMEBODY_ELSE.into());
    let body = json!({ "fleet_list_request": "x".repeat(1024) });
    let request = elsewhere.put(host.url("rest", "/v1/pre-order/sessions/small")).json(&body);
    let written = request.timeout(wait::PATIENCE).send().await;
    written.is_ok_and(|answer| answer.status().is_success())
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
        while !seen.done.load(Ordering::Relaxed) {
            let written = write_elsewhere(host).await;
            seen.asked.fetch_add(1, Ordering::Relaxed);
            seen.answered.fetch_add(u64::from(written), Ordering::Relaxed);
        }
    };
    tokio::join!(memory, asking);
}

/// Attacks a server on several connections, and sees that it lives.
#[allow(clippy::print_stdout, reason = "figures for whoever asks to see what a test prints")]
async fn survives(launch: Launch, what: &str, attack: impl AsyncFn(&Host, &mut Vec<Attack>)) {
    let host = launch.start();
    let large = json!({
        "fleet_list_request": "x".repeat(1_000_000),
        "fleet_list_response": "x".repeat(1_000_000),
        "strikethrough_promo_response": "x".repeat(1_000_000),
    });
    host.client(Wire::Rest).await.set("pre-order", "large", large).await.unwrap();
    let before = host.resident_bytes();
    let seen = Arc::new(Seen::default());
    let mut attacks = Vec::new();
    let attacking = async {
        attack(&host, &mut attacks).await;
        tokio::time::sleep(size(HELD.0, HELD.1)).await;
        seen.done.store(true, Ordering::Relaxed);
    };
    tokio::join!(watch(&host, &seen), attacking);
    let (asked, answered) =
        (seen.asked.load(Ordering::Relaxed), seen.answered.load(Ordering::Relaxed));
    let resident = seen.resident_max.load(Ordering::Relaxed);
    assert!(resident < RESIDENT_BYTES_MAX, "{what}: {} MiB", resident >> 20);
    for attack in attacks {
        attack.connection.abort();
    }
    wait::until("others are answered", async || write_elsewhere(&host).await.then_some(())).await;
    wait::until("the memory comes back", async || {
        (host.resident_bytes() < before + LEFT_BYTES_MAX).then_some(())
    })
    .await;
    println!(
        "{what}: {} MiB before, {} at most, {} after; {answered} of {asked} answered elsewhere",
        before >> 20,
        resident >> 20,
        host.resident_bytes() >> 20,
    );
}

/// Every attack, on a store.
async fn survives_all(launch: impl Fn() -> Launch, store: &str) {
    for wire in [Wire::Rest, Wire::Grpc] {
        survives(
            launch(),
            &format!("{store}, {wire:?}: nothing is read"),
            async |host, attacks| {
                for _ in 0..8 {
                    let mut attack = Attack::open(host, wire, 0).await;
                    for _ in 0..100 {
                        attack.ask_for("large").await;
                    }
                    attacks.push(attack);
                }
            },
        )
        .await;
        survives(launch(), &format!("{store}, {wire:?}: all is read"), async |host, attacks| {
            for _ in 0..4 {
                let mut attack = Attack::open(host, wire, 1 << 20).await;
                for _ in 0..100 {
                    attack.ask_for("large").await;
                }
                attacks.push(attack);
            }
        })
        .await;
        survives(
            launch(),
            &format!("{store}, {wire:?}: bodies never end"),
            async |host, attacks| {
                for _ in 0..12 {
                    let mut attack = Attack::open(host, wire, 1 << 20).await;
                    for _ in 0..100 {
                        attack.write_for_ever(512 << 10).await;
                    }
                    attacks.push(attack);
                }
            },
        )
        .await;
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

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_loses_its_connection() {
    let host = Launch::in_memory().start();
    let large = json!({ "fleet_list_request": "x".repeat(1_000_000) });
    host.client(Wire::Rest).await.set("pre-order", "large", large).await.unwrap();
    let mut attack = Attack::open(&host, Wire::Rest, 0).await;
    attack.ask_for("large").await;
    wait::until("the connection ends", async || attack.connection.is_finished().then_some(()))
        .await;
}
