//! How logins end: they expire or are closed, and no update brings one back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prost_reflect::prost_types::Timestamp;
use serde_json::json;
use session_store::clock::Clock;
use session_tests::client::{Client, Wire};
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{
    assert_not_found, close, close_all, get, keys, list, log_in, log_in_many_times,
    nothing_is_left, update,
};
use crate::everywhere::{Setting, everywhere};

/// A lifetime that a test can wait for.
const TTL_SHORT: [(&str, &str); 1] = [("USER_SESSION_TTL", "400ms")];
/// An idle limit that a test can wait for.
const IDLE_SHORT: [(&str, &str); 1] = [("USER_SESSION_IDLE", "3s")];

everywhere!(
    an_expired_session_leaves_nothing_in_the_store super::TTL_SHORT,
    an_idle_session_expires super::IDLE_SHORT,
);

async fn an_expired_session_leaves_nothing_in_the_store(Setting { client, redis, .. }: Setting) {
    let id = log_in(&client, "u", "phone").await;
    // Updates do not extend its lifetime.
    let ended = wait::until("the session expires", async || {
        update(&client, &id, json!({ "access_token": "t" })).await.err()
    });
    assert_eq!(ended.await.reason, "SESSION_NOT_FOUND");
    assert_not_found(get(&client, &id).await);
    assert_eq!(list(&client, "u").await, []);
    assert_eq!(close_all(&client, "u", None).await, Ok(0));
    if let Some(redis) = redis {
        nothing_is_left(&redis).await;
    }
}

async fn an_idle_session_expires(Setting { client, redis, .. }: Setting) {
    let used = log_in(&client, "u", "used").await;
    wait::next_millisecond().await;
    let updated = log_in(&client, "u", "updated").await;
    let idle = log_in(&client, "u", "idle").await;
    // This is longer than the limit and the part of it for which a use may go unrecorded.
    let since = Instant::now();
    while since.elapsed() < Duration::from_millis(4500) {
        tokio::time::sleep(Duration::from_millis(150)).await;
        get(&client, &used).await.unwrap();
        update(&client, &updated, json!({ "access_token": "t" })).await.unwrap();
    }
    if let Some(redis) = &redis {
        // The sweeper has removed the idle session without a request for it.
        let keys = keys(redis).await;
        assert!(!keys.iter().any(|key| key.contains(&idle)), "it has a record");
        let set = keys.iter().find(|key| key.starts_with("USER_SESSIONS:")).unwrap();
        let mut connection = redis.connect(5).await;
        let now = Clock::System.now();
        let mut alive = redis::cmd("ZCOUNT");
        alive.arg(set).arg(now).arg("+inf");
        let alive: u64 = alive.query_async(&mut connection).await.unwrap();
        assert_eq!(alive, 2);
    }
    let devices: Vec<String> =
        list(&client, "u").await.into_iter().map(|(device, _)| device).collect();
    assert_eq!(devices, ["updated", "used"]);
    assert_not_found(get(&client, &idle).await);
    // An expired session cannot be kept, and the refused call closes nothing.
    assert_eq!(close_all(&client, "u", Some(&idle)).await.unwrap_err().reason, "SESSION_NOT_FOUND");
    assert_eq!(close_all(&client, "u", Some(&used)).await, Ok(1));
}

