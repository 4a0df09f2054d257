//! What a login contains, and how an update changes it.

use serde_json::{Value as Json, json};
use session_tests::client::{Wire, instant};
use session_tests::host::Launch;
use session_tests::wait;

use super::{assert_not_found, close, get, keys, list, log_in, update};
use crate::everywhere::{Setting, everywhere};

everywhere!(
    an_update_changes_only_the_attributes_it_names [],
    an_update_clears_the_attributes_it_names [],
    control_characters_in_attributes_are_refused [],
    the_user_id_of_a_session_never_changes [],
    invalid_requests_are_refused_with_every_violation [],
);

async fn an_update_changes_only_the_attributes_it_names(Setting { client, .. }: Setting) {
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
    // An update refreshes a token and empties an address.
    let after = update(&client, &id, json!({ "access_token": "t2", "user_email": "" })).await;
    let after = after.unwrap();
    assert_eq!((&after["access_token"], &after["user_email"]), (&json!("t2"), &json!("")));
    assert_eq!(after["refresh_token"], "r1");
    assert_eq!(get(&client, &id).await.unwrap(), after);
}

async fn an_update_clears_the_attributes_it_names(Setting { client, redis, .. }: Setting) {
    let attributes = json!({
        "user_id": "u", "device_id": "phone", "auth_code": "code", "access_token": "t1",
        "refresh_token": "r1", "expiration_time": 3600, "user_email": "u@example.org",
    });
    let created =
        client.users("Create", json!({ "session_attributes": attributes })).await.unwrap();
    let id = created["session_id"].as_str().unwrap();
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
    // An update may clear every attribute but the user id.
    let names = ["device_id", "auth_code", "refresh_token", "user_email", "access_token"];
    let after = clear(&names, json!({})).await.unwrap();
    assert!(names.iter().all(|name| after[name] == ""), "{after}");
    assert_eq!(list(&client, "u").await, [(String::new(), id.to_owned())]);
    // Empty text is what the previous release also reads as an empty attribute and as no time.
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

async fn control_characters_in_attributes_are_refused(Setting { client, .. }: Setting) {
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
            let breach = "contains the control character '\\r' at character 14";
            assert!(refused.message.contains(breach), "{}", refused.message);
        }
    }
}

#[tokio::test]
async fn an_attribute_cannot_be_set_and_cleared_at_once() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Grpc).await;
    let id = log_in(&client, "u", "phone").await;
    let request = json!({
        "session_id": id, "session_attributes": { "access_token": "t" },
        "clear": ["access_token", "colour", "exiration_time"],
    });
    let refused = client.users("Update", request).await.unwrap_err();
    assert_eq!(refused.violations, ["access_token", "clear"]);
    // Over REST, null clears an attribute in both forms of the body, and so does `clear` in the
    // query.
    let http = session_tests::http();
    let url = |path: &str| host.url("rest", path);
    let attributes = json!({ "access_token": "t", "auth_code": "c", "user_email": "e" });
    update(&client, &id, attributes).await.unwrap();
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

async fn the_user_id_of_a_session_never_changes(Setting { client, .. }: Setting) {
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

async fn invalid_requests_are_refused_with_every_violation(Setting { client, .. }: Setting) {
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
    // A text that is not a session id is an unknown id.
    for other in ["x", "FBC9W2wccBywDCzmXaOG-CxJczzfe5Kyf9KoNgNgN343bf1RO7xQNkT1z44BbMg="] {
        assert_not_found(get(&client, other).await);
        assert_not_found(close(&client, other).await);
    }
    assert!(get(&client, &id).await.is_ok());
}
