//! Server-sent events: the replies of a stream, each as an event with proto3 JSON for data.

use std::pin::Pin;

use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::api::streams::Replies;
use crate::http::reply::{Json, json};
use crate::proto::session::connections::v1::ConnectReply;
use crate::proto::session::connections::v1::connect_reply::Event;
use crate::proto::session::events::v1::SubscribeReply;
use crate::proto::session::events::v1::subscribe_reply::Item;

/// Reconnect delay on shutdown: base plus jitter.
const RETRY_MS: u32 = 500;
const RETRY_JITTER_MS: u32 = 3000;

/// The events of one answer, encoded.
pub type ServerSentEvents = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// One event.
#[derive(Default)]
pub struct ServerSentEvent {
    /// Its name and its data; none for an event that only sets the last id.
    content: Option<(String, Vec<u8>)>,
    /// The value that a client sends as Last-Event-ID when it reconnects.
    id: Option<String>,
    /// Whether it announces the end of the stream, after which the client reconnects.
    closing: bool,
}

impl ServerSentEvent {
    fn new(name: impl Into<String>, data: &impl Json) -> Self {
        Self { content: Some((name.into(), json(data))), ..Self::default() }
    }
}

/// The reconnect delay, in milliseconds.
fn retry() -> u32 {
    RETRY_MS + getrandom::u32().unwrap_or_default() % RETRY_JITTER_MS
}

/// A reply that is an event.
pub trait AsEvent: Send + 'static {
    /// The event; `None` for an empty reply.
    fn event(self) -> Option<ServerSentEvent>;
}

impl AsEvent for ConnectReply {
    fn event(self) -> Option<ServerSentEvent> {
        Some(match self.event? {
            Event::Connected(connection) => {
                let event = ServerSentEvent::new("connected", &connection);
                ServerSentEvent { id: Some(connection.session_id), ..event }
            }
            Event::Heartbeat(kept) => ServerSentEvent::new("heartbeat", &kept),
            Event::Terminated(ended) => ServerSentEvent::new("terminated", &ended),
            Event::Closing(ended) => {
                ServerSentEvent { closing: true, ..ServerSentEvent::new("closing", &ended) }
            }
        })
    }
}

impl AsEvent for SubscribeReply {
    fn event(self) -> Option<ServerSentEvent> {
        Some(match self.item? {
            Item::Event(event) => {
                let named = ServerSentEvent::new(event.r#type.as_str(), &event);
                ServerSentEvent { id: Some(event.id), ..named }
            }
            Item::Gap(gap) => ServerSentEvent::new("gap", &gap),
            // A browser remembers an id without content, and raises no event.
            Item::Position(position) => {
                ServerSentEvent { id: Some(position.after), ..ServerSentEvent::default() }
            }
            Item::Closing(closing) => {
                ServerSentEvent { closing: true, ..ServerSentEvent::new("closing", &closing) }
            }
        })
    }
}

/// The replies as events.
pub fn server_sent_events<T: AsEvent>(replies: Replies<T>) -> ServerSentEvents {
    let events = ReceiverStream::new(replies).filter_map(AsEvent::event);
    Box::pin(events.map(|event| text(&event).into()))
}

fn text(event: &ServerSentEvent) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let mut line = |name: &str, value: &[u8]| {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        // Neither has a line break by itself, but rules may be changed.
        text.extend(value.iter().filter(|byte| !byte.is_ascii_control()));
        text.push(b'\n');
    };
    if let Some(id) = &event.id {
        line("id", id.as_bytes());
    }
    if event.closing {
        line("retry", retry().to_string().as_bytes());
    }
    if let Some((name, data)) = &event.content {
        line("event", name.as_bytes());
        line("data", data);
    }
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::session::connections::v1::{Connection, Ended};
    use crate::proto::session::events::v1::{self, Closing, Gap, Position};

    fn sent(reply: impl AsEvent) -> String {
        String::from_utf8(text(&reply.event().expect("an event"))).expect("text")
    }

    #[test]
    fn a_reply_is_an_event_with_json_for_data() {
        let connection = Connection { session_id: "s".into(), ..Connection::default() };
        let connected = ConnectReply { event: Some(Event::Connected(connection)) };
        let text = sent(connected);
        assert!(text.starts_with("id: s\nevent: connected\ndata: {\"user_id\":\"\","), "{text}");
        assert!(text.ends_with("}\n\n"), "{text}");
        let ended = Ended { reason: "a\nb".into(), by: String::new() };
        let terminated = ConnectReply { event: Some(Event::Terminated(ended)) };
        assert_eq!(
            sent(terminated),
            "event: terminated\ndata: {\"reason\":\"a\\nb\",\"by\":\"\"}\n\n"
        );
        assert!(ConnectReply { event: None }.event().is_none());
    }

    #[test]
    fn an_event_is_called_by_its_type_and_a_gap_has_no_id() {
        let event =
            v1::Event { id: "1-2-3".into(), r#type: "user\n.x".into(), ..v1::Event::default() };
        let text = sent(SubscribeReply { item: Some(Item::Event(event)) });
        assert!(text.starts_with("id: 1-2-3\nevent: user.x\ndata: {"), "{text}");
        let gap = Gap { after: "1-2-3".into() };
        let text = sent(SubscribeReply { item: Some(Item::Gap(gap)) });
        assert_eq!(text, "event: gap\ndata: {\"after\":\"1-2-3\"}\n\n");
        let position = Position { after: "5".into() };
        let text = sent(SubscribeReply { item: Some(Item::Position(position)) });
        assert_eq!(text, "id: 5\n\n");
        let closing = Closing { reason: "r".into() };
        let text = sent(SubscribeReply { item: Some(Item::Closing(closing)) });
        assert!(text.starts_with("retry: "), "{text}");
    }
}
