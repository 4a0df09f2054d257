//! The pairs: the component beside native rules, the service beside its peers, and the service at
//! half of its maximum rate.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use session_manager::proto::sessionmanager::{GetSessionRequest, SessionData};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;

use crate::Plan;
use crate::generator::{Protocol, Request, Sample, grpc_frame};
use crate::table::{self, Figures};
use crate::{open_loop, process};

/// A Redis as durable as the embedded store. It does not rewrite its log during a measurement,
/// because another process would do that, whose time is not counted.
pub const REDIS: [&str; 4] = ["--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"];

/// A server and the request to measure.
pub struct Side {
    pub request: Request,
    pub server: u32,
    pub redis: Option<u32>,
}

impl Side {
    /// Makes one measurement.
    pub fn measure(&self, run: impl FnOnce(&Request) -> Sample) -> Figures {
        process::forget_peak(self.server);
        let used = |process: u32| process::cpu(process);
        let before = (used(self.server), self.redis.map(used));
        let sample = run(&self.request);
        let each = |used: Duration| used.as_secs_f64() * 1e6 / sample.requests as f64;
        Figures {
            sample,
            host_cpu: each(used(self.server) - before.0),
            redis_cpu: match (self.redis, before.1) {
                (Some(redis), Some(before)) => each(used(redis) - before),
                _ => f64::NAN,
            },
            peak: process::memory(self.server, "VmHWM") as f64,
        }
    }
}

/// Measures both sides in turns; returns the results of the subject and of its pair.
fn in_turns(
    plan: &Plan,
    connections: u32,
    subject: &Side,
    pair: &Side,
) -> (Vec<Figures>, Vec<Figures>) {
    let (mut subjects, mut pairs) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let run = |request: &Request| request.closed_loop(connections, plan.duration);
        // The order changes, so that neither side always has the warmer machine.
        if round % 2 == 0 {
            subjects.push(subject.measure(run));
            pairs.push(pair.measure(run));
        } else {
            pairs.push(pair.measure(run));
            subjects.push(subject.measure(run));
        }
    }
    (subjects, pairs)
}

/// The rate of the subject divided by that of its pair, for each round.
fn ratios(subjects: &[Figures], pairs: &[Figures]) -> Vec<f64> {
    subjects.iter().zip(pairs).map(|(s, p)| s.sample.rate / p.sample.rate).collect()
}

/// Measures both sides in turns and prints the row.
pub fn compare(plan: &Plan, name: &str, connections: u32, subject: &Side, pair: &Side) {
    let (subjects, pairs) = in_turns(plan, connections, subject, pair);
    let ratio = table::median(ratios(&subjects, &pairs).into_iter());
    let pair = Figures::median(&pairs);
    table::row(name, &Figures::median(&subjects), Some((&pair, ratio)));
}

/// An operation on booking sessions.
#[derive(Clone, Copy)]
pub enum Operation {
    Get,
    Set,
}

/// A document of about `bytes` bytes, similar to those of a booking flow.
pub fn document(bytes: usize) -> String {
    let mut document = String::from("{\"fleets\":[");
    for number in 0.. {
        let fleet = format!("{{\"id\":\"fleet-{number:04}\",\"seats\":4,\"price\":125000.5}}");
        document += &fleet;
        if document.len() + fleet.len() + 2 > bytes {
            break;
        }
        document.push(',');
    }
    document + "]}"
}

/// The key of the session with a document of this size.
fn key(bytes: usize) -> String {
    format!("bench-{bytes}")
}

/// An operation on a session with a document of `bytes` bytes.
pub fn booking(host: &Host, protocol: Protocol, operation: Operation, bytes: usize) -> Request {
    let session_key = key(bytes);
    let (grpc, message) = match operation {
        Operation::Get => {
            ("GetSession", grpc_frame(&GetSessionRequest { session_key: key(bytes) }))
        }
        Operation::Set => {
            let fleets = Some(Bytes::from(document(bytes)));
            let message = SessionData {
                session_key: key(bytes),
                fleet_list_request: fleets,
                ..Default::default()
            };
            ("SetSession", grpc_frame(&message))
        }
    };
    if protocol == Protocol::Grpc {
        let url = host.url("grpc", &format!("/sessionmanager.SessionManager/{grpc}"));
        return Request { url, method: "POST", body: message, protocol, spread: None };
    }
    let url = host.url("rest", &format!("/v1/pre-order/sessions/{session_key}"));
    let (method, body) = match operation {
        Operation::Get => ("GET", String::new()),
        Operation::Set => ("PUT", format!("{{\"fleet_list_request\":{}}}", document(bytes))),
    };
    Request { url, method, body: body.into_bytes(), protocol, spread: None }
}

