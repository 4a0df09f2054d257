//! Users' sessions: begun, listed, changed, closed, and never brought back.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prost_reflect::prost_types::Timestamp;
use serde_json::{Value as Json, json};
use session_store::clock::Clock;
use session_tests::client::{Client, Refusal, Wire, instant};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::everywhere::{Setting, everywhere};

everywhere!(
    a_user_on_two_devices [],
    an_update_changes_what_it_names [],
    an_update_takes_back_what_it_says [],
    no_attribute_takes_control_characters [],
    a_user_id_is_the_same_ever_after [],
    a_session_ends_and_leaves_nothing [("USER_SESSION_TTL", "400ms")],
    a_session_that_is_not_used_ends [("USER_SESSION_IDLE", "3s")],
    pages_follow_one_another [],
    one_session_may_be_kept_if_it_is_the_users [],
    requests_out_of_form_are_refused [],
);

async fn log_in(client: &Client, user_id: &str, device_id: &str) -> String {
    let attributes = json!({ "user_id": user_id, "device_id": device_id });
    let reply = client.users("Create", json!({ "session_attributes": attributes })).await.unwrap();
    reply["session_id"].as_str().unwrap().into()
}

async fn get(client: &Client, session_id: &str) -> Result<Json, Refusal> {
    client.users("Get", json!({ "session_id": session_id })).await
}

async fn update(client: &Client, session_id: &str, attributes: Json) -> Result<Json, Refusal> {
    let request = json!({ "session_id": session_id, "session_attributes": attributes });
    client.users("Update", request).await.map(|reply| reply["session"].clone())
}

async fn close(client: &Client, session_id: &str) -> Result<Json, Refusal> {
    client.users("Delete", json!({ "session_id": session_id })).await
}

async fn close_all(client: &Client, user_id: &str, keep: Option<&str>) -> Result<u64, Refusal> {
    let reply = client.users("DeleteAll", json!({ "user_id": user_id, "keep": keep })).await?;
    assert_eq!(reply["user_id"], user_id);
    Ok(reply["closed"].as_u64().unwrap())
}

/// The sessions on the first page of a user, as device and id.
async fn list(client: &Client, user_id: &str) -> Vec<(String, String)> {
    let page = client.users("List", json!({ "user_id": user_id })).await.unwrap();
    assert_eq!(page["user_id"], user_id);
    devices(&page)
}

fn devices(page: &Json) -> Vec<(String, String)> {
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let sessions = page["sessions"].as_array().unwrap().iter();
    sessions.map(|session| (text(&session["device_id"]), text(&session["session_id"]))).collect()
}

fn assert_not_found(result: Result<Json, Refusal>) {
    let refusal = result.unwrap_err();
    assert_eq!((refusal.reason.as_str(), refusal.code), ("SESSION_NOT_FOUND", 5), "{refusal:?}");
    assert!(refusal.http == 404 || refusal.http == 0);
}

