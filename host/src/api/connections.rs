//! Connections of users.

use std::pin::pin;

use prost_types::value::Kind;
use tokio::sync::{mpsc, oneshot};
use tracing::Instrument;

use crate::api::streams::{self, Replies};
use crate::api::{Api, given, timestamp};
use crate::error::{Error, Reason};
use crate::logic::Failure;
use crate::logic::connections::Connection;
use crate::proto::session::connections::v1;
use crate::proto::session::connections::v1::connect_reply::Event;

/// About how many connections a page has when the request does not say.
const PAGE_SIZE: usize = 1000;
/// The most that can be asked for.
const PAGE_SIZE_MAX: usize = 10_000;
/// The name for a user who closes the own connection.
const USER: &str = "user";
/// Who ends connections when the request does not say.
const ADMINISTRATOR: &str = "administrator";

/// Registers a connection.
///
/// # Errors
/// `INVALID_REQUEST`, `SESSION_EXISTS`, `SESSION_TERMINATED`, `SESSION_LIMIT_REACHED`, or
/// the service itself.
pub async fn register(api: &Api, request: v1::RegisterRequest) -> Result<v1::Connection, Error> {
    let v1::RegisterRequest { user_id, pod_id, session_id } = request;
    let session_id = given(session_id);
    let registered = api.logic.connections_register(&user_id, &pod_id, session_id.as_deref());
    Ok(connection(registered.await?))
}

/// Reads a connection that is alive.
///
/// # Errors
/// `INVALID_REQUEST`, `SESSION_NOT_FOUND`, `SESSION_EXPIRED`, `SESSION_TERMINATED`, or the
/// service itself.
pub async fn get(api: &Api, request: v1::GetRequest) -> Result<v1::Connection, Error> {
    Ok(connection(api.logic.connections_get(&request.session_id, None, None).await?))
}

/// Keeps a connection for another lifetime.
///
/// # Errors
/// As [`get`].
pub async fn heartbeat(api: &Api, request: v1::HeartbeatRequest) -> Result<v1::Connection, Error> {
    let kept = api.logic.connections_heartbeat(&request.session_id, None, None);
    Ok(connection(kept.await?))
}

/// Keeps connections of a pod.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn heartbeat_pod(
    api: &Api,
    request: v1::HeartbeatPodRequest,
) -> Result<v1::HeartbeatPodReply, Error> {
    let v1::HeartbeatPodRequest { pod_id, session_ids } = request;
    let text = |value: prost_types::Value| match value.kind {
        Some(Kind::StringValue(text)) => Ok(text),
        _ => Err(Error::invalid("session_ids", "has an item that is no string")),
    };
    let session_ids: Option<Vec<String>> = session_ids
        .map(|list| list.values.into_iter().map(text).collect::<Result<_, _>>())
        .transpose()?;
    let mut reply = v1::HeartbeatPodReply::default();
    let mut cursor = Some(String::new());
    while let Some(at) = cursor {
        let ids = session_ids.as_deref();
        let kept = api.logic.connections_heartbeat_pod(&pod_id, ids, &at).await?;
        reply.kept += kept.kept;
        reply.gone.extend(kept.gone);
        cursor = kept.next;
    }
    Ok(reply)
}

/// Closes a connection, whether or not it is alive.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn close(api: &Api, request: v1::CloseRequest) -> Result<v1::CloseReply, Error> {
    let v1::CloseRequest { session_id, reason, user_id } = request;
    let user_id = given(user_id);
    api.logic.connections_close(&session_id, &reason, USER, user_id.as_deref(), None).await?;
    Ok(v1::CloseReply {})
}

/// The connections of a user.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn list_by_user(
    api: &Api,
    request: v1::ListByUserRequest,
) -> Result<v1::ListByUserReply, Error> {
    let connections = api.logic.connections_of_user(&request.user_id).await?;
    Ok(v1::ListByUserReply { connections: connections.into_iter().map(connection).collect() })
}

/// Ends all connections of a user.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn terminate(
    api: &Api,
    request: v1::TerminateRequest,
) -> Result<v1::TerminateReply, Error> {
    let v1::TerminateRequest { user_id, reason, by } = request;
    let by = if by.is_empty() { ADMINISTRATOR } else { &by };
    let terminated = api.logic.connections_terminate(&user_id, &reason, by).await?;
    Ok(v1::TerminateReply { user_id, terminated })
}

/// Whether a user is online.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn get_presence(
    api: &Api,
    request: v1::GetPresenceRequest,
) -> Result<v1::Presence, Error> {
    let connections = api.logic.connections_presence(&request.user_id).await?;
    Ok(v1::Presence { online: connections > 0, connections })
}

