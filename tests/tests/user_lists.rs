//! Lists of a user's sessions: the newest first, whatever their use and lifetime, and whichever
//! release has created or closed them.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use serde_json::{Value as Json, json};
use session_store::clock::Clock;
use session_tests::client::{Client, Wire, instant};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::wait;

use crate::everywhere::{Setting, everywhere};

everywhere!(
    a_session_used_during_paging_appears_on_one_page [("USER_SESSION_IDLE", "8s")],
    a_page_token_of_another_release_is_refused_clearly [],
);

async fn log_in(client: &Client, device_id: &str) -> String {
    // Each session begins in its own millisecond, so the order is known.
    wait::next_millisecond().await;
    let attributes = json!({ "user_id": "u", "device_id": device_id });
    let reply = client.users("Create", json!({ "session_attributes": attributes })).await.unwrap();
    reply["session_id"].as_str().unwrap().into()
}

async fn page(client: &Client, size: u32, token: &str) -> (Vec<String>, String) {
    let request = json!({ "user_id": "u", "page_size": size, "page_token": token });
    let page = client.users("List", request).await.unwrap();
    let device = |session: &Json| session["device_id"].as_str().unwrap().to_owned();
    let devices = page["sessions"].as_array().unwrap().iter().map(device).collect();
    (devices, page["next_page_token"].as_str().unwrap().to_owned())
}

async fn all(client: &Client) -> Vec<String> {
    page(client, 1000, "").await.0
}

async fn a_session_used_during_paging_appears_on_one_page(s: Setting) {
    let mut ids = Vec::new();
    for device in ["1", "2", "3", "4", "5", "6"] {
        ids.push(log_in(&s.client, device).await);
    }
    let (first, token) = page(&s.client, 3, "").await;
    assert_eq!(first, ["6", "5", "4"]);
    // Uses the oldest session until its idle time is extended.
    let ends = async || {
        let session = s.client.users("Get", json!({ "session_id": ids[0] })).await.unwrap();
        instant(&session["expires_at"])
    };
    let before = ends().await;
    wait::until("its use is recorded", async || (ends().await > before).then_some(())).await;
    let (second, end) = page(&s.client, 3, &token).await;
    assert_eq!((second, &*end), (["3", "2", "1"].map(String::from).to_vec(), ""));
    assert_eq!(all(&s.client).await, ["6", "5", "4", "3", "2", "1"]);
}

async fn a_page_token_of_another_release_is_refused_clearly(s: Setting) {
    log_in(&s.client, "1").await;
    log_in(&s.client, "2").await;
    let (_, token) = page(&s.client, 1, "").await;
    let (created, name) = token.split_once('.').unwrap();
    assert!(created.starts_with('c'), "{token}");
    for token in [format!("1831536000000.{name}"), format!("x{token}"), "c".into()] {
        let request = json!({ "user_id": "u", "page_token": token });
        let refused = s.client.users("List", request).await.unwrap_err();
        assert_eq!((refused.reason.as_str(), refused.code), ("INVALID_REQUEST", 3));
        assert_eq!(refused.violations, ["page_token"]);
        assert!(refused.message.contains("begin again without one"), "{}", refused.message);
    }
}

#[tokio::test]
async fn a_change_of_the_lifetime_does_not_change_the_order() {
    let redis = RedisServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let embedded = || Launch::embedded(directory.path());
    for wire in [Wire::Rest, Wire::Grpc] {
        for launch in [&embedded as &dyn Fn() -> Launch, &|| Launch::redis(&redis)] {
            for (number, lifetime) in ["8760h", "1h", "30m", "2h"].into_iter().enumerate() {
                let mut host = launch().set("USER_SESSION_TTL", lifetime).start();
                let client = host.client(wire).await;
                for half in ["a", "b"] {
                    log_in(&client, &format!("{number}{half}")).await;
                }
                if number == 3 {
                    let newest = ["3b", "3a", "2b", "2a", "1b", "1a", "0b", "0a"];
                    assert_eq!(all(&client).await, newest, "{wire:?}");
                    let closed = client.users("DeleteAll", json!({ "user_id": "u" })).await;
                    assert_eq!(closed.unwrap()["closed"], 8);
                }
                host.signal("TERM");
                host.ended().await;
            }
        }
    }
}

/// An earlier release, which does not maintain the order: its changes of the keys in Redis.
struct EarlierRelease {
    connection: MultiplexedConnection,
    /// The partition in the keys of the user.
    user: String,
    /// The first character of ids, which stands for the partition of the user.
    character: char,
}

impl EarlierRelease {
    /// Reads the partition from any session of the user.
    async fn of(redis: &RedisServer) -> Self {
        let mut connection = redis.connect(5).await;
        let records: Vec<String> = connection.keys("USER_SESSION:*").await.unwrap();
        let [_, partition, id] = records[0].split(':').collect::<Vec<_>>()[..] else { panic!() };
        let user = partition.to_owned();
        Self { connection, user, character: id.chars().next().unwrap() }
    }

    fn key(&self, kind: &str, of: &str) -> String {
        format!("{kind}:{}:{of}", self.user)
    }

