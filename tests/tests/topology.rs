//! Redis on several servers: behind Sentinels, as a Cluster, and over TLS.

use std::time::{Duration, Instant};

use serde_json::json;
use session_tests::admin::Admin;
use session_tests::certificate::Certificate;
use session_tests::client::{Client, Wire};
use session_tests::host::Launch;
use session_tests::redis_server::{RedisServer, free_port};
use session_tests::redis_topology::{Cluster, Sentinels};
use session_tests::wait;

/// Uses every kind of session from its creation to its end; `name` distinguishes the runs.
async fn every_kind(client: &Client, name: &str) {
    let fields = json!({ "fleet_list_request": 1 });
    assert_eq!(client.set("pre-order", name, fields).await.unwrap().version, 1);
    let fields = json!({ "fleet_list_response": [2] });
    assert_eq!(client.set("pre-order", name, fields).await.unwrap().version, 2);
    let token = client.lock("pre-order", name).await.unwrap();
    let locked = client.delete("pre-order", name).await.unwrap_err();
    assert_eq!(locked.reason, "SESSION_LOCKED");
    client.unlock("pre-order", name, &token).await.unwrap();
    assert_eq!(client.get("pre-order", name).await.unwrap()["fleet_list_request"], 1);

    let login = json!({ "session_attributes": { "user_id": name, "device_id": "tv" } });
    for _ in 0..3 {
        client.users("Create", login.clone()).await.unwrap();
    }
    let closed = client.users("DeleteAll", json!({ "user_id": name })).await.unwrap();
    assert_eq!(closed["closed"], 3);

    for number in 0..3 {
        let id = format!("{name}-{number}");
        let request = json!({ "user_id": name, "pod_id": "pod", "session_id": id });
        client.connections("Register", request).await.unwrap();
        client.connections("Heartbeat", json!({ "session_id": id })).await.unwrap();
    }
    let presence = client.connections("GetPresence", json!({ "user_id": name })).await.unwrap();
    assert_eq!(presence, json!({ "online": true, "connections": 3 }));
    let request = json!({ "user_id": name, "reason": "test" });
    let ended = client.connections("Terminate", request).await.unwrap();
    assert_eq!(ended["terminated"], 3);

    let slot = json!({ "accountId": name, "deviceId": "tv" });
    for _ in 0..2 {
        client.viewing("CreateSession", slot.clone()).await.unwrap();
    }
    let full = client.viewing("CreateSession", slot).await.unwrap_err();
    assert_eq!(full.reason, "SESSION_LIMIT_REACHED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_survives_the_loss_of_a_primary_of_a_cluster() {
    let mut cluster = Cluster::start().await;
    let launch = Launch::redis_at(&cluster.url()).set("SESSION_LOCK_TTL", "5m");
    let (a, b) = (launch.start(), launch.start());
    let (on_a, on_b) = (a.client(Wire::Rest).await, b.client(Wire::Grpc).await);
    let mut events = on_b.subscribe(json!({ "types": ["user.closed_all"] })).await.unwrap();
    for number in 0..40 {
        let client = if number % 2 == 0 { &on_a } else { &on_b };
        every_kind(client, &format!("run-{number}")).await;
        assert_eq!(events.next().await.unwrap().data["user_id"], format!("run-{number}"));
    }
    // Every primary stores a share of the keys.
    let primaries = cluster.primaries();
    assert_eq!(primaries.len(), 3);
    for number in &primaries {
        let mut connection = cluster.servers[*number].connect(0).await;
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
        assert!(keys > 20, "{keys}");
    }
    let counted = async |sessions: u32| {
        let line = format!("session_manager_sessions{{kind=\"booking\"}} {sessions}\n");
        wait::until("the sessions are counted", async || {
            Admin::of(&a).metrics().await.contains(&line).then_some(())
        })
        .await;
    };
    counted(40).await;
    // A kill of the primary loses what its replica does not have yet.
    for number in &primaries {
        let mut connection = cluster.servers[*number].connect(0).await;
        let mut wait = redis::cmd("WAIT");
        let reached: u32 = wait.arg(1).arg(5000).query_async(&mut connection).await.unwrap();
        assert_eq!(reached, 1);
    }
    // A node that does not answer, and that the URL names, does not stop a host.
    let replica = (0..6).find(|number| !primaries.contains(number)).unwrap();
    let url = format!("{},127.0.0.1:{}", cluster.url(), cluster.servers[replica].port);
    cluster.servers[replica].signal("STOP");
    let c = Launch::redis_at(&url).start();
    let (on_c, mut others) = (c.client(Wire::Rest).await, Vec::new());
    wait::until("the host is ready", async || on_c.health().await.ok()).await;
    // This holds for every worker, including those that have served no request so far.
    for _ in 0..4 {
        let another = c.client(Wire::Rest).await;
        another.get("pre-order", "run-0").await.unwrap();
        others.push(another);
    }
    for number in 0..40 {
        on_c.get("pre-order", &format!("run-{number}")).await.unwrap();
        assert!(on_a.health().await.is_ok(), "{number}");
    }
    cluster.servers[replica].signal("CONT");
    drop(c);
    cluster.servers[primaries[0]].kill().await;
    for number in 0..40 {
        let client = if number % 2 == 0 { &on_a } else { &on_b };
        let name = format!("run-{number}");
        let session = wait::until("the replica is promoted", async || {
            match client.get("pre-order", &name).await {
                Ok(session) => Some(session),
                Err(refusal) => {
                    assert_eq!(
                        refusal.reason, "STORE_UNAVAILABLE",
                        "an outage is not a missing session"
                    );
                    None
                }
            }
        });
        assert_eq!(session.await["version"], "2");
    }
    let ready = async |host| {
        let answer = session_tests::get(host).await.status();
        (answer == 200).then_some(())
    };
    for host in [&a, &b] {
        wait::until("the host is ready", async || ready(host.url("admin", "/readyz")).await).await;
    }
    wait::until("every kind works", async || {
        on_a.users("List", json!({ "user_id": "someone" })).await.ok()
    })
    .await;
    for number in 40..60 {
        every_kind(&on_a, &format!("run-{number}")).await;
        let event = events.next_named("user.closed_all").await;
        assert_eq!(event.data["user_id"], format!("run-{number}"));
    }
    counted(60).await;
}

/// A machine that hangs neither answers nor closes connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_survive_a_hanging_primary_of_a_cluster() {
    let cluster = Cluster::start().await;
    let host = Launch::redis_at(&cluster.url()).set("REDIS_TIMEOUT", "1s").start();
    let client = host.client(Wire::Rest).await;
    let names: Vec<_> = (0..30).map(|number| format!("k{number}")).collect();
    for name in &names {
        client.set("pre-order", name, json!({ "fleet_list_request": 1 })).await.unwrap();
    }
    let primaries = cluster.primaries();
    for number in &primaries {
        let mut connection = cluster.servers[*number].connect(0).await;
        let mut wait = redis::cmd("WAIT");
        let reached: u32 = wait.arg(1).arg(5000).query_async(&mut connection).await.unwrap();
        assert_eq!(reached, 1);
    }
    cluster.servers[primaries[0]].signal("STOP");
    for name in &names {
        wait::until("the replica is promoted", async || {
            let written = client.set("pre-order", name, json!({ "fleet_list_request": 2 })).await;
            match written {
                Ok(_) => Some(()),
                Err(refusal) => {
                    assert_eq!(refusal.reason, "STORE_UNAVAILABLE");
                    None
                }
            }
        })
        .await;
    }
    cluster.servers[primaries[0]].signal("CONT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_follows_the_primary_that_sentinels_announce() {
    let mut sentinels = Sentinels::start().await;
    let host = Launch::redis_at(&sentinels.url()).set("SESSION_LOCK_TTL", "5m").start();
    let client = host.client(Wire::Rest).await;
    let mut events = client.subscribe(json!({ "types": ["user.closed_all"] })).await.unwrap();
    every_kind(&client, "before").await;
    assert_eq!(events.next().await.unwrap().data["user_id"], "before");
    let mut connection = sentinels.servers[0].connect(5).await;
    let mut wait = redis::cmd("WAIT");
    let reached: u32 = wait.arg(1).arg(5000).query_async(&mut connection).await.unwrap();
    assert_eq!(reached, 1);
    let keys: u64 = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
    assert!(keys > 3, "{keys}");
    sentinels.servers[0].kill().await;
    let session = wait::until("the replica is promoted", async || {
        match client.get("pre-order", "before").await {
            Ok(session) => Some(session),
            Err(refusal) => {
                assert_eq!(
                    refusal.reason, "STORE_UNAVAILABLE",
                    "an outage is not a missing session"
                );
                None
            }
        }
    });
    assert_eq!(session.await["version"], "2");
    every_kind(&client, "after").await;
    // Subscribers receive a gap, as the replica may lack the latest events.
    let mut names = Vec::new();
    let closed = loop {
        let event = events.next().await.unwrap();
        names.push(event.name.clone());
        if event.name == "user.closed_all" {
            break event;
        }
    };
    assert_eq!(closed.data["user_id"], "after");
    assert_eq!(names.iter().filter(|name| *name == "gap").count(), 1, "{names:?}");
    // The former primary comes back as a replica, and the host does not use it any more.
    sentinels.servers[0].restart().await;
    becomes(&sentinels.servers[0], "slave").await;
    every_kind(&client, "later").await;
    // A primary that is being replaced accepts writes for ten more seconds. They would be lost.
    sentinels.fail_over().await;
    becomes(&sentinels.servers[0], "master").await;
    let promoted = Instant::now();
    let mut written = Vec::new();
    while promoted.elapsed() < Duration::from_secs(14) {
        let name = format!("planned-{}", written.len());
        if client.set("pre-order", &name, json!({ "fleet_list_request": 1 })).await.is_ok() {
            written.push((name, promoted.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(written.len() > 100, "{}", written.len());
    // Nothing is lost once the host uses the new primary, long before the former one is demoted.
    let mut changed_over = None;
    for (name, after) in written {
        let read = client.get("pre-order", &name).await;
        if read.is_ok() {
            changed_over.get_or_insert(after);
        }
        assert!(
            read.is_ok() || changed_over.is_none(),
            "{name}, written after {after:?}: {read:?}"
        );
    }
    let changed_over = changed_over.expect("the host uses the new primary");
    assert!(changed_over < Duration::from_secs(8), "{changed_over:?}");
}

/// Waits until a server has this role.
async fn becomes(server: &RedisServer, role: &str) {
    wait::until(role, async || {
        let mut connection = server.try_connect(0).await.ok()?;
        let reply: Vec<redis::Value> =
            redis::cmd("ROLE").query_async(&mut connection).await.ok()?;
        let now: String = redis::from_redis_value(reply.into_iter().next()?).ok()?;
        (now == role).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_service_connects_to_redis_over_tls() {
    let certificate = Certificate::new();
    let file = |name: &str| certificate.file(name).display().to_string();
    let port = free_port().to_string();
    let _redis = RedisServer::with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("key.pem"),
        "--tls-ca-cert-file",
        &file("authority.pem"),
        "--tls-auth-clients",
        "no",
    ])
    .await;
    let launch = Launch::redis_at(&format!("rediss://localhost:{port}/5"));
    let host = launch.clone().set("SSL_CERT_FILE", &file("authority.pem")).start();
    every_kind(&host.client(Wire::Rest).await, "run").await;
    // The host does not connect to a server with an untrusted certificate.
    let stranger = launch.start();
    let refusal = stranger.client(Wire::Rest).await.health().await.unwrap_err();
    assert_eq!(refusal.reason, "STORE_UNAVAILABLE");
}
