//! Logins, the sessions of users: created, listed, changed, closed, and never brought back.
//! The helpers that their topics share are here.

mod attributes;
mod ends;
mod lists;
mod service;

use serde_json::{Value as Json, json};
use session_tests::client::{Client, Refusal};
use session_tests::redis_server::RedisServer;
use session_tests::wait;
use tokio::task::JoinSet;

async fn log_in(client: &Client, user_id: &str, device_id: &str) -> String {
    let attributes = json!({ "user_id": user_id, "device_id": device_id });
    let reply = client.users("Create", json!({ "session_attributes": attributes })).await.unwrap();
    reply["session_id"].as_str().unwrap().into()
}

async fn get(client: &Client, session_id: &str) -> Result<Json, Refusal> {
    client.users("Get", json!({ "session_id": session_id })).await
}

async fn update(client: &Client, session_id: &str, attributes: Json) -> Result<Json, Refusal> {
    let request = json!({ "session_id": session_id, "session_attributes": attributes });
    client.users("Update", request).await.map(|reply| reply["session"].clone())
}

async fn close(client: &Client, session_id: &str) -> Result<Json, Refusal> {
    client.users("Delete", json!({ "session_id": session_id })).await
}

async fn close_all(client: &Client, user_id: &str, keep: Option<&str>) -> Result<u64, Refusal> {
    let reply = client.users("DeleteAll", json!({ "user_id": user_id, "keep": keep })).await?;
    assert_eq!(reply["user_id"], user_id);
    Ok(reply["closed"].as_u64().unwrap())
}

/// The device and id of each session on the first page of a user.
async fn list(client: &Client, user_id: &str) -> Vec<(String, String)> {
    let page = client.users("List", json!({ "user_id": user_id })).await.unwrap();
    assert_eq!(page["user_id"], user_id);
    devices(&page)
}

fn devices(page: &Json) -> Vec<(String, String)> {
    let text = |value: &Json| value.as_str().unwrap().to_owned();
    let sessions = page["sessions"].as_array().unwrap().iter();
    sessions.map(|session| (text(&session["device_id"]), text(&session["session_id"]))).collect()
}

fn assert_not_found(result: Result<Json, Refusal>) {
    let refusal = result.unwrap_err();
    assert_eq!((refusal.reason.as_str(), refusal.code), ("SESSION_NOT_FOUND", 5), "{refusal:?}");
    assert!(refusal.http == 404 || refusal.http == 0);
}

/// All keys except the event logs, which never expire.
async fn keys(redis: &RedisServer) -> Vec<String> {
    let mut connection = redis.connect(5).await;
    let keys = redis::cmd("KEYS").arg("*").query_async::<Vec<String>>(&mut connection).await;
    keys.unwrap().into_iter().filter(|key| !key.starts_with("EVENTS:")).collect()
}

/// Waits until the sweeper has removed every expired session.
async fn nothing_is_left(redis: &RedisServer) {
    wait::until("the sweeper has removed everything", async || {
        keys(redis).await.is_empty().then_some(())
    })
    .await;
}

/// Creates `count` sessions of a user, many at a time.
async fn log_in_many_times(client: &Client, user_id: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::with_capacity(count);
    let mut creating = JoinSet::new();
    for share in 0..32 {
        let (client, user_id) = (client.clone(), user_id.to_owned());
        creating.spawn(async move {
            let mut ids = Vec::new();
            for number in (share..count).step_by(32) {
                ids.push(log_in(&client, &user_id, &format!("device-{number}")).await);
            }
            ids
        });
    }
    while let Some(created) = creating.join_next().await {
        ids.extend(created.unwrap());
    }
    ids
}
