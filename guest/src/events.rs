//! Events of sessions, for subscribers: one log for each partition. An event is appended in
//! the transaction that makes the change.

use sha2::{Digest, Sha256};

use crate::imports::Imports;
use crate::keys::Partition;
use crate::policy::Policy;
use crate::transaction::{Branch, Transaction, entry};

/// How many characters of an id an event has, and of a short one half as many.
const SHOWN_CHARACTERS: usize = 6;
/// How many bytes of its hash.
const HASH_BYTES: usize = 8;

macro_rules! types {
    ($($(#[$comment:meta])* $type_:ident = $name:literal,)*) => {
        /// The types of events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Type {
            $($(#[$comment])* $type_,)*
        }

        impl Type {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$type_,)*];

            /// Its name in a log.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$type_ => $name,)*
                }
            }
        }
    };
}

types! {
    /// A login began.
    UserCreated = "user.created",
    /// A login was closed.
    UserClosed = "user.closed",
    /// All logins of a user, or all but one, were closed.
    UserClosedAll = "user.closed_all",
    /// A login ended by itself.
    UserExpired = "user.expired",
    /// A user has as many logins as there may be.
    UserLimitReached = "user.limit_reached",
    /// A connection was registered.
    ConnectionCreated = "connection.created",
    /// A connection was registered again.
    ConnectionMoved = "connection.moved",
    /// A connection was closed by its user, or with its pod.
    ConnectionClosed = "connection.closed",
    /// A connection was ended by another caller than its user.
    ConnectionTerminated = "connection.terminated",
    /// A connection ended as no heartbeat came.
    ConnectionExpired = "connection.expired",
    /// A user has as many connections as there may be.
    ConnectionLimitReached = "connection.limit_reached",
    /// A slot was taken.
    ViewingCreated = "viewing.created",
    /// A slot was given back.
    ViewingClosed = "viewing.closed",
    /// A slot was taken over.
    ViewingTerminated = "viewing.terminated",
    /// A slot came free as no heartbeat came.
    ViewingExpired = "viewing.expired",
    /// A home had no slot left.
    ViewingLimitReached = "viewing.limit_reached",
}

/// An event; a text that is empty does not apply.
pub struct Event<'a> {
    /// Its type.
    pub type_: Type,
    /// To a session of this user or account.
    pub user_id: &'a str,
    /// The session.
    pub session_id: &'a str,
    /// Its device.
    pub device_id: &'a str,
    /// Its pod.
    pub pod_id: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Who did it.
    pub by: &'a str,
}

impl<'a> Event<'a> {
    /// An event of a user or an account.
    pub fn new(type_: Type, user_id: &'a str) -> Self {
        let none = "";
        Self {
            type_,
            user_id,
            session_id: none,
            device_id: none,
            pod_id: none,
            reason: none,
            by: none,
        }
    }

    /// An event of a session.
    pub fn of(type_: Type, user_id: &'a str, session_id: &'a str) -> Self {
        Self { session_id, ..Self::new(type_, user_id) }
    }

    /// Publishes a refusal. A refusal changes nothing, so the caller gets it even if the event
    /// is lost.
    pub fn publish_alone(&self, imports: &impl Imports, policy: &Policy, partition: Partition) {
        let mut transaction = Transaction::new();
        self.publish(&mut transaction.then, policy, partition);
        let _ = transaction.execute(imports);
    }

    /// Appends it to the log of the partition, together with the change that it is about.
    pub fn publish(&self, branch: &mut Branch, policy: &Policy, partition: Partition) {
        let shown = SHOWN_CHARACTERS.min(self.session_id.len() / 2);
        let shown: String = self.session_id.chars().take(shown).collect();
        let hash = match self.session_id {
            "" => String::new(),
            session_id => hash(session_id),
        };
        let texts = [
            ("type", self.type_.name()),
            ("user_id", self.user_id),
            ("session_id", &shown),
            ("session_hash", &hash),
            ("device_id", self.device_id),
            ("pod_id", self.pod_id),
            ("reason", self.reason),
            ("by", self.by),
        ];
        let entries = texts.into_iter().filter(|(_, text)| !text.is_empty());
        let entries = entries.map(|(field, text)| entry(field, text)).collect();
        branch.append(partition.log(), entries, policy.events_kept);
    }
}

/// Identifies a session to callers that have its id, and to no others.
fn hash(session_id: &str) -> String {
    let digest = Sha256::digest(session_id.as_bytes());
    digest[..HASH_BYTES].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, entry};

    #[test]
    fn an_event_identifies_a_session_without_its_id() {
        let event = Event { by: "tv", ..Event::of(Type::ViewingTerminated, "home", "0123456789") };
        let policy = Policy { events_kept: 7, ..Policy::DEFAULTS };
        let world = World::new();
        let mut transaction = Transaction::new();
        event.publish(&mut transaction.then, &policy, Partition::of("home"));
        transaction.execute(&world).expect("the store answers");
        let entries = world.entries_of_events("home").remove(0);
        let expected = [
            ("type", "viewing.terminated"),
            ("user_id", "home"),
            ("session_id", "01234"),
            ("session_hash", "84d89877f0d4041e"),
            ("by", "tv"),
        ];
        assert_eq!(entries, expected.map(|(field, text)| entry(field, text)));
    }

    #[test]
    fn types_have_names_of_their_own() {
        let mut names: Vec<_> = Type::ALL.iter().map(|type_| type_.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Type::ALL.len());
    }
}
