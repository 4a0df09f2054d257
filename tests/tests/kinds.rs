//! A component that leaves kinds out: what is missing is refused, and not offered anywhere.

use std::collections::BTreeSet;

use serde_json::json;
use session_manager::logic::BUILT_IN;
use session_tests::admin::Admin;
use session_tests::client::{GrpcClient, Style, Wire, rest};
use session_tests::guest::build;
use session_tests::host::{Host, Launch};
use session_tests::wait;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const BOOKING: [&str; 2] = ["session.booking.v1.Booking", "sessionmanager.SessionManager"];
const OTHERS: [&str; 5] = [
    "com.example.sm.SM",
    "com.example.smdevice.Device",
    "session.connections.v1.Connections",
    "session.events.v1.Events",
    "session.users.v1.UserSessions",
];

async fn channel(host: &Host) -> Channel {
    let address = format!("http://{}", host.address("grpc"));
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

/// The services that reflection lists.
async fn reflected(host: &Host) -> BTreeSet<String> {
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = ServerReflectionClient::new(channel(host).await);
    let requests = futures_util::stream::iter([request]);
    let mut replies = client.server_reflection_info(requests).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = reply.message_response else {
        panic!("a list, not {reply:?}");
    };
    let ours = list.service.into_iter().map(|service| service.name);
    ours.filter(|name| !name.starts_with("grpc.")).collect()
}

/// The code with which gRPC health answers for a service.
async fn health(host: &Host, service: &str) -> Code {
    let request = HealthCheckRequest { service: service.into() };
    match HealthClient::new(channel(host).await).check(request).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

async fn health_of_others(host: &Host) -> Vec<Code> {
    let mut codes = Vec::new();
    for service in OTHERS {
        codes.push(health(host, service).await);
    }
    codes
}

#[tokio::test]
async fn a_kind_that_the_component_does_not_export_is_not_served() {
    let host = Launch::in_memory().start();
    let (admin, http) = (Admin::of(&host), session_tests::http());
    let all: BTreeSet<String> = BOOKING.iter().chain(&OTHERS).map(|&name| name.into()).collect();
    assert_eq!(reflected(&host).await, all);

    let (status, refused) = admin.swap(build("misbehaving"), "").await;
    assert_eq!((status, refused["gate"].as_str()), (422, Some("schema")));
    for kind in ["connections", "maintenance", "users", "viewing"] {
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(&format!("the kind {kind} is gone")), "{message}");
    }
    let swapped = admin.swap(build("misbehaving"), "?force=true").await;
    assert_eq!(swapped.0, 200, "{}", swapped.1);
    assert_eq!(admin.component().await["interfaces"], json!(["booking"]));

    for (kind, path) in [
        ("users", "/session/abc"),
        ("viewing", "/homes/h"),
        ("viewing", "/devices/d"),
        ("connections", "/v1/connections/c"),
        ("events", "/v1/events"),
        ("events", "/v1/events?after=1-2-3"),
        ("users", "/session"),
    ] {
        let refusal = rest(http.get(host.url("rest", path))).await.unwrap_err();
        let (reason, kind_of) = (refusal.reason.as_str(), refusal.metadata["kind"].as_str());
        assert_eq!((reason, refusal.http, kind_of), ("NOT_SERVED", 501, kind), "{path}");
    }
    let grpc = GrpcClient::connect(host.address("grpc")).await;
    for method in ["session.users.v1.UserSessions/Get", "com.example.sm.SM/GetHome"] {
        let refusal = grpc.json_in(method, json!({}), Style::Brief).await.unwrap_err();
        assert_eq!((refusal.reason.as_str(), refusal.code), ("NOT_SERVED", 12), "{method}");
    }
    // What the component has is served.
    let unknown = rest(http.get(host.url("rest", "/v1/fine/sessions/k"))).await.unwrap_err();
    assert_eq!(unknown.reason, "UNKNOWN_CONTEXT");
    assert!(host.client(Wire::Rest).await.health().await.is_ok());

    let openapi = rest(http.get(host.url("rest", "/openapi.json"))).await.unwrap();
    let paths: Vec<_> = openapi["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/health", "/v1/contexts"]);
    assert_eq!(reflected(&host).await, BOOKING.map(String::from).into());
    wait::until("health reports the services that are left", async || {
        (health_of_others(&host).await == [Code::NotFound; 5]).then_some(())
    })
    .await;
    assert_eq!(health(&host, "").await, Code::Ok);
    assert_eq!(health(&host, BOOKING[0]).await, Code::Ok);

    assert_eq!(admin.roll_back("").await.0, 200);
    assert_eq!(reflected(&host).await, all);
    wait::until("health reports all services again", async || {
        (health_of_others(&host).await == [Code::Ok; 5]).then_some(())
    })
    .await;
    let unknown = rest(http.get(host.url("rest", "/session/abc"))).await.unwrap_err();
    assert_eq!(unknown.reason, "SESSION_NOT_FOUND");
}

#[tokio::test]
async fn a_component_for_a_later_minor_version_is_served() {
    let host = Launch::in_memory().start();
    let mut later = BUILT_IN.to_vec();
    let (ours, newer) = (b"@2.0.0", b"@2.1.0");
    let places = later.windows(ours.len()).enumerate();
    let places: Vec<_> = places.filter(|(_, text)| text == ours).map(|(at, _)| at).collect();
    assert!(!places.is_empty());
    for at in places {
        later[at..at + newer.len()].copy_from_slice(newer);
    }
    let swapped = Admin::of(&host).swap(later, "").await;
    assert_eq!(swapped.0, 200, "{}", swapped.1);
    let client = host.client(Wire::Rest).await;
    client.set("pre-order", "k", json!({ "fleet_list_request": 1 })).await.unwrap();
    let stored = client.get("pre-order", "k").await.unwrap();
    assert_eq!(stored["fleet_list_request"], 1);
}

#[tokio::test]
async fn streams_of_a_kind_that_goes_away_are_closed_with_the_reason() {
    let host = Launch::in_memory().set("CONNECTION_HEARTBEAT", "200ms").start();
    for wire in [Wire::Rest, Wire::Grpc] {
        let (admin, client) = (Admin::of(&host), host.client(wire).await);
        let mut held = client.connect_user(json!({ "user_id": "u" })).await.unwrap();
        held.next_named("connected").await;
        let mut events = client.subscribe(json!({})).await.unwrap();
        assert_eq!(admin.swap(build("misbehaving"), "?force=true").await.0, 200);
        assert_eq!(held.next_named("closing").await.data["reason"], "NOT_SERVED");
        assert_eq!(events.next_named("closing").await.data["reason"], "NOT_SERVED");
        assert_eq!(admin.roll_back("").await.0, 200);
    }
}