async fn a_user_on_two_devices(Setting { client, redis, .. }: Setting) {
    let phone = log_in(&client, "user007", "phone").await;
    wait::next_millisecond().await;
    let laptop = log_in(&client, "user007", "laptop").await;
    log_in(&client, "other", "phone").await;
    let on = |device: &str, id: &str| (device.to_owned(), id.to_owned());
    let both = [on("laptop", &laptop), on("phone", &phone)];
    assert_eq!(list(&client, "user007").await, both);
    let by_id = client.users("ListById", json!({ "user_id": "user007" })).await.unwrap();
    let by_id = by_id["sessions"].as_object().unwrap();
    assert_eq!(by_id.len(), 2);
    assert_eq!(by_id[&phone]["device_id"], "phone");
    assert_eq!(by_id[&phone]["create_date"], by_id[&phone]["update_date"]);

    let session = get(&client, &phone).await.unwrap();
    let unset = ["auth_code", "access_token", "refresh_token", "user_email"];
    assert!(unset.iter().all(|name| session[name] == ""), "{session}");
    assert_eq!((&session["user_id"], &session["expiration_time"]), (&json!("user007"), &json!(0)));
    assert_eq!(session["created_at"], session["updated_at"]);
    // 365 days later.
    let instant = |name: &str| session[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    let lifetime = instant("expires_at").seconds - instant("created_at").seconds;
    assert_eq!(lifetime, 365 * 24 * 3600);

    assert_eq!(close(&client, &phone).await.unwrap(), json!({ "session_id": phone }));
    assert_not_found(get(&client, &phone).await);
    assert_not_found(close(&client, &phone).await);
    assert_eq!(list(&client, "user007").await, [on("laptop", &laptop)]);

    wait::next_millisecond().await;
    let tablet = log_in(&client, "user007", "tablet").await;
    log_in(&client, "user007", "tv").await;
    assert_eq!(close_all(&client, "user007", Some(&tablet)).await, Ok(2));
    assert_eq!(list(&client, "user007").await, [on("tablet", &tablet)]);
    assert_eq!(close_all(&client, "user007", None).await, Ok(1));
    assert_eq!(close_all(&client, "user007", None).await, Ok(0));
    assert_eq!(list(&client, "user007").await, []);
    assert_not_found(get(&client, &tablet).await);
    assert_eq!(list(&client, "other").await.len(), 1);
    if let Some(redis) = redis {
        // The other user's session, its place, that in the order, and when to look after it
        // are all there is.
        assert_eq!(keys(&redis).await.len(), 4);
    }
}

/// All keys but the logs, which are there for good.
async fn keys(redis: &RedisServer) -> Vec<String> {
    let mut connection = redis.connect(5).await;
    let keys = redis::cmd("KEYS").arg("*").query_async::<Vec<String>>(&mut connection).await;
    keys.unwrap().into_iter().filter(|key| !key.starts_with("EVENTS:")).collect()
}

/// Once those that have ended by themselves are swept up.
async fn nothing_is_left(redis: &RedisServer) {
    wait::until("nothing is left", async || keys(redis).await.is_empty().then_some(())).await;
}

async fn an_update_changes_what_it_names(Setting { client, .. }: Setting) {
    let id = log_in(&client, "u", "phone").await;
    let before = get(&client, &id).await.unwrap();
    wait::next_millisecond().await;
    let changes = json!({
        "auth_code": "code", "access_token": "t1", "refresh_token": "r1",
        "exiration_time": 3600, "user_email": "u@example.org", "user_id": "u",
    });
    let after = update(&client, &id, changes).await.unwrap();
    for (name, expected) in [
        ("user_id", json!("u")),
        ("device_id", json!("phone")),
        ("auth_code", json!("code")),
        ("access_token", json!("t1")),
        ("refresh_token", json!("r1")),
        ("expiration_time", json!(3600)),
        ("user_email", json!("u@example.org")),
        ("created_at", before["created_at"].clone()),
        ("expires_at", before["expires_at"].clone()),
    ] {
        assert_eq!(after[name], expected, "{name}");
    }
    assert!(instant(&after["updated_at"]) > instant(&before["updated_at"]), "{after}");
    // A refreshed token, and an address that is taken back.
    let after = update(&client, &id, json!({ "access_token": "t2", "user_email": "" })).await;
    let after = after.unwrap();
    assert_eq!((&after["access_token"], &after["user_email"]), (&json!("t2"), &json!("")));
    assert_eq!(after["refresh_token"], "r1");
    assert_eq!(get(&client, &id).await.unwrap(), after);
}

async fn an_update_takes_back_what_it_says(Setting { client, redis, .. }: Setting) {
    let attributes = json!({
        "user_id": "u", "device_id": "phone", "auth_code": "code", "access_token": "t1",
        "refresh_token": "r1", "expiration_time": 3600, "user_email": "u@example.org",
    });
    let begun = client.users("Create", json!({ "session_attributes": attributes })).await.unwrap();
    let id = begun["session_id"].as_str().unwrap();
    let clear = async |names: &[&str], attributes: Json| {
        let request = json!({ "session_id": id, "session_attributes": attributes, "clear": names });
        client.users("Update", request).await.map(|reply| reply["session"].clone())
    };
    let names = ["access_token", "expiration_time"];
    let after = clear(&names, json!({ "refresh_token": "r2" })).await.unwrap();
    for (name, expected) in [
        ("access_token", json!("")),
        ("expiration_time", json!(0)),
        ("refresh_token", json!("r2")),
        ("auth_code", json!("code")),
        ("device_id", json!("phone")),
    ] {
        assert_eq!(after[name], expected, "{name}");
    }
    assert_eq!(get(&client, id).await.unwrap(), after);
    // Alone, all that may go.
    let names = ["device_id", "auth_code", "refresh_token", "user_email", "access_token"];
    let after = clear(&names, json!({})).await.unwrap();
    assert!(names.iter().all(|name| after[name] == ""), "{after}");
    assert_eq!(list(&client, "u").await, [(String::new(), id.to_owned())]);
    // What it is stored as, a release before reads in the same way: as empty, and as no time.
    if let Some(redis) = &redis {
        let mut connection = redis.connect(5).await;
        let record = keys(redis).await.into_iter().find(|key| key.contains(id)).unwrap();
        let mut read = redis::cmd("HMGET");
        read.arg(record).arg("access_token").arg("expiration_time");
        let stored: Vec<Option<String>> = read.query_async(&mut connection).await.unwrap();
        assert_eq!(stored, [Some(String::new()), Some(String::new())]);
    }
    let refused = clear(&["user_id"], json!({ "device_id": "tv" })).await.unwrap_err();
    assert_eq!(
        (refused.reason.as_str(), &*refused.violations),
        ("INVALID_REQUEST", &["user_id".to_owned()][..])
    );
    assert_eq!(get(&client, id).await.unwrap(), after, "nothing was changed");
}

async fn no_attribute_takes_control_characters(Setting { client, .. }: Setting) {
    let names =
        ["user_id", "device_id", "auth_code", "access_token", "refresh_token", "user_email"];
    let id = log_in(&client, "u", "phone").await;
    for name in names {
        let mut attributes = json!({ "user_id": "u", "auth_code": "code" });
        attributes[name] = json!("a@example.org\r\nBcc: all@example.org");
        let create = json!({ "session_attributes": attributes });
        for refused in [
            client.users("Create", create).await.unwrap_err(),
            update(&client, &id, attributes).await.unwrap_err(),
        ] {
            assert_eq!(refused.reason, "INVALID_REQUEST");
            assert_eq!(refused.violations, [name]);
            let place = "contains the control character '\\r' at character 14";
            assert!(refused.message.contains(place), "{}", refused.message);
        }
    }
}

#[tokio::test]
async fn a_name_that_is_given_and_taken_back_or_unknown_is_refused() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Grpc).await;
    let id = log_in(&client, "u", "phone").await;
    let request = json!({
        "session_id": id, "session_attributes": { "access_token": "t" },
        "clear": ["access_token", "colour", "exiration_time"],
    });
    let refused = client.users("Update", request).await.unwrap_err();
    assert_eq!(refused.violations, ["access_token", "clear"]);
    // Over REST, a null in either form of the request, and the name in the query.
    let http = session_tests::http();
    let url = |path: &str| host.url("rest", path);
    let give = json!({ "access_token": "t", "auth_code": "c", "user_email": "e" });
    update(&client, &id, give).await.unwrap();
    let body = json!({ "session_id": id, "session_attributes": { "access_token": null } });
    let changed: Json =
        http.patch(url("/session")).json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!(changed, json!({ "access_token": "" }));
    let path = format!("/session/{id}?clear=auth_code");
    let answer = http.patch(url(&path)).json(&json!({ "userEmail": null })).send().await.unwrap();
    let session: Json = answer.json().await.unwrap();
    for name in ["access_token", "auth_code", "user_email"] {
        assert_eq!(session[name], "", "{name}");
    }
    assert_eq!(session["device_id"], "phone");
    let path = format!("/session/{id}");
    let answer = http.patch(url(&path)).json(&json!({ "colour": null })).send().await.unwrap();
    assert_eq!(answer.status(), 400);
}

