//! Subscribers that resume, read slowly, or are there when the service stops.

use std::time::Duration;

use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::Launch;
use session_tests::size;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use super::{log_in, text, two_hosts};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_resumes_misses_no_event() {
    const USERS: usize = 20;
    let (each, step) = size((100, 140), (500, 700));
    let (_redis, a, b) = two_hosts(&[]).await;
    for (wire, on) in [(Wire::Rest, 0..USERS), (Wire::Grpc, USERS..2 * USERS)] {
        let readers = [a.client(wire).await, b.client(wire).await];
        let writer = a.client(Wire::Grpc).await;
        let mut stream = readers[0].subscribe(json!({})).await.unwrap();
        let writing = tokio::spawn(async move { log_in(&writer, on, each).await });
        let mut last = vec![None; 2 * USERS];
        let (mut seen, mut resumed) = (0, 0);
        while seen < USERS * each {
            let event = stream.next().await.unwrap();
            assert_eq!(event.name, "user.created");
            let user: usize = text(&event.data, "user_id")[5..].parse().unwrap();
            let number: usize = text(&event.data, "device_id").parse().unwrap();
            // Events of a user come in order, and none twice, as the cursor is the last one seen.
            assert_eq!(last[user].map_or(0, |last: usize| last + 1), number, "user {user}");
            last[user] = Some(number);
            seen += 1;
            if seen % step == 0 {
                drop(stream);
                resumed += 1;
                if resumed % 3 == 0 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let after = json!({ "after": event.data["id"] });
                stream = readers[resumed % 2].subscribe(after).await.unwrap();
            }
        }
        writing.await.unwrap();
        assert!(resumed >= 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_delays_no_other_and_costs_no_memory() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(client.subscribe(json!({})).await.unwrap());
    }
    let mut quick = client.subscribe(json!({})).await.unwrap();
    let (first, then, grown_max) = size((100, 200, 30 << 20), (200, 400, 60 << 20));
    log_in(&host.client(Wire::Grpc).await, 0..20, first).await;
    for _ in 0..20 * first {
        assert_eq!(quick.next().await.unwrap().name, "user.created");
    }
    let before = host.resident_bytes();
    // The slow subscribers do not read these either.
    log_in(&host.client(Wire::Grpc).await, 20..40, then).await;
    for _ in 0..20 * then {
        quick.next().await.unwrap();
    }
    let grown = host.resident_bytes().saturating_sub(before);
    // The sessions and events themselves take this much; twenty copies would take far more.
    assert!(grown < grown_max, "{} MiB", grown >> 20);
    // All read at the same time: a connection that takes nothing for a minute is ended.
    let mut readers = tokio::task::JoinSet::new();
    for mut slow in slow {
        readers.spawn(async move {
            for _ in 0..20 * (first + then) {
                assert_eq!(slow.next().await.unwrap().name, "user.created");
            }
        });
    }
    readers.join_all().await;
}

#[tokio::test]
async fn a_subscriber_that_reads_late_still_receives_the_closing_event() {
    let mut closing = false;
    // On a busy machine the subscriber may read too late now and then.
    for _ in 0..4 {
        let mut host = Launch::in_memory().start();
        let socket = TcpSocket::new_v4().unwrap();
        // A small buffer, so that few events are in flight.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(host.address("rest").parse().unwrap()).await.unwrap();
        let request = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        // Far more than the buffers of the system hold.
        let mut users_logging_in = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let client = host.client(Wire::Grpc).await;
            let (user, device) = ("u".repeat(256), "d".repeat(256));
            let login = json!({ "session_attributes": { "user_id": user, "device_id": device } });
            users_logging_in.spawn(async move {
                for _ in 0..800 {
                    client.users("Create", login.clone()).await.unwrap();
                }
            });
        }
        users_logging_in.join_all().await;
        host.signal("TERM");
        let mut received = String::new();
        stream.read_to_string(&mut received).await.unwrap();
        assert!(received.matches("event: user.created").count() > 10);
        assert!(host.ended().await.success());
        closing = received.contains("event: closing");
        if closing {
            break;
        }
    }
    assert!(closing);
}
