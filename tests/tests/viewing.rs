//! Viewing sessions: who may play, how many at a time, and what becomes of a slot.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use session_manager::logic::{BUILT_IN, Failure, Limits, Logic, Reason, Setup, Source};
use session_manager::telemetry::Metrics;
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_tests::client::{Client, Refusal, Wire, number};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};

use crate::everywhere::{Setting, everywhere};

/// Lifetimes are short enough to see their end.
const SHORT: (&str, &str) = ("VIEWING_TTL", "2s");

everywhere!(
    the_walkthrough_of_the_seed [],
    a_slot_is_free_when_its_session_has_expired [super::SHORT],
    a_heartbeat_keeps_a_session_to_the_last_moment [super::SHORT],
    a_heartbeat_says_what_became_of_a_session [super::SHORT],
    a_create_may_take_over_the_slots_it_names [],
    a_home_allows_as_many_as_it_is_told [],
    a_device_may_change_its_account_while_it_plays [],
    requests_out_of_form_are_refused_with_every_breach [],
);

async fn create(client: &Client, account: &str, device: &str) -> Result<String, Refusal> {
    // Homes list the oldest session first, by the millisecond.
    wait::next_millisecond().await;
    let request = json!({ "accountId": account, "deviceId": device });
    let session = client.viewing("CreateSession", request).await?;
    assert_eq!(session["accountId"], account);
    Ok(session["sessionId"].as_str().unwrap().into())
}

async fn heartbeat(client: &Client, account: &str, session: &str) -> Result<Json, Refusal> {
    client.viewing("HeartBeat", json!({ "accountId": account, "sessionId": session })).await
}

async fn tear_down(client: &Client, account: &str, session: &str) -> Result<Json, Refusal> {
    client.viewing("TearDown", json!({ "accountId": account, "sessionId": session })).await
}

/// The devices that play in a home.
async fn playing(client: &Client, account: &str) -> Vec<String> {
    wait::next_millisecond().await;
    let home = client.viewing("GetHome", json!({ "accountId": account })).await.unwrap();
    let sessions = home["sessions"].as_array().unwrap().iter();
    sessions.map(|session| session["deviceId"].as_str().unwrap().to_owned()).collect()
}