async fn a_user_id_is_the_same_ever_after(Setting { client, .. }: Setting) {
    let id = log_in(&client, "u", "phone").await;
    let attributes = json!({ "user_id": "v", "access_token": "stolen" });
    let refusal = update(&client, &id, attributes).await.unwrap_err();
    assert_eq!((refusal.reason.as_str(), refusal.code), ("SESSION_EXISTS", 6));
    assert!(refusal.http == 409 || refusal.http == 0);
    assert_eq!(get(&client, &id).await.unwrap()["access_token"], "");
    let unknown = id.replace(&id[20..], &"x".repeat(44));
    assert_not_found(update(&client, &unknown, json!({ "access_token": "t" })).await);
    assert_not_found(get(&client, &unknown).await);
}

async fn a_session_ends_and_leaves_nothing(Setting { client, redis, .. }: Setting) {
    let id = log_in(&client, "u", "phone").await;
    // Updates do not let it live longer.
    let ended = wait::until("the session ends", async || {
        update(&client, &id, json!({ "access_token": "t" })).await.err()
    });
    assert_eq!(ended.await.reason, "SESSION_NOT_FOUND");
    assert_not_found(get(&client, &id).await);
    assert_eq!(list(&client, "u").await, []);
    assert_eq!(close_all(&client, "u", None).await, Ok(0));
    if let Some(redis) = redis {
        nothing_is_left(&redis).await;
    }
}

