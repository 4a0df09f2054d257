//! What happens to sessions, for those who want to hear of it.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Instrument;

use crate::api::streams::{self, Replies};
use crate::api::{Api, given, timestamp};
use crate::error::{Error, Reason, Violation};
use crate::events::{self, Cursor, FeedItem, ReadError, Subscription};
use crate::proto::session::events::v1;
use crate::proto::session::events::v1::subscribe_reply::Item as Reply;

/// How often something is sent when nothing happens.
const ALIVE: Duration = Duration::from_secs(15);
/// How long one who has something to read may take until he hears that it is the end.
const CLOSING: Duration = Duration::from_secs(1);
/// The most bytes of the id of a user.
const USER_BYTES_MAX: usize = 256;
/// The most types that can be asked for.
const TYPES_MAX: usize = 64;

/// Subscribes to events.
///
/// # Errors
/// `INVALID_REQUEST`; `OVERLOADED` when there are as many subscriptions as may be; or the
/// service itself.
pub async fn subscribe(
    api: &Api,
    request: v1::SubscribeRequest,
) -> Result<Replies<v1::SubscribeReply>, Error> {
    let v1::SubscribeRequest { types, user_id, after } = request;
    let mut violations = Vec::new();
    let mut violate = |field: &str, description: String| {
        violations.push(Violation { field: field.into(), description });
    };
    let types = chosen(api, &types).await?.unwrap_or_else(|description| {
        violate("types", description);
        Vec::new()
    });
    if user_id.len() > USER_BYTES_MAX || user_id.chars().any(char::is_control) {
        let description = "must be at most 256 bytes of text without control characters";
        violate("user_id", description.into());
    }
    let after: Option<Cursor> = given(after).and_then(|after| {
        let place = after.parse().ok();
        if place.is_none() {
            violate("after", "is not the id of an event".into());
        }
        place
    });
    if !violations.is_empty() {
        return Err(Error::violations(violations));
    }
    let wanted = Wanted { types, user_id: given(user_id) };
    let place = api.streams.subscription()?;
    let subscription = api.feed.subscribe(after).await?;
    let (teller, replies) = streams::channel();
    let telling = tell(api.clone(), subscription, wanted, teller);
    let telling = async move {
        telling.await;
        drop(place);
    };
    // What it logs is of this request.
    tokio::spawn(telling.in_current_span());
    Ok(replies)
}

/// Which events somebody wants.
struct Wanted {
    /// Of these types; of all when there are none.
    types: Vec<String>,
    /// Of this user or account; of all without one.
    user_id: Option<String>,
}

impl Wanted {
    fn has(&self, event: &events::FeedEvent) -> bool {
        let type_ = event.text("type");
        let of_type = self.types.is_empty() || self.types.iter().any(|wanted| wanted == type_);
        of_type && self.user_id.as_deref().is_none_or(|user_id| user_id == event.text("user_id"))
    }
}

/// The types that are meant: those named, and all of the kinds named; or what is wrong.
async fn chosen(api: &Api, types: &[String]) -> Result<Result<Vec<String>, String>, Error> {
    let names = types.iter().flat_map(|types| types.split(','));
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    if names.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    if names.len() > TYPES_MAX {
        let description = format!("has {} types, at most {TYPES_MAX} are accepted", names.len());
        return Ok(Err(description));
    }
    let known = api.logic.describe_logs().await?.types;
    let mut chosen = Vec::new();
    for name in names {
        let before = chosen.len();
        let is_meant = |known: &&String| {
            known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        chosen.extend(known.iter().filter(is_meant).cloned());
        if chosen.len() == before {
            let known = known.join(", ");
            return Ok(Err(format!("has one that is neither a kind nor one of {known}")));
        }
    }
    Ok(Ok(chosen))
}

/// Tells what happens until whoever listens leaves, or the service stops.
async fn tell(
    api: Api,
    subscription: Subscription,
    wanted: Wanted,
    teller: mpsc::Sender<v1::SubscribeReply>,
) {
    tokio::select! {
        () = tell_on(&api, subscription, &wanted, &teller) => {}
        () = teller.closed() => {}
        () = api.streams.stopping() => {
            let closing = v1::Closing { reason: streams::STOPPING.into() };
            let reply = v1::SubscribeReply { item: Some(Reply::Closing(closing)) };
            // One who is slow to take what came before does not hear of it.
            drop(teller.send_timeout(reply, CLOSING).await);
        }
    }
}

/// Tells what happens for as long as it is taken.
async fn tell_on(
    api: &Api,
    mut subscription: Subscription,
    wanted: &Wanted,
    teller: &mpsc::Sender<v1::SubscribeReply>,
) {
    // One that has seen nothing yet comes back to where it began.
    let mut alive = Instant::now();
    loop {
        let told = tokio::select! {
            () = tokio::time::sleep_until(alive) => {
                let position = v1::Position { after: subscription.cursor().to_string() };
                let reply = v1::SubscribeReply { item: Some(Reply::Position(position)) };
                // One who is slow has enough to read.
                drop(teller.try_send(reply));
                alive = Instant::now() + ALIVE;
                continue;
            }
            told = subscription.next() => told,
        };
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                tracing::debug!(?error, "a subscription waits for the store");
                tokio::time::sleep(api.streams.pause()).await;
                continue;
            }
        };
        for told in told {
            let item = match told {
                FeedItem::Event(event) if !wanted.has(&event) => continue,
                FeedItem::Event(event) => Reply::Event(event_of(&event)),
                FeedItem::Gap(after) => Reply::Gap(v1::Gap { after: after.to_string() }),
            };
            let reply = v1::SubscribeReply { item: Some(item) };
            // Whoever is slow waits here, and holds nobody else up.
            if teller.send(reply).await.is_err() {
                return;
            }
            alive = Instant::now() + ALIVE;
        }
    }
}

fn event_of(event: &events::FeedEvent) -> v1::Event {
    let text = |field: &str| event.text(field).to_owned();
    v1::Event {
        id: event.cursor.to_string(),
        r#type: text("type"),
        time: Some(timestamp(event.cursor.id.milliseconds)),
        user_id: text("user_id"),
        session_id: text("session_id"),
        session_hash: text("session_hash"),
        device_id: text("device_id"),
        pod_id: text("pod_id"),
        reason: text("reason"),
        by: text("by"),
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Logic(failure) => failure.into(),
            ReadError::Store(
                session_store::Error::Unavailable(message) | session_store::Error::Full(message),
            ) => Self::new(Reason::StoreUnavailable, message),
            ReadError::Store(session_store::Error::Rejected(message)) => {
                Self::new(Reason::LogicFailed, message)
            }
        }
    }
}
