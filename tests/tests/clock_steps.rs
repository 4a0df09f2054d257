//! A store whose clock was ahead and is put right: subscribers hear of one gap at most, and
//! then of everything at once; nothing is read over and over.

use std::time::Duration;

use serde_json::{Value as Json, json};
use session_tests::admin::Admin;
use session_tests::client::{Client, EventStream, Wire};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::wait;

async fn log_in(client: &Client, user_id: &str) {
    let login = json!({ "session_attributes": { "user_id": user_id } });
    client.users("Create", login).await.unwrap();
}

/// The names of what a stream tells until it tells of this user.
async fn told_until(events: &mut EventStream, user_id: &str) -> Vec<String> {
    let mut told = Vec::new();
    loop {
        let next = tokio::time::timeout(wait::PATIENCE, events.next()).await;
        let event = next.expect("in time").expect("the stream goes on");
        told.push(event.name);
        if event.data["user_id"] == user_id {
            return told;
        }
    }
}

/// How often the logs were read by a host until now.
async fn reads(host: &Host) -> u64 {
    let metrics = Admin::of(host).metrics().await;
    let name = r#"session_manager_store_calls_total{operation="read_logs",outcome="answered"} "#;
    metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// What subscribers hear on a host whose store has begun an hour ahead, where the last event
/// that anybody has seen is `seen`.
async fn is_well(host: &Host, seen: &Json) {
    for (number, wire) in [Wire::Rest, Wire::Grpc].into_iter().enumerate() {
        let client = host.client(wire).await;
        let mut new = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
        let mut old = client.subscribe(json!({ "types": ["user"], "after": seen })).await.unwrap();
        let before = reads(host).await;
        for event in 0..3 {
            let user_id = format!("user-{number}-{event}");
            log_in(&client, &user_id).await;
            assert_eq!(told_until(&mut new, &user_id).await, ["user.created"]);
            let told = told_until(&mut old, &user_id).await;
            match event {
                0 => assert_eq!(told, ["gap", "user.created"]),
                _ => assert_eq!(told, ["user.created"]),
            }
        }
        // Some ten times a second, for the two and for the host.
        let read = reads(host).await - before;
        assert!(read < 1000, "{read} reads of the logs for three events");
    }
}

/// What a subscriber has seen last when the clock was ahead.
async fn last_seen(host: &Host) -> Json {
    let client = host.client(Wire::Rest).await;
    let mut events = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
    for user_id in ["a", "b", "c", "d"] {
        log_in(&client, user_id).await;
    }
    let mut last = Json::Null;
    for _ in 0..4 {
        last = events.next().await.unwrap().data["id"].clone();
    }
    last
}

#[tokio::test]
async fn an_embedded_store_whose_clock_was_an_hour_ahead_is_well_when_it_is_put_right() {
    for off in ["+1h", "+30s"] {
        let directory = tempfile::tempdir().unwrap();
        let mut host = Launch::embedded(directory.path()).clock(off, true).start();
        let seen = last_seen(&host).await;
        host.signal("TERM");
        host.ended().await;
        let mut host = Launch::embedded(directory.path()).start();
        is_well(&host, &seen).await;
        host.signal("KILL");
        host.ended().await;
        // And it stays so.
        let host = Launch::embedded(directory.path()).start();
        is_well(&host, &seen).await;
    }
}

/// Leaves the logs as a server does whose clock was so far ahead when they began, and returns
/// what a subscriber has seen of them last. (jemalloc, which redis-server is linked with, and
/// libfaketime do not start together.)
async fn begin_ahead(redis: &RedisServer, milliseconds: u64) -> Json {
    let mut connection = redis.connect(5).await;
    let time: (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    let ahead = time.0 * 1000 + milliseconds;
    let mut begin = redis::pipe();
    begin.cmd("FLUSHDB").ignore();
    begin.cmd("HSET").arg("EVENTS:BORN").arg("at").arg(ahead).ignore();
    for log in 0..64 {
        let (key, id) = (format!("EVENTS:{{p{log:02}}}"), format!("{}-0", ahead + log));
        begin.cmd("XADD").arg(key).arg(id).arg("type").arg("user.created").ignore();
    }
    let () = begin.query_async(&mut connection).await.unwrap();
    json!(format!("{}-0-63", ahead + 63))
}

#[tokio::test]
async fn a_redis_whose_clock_was_an_hour_ahead_is_well_when_it_is_put_right() {
    for ahead in [3_600_000, 30_000] {
        let redis = RedisServer::start().await;
        let seen = begin_ahead(&redis, ahead).await;
        let host = Launch::redis(&redis).start();
        is_well(&host, &seen).await;
        let other = Launch::redis(&redis).start();
        is_well(&other, &seen).await;
        // While subscribers are there who have seen everything until now.
        let client = host.client(Wire::Grpc).await;
        let mut live = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
        begin_ahead(&redis, ahead).await;
        log_in(&client, "first").await;
        wait::until("subscribers hear of what happens", async || {
            log_in(&client, "again").await;
            let next = tokio::time::timeout(Duration::from_millis(500), live.next()).await;
            next.ok()?.filter(|event| event.data["user_id"] == "again").map(drop)
        })
        .await;
        // On a machine that stalls, two hosts may begin the logs anew one after the other.
        let mut gaps = 0;
        for number in 0.. {
            let user_id = format!("last-{number}");
            log_in(&client, &user_id).await;
            if told_until(&mut live, &user_id).await == ["user.created"] {
                break;
            }
            gaps += 1;
            assert!(gaps < 4, "one gap after the other");
        }
    }
}
