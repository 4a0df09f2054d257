//! Homes that several hosts serve, and a store that is down.

use std::sync::Arc;

use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;
use session_tests::wait;

use super::{create, heartbeat, playing, tear_down};

/// A host on Redis whose clock is wrong.
fn skewed(redis: &RedisServer, by: &str) -> Host {
    Launch::redis(redis).set("LOGIC_INSTANCES", "1024").clock(by, true).start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_creates_on_two_hosts_with_wrong_clocks_are_granted_as_many_as_allowed() {
    let redis = RedisServer::start().await;
    let hosts = [skewed(&redis, "-5m"), skewed(&redis, "+5m")];
    let mut clients = Vec::new();
    for number in 0..20 {
        let wire = if number % 4 < 2 { Wire::Rest } else { Wire::Grpc };
        clients.push(hosts[number % 2].client(wire).await);
    }
    for round in 0..20 {
        let account = format!("home-{round}");
        let limit = json!({ "accountId": account, "maxNbOfSession": 3 });
        clients[0].viewing("SetMaxSession", limit).await.unwrap();
        let mut creating = tokio::task::JoinSet::new();
        for number in 0..500 {
            let (client, account) = (clients[number % clients.len()].clone(), account.clone());
            creating
                .spawn(async move { create(&client, &account, &format!("device-{number}")).await });
        }
        let mut granted = Vec::new();
        while let Some(created) = creating.join_next().await {
            match created.unwrap() {
                Ok(session) => granted.push(session),
                Err(refused) => assert_eq!(refused.reason, "SESSION_LIMIT_REACHED", "{refused:?}"),
            }
        }
        assert_eq!(granted.len(), 3, "round {round}");
        assert_eq!(playing(&clients[1], &account).await.len(), 3);
        // Each host renews sessions that the other host granted.
        for (number, session) in granted.iter().enumerate() {
            heartbeat(&clients[number % 2], &account, session).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn players_on_two_hosts_never_exceed_the_limit_or_lose_a_renewed_session() {
    const PLAYERS: usize = 8;
    let redis = RedisServer::start().await;
    let hosts = [(); 2].map(|()| Launch::redis(&redis).set("VIEWING_MAX_SESSIONS", "3").start());
    // Sessions that players may replace.
    let playing_now: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
    let mut players = tokio::task::JoinSet::new();
    for player in 0..PLAYERS {
        let wire = if player % 4 < 2 { Wire::Rest } else { Wire::Grpc };
        let client = hosts[player % 2].client(wire).await;
        let playing_now = Arc::clone(&playing_now);
        players.spawn(async move {
            let (mut granted, mut replaced) = (0, 0);
            for round in 0..60 {
                let other = playing_now.lock().unwrap().pop();
                let setup = json!({
                    "accountId": "home",
                    "deviceId": format!("device-{player}"),
                    "replace": other.as_slice(),
                });
                let session = match client.viewing("CreateSession", setup).await {
                    Ok(session) => session["sessionId"].as_str().unwrap().to_owned(),
                    Err(refused) => {
                        assert_eq!(refused.reason, "SESSION_LIMIT_REACHED");
                        continue;
                    }
                };
                granted += 1;
                playing_now.lock().unwrap().push(session.clone());
                // Nothing ends the session but another player who replaces it.
                let is_alive = async || match heartbeat(&client, "home", &session).await {
                    Ok(_) => true,
                    Err(refused) => {
                        assert_eq!(refused.reason, "SESSION_TERMINATED");
                        false
                    }
                };
                if !(is_alive().await && is_alive().await) {
                    replaced += 1;
                } else if round % 3 == player % 3 {
                    tear_down(&client, "home", &session).await.unwrap();
                }
            }
            (granted, replaced)
        });
    }
    let watcher = hosts[0].client(Wire::Rest).await;
    let (mut granted, mut replaced) = (0, 0);
    while !players.is_empty() {
        assert!(playing(&watcher, "home").await.len() <= 3);
        while let Some(ended) = players.try_join_next() {
            let (g, r) = ended.unwrap();
            granted += g;
            replaced += r;
        }
    }
    assert!(granted > 3 && replaced > 0, "{granted} granted, {replaced} replaced");
}

#[tokio::test]
async fn an_outage_never_looks_like_a_missing_session() {
    for wire in [Wire::Rest, Wire::Grpc] {
        let mut redis = RedisServer::start().await;
        let host = Launch::redis(&redis).start();
        let client = host.client(wire).await;
        let session = create(&client, "home", "tv").await.unwrap();
        let device = json!({ "deviceId": "tv", "accountId": "home" });
        client.viewing("CreateDevice", device).await.unwrap();
        redis.kill().await;
        for (operation, request) in [
            ("CreateSession", json!({ "accountId": "home", "deviceId": "tv" })),
            ("CreateSessionWithDevice", json!({ "deviceId": "tv" })),
            ("HeartBeat", json!({ "accountId": "home", "sessionId": session })),
            ("TearDown", json!({ "accountId": "home", "sessionId": session })),
            ("SetMaxSession", json!({ "accountId": "home", "maxNbOfSession": 1 })),
            ("GetHome", json!({ "accountId": "home" })),
            ("CreateDevice", json!({ "deviceId": "tv", "accountId": "home" })),
            ("DeleteDevice", json!({ "deviceId": "tv" })),
            ("GetDevice", json!({ "deviceId": "tv" })),
        ] {
            let refused = client.viewing(operation, request).await.unwrap_err();
            assert_eq!(
                (refused.reason.as_str(), refused.code),
                ("STORE_UNAVAILABLE", 14),
                "{operation}"
            );
            assert!(refused.retry, "{operation}");
        }
        redis.restart().await;
        let device = json!({ "deviceId": "tv" });
        wait::until("the service answers again", async || {
            client.viewing("GetDevice", device.clone()).await.ok()
        })
        .await;
    }
}