async fn a_session_that_is_not_used_ends(Setting { client, redis, .. }: Setting) {
    let used = log_in(&client, "u", "used").await;
    wait::next_millisecond().await;
    let updated = log_in(&client, "u", "updated").await;
    let idle = log_in(&client, "u", "idle").await;
    // For longer than the limit and the part of it that a use may not be noted for.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(4500) {
        tokio::time::sleep(Duration::from_millis(150)).await;
        get(&client, &used).await.unwrap();
        update(&client, &updated, json!({ "access_token": "t" })).await.unwrap();
    }
    if let Some(redis) = &redis {
        // Nothing of it is left, though nobody has asked for it.
        let keys = keys(redis).await;
        assert!(!keys.iter().any(|key| key.contains(&idle)), "it has a record");
        let set = keys.iter().find(|key| key.starts_with("USER_SESSIONS:")).unwrap();
        let mut connection = redis.connect(5).await;
        let now = Clock::System.now();
        let mut alive = redis::cmd("ZCOUNT");
        alive.arg(set).arg(now).arg("+inf");
        let alive: u64 = alive.query_async(&mut connection).await.unwrap();
        assert_eq!(alive, 2);
    }
    let devices: Vec<String> =
        list(&client, "u").await.into_iter().map(|(device, _)| device).collect();
    assert_eq!(devices, ["updated", "used"]);
    assert_not_found(get(&client, &idle).await);
    // It cannot be kept any more, and nothing is closed by that.
    assert_eq!(close_all(&client, "u", Some(&idle)).await.unwrap_err().reason, "SESSION_NOT_FOUND");
    assert_eq!(close_all(&client, "u", Some(&used)).await, Ok(1));
}

async fn pages_follow_one_another(Setting { client, .. }: Setting) {
    let mut expected = Vec::new();
    for n in 0..25 {
        // Some begin in the same millisecond, but the first has one of its own.
        if n % 3 == 0 || n == 1 {
            wait::next_millisecond().await;
        }
        expected.push(log_in(&client, "u", &format!("device-{n}")).await);
    }
    for size in [1, 7, 24, 25, 1000, 100_000] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let request = json!({ "user_id": "u", "page_size": size, "page_token": token });
            let page = client.users("List", request).await.unwrap();
            seen.extend(devices(&page));
            token = page["next_page_token"].as_str().unwrap().into();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen.len(), 25, "by {size}");
        assert_eq!(seen[24].0, "device-0", "the oldest comes last");
        let ids: BTreeSet<&String> = seen.iter().map(|(_, id)| id).collect();
        assert_eq!(ids, expected.iter().collect(), "by {size}");
    }
}

