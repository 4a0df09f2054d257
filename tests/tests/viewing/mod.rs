//! Viewing sessions: which devices may play in a home, how many at a time, and when a slot
//! becomes free. The helpers that the topics share are here.

mod hosts;
mod model;
mod rest;
mod slots;

use serde_json::{Value as Json, json};
use session_tests::client::{Client, Refusal};
use session_tests::wait;

async fn create(client: &Client, account: &str, device: &str) -> Result<String, Refusal> {
    // A home lists its oldest session first, so each one begins in its own millisecond.
    wait::next_millisecond().await;
    let request = json!({ "accountId": account, "deviceId": device });
    let session = client.viewing("CreateSession", request).await?;
    assert_eq!(session["accountId"], account);
    Ok(session["sessionId"].as_str().unwrap().into())
}

async fn heartbeat(client: &Client, account: &str, session: &str) -> Result<Json, Refusal> {
    client.viewing("HeartBeat", json!({ "accountId": account, "sessionId": session })).await
}

async fn tear_down(client: &Client, account: &str, session: &str) -> Result<Json, Refusal> {
    client.viewing("TearDown", json!({ "accountId": account, "sessionId": session })).await
}

/// The devices that play in a home.
async fn playing(client: &Client, account: &str) -> Vec<String> {
    wait::next_millisecond().await;
    let home = client.viewing("GetHome", json!({ "accountId": account })).await.unwrap();
    let sessions = home["sessions"].as_array().unwrap().iter();
    sessions.map(|session| session["deviceId"].as_str().unwrap().to_owned()).collect()
}
