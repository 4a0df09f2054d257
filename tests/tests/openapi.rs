//! The OpenAPI document: its examples work unchanged, its names never change, and it describes
//! the failures of every operation.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use session_tests::host::{Host, Launch};

/// An operation of the document.
#[derive(Clone)]
struct Operation {
    id: String,
    verb: String,
    path: String,
    described: Value,
}

async fn document(host: &Host) -> Value {
    session_tests::get(host.url("rest", "/openapi.json")).await.json().await.unwrap()
}

fn operations(document: &Value) -> Vec<Operation> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (verb, described) in item.as_object().unwrap() {
            if verb != "servers" {
                let id = described["operationId"].as_str().unwrap().to_owned();
                let (verb, path) = (verb.to_uppercase(), path.clone());
                operations.push(Operation { id, verb, path, described: described.clone() });
            }
        }
    }
    operations
}

/// The request of an operation, from its examples and the answers of other operations: the path
/// with the query, and the body. `None` when it needs an answer that is missing so far.
fn request(
    operation: &Operation,
    answered: &BTreeMap<String, Value>,
    all: &[Operation],
) -> Option<(String, Option<Value>)> {
    let mut given = Map::new();
    for other in all {
        let link = &other.described["responses"]["200"]["links"][&operation.id];
        for place in ["parameters", "requestBody"] {
            for (name, expression) in link[place].as_object().into_iter().flatten() {
                let pointer = expression.as_str().unwrap().strip_prefix("$response.body#").unwrap();
                let value = answered.get(&other.id).and_then(|answer| answer.pointer(pointer));
                given.insert(name.clone(), value?.clone());
            }
        }
    }
    let (mut path, mut query) = (operation.path.clone(), Vec::new());
    for parameter in operation.described["parameters"].as_array().unwrap() {
        let name = parameter["name"].as_str().unwrap();
        let value = given.remove(name).or_else(|| parameter.get("example").cloned());
        match (value, &parameter["required"]) {
            (Some(value), _) if parameter["in"] == "path" => {
                path = path.replace(&format!("{{{name}}}"), value.as_str().unwrap());
            }
            (Some(value), _) => query.push(format!("{name}={}", value.as_str().unwrap())),
            (None, required) => assert_ne!(required, true, "{} lacks {name}", operation.id),
        }
    }
    let body = operation.described["requestBody"]["content"]["application/json"].as_object();
    let body = body.map(|body| {
        let mut example = body.get("example").expect(&operation.id).clone();
        for (name, value) in std::mem::take(&mut given) {
            assert_eq!(example[&name], "", "{}: what is taken is not made up", operation.id);
            example[&name] = value;
        }
        example
    });
    assert!(given.is_empty(), "{} takes {given:?}", operation.id);
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    Some((path + &query, body))
}

/// Sends a request; returns the status and the answer, or the first part of a stream.
async fn send(
    host: &Host,
    operation: &Operation,
    path: &str,
    body: Option<&Value>,
) -> (u16, Value) {
    let method = operation.verb.parse().unwrap();
    let mut request = session_tests::http().request(method, host.url("rest", path));
    if let Some(body) = body {
        request = request.json(body);
    }
    let mut answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let content = &operation.described["responses"]["200"]["content"];
    if status == 200 && content.get("text/event-stream").is_some() {
        assert!(answer.chunk().await.unwrap().is_some(), "{path}");
        return (status, Value::Null);
    }
    (status, answer.json().await.unwrap())
}

