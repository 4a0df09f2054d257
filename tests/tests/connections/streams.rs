//! Streams of connected users: what they receive, how they end, and how many fit on a host.

use std::time::Duration;

use serde_json::json;
use session_tests::admin::Admin;
use session_tests::client::{EventStream, Wire, instant};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{
    BRISK, SHORT, call, close, connect, presence, register_as, stats, text, two_hosts,
    users_of_one_partition,
};
use crate::everywhere::{Setting, everywhere};

everywhere!(
    a_connected_client_receives_heartbeats_until_it_leaves super::BRISK,
    an_open_stream_says_why_it_ends [],
);

async fn a_connected_client_receives_heartbeats_until_it_leaves(
    Setting { client, host, .. }: Setting,
) {
    let request = json!({ "user_id": "alice", "session_id": "tab", "pod_id": "pod" });
    let mut stream = client.connect_user(request).await.unwrap();
    let connected = stream.next().await.unwrap();
    assert_eq!(
        (connected.name.as_str(), &connected.data["session_id"]),
        ("connected", &json!("tab"))
    );
    let found = call(&client, "Get", "tab").await.unwrap();
    // A heartbeat may have changed the other fields since.
    for field in ["user_id", "session_id", "pod_id", "connected_at"] {
        assert_eq!(found[field], connected.data[field], "{field}");
    }
    let mut last = instant(&connected.data["expires_at"]);
    for _ in 0..6 {
        let kept = stream.next().await.unwrap();
        assert_eq!(kept.name, "heartbeat");
        let expires = instant(&kept.data["expires_at"]);
        assert!(expires > last);
        last = expires;
    }
    assert_eq!(presence(&client, "alice").await, (true, 1));
    let metrics = Admin::of(&host).metrics().await;
    assert!(metrics.contains("session_manager_connects_open 1\n"), "{metrics}");
    drop(stream);
    wait::until("the connection is closed", async || {
        (presence(&client, "alice").await == (false, 0)).then_some(())
    })
    .await;
    let closed = call(&client, "Get", "tab").await.unwrap_err();
    assert_eq!(
        (closed.reason.as_str(), closed.metadata["by"].as_str()),
        ("SESSION_TERMINATED", "user")
    );
}

