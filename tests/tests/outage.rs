//! Failures of the store and of the process: an outage never looks like a missing session, and
//! acknowledged changes are there afterwards.

use std::process::Stdio;

use serde_json::json;
use session_tests::client::{Client, Wire};
use session_tests::host::Launch;
use session_tests::process::Process;
use session_tests::redis_server::RedisServer;
use session_tests::wait;

async fn both(host: &session_tests::host::Host) -> [Client; 2] {
    [host.client(Wire::Rest).await, host.client(Wire::Grpc).await]
}

#[tokio::test]
async fn an_outage_of_redis_is_unavailable_everywhere_and_the_service_recovers() {
    let mut redis = RedisServer::start().await;
    let host = Launch::redis(&redis).start();
    let clients = both(&host).await;
    clients[0].set("pre-order", "kept", json!({"fleet_list_request": 7})).await.unwrap();
    redis.kill().await;
    for (client, http) in clients.iter().zip([503, 0]) {
        let fields = || json!({"fleet_list_request": 1});
        for refusal in [
            client.get("pre-order", "kept").await.unwrap_err(),
            client.get("pre-order", "never").await.unwrap_err(),
            client.set("pre-order", "k", fields()).await.unwrap_err(),
            client.delete("pre-order", "k").await.unwrap_err(),
            client.get("reschedule", "k").await.unwrap_err(),
            client.lock("pre-order", "k").await.unwrap_err(),
            client.unlock("pre-order", "k", "token").await.unwrap_err(),
            client.health().await.unwrap_err(),
        ] {
            assert_eq!((refusal.reason.as_str(), refusal.code), ("STORE_UNAVAILABLE", 14));
            assert_eq!(refusal.http, http);
            assert!(refusal.retry, "{refusal:?}");
        }
    }
    let ready = session_tests::get(host.url("admin", "/readyz")).await;
    assert_eq!(ready.status(), 503);
    assert_eq!(ready.headers()["retry-after"], "1");
    let alive = session_tests::get(host.url("admin", "/livez")).await;
    assert_eq!(alive.status(), 200);

    redis.restart().await;
    for client in &clients {
        let session = wait::until("the service recovers", async || {
            client.get("pre-order", "kept").await.ok()
        });
        assert_eq!(session.await["fleet_list_request"], 7);
    }
}

#[tokio::test]
async fn a_restart_of_redis_while_idle_fails_no_request() {
    let mut redis = RedisServer::start().await;
    let host = Launch::redis(&redis).start();
    // Each worker gets a connection, so each opens one to Redis.
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let mut clients = Vec::new();
    for _ in 0..workers {
        clients.push(host.client(Wire::Grpc).await);
    }
    for client in &clients {
        client.set("pre-order", "kept", json!({"fleet_list_request": 7})).await.unwrap();
    }
    redis.kill().await;
    redis.restart().await;
    // By now, every connection to Redis has sent a ping.
    let mut connection = redis.connect(0).await;
    wait::until("the links are open again", async || {
        let clients: String =
            redis::cmd("CLIENT").arg("LIST").query_async(&mut connection).await.ok()?;
        // A link that is open sends a ping every second.
        let number = |line: &str, name: &str| -> Option<u64> {
            line.split(' ').find_map(|fact| fact.strip_prefix(name))?.parse().ok()
        };
        let is_ours = |line: &&str| {
            let in_use = number(line, "age=") >= Some(3) && number(line, "idle=") <= Some(1);
            line.contains("db=5") && in_use
        };
        let ours = clients.lines().filter(is_ours).count();
        (ours == workers + 1).then_some(())
    })
    .await;
    for client in &clients {
        assert_eq!(client.get("pre-order", "kept").await.unwrap()["fleet_list_request"], 7);
    }
}

#[tokio::test]
async fn a_hanging_redis_is_unavailable_within_the_timeout() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).set("REDIS_TIMEOUT", "200ms").start();
    let clients = both(&host).await;
    // The first call may exceed such a short time-out.
    wait::until("the session is written", async || {
        clients[0].set("pre-order", "k", json!({"fleet_list_request": 7})).await.ok()
    })
    .await;
    redis.signal("STOP");
    for client in &clients {
        let answer = tokio::time::timeout(wait::PATIENCE, client.get("pre-order", "k")).await;
        assert_eq!(answer.unwrap().unwrap_err().reason, "STORE_UNAVAILABLE");
    }
    redis.signal("CONT");
    for client in &clients {
        wait::until("the service recovers", async || client.get("pre-order", "k").await.ok()).await;
    }
}