async fn one_session_may_be_kept_if_it_is_the_users(Setting { client, .. }: Setting) {
    let mine = log_in(&client, "u", "phone").await;
    let others = log_in(&client, "v", "phone").await;
    for stranger in ["", others.as_str(), "nonsense", &mine.replace(&mine[20..], &"x".repeat(44))] {
        let refusal = close_all(&client, "u", Some(stranger)).await.unwrap_err();
        assert_eq!(refusal.reason, "SESSION_NOT_FOUND");
        assert!(stranger.is_empty() || !refusal.message.contains(stranger));
    }
    assert!(get(&client, &mine).await.is_ok() && get(&client, &others).await.is_ok());
}

async fn requests_out_of_form_are_refused(Setting { client, .. }: Setting) {
    let long = "x".repeat(16 * 1024 + 1);
    let id = log_in(&client, "u", "phone").await;
    for (operation, request, violations) in [
        ("Create", json!({ "session_attributes": {} }), &["user_id"][..]),
        ("Create", json!({ "session_attributes": { "user_id": "" } }), &["user_id"]),
        (
            "Create",
            json!({ "session_attributes": {
                "user_id": "a\nb", "device_id": "x".repeat(257), "access_token": long,
            } }),
            &["user_id", "device_id", "access_token"],
        ),
        (
            "Create",
            json!({ "session_attributes": {
                "user_id": "u", "expiration_time": 1, "exiration_time": 1,
            } }),
            &["exiration_time"],
        ),
        ("Update", json!({ "session_id": id, "session_attributes": {} }), &["session_attributes"]),
        (
            "Update",
            json!({ "session_id": id, "session_attributes": { "user_id": "u" } }),
            &["session_attributes"],
        ),
        ("List", json!({ "user_id": "u", "page_size": -1 }), &["page_size"]),
        ("List", json!({ "user_id": "u", "page_token": "x" }), &["page_token"]),
        ("DeleteAll", json!({ "user_id": "a\u{7f}" }), &["user_id"]),
    ] {
        let refusal = client.users(operation, request).await.unwrap_err();
        assert_eq!(refusal.reason, "INVALID_REQUEST", "{operation}");
        assert_eq!(refusal.violations, violations, "{operation}");
    }
    // What is no id of a session is none that exists.
    for other in ["x", "FBC9W2wccBywDCzmXaOG-CxJczzfe5Kyf9KoNgNgN343bf1RO7xQNkT1z44BbMg="] {
        assert_not_found(get(&client, other).await);
        assert_not_found(close(&client, other).await);
    }
    assert!(get(&client, &id).await.is_ok());
}

