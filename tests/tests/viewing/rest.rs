//! What REST accepts and replies for homes and devices.

use serde_json::{Value as Json, json};
use session_tests::host::Launch;

#[tokio::test]
async fn rest_replies_as_clients_of_the_seed_expect() {
    let host = Launch::in_memory().start();
    let http = session_tests::http();
    let post = async |path: &str, body: &'static str| {
        let request = http.post(host.url("rest", path)).header("content-type", "application/json");
        let answer = request.body(body).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    // Requests may use both cases of names. Replies use camelCase, and text for 64-bit numbers.
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
    // The clients of the seed send the account of a device in the query.
    assert_eq!(post("/device/TV/create?account_id=MyHome", "").await, (200, "{}\n".into()));
    assert_eq!(post("/device/Box/create?accountId=MyHome", "{}").await.0, 200);
    // One refusal reports the violations that the wire finds and those that the rules find.
    let body = r#"{"device_id": "a\u0001b", "replace": "x", "colour": 1}"#;
    let (status, text) = post("/home/Strict/sessions/create", body).await;
    let refused: Json = serde_json::from_str(&text).unwrap();
    let violations = refused["details"][1]["fieldViolations"].as_array().unwrap();
    let mut fields: Vec<_> = violations.iter().map(|v| v["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    assert_eq!((status, &fields[..]), (400, &["colour", "device_id", "replace"][..]), "{text}");
    // A violation that only the wire finds is refused too, and nothing is created.
    let body = r#"{"device_id": "TV", "colour": 1}"#;
    assert_eq!(post("/home/Strict/sessions/create", body).await.0, 400);
    // A missing number does not count as zero.
    for body in ["", "{}", r#"{"maxNbOfSession":null}"#] {
        let (status, text) = post("/home/MyHome/sessions/setMaxSession", body).await;
        assert_eq!(status, 400, "{body}");
        assert!(text.contains("max_nb_of_session must be given"), "{text}");
    }
    // A body may repeat the account of the path, and is refused if it contradicts it.
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
    describes_homes(&get("/openapi.json").await);
}

/// Checks what the OpenAPI document says about the paths of homes.
fn describes_homes(openapi: &Json) {
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
    assert_eq!(ids.len(), count, "each operation has its own id");
    let body = &openapi["paths"]["/home/{account_id}/sessions/create"]["post"]["requestBody"];
    assert_eq!(body["content"]["application/json"]["schema"]["required"], json!(["deviceId"]));
    assert_eq!(body["required"], true);
    let path = &openapi["paths"]["/homes/{account_id}/sessions"]["get"]["responses"]["200"];
    assert_eq!(path["content"]["application/json"]["schema"]["type"], "array");
}