    fn id(&self, device: &str) -> String {
        format!("{}{device:x<63}", self.character)
    }

    async fn create(&mut self, device: &str) {
        wait::next_millisecond().await;
        let (id, now) = (self.id(device), Clock::System.now());
        let year = 365 * 24 * 3600 * 1000;
        let ends = now + year;
        let record = [
            ("user_id", "u"),
            ("device_id", device),
            ("_created", &*now.to_string()),
            ("_ends", &*ends.to_string()),
        ];
        let (key, sessions, due) = (
            self.key("USER_SESSION", &id),
            self.key("USER_SESSIONS", "u"),
            self.key("DUE", "user"),
        );
        let _: () = redis::pipe()
            .atomic()
            .hset_multiple(&key, &record)
            .pexpire_at(&key, ends.try_into().unwrap())
            .zadd(&sessions, &id, ends)
            .pexpire_at(&sessions, ends.try_into().unwrap())
            .zadd(&due, format!("u\n{id}"), ends + 7 * 24 * 3600 * 1000)
            .query_async(&mut self.connection)
            .await
            .unwrap();
    }

    async fn close(&mut self, id: &str) {
        let _: () = redis::pipe()
            .atomic()
            .del(self.key("USER_SESSION", id))
            .zrem(self.key("USER_SESSIONS", "u"), id)
            .zrem(self.key("DUE", "user"), format!("u\n{id}"))
            .query_async(&mut self.connection)
            .await
            .unwrap();
    }

    async fn order(&mut self) -> Vec<String> {
        let key = self.key("USER_SESSIONS_ORDER", "u");
        self.connection.zrevrange(key, 0, -1).await.unwrap()
    }
}

#[tokio::test]
async fn sessions_of_an_earlier_release_are_in_order() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let redis = RedisServer::start().await;
        let host = Launch::redis(&redis).start();
        let client = host.client(wire).await;
        let ours = [log_in(&client, "our-1").await, log_in(&client, "our-2").await];
        let mut before = EarlierRelease::of(&redis).await;
        before.create("their-1").await;
        log_in(&client, "our-3").await;
        before.create("their-2").await;
        assert_eq!(all(&client).await, ["their-2", "our-3", "their-1", "our-2", "our-1"]);
        assert_eq!(before.order().await.len(), 5, "the list has completed the order");
        // One session is closed and one created, so the number alone does not show the change.
        before.close(&ours[0]).await;
        before.create("their-3").await;
        let expected = ["their-3", "their-2", "our-3", "their-1", "our-2"];
        assert_eq!(all(&client).await, expected);
        let order = before.order().await;
        assert_eq!((order.len(), order.contains(&ours[0])), (5, false));
        // This release closes a session of the earlier release.
        let theirs = before.id("their-1");
        client.users("Delete", json!({ "session_id": theirs })).await.unwrap();
        assert_eq!(all(&client).await, ["their-3", "their-2", "our-3", "our-2"]);
        let closed = client.users("DeleteAll", json!({ "user_id": "u" })).await.unwrap();
        assert_eq!(closed["closed"], 4);
        assert_eq!(before.order().await, [""; 0]);
    }
}

#[tokio::test]
async fn pages_are_correct_while_an_earlier_release_creates_and_closes_sessions() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let redis = RedisServer::start().await;
        let host = Launch::redis(&redis).start();
        let client = host.client(wire).await;
        let mut ids = Vec::new();
        for number in 0..12 {
            ids.push(log_in(&client, &number.to_string()).await);
        }
        let mut before = EarlierRelease::of(&redis).await;
        let (mut seen, mut token) = (Vec::new(), String::new());
        for round in 0.. {
            let (devices, next) = page(&client, 3, &token).await;
            seen.extend(devices);
            token = next;
            if token.is_empty() {
                break;
            }
            before.create(&format!("new-{round}")).await;
            if round == 0 {
                // One session of an earlier page, and one of a later page.
                before.close(&ids[11]).await;
                before.close(&ids[2]).await;
            }
        }
        let listed = seen.len();
        let seen: BTreeSet<String> = seen.into_iter().collect();
        assert_eq!(seen.len(), listed, "a session is listed twice: {seen:?}");
        let alive = (0..12).filter(|number| *number != 2 && *number != 11);
        let missing: Vec<_> = alive.filter(|number| !seen.contains(&number.to_string())).collect();
        assert_eq!(missing, [0; 0], "{seen:?}");
        assert!(!seen.contains("2"), "it was closed before its page");
    }
}

#[tokio::test]
async fn expired_sessions_are_removed_from_the_order_without_a_list() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).set("USER_SESSION_TTL", "300ms").start();
    let client = host.client(Wire::Grpc).await;
    log_in(&client, "phone").await;
    let mut connection = redis.connect(5).await;
    let left = async |connection: &mut MultiplexedConnection| {
        connection.keys::<_, Vec<String>>("USER_SESSION*").await.unwrap()
    };
    assert_eq!(left(&mut connection).await.len(), 3);
    let gone = wait::until("the sweeper has removed everything", async || {
        left(&mut connection).await.is_empty().then_some(())
    });
    tokio::time::timeout(Duration::from_secs(60), gone).await.unwrap();
}
