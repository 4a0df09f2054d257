//! Registering a connection: its id, its pod, its record, and users who race for an id.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use session_tests::client::{Wire, instant};
use session_tests::{size, wait};

use super::{
    SHORT, call, close, connections_of, ids_of_pod, presence, reason, register, register_as, stats,
    text, two_hosts, users_of_one_partition,
};
use crate::everywhere::{Setting, everywhere};

everywhere!(
    a_connection_is_registered_renewed_and_closed [],
    registering_a_connection_again_moves_it_to_the_new_pod [],
    an_id_of_another_user_is_refused_while_its_connection_is_alive super::SHORT,
    invalid_requests_are_refused_with_every_violation [],
);

async fn a_connection_is_registered_renewed_and_closed(Setting { client, redis, .. }: Setting) {
    let connection = register(&client, "alice", "pod-1").await;
    let id = text(&connection, "session_id");
    assert_eq!((&connection["user_id"], &connection["pod_id"]), (&json!("alice"), &json!("pod-1")));
    assert!(id.starts_with('~') && id.len() == 32, "32 characters, issued by the service");
    assert_eq!(connection["connected_at"], connection["last_heartbeat_at"]);
    assert_eq!(call(&client, "Get", &id).await.unwrap(), connection);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let kept = call(&client, "Heartbeat", &id).await.unwrap();
    assert!(instant(&kept["last_heartbeat_at"]) > instant(&connection["last_heartbeat_at"]));
    assert!(instant(&kept["expires_at"]) > instant(&connection["expires_at"]));
    assert_eq!(kept["connected_at"], connection["connected_at"]);
    assert_eq!(call(&client, "Get", &id).await.unwrap(), kept);
    assert_eq!(connections_of(&client, "alice").await, [kept]);
    assert_eq!(presence(&client, "alice").await, (true, 1));
    assert_eq!(presence(&client, "bob").await, (false, 0));

    if let Some(redis) = &redis {
        let mut connection = redis.connect(5).await;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("user_session:*").query_async(&mut connection).await.unwrap();
        assert_eq!(keys.len(), 1);
        let ttl: u64 = redis::cmd("TTL").arg(&keys[0]).query_async(&mut connection).await.unwrap();
        assert!((1790..=1800).contains(&ttl), "{ttl} seconds");
    }

    close(&client, &id, "logged out").await;
    close(&client, &id, "again").await;
    close(&client, "unknown", "").await;
    let closed = call(&client, "Get", &id).await.unwrap_err();
    assert_eq!((closed.reason.as_str(), closed.code), ("SESSION_TERMINATED", 5));
    assert_eq!(
        (closed.metadata["reason"].as_str(), closed.metadata["by"].as_str()),
        ("logged out", "user")
    );
    assert_eq!(reason(call(&client, "Heartbeat", &id).await), "SESSION_TERMINATED");
    assert_eq!(reason(call(&client, "Get", "unknown").await), "SESSION_NOT_FOUND");
    assert_eq!(reason(call(&client, "Heartbeat", "~unknown").await), "SESSION_NOT_FOUND");
    assert_eq!(presence(&client, "alice").await, (false, 0));
    assert_eq!(stats(&client).await, (0, 0, vec![]));
    // A user who has logged out can register the id again.
    register_as(&client, "alice", "pod-1", &id).await.unwrap();
    assert_eq!(presence(&client, "alice").await, (true, 1));
}

async fn registering_a_connection_again_moves_it_to_the_new_pod(Setting { client, .. }: Setting) {
    for id in ["tab-1", ""] {
        let before = register_as(&client, "alice", "old", id).await.unwrap();
        let id = &text(&before, "session_id");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let moved = register_as(&client, "alice", "new", id).await.unwrap();
        assert_eq!(moved["pod_id"], "new");
        assert_eq!(call(&client, "Get", id).await.unwrap(), moved);
        assert_eq!(ids_of_pod(&client, "old").await, BTreeSet::new());
        assert_eq!(ids_of_pod(&client, "new").await, BTreeSet::from([id.to_owned()]));
        assert_eq!(stats(&client).await, (1, 1, vec![("new".into(), 1, 1)]));
        close(&client, id, "").await;
    }
}

