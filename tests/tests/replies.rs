//! Replies of Redis that are lost, doubled, delayed or cut off: no caller gets the answer of
//! another request, an outage never looks like a missing session, and a refusal says when the
//! change may have happened.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use session_tests::client::{Client, Conditions, Wire};
use session_tests::faulty_proxy::{Fault, FaultyProxy, Which};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::redis_topology::follows;
use session_tests::{size, wait};

/// The number of users who make calls at the same time.
const USERS: usize = 16;

fn launch(proxy: &FaultyProxy) -> Launch {
    Launch::redis_at(&format!("redis://127.0.0.1:{}/5", proxy.port)).set("REDIS_TIMEOUT", "1s")
}

async fn login(client: &Client, user: usize) -> String {
    let attributes = json!({
        "user_id": format!("user-{user}"),
        "device_id": "phone",
        "access_token": format!("token-of-{user}"),
    });
    let created =
        client.users("Create", json!({ "session_attributes": attributes })).await.unwrap();
    created["session_id"].as_str().unwrap().to_owned()
}

/// Reads and updates the login of one user repeatedly. Every answer is that login, or says that
/// the store is unavailable.
async fn read_and_update(
    host: &Host,
    user: usize,
    session: &str,
    done: &AtomicBool,
    answered: &AtomicU32,
) {
    let wire = if user.is_multiple_of(2) { Wire::Rest } else { Wire::Grpc };
    let client = host.client(wire).await;
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        number += 1;
        let asked = if number % 4 == 0 {
            let update =
                json!({ "session_id": session, "session_attributes": { "auth_code": "c" } });
            client.users("Update", update).await
        } else {
            client.users("Get", json!({ "session_id": session })).await
        };
        match asked {
            // The reply to an update has the session in its member `session`.
            Ok(reply) => {
                let session = reply.get("session").unwrap_or(&reply);
                assert_eq!(session["user_id"], format!("user-{user}"));
                assert_eq!(session["access_token"], format!("token-of-{user}"));
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(refusal) => assert_eq!(refusal.reason, "STORE_UNAVAILABLE", "{refusal:?}"),
        }
    }
}

/// Writes values for one reader and reads them. All these calls wait for replicas.
async fn write_and_read_once(host: &Host, user: usize, done: &AtomicBool, answered: &AtomicU32) {
    let wire = if user.is_multiple_of(2) { Wire::Rest } else { Wire::Grpc };
    let client = host.client(wire).await;
    let new = Conditions { if_version: Some(0), ..Conditions::default() };
    let own = format!("order-of-{user}");
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("once-{user}-{number}");
        let fields = json!({ "delete_after_get": true, "order_id": own });
        let asked = match client.set_if("reschedule", &key, fields, new).await {
            Ok(written) => {
                assert_eq!((written.session_key.as_str(), written.version), (key.as_str(), 1));
                client.get("reschedule", &key).await
            }
            Err(refusal) => Err(refusal),
        };
        match asked {
            Ok(session) => {
                assert_eq!(session["order_id"], own);
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(refusal) => assert_eq!(refusal.reason, "STORE_UNAVAILABLE", "{refusal:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_gets_the_answer_of_another_request() {
    let redis = RedisServer::start().await;
    let proxy = FaultyProxy::before(redis.port).await;
    let host = launch(&proxy).start();
    let client = host.client(Wire::Rest).await;
    let mut sessions = Vec::new();
    for user in 0..USERS {
        sessions.push(login(&client, user).await);
    }
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let asking = sessions.iter().enumerate().map(async |(user, session)| {
        read_and_update(&host, user, session, &done, &answered).await;
    });
    let injecting = inject_faults(&proxy, &done, &answered);
    tokio::join!(futures_util::future::join_all(asking), injecting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_caller_gets_the_answer_of_another_request_that_waits_for_replicas() {
    let redis = RedisServer::start().await;
    let replica = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {}", redis.port)]).await;
    follows(&replica).await;
    let proxy = FaultyProxy::before(redis.port).await;
    let host = launch(&proxy).set("REDIS_WAIT_REPLICAS", "1").start();
    let (done, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    let asking = (0..USERS).map(|user| write_and_read_once(&host, user, &done, &answered));
    let injecting = inject_faults(&proxy, &done, &answered);
    tokio::join!(futures_util::future::join_all(asking), injecting);
}

/// Injects one fault after the other, each once reads are answered again.
async fn inject_faults(proxy: &FaultyProxy, done: &AtomicBool, answered: &AtomicU32) {
    let faults = [
        (Fault::Drop, Which::Array),
        (Fault::Double, Which::Array),
        (Fault::Drop, Which::Any),
        (Fault::Double, Which::Any),
        (Fault::CutInside, Which::Array),
        (Fault::CutBefore, Which::Any),
    ];
    for round in 0..size(18, 600) {
        let before = (proxy.done(), answered.load(Ordering::Relaxed));
        let (fault, which) = faults[round % faults.len()];
        proxy.next(fault, which);
        wait::until("the fault is injected", async || (proxy.done() > before.0).then_some(()))
            .await;
        wait::until("reads are answered again", async || {
            (answered.load(Ordering::Relaxed) > before.1 + 50).then_some(())
        })
        .await;
    }
    done.store(true, Ordering::Relaxed);
}

#[tokio::test]
async fn a_write_whose_reply_is_cut_off_may_have_happened() {
    let redis = RedisServer::start().await;
    let proxy = FaultyProxy::before(redis.port).await;
    let host = launch(&proxy).start();
    for (number, fault) in
        [Fault::CutInside, Fault::CutBefore, Fault::Drop, Fault::Delay(Duration::from_secs(3))]
            .into_iter()
            .enumerate()
    {
        let client = host.client(Wire::Rest).await;
        let key = format!("k{number}");
        wait::until("the store answers", async || client.health().await.ok()).await;
        // The link also sends pings, and the fault may affect one of them instead of the write.
        let refusal = wait::until("the fault affects the write", async || {
            proxy.next(fault, Which::Array);
            client.set("pre-order", &key, json!({ "fleet_list_request": "x" })).await.err()
        })
        .await;
        assert_eq!(refusal.reason, "STORE_UNAVAILABLE", "{fault:?}");
        wait::until("the write is read", async || match client.get("pre-order", &key).await {
            Ok(session) => {
                assert_eq!(session["fleet_list_request"], "x");
                Some(())
            }
            Err(refusal) => {
                assert_eq!(refusal.reason, "STORE_UNAVAILABLE");
                None
            }
        })
        .await;
    }
}
