//! Connections: who is online, on which pod, over both wires and on every store, and
//! what only several hosts and a real outage bring about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use session_tests::admin::Admin;
use session_tests::client::{Client, EventStream, Refusal, Wire, instant};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::everywhere::{Setting, everywhere};

/// Lifetimes that a test can wait for, and that outlast a stall of the machine.
const SHORT: [(&str, &str); 3] =
    [("CONNECTION_HEARTBEAT", "300ms"), ("CONNECTION_STALE", "4s"), ("CONNECTION_TTL", "12s")];
/// Frequent heartbeats, and the usual lifetimes.
const BRISK: [(&str, &str); 1] = [("CONNECTION_HEARTBEAT", "300ms")];

everywhere!(
    a_connection_from_its_beginning_to_its_end [],
    the_same_connection_again_moves_to_the_new_pod [],
    the_id_of_another_user_is_refused_while_it_is_alive super::SHORT,
    a_connection_that_is_not_kept_expires super::SHORT,
    an_administrator_ends_all_connections_of_a_user [],
    a_pod_is_kept_listed_and_drained super::SHORT,
    what_is_wrong_with_a_request_is_told [],
    a_client_that_stays_is_connected super::BRISK,
    a_client_that_is_held_hears_of_its_end [],
    what_happens_is_told_in_order_and_again [],
);

async fn register(client: &Client, user: &str, pod: &str) -> Json {
    let request = json!({ "user_id": user, "pod_id": pod });
    client.connections("Register", request).await.unwrap()
}

async fn register_as(client: &Client, user: &str, pod: &str, id: &str) -> Result<Json, Refusal> {
    let request = json!({ "user_id": user, "pod_id": pod, "session_id": id });
    client.connections("Register", request).await
}