/// Writes the sessions that are read later.
pub async fn seed(host: &Host, bytes: usize) {
    let Request { url, body, .. } = booking(host, Protocol::Http1, Operation::Set, bytes);
    let request = session_tests::http().put(url).header("content-type", "application/json");
    assert!(request.body(body).send().await.unwrap().status().is_success());
}

/// Ends the bench when a host has refused a request, which generators do not notice over gRPC.
pub async fn nothing_failed(host: &Host) {
    let text = session_tests::get(host.url("admin", "/metrics")).await.text().await.unwrap();
    for line in text.lines().filter(|line| line.starts_with("session_manager_requests_total")) {
        let usual = ["code=\"200\"", "code=\"OK\"", "code=\"cancelled\""];
        let fine = usual.iter().any(|code| line.contains(code)) || line.ends_with(" 0");
        assert!(fine, "{line}");
    }
}

/// A Redis as in production, and the launches of hosts on either store.
pub struct Stores {
    redis: RedisServer,
    directories: tempfile::TempDir,
}

impl Stores {
    pub async fn start() -> Self {
        let redis = RedisServer::with(&REDIS).await;
        Self { redis, directories: tempfile::tempdir().unwrap() }
    }

    /// A host with its own store.
    pub fn launch(&self, store: &str, name: &str) -> Launch {
        match store {
            "Redis" => Launch::redis(&self.redis),
            "memory" => Launch::in_memory(),
            _ => Launch::embedded(&self.directories.path().join(name)),
        }
    }

    pub fn redis_process(&self, store: &str) -> Option<u32> {
        (store == "Redis").then(|| self.redis.process_id())
    }
}

/// Measures every operation over every wire and store: the component beside the same rules linked
/// natively.
pub async fn component_and_native(plan: &Plan) {
    let stores = Stores::start().await;
    for store in ["embedded", "Redis"] {
        table::head(&format!("The component and the native rules, {store} store"), "native req/s");
        for (operation, name) in [(Operation::Get, "get"), (Operation::Set, "set")] {
            for (bytes, size) in [(1 << 10, "1 KB"), (64 << 10, "64 KB")] {
                // New hosts for each row, because each row reports a peak of memory.
                let component = stores.launch(store, "component").start();
                let native = stores.launch(store, "native").program(&plan.native).start();
                seed(&component, bytes).await;
                seed(&native, bytes).await;
                for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
                    for &connections in &plan.connections {
                        let redis = stores.redis_process(store);
                        let side = |host: &Host| Side {
                            request: booking(host, protocol, operation, bytes),
                            server: host.process_id(),
                            redis,
                        };
                        let (subject, pair) = (side(&component), side(&native));
                        let row =
                            format!("{name} {size}, {}, {connections} conn.", protocol.name());
                        compare(plan, &row, connections, &subject, &pair);
                    }
                }
                nothing_failed(&component).await;
                nothing_failed(&native).await;
            }
        }
    }
}

/// Measures the four main rows: this host beside another binary, in many short turns.
pub async fn against(plan: &Plan, other: &Path) {
    const BYTES: usize = 1 << 10;
    const CONNECTIONS: u32 = 32;
    let stores = Stores::start().await;
    table::head_of_ratios(&other.display().to_string(), plan.rounds);
    for store in ["memory", "Redis"] {
        let ours = stores.launch(store, "ours").start();
        let theirs = stores.launch(store, "theirs").program(other).start();
        seed(&ours, BYTES).await;
        seed(&theirs, BYTES).await;
        for protocol in [Protocol::Http1, Protocol::Grpc] {
            let side = |host: &Host| Side {
                request: booking(host, protocol, Operation::Get, BYTES),
                server: host.process_id(),
                redis: stores.redis_process(store),
            };
            let (subjects, pairs) = in_turns(plan, CONNECTIONS, &side(&ours), &side(&theirs));
            let row = format!("get 1 KB, {}, {store}, {CONNECTIONS} conn.", protocol.name());
            let rates = [&subjects, &pairs].map(|side| Figures::median(side).sample.rate);
            table::row_of_ratios(&row, rates, &ratios(&subjects, &pairs));
        }
        nothing_failed(&ours).await;
        nothing_failed(&theirs).await;
    }
}