#[tokio::test]
async fn a_server_starts_without_redis_and_serves_once_redis_is_up() {
    let mut redis = RedisServer::start().await;
    redis.kill().await;
    let host = Launch::redis(&redis).set("REDIS_TIMEOUT", "200ms").start();
    let client = host.client(Wire::Rest).await;
    assert_eq!(client.health().await.unwrap_err().reason, "STORE_UNAVAILABLE");
    redis.restart().await;
    wait::until("the service is healthy", async || client.health().await.ok()).await;
}

fn version_of(session: &serde_json::Map<String, serde_json::Value>) -> u64 {
    session["version"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn nothing_acknowledged_or_read_is_lost_by_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(directory.path());
    let mut host = launch.start();
    let clients = both(&host).await;
    // Writers run until the server is gone, and record what was acknowledged.
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8_usize {
        let client = clients[writer % 2].clone();
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for n in 0_u64.. {
                let key = format!("w{writer}-{}", n % 50);
                let fields = json!({"request": n, "response": {"n": n}});
                let Ok(written) = client.set("ez-pay", &key, fields).await else { break };
                acknowledged.push((key, n, written.version));
            }
            acknowledged
        });
    }
    // Readers record the versions they have read.
    let mut readers = tokio::task::JoinSet::new();
    for reader in 0..8_usize {
        let client = clients[reader % 2].clone();
        readers.spawn(async move {
            let mut versions = std::collections::HashMap::new();
            for n in 0_u64.. {
                let key = format!("w{reader}-{}", n % 50);
                match client.get("ez-pay", &key).await {
                    Ok(session) => _ = versions.insert(key, version_of(&session)),
                    Err(refusal) if refusal.reason == "SESSION_NOT_FOUND" => {}
                    Err(_) => break,
                }
            }
            versions
        });
    }
    let counter = host.client(Wire::Rest).await;
    wait::until("there are some sessions", async || counter.get("ez-pay", "w7-49").await.ok())
        .await;
    host.signal("KILL");
    host.ended().await;
    let acknowledged: Vec<_> = writers.join_all().await;
    let read: Vec<_> = readers.join_all().await;

    let host = launch.start();
    let client = host.client(Wire::Rest).await;
    let mut checked = 0;
    for writes in acknowledged {
        let latest: std::collections::HashMap<_, _> =
            writes.into_iter().map(|(key, n, version)| (key, (n, version))).collect();
        for (key, (n, version)) in latest {
            let session = client.get("ez-pay", &key).await.expect("an acknowledged session");
            // A write in flight may have happened too.
            let found = version_of(&session);
            assert!(found == version || found == version + 1, "{key}: {found} after {version}");
            if found == version {
                assert_eq!(session["request"], n, "{key}");
            }
            assert_eq!(session["request"], session["response"]["n"], "{key} is torn");
            checked += 1;
        }
    }
    assert!(checked >= 100, "{checked}");
    for (key, version) in read.into_iter().flatten() {
        let found = client.get("ez-pay", &key).await.expect("a session that was read");
        let found = version_of(&found);
        assert!(found >= version, "{key}: {found} after {version} was read");
    }
}

#[tokio::test]
async fn a_redis_that_evicts_is_refused_unless_allowed() {
    let redis = RedisServer::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let refused = Launch::redis(&redis).command().output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains("maxmemory-policy noeviction"), "{message}");
    let host = Launch::redis(&redis).set("REDIS_ALLOW_EVICTION", "true").start();
    assert!(host.client(Wire::Rest).await.health().await.is_ok());
}

#[tokio::test]
async fn the_service_ends_when_redis_begins_to_evict() {
    let redis = RedisServer::start().await;
    // The next check of the policy is after half a minute.
    let launch = Launch::redis(&redis).set("REDIS_TIMEOUT", "1m").clock("+0 x30", false);
    let mut host = launch.start();
    let mut config = redis::cmd("CONFIG");
    config.arg("SET").arg("maxmemory-policy").arg("allkeys-lru");
    config.exec_async(&mut redis.connect(0).await).await.unwrap();
    assert_eq!(host.ended().await.code(), Some(1));
    assert!(host.log().contains("maxmemory-policy noeviction"), "{}", host.log());
}

