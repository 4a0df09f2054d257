//! The slots of a home: taken, renewed, released, replaced, and limited in number.

use serde_json::{Value as Json, json};
use session_store::clock::Clock;
use session_tests::client::{Wire, number};
use session_tests::host::Launch;
use session_tests::wait;

use super::{create, heartbeat, playing, tear_down};
use crate::everywhere::{Setting, everywhere};

/// A lifetime that a test can wait for.
const SHORT: (&str, &str) = ("VIEWING_TTL", "2s");

everywhere!(
    the_walkthrough_of_the_seed [],
    a_slot_becomes_free_when_its_session_expires [super::SHORT],
    heartbeats_keep_a_session_alive [super::SHORT],
    a_refused_heartbeat_says_how_the_session_ended [super::SHORT],
    a_create_may_replace_the_sessions_it_names [],
    a_home_allows_as_many_sessions_as_its_limit [],
    a_device_may_change_its_account_while_it_plays [],
    invalid_requests_are_refused_with_every_violation [],
);

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
    // An error contains no whole session id.
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

async fn a_slot_becomes_free_when_its_session_expires(Setting { client, redis, .. }: Setting) {
    for device in ["a", "b"] {
        create(&client, "home", device).await.unwrap();
    }
    assert_eq!(create(&client, "home", "c").await.unwrap_err().metadata["active"], "2");
    wait::until("a slot is free", async || create(&client, "home", "c").await.ok()).await;
    assert!(!playing(&client, "home").await.contains(&"a".to_owned()));
    // Every key that the sessions leave behind expires.
    if let Some(redis) = &redis {
        let mut connection = redis.connect(5).await;
        let keys: Vec<String> =
            redis::cmd("KEYS").arg("VIEWING_*").query_async(&mut connection).await.unwrap();
        assert!(keys.len() >= 3, "{keys:?}");
        for key in keys {
            let left: i64 =
                redis::cmd("PTTL").arg(&key).query_async(&mut connection).await.unwrap();
            // -1 means that the key never expires. A key that has expired gives -2.
            assert!(left != -1, "{key}");
        }
    }
}

async fn heartbeats_keep_a_session_alive(Setting { client, .. }: Setting) {
    let session = create(&client, "home", "a").await.unwrap();
    let since = std::time::Instant::now();
    while since.elapsed().as_millis() < 5000 {
        heartbeat(&client, "home", &session).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(playing(&client, "home").await, ["a"]);
}

async fn a_refused_heartbeat_says_how_the_session_ended(Setting { client, .. }: Setting) {
    let torn_down = create(&client, "home", "a").await.unwrap();
    tear_down(&client, "home", &torn_down).await.unwrap();
    let expired = create(&client, "home", "b").await.unwrap();
    wait::until("the session expires", async || {
        playing(&client, "home").await.is_empty().then_some(())
    })
    .await;
    let replaced = create(&client, "home", "c").await.unwrap();
    let replacing = json!({ "accountId": "home", "deviceId": "d", "replace": [replaced] });
    client.viewing("CreateSession", replacing).await.unwrap();
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
    // A session of another home is unknown in this one.
    let other = create(&client, "other", "a").await.unwrap();
    assert_eq!(heartbeat(&client, "home", &other).await.unwrap_err().reason, "SESSION_NOT_FOUND");
}

async fn a_create_may_replace_the_sessions_it_names(Setting { client, .. }: Setting) {
    let a = create(&client, "home", "a").await.unwrap();
    let b = create(&client, "home", "b").await.unwrap();
    let foreign = create(&client, "other", "x").await.unwrap();
    let replace = async |device: &str, ended: &[&str]| {
        let request = json!({ "accountId": "home", "deviceId": device, "replace": ended });
        client.viewing("CreateSession", request).await
    };
    // A session of another home frees no slot.
    assert_eq!(replace("c", &[&foreign]).await.unwrap_err().reason, "SESSION_LIMIT_REACHED");
    replace("c", &[&a, &a]).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["b", "c"]);
    assert_eq!(playing(&client, "other").await, ["x"]);
    // One create may replace two sessions, one of which has already ended.
    replace("d", &[&a, &b]).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["c", "d"]);
    // Below a lowered limit, replacing one session is not enough.
    let limit = json!({ "accountId": "home", "maxNbOfSession": 1 });
    client.viewing("SetMaxSession", limit).await.unwrap();
    let home = client.viewing("GetHome", json!({ "accountId": "home" })).await.unwrap();
    let ids: Vec<&str> = home["sessions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["sessionId"].as_str().unwrap())
        .collect();
    assert_eq!(replace("e", &ids[..1]).await.unwrap_err().reason, "SESSION_LIMIT_REACHED");
    assert_eq!(playing(&client, "home").await, ["c", "d"]);
    replace("e", &ids).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["e"]);
    // A create by device may replace sessions too.
    let device = json!({ "deviceId": "f", "accountId": "home" });
    client.viewing("CreateDevice", device).await.unwrap();
    let home = client.viewing("GetHome", json!({ "accountId": "home" })).await.unwrap();
    let request = json!({ "deviceId": "f", "replace": [home["sessions"][0]["sessionId"]] });
    client.viewing("CreateSessionWithDevice", request).await.unwrap();
    assert_eq!(playing(&client, "home").await, ["f"]);
}

async fn a_home_allows_as_many_sessions_as_its_limit(Setting { client, .. }: Setting) {
    let allow = async |max: i64| {
        let request = json!({ "accountId": "home", "maxNbOfSession": max });
        client.viewing("SetMaxSession", request).await
    };
    allow(3).await.unwrap();
    for device in ["a", "b", "c"] {
        create(&client, "home", device).await.unwrap();
    }
    assert_eq!(create(&client, "home", "d").await.unwrap_err().metadata["limit"], "3");
    // Lowering the limit ends no session.
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
    create(&client, "default", "a").await.unwrap();
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

async fn invalid_requests_are_refused_with_every_violation(Setting { client, .. }: Setting) {
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
    // Any text is a valid account id.
    create(&client, "a/b {c}? \u{e9}", "d").await.unwrap();
    assert_eq!(playing(&client, "a/b {c}? \u{e9}").await, ["d"]);
}

#[tokio::test]
async fn a_restart_changes_the_default_limit_but_no_limit_that_was_set() {
    let directory = tempfile::tempdir().unwrap();
    let start =
        |limit: &str| Launch::embedded(directory.path()).set("VIEWING_MAX_SESSIONS", limit).start();
    let mut host = start("1");
    let client = host.client(Wire::Grpc).await;
    let limit = json!({ "accountId": "set", "maxNbOfSession": 2 });
    client.viewing("SetMaxSession", limit).await.unwrap();
    for home in ["set", "default"] {
        create(&client, home, "a").await.unwrap();
    }
    assert_eq!(create(&client, "default", "b").await.unwrap_err().metadata["limit"], "1");
    host.signal("TERM");
    assert_eq!(host.ended().await.code(), Some(0));
    let host = start("3");
    let client = host.client(Wire::Rest).await;
    for device in ["b", "c"] {
        create(&client, "default", device).await.unwrap();
    }
    create(&client, "set", "b").await.unwrap();
    for (home, limit) in [("set", "2"), ("default", "3")] {
        let refused = create(&client, home, "d").await.unwrap_err();
        assert_eq!(refused.metadata["limit"], limit);
    }
}