async fn the_walkthrough_of_the_seed(Setting { client, .. }: Setting) {
    let device = json!({ "deviceId": "Android Phone", "accountId": "MyHome" });
    assert_eq!(client.viewing("CreateDevice", device).await.unwrap(), json!({}));
    let known = client.viewing("GetDevice", json!({ "deviceId": "Android Phone" })).await;
    assert_eq!(known.unwrap(), json!({ "accountId": "MyHome" }));
    let asked = json!({ "deviceId": "Android Phone" });
    let asked_at = Clock::System.now() / 1000;
    let first = client.viewing("CreateSessionWithDevice", asked).await.unwrap();
    assert_eq!(first["accountId"], "MyHome");
    let id = first["sessionId"].as_str().unwrap();
    let uuid = uuid::Uuid::parse_str(id).unwrap();
    assert_eq!((uuid.get_version_num(), uuid.to_string().as_str()), (4, id));
    let now = Clock::System.now() / 1000;
    let began = number(&first["expiration"]).saturating_sub(120);
    assert!(first["expiration"].is_string() && (asked_at..=now + 1).contains(&began), "{first}");

    let renewed = heartbeat(&client, "MyHome", id).await.unwrap();
    assert_eq!((&renewed["accountId"], &renewed["sessionId"]), (&json!("MyHome"), &json!(id)));
    create(&client, "MyHome", "Living Room TV").await.unwrap();
    let refused = create(&client, "MyHome", "Tablet").await.unwrap_err();
    assert_eq!((refused.reason.as_str(), refused.code), ("SESSION_LIMIT_REACHED", 8));
    assert!(refused.http == 429 || refused.http == 0);
    assert_eq!(refused.message, "Cannot create session. Max of active sessions (2) exhausted!");
    assert_eq!(refused.metadata["limit"], "2");
    let holders: Json = serde_json::from_str(&refused.metadata["sessions"]).unwrap();
    let mut devices: Vec<_> =
        holders.as_array().unwrap().iter().map(|holder| holder["deviceId"].clone()).collect();
    devices.sort_by_key(Json::to_string);
    assert_eq!(devices, ["Android Phone", "Living Room TV"]);
    for holder in holders.as_array().unwrap() {
        assert!(number(&holder["since"]).abs_diff(now) < 60, "{holder}");
        assert!(number(&holder["expiration"]) > number(&holder["since"]), "{holder}");
    }
    // An error is no place for a whole id.
    assert!(!refused.metadata["sessions"].contains(id));

    let home = client.viewing("GetHome", json!({ "accountId": "MyHome" })).await.unwrap();
    assert_eq!(
        (home["nbActiveSessions"].as_i64(), &home["sessions"][0]["sessionId"]),
        (Some(2), &json!(id))
    );
    assert_eq!(playing(&client, "MyHome").await, ["Android Phone", "Living Room TV"]);
    for _ in 0..2 {
        assert_eq!(tear_down(&client, "MyHome", id).await.unwrap(), json!({}));
    }
    create(&client, "MyHome", "Tablet").await.unwrap();
    assert_eq!(playing(&client, "MyHome").await, ["Living Room TV", "Tablet"]);

    client.viewing("DeleteDevice", json!({ "deviceId": "Android Phone" })).await.unwrap();
    client.viewing("DeleteDevice", json!({ "deviceId": "Android Phone" })).await.unwrap();
    for operation in ["GetDevice", "CreateSessionWithDevice"] {
        let asked = json!({ "deviceId": "Android Phone" });
        let refused = client.viewing(operation, asked).await.unwrap_err();
        assert_eq!(refused.reason, "DEVICE_NOT_REGISTERED");
        assert_eq!(refused.message, "Device not registered");
    }
}

async fn a_slot_is_free_when_its_session_has_expired(Setting { client, redis, .. }: Setting) {
    for device in ["a", "b"] {
        create(&client, "home", device).await.unwrap();
    }
    assert_eq!(create(&client, "home", "c").await.unwrap_err().metadata["active"], "2");
    wait::until("a slot is free", async || create(&client, "home", "c").await.ok()).await;
    assert!(!playing(&client, "home").await.contains(&"a".to_owned()));
    // What it leaves behind has an end.
    if let Some(redis) = &redis {
        let mut connection = redis.connect(5).await;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("VIEWING_*").query_async(&mut connection).await.unwrap();
        assert!(keys.len() >= 3, "{keys:?}");
        for key in keys {
            let left: i64 =
                redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
            // Or has ended by now.
            assert!(left != -1, "{key}");
        }
    }
}

