//! The contract as programs read it: `/health`, `/v1/contexts` and OpenAPI.

use serde_json::{Value, json};
use session_tests::client::{Wire, rest};
use session_tests::host::Launch;

#[tokio::test]
async fn health_replies_with_the_two_words_of_the_contract() {
    let host = Launch::in_memory().start();
    let body = session_tests::get(host.url("rest", "/health")).await.text().await.unwrap();
    assert_eq!(body, "{\"code\":\"200\",\"message\":\"OK\"}\n");
    assert_eq!(host.client(Wire::Grpc).await.health().await.unwrap()["code"], "200");
}

#[tokio::test]
async fn contexts_come_from_the_component() {
    let host = Launch::in_memory().set("SESSION_TTL", "2m").start();
    let http = session_tests::http();
    let reply = rest(http.get(host.url("rest", "/v1/contexts"))).await.unwrap();
    let contexts = reply["contexts"].as_array().unwrap();
    let names: Vec<&str> =
        contexts.iter().map(|context| context["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["pre-order", "ez-pay", "cititrans", "reschedule", "rent-revamp"]);
    assert_eq!(contexts[0]["ttl"], "120s");
    assert_eq!(
        contexts[1]["fields"][2],
        json!({
            "name": "vehicle_info_bbd_response",
            "type": "document",
            "max_bytes": 1 << 20,
            "stored_as": "BBDVehicleInfoResponse",
        })
    );
}

#[tokio::test]
async fn openapi_describes_every_route_of_every_context() {
    let host = Launch::in_memory().start();
    let http = session_tests::http();
    let document = rest(http.get(host.url("rest", "/openapi.json"))).await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    for context in ["pre-order", "ez-pay", "cititrans", "reschedule", "rent-revamp"] {
        for (path, verbs) in [
            (format!("/v1/{context}/sessions"), vec!["post"]),
            (format!("/v1/{context}/sessions/{{session_key}}"), vec!["delete", "get", "put"]),
            (format!("/v1/{context}/sessions/{{session_key}}/lock"), vec!["delete", "post"]),
        ] {
            let found: Vec<&String> = paths[&path].as_object().unwrap().keys().collect();
            assert_eq!(found, verbs, "{path}");
        }
    }
    assert!(paths.contains_key("/health") && paths.contains_key("/v1/contexts"));
    references_exist(&document, &document);
    let fields = &document["components"]["schemas"]["reschedule.Write"]["properties"];
    assert_eq!(fields["fixed"]["type"], json!(["number", "null"]));
    assert_eq!(fields["is_promo_valid"]["type"], json!(["boolean", "null"]));
    assert!(fields["localized_message"].get("type").is_none());
}

/// Checks that the target of every `$ref` exists.
fn references_exist(document: &Value, part: &Value) {
    match part {
        Value::Object(object) => {
            if let Some(Value::String(reference)) = object.get("$ref") {
                let path = reference.trim_start_matches('#');
                assert!(document.pointer(path).is_some(), "{reference}");
            }
            object.values().for_each(|value| references_exist(document, value));
        }
        Value::Array(items) => items.iter().for_each(|value| references_exist(document, value)),
        _ => {}
    }
}

#[tokio::test]
async fn any_context_is_served_by_name() {
    let host = Launch::in_memory().start();
    let http = session_tests::http();
    let url = host.url("rest", "/v1/rent-revamp/sessions/k");
    rest(http.put(&url).json(&json!({"fleet_id": "7", "selectedFleet": [1]}))).await.unwrap();
    let grpc = session_tests::client::GrpcClient::connect(host.address("grpc")).await;
    let reply =
        grpc.named("Get", &[("context", "rent-revamp"), ("session_key", "k")]).await.unwrap();
    let fields = reply.get_field_by_name("fields").unwrap().into_owned();
    let fields = fields.as_map().unwrap();
    assert_eq!(fields.len(), 2);
    let field =
        |name: &str| fields[&prost_reflect::MapKey::String(name.into())].as_bytes().unwrap();
    assert_eq!(&field("fleet_id")[..], b"7");
    assert_eq!(&field("selected_fleet")[..], b"[1]");
    let refused = grpc.named("Get", &[("context", "nothing"), ("session_key", "k")]).await;
    assert_eq!(refused.unwrap_err().reason, "UNKNOWN_CONTEXT");
}
