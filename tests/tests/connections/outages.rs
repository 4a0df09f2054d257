//! Connections and subscribers when the store fails or is emptied.

use std::time::Duration;

use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::wait;

use super::{BRISK, call, connect, log_in, presence, text, two_hosts};

#[tokio::test]
async fn connections_and_subscriptions_survive_an_outage() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let mut redis = RedisServer::start().await;
        let host = Launch::redis(&redis)
            .set("CONNECTION_HEARTBEAT", "500ms")
            .set("CONNECTION_STALE", "20s")
            .set("CONNECTION_TTL", "30s")
            .start();
        let client = host.client(wire).await;
        let mut stream = connect(&client, "alice", "tab").await;
        let mut events = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
        log_in(&client, 0..1, 3).await;
        for _ in 0..3 {
            assert_eq!(events.next().await.unwrap().name, "user.created");
        }
        redis.kill().await;
        let down =
            client.connections("GetPresence", json!({ "user_id": "alice" })).await.unwrap_err();
        assert_eq!((down.reason.as_str(), down.retry), ("STORE_UNAVAILABLE", true));
        tokio::time::sleep(Duration::from_secs(2)).await;
        redis.restart().await;
        wait::until("the store answers again", async || {
            client.users("List", json!({ "user_id": "x" })).await.ok()
        })
        .await;
        // Redis may have lost the latest events.
        assert_eq!(events.next().await.unwrap().name, "gap");
        log_in(&client, 1..2, 2).await;
        for _ in 0..2 {
            assert_eq!(events.next().await.unwrap().data["user_id"], "user-1");
        }
        // The stream sends heartbeats again.
        let before = call(&client, "Get", "tab").await.unwrap();
        wait::until("a heartbeat is stored", async || {
            let now = call(&client, "Get", "tab").await.unwrap();
            (now["last_heartbeat_at"] != before["last_heartbeat_at"]).then_some(())
        })
        .await;
        assert_eq!(presence(&client, "alice").await, (true, 1));
        client.connections("Terminate", json!({ "user_id": "alice" })).await.unwrap();
        stream.next_named("terminated").await;
    }
}

#[tokio::test]
async fn subscribers_receive_a_gap_when_the_store_was_emptied() {
    let (redis, a, b) = two_hosts(&[]).await;
    for wire in [Wire::Rest, Wire::Grpc] {
        let client = a.client(wire).await;
        let mut live = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
        log_in(&client, 0..1, 2).await;
        let seen = text(&live.next().await.unwrap().data, "id");
        live.next().await.unwrap();
        let mut connection = redis.connect(5).await;
        let (): () = redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
        log_in(&client, 0..1, 1).await;
        // The host may detect the loss before or after the new event.
        let names = [live.next().await.unwrap().name, live.next().await.unwrap().name];
        assert!(names.contains(&"gap".to_owned()) && names.contains(&"user.created".to_owned()));
        let other = b.client(wire).await;
        let mut again = other.subscribe(json!({ "after": seen })).await.unwrap();
        assert_eq!(again.next().await.unwrap().name, "gap");
    }
}

#[tokio::test]
async fn a_client_can_reconnect_after_the_store_was_emptied() {
    let (redis, a, _b) = two_hosts(&BRISK).await;
    let client = a.client(Wire::Rest).await;
    let mut stream = connect(&client, "alice", "tab").await;
    let mut connection = redis.connect(5).await;
    let (): () = redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
    let closing = stream.next_named("closing").await;
    assert_eq!(closing.data["reason"], "SESSION_NOT_FOUND");
    connect(&client, "alice", "tab").await;
}
