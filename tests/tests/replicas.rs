//! Waiting for replicas: a change that no failover may undo is acknowledged once replicas have it.

use std::time::Duration;

use serde_json::{Value as Json, json};
use session_tests::client::{Client, Conditions, Refusal, Wire};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::redis_topology::{Sentinels, follows};
use tokio::task::JoinSet;

async fn log_in(client: &Client, user_id: &str) -> String {
    let attributes = json!({ "user_id": user_id, "device_id": "phone" });
    let reply = client.users("Create", json!({ "session_attributes": attributes })).await.unwrap();
    reply["session_id"].as_str().unwrap().into()
}

/// Sessions that the calls below need. Creating some of them waits for replicas too.
struct Prepared {
    login: String,
    connection: Json,
    slots: [Json; 2],
    token: String,
}

async fn prepare(client: &Client, run: &str) -> Prepared {
    let login = log_in(client, run).await;
    log_in(client, run).await;
    let register = json!({ "user_id": run, "pod_id": run });
    client.connections("Register", register.clone()).await.unwrap();
    let registered = client.connections("Register", register).await.unwrap();
    for key in [run, &format!("{run}-deleted"), &format!("{run}-matched")] {
        client.set("pre-order", key, json!({ "fleet_list_request": 1 })).await.unwrap();
    }
    client.set("reschedule", run, json!({ "delete_after_get": true })).await.unwrap();
    let mut slots = [Json::Null, Json::Null];
    for (slot, home) in slots.iter_mut().zip(["kept", "ended"]) {
        let account = format!("{run}-{home}");
        let create = json!({ "accountId": account, "deviceId": "tv" });
        let created = client.viewing("CreateSession", create).await.unwrap();
        *slot = json!({ "accountId": account, "sessionId": created["sessionId"] });
    }
    let token = client.lock("ez-pay", &format!("{run}-held")).await.unwrap();
    Prepared { login, connection: registered["session_id"].clone(), slots, token }
}

