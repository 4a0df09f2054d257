//! Costs that grow with use: an operation among many sessions, the memory of each session and of
//! each idle connection. Also the time to the first answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;

use crate::Plan;
use crate::generator::{Protocol, Request, program};
use crate::pairs::{Operation, REDIS, Side, booking, document};
use crate::process;
use crate::table::{self, Figures, median};

/// The size of the document of each session.
const BYTES: usize = 200;
const CONNECTIONS: u32 = 32;

/// Writes this many sessions.
fn fill(host: &Host, sessions: u64) {
    let mut addresses = tempfile::NamedTempFile::new().unwrap();
    for number in 0..sessions {
        writeln!(addresses, "{}{number}", host.url("rest", "/v1/pre-order/sessions/")).unwrap();
    }
    let mut body = tempfile::NamedTempFile::new().unwrap();
    write!(body, "{{\"fleet_list_request\":{}}}", document(BYTES)).unwrap();
    let output = program("h2load")
        .args(["-c1", "-m64", &format!("-n{sessions}"), "-i"])
        .arg(addresses.path())
        .args(["-H", ":method: PUT", "-H", "content-type: application/json", "-d"])
        .arg(body.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!(" {sessions} succeeded, 0 failed")), "{text}");
}

/// Measures an operation among more and more sessions, each time on new servers.
pub async fn operations(plan: &Plan) {
    for store in ["embedded", "Redis"] {
        table::head(&format!("Among more and more sessions, {store} store"), "req/s at first");
        let mut memory = Vec::new();
        let mut at_first: [Option<Figures>; 2] = [None; 2];
        for &sessions in &plan.sessions {
            let directory = tempfile::tempdir().unwrap();
            let redis = RedisServer::with(&REDIS).await;
            let launch = if store == "Redis" {
                Launch::redis(&redis)
            } else {
                Launch::embedded(directory.path())
            };
            let launch = launch.set("SESSION_TTL", "24h");
            let host = launch.start();
            fill(&host, sessions);
            let redis = (store == "Redis").then(|| redis.process_id());
            let keeper = redis.unwrap_or(host.process_id());
            memory.push((sessions, process::memory(keeper, "VmRSS") as f64));
            for (place, (operation, name)) in
                [(Operation::Get, "get"), (Operation::Set, "set")].into_iter().enumerate()
            {
                let like = booking(&host, Protocol::Http1, operation, BYTES);
                let url = host.url("rest", "/v1/pre-order/sessions/");
                let request = Request { url, spread: Some(sessions), ..like };
                let side = Side { request, server: host.process_id(), redis };
                let rounds: Vec<Figures> = (0..plan.rounds)
                    .map(|_| side.measure(|r| r.closed_loop(CONNECTIONS, plan.duration)))
                    .collect();
                let figures = Figures::median(&rounds);
                let first = *at_first[place].get_or_insert(figures);
                let row = format!("{name} 0.2 KB among {sessions} sessions");
                table::row(&row, &figures, Some((&first, figures.sample.rate / first.sample.rate)));
            }
            if store == "embedded" {
                drop(host);
                let (_, after) = first_answer(&launch);
                let after = after.as_millis();
                println!("\nAfter a kill, {sessions} sessions are served again in {after} ms.\n");
            }
        }
        let ((few, first), (many, last)) = (memory[0], *memory.last().unwrap());
        let each = (last - first) / (many - few) as f64;
        println!("\nA session with a document of {BYTES} bytes takes {each:.0} bytes of memory.");
    }
}

/// Starts a host; returns how long it takes until the first answer.
fn first_answer(launch: &Launch) -> (Host, Duration) {
    let started = Instant::now();
    let host = launch.start();
    let mut connection = TcpStream::connect(host.address("rest")).unwrap();
    connection.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    (host, started.elapsed())
}

/// Measures the time to the first answer, the memory at rest, and that of idle connections.
pub async fn start_and_rest(plan: &Plan) {
    let redis = RedisServer::start().await;
    println!();
    for store in ["embedded", "Redis"] {
        let directory = tempfile::tempdir().unwrap();
        let mut times = Vec::new();
        let mut rests = Vec::new();
        for round in 0..plan.rounds.max(3) {
            let launch = if store == "Redis" {
                Launch::redis(&redis)
            } else {
                Launch::embedded(&directory.path().join(round.to_string()))
            };
            let (host, time) = first_answer(&launch);
            times.push(time.as_secs_f64() * 1e3);
            tokio::time::sleep(Duration::from_secs(1)).await;
            rests.push(process::memory(host.process_id(), "VmRSS") as f64);
        }
        println!(
            "{store} store: first answer {:.0} ms after the start, {:.0} MiB resident at rest.",
            median(times.into_iter()),
            median(rests.into_iter()) / f64::from(1 << 20)
        );
    }
    let host = Launch::in_memory().start();
    let connect = |_| {
        let mut connection = TcpStream::connect(host.address("rest")).unwrap();
        connection.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 1024];
        assert!(connection.read(&mut answer).unwrap() > 0);
        connection
    };
    let few: Vec<TcpStream> = (0..10).map(connect).collect();
    let before = process::memory(host.process_id(), "VmRSS");
    let idle: Vec<TcpStream> = (0..500).map(connect).collect();
    let after = process::memory(host.process_id(), "VmRSS");
    let each = (after - before) as f64 / idle.len() as f64;
    println!("An idle HTTP/1.1 connection takes {each:.0} bytes.");
    drop((few, idle));
}
