//! Server-sent events: replies that go on, each as an event of the name of what has
//! happened, with proto3 JSON for data.

use std::pin::Pin;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{Kind, MessageDescriptor};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};

use crate::api::streams::Replies;
use crate::http::transcode;
use crate::proto::session::connections::v1::ConnectReply;
use crate::proto::session::connections::v1::connect_reply::Event;
use crate::proto::session::events::v1::SubscribeReply;
use crate::proto::session::events::v1::subscribe_reply::Item as Happened;

/// When clients of a service that stops are to come back: after so long, and up to so
/// much later.
const RETRY_MS: u32 = 500;
const RETRY_MORE_MS: u32 = 3000;

/// What there is to tell, not yet encoded.
pub type Pieces = Pin<Box<dyn Stream<Item = Piece> + Send>>;

/// One event.
pub struct Piece {
    /// The field of the reply that it is; of none, only its id is told.
    field: &'static str,
    /// What it is called, when it is not called as the field.
    name: Option<String>,
    /// What a client says that it has seen when it comes back.
    id: Option<String>,
    /// The message in the field.
    message: Vec<u8>,
    /// Whether the client is to come back, and not at once with all others.
    closing: bool,
}

impl Piece {
    fn new(field: &'static str, message: Vec<u8>) -> Self {
        Self { field, name: None, id: None, message, closing: false }
    }
}

/// When a client is to come back, in milliseconds.
fn retry() -> u32 {
    RETRY_MS + getrandom::u32().unwrap_or_default() % RETRY_MORE_MS
}

/// A reply that can be told as an event.
pub trait Told: Send + 'static {
    /// The event; `None` for a reply that says nothing.
    fn piece(self) -> Option<Piece>;
}

impl Told for ConnectReply {
    fn piece(self) -> Option<Piece> {
        Some(match self.event? {
            Event::Connected(connection) => {
                let id = Some(connection.session_id.clone());
                Piece { id, ..Piece::new("connected", connection.encode_to_vec()) }
            }
            Event::Heartbeat(kept) => Piece::new("heartbeat", kept.encode_to_vec()),
            Event::Terminated(ended) => Piece::new("terminated", ended.encode_to_vec()),
            Event::Closing(ended) => {
                Piece { closing: true, ..Piece::new("closing", ended.encode_to_vec()) }
            }
        })
    }
}

impl Told for SubscribeReply {
    fn piece(self) -> Option<Piece> {
        Some(match self.item? {
            Happened::Event(event) => {
                let message = event.encode_to_vec();
                let (name, id) = (Some(event.r#type), Some(event.id));
                Piece { name, id, ..Piece::new("event", message) }
            }
            Happened::Gap(gap) => Piece::new("gap", gap.encode_to_vec()),
            // A browser keeps an id that comes without an event, and tells nobody.
            Happened::Position(position) => {
                Piece { id: Some(position.after), ..Piece::new("", Vec::new()) }
            }
            Happened::Closing(closing) => {
                Piece { closing: true, ..Piece::new("closing", closing.encode_to_vec()) }
            }
        })
    }
}

/// The replies as events.
pub fn pieces<T: Told>(replies: Replies<T>) -> Pieces {
    Box::pin(ReceiverStream::new(replies).filter_map(Told::piece))
}

/// The events as text; `reply` is the message that their fields are of.
pub fn encoded(reply: MessageDescriptor, pieces: Pieces) -> impl Stream<Item = Bytes> + Send {
    pieces.map(move |piece| text(&reply, &piece).into())
}

fn text(reply: &MessageDescriptor, piece: &Piece) -> Vec<u8> {
    let mut text = Vec::with_capacity(512);
    let mut line = |name: &str, value: &[u8]| {
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b": ");
        // Neither has a line break by itself, but rules may be changed.
        text.extend(value.iter().filter(|byte| !byte.is_ascii_control()));
        text.push(b'\n');
    };
    if let Some(id) = &piece.id {
        line("id", id.as_bytes());
    }
    if piece.closing {
        line("retry", retry().to_string().as_bytes());
    }
    if piece.field.is_empty() {
        text.push(b'\n');
        return text;
    }
    line("event", piece.name.as_deref().unwrap_or(piece.field).as_bytes());
    let message = reply.get_field_by_name(piece.field).map(|field| field.kind());
    if let Some(Kind::Message(message)) = message {
        line("data", &transcode::reply(message, &piece.message, None, false));
    }
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::DESCRIPTORS;
    use crate::proto::session::connections::v1::{Connection, Ended};
    use crate::proto::session::events::v1::{self, Closing, Gap, Position};
    use prost_reflect::DescriptorPool;

    fn told(reply: &str, piece: Option<Piece>) -> String {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        let reply = pool.get_message_by_name(reply).expect(reply);
        String::from_utf8(text(&reply, &piece.expect("a piece"))).expect("text")
    }

    #[test]
    fn a_reply_is_an_event_with_json_for_data() {
        let of = "session.connections.v1.ConnectReply";
        let connection = Connection { session_id: "s".into(), ..Connection::default() };
        let connected = ConnectReply { event: Some(Event::Connected(connection)) };
        let text = told(of, connected.piece());
        assert!(text.starts_with("id: s\nevent: connected\ndata: {\"user_id\":\"\","), "{text}");
        assert!(text.ends_with("}\n\n"), "{text}");
        let ended = Ended { reason: "a\nb".into(), by: String::new() };
        let terminated = ConnectReply { event: Some(Event::Terminated(ended)) };
        assert_eq!(
            told(of, terminated.piece()),
            "event: terminated\ndata: {\"reason\":\"a\\nb\",\"by\":\"\"}\n\n"
        );
        assert!(ConnectReply { event: None }.piece().is_none());
    }

    #[test]
    fn an_event_is_called_by_its_type_and_a_gap_has_no_id() {
        let of = "session.events.v1.SubscribeReply";
        let event =
            v1::Event { id: "1-2-3".into(), r#type: "user\n.x".into(), ..v1::Event::default() };
        let text = told(of, SubscribeReply { item: Some(Happened::Event(event)) }.piece());
        assert!(text.starts_with("id: 1-2-3\nevent: user.x\ndata: {"), "{text}");
        let gap = Gap { after: "1-2-3".into() };
        let text = told(of, SubscribeReply { item: Some(Happened::Gap(gap)) }.piece());
        assert_eq!(text, "event: gap\ndata: {\"after\":\"1-2-3\"}\n\n");
        let position = Position { after: "5".into() };
        let text = told(of, SubscribeReply { item: Some(Happened::Position(position)) }.piece());
        assert_eq!(text, "id: 5\n\n");
        let closing = Closing { reason: "r".into() };
        let text = told(of, SubscribeReply { item: Some(Happened::Closing(closing)) }.piece());
        assert!(text.starts_with("retry: "), "{text}");
    }
}