/// Connections of a pod.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn list_by_pod(
    api: &Api,
    request: v1::ListByPodRequest,
) -> Result<v1::ListByPodReply, Error> {
    let v1::ListByPodRequest { pod_id, page_size, page_token } = request;
    let size = match usize::try_from(page_size) {
        Ok(0) => PAGE_SIZE,
        Ok(size) => size.min(PAGE_SIZE_MAX),
        Err(_) => return Err(Error::invalid("page_size", "must not be negative")),
    };
    let mut cursor = Some(page_token);
    let mut connections = Vec::new();
    while let Some(at) = cursor.take_if(|_| connections.len() < size) {
        let page = api.logic.connections_of_pod(&pod_id, &at).await;
        let page = page.map_err(|failure| of_page(failure.into()))?;
        connections.extend(page.connections.into_iter().map(connection));
        cursor = page.next;
    }
    Ok(v1::ListByPodReply { connections, next_page_token: cursor.unwrap_or_default() })
}

/// An error of a part in the words of the request for a page.
fn of_page(mut error: Error) -> Error {
    for violation in error.violations.iter_mut().filter(|violation| violation.field == "cursor") {
        violation.field = "page_token".into();
        violation.description = "is not the next_page_token of an earlier page".into();
    }
    if error.violations.is_empty() { error } else { Error::violations(error.violations) }
}

/// Closes the connections of a pod that is gone.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn drain(api: &Api, request: v1::DrainRequest) -> Result<v1::DrainReply, Error> {
    let v1::DrainRequest { pod_id, reason } = request;
    let mut closed = 0;
    let mut cursor = Some(String::new());
    while let Some(at) = cursor {
        let drained = api.logic.connections_drain(&pod_id, &reason, &at).await?;
        closed += drained.closed;
        cursor = drained.next;
    }
    Ok(v1::DrainReply { pod_id, closed })
}

/// Counts connections.
///
/// # Errors
/// The service itself.
pub async fn get_stats(api: &Api, _: v1::GetStatsRequest) -> Result<v1::Stats, Error> {
    let mut stats = v1::Stats::default();
    let mut pods = std::collections::BTreeMap::<String, (u32, u32)>::new();
    let mut cursor = Some(String::new());
    while let Some(at) = cursor {
        let count = api.logic.connections_stats(&at).await?;
        stats.connections += count.connections;
        stats.users_online += count.users;
        for pod in count.pods {
            let (connections, users) = pods.entry(pod.pod_id).or_default();
            *connections += pod.connections;
            *users += pod.users;
        }
        cursor = count.next;
    }
    let pod = |(pod_id, (connections, users))| v1::PodStats { pod_id, connections, users };
    stats.pods = pods.into_iter().map(pod).collect();
    Ok(stats)
}

/// Registers a connection and holds it until its client leaves.
///
/// # Errors
/// As [`register`], and `OVERLOADED` when as many are held as may be.
pub async fn connect(
    api: &Api,
    request: v1::ConnectRequest,
) -> Result<Replies<v1::ConnectReply>, Error> {
    let v1::ConnectRequest { user_id, session_id, pod_id } = request;
    let permit = api.streams.connect()?;
    let (sender, replies) = streams::channel();
    let (answer, answered) = oneshot::channel::<Result<(), Error>>();
    let api = api.clone();
    let holding = async move {
        let pod_id = given(pod_id).unwrap_or_else(|| api.streams.pod_id.clone());
        let session_id = given(session_id);
        let registering =
            Box::pin(api.logic.connections_register(&user_id, &pod_id, session_id.as_deref()));
        match registering.await {
            // The caller may be gone, here and below.
            Err(failure) => drop(answer.send(Err(failure.into()))),
            Ok(registered) => {
                // The channel has room for the first reply.
                let first = reply(Event::Connected(connection(registered.clone())));
                drop(sender.try_send(first));
                drop(answer.send(Ok(())));
                Held { api, connection: registered, sender }.hold().await;
            }
        }
        drop(permit);
    };
    // A task of its own, so that the connection is closed too when its client leaves during the
    // registration. Its log lines belong to this request.
    tokio::spawn(holding.in_current_span());
    let gone = || Error::new(Reason::Overloaded, "The service is stopping.");
    answered.await.map_err(|_| gone())??;
    Ok(replies)
}

/// A connection that is held for a client.
struct Held {
    api: Api,
    connection: Connection,
    sender: mpsc::Sender<v1::ConnectReply>,
}

/// Why a call holds its connection no longer.
enum End {
    /// Its client has left.
    Left,
    /// The service stops.
    Stopping,
    /// The connection has ended.
    Over(Over),
}

/// How a connection has ended, with the last event for its client.
enum Over {
    /// A caller has ended it.
    Terminated(v1::Ended),
    /// No caller has ended it, or its pod is drained; the client may connect again.
    Closing(v1::Ended),
}