async fn a_heartbeat_keeps_a_session_to_the_last_moment(Setting { client, .. }: Setting) {
    let session = create(&client, "home", "a").await.unwrap();
    let since = std::time::Instant::now();
    while since.elapsed().as_millis() < 5000 {
        heartbeat(&client, "home", &session).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(playing(&client, "home").await, ["a"]);
}

async fn a_heartbeat_says_what_became_of_a_session(Setting { client, .. }: Setting) {
    let torn_down = create(&client, "home", "a").await.unwrap();
    tear_down(&client, "home", &torn_down).await.unwrap();
    let expired = create(&client, "home", "b").await.unwrap();
    wait::until("it has expired", async || playing(&client, "home").await.is_empty().then_some(()))
        .await;
    let replaced = create(&client, "home", "c").await.unwrap();
    let taking = json!({ "accountId": "home", "deviceId": "d", "replace": [replaced] });
    client.viewing("CreateSession", taking).await.unwrap();
    for (session, reason, message) in [
        (torn_down.as_str(), "SESSION_NOT_FOUND", "Cannot renew non-existing session!"),
        (
            "00000000-0000-4000-8000-000000000000",
            "SESSION_NOT_FOUND",
            "Cannot renew non-existing session!",
        ),
        ("no id at all", "SESSION_NOT_FOUND", "Cannot renew non-existing session!"),
        (expired.as_str(), "SESSION_EXPIRED", "Cannot renew expired session!"),
        (
            replaced.as_str(),
            "SESSION_TERMINATED",
            "Cannot renew replaced session! Another device has taken its place.",
        ),
    ] {
        let refused = heartbeat(&client, "home", session).await.unwrap_err();
        assert_eq!((refused.reason.as_str(), refused.message.as_str()), (reason, message));
        assert_eq!(refused.code, 5);
        if session == replaced {
            assert_eq!(refused.metadata["reason"], "REPLACED");
            assert_eq!(refused.metadata["by"], "d");
        }
    }
    // Another home's session is none of ours.
    let other = create(&client, "other", "a").await.unwrap();
    assert_eq!(heartbeat(&client, "home", &other).await.unwrap_err().reason, "SESSION_NOT_FOUND");
}

async fn a_create_may_take_over_the_slots_it_names(Setting { client, .. }: Setting) {
    let a = create(&client, "home", "a").await.unwrap();
    let b = create(&client, "home", "b").await.unwrap();
    let foreign = create(&client, "other", "x").await.unwrap();
    let take = async |device: &str, replace: &[&str]| {
        let request = json!({ "accountId": "home", "deviceId": device, "replace": replace });
        client.viewing("CreateSession", request).await
    };
    // What is not of this home makes no room.
    assert_eq!(take("c", &[&foreign]).await.unwrap_err().reason, "SESSION_LIMIT_REACHED");
    take("c", &[&a, &a]).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["b", "c"]);
    assert_eq!(playing(&client, "other").await, ["x"]);
    // Two for one, one of them long gone.
    take("d", &[&a, &b]).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["c", "d"]);
    // With a lower limit, one in exchange is not enough.
    let limit = json!({ "accountId": "home", "maxNbOfSession": 1 });
    client.viewing("SetMaxSession", limit).await.unwrap();
    let home = client.viewing("GetHome", json!({ "accountId": "home" })).await.unwrap();
    let ids: Vec<&str> = home["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["sessionId"].as_str().unwrap())
        .collect();
    assert_eq!(take("e", &ids[..1]).await.unwrap_err().reason, "SESSION_LIMIT_REACHED");
    assert_eq!(playing(&client, "home").await, ["c", "d"]);
    take("e", &ids).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["e"]);
    // By device too.
    let device = json!({ "deviceId": "f", "accountId": "home" });
    client.viewing("CreateDevice", device).await.unwrap();
    let home = client.viewing("GetHome", json!({ "accountId": "home" })).await.unwrap();
    let request = json!({ "deviceId": "f", "replace": [home["sessions"][0]["sessionId"]] });
    client.viewing("CreateSessionWithDevice", request).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["f"]);
}

async fn a_home_allows_as_many_as_it_is_told(Setting { client, .. }: Setting) {
    let allow = async |max: i64| {
        let request = json!({ "accountId": "home", "maxNbOfSession": max });
        client.viewing("SetMaxSession", request).await
    };
    allow(3).await.unwrap();
    for device in ["a", "b", "c"] {
        create(&client, "home", device).await.unwrap();
    }
    assert_eq!(create(&client, "home", "d").await.unwrap_err().metadata["limit"], "3");
    // Lowering it ends nobody.
    allow(1).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["a", "b", "c"]);
    let refused = create(&client, "home", "d").await.unwrap_err();
    assert!(refused.message.contains("(1)"), "{}", refused.message);
    assert_eq!(refused.metadata["active"], "3");
    allow(0).await.unwrap();
    let home = client.viewing("GetHome", json!({ "accountId": "home" })).await.unwrap();
    assert_eq!(home["nbActiveSessions"], 0);
    allow(4).await.unwrap();
    create(&client, "home", "d").await.unwrap();
    for wrong in [-1, 1001, i64::from(i32::MIN)] {
        let refused = allow(wrong).await.unwrap_err();
        assert_eq!(
            (refused.reason.as_str(), &refused.violations[..]),
            ("INVALID_REQUEST", &["max_nb_of_session".to_owned()][..])
        );
    }
    let limit = json!({ "accountId": "empty", "maxNbOfSession": 0 });
    client.viewing("SetMaxSession", limit).await.unwrap();
    let refused = create(&client, "empty", "a").await.unwrap_err();
    assert_eq!(
        (refused.metadata["active"].as_str(), refused.metadata["sessions"].as_str()),
        ("0", "[]")
    );
    create(&client, "untold", "a").await.unwrap();
}

