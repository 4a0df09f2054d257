//! Streams that the service keeps open: the connection of a user, and the subscription to
//! events.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor, Value};
use serde_json::Value as Json;
use tonic::Streaming;

use super::grpc::refusal_of;
use super::json::Style;
use super::rest::{object, refusal, request_of};
use super::{Client, Inner, Refusal};

/// How long a test waits for the next event.
const PATIENCE: Duration = Duration::from_secs(30);

impl Client {
    /// Opens the stream of `service/method`, which is at `path` over REST.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the request does not fit the method.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        request: Json,
    ) -> Result<EventStream, Refusal> {
        match &self.inner {
            Inner::Rest { http, base } => {
                EventStream::get(request_of(http, "GET", base, path, object(request))).await
            }
            Inner::Grpc(grpc) => {
                let method = grpc.method(method);
                let request =
                    DynamicMessage::deserialize(method.input(), request).expect("a request");
                let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
                let stream = grpc.stream(&path, request.encode_to_vec().into()).await;
                let stream = stream.map_err(|status| refusal_of(&status))?;
                Ok(EventStream::Grpc { stream, method })
            }
        }
    }

    /// Connects a user.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn connect_user(&self, request: Json) -> Result<EventStream, Refusal> {
        self.open("session.connections.v1.Connections/Connect", "/v1/connect", request).await
    }

    /// Subscribes to events.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn subscribe(&self, request: Json) -> Result<EventStream, Refusal> {
        self.open("session.events.v1.Events/Subscribe", "/v1/events", request).await
    }
}

/// One event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamEvent {
    /// Its name.
    pub name: String,
    /// The id to resume with. Empty over gRPC, and for an event that cannot be resumed from.
    pub id: String,
    /// The message.
    pub data: Json,
}

/// An open stream of events.
pub enum EventStream {
    /// Server-sent events.
    Rest {
        /// The response, whose body continues.
        response: reqwest::Response,
        /// What was received and not returned yet.
        text: String,
    },
    /// A stream of messages.
    Grpc {
        /// The stream of encoded messages.
        stream: Streaming<Bytes>,
        /// The method that it is the reply of.
        method: MethodDescriptor,
    },
}

impl EventStream {
    /// Sends a request for server-sent events.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the reply is something else.
    pub async fn get(request: reqwest::RequestBuilder) -> Result<Self, Refusal> {
        let response = request.send().await.map_err(|error| Refusal {
            message: format!("no answer: {error}"),
            ..Refusal::default()
        })?;
        let status = response.status();
        if !status.is_success() {
            let body = response.json().await.expect("a refusal is JSON");
            return Err(refusal(status.as_u16(), &body));
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self::Rest { response, text: String::new() })
    }

    /// The next event; `None` when the stream has ended.
    ///
    /// # Panics
    /// When the event cannot be decoded, or none is received within half a minute.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        let next = tokio::time::timeout(PATIENCE, self.next_unlimited());
        next.await.expect("an event within half a minute")
    }

    /// The next event, without a time limit; `None` when the stream has ended.
    ///
    /// # Panics
    /// When the event cannot be decoded.
    pub async fn next_unlimited(&mut self) -> Option<StreamEvent> {
        match self {
            Self::Rest { response, text } => loop {
                if let Some((event, rest)) = text.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    *text = rest;
                    if let Some(event) = server_sent(&event) {
                        return Some(event);
                    }
                    continue;
                }
                let chunk = response.chunk().await.ok().flatten()?;
                *text += std::str::from_utf8(&chunk).expect("events are text");
            },
            Self::Grpc { stream, method } => {
                let bytes = stream.message().await.ok().flatten()?;
                let reply = DynamicMessage::decode(method.output(), bytes).expect("a reply");
                let (field, value) = reply.fields().next().expect("a reply has a field");
                let Value::Message(message) = value else { panic!("a member is a message") };
                let data = Style::AsDeclared.write(message);
                let name = data["type"].as_str().unwrap_or(field.name()).to_owned();
                if name == "position" {
                    return Box::pin(self.next_unlimited()).await;
                }
                Some(StreamEvent { name, id: String::new(), data })
            }
        }
    }

    /// The next event of this name; events of other names are skipped.
    ///
    /// # Panics
    /// When the stream ends first.
    pub async fn next_named(&mut self, name: &str) -> StreamEvent {
        loop {
            let next = self.next().await;
            let event = next.unwrap_or_else(|| panic!("the stream ended without {name}"));
            if event.name == name {
                return event;
            }
        }
    }
}

/// Parses the lines of one event; `None` for a comment.
fn server_sent(lines: &str) -> Option<StreamEvent> {
    let line = |name: &str| {
        let mut lines = lines.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
    };
    let (name, id, data) = (line("event").to_owned(), line("id").to_owned(), line("data"));
    (!name.is_empty()).then(|| StreamEvent { name, id, data: data.parse().expect("data is JSON") })
}
