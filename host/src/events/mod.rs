//! Reads the event logs that the rules write, runs the sweep that publishes expiries, and
//! counts booking sessions. What an event means is decided by the rules, not here.

mod baseline;
mod count;
mod cursor;
mod feed;
mod follow;
mod sweep;
mod watch;

pub use count::count;
pub use cursor::Cursor;
pub use feed::{Feed, FeedItem, ReadError, Subscription};
pub use follow::follow;
pub use sweep::sweep;
pub use watch::Watch;

use bytes::Bytes;

use session_store::transaction::Entry;

/// An event as the rules wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// Its position among the events of all logs, which is also its id.
    pub cursor: Cursor,
    entries: Vec<Entry>,
}

impl FeedEvent {
    fn new(log: u16, event: session_store::Event) -> Self {
        Self { cursor: Cursor { id: event.id, log }, entries: event.entries }
    }

    /// The text of a field; empty if the field is absent.
    pub fn text(&self, field: &str) -> &str {
        let entry = self.entries.iter().find(|entry| entry.field == field);
        entry.and_then(|entry| text(&entry.value)).unwrap_or_default()
    }
}

fn text(value: &Bytes) -> Option<&str> {
    std::str::from_utf8(value).ok()
}
