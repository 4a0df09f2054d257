//! Events of sessions: reads the logs that the rules write, has the rules look after
//! sessions that end by themselves, and counts those that no rule counts. What an event
//! means is not known here.

mod birth;
mod count;
mod feed;
mod follow;
mod place;
mod sweep;
mod watch;

pub use count::count;
pub use feed::{Feed, Silence, Subscription, Told};
pub use follow::follow;
pub use place::Place;
pub use sweep::sweep;
pub use watch::Watch;

use bytes::Bytes;

use session_store::transaction::Entry;

/// An event, as the rules have written it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where it is.
    pub place: Place,
    entries: Vec<Entry>,
}

impl Event {
    fn new(log: u16, event: session_store::Event) -> Self {
        Self { place: Place { id: event.id, log }, entries: event.entries }
    }

    /// The text of a field; empty when there is none.
    pub fn text(&self, field: &str) -> &str {
        let entry = self.entries.iter().find(|entry| entry.field == field);
        entry.and_then(|entry| text(&entry.value)).unwrap_or_default()
    }
}

fn text(value: &Bytes) -> Option<&str> {
    std::str::from_utf8(value).ok()
}