#[tokio::test]
async fn lifting_the_idle_limit_extends_existing_sessions() {
    let directory = tempfile::tempdir().unwrap();
    let launch = || Launch::embedded(directory.path());
    let mut host = launch().set("USER_SESSION_IDLE", "1m").start();
    let client = host.client(Wire::Grpc).await;
    let id = log_in(&client, "u", "phone").await;
    let lifetime = async |client: &Client| {
        let session = get(client, &id).await.unwrap();
        let instant = |name: &str| session[name].as_str().unwrap().parse::<Timestamp>().unwrap();
        instant("expires_at").seconds - instant("created_at").seconds
    };
    assert!(lifetime(&client).await < 70);
    host.signal("TERM");
    assert_eq!(host.ended().await.code(), Some(0));
    let host = launch().start();
    assert_eq!(lifetime(&host.client(Wire::Rest).await).await, 365 * 24 * 3600);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_brings_a_session_back() {
    const ROUNDS: usize = 1000;
    let redis = RedisServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    for launch in [Launch::redis(&redis), Launch::embedded(directory.path())] {
        // Half of the sessions expire and half are closed, while they are updated.
        let host = launch.set("USER_SESSION_TTL", "700ms").start();
        let clients = [host.client(Wire::Rest).await, host.client(Wire::Grpc).await];
        let mut rounds = JoinSet::new();
        // Few sessions at a time, so that each is updated often and no call has to queue.
        let permits = Arc::new(Semaphore::new(30));
        for round in 0..ROUNDS {
            let client = clients[round % 2].clone();
            let permits = Arc::clone(&permits);
            rounds.spawn(async move {
                let _permit = permits.acquire().await.unwrap();
                let user = format!("user-{}", round % 10);
                let id = log_in(&client, &user, "phone").await;
                let closing = async {
                    if round % 4 < 2 {
                        tokio::time::sleep(Duration::from_millis(round as u64 % 20)).await;
                        // On a busy machine the session may have expired before.
                        if let Err(refusal) = close(&client, &id).await {
                            assert_eq!(refusal.reason, "SESSION_NOT_FOUND");
                        }
                        assert_not_found(get(&client, &id).await);
                    }
                };
                let updating = async {
                    let mut updates = 0;
                    while update(&client, &id, json!({ "access_token": "t" })).await.is_ok() {
                        updates += 1;
                        let pause = if round % 4 < 2 { 1 } else { 90 };
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                    updates
                };
                let ((), updates) = tokio::join!(closing, updating);
                assert_not_found(get(&client, &id).await);
                assert_not_found(update(&client, &id, json!({ "access_token": "t" })).await);
                updates
            });
        }
        let mut updates = 0;
        while let Some(round) = rounds.join_next().await {
            updates += round.unwrap();
        }
        assert!(updates > ROUNDS / 2, "{updates} updates");
        for user in 0..10 {
            assert_eq!(list(&clients[0], &format!("user-{user}")).await, []);
        }
        // The sweeper runs only as long as this host does.
        nothing_is_left(&redis).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_session_that_existed_when_all_are_closed_is_gone() {
    let redis = RedisServer::start().await;
    let hosts = [(); 2].map(|()| Launch::redis(&redis).start());
    let mut clients = Vec::new();
    for number in 0..4 {
        let wire = if number < 2 { Wire::Rest } else { Wire::Grpc };
        clients.push(hosts[number % 2].client(wire).await);
    }
    let mut survivors = 0;
    for round in 0..20 {
        let user = format!("user-{round}");
        let created = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut creating = JoinSet::new();
        for number in 0..50 {
            let (client, user) = (clients[number % 4].clone(), user.clone());
            let created = created.clone();
            creating.spawn(async move {
                tokio::time::sleep(Duration::from_micros(300 * number as u64)).await;
                let id = log_in(&client, &user, "phone").await;
                created.lock().unwrap().push(id);
            });
        }
        tokio::time::sleep(Duration::from_millis(round % 15)).await;
        let existing = created.lock().unwrap().clone();
        let closed = close_all(&clients[round as usize % 4], &user, None).await.unwrap();
        assert!(closed >= existing.len() as u64);
        for id in &existing {
            assert_not_found(get(&clients[3], id).await);
        }
        creating.join_all().await;
        let alive = list(&clients[0], &user).await;
        assert_eq!(alive.len() as u64 + closed, 50);
        for (_, id) in &alive {
            get(&clients[1], id).await.unwrap();
        }
        survivors += alive.len();
    }
    assert!(survivors > 0, "no creation raced with the close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_expired_sessions_leave_nothing_in_the_store() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).set("USER_SESSION_TTL", "5s").start();
    let client = host.client(Wire::Grpc).await;
    log_in_many_times(&client, "u", size(1_000, 10_000)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    // A list shows only the session that is alive.
    let id = log_in(&client, "u", "phone").await;
    assert_eq!(list(&client, "u").await, [("phone".to_owned(), id.clone())]);
    let set: Vec<String> =
        keys(&redis).await.into_iter().filter(|key| key.starts_with("USER_SESSIONS:")).collect();
    let mut connection = redis.connect(5).await;
    let members: u64 = redis::cmd("ZCARD").arg(&set[0]).query_async(&mut connection).await.unwrap();
    assert_eq!((set.len(), members), (1, 1));
    assert_eq!(close(&client, &id).await.unwrap(), json!({ "session_id": id }));
    nothing_is_left(&redis).await;
}