/// The order of the examples: first those that create sessions, last those that end them.
fn turn(id: &str) -> (u8, &str) {
    let method = id.split('_').nth(1).unwrap();
    let turn = match method {
        "CreateDevice" | "SetMaxSession" => 0,
        "Create" | "Set" | "CreateSession" | "CreateSessionWithDevice" | "Register" => 1,
        "Lock" => 3,
        "Unlock" => 4,
        "TearDown" | "Close" | "Drain" | "Terminate" => 5,
        "Delete" | "DeleteAll" | "DeleteDevice" => 6,
        _ => 2,
    };
    (turn, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_works_on_an_empty_server() {
    let host = Launch::in_memory().start();
    let document = document(&host).await;
    let mut all = operations(&document);
    // Without any sessions, every read is valid: it finds something or not.
    for operation in all.iter().filter(|operation| operation.verb == "GET") {
        if let Some((path, body)) = request(operation, &BTreeMap::new(), &all) {
            let (status, answer) = send(&host, operation, &path, body.as_ref()).await;
            assert!([200, 404].contains(&status), "{}: {answer}", operation.id);
        }
    }
    all.sort_by(|a, b| turn(&a.id).cmp(&turn(&b.id)));
    let mut answered = BTreeMap::new();
    for operation in &all {
        let made = request(operation, &answered, &all);
        let (path, body) =
            made.unwrap_or_else(|| panic!("{} needs a missing answer", operation.id));
        let (status, answer) = send(&host, operation, &path, body.as_ref()).await;
        assert_eq!(status, 200, "{} {path} {body:?}: {answer}", operation.id);
        answered.insert(operation.id.clone(), answer);
    }
    assert!(all.len() >= 65, "{}", all.len());
}

#[tokio::test]
async fn creating_examples_work_first_and_twice() {
    let operations = {
        let host = Launch::in_memory().start();
        operations(&document(&host).await)
    };
    for id in [
        "Booking_Set_pre-order",
        "Booking_Create_reschedule",
        "UserSessions_Create",
        "SM_CreateSession",
        "SM_SetMaxSession",
        "Device_CreateDevice",
        "Connections_Register",
    ] {
        let operation = operations.iter().find(|operation| operation.id == id).expect(id);
        let host = Launch::in_memory().start();
        let (path, body) = request(operation, &BTreeMap::new(), &operations).expect(id);
        // An example also works a second time.
        for _ in 0..2 {
            let (status, answer) = send(&host, operation, &path, body.as_ref()).await;
            assert_eq!(status, 200, "{id}: {answer}");
        }
    }
}

#[tokio::test]
async fn every_operation_has_a_heading_a_summary_and_its_failures() {
    let host = Launch::in_memory().start();
    let document = document(&host).await;
    assert_eq!(document["servers"], json!([{ "url": "." }]));
    let headings: Vec<&str> = document["tags"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tag| tag["name"].as_str().unwrap())
        .collect();
    assert_eq!(headings, ["Booking", "Logins", "Viewing", "Connections", "Events"]);
    for Operation { id, verb, described, .. } in operations(&document) {
        let [tag] = described["tags"].as_array().unwrap().as_slice() else { panic!("{id}") };
        assert!(headings.contains(&tag.as_str().unwrap()), "{id}");
        let summary = described["summary"].as_str().unwrap();
        let description = described["description"].as_str().unwrap();
        assert!((10..100).contains(&summary.len()) && !summary.ends_with('.'), "{id}: {summary}");
        assert!(description.starts_with(summary), "{id}");
        let mut expected = vec!["400", "500", "503", "504", "default"];
        if verb != "GET" {
            expected.extend(["409", "429"]);
        }
        if described.get("requestBody").is_some() {
            expected.extend(["413", "415"]);
        }
        for status in expected {
            let response = described["responses"][status]["$ref"].as_str();
            let response = response.unwrap_or_else(|| panic!("{id} has no {status}"));
            let response = document.pointer(response.trim_start_matches('#')).expect(status);
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/Error", "{id} {status}");
        }
    }
    let conflict = &document["components"]["responses"]["Error409"]["description"];
    assert_eq!(conflict, "VERSION_MISMATCH, SESSION_LOCKED, SESSION_EXISTS, IDEMPOTENCY_CONFLICT");
}

/// Programs are generated from these names, so none may ever change.
const IDS: [&str; 35] = [
    "Booking_ListContexts",
    "Connections_Close",
    "Connections_Close_disconnect",
    "Connections_Connect",
    "Connections_Connect_connect",
    "Connections_Drain",
    "Connections_Get",
    "Connections_GetPresence",
    "Connections_GetStats",
    "Connections_Heartbeat",
    "Connections_HeartbeatPod",
    "Connections_ListByPod",
    "Connections_ListByUser",
    "Connections_Register",
    "Connections_Terminate",
    "Device_CreateDevice",
    "Device_CreateSessionWithDevice",
    "Device_DeleteDevice",
    "Device_GetDevice",
    "Events_Subscribe",
    "SM_CreateSession",
    "SM_GetHome",
    "SM_GetHome_sessions",
    "SM_HeartBeat",
    "SM_SetMaxSession",
    "SM_TearDown",
    "SessionManager_HealthCheck",
    "UserSessions_Create",
    "UserSessions_Delete",
    "UserSessions_DeleteAll",
    "UserSessions_Get",
    "UserSessions_List",
    "UserSessions_ListById_sessions",
    "UserSessions_Update_session",
    "UserSessions_Update_session_attributes",
];

#[tokio::test]
async fn the_ids_of_operations_never_change() {
    let host = Launch::in_memory().start();
    let ids: Vec<String> = operations(&document(&host).await).into_iter().map(|it| it.id).collect();
    for id in IDS {
        assert!(ids.iter().any(|known| known == id), "{id} is gone");
    }
    for context in ["pre-order", "ez-pay", "cititrans", "reschedule", "rent-revamp"] {
        for method in ["Create", "Set", "Get", "Delete", "Lock", "Unlock"] {
            let id = format!("Booking_{method}_{context}");
            assert!(ids.contains(&id), "{id} is gone");
        }
    }
}

#[tokio::test]
async fn conditions_and_idempotency_keys_are_described_where_they_apply() {
    let host = Launch::in_memory().start();
    for operation in operations(&document(&host).await) {
        let parameters = operation.described["parameters"].as_array().unwrap();
        let names: Vec<_> = parameters.iter().filter(|one| one["in"] == "header").collect();
        let names: Vec<_> = names.iter().map(|one| one["name"].as_str().unwrap()).collect();
        let responses = &operation.described["responses"];
        let ends = ["/sessions", "/sessions/{session_key}"];
        let is_flat = ends.iter().any(|end| operation.path.ends_with(end));
        let is_booking = operation.id.starts_with("Booking_");
        let counts = is_flat && is_booking && operation.verb != "GET";
        let mut expected = if counts { vec!["If-Match", "If-None-Match"] } else { vec![] };
        if (is_booking && is_flat) || operation.id.starts_with("Booking_Lock") {
            expected.push("Idempotency-Key");
        }
        if names != ["Last-Event-ID"] {
            assert_eq!(names, expected, "{} {}", operation.verb, operation.path);
        }
        assert_eq!(responses["412"].is_object(), counts, "{}", operation.id);
    }
}
