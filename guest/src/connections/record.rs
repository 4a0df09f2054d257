//! The stored data of a connection: a record, and members of three expiring sets in the partition
//! of its user: the user's, the pod's, and the expiry queue. The record outlives the members, to
//! say how the connection ended.

use crate::connections_types::Connection;
use crate::events::Type;
use crate::expiry::{Kind, Queued};
use crate::fault::{self, Reason, fault};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::Partition;
use crate::store::Hash;
use crate::transaction::{instant, read, read_all, text};

/// How often a rule tries again when another call changes what it has read.
pub const ATTEMPTS: u32 = 16;
/// The most bytes of the reason for an end, and of the text that says who ended it.
pub const REASON_BYTES_MAX: usize = 256;

/// Whose connection it is.
pub const USER_FIELD: &str = "user_id";
/// The pod that holds it.
pub const POD_FIELD: &str = "pod_id";
/// Its id.
pub const SESSION_FIELD: &str = "session_id";
/// When it was registered.
pub const CONNECTED_FIELD: &str = "connected_at";
/// Distinguishes one registration of it from another.
pub const EPOCH_FIELD: &str = "_epoch";
/// When it expires unless a heartbeat comes.
pub const ALIVE_UNTIL_FIELD: &str = "_alive_until";
/// How it has ended.
pub const ENDED_FIELD: &str = "_ended";
/// Why it was ended.
pub const REASON_FIELD: &str = "_reason";
/// Who ended it.
pub const BY_FIELD: &str = "_by";

/// The fields that [`Record::of`] needs.
pub const FIELDS: [&str; 8] = [
    USER_FIELD,
    POD_FIELD,
    CONNECTED_FIELD,
    EPOCH_FIELD,
    ALIVE_UNTIL_FIELD,
    ENDED_FIELD,
    REASON_FIELD,
    BY_FIELD,
];

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By its user or its stream.
    Closed,
    /// By another caller.
    Terminated,
    /// With its pod.
    Drained,
    /// Because no heartbeat came.
    Expired,
}

impl How {
    const ALL: [Self; 4] = [Self::Closed, Self::Terminated, Self::Drained, Self::Expired];

    /// Its name in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Terminated => "terminated",
            Self::Drained => "drained",
            Self::Expired => "expired",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|how| how.name() == name)
    }

    /// The event that publishes it.
    pub fn event(self) -> Type {
        match self {
            Self::Closed | Self::Drained => Type::ConnectionClosed,
            Self::Terminated => Type::ConnectionTerminated,
            Self::Expired => Type::ConnectionExpired,
        }
    }
}

/// How, why and by whom connections are ended.
pub struct Ending<'a> {
    /// How.
    pub how: How,
    /// Why; empty for the usual reason.
    pub reason: &'a str,
    /// By whom; empty when it is not known.
    pub by: &'a str,
}

impl Ending<'_> {
    /// Why.
    pub fn reason(&self) -> &str {
        match (self.reason, self.how) {
            ("", How::Drained) => "POD_GONE",
            ("", How::Closed) => "CLOSED",
            ("", _) => "TERMINATED",
            (reason, _) => reason,
        }
    }
}

/// How a connection has ended, as its record says.
#[derive(Clone, Debug)]
pub struct Ended {
    /// How.
    pub how: How,
    /// Why.
    pub reason: String,
    /// By whom.
    pub by: String,
}

/// A record.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whose connection it is.
    pub user_id: String,
    /// The pod that holds it.
    pub pod_id: String,
    /// When it was registered.
    pub connected_at_ms: u64,
    /// Which registration it is.
    pub epoch: String,
    /// When it expires unless a heartbeat comes.
    pub alive_until_ms: u64,
    /// Its end, if it was ended.
    pub ended: Option<Ended>,
}

impl Record {
    /// The record in a hash; none when the hash is not a record.
    pub fn of(hash: &Hash) -> Option<Self> {
        let given = |field| text(hash, field).unwrap_or_default();
        let how = text(hash, ENDED_FIELD).and_then(|name| How::named(&name));
        Some(Self {
            user_id: text(hash, USER_FIELD)?,
            pod_id: given(POD_FIELD),
            connected_at_ms: instant(hash, CONNECTED_FIELD)?,
            epoch: given(EPOCH_FIELD),
            alive_until_ms: instant(hash, ALIVE_UNTIL_FIELD).unwrap_or_default(),
            ended: how.map(|how| Ended { how, reason: given(REASON_FIELD), by: given(BY_FIELD) }),
        })
    }

    /// Whether it is alive at a time of the store's clock.
    pub fn is_alive(&self, now_ms: u64) -> bool {
        self.ended.is_none() && self.alive_until_ms > now_ms
    }

    /// The connection, which lives this long after a heartbeat.
    pub fn connection(self, stale_ms: u64, session_id: String) -> Connection {
        Connection {
            user_id: self.user_id,
            session_id,
            pod_id: self.pod_id,
            connected_at_ms: self.connected_at_ms,
            last_heartbeat_at_ms: self.alive_until_ms.saturating_sub(stale_ms),
            expires_at_ms: self.alive_until_ms,
            epoch: self.epoch,
        }
    }
}

/// Reads the record of a user's connection, and the store's clock.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn look(
    imports: &impl Imports,
    partition: Partition,
    session_id: &str,
    user_id: &str,
) -> Result<(Option<Record>, u64), Fault> {
    let (hash, now_ms) = read(imports, partition.connection(session_id, user_id), &FIELDS)?;
    Ok((hash.as_ref().and_then(Record::of), now_ms))
}

/// Those connections of one partition that are alive, of users and ids, in order. The user of
/// an id that was made may be left empty.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub fn alive(
    imports: &impl Imports,
    partition: Partition,
    connections: &[(&str, &str)],
) -> Result<Vec<(String, Record)>, Fault> {
    let keys = connections.iter().map(|(user_id, id)| partition.connection(id, user_id));
    let (hashes, now_ms) = read_all(imports, keys, &FIELDS)?;
    let live = |((user_id, id), hash): (&(&str, &str), Option<Hash>)| {
        let record = Record::of(&hash?)?;
        let is_theirs = user_id.is_empty() || record.user_id == *user_id;
        (is_theirs && record.is_alive(now_ms)).then(|| ((*id).to_owned(), record))
    };
    Ok(connections.iter().zip(hashes).filter_map(live).collect())
}

/// The name of a connection in the set of a pod; no id of a user has a line break.
pub fn pod_member(user_id: &str, session_id: &str) -> String {
    [user_id, "\n", session_id].concat()
}

/// A connection in the expiry queue.
pub fn queued<'a>(partition: Partition, user_id: &'a str, session_id: &'a str) -> Queued<'a> {
    Queued { partition, kind: Kind::Connection, subject: user_id, session_id }
}

/// The fault for a connection without a record.
pub fn not_found() -> Fault {
    fault(Reason::SessionNotFound, "The connection does not exist.")
}

/// The fault for a connection that has expired.
pub fn expired() -> Fault {
    fault(Reason::SessionExpired, "The connection has expired; no heartbeat came in time.")
}

/// The fault for an id that another user has.
pub fn exists() -> Fault {
    fault(Reason::SessionExists, "Another user has a connection of this id.")
}

/// The fault for a connection that was ended, or moved.
pub fn terminated(how: &str, reason: &str, by: &str) -> Fault {
    fault::terminated(format!("The connection was {how}."), how, reason, by)
}

/// The fault for a connection that other calls keep changing.
pub fn contended() -> Fault {
    fault(Reason::StoreUnavailable, "The connection changes too often; try again.")
}
