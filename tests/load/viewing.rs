//! Viewing sessions: the component beside the native rules.

use session_manager::proto::com::example::sm::{HeartBeatSession, SessionSetup};
use session_tests::client::Wire;
use session_tests::host::{Host, Launch};

use crate::Plan;
use crate::generator::{Protocol, Request, grpc_frame};
use crate::pairs::{Side, Stores, compare, nothing_failed};
use crate::table;

const CONNECTIONS: u32 = 32;
/// The limit of sessions of one home. With their short lifetime there is always a free slot, so no
/// create is refused.
const SESSIONS_MAX: u32 = 1000;
const SHORT: &str = "5ms";

/// Measures heartbeats and creates over both wires and on both stores.
pub async fn component_and_native(plan: &Plan) {
    let stores = Stores::start().await;
    for store in ["embedded", "Redis"] {
        let title = format!("Viewing sessions: the component and the native rules, {store} store");
        table::head(&title, "native req/s");
        for (operation, ttl) in [("heartbeat", "2m"), ("create", SHORT)] {
            let start = |name: &str| -> Launch {
                stores.launch(store, &format!("{operation}-{name}")).set("VIEWING_TTL", ttl)
            };
            let component = start("component").start();
            let native = start("native").program(&plan.native).start();
            let sessions = [session(&component, "one").await, session(&native, "other").await];
            for protocol in [Protocol::Http1, Protocol::Grpc] {
                let redis = stores.redis_process(store);
                let side = |host: &Host, session: &(String, String)| Side {
                    request: request(host, protocol, operation, session),
                    server: host.process_id(),
                    redis,
                };
                let (subject, pair) = (side(&component, &sessions[0]), side(&native, &sessions[1]));
                let row = format!("{operation}, {}, {CONNECTIONS} conn.", protocol.name());
                compare(plan, &row, CONNECTIONS, &subject, &pair);
            }
            nothing_failed(&component).await;
            nothing_failed(&native).await;
        }
    }
}

/// Sets the limit of a home, and creates one session.
async fn session(host: &Host, account: &str) -> (String, String) {
    let client = host.client(Wire::Rest).await;
    let limit = serde_json::json!({ "accountId": account, "maxNbOfSession": SESSIONS_MAX });
    client.viewing("SetMaxSession", limit).await.unwrap();
    let setup = serde_json::json!({ "accountId": account, "deviceId": "tv" });
    let session = client.viewing("CreateSession", setup).await.unwrap();
    (account.into(), session["sessionId"].as_str().unwrap().into())
}

fn request(
    host: &Host,
    protocol: Protocol,
    operation: &str,
    (account_id, session_id): &(String, String),
) -> Request {
    let (account_id, session_id) = (account_id.clone(), session_id.clone());
    let heartbeat = operation == "heartbeat";
    let (url, body) = match (protocol, heartbeat) {
        (Protocol::Grpc, true) => (
            host.url("grpc", "/com.example.sm.SM/HeartBeat"),
            grpc_frame(&HeartBeatSession { account_id, session_id }),
        ),
        (Protocol::Grpc, false) => {
            let setup =
                SessionSetup { account_id, device_id: "tv".into(), ..SessionSetup::default() };
            (host.url("grpc", "/com.example.sm.SM/CreateSession"), grpc_frame(&setup))
        }
        (_, true) => (
            host.url("rest", &format!("/home/{account_id}/sessions/heartbeat")),
            format!("{{\"sessionId\":\"{session_id}\"}}").into_bytes(),
        ),
        (_, false) => (
            host.url("rest", &format!("/home/{account_id}/sessions/create")),
            b"{\"deviceId\":\"tv\"}".to_vec(),
        ),
    };
    Request { url, method: "POST", body, protocol, spread: None }
}