/// An open port without a server behind it would delay balancers and clients that could use
/// another host.
#[tokio::test]
async fn no_port_accepts_connections_before_the_store_is_open() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}/5", silent.local_addr().unwrap());
    let ports = ["GRPC_PORT", "REST_PORT", "ADMIN_PORT", "PROBE_PORT"]
        .map(|name| (name, session_tests::redis_server::free_port()));
    // The server gives up only after ten minutes.
    let launch = Launch::redis_at(&url).set("REDIS_TIMEOUT", "1m").clock("+0 x0.1", false);
    let launch =
        ports.iter().fold(launch, |launch, (name, port)| launch.set(name, &port.to_string()));
    let mut command = launch.command();
    let mut waiting = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    let asked = silent.accept().await.unwrap();
    for (name, port) in ports {
        let refused = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        assert!(refused.is_err(), "{name} accepts while Redis is waited for");
    }
    // A signal ends the server without waiting for Redis.
    waiting.signal("TERM");
    assert_eq!(waiting.ended().await.code(), Some(0));
    drop(asked);
}

#[tokio::test]
async fn a_server_that_waits_for_redis_logs_it_each_minute_without_a_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let port = session_tests::redis_server::free_port();
    let url = format!("redis://user:s3cret-word@127.0.0.1:{port}/5");
    std::fs::write(&file, &url).unwrap();
    let path = file.path().to_str().unwrap();
    // The clock runs 60 times as fast.
    let quick = |launch: Launch| launch.set("REDIS_TIMEOUT", "30s").clock("+0 x60", false);
    for (launch, setting) in [
        (Launch::in_memory().set("REDIS_URL", &url), "REDIS_URL"),
        (Launch::in_memory().set("REDIS_URL_FILE", path), "REDIS_URL_FILE"),
        (
            Launch::in_memory()
                .set("REDIS_HOST", "127.0.0.1")
                .set("REDIS_PORT", &port.to_string())
                .set("REDIS_PASSWORD", "s3cret-word"),
            "REDIS_HOST",
        ),
    ] {
        let host = quick(launch).start();
        let line = format!(
            "{setting} \"127.0.0.1:{port}\" does not answer: Connection refused; tried for "
        );
        for tried in ["1m", "2m"] {
            let line = [&line, tried].concat();
            wait::until("the log says what the server waits for", async || {
                host.log().contains(&line).then_some(())
            })
            .await;
        }
        assert!(!host.log().contains("s3cret-word"));
    }
}

#[tokio::test]
async fn a_redis_that_cannot_write_to_its_disk_is_ready_for_reads() {
    let redis = RedisServer::with(&["--save", "3600 1"]).await;
    let host = Launch::redis(&redis).start();
    let client = host.client(Wire::Rest).await;
    let document = json!({ "fleet_list_request": 1 });
    client.set("pre-order", "k", document.clone()).await.unwrap();
    let mut connection = redis.connect(0).await;
    let mut config = redis::cmd("CONFIG");
    let directory: Vec<String> =
        config.arg("GET").arg("dir").query_async(&mut connection).await.unwrap();
    std::fs::remove_dir_all(&directory[1]).unwrap();
    wait::until("saving fails", async || {
        // A save may be running already.
        let _: Result<(), _> = redis::cmd("BGSAVE").query_async(&mut connection).await;
        let mut info = redis::cmd("INFO");
        let facts: String = info.arg("persistence").query_async(&mut connection).await.ok()?;
        facts.contains("rdb_last_bgsave_status:err").then_some(())
    })
    .await;
    let refusal = client.set("pre-order", "k", document).await.expect_err("no writes");
    assert_eq!(refusal.reason, "STORE_UNAVAILABLE");
    assert_eq!(client.get("pre-order", "k").await.unwrap()["version"], "1");
    assert_eq!(session_tests::get(host.url("admin", "/readyz")).await.status(), 200);
    wait::until("the metrics show it", async || {
        let metrics = session_tests::get(host.url("admin", "/metrics")).await.text().await.ok()?;
        let says = |line: &str| metrics.lines().any(|it| it == line);
        (says("session_manager_store_up 1") && says("session_manager_store_writable 0"))
            .then_some(())
    })
    .await;
}
