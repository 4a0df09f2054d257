//! A full store: creates are refused in the same way on both wires and every store, while reads,
//! heartbeats, closes, deletes and events still work.

use serde_json::{Value as Json, json};
use session_tests::admin::Admin;
use session_tests::client::{Client, Refusal, Wire};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::wait;

/// The memory limit of the in-process stores in these tests, in bytes.
const MEMORY_MAX: u64 = 1 << 20;
const WIRES: [Wire; 2] = [Wire::Rest, Wire::Grpc];

/// A server, and how its store becomes full.
struct Fixture {
    host: Host,
    redis: Option<RedisServer>,
    _directory: tempfile::TempDir,
}

/// A server on each store.
async fn fixtures(settings: &[(&str, &str)]) -> Vec<Fixture> {
    let mut fixtures = Vec::new();
    for store in ["memory", "embedded", "redis"] {
        let directory = tempfile::tempdir().unwrap();
        let redis = if store == "redis" { Some(RedisServer::start().await) } else { None };
        let launch = match &redis {
            Some(redis) => Launch::redis(redis),
            None if store == "memory" => Launch::in_memory(),
            None => Launch::embedded(directory.path()),
        };
        let mut launch = launch.set("MEMORY_MAX", "1 MiB");
        for (name, value) in settings {
            launch = launch.set(name, value);
        }
        fixtures.push(Fixture { host: launch.start(), redis, _directory: directory });
    }
    fixtures
}

impl Fixture {
    /// Fills the store until it refuses one more byte.
    async fn fill(&self) {
        if let Some(redis) = &self.redis {
            return redis.limit_memory(1).await;
        }
        let client = self.host.client(Wire::Rest).await;
        let (mut fits, mut is_refused) = (0, MEMORY_MAX as usize);
        while fits + 1 < is_refused {
            let length = usize::midpoint(fits, is_refused);
            let document = json!({ "request": "x".repeat(length) });
            match client.set("ez-pay", "filling", document).await {
                Ok(_) => fits = length,
                Err(refused) => {
                    assert_eq!(refused.reason, "STORE_FULL", "{refused:?}");
                    is_refused = length;
                }
            }
        }
    }

    async fn make_room(&self) {
        match &self.redis {
            Some(redis) => redis.limit_memory(0).await,
            None => {
                let client = self.host.client(Wire::Rest).await;
                client.delete("ez-pay", "filling").await.unwrap();
            }
        }
    }
}

fn id_of(created: &Json, name: &str) -> String {
    created[name].as_str().unwrap().to_owned()
}

/// Sessions of every kind.
struct Sessions {
    login: String,
    slot: String,
    lock_token: String,
    /// A suffix of the ids of connections, because a terminated id cannot be registered again.
    round: String,
}

async fn begin(client: &Client, round: &str) -> Sessions {
    for key in ["kept", "gone", "locked"] {
        client.set("pre-order", key, json!({ "fleet_list_request": "12345" })).await.unwrap();
    }
    let lock_token = client.lock("pre-order", "locked").await.unwrap();
    let mut logins = Vec::new();
    for device_id in ["phone", "tv"] {
        let attributes = json!({ "user_id": "user", "device_id": device_id, "access_token": "t1" });
        let created = client.users("Create", json!({ "session_attributes": attributes })).await;
        logins.push(id_of(&created.unwrap(), "session_id"));
    }
    for (user_id, session_id) in [("alice", "one"), ("alice", "two"), ("bob", "three")] {
        let session_id = [session_id, round].concat();
        let request = json!({ "user_id": user_id, "session_id": session_id, "pod_id": "pod" });
        client.connections("Register", request).await.unwrap();
    }
    let device = json!({ "deviceId": "tv", "accountId": "home" });
    client.viewing("CreateDevice", device).await.unwrap();
    let created = client.viewing("CreateSession", json!({ "accountId": "home", "deviceId": "tv" }));
    let slot = id_of(&created.await.unwrap(), "sessionId");
    Sessions { login: logins.remove(0), slot, lock_token, round: round.into() }
}