impl Held {
    async fn hold(self) {
        let over = match self.wait().await {
            End::Left => return Box::pin(self.close("client left", USER)).await,
            End::Stopping => {
                Box::pin(self.close(streams::STOPPING, "service")).await;
                Over::closing(streams::STOPPING)
            }
            End::Over(over) => over,
        };
        let event = match over {
            Over::Terminated(ended) => Event::Terminated(ended),
            Over::Closing(ended) => Event::Closing(ended),
        };
        // A client that has not taken the earlier events does not receive it.
        drop(self.sender.try_send(reply(event)));
    }

    /// Keeps the connection until the call holds it no longer.
    async fn wait(&self) -> End {
        let Connection { user_id, session_id, .. } = &self.connection;
        let streams = &self.api.streams;
        let (watch, _listener) = self.api.feed.watch(user_id, session_id);
        // The connection may have ended before the watch began.
        if let Err(over) = Box::pin(self.look()).await {
            return End::Over(over);
        }
        let mut stopping = pin!(streams.stopping());
        let mut heartbeats = streams.heartbeats();
        loop {
            let looked = tokio::select! {
                () = self.sender.closed() => return End::Left,
                () = &mut stopping => return End::Stopping,
                () = watch.notified() => Box::pin(self.look()).await,
                _ = heartbeats.tick() => {
                    let kept = Box::pin(self.keep()).await;
                    kept.map(|kept| if !kept { heartbeats.reset_after(streams.pause()) })
                }
            };
            if let Err(over) = looked {
                return End::Over(over);
            }
        }
    }

    /// Keeps the connection and reports it to the client. Returns whether the store answered.
    async fn keep(&self) -> Result<bool, Over> {
        let Connection { user_id, session_id, epoch, .. } = &self.connection;
        // A client that takes no replies counts as gone.
        if self.sender.capacity() == 0 {
            return Ok(true);
        }
        let logic = &self.api.logic;
        match logic.connections_heartbeat(session_id, Some(user_id), Some(epoch)).await {
            Ok(kept) => {
                let kept = v1::Kept {
                    last_heartbeat_at: Some(timestamp(kept.last_heartbeat_at_ms)),
                    expires_at: Some(timestamp(kept.expires_at_ms)),
                };
                drop(self.sender.try_send(reply(Event::Heartbeat(kept))));
                Ok(true)
            }
            Err(failure) => Over::check(failure).map(|()| false),
        }
    }

    /// Checks whether the connection is still alive, and of this registration.
    async fn look(&self) -> Result<(), Over> {
        let Connection { user_id, session_id, epoch, .. } = &self.connection;
        match self.api.logic.connections_get(session_id, Some(user_id), Some(epoch)).await {
            Ok(_) => Ok(()),
            Err(failure) => Over::check(failure),
        }
    }

    /// Closes the connection, unless it was registered again.
    async fn close(&self, reason: &str, by: &str) {
        let Connection { user_id, session_id, epoch, .. } = &self.connection;
        let logic = &self.api.logic;
        let closing = logic.connections_close(session_id, reason, by, Some(user_id), Some(epoch));
        if let Err(failure) = closing.await {
            tracing::debug!(?failure, "a connection that was left ends when its time is over");
        }
    }
}

impl Over {
    fn closing(reason: &str) -> Self {
        Self::Closing(v1::Ended { reason: reason.into(), by: String::new() })
    }

    /// Checks whether a failure means that a held connection has ended.
    fn check(failure: Failure) -> Result<(), Self> {
        let fault = match failure {
            Failure::Fault(fault) => fault,
            // The client may come back when the kind does.
            Failure::NotServed(_) => return Err(Self::closing(Reason::NotServed.row().name)),
            _ => return Ok(()),
        };
        match Reason::of_rules(&fault.reason) {
            Some(Reason::SessionTerminated) => {
                let ending = fault.ending.map(|ending| (ending.how, ending.reason, ending.by));
                let (how, reason, by) = ending.unwrap_or_default();
                let ended = v1::Ended { reason, by };
                // The client of a drained pod may connect again, to another pod.
                Err(if how == "drained" { Self::Closing(ended) } else { Self::Terminated(ended) })
            }
            Some(over @ (Reason::SessionExpired | Reason::SessionNotFound)) => {
                Err(Self::closing(over.row().name))
            }
            _ => Ok(()),
        }
    }
}

fn reply(event: Event) -> v1::ConnectReply {
    v1::ConnectReply { event: Some(event) }
}

fn connection(connection: Connection) -> v1::Connection {
    v1::Connection {
        user_id: connection.user_id,
        session_id: connection.session_id,
        pod_id: connection.pod_id,
        connected_at: Some(timestamp(connection.connected_at_ms)),
        last_heartbeat_at: Some(timestamp(connection.last_heartbeat_at_ms)),
        expires_at: Some(timestamp(connection.expires_at_ms)),
    }
}
