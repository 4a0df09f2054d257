//! What is stored of a connection, and how it ends.

use super::{
    BY_FIELD, CONNECTED_FIELD, ENDED_FIELD, EPOCH_FIELD, LOCATED_FIELD, POD_FIELD, REASON_FIELD,
    USER_FIELD, ends_ms,
};
use crate::connections_types::Connection;
use crate::events::Type;
use crate::policy::Policy;
use crate::store::Hash;
use crate::transaction::{moment, text};

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Closed,
    Terminated,
    Drained,
    Expired,
}

impl How {
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Terminated => "terminated",
            Self::Drained => "drained",
            Self::Expired => "expired",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        [Self::Closed, Self::Terminated, Self::Drained, Self::Expired]
            .into_iter()
            .find(|how| how.name() == name)
    }

    pub fn event(self) -> Type {
        match self {
            Self::Closed | Self::Drained => Type::ConnectionClosed,
            Self::Terminated => Type::ConnectionTerminated,
            Self::Expired => Type::ConnectionExpired,
        }
    }
}

/// How connections are brought to an end, why, and by whom.
pub struct Ending<'a> {
    pub how: How,
    pub reason: &'a str,
    pub by: &'a str,
}

impl Ending<'_> {
    pub fn reason(&self) -> &str {
        match (self.reason, self.how) {
            ("", How::Drained) => "POD_GONE",
            ("", How::Closed) => "CLOSED",
            ("", _) => "TERMINATED",
            (reason, _) => reason,
        }
    }
}

/// What a record tells.
#[derive(Clone, Debug)]
pub struct Record {
    pub user_id: String,
    pub pod_id: String,
    pub connected_at_ms: u64,
    pub epoch: String,
    /// When the locator was written last; none when there is none.
    pub located_ms: Option<u64>,
    pub ended: Option<(How, String, String)>,
    pub expires_at_ms: u64,
}

impl Record {
    pub fn of(hash: &Hash) -> Option<Self> {
        let given = |field| text(hash, field).unwrap_or_default();
        let ended = text(hash, ENDED_FIELD).and_then(|name| How::named(&name));
        Some(Self {
            user_id: text(hash, USER_FIELD)?,
            pod_id: given(POD_FIELD),
            connected_at_ms: moment(hash, CONNECTED_FIELD)?,
            epoch: given(EPOCH_FIELD),
            located_ms: moment(hash, LOCATED_FIELD),
            ended: ended.map(|how| (how, given(REASON_FIELD), given(BY_FIELD))),
            expires_at_ms: hash.expires_at_ms?,
        })
    }

    pub fn is_alive(&self, policy: &Policy, now_ms: u64) -> bool {
        self.ended.is_none() && ends_ms(policy, self.expires_at_ms) > now_ms
    }

    pub fn connection(self, policy: &Policy, session_id: String) -> Connection {
        let expires_at_ms = ends_ms(policy, self.expires_at_ms);
        Connection {
            user_id: self.user_id,
            session_id,
            pod_id: self.pod_id,
            connected_at_ms: self.connected_at_ms,
            last_heartbeat_at_ms: expires_at_ms.saturating_sub(policy.connection_stale_ms),
            expires_at_ms,
            epoch: self.epoch,
        }
    }
}
