//! Pods: their heartbeats, their lists of connections, and their drain.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use session_tests::client::{Client, Wire};
use session_tests::host::Launch;
use session_tests::wait;

use super::{SHORT, call, ids_of_pod, register, register_as, stats, text, users_of_one_partition};
use crate::everywhere::{Setting, everywhere};

everywhere!(
    connections_of_a_pod_are_renewed_listed_and_drained super::SHORT,
);

/// Registers twenty connections of ten users on `pod`, and returns the user of each id.
async fn register_twenty(client: &Client) -> BTreeMap<String, String> {
    let mut users = BTreeMap::new();
    for number in 0..20 {
        let user = format!("user-{}", number / 2);
        let registered = if number % 3 == 0 {
            register_as(client, &user, "pod", &format!("tab-{number}")).await.unwrap()
        } else {
            register(client, &user, "pod").await
        };
        users.insert(text(&registered, "session_id"), user);
    }
    users
}

async fn connections_of_a_pod_are_renewed_listed_and_drained(Setting { client, .. }: Setting) {
    let users = register_twenty(&client).await;
    let ids: BTreeSet<String> = users.keys().cloned().collect();
    let elsewhere = text(&register(&client, "user-0", "other").await, "session_id");
    assert_eq!(ids_of_pod(&client, "pod").await, ids);
    let expected = vec![("other".into(), 1, 1), ("pod".into(), 20, 10)];
    assert_eq!(stats(&client).await, (21, 10, expected));

    // A heartbeat of the pod renews all its connections, and none of other pods.
    let expired = async |id: &str| {
        call(&client, "Get", id).await.is_err_and(|refusal| refusal.reason == "SESSION_EXPIRED")
    };
    wait::until("the connection of the other pod expires", async || {
        let kept = client.connections("HeartbeatPod", json!({ "pod_id": "pod" })).await.unwrap();
        assert_eq!(kept, json!({ "kept": 20, "gone": [] }));
        expired(&elsewhere).await.then_some(())
    })
    .await;
    assert_eq!(ids_of_pod(&client, "pod").await, ids);
    // A heartbeat with a list of ids renews these connections and no others.
    let some: Vec<String> = ids.iter().step_by(2).cloned().collect();
    let mut others = ids.iter().skip(1).step_by(2).peekable();
    let mut listed = some.clone();
    listed.extend([elsewhere.clone(), "unknown".into(), "~unknown".into(), some[0].clone()]);
    let mut gone = vec![elsewhere, "unknown".to_owned(), "~unknown".to_owned()];
    gone.sort_unstable();
    wait::until("the connections that are not listed expire", async || {
        let request = json!({ "pod_id": "pod", "session_ids": listed });
        let kept = client.connections("HeartbeatPod", request).await.unwrap();
        let reported = kept["gone"].as_array().unwrap().iter();
        let mut reported: Vec<_> = reported.map(|id| id.as_str().unwrap().to_owned()).collect();
        reported.sort_unstable();
        assert_eq!((&kept["kept"], &reported), (&json!(some.len()), &gone));
        match others.peek() {
            Some(id) if expired(id).await => drop(others.next()),
            Some(_) => {}
            None => return Some(()),
        }
        None
    })
    .await;
    let none = json!({ "pod_id": "pod", "session_ids": [] });
    let none = client.connections("HeartbeatPod", none).await.unwrap();
    assert_eq!(none, json!({ "kept": 0, "gone": [] }));
    drain_closes_all(&client, some.len()).await;
    let drained = call(&client, "Get", &some[0]).await.unwrap_err();
    assert_eq!(
        (drained.reason.as_str(), drained.metadata["reason"].as_str()),
        ("SESSION_TERMINATED", "node lost")
    );
    // Its user can register it again on another pod.
    register_as(&client, &users[&some[0]], "other", &some[0]).await.unwrap();
}

async fn drain_closes_all(client: &Client, count: usize) {
    let drain = json!({ "pod_id": "pod", "reason": "node lost" });
    let drained = client.connections("Drain", drain.clone()).await.unwrap();
    assert_eq!(drained, json!({ "pod_id": "pod", "closed": count }));
    assert_eq!(client.connections("Drain", drain).await.unwrap()["closed"], 0);
    assert_eq!(
        (ids_of_pod(client, "pod").await, stats(client).await),
        (BTreeSet::new(), (0, 0, vec![]))
    );
}

#[tokio::test]
async fn a_large_pod_is_renewed_listed_and_drained_completely() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Grpc).await;
    // Several pages of one partition.
    let users = users_of_one_partition(&client, 3).await;
    let mut registering = tokio::task::JoinSet::new();
    for user in users {
        let client = client.clone();
        registering.spawn(async move {
            for _ in 0..800 {
                register(&client, &user, "pod").await;
            }
        });
    }
    registering.join_all().await;
    // A heartbeat does not count connections that were registered in the same millisecond.
    wait::next_millisecond().await;
    let kept = client.connections("HeartbeatPod", json!({ "pod_id": "pod" })).await.unwrap();
    assert_eq!(kept["kept"], 2400);
    assert_eq!(ids_of_pod(&client, "pod").await.len(), 2400);
    let drained = client.connections("Drain", json!({ "pod_id": "pod" })).await.unwrap();
    assert_eq!(drained["closed"], 2400);
}
