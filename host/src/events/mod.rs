//! Reads the event logs that the rules write, runs the sweep that publishes expiries, and
//! counts booking sessions. What an event means is decided by the rules, not here.

mod baseline;
mod count;
mod cursor;
mod event;
mod feed;
mod follow;
mod sweep;
mod watch;

pub use count::count;
pub use cursor::Cursor;
pub use event::FeedEvent;
pub use feed::{Feed, FeedItem, ReadError, Subscription};
pub use follow::follow;
pub use sweep::sweep;
pub use watch::Watch;