async fn an_id_of_another_user_is_refused_while_its_connection_is_alive(
    Setting { client, .. }: Setting,
) {
    let made = text(&register(&client, "alice", "pod").await, "session_id");
    register_as(&client, "alice", "pod", "tab").await.unwrap();
    for id in [made.as_str(), "tab"] {
        let refusal = register_as(&client, "bob", "pod", id).await.unwrap_err();
        assert_eq!((refusal.reason.as_str(), refusal.code), ("SESSION_EXISTS", 6));
        assert!(matches!(refusal.http, 0 | 409));
    }
    assert_eq!(
        (presence(&client, "bob").await, presence(&client, "alice").await.1),
        ((false, 0), 2)
    );
    // An id that a caller chose is free once its connection has expired.
    let theirs = wait::until("the connection expires", async || {
        register_as(&client, "bob", "pod", "tab").await.ok()
    });
    assert_eq!(theirs.await["user_id"], "bob");
    assert_eq!(text(&call(&client, "Get", "tab").await.unwrap(), "user_id"), "bob");
    assert_eq!(reason(register_as(&client, "alice", "pod", "tab").await), "SESSION_EXISTS");
    assert_eq!(presence(&client, "alice").await, (false, 0));
}

async fn invalid_requests_are_refused_with_every_violation(Setting { client, .. }: Setting) {
    let long = "x".repeat(257);
    let violations = async |operation: &str, request: Json| {
        let refusal = client.connections(operation, request).await.unwrap_err();
        assert_eq!(refusal.reason, "INVALID_REQUEST", "{refusal:?}");
        let mut fields = refusal.violations;
        fields.sort_unstable();
        fields.join(" ")
    };
    for (operation, request, expected) in [
        (
            "Register",
            json!({ "user_id": "", "pod_id": long, "session_id": "a/b" }),
            "pod_id session_id user_id",
        ),
        ("Register", json!({ "user_id": "u", "pod_id": "p", "session_id": "stats" }), "session_id"),
        ("Register", json!({ "user_id": "u", "pod_id": "p", "session_id": "~mine" }), "session_id"),
        ("Register", json!({ "user_id": "a\nb", "pod_id": "p" }), "user_id"),
        ("Close", json!({ "session_id": "s", "reason": long }), "reason"),
        ("Terminate", json!({ "user_id": "u", "reason": long, "by": "a\nb" }), "by reason"),
        ("HeartbeatPod", json!({ "pod_id": "p", "session_ids": vec!["x"; 1001] }), "session_ids"),
        ("HeartbeatPod", json!({ "pod_id": "p", "session_ids": ["a b"] }), "session_ids"),
        ("HeartbeatPod", json!({ "pod_id": "p", "session_ids": [5] }), "session_ids"),
        ("ListByPod", json!({ "pod_id": "p", "page_size": -1 }), "page_size"),
        ("ListByPod", json!({ "pod_id": "p", "page_token": "x" }), "page_token"),
        ("ListByPod", json!({ "pod_id": "p", "page_token": "64" }), "page_token"),
    ] {
        assert_eq!(violations(operation, request).await, expected, "{operation}");
    }
    let refused = async |request: Json| match client.subscribe(request).await {
        Ok(_) => panic!("a refusal"),
        Err(refusal) => (refusal.reason, refusal.violations.join(" ")),
    };
    let invalid = |field: &str| ("INVALID_REQUEST".to_owned(), field.to_owned());
    assert_eq!(refused(json!({ "types": ["user", "nonsense"] })).await, invalid("types"));
    assert_eq!(refused(json!({ "types": ["connection.exp"] })).await, invalid("types"));
    assert_eq!(refused(json!({ "after": "yesterday" })).await, invalid("after"));
    let all = json!({ "types": ["x"], "user_id": long, "after": "x" });
    assert_eq!(refused(all).await, invalid("types user_id after"));
    let Err(refusal) = client.connect_user(json!({ "user_id": "u", "session_id": "a b" })).await
    else {
        panic!("a refusal");
    };
    assert_eq!(
        (refusal.reason.as_str(), refusal.violations),
        ("INVALID_REQUEST", vec!["session_id".into()])
    );
    assert_eq!(stats(&client).await, (0, 0, vec![]));
    // A user has at most 1,000 connections.
    for _ in 0..1000 {
        register(&client, "crowd", "p").await;
    }
    let refusal = register_as(&client, "crowd", "p", "tab").await.unwrap_err();
    assert_eq!(
        (refusal.reason.as_str(), refusal.metadata["limit"].as_str()),
        ("SESSION_LIMIT_REACHED", "1000")
    );
    assert_eq!(connections_of(&client, "crowd").await.len(), 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_most_one_of_the_users_who_race_for_an_id_gets_it() {
    const STALE: Duration = Duration::from_millis(400);
    let (_redis, a, b) = two_hosts(&[
        ("CONNECTION_STALE", "400ms"),
        ("CONNECTION_HEARTBEAT", "200ms"),
        ("CONNECTION_TTL", "1s"),
    ])
    .await;
    let clients = [a.client(Wire::Grpc).await, b.client(Wire::Grpc).await];
    let mut taken = 0;
    let rounds = size(60, 300);
    for round in 0..rounds {
        // Some ids belong to a user of an earlier round, and expire just now.
        let id = format!("tab-{}", round / 3);
        let users = ["alice", "bob", "carol", "dave"];
        let racing = users.into_iter().enumerate().map(|(number, user)| {
            let (client, id) = (clients[number % 2].clone(), id.clone());
            async move { register_as(&client, user, "pod", &id).await.map(|_| user) }
        });
        let asked = Instant::now();
        let mut racers = tokio::task::JoinSet::new();
        racing.for_each(|racer| drop(racers.spawn(racer)));
        let mut won = Vec::new();
        while let Some(result) = racers.join_next().await {
            match result.unwrap() {
                Ok(user) => won.push(user),
                Err(refusal) => {
                    assert_eq!(refusal.reason, "SESSION_EXISTS", "{refusal:?}");
                }
            }
        }
        // A slow machine may let the first connection expire within the round. Then a second
        // user may get the id.
        assert!(won.len() <= 1 || asked.elapsed() >= STALE, "round {round}: {won:?}");
        taken += won.len();
        if let [user] = won[..] {
            match call(&clients[0], "Get", &id).await {
                Ok(found) => assert_eq!(found["user_id"], user),
                Err(refusal) => {
                    let ended = ["SESSION_EXPIRED", "SESSION_NOT_FOUND"];
                    assert!(ended.contains(&&*refusal.reason), "{refusal:?}");
                    assert!(asked.elapsed() >= STALE, "round {round}: {refusal:?}");
                }
            }
        }
        let mut alive = 0;
        for user in users {
            let found = connections_of(&clients[1], user).await;
            alive += found.iter().filter(|one| one["session_id"] == id.as_str()).count();
        }
        assert!(alive <= 1, "round {round}");
        if round % 3 == 1 {
            tokio::time::sleep(Duration::from_millis(395)).await;
        }
    }
    assert!(taken >= rounds / 3, "{taken}");
}

#[tokio::test]
async fn users_of_one_partition_who_race_for_an_id_do_not_all_lose() {
    let (_redis, a, b) = two_hosts(&[]).await;
    let clients = [a.client(Wire::Grpc).await, b.client(Wire::Grpc).await];
    let of_one = users_of_one_partition(&clients[0], 4).await;
    let mut won = 0;
    for round in 0..60 {
        let id = format!("tab-{round}");
        let mut racers = tokio::task::JoinSet::new();
        for (number, user) in of_one.iter().cloned().enumerate() {
            let (client, id) = (clients[number % 2].clone(), id.clone());
            racers.spawn(async move { register_as(&client, &user, "pod", &id).await.is_ok() });
        }
        let results = racers.join_all().await;
        let winners = results.iter().filter(|won| **won).count();
        assert!(winners <= 1, "round {round}");
        won += winners;
        assert_eq!(call(&clients[1], "Get", &id).await.is_ok(), winners == 1, "round {round}");
    }
    assert!(won >= 58, "{won} of 60");
}
