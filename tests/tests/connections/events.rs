//! Events: which ones are published, in which order, and what a subscriber receives again
//! when it resumes from a cursor.

use std::time::Duration;

use serde_json::json;
use session_tests::client::{Client, EventStream, StreamEvent, Wire};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::wait;

use super::{log_in, presence, register_as, text};
use crate::everywhere::{Setting, everywhere};

everywhere!(
    events_are_delivered_in_order_and_again_after_a_cursor [],
);

/// The events that [`publish_all`] publishes, each with its user or home.
const ALL: [(&str, &str); 12] = [
    ("user.created", "alice"),
    ("connection.created", "bob"),
    ("user.closed", "alice"),
    ("user.created", "alice"),
    ("user.closed_all", "alice"),
    ("viewing.created", "home"),
    ("viewing.created", "home"),
    ("viewing.limit_reached", "home"),
    ("viewing.terminated", "home"),
    ("viewing.created", "home"),
    ("viewing.closed", "home"),
    ("connection.terminated", "bob"),
];

/// Publishes events of every kind of session, and returns the id of the first login. Events of
/// one millisecond may be delivered in any order, so each one gets its own millisecond.
async fn publish_all(client: &Client) -> String {
    let login =
        |user: &str| json!({ "session_attributes": { "user_id": user, "device_id": "phone" } });
    let id = text(&client.users("Create", login("alice")).await.unwrap(), "session_id");
    register_as(client, "bob", "pod", "tab-of-bob").await.unwrap();
    wait::next_millisecond().await;
    client.users("Delete", json!({ "session_id": id })).await.unwrap();
    wait::next_millisecond().await;
    client.users("Create", login("alice")).await.unwrap();
    wait::next_millisecond().await;
    client.users("DeleteAll", json!({ "user_id": "alice" })).await.unwrap();
    wait::next_millisecond().await;
    client.users("DeleteAll", json!({ "user_id": "alice" })).await.unwrap();
    wait::next_millisecond().await;
    let slot = json!({ "accountId": "home", "deviceId": "tv" });
    let one = text(&client.viewing("CreateSession", slot.clone()).await.unwrap(), "sessionId");
    wait::next_millisecond().await;
    let two = text(&client.viewing("CreateSession", slot.clone()).await.unwrap(), "sessionId");
    wait::next_millisecond().await;
    client.viewing("CreateSession", slot).await.unwrap_err();
    wait::next_millisecond().await;
    let replace = json!({ "accountId": "home", "deviceId": "pad", "replace": [one] });
    client.viewing("CreateSession", replace).await.unwrap();
    wait::next_millisecond().await;
    let two = json!({ "accountId": "home", "sessionId": two });
    client.viewing("TearDown", two.clone()).await.unwrap();
    wait::next_millisecond().await;
    client.viewing("TearDown", two).await.unwrap();
    wait::next_millisecond().await;
    client.connections("Terminate", json!({ "user_id": "bob", "by": "ops" })).await.unwrap();
    wait::next_millisecond().await;
    id
}

/// Reads as many events as are expected.
async fn read(stream: &mut EventStream, expected: &[(&str, &str)]) -> Vec<StreamEvent> {
    let mut received = Vec::new();
    for (name, user) in expected {
        let event = stream.next().await.unwrap();
        assert_eq!(
            (event.name.as_str(), &event.data["user_id"]),
            (*name, &json!(user)),
            "{received:?}"
        );
        received.push(event);
    }
    received
}

