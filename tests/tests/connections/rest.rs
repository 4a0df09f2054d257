//! What REST accepts and replies beside the calls: the paths of the original service, and
//! what browsers send when they reconnect.

use serde_json::json;
use session_tests::client::{EventStream, Wire};
use session_tests::host::Launch;

use super::{log_in, presence, register_as};

#[tokio::test]
async fn rest_replies_as_clients_of_the_original_service_expect() {
    let host = Launch::in_memory().set("CONNECTION_HEARTBEAT", "200ms").start();
    let http = session_tests::http();
    let client = host.client(Wire::Rest).await;
    let url = host.url("rest", "/api/sse/connect?userId=alice&sessionId=tab");
    let mut stream = EventStream::get(http.get(url)).await.unwrap();
    let connected = stream.next().await.unwrap();
    assert_eq!((connected.name.as_str(), connected.id.as_str()), ("connected", "tab"));
    assert_eq!(stream.next().await.unwrap().name, "heartbeat");
    let disconnect =
        |query: &str| http.post(host.url("rest", &format!("/api/sse/disconnect{query}")));
    // Another user cannot disconnect it.
    let answer = disconnect("?userId=bob&sessionId=tab").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.text().await.unwrap().as_str()), (200, "{}\n"));
    assert_eq!(presence(&client, "alice").await, (true, 1));
    let answer = disconnect("").json(&json!({ "userId": "alice", "sessionId": "tab" })).send();
    assert_eq!(answer.await.unwrap().status(), 200);
    stream.next_named("terminated").await;
    assert_eq!(presence(&client, "alice").await, (false, 0));
    // A browser that reconnects sends the id of the last event, which is its connection.
    let url = host.url("rest", "/v1/connect?user_id=alice");
    let stream = EventStream::get(http.get(&url).header("Last-Event-ID", "tab")).await;
    assert_eq!(stream.unwrap().next().await.unwrap().data["session_id"], "tab");
    // A subscriber that has received no event resumes from the position of its start.
    let url = host.url("rest", "/v1/events?types=&user_id=carol");
    let mut early = http.get(&url).send().await.unwrap();
    let head = early.chunk().await.unwrap().unwrap();
    let position = std::str::from_utf8(&head).unwrap().strip_prefix("id: ").unwrap().trim();
    drop(early);
    register_as(&client, "carol", "pod", "tab-of-carol").await.unwrap();
    let again = EventStream::get(http.get(&url).header("Last-Event-ID", position)).await;
    assert_eq!(again.unwrap().next().await.unwrap().data["session_id"], "tab-of");
    // One that has received an event resumes after it, whatever `after` says.
    let mut events = client.subscribe(json!({})).await.unwrap();
    log_in(&client, 0..1, 2).await;
    let first = events.next_named("user.created").await.id;
    let url = host.url("rest", &format!("/v1/events?types=user&after={position}"));
    let mut again = EventStream::get(http.get(&url).header("last-event-id", &first)).await.unwrap();
    assert_eq!(again.next().await.unwrap().data["device_id"], "1");
    for (path, status) in [
        ("/v1/connect", 400),
        ("/v1/connect?user_id=a&colour=red", 400),
        ("/v1/connect?user_id=", 400),
        ("/v1/events?after=x", 400),
        ("/v1/events?after=18446744073709551615-18446744073709551615-63", 400),
        ("/v1/connections/stats?x=1", 400),
    ] {
        let answer = http.get(host.url("rest", path)).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
    }
    let answer = http.post(host.url("rest", "/v1/connect")).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()),
        (405, "GET, OPTIONS")
    );
}
