//! A subscriber of the mixed load: one place in the feed, to which it comes back on the next
//! host or wire whenever a call ends.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::caller::Stage;
use crate::client::Told;
use crate::history::event::{Received, Subscriber};

/// Before it subscribes again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long it waits for anything, while something happens all the time.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Records what it receives until the load has ended and the last event of it is there. The
/// history has it then.
pub async fn subscribe(stage: Stage, number: usize) {
    let mut place: Option<Json> = None;
    let mut subscriber = Subscriber::default();
    for at in number.. {
        let client = &stage.clients[at % stage.clients.len()];
        let request = match &place {
            Some(place) => json!({ "after": place }),
            None => json!({}),
        };
        let opened = tokio::time::timeout(SILENCE_MAX, client.subscribe(request)).await;
        if let Ok(Ok(mut events)) = opened {
            while let Ok(Some(told)) = tokio::time::timeout(SILENCE_MAX, events.any()).await {
                let now = stage.recorder.now();
                let is_last = told.data["user_id"] == super::LAST_USER;
                if let Some(received) = received(&told, now) {
                    if let Received::Event { .. } = received {
                        // From here on, there is a place to come back to.
                        if place.replace(told.data["id"].clone()).is_none() {
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

fn received(told: &Told, now: Duration) -> Option<Received> {
    let text = |name: &str| told.data[name].as_str().unwrap_or_default();
    match told.name.as_str() {
        "gap" => Some(Received::Gap(now)),
        "closing" => None,
        name => Some(Received::Event {
            subject: text("user_id").into(),
            event: format!("{name} {}", text("session_hash")),
        }),
    }
}