async fn about(client: &Client, operation: &str, id: &str) -> Result<Json, Refusal> {
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

async fn of_user(client: &Client, user: &str) -> Vec<Json> {
    let reply = client.connections("ListByUser", json!({ "user_id": user })).await.unwrap();
    reply["connections"].as_array().unwrap().clone()
}

/// The ids of the connections of a pod.
async fn of_pod(client: &Client, pod: &str) -> BTreeSet<String> {
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

/// Connections, users online, and of each pod both.
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

async fn a_connection_from_its_beginning_to_its_end(Setting { client, redis, .. }: Setting) {
    let connection = register(&client, "alice", "pod-1").await;
    let id = text(&connection, "session_id");
    assert_eq!((&connection["user_id"], &connection["pod_id"]), (&json!("alice"), &json!("pod-1")));
    assert!(id.starts_with('~') && id.len() == 32, "32 characters, made here");
    assert_eq!(connection["connected_at"], connection["last_heartbeat_at"]);
    assert_eq!(about(&client, "Get", &id).await.unwrap(), connection);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let kept = about(&client, "Heartbeat", &id).await.unwrap();
    assert!(instant(&kept["last_heartbeat_at"]) > instant(&connection["last_heartbeat_at"]));
    assert!(instant(&kept["expires_at"]) > instant(&connection["expires_at"]));
    assert_eq!(kept["connected_at"], connection["connected_at"]);
    assert_eq!(about(&client, "Get", &id).await.unwrap(), kept);
    assert_eq!(of_user(&client, "alice").await, [kept]);
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
    let over = about(&client, "Get", &id).await.unwrap_err();
    assert_eq!((over.reason.as_str(), over.code), ("SESSION_TERMINATED", 5));
    assert_eq!(
        (over.metadata["reason"].as_str(), over.metadata["by"].as_str()),
        ("logged out", "user")
    );
    assert_eq!(reason(about(&client, "Heartbeat", &id).await), "SESSION_TERMINATED");
    assert_eq!(reason(about(&client, "Get", "unknown").await), "SESSION_NOT_FOUND");
    assert_eq!(reason(about(&client, "Heartbeat", "~unknown").await), "SESSION_NOT_FOUND");
    assert_eq!(presence(&client, "alice").await, (false, 0));
    assert_eq!(stats(&client).await, (0, 0, vec![]));
    // One who has logged out may come back.
    register_as(&client, "alice", "pod-1", &id).await.unwrap();
    assert_eq!(presence(&client, "alice").await, (true, 1));
}

async fn the_same_connection_again_moves_to_the_new_pod(Setting { client, .. }: Setting) {
    for id in ["tab-1", ""] {
        let before = register_as(&client, "alice", "old", id).await.unwrap();
        let id = &text(&before, "session_id");
        tokio::time::sleep(Duration::from_millis(5)).await;
        let moved = register_as(&client, "alice", "new", id).await.unwrap();
        assert_eq!(moved["pod_id"], "new");
        assert_eq!(about(&client, "Get", id).await.unwrap(), moved);
        assert_eq!(of_pod(&client, "old").await, BTreeSet::new());
        assert_eq!(of_pod(&client, "new").await, BTreeSet::from([id.to_owned()]));
        assert_eq!(stats(&client).await, (1, 1, vec![("new".into(), 1, 1)]));
        close(&client, id, "").await;
    }
}

async fn the_id_of_another_user_is_refused_while_it_is_alive(Setting { client, .. }: Setting) {
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
    // Once it is over, an id that somebody has chosen is free.
    let theirs = wait::until("the connection ends", async || {
        register_as(&client, "bob", "pod", "tab").await.ok()
    });
    assert_eq!(theirs.await["user_id"], "bob");
    assert_eq!(text(&about(&client, "Get", "tab").await.unwrap(), "user_id"), "bob");
    assert_eq!(reason(register_as(&client, "alice", "pod", "tab").await), "SESSION_EXISTS");
    assert_eq!(presence(&client, "alice").await, (false, 0));
}

async fn a_connection_that_is_not_kept_expires(Setting { client, redis, .. }: Setting) {
    let kept = text(&register(&client, "alice", "pod").await, "session_id");
    register_as(&client, "alice", "pod", "left").await.unwrap();
    let mut events = client.subscribe(json!({ "types": ["connection.expired"] })).await.unwrap();
    wait::until("it has expired", async || {
        about(&client, "Heartbeat", &kept).await.unwrap();
        let left = about(&client, "Get", "left").await.err();
        left.map(|refusal| assert_eq!(refusal.reason, "SESSION_EXPIRED"))
    })
    .await;
    assert_eq!(reason(about(&client, "Heartbeat", "left").await), "SESSION_EXPIRED");
    assert_eq!(presence(&client, "alice").await, (true, 1));
    assert_eq!(stats(&client).await, (1, 1, vec![("pod".into(), 1, 1)]));
    // Both are forgotten some time.
    wait::until("it is forgotten", async || {
        let left = about(&client, "Get", "left").await.unwrap_err();
        (left.reason == "SESSION_NOT_FOUND").then_some(())
    })
    .await;
    let mut expired = BTreeSet::new();
    for _ in 0..2 {
        let told = events.next_named("connection.expired").await.data;
        assert_eq!((&told["user_id"], &told["pod_id"]), (&json!("alice"), &json!("pod")));
        expired.insert(text(&told, "session_id"));
    }
    assert_eq!(expired, BTreeSet::from(["le".to_owned(), kept[..6].to_owned()]));
    assert_eq!(reason(about(&client, "Heartbeat", "left").await), "SESSION_NOT_FOUND");
    if let Some(redis) = &redis {
        wait::until("nothing is left", async || {
            let mut connection = redis.connect(5).await;
            let keys: Vec<String> =
                redis::cmd("KEYS").arg("*").query_async(&mut connection).await.ok()?;
            keys.iter().all(|key| key.starts_with("EVENTS:")).then_some(())
        })
        .await;
    }
}

async fn an_administrator_ends_all_connections_of_a_user(Setting { client, .. }: Setting) {
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
        let over = about(&client, "Heartbeat", id).await.unwrap_err();
        let fact = |name: &str| over.metadata[name].clone();
        assert_eq!(
            (over.reason.as_str(), fact("reason"), fact("by")),
            ("SESSION_TERMINATED", "stolen".into(), "ops".into())
        );
        // Nobody comes back under the id that was ended.
        assert_eq!(reason(register_as(&client, "alice", "pod", id).await), "SESSION_TERMINATED");
    }
    assert_eq!(of_user(&client, "alice").await, [] as [Json; 0]);
    assert_eq!(stats(&client).await, (1, 1, vec![("pod".into(), 1, 1)]));
    register(&client, "alice", "pod").await;
    assert_eq!(presence(&client, "alice").await, (true, 1));
}

async fn a_pod_is_kept_listed_and_drained(Setting { client, .. }: Setting) {
    let mut users = BTreeMap::new();
    for number in 0..20 {
        let user = format!("user-{}", number / 2);
        let registered = if number % 3 == 0 {
            register_as(&client, &user, "pod", &format!("tab-{number}")).await.unwrap()
        } else {
            register(&client, &user, "pod").await
        };
        users.insert(text(&registered, "session_id"), user);
    }
    let ids: BTreeSet<String> = users.keys().cloned().collect();
    let elsewhere = text(&register(&client, "user-0", "other").await, "session_id");
    assert_eq!(of_pod(&client, "pod").await, ids);
    let expected = vec![("other".into(), 1, 1), ("pod".into(), 20, 10)];
    assert_eq!(stats(&client).await, (21, 10, expected));

    // All are kept, those of other pods are not.
    let expired = async |id: &str| {
        about(&client, "Get", id).await.is_err_and(|refusal| refusal.reason == "SESSION_EXPIRED")
    };
    wait::until("the other has expired", async || {
        let kept = client.connections("HeartbeatPod", json!({ "pod_id": "pod" })).await.unwrap();
        assert_eq!(kept, json!({ "kept": 20, "gone": [] }));
        expired(&elsewhere).await.then_some(())
    })
    .await;
    assert_eq!(of_pod(&client, "pod").await, ids);
    // Those listed are kept, and no others.
    let some: Vec<String> = ids.iter().step_by(2).cloned().collect();
    let mut others = ids.iter().skip(1).step_by(2).peekable();
    let mut listed = some.clone();
    listed.extend([elsewhere.clone(), "unknown".into(), "~unknown".into(), some[0].clone()]);
    let mut gone = vec![elsewhere, "unknown".to_owned(), "~unknown".to_owned()];
    gone.sort_unstable();
    wait::until("the others have expired", async || {
        let request = json!({ "pod_id": "pod", "session_ids": listed });
        let kept = client.connections("HeartbeatPod", request).await.unwrap();
        let mut told: Vec<_> = kept["gone"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect();
        told.sort_unstable();
        assert_eq!((&kept["kept"], &told), (&json!(some.len()), &gone));
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

    let drain = json!({ "pod_id": "pod", "reason": "node lost" });
    let drained = client.connections("Drain", drain.clone()).await.unwrap();
    assert_eq!(drained, json!({ "pod_id": "pod", "closed": some.len() }));
    assert_eq!(client.connections("Drain", drain).await.unwrap()["closed"], 0);
    assert_eq!(
        (of_pod(&client, "pod").await, stats(&client).await),
        (BTreeSet::new(), (0, 0, vec![]))
    );
    let over = about(&client, "Get", &some[0]).await.unwrap_err();
    assert_eq!(
        (over.reason.as_str(), over.metadata["reason"].as_str()),
        ("SESSION_TERMINATED", "node lost")
    );
    // Its user may come back on another pod.
    register_as(&client, &users[&some[0]], "other", &some[0]).await.unwrap();
}

async fn what_is_wrong_with_a_request_is_told(Setting { client, .. }: Setting) {
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
    // There are bounds.
    for _ in 0..1000 {
        register(&client, "crowd", "p").await;
    }
    let refusal = register_as(&client, "crowd", "p", "tab").await.unwrap_err();
    assert_eq!(
        (refusal.reason.as_str(), refusal.metadata["limit"].as_str()),
        ("SESSION_LIMIT_REACHED", "1000")
    );
    assert_eq!(of_user(&client, "crowd").await.len(), 1000);
}

async fn a_client_that_stays_is_connected(Setting { client, host, .. }: Setting) {
    let request = json!({ "user_id": "alice", "session_id": "tab", "pod_id": "pod" });
    let mut stream = client.connect_user(request).await.unwrap();
    let connected = stream.next().await.unwrap();
    assert_eq!(
        (connected.name.as_str(), &connected.data["session_id"]),
        ("connected", &json!("tab"))
    );
    let found = about(&client, "Get", "tab").await.unwrap();
    // It may have been kept since.
    for field in ["user_id", "session_id", "pod_id", "connected_at"] {
        assert_eq!(found[field], connected.data[field], "{field}");
    }
    let mut last = instant(&connected.data["expires_at"]);
    for _ in 0..6 {
        let kept = stream.next().await.unwrap();
        assert_eq!(kept.name, "heartbeat");
        let expires = instant(&kept.data["expires_at"]);
        assert!(expires > last);
        last = expires;
    }
    assert_eq!(presence(&client, "alice").await, (true, 1));
    let metrics = Admin::of(&host).metrics().await;
    assert!(metrics.contains("session_manager_connects_open 1\n"), "{metrics}");
    drop(stream);
    wait::until("the connection is closed", async || {
        (presence(&client, "alice").await == (false, 0)).then_some(())
    })
    .await;
    let over = about(&client, "Get", "tab").await.unwrap_err();
    assert_eq!(
        (over.reason.as_str(), over.metadata["by"].as_str()),
        ("SESSION_TERMINATED", "user")
    );
}

async fn a_client_that_is_held_hears_of_its_end(Setting { client, mut host, .. }: Setting) {
    let connect = async |session: &str| {
        let request = json!({ "user_id": "alice", "session_id": session });
        let mut stream = client.connect_user(request).await.unwrap();
        assert_eq!(stream.next().await.unwrap().name, "connected");
        stream
    };
    let last = async |mut stream: EventStream| {
        let told = stream.next().await.expect("it hears of its end");
        assert_eq!(stream.next().await, None);
        (told.name.clone(), text(&told.data, "reason"))
    };
    let told = |name: &str, reason: &str| (name.to_owned(), reason.to_owned());
    let (one, two) = (connect("tab-1").await, connect("tab-2").await);
    let request = json!({ "user_id": "alice", "reason": "stolen" });
    client.connections("Terminate", request).await.unwrap();
    assert_eq!(last(one).await, told("terminated", "stolen"));
    assert_eq!(last(two).await, told("terminated", "stolen"));
    // The same connection from elsewhere takes its place, and is not closed with it.
    let first = connect("tab-3").await;
    let second = connect("tab-3").await;
    assert_eq!(last(first).await, told("terminated", "MOVED"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(presence(&client, "alice").await, (true, 1));
    close(&client, "tab-3", "logged out").await;
    assert_eq!(last(second).await, told("terminated", "logged out"));
    // A client may come back when its pod was drained, and when the service stops.
    let drained = connect("tab-4").await;
    let pod = text(&about(&client, "Get", "tab-4").await.unwrap(), "pod_id");
    client.connections("Drain", json!({ "pod_id": pod })).await.unwrap();
    assert_eq!(last(drained).await, told("closing", "POD_GONE"));
    let stays = connect("tab-4").await;
    let mut events = client.subscribe(json!({})).await.unwrap();
    host.signal("TERM");
    assert_eq!(last(stays).await, told("closing", "SERVER_STOPPING"));
    assert_eq!(events.next_named("closing").await.data, json!({ "reason": "SERVER_STOPPING" }));
    assert!(host.ended().await.success());
}

async fn what_happens_is_told_in_order_and_again(Setting { client, .. }: Setting) {
    let mut events = client.subscribe(json!({})).await.unwrap();
    let mut of_alice = client.subscribe(json!({ "user_id": "alice" })).await.unwrap();
    let types = json!({ "types": ["viewing,connection.created"] });
    let mut of_types = client.subscribe(types).await.unwrap();

    // Those of one millisecond are told in an order of their own.
    let login =
        |user: &str| json!({ "session_attributes": { "user_id": user, "device_id": "phone" } });
    let id = text(&client.users("Create", login("alice")).await.unwrap(), "session_id");
    register_as(&client, "bob", "pod", "tab-of-bob").await.unwrap();
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

    let all = [
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
    let read = async |stream: &mut EventStream, expected: &[(&str, &str)]| {
        let mut told = Vec::new();
        for (name, user) in expected {
            let event = stream.next().await.unwrap();
            assert_eq!(
                (event.name.as_str(), &event.data["user_id"]),
                (*name, &json!(user)),
                "{told:?}"
            );
            told.push(event);
        }
        told
    };
    let told = read(&mut events, &all).await;
    let of =
        |wanted: fn(&(&str, &str)) -> bool| all.iter().copied().filter(wanted).collect::<Vec<_>>();
    read(&mut of_alice, &of(|(_, user)| *user == "alice")).await;
    read(
        &mut of_types,
        &of(|(name, _)| name.starts_with("viewing") || *name == "connection.created"),
    )
    .await;
    // What there is to know, and no id and no token.
    let first = &told[0].data;
    assert_eq!((&first["session_id"], &first["device_id"]), (&json!(&id[..6]), &json!("phone")));
    let hash = hex(&sha256(&id)[..8]);
    assert_eq!(first["session_hash"], hash);
    assert_eq!((&told[8].data["reason"], &told[8].data["by"]), (&json!("REPLACED"), &json!("pad")));
    assert_eq!(
        (&told[11].data["reason"], &told[11].data["by"]),
        (&json!("TERMINATED"), &json!("ops"))
    );
    assert!(told.iter().all(|event| !event.data.to_string().contains(&id)));
    let ids: Vec<String> = told.iter().map(|event| text(&event.data, "id")).collect();
    assert!(told.iter().all(|event| event.id.is_empty() || event.data["id"] == event.id));
    // From any of them on, all behind it are told again.
    for (at, id) in ids.iter().enumerate() {
        let mut again = client.subscribe(json!({ "after": id })).await.unwrap();
        let again = read(&mut again, &all[at + 1..]).await;
        assert_eq!(
            again.iter().map(|event| &event.data).collect::<Vec<_>>(),
            told[at + 1..].iter().map(|event| &event.data).collect::<Vec<_>>()
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

#[tokio::test]
async fn a_user_with_three_tabs_on_two_hosts_stays_online_when_one_closes() {
    let (_redis, a, b) = two_hosts(&BRISK).await;
    let (on_a, on_b) = (a.client(Wire::Rest).await, b.client(Wire::Rest).await);
    let one = connect(&on_a, "alice", "tab-1").await;
    let _two = connect(&on_a, "alice", "tab-2").await;
    let _three = connect(&on_b, "alice", "tab-3").await;
    assert_eq!(presence(&on_b, "alice").await, (true, 3));
    let pods = vec![("pod-a".to_owned(), 2, 1), ("pod-b".to_owned(), 1, 1)];
    assert_eq!(stats(&on_a).await, (3, 1, pods));
    drop(one);
    wait::until("one is closed", async || {
        (presence(&on_b, "alice").await == (true, 2)).then_some(())
    })
    .await;
    let pods = vec![("pod-a".to_owned(), 1, 1), ("pod-b".to_owned(), 1, 1)];
    assert_eq!(stats(&on_a).await, (2, 1, pods));
}

#[tokio::test]
async fn connections_of_a_host_that_is_killed_expire() {
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
        assert!(expired.insert(text(&event, "user_id")), "each is told of once");
    }
    // A lifetime, and ten seconds.
    assert!(killed.elapsed() < Duration::from_secs(4 + 10), "{:?}", killed.elapsed());
    assert_eq!(presence(&on_b, "user-0").await, (true, 1));
    assert_eq!(presence(&on_b, "user-1").await, (false, 0));
    assert_eq!(of_pod(&on_b, "pod-a").await, BTreeSet::new());
    assert_eq!(stats(&on_b).await, (1, 1, vec![("pod-b".to_owned(), 1, 1)]));
    let more = tokio::time::timeout(Duration::from_secs(6), events.next_unlimited());
    assert!(more.await.is_err(), "each is told of once");
}

#[tokio::test]
async fn an_end_on_one_host_reaches_the_clients_of_the_other_within_a_second() {
    let (_redis, a, b) = two_hosts(&[]).await;
    let on_a = a.client(Wire::Rest).await;
    for wire in [Wire::Rest, Wire::Grpc] {
        let on_b = b.client(wire).await;
        let mut took = Vec::new();
        // A machine that has other things to do may take longer now and then.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_users_who_race_for_an_id_one_has_it() {
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
        // Some ids were another's before, and are just ending.
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
        // On a machine that is so slow that the first has ended, there may be a second.
        assert!(won.len() <= 1 || asked.elapsed() >= STALE, "round {round}: {won:?}");
        taken += won.len();
        if let [user] = won[..] {
            match about(&clients[0], "Get", &id).await {
                Ok(found) => assert_eq!(found["user_id"], user),
                Err(refusal) => {
                    let over = ["SESSION_EXPIRED", "SESSION_NOT_FOUND"];
                    assert!(over.contains(&&*refusal.reason), "{refusal:?}");
                    assert!(asked.elapsed() >= STALE, "round {round}: {refusal:?}");
                }
            }
        }
        let mut alive = 0;
        for user in users {
            let of_user = of_user(&clients[1], user).await;
            alive += of_user.iter().filter(|one| one["session_id"] == id.as_str()).count();
        }
        assert!(alive <= 1, "round {round}");
        if round % 3 == 1 {
            tokio::time::sleep(Duration::from_millis(395)).await;
        }
    }
    assert!(taken >= rounds / 3, "{taken}");
}

/// Makes changes, so many each of some users.
async fn change(client: &Client, users: std::ops::Range<usize>, each: usize) {
    let mut makers = tokio::task::JoinSet::new();
    for user in users {
        let client = client.clone();
        makers.spawn(async move {
            let user = format!("user-{user}");
            for number in 0..each {
                let attributes = json!({ "user_id": user, "device_id": number.to_string() });
                let request = json!({ "session_attributes": attributes });
                client.users("Create", request).await.unwrap();
            }
        });
    }
    while let Some(made) = makers.join_next().await {
        made.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_comes_back_has_missed_nothing() {
    const USERS: usize = 20;
    let (each, step) = size((100, 140), (500, 700));
    let (_redis, a, b) = two_hosts(&[]).await;
    for (wire, on) in [(Wire::Rest, 0..USERS), (Wire::Grpc, USERS..2 * USERS)] {
        let readers = [a.client(wire).await, b.client(wire).await];
        let maker = a.client(Wire::Grpc).await;
        let mut stream = readers[0].subscribe(json!({})).await.unwrap();
        let making = tokio::spawn(async move { change(&maker, on, each).await });
        let mut last = vec![None; 2 * USERS];
        let (mut seen, mut resumed) = (0, 0);
        while seen < USERS * each {
            let event = stream.next().await.unwrap();
            assert_eq!(event.name, "user.created");
            let user: usize = text(&event.data, "user_id")[5..].parse().unwrap();
            let number: usize = text(&event.data, "device_id").parse().unwrap();
            // Of each user in order, and none twice as the id was told.
            assert_eq!(last[user].map_or(0, |last: usize| last + 1), number, "user {user}");
            last[user] = Some(number);
            seen += 1;
            if seen % step == 0 {
                drop(stream);
                resumed += 1;
                if resumed % 3 == 0 {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                let after = json!({ "after": event.data["id"] });
                stream = readers[resumed % 2].subscribe(after).await.unwrap();
            }
        }
        making.await.unwrap();
        assert!(resumed >= 10);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_holds_nobody_up_and_costs_no_memory() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let mut slow = Vec::new();
    for _ in 0..20 {
        slow.push(client.subscribe(json!({})).await.unwrap());
    }
    let mut quick = client.subscribe(json!({})).await.unwrap();
    let (first, then, grown_max) = size((100, 200, 30 << 20), (200, 400, 60 << 20));
    change(&host.client(Wire::Grpc).await, 0..20, first).await;
    for _ in 0..20 * first {
        assert_eq!(quick.next().await.unwrap().name, "user.created");
    }
    let before = host.resident_bytes();
    // As many again, all of which the slow ones are behind.
    change(&host.client(Wire::Grpc).await, 20..40, then).await;
    for _ in 0..20 * then {
        quick.next().await.unwrap();
    }
    let grown = host.resident_bytes().saturating_sub(before);
    // The sessions and events themselves, which twenty copies would dwarf.
    assert!(grown < grown_max, "{} MiB", grown >> 20);
    // All at once, before one has taken nothing for a minute, which ends a connection.
    let mut readers = tokio::task::JoinSet::new();
    for mut slow in slow {
        readers.spawn(async move {
            for _ in 0..20 * (first + then) {
                assert_eq!(slow.next().await.unwrap().name, "user.created");
            }
        });
    }
    readers.join_all().await;
}

#[tokio::test]
async fn a_subscriber_with_something_to_read_hears_of_the_end_behind_it() {
    let mut heard = false;
    // On a busy machine he may read too late now and then.
    for _ in 0..4 {
        let mut host = Launch::in_memory().start();
        let socket = TcpSocket::new_v4().unwrap();
        // So that little is under way.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(host.address("rest").parse().unwrap()).await.unwrap();
        let request = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        // Much more than the buffers of the system take.
        let mut makers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let client = host.client(Wire::Grpc).await;
            let (user, device) = ("u".repeat(256), "d".repeat(256));
            let login = json!({ "session_attributes": { "user_id": user, "device_id": device } });
            makers.spawn(async move {
                for _ in 0..800 {
                    client.users("Create", login.clone()).await.unwrap();
                }
            });
        }
        makers.join_all().await;
        host.signal("TERM");
        let mut told = String::new();
        stream.read_to_string(&mut told).await.unwrap();
        assert!(told.matches("event: user.created").count() > 10);
        assert!(host.ended().await.success());
        heard = told.contains("event: closing");
        if heard {
            break;
        }
    }
    assert!(heard);
}

#[tokio::test]
async fn events_that_were_dropped_are_announced_as_a_gap() {
    let redis = RedisServer::start().await;
    for launch in [Launch::in_memory(), Launch::redis(&redis)] {
        let host = launch.set("EVENTS_KEPT", "100").start();
        for wire in [Wire::Rest, Wire::Grpc] {
            let client = host.client(wire).await;
            let mut stream = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
            change(&client, 0..1, 1).await;
            let first = stream.next().await.unwrap();
            drop(stream);
            change(&client, 0..1, 600).await;
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
            // Whoever was there all the time has missed nothing.
            client.users("DeleteAll", json!({ "user_id": "user-0" })).await.unwrap();
            assert_eq!(again.next().await.unwrap().name, "user.closed_all");
        }
    }
}

#[tokio::test]
async fn connections_and_subscribers_outlive_an_outage() {
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
        change(&client, 0..1, 3).await;
        for _ in 0..3 {
            assert_eq!(events.next().await.unwrap().name, "user.created");
        }
        redis.kill().await;
        let down =
            client.connections("GetPresence", json!({ "user_id": "alice" })).await.unwrap_err();
        assert_eq!((down.reason.as_str(), down.retry), ("STORE_UNAVAILABLE", true));
        tokio::time::sleep(Duration::from_secs(2)).await;
        redis.restart().await;
        wait::until("the store is back", async || {
            client.users("List", json!({ "user_id": "x" })).await.ok()
        })
        .await;
        // It may have forgotten the latest events.
        assert_eq!(events.next().await.unwrap().name, "gap");
        change(&client, 1..2, 2).await;
        for _ in 0..2 {
            assert_eq!(events.next().await.unwrap().data["user_id"], "user-1");
        }
        // Heartbeats go on.
        let before = about(&client, "Get", "tab").await.unwrap();
        wait::until("it is kept", async || {
            let now = about(&client, "Get", "tab").await.unwrap();
            (now["last_heartbeat_at"] != before["last_heartbeat_at"]).then_some(())
        })
        .await;
        assert_eq!(presence(&client, "alice").await, (true, 1));
        client.connections("Terminate", json!({ "user_id": "alice" })).await.unwrap();
        stream.next_named("terminated").await;
    }
}

#[tokio::test]
async fn subscribers_hear_that_the_store_was_emptied() {
    let (redis, a, b) = two_hosts(&[]).await;
    for wire in [Wire::Rest, Wire::Grpc] {
        let client = a.client(wire).await;
        let mut live = client.subscribe(json!({ "types": ["user"] })).await.unwrap();
        change(&client, 0..1, 2).await;
        let seen = text(&live.next().await.unwrap().data, "id");
        live.next().await.unwrap();
        let mut connection = redis.connect(5).await;
        let (): () = redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
        change(&client, 0..1, 1).await;
        // Whether it has happened before or after the loss was seen.
        let told = [live.next().await.unwrap().name, live.next().await.unwrap().name];
        assert!(told.contains(&"gap".to_owned()) && told.contains(&"user.created".to_owned()));
        let other = b.client(wire).await;
        let mut again = other.subscribe(json!({ "after": seen })).await.unwrap();
        assert_eq!(again.next().await.unwrap().name, "gap");
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_registered_is_not_online() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).start();
    let client = host.client(Wire::Grpc).await;
    for wire in [Wire::Rest, Wire::Grpc] {
        let impatient = host.client(wire).await;
        redis.signal("STOP");
        for number in 0..20 {
            let request = json!({ "user_id": format!("user-{number}") });
            let connecting = impatient.connect_user(request);
            let gone = tokio::time::timeout(Duration::from_millis(10), connecting).await;
            assert!(gone.is_err(), "the store does not answer yet");
        }
        redis.signal("CONT");
        wait::until("all are registered and closed", async || {
            (stats(&client).await == (0, 0, vec![])).then_some(())
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(stats(&client).await, (0, 0, vec![]));
    }
}

#[tokio::test]
async fn streams_leave_room_for_calls() {
    let host = Launch::in_memory().files_max(200).start();
    let client = host.client(Wire::Rest).await;
    let mut streams = Vec::new();
    let refusal = loop {
        let request = json!({ "user_id": format!("user-{}", streams.len()) });
        match client.connect_user(request).await {
            Ok(stream) => streams.push(stream),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((refusal.reason.as_str(), refusal.retry), ("OVERLOADED", true));
    assert!(streams.len() > 20, "{}", streams.len());
    assert_eq!(stats(&client).await.0, streams.len() as u64);
    client.health().await.unwrap();
}

/// Users who share a partition: the ids of their sessions begin alike.
async fn of_one_partition(client: &Client, count: usize) -> Vec<String> {
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

#[tokio::test]
async fn users_of_one_partition_who_race_for_an_id_do_not_all_lose() {
    let (_redis, a, b) = two_hosts(&[]).await;
    let clients = [a.client(Wire::Grpc).await, b.client(Wire::Grpc).await];
    let of_one = of_one_partition(&clients[0], 4).await;
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
        assert_eq!(about(&clients[1], "Get", &id).await.is_ok(), winners == 1, "round {round}");
    }
    assert!(won >= 58, "{won} of 60");
}

#[tokio::test]
async fn a_stream_whose_id_another_user_has_taken_over_hears_nothing_of_him() {
    let (_redis, a, b) = two_hosts(&SHORT).await;
    let (on_a, on_b) = (a.client(Wire::Rest).await, b.client(Wire::Grpc).await);
    let near = of_one_partition(&on_b, 2).await;
    for [user, other] in [[near[0].clone(), near[1].clone()], ["alice".into(), "bob".into()]] {
        let mut stream = connect(&on_a, &user, "tab").await;
        a.signal("STOP");
        wait::until("it is free", async || register_as(&on_b, &other, "pod-b", "tab").await.ok())
            .await;
        a.signal("CONT");
        loop {
            let told = stream.next().await.expect("it hears of its end");
            if told.name != "heartbeat" {
                assert_eq!(told.name, "closing");
                assert_eq!(told.data["reason"], "SESSION_EXPIRED");
                assert!(!told.data.to_string().contains("pod-b"), "{}", told.data);
                break;
            }
        }
        // And does not end what is his.
        assert_eq!(about(&on_b, "Get", "tab").await.unwrap()["user_id"], other.as_str());
        close(&on_b, "tab", "").await;
    }
}

#[tokio::test]
async fn a_large_pod_is_kept_and_listed_whole() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Grpc).await;
    // Several parts of one partition.
    let users = of_one_partition(&client, 3).await;
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
    // One that was registered in this very millisecond needs no heartbeat.
    wait::next_millisecond().await;
    let kept = client.connections("HeartbeatPod", json!({ "pod_id": "pod" })).await.unwrap();
    assert_eq!(kept["kept"], 2400);
    assert_eq!(of_pod(&client, "pod").await.len(), 2400);
    let drained = client.connections("Drain", json!({ "pod_id": "pod" })).await.unwrap();
    assert_eq!(drained["closed"], 2400);
}

#[tokio::test]
async fn a_connection_whose_store_was_emptied_may_come_back() {
    let (redis, a, _b) = two_hosts(&BRISK).await;
    let client = a.client(Wire::Rest).await;
    let mut stream = connect(&client, "alice", "tab").await;
    let mut connection = redis.connect(5).await;
    let (): () = redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
    let closing = stream.next_named("closing").await;
    assert_eq!(closing.data["reason"], "SESSION_NOT_FOUND");
    connect(&client, "alice", "tab").await;
}

#[tokio::test]
async fn rest_speaks_as_the_clients_of_the_original_expect() {
    let host = Launch::in_memory().set("CONNECTION_HEARTBEAT", "200ms").start();
    let http = session_tests::http();
    let client = host.client(Wire::Rest).await;
    let url = host.url("rest", "/api/sse/connect?userId=alice&sessionId=tab");
    let mut stream = EventStream::get(http.get(url)).await.unwrap();
    let connected = stream.next().await.unwrap();
    assert_eq!((connected.name.as_str(), connected.id.as_str()), ("connected", "tab"));
    assert_eq!(stream.next().await.unwrap().name, "heartbeat");
    let disconnect =
        |query: &str| http.post(host.url("rest", &format!("/api/sse/disconnect{query}")));
    // Whoever else asks for it does nothing.
    let answer = disconnect("?userId=bob&sessionId=tab").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "{}\n"));
    assert_eq!(presence(&client, "alice").await, (true, 1));
    let answer = disconnect("").json(&json!({ "userId": "alice", "sessionId": "tab" })).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    stream.next_named("terminated").await;
    assert_eq!(presence(&client, "alice").await, (false, 0));
    // A browser that comes back says what it saw last, which is its connection.
    let url = host.url("rest", "/v1/connect?user_id=alice");
    let stream = EventStream::get(http.get(&url).header("Last-Event-ID", "tab")).await;
    assert_eq!(stream.unwrap().next().await.unwrap().data["session_id"], "tab");
    // One that has seen no event yet goes on where it began.
    let url = host.url("rest", "/v1/events?types=&user_id=carol");
    let mut early = http.get(&url).send().await.unwrap();
    let head = early.chunk().await.unwrap().unwrap();
    let position = std::str::from_utf8(&head).unwrap().strip_prefix("id: ").unwrap().trim();
    drop(early);
    register_as(&client, "carol", "pod", "tab-of-carol").await.unwrap();
    let again = EventStream::get(http.get(&url).header("Last-Event-ID", position)).await;
    assert_eq!(again.unwrap().next().await.unwrap().data["session_id"], "tab-of");
    // And one that has seen an event goes on behind it, whatever it began with.
    let mut events = client.subscribe(json!({})).await.unwrap();
    change(&client, 0..1, 2).await;
    let first = events.next_named("user.created").await.id;
    let url = host.url("rest", &format!("/v1/events?types=user&after={position}"));
    let mut again = EventStream::get(http.get(&url).header("last-event-id", &first)).await.unwrap();
    assert_eq!(again.next().await.unwrap().data["device_id"], "1");
    for (path, status) in [
        ("/v1/connect", 400),
        ("/v1/connect?user_id=a&colour=red", 400),
        ("/v1/connect?user_id=", 400),
        ("/v1/events?after=x", 400),
        ("/v1/events?after=18446744073709551615-18446744073709551615-63", 400),
        ("/v1/connections/stats?x=1", 400),
    ] {
        let answer = http.get(host.url("rest", path)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    let answer = http.post(host.url("rest", "/v1/connect")).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()),
        (405, "GET, OPTIONS")
    );
}

#[tokio::test]
async fn events_of_the_embedded_store_outlive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(directory.path());
    let mut host = launch.start();
    let client = host.client(Wire::Rest).await;
    let mut stream = client.subscribe(json!({})).await.unwrap();
    change(&client, 0..1, 5).await;
    let first = text(&stream.next().await.unwrap().data, "id");
    // Those of one millisecond are told in an order of their own.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_are_held_by_one_host() {
    let count: usize = size(500, 5000);
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: files.maximum, maximum: files.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let host = Launch::in_memory()
        .set("CONNECTION_HEARTBEAT", "4s")
        .set("CONNECTION_STALE", "12s")
        .set("LOG_LEVEL", "info")
        .set("NETWORK_PER_PEER", "10000")
        .start();
    let client = host.client(Wire::Grpc).await;
    let mut streams = Vec::new();
    for number in 0..count {
        let mut stream = TcpStream::connect(host.address("rest")).await.unwrap();
        let request = format!("GET /v1/connect?user_id=user-{number}&pod_id=pod HTTP/1.1\r\n");
        let request = [&request, "host: localhost\r\n\r\n"].concat();
        stream.write_all(request.as_bytes()).await.unwrap();
        streams.push(stream);
    }
    // Each is told that it is connected, and kept for two of its lifetimes.
    let watching = streams.into_iter().map(async |mut stream| {
        let (mut told, mut buffer) = (String::new(), [0; 2048]);
        while told.matches("event: heartbeat").count() < 6 {
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "{told}");
            told.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert!(told.starts_with("HTTP/1.1 200") && told.contains("event: connected"), "{told}");
        stream
    });
    let streams = futures_util::future::join_all(watching).await;
    let pods = vec![("pod".to_owned(), count as u64, count as u64)];
    assert_eq!(stats(&client).await, (count as u64, count as u64, pods));
    drop(streams);
    wait::until("all have left", async || (stats(&client).await.0 == 0).then_some(())).await;
}