async fn a_device_may_change_its_account_while_it_plays(Setting { client, .. }: Setting) {
    let assign = async |account: &str| {
        let request = json!({ "deviceId": "phone", "accountId": account });
        client.viewing("CreateDevice", request).await.unwrap();
    };
    let play = async || {
        client.viewing("CreateSessionWithDevice", json!({ "deviceId": "phone" })).await.unwrap()
    };
    assign("one").await;
    let first = play().await;
    assign("two").await;
    heartbeat(&client, "one", first["sessionId"].as_str().unwrap()).await.unwrap();
    let second = play().await;
    assert_eq!((&first["accountId"], &second["accountId"]), (&json!("one"), &json!("two")));
    for home in ["one", "two"] {
        assert_eq!(playing(&client, home).await, ["phone"]);
    }
}

async fn requests_out_of_form_are_refused_with_every_breach(Setting { client, .. }: Setting) {
    let long = "x".repeat(257);
    let many: Vec<_> = (0..17).map(|n| format!("00000000-0000-4000-8000-{n:012}")).collect();
    for (operation, request, violations) in [
        ("CreateSession", json!({ "accountId": "home" }), &["device_id"][..]),
        (
            "CreateSession",
            json!({ "accountId": long, "deviceId": "a\nb", "replace": ["x"] }),
            &["account_id", "device_id", "replace"],
        ),
        (
            "CreateSession",
            json!({ "accountId": "h", "deviceId": "d", "replace": many }),
            &["replace"],
        ),
        ("HeartBeat", json!({ "accountId": "home" }), &["session_id"]),
        ("TearDown", json!({ "accountId": "home" }), &["session_id"]),
        ("CreateDevice", json!({ "deviceId": "d" }), &["account_id"]),
        ("GetDevice", json!({ "deviceId": "d\u{7f}" }), &["device_id"]),
    ] {
        let refused = client.viewing(operation, request).await.unwrap_err();
        assert_eq!(refused.reason, "INVALID_REQUEST", "{operation}");
        assert_eq!(refused.violations, violations, "{operation}");
    }
    // Any text is an account.
    create(&client, "a/b {c}? \u{e9}", "d").await.unwrap();
    assert_eq!(playing(&client, "a/b {c}? \u{e9}").await, ["d"]);
}

#[tokio::test]
async fn the_default_limit_is_that_of_the_settings_and_outlives_no_restart() {
    let directory = tempfile::tempdir().unwrap();
    let start =
        |limit: &str| Launch::embedded(directory.path()).set("VIEWING_MAX_SESSIONS", limit).start();
    let mut host = start("1");
    let client = host.client(Wire::Grpc).await;
    let told = json!({ "accountId": "told", "maxNbOfSession": 2 });
    client.viewing("SetMaxSession", told).await.unwrap();
    for home in ["told", "untold"] {
        create(&client, home, "a").await.unwrap();
    }
    assert_eq!(create(&client, "untold", "b").await.unwrap_err().metadata["limit"], "1");
    host.signal("TERM");
    assert_eq!(host.ended().await.code(), Some(0));
    let host = start("3");
    let client = host.client(Wire::Rest).await;
    for device in ["b", "c"] {
        create(&client, "untold", device).await.unwrap();
    }
    create(&client, "told", "b").await.unwrap();
    for (home, limit) in [("told", "2"), ("untold", "3")] {
        let refused = create(&client, home, "d").await.unwrap_err();
        assert_eq!(refused.metadata["limit"], limit);
    }
}