/// Tries every operation that adds data, of every kind.
async fn creates(client: &Client, sessions: &Sessions) -> Vec<(&'static str, Result<(), Refusal>)> {
    let longer = json!({ "fleet_list_request": "123456" });
    let mut tried = vec![
        ("a new session", client.set("pre-order", "new", longer.clone()).await.map(drop)),
        ("a generated key", client.set("pre-order", "", longer.clone()).await.map(drop)),
        ("a longer session", client.set("pre-order", "kept", longer).await.map(drop)),
        ("a lock", client.lock("pre-order", "kept").await.map(drop)),
    ];
    let login = json!({ "session_attributes": { "user_id": "user" } });
    tried.push(("a login", client.users("Create", login).await.map(drop)));
    let change =
        json!({ "session_id": sessions.login, "session_attributes": { "access_token": "t22" } });
    tried.push(("a longer login", client.users("Update", change).await.map(drop)));
    for (what, request) in [
        ("a connection", json!({ "user_id": "carol", "pod_id": "pod" })),
        ("a named one", json!({ "user_id": "carol", "pod_id": "pod", "session_id": "four" })),
    ] {
        tried.push((what, client.connections("Register", request).await.map(drop)));
    }
    let held = json!({ "user_id": "carol", "session_id": "five" });
    tried.push(("a stream of a connection", client.connect_user(held).await.map(drop)));
    for (operation, request) in [
        ("CreateSession", json!({ "accountId": "home", "deviceId": "phone" })),
        ("CreateSessionWithDevice", json!({ "deviceId": "tv" })),
        ("CreateDevice", json!({ "deviceId": "phone", "accountId": "home" })),
        ("SetMaxSession", json!({ "accountId": "home", "maxNbOfSession": 5 })),
    ] {
        tried.push((operation, client.viewing(operation, request).await.map(drop)));
    }
    tried
}

/// Checks reads, heartbeats, and writes that add no data.
async fn still_works(client: &Client, sessions: &Sessions) {
    assert_eq!(client.get("pre-order", "kept").await.unwrap()["fleet_list_request"], "12345");
    client.set("pre-order", "kept", json!({ "fleet_list_request": "54321" })).await.unwrap();
    client.set("pre-order", "kept", json!({ "fleet_list_request": "12345" })).await.unwrap();
    let login = json!({ "session_id": sessions.login });
    client.users("Get", login).await.unwrap();
    client.users("List", json!({ "user_id": "user" })).await.unwrap();
    for session_id in ["one", "three"].map(|id| id.to_owned() + &sessions.round) {
        client.connections("Heartbeat", json!({ "session_id": session_id })).await.unwrap();
        client.connections("Get", json!({ "session_id": session_id })).await.unwrap();
    }
    let kept = client.connections("HeartbeatPod", json!({ "pod_id": "pod" })).await.unwrap();
    assert_eq!(kept["kept"], 3);
    client.connections("GetPresence", json!({ "user_id": "alice" })).await.unwrap();
    let slot = json!({ "accountId": "home", "sessionId": sessions.slot });
    client.viewing("HeartBeat", slot).await.unwrap();
    client.viewing("GetHome", json!({ "accountId": "home" })).await.unwrap();
    client.health().await.unwrap();
}

/// Ends a session of every kind, and returns the expected events.
async fn end(client: &Client, sessions: &Sessions) -> [&'static str; 5] {
    client.delete("pre-order", "gone").await.unwrap();
    client.unlock("pre-order", "locked", &sessions.lock_token).await.unwrap();
    client.users("Delete", json!({ "session_id": sessions.login })).await.unwrap();
    client.users("DeleteAll", json!({ "user_id": "user" })).await.unwrap();
    let one = "one".to_owned() + &sessions.round;
    client.connections("Close", json!({ "session_id": one })).await.unwrap();
    client.connections("Terminate", json!({ "user_id": "bob" })).await.unwrap();
    let slot = json!({ "accountId": "home", "sessionId": sessions.slot });
    client.viewing("TearDown", slot).await.unwrap();
    client.viewing("DeleteDevice", json!({ "deviceId": "tv" })).await.unwrap();
    [
        "user.closed",
        "user.closed_all",
        "connection.closed",
        "connection.terminated",
        "viewing.closed",
    ]
}