async fn an_open_stream_says_why_it_ends(Setting { client, mut host, .. }: Setting) {
    let connect = async |session: &str| {
        let request = json!({ "user_id": "alice", "session_id": session });
        let mut stream = client.connect_user(request).await.unwrap();
        assert_eq!(stream.next().await.unwrap().name, "connected");
        stream
    };
    let last = async |mut stream: EventStream| {
        let event = stream.next().await.expect("a last event");
        assert_eq!(stream.next().await, None);
        (event.name.clone(), text(&event.data, "reason"))
    };
    let ended = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
    let (one, two) = (connect("tab-1").await, connect("tab-2").await);
    let request = json!({ "user_id": "alice", "reason": "stolen" });
    client.connections("Terminate", request).await.unwrap();
    assert_eq!(last(one).await, ended("terminated", "stolen"));
    assert_eq!(last(two).await, ended("terminated", "stolen"));
    // A second stream of the same connection ends the first one, which does not close it.
    let first = connect("tab-3").await;
    let second = connect("tab-3").await;
    assert_eq!(last(first).await, ended("terminated", "MOVED"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(presence(&client, "alice").await, (true, 1));
    close(&client, "tab-3", "logged out").await;
    assert_eq!(last(second).await, ended("terminated", "logged out"));
    // A client is asked to reconnect when its pod is drained, and when the service stops.
    let drained = connect("tab-4").await;
    let pod = text(&call(&client, "Get", "tab-4").await.unwrap(), "pod_id");
    client.connections("Drain", json!({ "pod_id": pod })).await.unwrap();
    assert_eq!(last(drained).await, ended("closing", "POD_GONE"));
    let stays = connect("tab-4").await;
    let mut events = client.subscribe(json!({})).await.unwrap();
    host.signal("TERM");
    assert_eq!(last(stays).await, ended("closing", "SERVER_STOPPING"));
    assert_eq!(events.next_named("closing").await.data, json!({ "reason": "SERVER_STOPPING" }));
    assert!(host.ended().await.success());
}

#[tokio::test]
async fn a_user_with_three_tabs_on_two_hosts_stays_online_when_one_closes() {
    let (_redis, a, b) = two_hosts(&BRISK).await;
    let (on_a, on_b) = (a.client(Wire::Rest).await, b.client(Wire::Rest).await);
    let one = connect(&on_a, "alice", "tab-1").await;
    let _two = connect(&on_a, "alice", "tab-2").await;
    let _three = connect(&on_b, "alice", "tab-3").await;
    assert_eq!(presence(&on_b, "alice").await, (true, 3));
    let pods = vec![("pod-a".to_owned(), 2, 1), ("pod-b".to_owned(), 1, 1)];
    assert_eq!(stats(&on_a).await, (3, 1, pods));
    drop(one);
    wait::until("one connection is closed", async || {
        (presence(&on_b, "alice").await == (true, 2)).then_some(())
    })
    .await;
    let pods = vec![("pod-a".to_owned(), 1, 1), ("pod-b".to_owned(), 1, 1)];
    assert_eq!(stats(&on_a).await, (2, 1, pods));
}

#[tokio::test]
async fn a_stream_whose_id_another_user_took_over_learns_nothing_about_that_user() {
    let (_redis, a, b) = two_hosts(&SHORT).await;
    let (on_a, on_b) = (a.client(Wire::Rest).await, b.client(Wire::Grpc).await);
    let near = users_of_one_partition(&on_b, 2).await;
    for [user, other] in [[near[0].clone(), near[1].clone()], ["alice".into(), "bob".into()]] {
        let mut stream = connect(&on_a, &user, "tab").await;
        a.signal("STOP");
        wait::until("the id is free", async || {
            register_as(&on_b, &other, "pod-b", "tab").await.ok()
        })
        .await;
        a.signal("CONT");
        loop {
            let event = stream.next().await.expect("a last event");
            if event.name != "heartbeat" {
                assert_eq!(event.name, "closing");
                assert_eq!(event.data["reason"], "SESSION_EXPIRED");
                assert!(!event.data.to_string().contains("pod-b"), "{}", event.data);
                break;
            }
        }
        // The end of the stream does not close the connection of the other user.
        assert_eq!(call(&on_b, "Get", "tab").await.unwrap()["user_id"], other.as_str());
        close(&on_b, "tab", "").await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_during_its_registration_is_not_online() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).start();
    let client = host.client(Wire::Grpc).await;
    for wire in [Wire::Rest, Wire::Grpc] {
        let impatient = host.client(wire).await;
        redis.signal("STOP");
        for number in 0..20 {
            let request = json!({ "user_id": format!("user-{number}") });
            let connecting = impatient.connect_user(request);
            let gone = tokio::time::timeout(Duration::from_millis(10), connecting).await;
            assert!(gone.is_err(), "the store does not answer yet");
        }
        redis.signal("CONT");
        wait::until("all are registered and closed", async || {
            (stats(&client).await == (0, 0, vec![])).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(stats(&client).await, (0, 0, vec![]));
    }
}

#[tokio::test]
async fn streams_leave_room_for_calls() {
    let host = Launch::in_memory().files_max(200).start();
    let client = host.client(Wire::Rest).await;
    let mut streams = Vec::new();
    let refusal = loop {
        let request = json!({ "user_id": format!("user-{}", streams.len()) });
        match client.connect_user(request).await {
            Ok(stream) => streams.push(stream),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refusal.reason.as_str(), refusal.retry), ("OVERLOADED", true));
    assert!(streams.len() > 20, "{}", streams.len());
    assert_eq!(stats(&client).await.0, streams.len() as u64);
    client.health().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_host_holds_many_streams() {
    let count: usize = size(500, 5000);
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let host = Launch::in_memory()
        .set("CONNECTION_HEARTBEAT", "4s")
        .set("CONNECTION_STALE", "12s")
        .set("LOG_LEVEL", "info")
        .set("NETWORK_PER_PEER", "10000")
        .start();
    let client = host.client(Wire::Grpc).await;
    let mut streams = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(host.address("rest")).await.unwrap();
        let request = format!("GET /v1/connect?user_id=user-{number}&pod_id=pod HTTP/1.1\r\n");
        let request = [&request, "host: localhost\r\n\r\n"].concat();
        stream.write_all(request.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // Each client receives `connected`, and heartbeats for two lifetimes.
    let watching = streams.into_iter().map(async |mut stream| {
        let (mut seen, mut buffer) = (String::new(), [0; 2048]);
        while seen.matches("event: heartbeat").count() < 6 {
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{seen}");
            seen.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert!(seen.starts_with("HTTP/1.1 200") && seen.contains("event: connected"), "{seen}");
        stream
    });
    let streams = futures_util::future::join_all(watching).await;
    let pods = vec![("pod".to_owned(), count as u64, count as u64)];
    assert_eq!(stats(&client).await, (count as u64, count as u64, pods));
    drop(streams);
    wait::until("all connections are closed", async || (stats(&client).await.0 == 0).then_some(()))
        .await;
}
