//! A subscriber of the mixed load. It keeps a cursor, and resumes from it on the next host or
//! wire whenever a call ends.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::caller::Stage;
use crate::client::StreamEvent;
use crate::history::event::{Received, Subscriber};

/// The pause before it subscribes again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it waits for an event. The load publishes events all the time.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Records what it receives, until it has received the last event of the load. Then it adds
/// its record to the history.
pub async fn subscribe(stage: Stage, number: usize) {
    let mut cursor: Option<Json> = None;
    let mut subscriber = Subscriber::default();
    for at in number.. {
        let client = &stage.clients[at % stage.clients.len()];
        let request = match &cursor {
            Some(cursor) => json!({ "after": cursor }),
            None => json!({}),
        };
        let opened = tokio::time::timeout(SILENCE_MAX, client.subscribe(request)).await;
        if let Ok(Ok(mut events)) = opened {
            while let Ok(Some(event)) =
                tokio::time::timeout(SILENCE_MAX, events.next_unlimited()).await
            {
                let now = stage.recorder.now();
                let is_last = event.data["user_id"] == super::LAST_USER;
                if let Some(received) = received(&event, now) {
                    if let Received::Event { .. } = received {
                        // From the first event on, there is a cursor to resume from.
                        if cursor.replace(event.data["id"].clone()).is_none() {
                            subscriber.since = now;
                        }
                    }
                    subscriber.received.push(received);
                }
                if is_last {
                    stage.recorder.add(|history| history.subscribers.push(subscriber));
                    return;
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn received(event: &StreamEvent, now: Duration) -> Option<Received> {
    let text = |name: &str| event.data[name].as_str().unwrap_or_default();
    match event.name.as_str() {
        "gap" => Some(Received::Gap(now)),
        "closing" => None,
        name => Some(Received::Event {
            subject: text("user_id").into(),
            event: format!("{name} {}", text("session_hash")),
        }),
    }
}