#[tokio::test]
async fn a_full_store_refuses_creates_of_all_kinds_and_serves_everything_else() {
    for fixture in fixtures(&[("SESSION_LOCK_TTL", "10m")]).await {
        for wire in WIRES {
            let client = fixture.host.client(wire).await;
            let sessions = begin(&client, &format!("-full-{wire:?}")).await;
            let mut events = client.subscribe(json!({})).await.unwrap();
            fixture.fill().await;
            for (what, refused) in creates(&client, &sessions).await {
                let refused = refused.expect_err(what);
                let http = if wire == Wire::Rest { 429 } else { 0 };
                assert_eq!((&*refused.reason, refused.code), ("STORE_FULL", 8), "{what}");
                assert_eq!((refused.http, refused.retry), (http, true), "{what}");
                assert!(refused.message.contains("still work"), "{what}: {}", refused.message);
            }
            still_works(&client, &sessions).await;
            let mut expected = end(&client, &sessions).await.to_vec();
            while let Some(at) = expected.len().checked_sub(1) {
                let event = events.next().await.unwrap();
                assert_ne!(event.name, "gap");
                expected.retain(|name| *name != event.name);
                assert!(expected.len() >= at);
            }
            fixture.make_room().await;
            let again = begin(&client, &format!("-again-{wire:?}")).await;
            client.users("Get", json!({ "session_id": again.login })).await.unwrap();
            end(&client, &again).await;
            client.connections("Terminate", json!({ "user_id": "alice" })).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_full_store_says_when_to_retry_and_metrics_show_its_size() {
    for fixture in fixtures(&[]).await {
        fixture.fill().await;
        let url = fixture.host.url("rest", "/session");
        let create = session_tests::http().post(url).json(&json!({ "user_id": "user" }));
        let answer = create.send().await.unwrap();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (429, &"5".parse().unwrap())
        );
        let metrics = Admin::of(&fixture.host).metrics().await;
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.map(|value| value.parse::<u64>().unwrap())
        };
        let refused = r#"session_manager_store_calls_total{operation="write",outcome="full"}"#;
        assert!(value(refused).unwrap() >= 1);
        let used = value("session_manager_store_bytes");
        let limit = value("session_manager_store_bytes_max");
        match &fixture.redis {
            Some(_) => assert_eq!((used, limit), (None, None)),
            None => {
                assert_eq!(limit, Some(MEMORY_MAX));
                // A write is refused unless a version with the most digits would fit as well.
                assert!((MEMORY_MAX - 32..=MEMORY_MAX).contains(&used.unwrap()), "{used:?}");
            }
        }
    }
}

#[tokio::test]
async fn sessions_expire_with_their_events_while_the_store_is_full() {
    for fixture in fixtures(&[("VIEWING_TTL", "2s")]).await {
        let client = fixture.host.client(Wire::Grpc).await;
        let mut events = client.subscribe(json!({ "types": ["viewing.expired"] })).await.unwrap();
        let slot = json!({ "accountId": "home", "deviceId": "tv" });
        client.viewing("CreateSession", slot).await.unwrap();
        fixture.fill().await;
        let expired = tokio::time::timeout(wait::PATIENCE, events.next()).await.unwrap().unwrap();
        assert_eq!(expired.data["user_id"], "home");
        let ready = session_tests::get(fixture.host.url("admin", "/readyz")).await;
        assert_eq!(ready.status(), 200);
    }
}