#[tokio::test]
async fn the_commands_of_the_seed_run_as_printed() {
    let host = Launch::in_memory().start();
    let run = |command: &str| -> Json {
        let command = command.replace("localhost:8090", host.address("rest"));
        let command = format!("{command} --silent --show-error 2>/dev/null");
        let output = Command::new("bash").args(["-c", &command]).output().unwrap();
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let create = "curl http://localhost:8090/a01/session -H \"Content-Type: application/json\" \
                  -X POST -d '{\"user_id\":\"user007\"}' -v";
    let begun = run(create);
    let id = begun["session_id"].as_str().unwrap();
    let seen = run(&format!("curl http://localhost:8090/a01/session/{id} -X GET -v"));
    assert_eq!(seen["user_id"], "user007");
    let closed = run(&format!("curl http://localhost:8090/a01/session/{id} -X DELETE -v"));
    assert_eq!(closed, begun);
    let gone = run(&format!("curl http://localhost:8090/a01/session/{id} -X GET -v"));
    assert_eq!(gone["code"], 5);
}

#[tokio::test]
async fn rest_speaks_as_the_clients_of_the_seed_expect() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let id = log_in(&client, "u", "phone").await;
    wait::next_millisecond().await;
    let http = session_tests::http();
    for prefix in ["", "/a01"] {
        let url = |path: &str| host.url("rest", &format!("{prefix}{path}"));
        // The body names the session; the answer is what was given.
        let attributes = json!({ "access_token": format!("of {prefix}"), "user_id": "u" });
        let body = json!({ "session_id": id, "session_attributes": attributes });
        let answer = http.patch(url("/session")).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.json::<Json>().await.unwrap(), attributes);
        let all: Json =
            http.get(url("/session/user/u")).send().await.unwrap().json().await.unwrap();
        let dated = &all[&id];
        assert_eq!(dated["device_id"], "phone");
        assert!(instant(&dated["update_date"]) > instant(&dated["create_date"]));
        let nested =
            json!({ "session_id": id, "session_attributes": { "access_token": 5, "x": 1 } });
        let answer = http.patch(url("/session")).json(&nested).send().await.unwrap();
        assert_eq!(answer.status(), 400);
        let text = answer.text().await.unwrap();
        assert!(text.contains("access_token") && text.contains(r#""field":"x""#), "{text}");
        // What is left without them is not called empty.
        assert!(text.contains("2 violations"), "{text}");
        let answer = http.put(url("/session")).send().await.unwrap();
        assert_eq!(answer.status(), 405);
        assert_eq!(answer.headers()["allow"].to_str().unwrap().split(", ").count(), 6);
    }
    // Names in both cases, numbers as text.
    let body = json!({ "userId": "u", "deviceId": "tv", "expirationTime": "60" });
    let answer = http.post(host.url("rest", "/session")).json(&body).send().await.unwrap();
    let begun: Json = answer.json().await.unwrap();
    let session = get(&client, begun["session_id"].as_str().unwrap()).await.unwrap();
    assert_eq!((&session["device_id"], &session["expiration_time"]), (&json!("tv"), &json!(60)));
}

#[tokio::test]
async fn a_session_outlives_an_idle_limit_that_is_lifted() {
    let directory = tempfile::tempdir().unwrap();
    let launch = || Launch::embedded(directory.path());
    let mut host = launch().set("USER_SESSION_IDLE", "1m").start();
    let client = host.client(Wire::Grpc).await;
    let id = log_in(&client, "u", "phone").await;
    let lifetime = async |client: &Client| {
        let session = get(client, &id).await.unwrap();
        let instant = |name: &str| session[name].as_str().unwrap().parse::<Timestamp>().unwrap();
        instant("expires_at").seconds - instant("created_at").seconds
    };
    assert!(lifetime(&client).await < 70);
    host.signal("TERM");
    assert_eq!(host.ended().await.code(), Some(0));
    let host = launch().start();
    assert_eq!(lifetime(&host.client(Wire::Rest).await).await, 365 * 24 * 3600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_brings_a_session_back() {
    const ROUNDS: usize = 1000;
    let redis = RedisServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    for launch in [Launch::redis(&redis), Launch::embedded(directory.path())] {
        // Half of them expire, half of them are closed, while they are updated.
        let host = launch.set("USER_SESSION_TTL", "700ms").start();
        let clients = [host.client(Wire::Rest).await, host.client(Wire::Grpc).await];
        let mut rounds = JoinSet::new();
        // A few at a time, so that each is updated often, and no call waits for its turn.
        let places = Arc::new(Semaphore::new(30));
        for round in 0..ROUNDS {
            let client = clients[round % 2].clone();
            let places = Arc::clone(&places);
            rounds.spawn(async move {
                let _place = places.acquire().await.unwrap();
                let user = format!("user-{}", round % 10);
                let id = log_in(&client, &user, "phone").await;
                let closing = async {
                    if round % 4 < 2 {
                        tokio::time::sleep(Duration::from_millis(round as u64 % 20)).await;
                        // On a busy machine it may have expired before.
                        if let Err(refusal) = close(&client, &id).await {
                            assert_eq!(refusal.reason, "SESSION_NOT_FOUND");
                        }
                        assert_not_found(get(&client, &id).await);
                    }
                };
                let updating = async {
                    let mut updates = 0;
                    while update(&client, &id, json!({ "access_token": "t" })).await.is_ok() {
                        updates += 1;
                        let pause = if round % 4 < 2 { 1 } else { 90 };
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                    updates
                };
                let ((), updates) = tokio::join!(closing, updating);
                assert_not_found(get(&client, &id).await);
                assert_not_found(update(&client, &id, json!({ "access_token": "t" })).await);
                updates
            });
        }
        let mut updates = 0;
        while let Some(round) = rounds.join_next().await {
            updates += round.unwrap();
        }
        assert!(updates > ROUNDS / 2, "{updates} updates");
        for user in 0..10 {
            assert_eq!(list(&clients[0], &format!("user-{user}")).await, []);
        }
        // While there is somebody to sweep.
        nothing_is_left(&redis).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_existed_when_all_are_closed_is_gone() {
    let redis = RedisServer::start().await;
    let hosts = [(); 2].map(|()| Launch::redis(&redis).start());
    let mut clients = Vec::new();
    for number in 0..4 {
        let wire = if number < 2 { Wire::Rest } else { Wire::Grpc };
        clients.push(hosts[number % 2].client(wire).await);
    }
    let mut survivors = 0;
    for round in 0..20 {
        let user = format!("user-{round}");
        let begun = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut creating = JoinSet::new();
        for number in 0..50 {
            let (client, user, begun) = (clients[number % 4].clone(), user.clone(), begun.clone());
            creating.spawn(async move {
                tokio::time::sleep(Duration::from_micros(300 * number as u64)).await;
                let id = log_in(&client, &user, "phone").await;
                begun.lock().unwrap().push(id);
            });
        }
        tokio::time::sleep(Duration::from_millis(round % 15)).await;
        let existing = begun.lock().unwrap().clone();
        let closed = close_all(&clients[round as usize % 4], &user, None).await.unwrap();
        assert!(closed >= existing.len() as u64);
        for id in &existing {
            assert_not_found(get(&clients[3], id).await);
        }
        creating.join_all().await;
        let alive = list(&clients[0], &user).await;
        assert_eq!(alive.len() as u64 + closed, 50);
        for (_, id) in &alive {
            get(&clients[1], id).await.unwrap();
        }
        survivors += alive.len();
    }
    assert!(survivors > 0, "nothing raced");
}

/// Begins `count` sessions of a user, many at a time.
async fn log_in_often(client: &Client, user_id: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    let mut creating = JoinSet::new();
    for share in 0..32 {
        let (client, user_id) = (client.clone(), user_id.to_owned());
        creating.spawn(async move {
            let mut ids = Vec::new();
            for number in (share..count).step_by(32) {
                ids.push(log_in(&client, &user_id, &format!("device-{number}")).await);
            }
            ids
        });
    }
    while let Some(begun) = creating.join_next().await {
        ids.extend(begun.unwrap());
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_are_paged_through_while_others_come_and_go() {
    let redis = RedisServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    for launch in [Launch::redis(&redis), Launch::embedded(directory.path())] {
        let host = launch.start();
        let client = host.client(Wire::Grpc).await;
        let count = size(1_000, 10_000);
        let kept: BTreeSet<String> = log_in_often(&client, "u", count).await.into_iter().collect();
        let churning = {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    let id = log_in(&client, "u", "passing").await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    close(&client, &id).await.unwrap();
                    log_in(&client, "u", "new").await;
                }
            })
        };
        for size in [100, 997] {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let request = json!({ "user_id": "u", "page_size": size, "page_token": token });
                let page = client.users("List", request).await.unwrap();
                seen.extend(devices(&page).into_iter().map(|(_, id)| id));
                token = page["next_page_token"].as_str().unwrap().into();
                if token.is_empty() {
                    break;
                }
            }
            let listed = seen.len();
            let seen: BTreeSet<String> = seen.into_iter().collect();
            assert_eq!(seen.len(), listed, "a session is listed twice");
            assert!(seen.is_superset(&kept), "a session is missing");
        }
        churning.abort();
        assert!(churning.await.unwrap_err().is_cancelled(), "sessions came and went");
        let all = client.users("ListById", json!({ "user_id": "u" })).await.unwrap();
        assert!(all["sessions"].as_object().unwrap().len() >= kept.len());
        assert!(close_all(&client, "u", None).await.unwrap() >= count as u64);
        assert_eq!(list(&client, "u").await, []);
    }
    nothing_is_left(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_that_expire_leave_nothing() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).set("USER_SESSION_TTL", "5s").start();
    let client = host.client(Wire::Grpc).await;
    log_in_often(&client, "u", size(1_000, 10_000)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // One that lives beside those that have ended is all there is to see.
    let id = log_in(&client, "u", "phone").await;
    assert_eq!(list(&client, "u").await, [("phone".to_owned(), id.clone())]);
    let set: Vec<String> =
        keys(&redis).await.into_iter().filter(|key| key.starts_with("USER_SESSIONS:")).collect();
    let mut connection = redis.connect(5).await;
    let members: u64 = redis::cmd("ZCARD").arg(&set[0]).query_async(&mut connection).await.unwrap();
    assert_eq!((set.len(), members), (1, 1));
    assert_eq!(close(&client, &id).await.unwrap(), json!({ "session_id": id }));
    nothing_is_left(&redis).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_unique_and_neither_they_nor_tokens_are_logged() {
    let host = Launch::in_memory().set("LOG_LEVEL", "trace").start();
    let rest = host.client(Wire::Rest).await;
    let grpc = host.client(Wire::Grpc).await;
    let mut ids = log_in_often(&grpc, "u", 500).await;
    ids.extend(log_in_often(&rest, "u", 500).await);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 1000);
    let base64url = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!(ids.iter().all(|id| id.len() == 64 && id.bytes().all(base64url)));
    // The first character finds the partition, the 63 others share nothing.
    for place in 1..64 {
        let distinct: BTreeSet<u8> = ids.iter().map(|id| id.as_bytes()[place]).collect();
        assert!(distinct.len() > 48, "{} characters at {place}", distinct.len());
    }
    for client in [&rest, &grpc] {
        update(client, &ids[0], json!({ "access_token": "a-secret-token" })).await.unwrap();
        update(client, &ids[0], json!({ "user_id": "v", "access_token": "a-secret-token" }))
            .await
            .unwrap_err();
        get(client, &ids[1]).await.unwrap();
        close_all(client, "w", Some(&ids[1])).await.unwrap_err();
    }
    close(&rest, &ids[1]).await.unwrap();
    close(&grpc, &ids[1]).await.unwrap_err();
    let log = host.log();
    assert!(log.contains("request answered"));
    assert!(!log.contains("a-secret-token"));
    assert!(ids.iter().all(|id| !log.contains(&id[..12])), "an id is in the log");
    let metrics = session_tests::get(host.url("admin", "/metrics")).await.text().await.unwrap();
    assert!(ids.iter().all(|id| !metrics.contains(&id[..12])));
}

#[tokio::test]
async fn an_outage_never_looks_like_a_missing_session() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let mut redis = RedisServer::start().await;
        let host = Launch::redis(&redis).start();
        let client = host.client(wire).await;
        let id = log_in(&client, "u", "phone").await;
        redis.kill().await;
        let attributes = json!({ "user_id": "u", "access_token": "t" });
        for (operation, request) in [
            ("Create", json!({ "session_attributes": attributes })),
            ("Get", json!({ "session_id": id })),
            ("List", json!({ "user_id": "u" })),
            ("ListById", json!({ "user_id": "u" })),
            ("Update", json!({ "session_id": id, "session_attributes": attributes })),
            ("Delete", json!({ "session_id": id })),
            ("DeleteAll", json!({ "user_id": "u" })),
            ("DeleteAll", json!({ "user_id": "u", "keep": id })),
        ] {
            let refused = client.users(operation, request).await.unwrap_err();
            let found = (refused.reason.as_str(), refused.code);
            assert_eq!(found, ("STORE_UNAVAILABLE", 14), "{operation}");
            assert!(refused.http == 503 || refused.http == 0, "{operation}");
            assert!(refused.retry, "{operation}");
        }
        redis.restart().await;
        let found = wait::until("it is back", async || get(&client, &id).await.ok()).await;
        assert_eq!(found["user_id"], "u");
    }
}
