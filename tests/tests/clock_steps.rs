//! A store whose clock was ahead and is set back: subscribers receive at most one gap, and then
//! every event at once. Hosts do not read the logs in a busy loop.

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

/// The names of the events that a stream delivers, up to the first event of this user.
async fn names_until(events: &mut EventStream, user_id: &str) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let next = tokio::time::timeout(wait::PATIENCE, events.next()).await;
        let event = next.expect("in time").expect("the stream continues");
        names.push(event.name);
        if event.data["user_id"] == user_id {
            return names;
        }
    }
}

/// The number of reads of the logs by a host so far.
async fn reads(host: &Host) -> u64 {
    let metrics = Admin::of(host).metrics().await;
    let name = r#"session_manager_store_calls_total{operation="read_logs",outcome="answered"} "#;
    metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap().parse().unwrap()
}

/// Checks what subscribers receive after the clock was set back. `seen` is the id of the last
/// event before that.
async fn delivers_events(host: &Host, seen: &Json) {
    for (number, wire) in [Wire::Rest, Wire::Grpc].into_iter().enumerate() {
        let client = host.client(wire).await;
        let mut new = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
        let mut old = client.subscribe(json!({ "types": ["user"], "after": seen })).await.unwrap();
        let before = reads(host).await;
        for event in 0..3 {
            let user_id = format!("user-{number}-{event}");
            log_in(&client, &user_id).await;
            assert_eq!(names_until(&mut new, &user_id).await, ["user.created"]);
            let names = names_until(&mut old, &user_id).await;
            match event {
                0 => assert_eq!(names, ["gap", "user.created"]),
                _ => assert_eq!(names, ["user.created"]),
            }
        }
        // About ten reads a second for each of the two subscribers and for the host.
        let read = reads(host).await - before;
        assert!(read < 1000, "{read} reads of the logs for three events");
    }
}

/// The id of the last event while the clock is ahead.
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
async fn an_embedded_store_publishes_again_after_its_clock_was_set_back() {
    for off in ["+1h", "+30s"] {
        let directory = tempfile::tempdir().unwrap();
        let mut host = Launch::embedded(directory.path()).clock(off, true).start();
        let seen = last_seen(&host).await;
        host.signal("TERM");
        host.ended().await;
        let mut host = Launch::embedded(directory.path()).start();
        delivers_events(&host, &seen).await;
        host.signal("KILL");
        host.ended().await;
        // The same holds after a kill.
        let host = Launch::embedded(directory.path()).start();
        delivers_events(&host, &seen).await;
    }
}

/// Writes the logs as a host does on a Redis whose clock is ahead, and returns the id of the last
/// event. (redis-server is linked with jemalloc, which does not start with libfaketime.)
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
async fn redis_publishes_again_after_its_clock_was_set_back() {
    for ahead in [3_600_000, 30_000] {
        let redis = RedisServer::start().await;
        let seen = begin_ahead(&redis, ahead).await;
        let host = Launch::redis(&redis).start();
        delivers_events(&host, &seen).await;
        let other = Launch::redis(&redis).start();
        delivers_events(&other, &seen).await;
        // The same, while a subscriber is connected that has received everything so far.
        let client = host.client(Wire::Grpc).await;
        let mut live = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
        begin_ahead(&redis, ahead).await;
        log_in(&client, "first").await;
        wait::until("subscribers receive new events", async || {
            log_in(&client, "again").await;
            let next = tokio::time::timeout(Duration::from_millis(500), live.next()).await;
            next.ok()?.filter(|event| event.data["user_id"] == "again").map(drop)
        })
        .await;
        // On a machine that stalls, the two hosts may restart the logs one after the other.
        let mut gaps = 0;
        for number in 0.. {
            let user_id = format!("last-{number}");
            log_in(&client, &user_id).await;
            if names_until(&mut live, &user_id).await == ["user.created"] {
                break;
            }
            gaps += 1;
            assert!(gaps < 4, "one gap after the other");
        }
    }
}
