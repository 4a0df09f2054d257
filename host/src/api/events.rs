//! Events of sessions, for subscribers.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::Instrument;

use crate::api::streams::{self, Replies};
use crate::api::{Api, given, timestamp};
use crate::error::{Error, Reason, Violation};
use crate::events::{self, Cursor, FeedItem, ReadError, Subscription};
use crate::logic::Failure;
use crate::proto::session::events::v1;
use crate::proto::session::events::v1::subscribe_reply::Item as Reply;

/// How often a position is sent when no event happens.
const ALIVE: Duration = Duration::from_secs(15);
/// How long a slow subscriber has to read what is waiting before it receives the closing.
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
        let cursor = after.parse().ok();
        if cursor.is_none() {
            violate("after", "is not the id of an event".into());
        }
        cursor
    });
    if !violations.is_empty() {
        return Err(Error::violations(violations));
    }
    let filter = Filter { types, user_id: given(user_id) };
    let permit = api.streams.subscription()?;
    let subscription = api.feed.subscribe(after).await?;
    let (sender, replies) = streams::channel();
    let sending = send_until_closed(api.clone(), subscription, filter, sender);
    let sending = async move {
        sending.await;
        drop(permit);
    };
    // Its log lines belong to this request.
    tokio::spawn(sending.in_current_span());
    Ok(replies)
}

/// Which events a subscriber receives.
struct Filter {
    /// The types; all types when there are none.
    types: Vec<String>,
    /// The user or account; all of them without one.
    user_id: Option<String>,
}

impl Filter {
    fn has(&self, event: &events::FeedEvent) -> bool {
        let type_ = event.text("type");
        let of_type = self.types.is_empty() || self.types.iter().any(|accepted| accepted == type_);
        of_type && self.user_id.as_deref().is_none_or(|user_id| user_id == event.text("user_id"))
    }
}

/// The types that a request names, with all types of the kinds that it names; or the violation.
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
    let all = api.logic.describe_logs().await?.types;
    let mut chosen = Vec::new();
    for name in names {
        let before = chosen.len();
        let is_named = |type_: &&String| {
            type_.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        chosen.extend(all.iter().filter(is_named).cloned());
        if chosen.len() == before {
            let all = all.join(", ");
            return Ok(Err(format!("has one that is neither a kind nor one of {all}")));
        }
    }
    Ok(Ok(chosen))
}

/// Sends events until the subscriber leaves, or the service stops.
async fn send_until_closed(
    api: Api,
    subscription: Subscription,
    filter: Filter,
    sender: mpsc::Sender<v1::SubscribeReply>,
) {
    tokio::select! {
        () = send_events(&api, subscription, &filter, &sender) => {}
        () = sender.closed() => {}
        () = api.streams.stopping() => close(&sender, streams::STOPPING).await,
    }
}

/// Announces the end of a subscription. A subscriber that is too slow does not receive it.
async fn close(sender: &mpsc::Sender<v1::SubscribeReply>, reason: &str) {
    let closing = v1::Closing { reason: reason.into() };
    let reply = v1::SubscribeReply { item: Some(Reply::Closing(closing)) };
    drop(sender.send_timeout(reply, CLOSING).await);
}

/// Sends events as long as the subscriber takes them.
async fn send_events(
    api: &Api,
    mut subscription: Subscription,
    filter: &Filter,
    sender: &mpsc::Sender<v1::SubscribeReply>,
) {
    // The first position is sent at once: with it, a subscriber that has seen no event yet can
    // continue where it began.
    let mut alive = Instant::now();
    loop {
        let items = tokio::select! {
            () = tokio::time::sleep_until(alive) => {
                let position = v1::Position { after: subscription.cursor().to_string() };
                let reply = v1::SubscribeReply { item: Some(Reply::Position(position)) };
                // A slow subscriber has items to read, and needs no position.
                drop(sender.try_send(reply));
                alive = Instant::now() + ALIVE;
                continue;
            }
            items = subscription.next() => items,
        };
        let items = match items {
            Ok(items) => items,
            Err(ReadError::Logic(Failure::NotServed(_))) => {
                return close(sender, Reason::NotServed.row().name).await;
            }
            Err(error) => {
                tracing::debug!(?error, "a subscription waits for the store");
                tokio::time::sleep(api.streams.pause()).await;
                continue;
            }
        };
        for item in items {
            let item = match item {
                FeedItem::Event(event) if !filter.has(&event) => continue,
                FeedItem::Event(event) => Reply::Event(event_of(&event)),
                FeedItem::Gap(after) => Reply::Gap(v1::Gap { after: after.to_string() }),
            };
            let reply = v1::SubscribeReply { item: Some(item) };
            // A slow subscriber waits here, and delays no other.
            if sender.send(reply).await.is_err() {
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
