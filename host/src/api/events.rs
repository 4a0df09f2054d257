//! What happens to sessions, for those who want to hear of it.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::api::streams::{self, Item, Items};
use crate::api::{Api, given, timestamp};
use crate::error::{Error, Reason};
use crate::events::{self, Place, Silence, Subscription, Told};
use crate::proto::session::events::v1;
use crate::proto::session::events::v1::subscribe_reply::Item as Reply;
use crate::store;

/// How often something is sent when nothing happens.
const ALIVE: Duration = Duration::from_secs(15);
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
) -> Result<Items<v1::SubscribeReply>, Error> {
    let v1::SubscribeRequest { types, user_id, after } = request;
    let wanted = Wanted { types: chosen(api, &types).await?, user_id: given(user_id) };
    let no_place = |_| Error::invalid("after", "is not the id of an event");
    let after: Option<Place> =
        given(after).map(|after| after.parse().map_err(no_place)).transpose()?;
    let place = api.streams.subscription()?;
    let subscription = api.feed.subscribe(after).await?;
    let (teller, items) = streams::channel();
    let telling = tell(api.clone(), subscription, wanted, teller);
    tokio::spawn(async move {
        telling.await;
        drop(place);
    });
    Ok(items)
}

/// Which events somebody wants.
struct Wanted {
    /// Of these types; of all when there are none.
    types: Vec<String>,
    /// Of this user or account; of all without one.
    user_id: Option<String>,
}

impl Wanted {
    fn has(&self, event: &events::Event) -> bool {
        let type_ = event.text("type");
        let of_type = self.types.is_empty() || self.types.iter().any(|wanted| wanted == type_);
        of_type && self.user_id.as_deref().is_none_or(|user_id| user_id == event.text("user_id"))
    }
}

/// The types that are meant: those named, and all of the kinds named.
async fn chosen(api: &Api, types: &[String]) -> Result<Vec<String>, Error> {
    let names: Vec<&str> = types.iter().flat_map(|types| types.split(',')).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if names.len() > TYPES_MAX {
        let description = format!("has {} types, at most {TYPES_MAX} are accepted", names.len());
        return Err(Error::invalid("types", description));
    }
    let known = api.logic.describe_logs().await?.types;
    let mut chosen = Vec::new();
    for name in names {
        let before = chosen.len();
        let is_meant = |known: &&String| {
            known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        chosen.extend(known.iter().filter(is_meant).cloned());
        if name.is_empty() || chosen.len() == before {
            let description =
                format!("has one that is neither a kind nor one of {}", known.join(", "));
            return Err(Error::invalid("types", description));
        }
    }
    Ok(chosen)
}

/// Tells what happens until whoever listens leaves, or the service stops.
async fn tell(
    api: Api,
    mut subscription: Subscription,
    wanted: Wanted,
    teller: streams::Sender<v1::SubscribeReply>,
) {
    let mut stopping = pin!(api.streams.stopping());
    let mut alive = Instant::now() + ALIVE;
    loop {
        let told = tokio::select! {
            () = teller.closed() => return,
            () = &mut stopping => {
                let closing = v1::Closing { reason: streams::STOPPING.into() };
                let reply = v1::SubscribeReply { item: Some(Reply::Closing(closing)) };
                // One who is slow to take what came before does not hear of it.
                drop(teller.try_send(Item::Reply(reply)));
                return;
            }
            () = tokio::time::sleep_until(alive) => {
                if teller.send(Item::Alive).await.is_err() {
                    return;
                }
                alive += ALIVE;
                continue;
            }
            told = subscription.next() => told,
        };
        let told = match told {
            Ok(told) => told,
            Err(silence) => {
                tracing::debug!(?silence, "a subscription waits for the store");
                tokio::time::sleep(api.streams.pause()).await;
                continue;
            }
        };
        for told in told {
            let item = match told {
                Told::Event(event) if !wanted.has(&event) => continue,
                Told::Event(event) => Reply::Event(event_of(&event)),
                Told::Gap(after) => Reply::Gap(v1::Gap { after: after.to_string() }),
            };
            let reply = v1::SubscribeReply { item: Some(item) };
            // Whoever is slow waits here, and holds nobody else up.
            let sent = tokio::select! {
                sent = teller.send(Item::Reply(reply)) => sent,
                () = &mut stopping => return,
            };
            if sent.is_err() {
                return;
            }
            alive = Instant::now() + ALIVE;
        }
    }
}

fn event_of(event: &events::Event) -> v1::Event {
    let text = |field: &str| event.text(field).to_owned();
    v1::Event {
        id: event.place.to_string(),
        r#type: text("type"),
        time: Some(timestamp(event.place.id.milliseconds)),
        user_id: text("user_id"),
        session_id: text("session_id"),
        session_hash: text("session_hash"),
        device_id: text("device_id"),
        pod_id: text("pod_id"),
        reason: text("reason"),
        by: text("by"),
    }
}

impl From<Silence> for Error {
    fn from(silence: Silence) -> Self {
        match silence {
            Silence::Logic(failure) => failure.into(),
            Silence::Store(
                store::Error::Unavailable(message) | store::Error::Rejected(message),
            ) => Self::new(Reason::StoreUnavailable, message),
        }
    }
}
