//! Many streams: the cost of each open stream, how soon a drain ends all of them, and how soon a
//! subscriber receives all events.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;
use session_tests::client::{Client, EventStream, Wire};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;

use crate::process;

/// The number of streams.
const STREAMS: usize = 5000;
/// How long the streams are measured. Each one receives a heartbeat every second.
const WATCHED: Duration = Duration::from_secs(20);

/// Holds many streams on one host, and reports their cost.
pub async fn held() {
    println!("\nConnections held by one host\n");
    for store in ["embedded", "Redis"] {
        let directory = tempfile::tempdir().unwrap();
        let redis = RedisServer::with(&["--appendfsync", "everysec"]).await;
        let launch = match store {
            "Redis" => Launch::redis(&redis),
            _ => Launch::embedded(directory.path()),
        };
        let launch = launch.set("CONNECTION_HEARTBEAT", "1s").set("CONNECTION_STALE", "10s");
        let host = launch.set("NETWORK_PER_PEER", "10000").start();
        let client = host.client(Wire::Rest).await;
        let open = |number: usize| {
            let mut stream = TcpStream::connect(host.address("rest")).unwrap();
            let request = format!(
                "GET /v1/connect?user_id=user-{number}&pod_id=bench HTTP/1.1\r\nhost: localhost\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).unwrap();
            let mut head = [0; 1024];
            let length = stream.read(&mut head).unwrap();
            assert!(head[..length].starts_with(b"HTTP/1.1 200"));
            stream
        };
        let first: Vec<TcpStream> = (0..10).map(open).collect();
        let before = process::memory(host.process_id(), "VmRSS");
        let started = Instant::now();
        let streams: Vec<TcpStream> = (10..STREAMS).map(open).collect();
        let opened = started.elapsed();
        let used = || (process::cpu(host.process_id()), process::cpu(redis.process_id()));
        let (host_before, redis_before) = used();
        tokio::time::sleep(WATCHED).await;
        let (host_after, redis_after) = used();
        let memory = process::memory(host.process_id(), "VmRSS").saturating_sub(before);
        let stats = client.connections("GetStats", json!({})).await.unwrap();
        assert_eq!(stats["connections"], STREAMS, "all of them are alive");
        let heartbeats = STREAMS as f64 * WATCHED.as_secs_f64();
        let each =
            |after: Duration, before: Duration| (after - before).as_secs_f64() / heartbeats * 1e6;
        println!(
            "{store} store: {STREAMS} streams opened in {:.1} s, one after the other; {:.1} KiB each; \
             a heartbeat takes {:.0} µs of the host{}.",
            opened.as_secs_f64(),
            memory as f64 / streams.len() as f64 / 1024.0,
            each(host_after, host_before),
            match store {
                "Redis" => format!(" and {:.0} µs of Redis", each(redis_after, redis_before)),
                _ => String::new(),
            }
        );
        drain(&client, first, streams).await;
    }
    slow().await;
}

/// Measures how soon a subscriber receives the end of all connections.
async fn drain(client: &Client, first: Vec<TcpStream>, streams: Vec<TcpStream>) {
    let mut events = client.subscribe(json!({ "types": ["connection.closed"] })).await.unwrap();
    let started = Instant::now();
    let drained = client.connections("Drain", json!({ "pod_id": "bench" })).await.unwrap();
    let done = started.elapsed();
    for _ in 0..STREAMS {
        events.next_named("connection.closed").await;
    }
    println!(
        "A drain of {} took {:.0} ms; a subscriber had received all events after {:.0} ms.",
        drained["closed"],
        done.as_secs_f64() * 1e3,
        started.elapsed().as_secs_f64() * 1e3
    );
    drop((first, streams));
}

/// Measures the memory for subscribers that read nothing.
async fn slow() {
    const SLOW: usize = 200;
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let login = || client.users("Create", json!({ "session_attributes": { "user_id": "u" } }));
    for _ in 0..5000 {
        login().await.unwrap();
    }
    let before = process::memory(host.process_id(), "VmRSS");
    let mut streams: Vec<EventStream> = Vec::new();
    for _ in 0..SLOW {
        streams.push(client.subscribe(json!({})).await.unwrap());
    }
    for _ in 0..5000 {
        login().await.unwrap();
    }
    let memory = process::memory(host.process_id(), "VmRSS").saturating_sub(before);
    println!(
        "{SLOW} subscribers that read none of 5000 events, with the events and sessions \
         themselves: {:.1} MiB.",
        memory as f64 / f64::from(1 << 20)
    );
}
