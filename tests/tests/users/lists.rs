//! The logins of a user: listed in pages, on many devices, and closed together.

use std::collections::BTreeSet;
use std::time::Duration;

use prost_reflect::prost_types::Timestamp;
use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::Launch;
use session_tests::redis_server::RedisServer;
use session_tests::{size, wait};

use super::{
    assert_not_found, close, close_all, devices, get, keys, list, log_in, log_in_many_times,
    nothing_is_left,
};
use crate::everywhere::{Setting, everywhere};

everywhere!(
    a_user_logs_in_on_two_devices [],
    a_list_is_read_page_by_page [],
    closing_all_may_keep_one_session_of_the_same_user [],
);

async fn a_user_logs_in_on_two_devices(Setting { client, redis, .. }: Setting) {
    let phone = log_in(&client, "user007", "phone").await;
    wait::next_millisecond().await;
    let laptop = log_in(&client, "user007", "laptop").await;
    log_in(&client, "other", "phone").await;
    let on = |device: &str, id: &str| (device.to_owned(), id.to_owned());
    let both = [on("laptop", &laptop), on("phone", &phone)];
    assert_eq!(list(&client, "user007").await, both);
    let by_id = client.users("ListById", json!({ "user_id": "user007" })).await.unwrap();
    let by_id = by_id["sessions"].as_object().unwrap();
    assert_eq!(by_id.len(), 2);
    assert_eq!(by_id[&phone]["device_id"], "phone");
    assert_eq!(by_id[&phone]["create_date"], by_id[&phone]["update_date"]);

    let session = get(&client, &phone).await.unwrap();
    let unset = ["auth_code", "access_token", "refresh_token", "user_email"];
    assert!(unset.iter().all(|name| session[name] == ""), "{session}");
    assert_eq!((&session["user_id"], &session["expiration_time"]), (&json!("user007"), &json!(0)));
    assert_eq!(session["created_at"], session["updated_at"]);
    // A session lives for 365 days.
    let instant = |name: &str| session[name].as_str().unwrap().parse::<Timestamp>().unwrap();
    let lifetime = instant("expires_at").seconds - instant("created_at").seconds;
    assert_eq!(lifetime, 365 * 24 * 3600);

    assert_eq!(close(&client, &phone).await.unwrap(), json!({ "session_id": phone }));
    assert_not_found(get(&client, &phone).await);
    assert_not_found(close(&client, &phone).await);
    assert_eq!(list(&client, "user007").await, [on("laptop", &laptop)]);

    wait::next_millisecond().await;
    let tablet = log_in(&client, "user007", "tablet").await;
    log_in(&client, "user007", "tv").await;
    assert_eq!(close_all(&client, "user007", Some(&tablet)).await, Ok(2));
    assert_eq!(list(&client, "user007").await, [on("tablet", &tablet)]);
    assert_eq!(close_all(&client, "user007", None).await, Ok(1));
    assert_eq!(close_all(&client, "user007", None).await, Ok(0));
    assert_eq!(list(&client, "user007").await, []);
    assert_not_found(get(&client, &tablet).await);
    assert_eq!(list(&client, "other").await.len(), 1);
    if let Some(redis) = redis {
        // The session of the other user is left: its record, its entries in two lists, and its
        // entry in the expiry queue.
        assert_eq!(keys(&redis).await.len(), 4);
    }
}

async fn a_list_is_read_page_by_page(Setting { client, .. }: Setting) {
    let mut expected = Vec::new();
    for n in 0..25 {
        // Some sessions begin in the same millisecond, but the first one has its own.
        if n % 3 == 0 || n == 1 {
            wait::next_millisecond().await;
        }
        expected.push(log_in(&client, "u", &format!("device-{n}")).await);
    }
    for size in [1, 7, 24, 25, 1000, 100_000] {
        let (mut seen, mut token) = (Vec::new(), String::new());
        loop {
            let request = json!({ "user_id": "u", "page_size": size, "page_token": token });
            let page = client.users("List", request).await.unwrap();
            seen.extend(devices(&page));
            token = page["next_page_token"].as_str().unwrap().into();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen.len(), 25, "by {size}");
        assert_eq!(seen[24].0, "device-0", "the oldest comes last");
        let ids: BTreeSet<&String> = seen.iter().map(|(_, id)| id).collect();
        assert_eq!(ids, expected.iter().collect(), "by {size}");
    }
}

async fn closing_all_may_keep_one_session_of_the_same_user(Setting { client, .. }: Setting) {
    let mine = log_in(&client, "u", "phone").await;
    let others = log_in(&client, "v", "phone").await;
    for stranger in ["", others.as_str(), "nonsense", &mine.replace(&mine[20..], &"x".repeat(44))] {
        let refusal = close_all(&client, "u", Some(stranger)).await.unwrap_err();
        assert_eq!(refusal.reason, "SESSION_NOT_FOUND");
        assert!(stranger.is_empty() || !refusal.message.contains(stranger));
    }
    assert!(get(&client, &mine).await.is_ok() && get(&client, &others).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_list_is_complete_while_other_sessions_come_and_go() {
    let redis = RedisServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    for launch in [Launch::redis(&redis), Launch::embedded(directory.path())] {
        let host = launch.start();
        let client = host.client(Wire::Grpc).await;
        let count = size(1_000, 10_000);
        let kept: BTreeSet<String> =
            log_in_many_times(&client, "u", count).await.into_iter().collect();
        let churning = {
            let client = client.clone();
            tokio::spawn(async move {
                loop {
                    let id = log_in(&client, "u", "passing").await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    close(&client, &id).await.unwrap();
                    log_in(&client, "u", "new").await;
                }
            })
        };
        for size in [100, 997] {
            let (mut seen, mut token) = (Vec::new(), String::new());
            loop {
                let request = json!({ "user_id": "u", "page_size": size, "page_token": token });
                let page = client.users("List", request).await.unwrap();
                seen.extend(devices(&page).into_iter().map(|(_, id)| id));
                token = page["next_page_token"].as_str().unwrap().into();
                if token.is_empty() {
                    break;
                }
            }
            let listed = seen.len();
            let seen: BTreeSet<String> = seen.into_iter().collect();
            assert_eq!(seen.len(), listed, "a session is listed twice");
            assert!(seen.is_superset(&kept), "a session is missing");
        }
        churning.abort();
        assert!(churning.await.unwrap_err().is_cancelled(), "sessions came and went");
        let all = client.users("ListById", json!({ "user_id": "u" })).await.unwrap();
        assert!(all["sessions"].as_object().unwrap().len() >= kept.len());
        assert!(close_all(&client, "u", None).await.unwrap() >= count as u64);
        assert_eq!(list(&client, "u").await, []);
    }
    nothing_is_left(&redis).await;
}
