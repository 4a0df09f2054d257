//! How connections end: an administrator terminates them, they expire, or their host dies.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use session_tests::client::Wire;
use session_tests::wait;

use super::{
    SHORT, call, connect, connections_of, ids_of_pod, presence, reason, register, register_as,
    stats, text, two_hosts,
};
use crate::everywhere::{Setting, everywhere};

everywhere!(
    a_connection_without_heartbeats_expires super::SHORT,
    an_administrator_terminates_all_connections_of_a_user [],
);

async fn a_connection_without_heartbeats_expires(Setting { client, redis, .. }: Setting) {
    let kept = text(&register(&client, "alice", "pod").await, "session_id");
    register_as(&client, "alice", "pod", "left").await.unwrap();
    let mut events = client.subscribe(json!({ "types": ["connection.expired"] })).await.unwrap();
    wait::until("the connection expires", async || {
        call(&client, "Heartbeat", &kept).await.unwrap();
        let left = call(&client, "Get", "left").await.err();
        left.map(|refusal| assert_eq!(refusal.reason, "SESSION_EXPIRED"))
    })
    .await;
    assert_eq!(reason(call(&client, "Heartbeat", "left").await), "SESSION_EXPIRED");
    assert_eq!(presence(&client, "alice").await, (true, 1));
    assert_eq!(stats(&client).await, (1, 1, vec![("pod".into(), 1, 1)]));
    // The record of an expired connection is deleted later.
    wait::until("its record is deleted", async || {
        let left = call(&client, "Get", "left").await.unwrap_err();
        (left.reason == "SESSION_NOT_FOUND").then_some(())
    })
    .await;
    let mut expired = BTreeSet::new();
    for _ in 0..2 {
        let event = events.next_named("connection.expired").await.data;
        assert_eq!((&event["user_id"], &event["pod_id"]), (&json!("alice"), &json!("pod")));
        expired.insert(text(&event, "session_id"));
    }
    assert_eq!(expired, BTreeSet::from(["le".to_owned(), kept[..6].to_owned()]));
    assert_eq!(reason(call(&client, "Heartbeat", "left").await), "SESSION_NOT_FOUND");
    if let Some(redis) = &redis {
        wait::until("only events are left", async || {
            let mut connection = redis.connect(5).await;
            let keys: Vec<String> =
                redis::cmd("KEYS").arg("*").query_async(&mut connection).await.ok()?;
            keys.iter().all(|key| key.starts_with("EVENTS:")).then_some(())
        })
        .await;
    }
}

async fn an_administrator_terminates_all_connections_of_a_user(Setting { client, .. }: Setting) {
    let mut ids: Vec<String> = vec!["tab-1".into(), "tab-2".into()];
    for id in &ids {
        register_as(&client, "alice", "pod", id).await.unwrap();
    }
    for _ in 0..70 {
        ids.push(text(&register(&client, "alice", "pod").await, "session_id"));
    }
    register(&client, "bob", "pod").await;
    let request = json!({ "user_id": "alice", "reason": "stolen", "by": "ops" });
    let ended = client.connections("Terminate", request.clone()).await.unwrap();
    assert_eq!(ended, json!({ "user_id": "alice", "terminated": 72 }));
    let again = client.connections("Terminate", request).await.unwrap();
    assert_eq!(again["terminated"], 0);
    for id in &ids {
        let terminated = call(&client, "Heartbeat", id).await.unwrap_err();
        let fact = |name: &str| terminated.metadata[name].clone();
        assert_eq!(
            (terminated.reason.as_str(), fact("reason"), fact("by")),
            ("SESSION_TERMINATED", "stolen".into(), "ops".into())
        );
        // A terminated id cannot be registered again.
        assert_eq!(reason(register_as(&client, "alice", "pod", id).await), "SESSION_TERMINATED");
    }
    assert_eq!(connections_of(&client, "alice").await, [] as [Json; 0]);
    assert_eq!(stats(&client).await, (1, 1, vec![("pod".into(), 1, 1)]));
    register(&client, "alice", "pod").await;
    assert_eq!(presence(&client, "alice").await, (true, 1));
}

#[tokio::test]
async fn connections_of_a_killed_host_expire() {
    let (_redis, mut a, b) = two_hosts(&SHORT).await;
    let (on_a, on_b) = (a.client(Wire::Rest).await, b.client(Wire::Grpc).await);
    let mut lost = Vec::new();
    for number in 0..50 {
        lost.push(connect(&on_a, &format!("user-{number}"), &format!("tab-{number}")).await);
    }
    let _stays = connect(&on_b, "user-0", "stays").await;
    let mut events = on_b.subscribe(json!({ "types": ["connection"] })).await.unwrap();
    a.signal("KILL");
    a.ended().await;
    let killed = Instant::now();
    let mut expired = BTreeSet::new();
    while expired.len() < 50 {
        let event = events.next_named("connection.expired").await.data;
        assert_eq!(event["pod_id"], "pod-a");
        assert!(expired.insert(text(&event, "user_id")), "each expiry is published once");
    }
    // The lifetime, and ten seconds for the sweep.
    assert!(killed.elapsed() < Duration::from_secs(4 + 10), "{:?}", killed.elapsed());
    assert_eq!(presence(&on_b, "user-0").await, (true, 1));
    assert_eq!(presence(&on_b, "user-1").await, (false, 0));
    assert_eq!(ids_of_pod(&on_b, "pod-a").await, BTreeSet::new());
    assert_eq!(stats(&on_b).await, (1, 1, vec![("pod-b".to_owned(), 1, 1)]));
    let more = tokio::time::timeout(Duration::from_secs(6), events.next_unlimited());
    assert!(more.await.is_err(), "each expiry is published once");
}

#[tokio::test]
async fn a_termination_on_one_host_reaches_streams_of_another_within_a_second() {
    let (_redis, a, b) = two_hosts(&[]).await;
    let on_a = a.client(Wire::Rest).await;
    for wire in [Wire::Rest, Wire::Grpc] {
        let on_b = b.client(wire).await;
        let mut took = Vec::new();
        // A busy machine may take longer now and then, so the fastest of five counts.
        while took.iter().all(|took| *took >= Duration::from_secs(1)) {
            assert!(took.len() < 5, "{took:?}");
            let mut stream = connect(&on_b, "alice", &format!("{wire:?}-{}", took.len())).await;
            let asked = Instant::now();
            let terminate = json!({ "user_id": "alice", "reason": "r" });
            on_a.connections("Terminate", terminate).await.unwrap();
            assert_eq!(stream.next().await.unwrap().name, "terminated");
            took.push(asked.elapsed());
            assert_eq!(stream.next().await, None);
        }
    }
}