async fn events_are_delivered_in_order_and_again_after_a_cursor(Setting { client, .. }: Setting) {
    let mut events = client.subscribe(json!({})).await.unwrap();
    let mut of_alice = client.subscribe(json!({ "user_id": "alice" })).await.unwrap();
    let types = json!({ "types": ["viewing,connection.created"] });
    let mut of_types = client.subscribe(types).await.unwrap();
    let id = publish_all(&client).await;

    let received = read(&mut events, &ALL).await;
    let of =
        |wanted: fn(&(&str, &str)) -> bool| ALL.iter().copied().filter(wanted).collect::<Vec<_>>();
    read(&mut of_alice, &of(|(_, user)| *user == "alice")).await;
    read(
        &mut of_types,
        &of(|(name, _)| name.starts_with("viewing") || *name == "connection.created"),
    )
    .await;
    // An event names its session by the first characters of the id and by a hash. It contains
    // no whole id and no token.
    let first = &received[0].data;
    assert_eq!((&first["session_id"], &first["device_id"]), (&json!(&id[..6]), &json!("phone")));
    let hash = hex(&sha256(&id)[..8]);
    assert_eq!(first["session_hash"], hash);
    let fact = |at: usize, name: &str| received[at].data[name].clone();
    assert_eq!((fact(8, "reason"), fact(8, "by")), (json!("REPLACED"), json!("pad")));
    assert_eq!((fact(11, "reason"), fact(11, "by")), (json!("TERMINATED"), json!("ops")));
    assert!(received.iter().all(|event| !event.data.to_string().contains(&id)));
    let ids: Vec<String> = received.iter().map(|event| text(&event.data, "id")).collect();
    assert!(received.iter().all(|event| event.id.is_empty() || event.data["id"] == event.id));
    // A subscriber that resumes after any event receives all later events again.
    for (at, id) in ids.iter().enumerate() {
        let mut again = client.subscribe(json!({ "after": id })).await.unwrap();
        let again = read(&mut again, &ALL[at + 1..]).await;
        assert_eq!(
            again.iter().map(|event| &event.data).collect::<Vec<_>>(),
            received[at + 1..].iter().map(|event| &event.data).collect::<Vec<_>>()
        );
    }
}

fn sha256(text: &str) -> Vec<u8> {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn dropped_events_are_announced_as_a_gap() {
    let redis = RedisServer::start().await;
    for launch in [Launch::in_memory(), Launch::redis(&redis)] {
        let host = launch.set("EVENTS_KEPT", "100").start();
        for wire in [Wire::Rest, Wire::Grpc] {
            let client = host.client(wire).await;
            let mut stream = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
            log_in(&client, 0..1, 1).await;
            let first = stream.next().await.unwrap();
            drop(stream);
            log_in(&client, 0..1, 600).await;
            let after = text(&first.data, "id");
            let mut again = client.subscribe(json!({ "after": after })).await.unwrap();
            let gap = again.next().await.unwrap();
            assert_eq!((gap.name.as_str(), gap.data), ("gap", json!({ "after": after })));
            let mut left = vec![again.next().await.unwrap()];
            while text(&left.last().unwrap().data, "device_id") != "599" {
                left.push(again.next().await.unwrap());
            }
            assert!((100..=300).contains(&left.len()), "{}", left.len());
            assert!(left.iter().all(|event| event.name == "user.created"));
            // A subscriber that stays connected misses nothing.
            client.users("DeleteAll", json!({ "user_id": "user-0" })).await.unwrap();
            assert_eq!(again.next().await.unwrap().name, "user.closed_all");
        }
    }
}

#[tokio::test]
async fn events_of_the_embedded_store_survive_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(directory.path());
    let mut host = launch.start();
    let client = host.client(Wire::Rest).await;
    let mut stream = client.subscribe(json!({})).await.unwrap();
    log_in(&client, 0..1, 5).await;
    let first = text(&stream.next().await.unwrap().data, "id");
    // Events of one millisecond may be delivered in any order.
    wait::next_millisecond().await;
    register_as(&client, "alice", "pod", "tab").await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    host.signal("KILL");
    host.ended().await;
    let host = launch.start();
    let client = host.client(Wire::Rest).await;
    let mut again = client.subscribe(json!({ "after": first })).await.unwrap();
    for number in 1..5 {
        assert_eq!(again.next_named("user.created").await.data["device_id"], number.to_string());
    }
    again.next_named("connection.created").await;
    assert_eq!(presence(&client, "alice").await, (true, 1));
}
