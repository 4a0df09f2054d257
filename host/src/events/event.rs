//! An event as the rules wrote it.

use bytes::Bytes;

use crate::events::cursor::Cursor;
use session_store::transaction::Entry;

/// An event as the rules wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedEvent {
    /// Its position among the events of all logs, which is also its id.
    pub cursor: Cursor,
    entries: Vec<Entry>,
}

impl FeedEvent {
    /// An event of the log of this number.
    pub fn new(log: u16, event: session_store::Event) -> Self {
        Self { cursor: Cursor { id: event.id, log }, entries: event.entries }
    }

    /// The text of a field; empty if the field is absent.
    pub fn text(&self, field: &str) -> &str {
        let entry = self.entries.iter().find(|entry| entry.field == field);
        entry.and_then(|entry| text(&entry.value)).unwrap_or_default()
    }
}

/// A value as text.
pub fn text(value: &Bytes) -> Option<&str> {
    std::str::from_utf8(value).ok()
}