/// Makes every call that waits for replicas, under names that contain the run.
async fn make_calls_that_wait(
    client: &Client,
    host: &Host,
    run: &str,
    prepared: Prepared,
) -> Vec<(&'static str, Result<(), Refusal>)> {
    let Prepared { login, connection, slots: [kept, ended_slot], token } = prepared;
    let done = |result: Result<Json, Refusal>| result.map(drop);
    let fields = json!({ "fleet_list_request": 1 });
    let at_first = || Conditions { if_version: Some(1), ..Conditions::default() };
    let (deleted, held) = (format!("{run}-deleted"), format!("{run}-held"));
    let max = json!({ "accountId": run, "maxNbOfSession": 3 });
    // The client has no calls with these headers.
    let matched = async |key: String, header: &str, value: &str| {
        let path = format!("/v1/pre-order/sessions/{key}");
        let request = session_tests::http().put(host.url("rest", &path)).json(&fields);
        session_tests::client::rest(request.header(header, value)).await.map(drop)
    };
    // All at once, because each may wait until its time-out.
    let booking = async {
        tokio::join!(
            client.set_if("pre-order", run, fields.clone(), at_first()),
            matched(format!("{run}-matched"), "if-match", "*"),
            matched(format!("{run}-none"), "if-none-match", "*"),
            client.get("reschedule", run),
            client.lock("ez-pay", run),
            client.unlock("ez-pay", &held, &token),
            client.delete("cititrans", run),
            client.delete_if("pre-order", &deleted, at_first()),
        )
    };
    let users = async {
        tokio::join!(
            client.users("Delete", json!({ "session_id": login })),
            client.users("DeleteAll", json!({ "user_id": format!("{run}-nobody") })),
            client.connections("Close", json!({ "session_id": connection })),
            client.connections("Terminate", json!({ "user_id": run })),
            client.connections("Drain", json!({ "pod_id": run })),
        )
    };
    let viewing = async {
        tokio::join!(
            client.viewing("CreateSession", json!({ "accountId": run, "deviceId": "tv" })),
            client.viewing("HeartBeat", kept),
            client.viewing("TearDown", ended_slot),
            client.viewing("SetMaxSession", max),
        )
    };
    let (booking, users, viewing) = tokio::join!(booking, users, viewing);
    vec![
        ("compare-and-set", booking.0.map(drop)),
        ("if-match", booking.1),
        ("if-none-match", booking.2),
        ("one-time get", booking.3.map(drop)),
        ("lock", booking.4.map(drop)),
        ("unlock", booking.5),
        ("delete", booking.6),
        ("compare-and-delete", booking.7),
        ("close", done(users.0)),
        ("close all", done(users.1)),
        ("close of a connection", done(users.2)),
        ("termination", done(users.3)),
        ("drain", done(users.4)),
        ("slot", done(viewing.0)),
        ("heartbeat of a slot", done(viewing.1)),
        ("end of a slot", done(viewing.2)),
        ("limit of a home", done(viewing.3)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_calls_that_a_failover_must_not_undo_wait_for_replicas() {
    let primary = RedisServer::start().await;
    let of = format!("127.0.0.1 {}", primary.port);
    let replica = RedisServer::with(&["--replicaof", &of]).await;
    follows(&replica).await;
    let launch = Launch::redis(&primary).set("REDIS_WAIT_REPLICAS", "1");
    let host = launch.clone().set("REDIS_TIMEOUT", "3s").start();
    let patient = launch.set("REDIS_TIMEOUT", "1m").start();
    for wire in [Wire::Rest, Wire::Grpc] {
        let client = patient.client(wire).await;
        let run = format!("well-{wire:?}");
        let prepared = prepare(&client, &run).await;
        for (what, result) in make_calls_that_wait(&client, &patient, &run, prepared).await {
            assert!(result.is_ok(), "{what}: {result:?}");
        }
        let run = format!("alone-{wire:?}");
        let prepared = prepare(&client, &run).await;
        replica.signal("STOP");
        let client = host.client(wire).await;
        for (what, result) in make_calls_that_wait(&client, &host, &run, prepared).await {
            let refusal = result.expect_err(what);
            assert_eq!(refusal.reason, "STORE_UNAVAILABLE", "{what}: {refusal:?}");
            assert!(refusal.message.contains("may have happened"), "{what}: {refusal:?}");
        }
        // A call that waits for replicas does not delay others.
        let client = patient.client(wire).await;
        let mut waiting = Box::pin(client.lock("pre-order", "k"));
        for number in 0..20 {
            let others = async {
                let fields = json!({ "fleet_list_request": number });
                client.set("pre-order", "other", fields).await?;
                client.get("pre-order", "other").await
            };
            tokio::select! {
                waited = &mut waiting => panic!("the call has not waited: {waited:?}"),
                done = others => drop(done.unwrap()),
            }
        }
        replica.signal("CONT");
        let token = waiting.await.expect("the replica has the lock");
        client.unlock("pre-order", "k", &token).await.unwrap();
        follows(&replica).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_login_stays_closed_after_a_failover() {
    let sentinels = Sentinels::start().await;
    let launch = Launch::redis_at(&sentinels.url()).set("REDIS_WAIT_REPLICAS", "1");
    let host = launch.set("USER_SESSION_TTL", "1h").start();
    let client = host.client(Wire::Grpc).await;
    let mut logins = Vec::new();
    for number in 0..400 {
        logins.push(log_in(&client, &format!("user-{}", number % 20)).await);
    }
    // The replica has to have all logins before the failover.
    let mut connection = sentinels.servers[0].connect(5).await;
    let mut wait = redis::cmd("WAIT");
    let reached: u32 = wait.arg(1).arg(5000).query_async(&mut connection).await.unwrap();
    assert_eq!(reached, 1);
    let mut closing = JoinSet::new();
    for (turn, id) in logins.into_iter().enumerate() {
        let client = client.clone();
        closing.spawn(async move {
            tokio::time::sleep(Duration::from_millis(10 * turn as u64)).await;
            let closed = client.users("Delete", json!({ "session_id": id })).await;
            (id, closed.is_ok())
        });
    }
    sentinels.fail_over().await;
    let ended = closing.join_all().await;
    let closed: Vec<&String> = ended.iter().filter(|(_, ok)| *ok).map(|(id, _)| id).collect();
    assert!(!closed.is_empty());
    for id in closed {
        let read = session_tests::wait::until("the new primary answers", async || {
            match client.users("Get", json!({ "session_id": id })).await {
                Err(refusal) if refusal.reason == "STORE_UNAVAILABLE" => None,
                read => Some(read),
            }
        })
        .await;
        assert_eq!(read.expect_err("the login is closed").reason, "SESSION_NOT_FOUND");
    }
}

#[tokio::test]
async fn waiting_for_missing_replicas_is_reported_at_the_start() {
    let output = Launch::in_memory().set("REDIS_WAIT_REPLICAS", "1").command().output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), complaint.lines().count()), (Some(64), 1), "{complaint}");
    assert!(complaint.contains("REDIS_WAIT_REPLICAS") && complaint.contains("no replicas"));
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).set("REDIS_WAIT_REPLICAS", "2").start();
    let log = host.log();
    let warned = log.lines().find(|line| line.contains("REDIS_WAIT_REPLICAS is more"));
    let warned = warned.unwrap_or_else(|| panic!("{log}"));
    assert!(warned.contains("replicas=0") && warned.contains("wanted=2"), "{warned}");
}