#[tokio::test]
async fn rest_speaks_as_the_clients_of_the_seed_expect() {
    let host = Launch::in_memory().start();
    let http = session_tests::http();
    let post = async |path: &str, body: &'static str| {
        let request = http.post(host.url("rest", path)).header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    // Both cases of names are read; camelCase and text for 64 bits are written.
    for body in [r#"{"device_id": "Android Phone"}"#, r#"{"deviceId": "TV"}"#] {
        let (status, text) = post("/home/MyHome/sessions/create", body).await;
        let session: Json = serde_json::from_str(&text).unwrap();
        let id = session["sessionId"].as_str().unwrap();
        let expiration = session["expiration"].as_str().unwrap();
        let expected =
            format!(r#"{{"accountId":"MyHome","sessionId":"{id}","expiration":"{expiration}"}}"#);
        assert_eq!((status, text.trim_end()), (200, &*expected));
    }
    // The body that the seed prints is not JSON.
    let (status, text) =
        post("/home/MyHome/sessions/create", r#"{"device_id" = "Android Phone"}"#).await;
    assert_eq!(status, 400);
    assert!(text.contains("is not a JSON object: expected `:` at line 1 column 14"), "{text}");
    // The account of a device in the query, as the seed's clients send it.
    assert_eq!(post("/device/TV/create?account_id=MyHome", "").await, (200, "{}\n".into()));
    assert_eq!(post("/device/Box/create?accountId=MyHome", "{}").await.0, 200);
    // What the wire finds wrong and what the rules find is told together.
    let body = r#"{"device_id": "a\u0001b", "replace": "x", "colour": 1}"#;
    let (status, text) = post("/home/Strict/sessions/create", body).await;
    let refused: Json = serde_json::from_str(&text).unwrap();
    let violations = refused["details"][1]["fieldViolations"].as_array().unwrap();
    let mut fields: Vec<_> = violations.iter().map(|v| v["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    assert_eq!((status, &fields[..]), (400, &["colour", "device_id", "replace"][..]), "{text}");
    // Rules that find nothing wrong with the rest do nothing.
    let body = r#"{"device_id": "TV", "colour": 1}"#;
    assert_eq!(post("/home/Strict/sessions/create", body).await.0, 400);
    // A number that is forgotten is no zero.
    for body in ["", "{}", r#"{"maxNbOfSession":null}"#] {
        let (status, text) = post("/home/MyHome/sessions/setMaxSession", body).await;
        assert_eq!(status, 400, "{body}");
        assert!(text.contains("max_nb_of_session must be given"), "{text}");
    }
    // Whole messages repeat the path; what contradicts it is refused.
    let body = r#"{"account_id": "MyHome", "max_nb_of_session": 2}"#;
    assert_eq!(post("/home/MyHome/sessions/setMaxSession", body).await.0, 200);
    assert_eq!(post("/home/Other/sessions/setMaxSession", body).await.0, 400);
    let get = async |path: &str| -> Json {
        http.get(host.url("rest", path)).send().await.unwrap().json().await.unwrap()
    };
    assert_eq!(get("/devices/Box").await, json!({ "accountId": "MyHome" }));
    let home = get("/homes/MyHome").await;
    assert_eq!(get("/homes/MyHome/sessions").await, home["sessions"]);
    assert_eq!(get("/homes/Nobody").await, json!({ "sessions": [], "nbActiveSessions": 2 }));
    assert_eq!(get("/homes/Nobody/sessions").await, json!([]));
    assert_eq!(get("/homes/Strict/sessions").await, json!([]));
    let openapi = get("/openapi.json").await;
    let mut ids: Vec<&str> = openapi["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|path| path.as_object().unwrap())
        .filter(|(name, _)| *name != "servers")
        .map(|(_, operation)| operation["operationId"].as_str().unwrap())
        .collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "each operation has an id of its own");
    let body = &openapi["paths"]["/home/{account_id}/sessions/create"]["post"]["requestBody"];
    assert_eq!(body["content"]["application/json"]["schema"]["required"], json!(["deviceId"]));
    assert_eq!(body["required"], true);
    let path = &openapi["paths"]["/homes/{account_id}/sessions"]["get"]["responses"]["200"];
    assert_eq!(path["content"]["application/json"]["schema"]["type"], "array");
}

/// A host whose clock is wrong, on a Redis.
fn skewed(redis: &RedisServer, by: &str) -> Host {
    Launch::redis(redis).set("LOGIC_INSTANCES", "1024").clock(by, true).start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_creates_on_two_hosts_with_wrong_clocks_are_granted_as_many_as_allowed() {
    let redis = RedisServer::start().await;
    let hosts = [skewed(&redis, "-5m"), skewed(&redis, "+5m")];
    let mut clients = Vec::new();
    for number in 0..20 {
        let wire = if number % 4 < 2 { Wire::Rest } else { Wire::Grpc };
        clients.push(hosts[number % 2].client(wire).await);
    }
    for round in 0..20 {
        let account = format!("home-{round}");
        let limit = json!({ "accountId": account, "maxNbOfSession": 3 });
        clients[0].viewing("SetMaxSession", limit).await.unwrap();
        let mut creating = tokio::task::JoinSet::new();
        for number in 0..500 {
            let (client, account) = (clients[number % clients.len()].clone(), account.clone());
            creating
                .spawn(async move { create(&client, &account, &format!("device-{number}")).await });
        }
        let mut granted = Vec::new();
        while let Some(created) = creating.join_next().await {
            match created.unwrap() {
                Ok(session) => granted.push(session),
                Err(refused) => assert_eq!(refused.reason, "SESSION_LIMIT_REACHED", "{refused:?}"),
            }
        }
        assert_eq!(granted.len(), 3, "round {round}");
        assert_eq!(playing(&clients[1], &account).await.len(), 3);
        // Each host keeps what the other has granted.
        for (number, session) in granted.iter().enumerate() {
            heartbeat(&clients[number % 2], &account, session).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn players_on_two_hosts_never_exceed_the_limit_or_lose_a_session_they_keep() {
    const PLAYERS: usize = 8;
    let redis = RedisServer::start().await;
    let hosts = [(); 2].map(|()| Launch::redis(&redis).set("VIEWING_MAX_SESSIONS", "3").start());
    // Sessions that players may take over from each other.
    let taken: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let mut players = tokio::task::JoinSet::new();
    for player in 0..PLAYERS {
        let wire = if player % 4 < 2 { Wire::Rest } else { Wire::Grpc };
        let client = hosts[player % 2].client(wire).await;
        let taken = Arc::clone(&taken);
        players.spawn(async move {
            let (mut granted, mut replaced) = (0, 0);
            for round in 0..60 {
                let wanted = taken.lock().unwrap().pop();
                let setup = json!({
                    "accountId": "home",
                    "deviceId": format!("device-{player}"),
                    "replace": wanted.as_slice(),
                });
                let session = match client.viewing("CreateSession", setup).await {
                    Ok(session) => session["sessionId"].as_str().unwrap().to_owned(),
                    Err(refused) => {
                        assert_eq!(refused.reason, "SESSION_LIMIT_REACHED");
                        continue;
                    }
                };
                granted += 1;
                taken.lock().unwrap().push(session.clone());
                // It is kept, or somebody has taken it over: nothing else ends it.
                let kept = async || match heartbeat(&client, "home", &session).await {
                    Ok(_) => true,
                    Err(refused) => {
                        assert_eq!(refused.reason, "SESSION_TERMINATED");
                        false
                    }
                };
                if !(kept().await && kept().await) {
                    replaced += 1;
                } else if round % 3 == player % 3 {
                    tear_down(&client, "home", &session).await.unwrap();
                }
            }
            (granted, replaced)
        });
    }
    let watcher = hosts[0].client(Wire::Rest).await;
    let (mut granted, mut replaced) = (0, 0);
    while !players.is_empty() {
        assert!(playing(&watcher, "home").await.len() <= 3);
        while let Some(ended) = players.try_join_next() {
            let (g, r) = ended.unwrap();
            granted += g;
            replaced += r;
        }
    }
    assert!(granted > 3 && replaced > 0, "{granted} granted, {replaced} replaced");
}

#[tokio::test]
async fn an_outage_never_looks_like_a_missing_session() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let mut redis = RedisServer::start().await;
        let host = Launch::redis(&redis).start();
        let client = host.client(wire).await;
        let session = create(&client, "home", "tv").await.unwrap();
        let device = json!({ "deviceId": "tv", "accountId": "home" });
        client.viewing("CreateDevice", device).await.unwrap();
        redis.kill().await;
        for (operation, request) in [
            ("CreateSession", json!({ "accountId": "home", "deviceId": "tv" })),
            ("CreateSessionWithDevice", json!({ "deviceId": "tv" })),
            ("HeartBeat", json!({ "accountId": "home", "sessionId": session })),
            ("TearDown", json!({ "accountId": "home", "sessionId": session })),
            ("SetMaxSession", json!({ "accountId": "home", "maxNbOfSession": 1 })),
            ("GetHome", json!({ "accountId": "home" })),
            ("CreateDevice", json!({ "deviceId": "tv", "accountId": "home" })),
            ("DeleteDevice", json!({ "deviceId": "tv" })),
            ("GetDevice", json!({ "deviceId": "tv" })),
        ] {
            let refused = client.viewing(operation, request).await.unwrap_err();
            assert_eq!(
                (refused.reason.as_str(), refused.code),
                ("STORE_UNAVAILABLE", 14),
                "{operation}"
            );
            assert!(refused.retry, "{operation}");
        }
        redis.restart().await;
        let device = json!({ "deviceId": "tv" });
        wait::until("the service is back", async || {
            client.viewing("GetDevice", device.clone()).await.ok()
        })
        .await;
    }
}

async fn logic(clock: &Clock) -> Arc<Logic> {
    let store = Arc::new(Memory::new(clock.clone()));
    let component = Bytes::from_static(BUILT_IN);
    let metrics = Arc::new(Metrics::new());
    Logic::start(component, Source::BuiltIn, store, Vec::new(), Limits::default(), metrics)
        .await
        .unwrap()
}

#[tokio::test]
async fn many_homes_do_not_know_each_other() {
    let clock = Clock::manual(1_800_000_000_000);
    let logic = logic(&clock).await;
    let setup = |number: u32, device: &str| Setup {
        account_id: format!("account-{number}"),
        device_id: device.into(),
        replace: Vec::new(),
    };
    let homes = size(10_000, 100_000);
    for number in 0..homes {
        logic.viewing_create(&setup(number, "tv")).await.unwrap();
    }
    for number in (0..homes).step_by(997) {
        let home = logic.viewing_home(&format!("account-{number}")).await.unwrap();
        assert_eq!((home.sessions.len(), home.max_sessions), (1, 2));
        logic.viewing_create(&setup(number, "phone")).await.unwrap();
        let refused = logic.viewing_create(&setup(number, "tablet")).await;
        assert!(
            matches!(refused, Err(Failure::Fault(fault)) if fault.reason == Reason::SessionLimitReached)
        );
    }
    clock.advance(120_000);
    for number in (0..homes).step_by(997) {
        let home = logic.viewing_home(&format!("account-{number}")).await.unwrap();
        assert!(home.sessions.is_empty());
    }
}

/// One step of somebody in a home. Sessions are named by the order they were made in.
#[derive(Clone, Debug)]
enum Step {
    Create { replace: Vec<usize> },
    HeartBeat(usize),
    TearDown(usize),
    SetMax(i32),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let session = 0..12_usize;
    prop_oneof![
        4 => prop::collection::vec(session.clone(), 0..3).prop_map(|replace| Step::Create { replace }),
        4 => session.clone().prop_map(Step::HeartBeat),
        2 => session.prop_map(Step::TearDown),
        1 => (0..5).prop_map(Step::SetMax),
        4 => prop_oneof![Just(119_999_u64), Just(120_000), 0..150_000_u64].prop_map(Step::Wait),
    ]
}

/// What a home is by the contract.
struct Model {
    now: u64,
    max: usize,
    /// Every session ever made: its id, and when it ends, if it was not ended.
    sessions: Vec<(String, Option<u64>)>,
}

impl Model {
    fn alive(&self) -> BTreeMap<String, u64> {
        let alive = self.sessions.iter().filter_map(|(id, end)| Some((id.clone(), (*end)?)));
        alive.filter(|(_, end)| *end > self.now).collect()
    }

    fn name(&self, place: usize) -> String {
        let unknown = "00000000-0000-4000-8000-000000000000".to_owned();
        self.sessions.get(place).map_or(unknown, |(id, _)| id.clone())
    }
}

#[test]
fn no_sequence_of_steps_exceeds_the_limit_or_loses_a_session() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let clock = Clock::manual(1_800_000_000_000);
    let logic = runtime.block_on(logic(&clock));
    let homes = std::cell::Cell::new(0);
    let sequences = prop::collection::vec(step(), 1..60);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let done = runner.run(&sequences, |steps| {
        homes.set(homes.get() + 1);
        let account = format!("home-{}", homes.get());
        runtime.block_on(follow(&logic, &clock, &account, steps));
        Ok(())
    });
    done.unwrap();
}

async fn follow(logic: &Logic, clock: &Clock, account: &str, steps: Vec<Step>) {
    let mut model = Model { now: clock.now(), max: 2, sessions: Vec::new() };
    for step in steps {
        let alive = model.alive();
        match step {
            Step::Wait(time) => {
                clock.advance(time);
                model.now += time;
            }
            Step::SetMax(max) => {
                logic.viewing_set_max(account, max).await.unwrap();
                model.max = usize::try_from(max).unwrap();
            }
            Step::TearDown(place) => {
                logic.viewing_tear_down(account, &model.name(place)).await.unwrap();
                if let Some((_, end)) = model.sessions.get_mut(place) {
                    *end = None;
                }
            }
            Step::HeartBeat(place) => {
                let id = model.name(place);
                let beat = logic.viewing_heartbeat(account, &id).await;
                assert_eq!(beat.is_ok(), alive.contains_key(&id), "{beat:?}");
                if let Ok(slot) = beat {
                    assert_eq!(slot.expires_at_ms, model.now + 120_000);
                    model.sessions[place].1 = Some(slot.expires_at_ms);
                }
            }
            Step::Create { replace } => {
                let replace: Vec<String> = replace.iter().map(|place| model.name(*place)).collect();
                let ended = alive.keys().filter(|id| replace.contains(id)).count();
                let setup = Setup {
                    account_id: account.into(),
                    device_id: "device".into(),
                    replace: replace.clone(),
                };
                let created = logic.viewing_create(&setup).await;
                let room = alive.len() - ended < model.max;
                assert_eq!(created.is_ok(), room, "{created:?}");
                if let Ok(slot) = created {
                    for (id, end) in &mut model.sessions {
                        if replace.contains(id) {
                            *end = None;
                        }
                    }
                    model.sessions.push((slot.session_id, Some(slot.expires_at_ms)));
                    assert!(model.alive().len() <= model.max);
                }
            }
        }
        let home = logic.viewing_home(account).await.unwrap();
        let shown: BTreeMap<String, u64> = home
            .sessions
            .into_iter()
            .map(|viewer| (viewer.session_id, viewer.expires_at_ms))
            .collect();
        assert_eq!(shown, model.alive());
        assert_eq!(home.max_sessions as usize, model.max);
    }
}