/// Measures reads beside webdis and redis-benchmark on the same Redis, and beside an empty tonic
/// service.
pub async fn peers(plan: &Plan) {
    const BYTES: usize = 1 << 10;
    let stores = Stores::start().await;
    let host = stores.launch("Redis", "").start();
    let webdis = crate::peers::webdis(&stores.redis).await;
    let echo = crate::peers::tonic_echo();
    seed(&host, BYTES).await;
    let redis = stores.redis_process("Redis");
    let stored = format!("SESSION_PRE_ORDER:{}", key(BYTES));
    let get =
        |protocol, url| Request { url, method: "GET", body: Vec::new(), protocol, spread: None };
    let rest = Side {
        request: booking(&host, Protocol::Http1, Operation::Get, BYTES),
        server: host.process_id(),
        redis,
    };
    let by_webdis = format!("http://127.0.0.1:{}/HGETALL/{stored}", webdis.port);
    let by_webdis =
        Side { request: get(Protocol::Http1, by_webdis), server: webdis.process.id(), redis };
    let answer = session_tests::get(&by_webdis.request.url).await.text().await.unwrap();
    assert!(answer.contains("FLEET_LIST_REQUEST"), "{answer}");
    let bare = format!("{}/5/{stored}", stores.redis.port);
    let bare = Side {
        request: get(Protocol::Redis, bare),
        server: stores.redis.process_id(),
        redis: None,
    };
    table::head("REST get 1 KB on Redis, beside webdis", "webdis req/s");
    for &connections in &plan.connections {
        let row = format!("get 1 KB, HTTP/1.1, {connections} conn.");
        compare(plan, &row, connections, &rest, &by_webdis);
    }
    table::head("REST get 1 KB on Redis, beside redis-benchmark HGETALL", "Redis req/s");
    for &connections in &plan.connections {
        let row = format!("get 1 KB, HTTP/1.1, {connections} conn.");
        compare(plan, &row, connections, &rest, &bare);
    }
    nothing_failed(&host).await;
    for store in ["embedded", "Redis"] {
        let host = stores.launch(store, "beside-echo").start();
        seed(&host, BYTES).await;
        let request = booking(&host, Protocol::Grpc, Operation::Get, BYTES);
        let redis = stores.redis_process(store);
        let subject = Side { request: request.clone(), server: host.process_id(), redis };
        let url = format!("http://127.0.0.1:{}/session.booking.v1.Booking/Get", echo.port);
        let request = Request { url, body: vec![0; 5], ..request };
        let pair = Side { request, server: echo.process.id(), redis: None };
        table::head(&format!("gRPC get 1 KB, {store} store, beside an empty tonic"), "echo req/s");
        for &connections in &plan.connections {
            let row = format!("get 1 KB, gRPC, {connections} conn.");
            compare(plan, &row, connections, &subject, &pair);
        }
        nothing_failed(&host).await;
    }
}

/// Measures latency at half of the maximum rate of the service.
pub async fn open_loop(plan: &Plan) {
    const BYTES: usize = 1 << 10;
    let stores = Stores::start().await;
    for store in ["embedded", "Redis"] {
        let host = stores.launch(store, "open").start();
        seed(&host, BYTES).await;
        table::head(&format!("Open loop at half the closed rate, {store} store"), "closed req/s");
        for (operation, name) in [(Operation::Get, "get"), (Operation::Set, "set")] {
            for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Grpc] {
                for &connections in plan.connections.iter().filter(|count| **count > 1) {
                    let side = Side {
                        request: booking(&host, protocol, operation, BYTES),
                        server: host.process_id(),
                        redis: stores.redis_process(store),
                    };
                    let closed =
                        side.measure(|request| request.closed_loop(connections, plan.duration));
                    let rate = closed.sample.rate / 2.0;
                    let open = side.measure(|request| {
                        open_loop::run(request, connections, plan.duration, rate)
                    });
                    let row = format!("{name} 1 KB, {}, {connections} conn.", protocol.name());
                    let ratio = open.sample.rate / closed.sample.rate;
                    table::row(&row, &open, Some((&closed, ratio)));
                }
            }
        }
        nothing_failed(&host).await;
    }
}
