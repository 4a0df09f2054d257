//! Connections: who is online and on which pod, over both wires and on every store, with
//! several hosts and through outages. The helpers that its topics share are here.

mod ends;
mod events;
mod outages;
mod pods;
mod registration;
mod rest;
mod streams;
mod subscribers;

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};
use session_tests::client::{Client, EventStream, Refusal};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;

/// Lifetimes short enough for a test to wait for, and longer than a stall of the machine.
const SHORT: [(&str, &str); 3] =
    [("CONNECTION_HEARTBEAT", "300ms"), ("CONNECTION_STALE", "4s"), ("CONNECTION_TTL", "12s")];
/// Frequent heartbeats, with the default lifetimes.
const BRISK: [(&str, &str); 1] = [("CONNECTION_HEARTBEAT", "300ms")];

async fn register(client: &Client, user: &str, pod: &str) -> Json {
    let request = json!({ "user_id": user, "pod_id": pod });
    client.connections("Register", request).await.unwrap()
}

async fn register_as(client: &Client, user: &str, pod: &str, id: &str) -> Result<Json, Refusal> {
    let request = json!({ "user_id": user, "pod_id": pod, "session_id": id });
    client.connections("Register", request).await
}

/// Calls an operation on one connection.
async fn call(client: &Client, operation: &str, id: &str) -> Result<Json, Refusal> {
    client.connections(operation, json!({ "session_id": id })).await
}

async fn close(client: &Client, id: &str, reason: &str) {
    let request = json!({ "session_id": id, "reason": reason });
    assert_eq!(client.connections("Close", request).await.unwrap(), json!({}));
}

async fn presence(client: &Client, user: &str) -> (bool, u64) {
    let presence = client.connections("GetPresence", json!({ "user_id": user })).await.unwrap();
    (presence["online"].as_bool().unwrap(), presence["connections"].as_u64().unwrap())
}

async fn connections_of(client: &Client, user: &str) -> Vec<Json> {
    let reply = client.connections("ListByUser", json!({ "user_id": user })).await.unwrap();
    reply["connections"].as_array().unwrap().clone()
}

/// The ids of the connections of a pod.
async fn ids_of_pod(client: &Client, pod: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut token = String::new();
    loop {
        let request = json!({ "pod_id": pod, "page_size": 3, "page_token": token });
        let page = client.connections("ListByPod", request).await.unwrap();
        let connections = page["connections"].as_array().unwrap();
        ids.extend(connections.iter().map(|one| text(one, "session_id")));
        token = text(&page, "next_page_token");
        if token.is_empty() {
            return ids;
        }
    }
}

/// The number of connections, the number of users online, and both of each pod.
async fn stats(client: &Client) -> (u64, u64, Vec<(String, u64, u64)>) {
    let stats = client.connections("GetStats", json!({})).await.unwrap();
    let number = |of: &Json, name: &str| of[name].as_u64().unwrap();
    let pods = stats["pods"].as_array().unwrap().iter();
    let pods =
        pods.map(|pod| (text(pod, "pod_id"), number(pod, "connections"), number(pod, "users")));
    (number(&stats, "connections"), number(&stats, "users_online"), pods.collect())
}

fn text(of: &Json, name: &str) -> String {
    of[name].as_str().unwrap_or_else(|| panic!("{name} in {of}")).into()
}

fn reason(result: Result<Json, Refusal>) -> String {
    let refusal = result.expect_err("a refusal");
    assert!(matches!(refusal.http, 0 | 404 | 409), "{refusal:?}");
    refusal.reason
}

/// Two hosts on one Redis.
async fn two_hosts(settings: &[(&str, &str)]) -> (RedisServer, Host, Host) {
    let redis = RedisServer::start().await;
    let launch = |pod: &str| {
        let launch = Launch::redis(&redis).set("POD_ID", pod);
        settings.iter().fold(launch, |launch, (name, value)| launch.set(name, value)).start()
    };
    let (a, b) = (launch("pod-a"), launch("pod-b"));
    (redis, a, b)
}

async fn connect(client: &Client, user: &str, session: &str) -> EventStream {
    let request = json!({ "user_id": user, "session_id": session });
    let mut stream = client.connect_user(request).await.unwrap();
    assert_eq!(stream.next().await.unwrap().name, "connected");
    stream
}

/// Creates login sessions, so that each of these users publishes `each` events.
async fn log_in(client: &Client, users: std::ops::Range<usize>, each: usize) {
    let mut users_logging_in = tokio::task::JoinSet::new();
    for user in users {
        let client = client.clone();
        users_logging_in.spawn(async move {
            let user = format!("user-{user}");
            for number in 0..each {
                let attributes = json!({ "user_id": user, "device_id": number.to_string() });
                let request = json!({ "session_attributes": attributes });
                client.users("Create", request).await.unwrap();
            }
        });
    }
    while let Some(done) = users_logging_in.join_next().await {
        done.unwrap();
    }
}

/// Users who share a partition: the ids of their login sessions begin with the same character.
async fn users_of_one_partition(client: &Client, count: usize) -> Vec<String> {
    let mut users = Vec::new();
    for number in 0.. {
        let user = format!("user-{number}");
        let attributes = json!({ "session_attributes": { "user_id": user } });
        let created = client.users("Create", attributes).await.unwrap();
        if text(&created, "session_id").starts_with('A') {
            users.push(user);
        }
        if users.len() == count {
            break;
        }
    }
    users
}
