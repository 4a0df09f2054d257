//! The expiry queue. A session without a heartbeat or a use ends without a transaction. So the
//! transaction that begins a session also queues it, by when it is due. There is one queue, an
//! expiring set, for each kind and partition. The sweep takes a due session off it in the
//! transaction that publishes the expiry, so each expiry is published once.

use crate::events::Type;
use crate::keys::Partition;
use crate::policy::Policy;
use crate::store::Hash;
use crate::transaction::{Branch, Conditions};

/// How long an overdue entry is retained if no sweeper runs.
pub const OVERDUE_RETENTION_MS: u64 = 7 * 24 * 3600 * 1000;

/// The kind of a session that ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A login.
    User,
    /// A connection.
    Connection,
    /// A viewing slot.
    Viewing,
}

impl Kind {
    /// Its name in keys and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Connection => "connection",
            Self::Viewing => "viewing",
        }
    }

    /// The key of its queue in a partition.
    pub fn queue(self, partition: Partition) -> String {
        partition.due(self.name())
    }
}

/// A session in a queue.
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a> {
    /// The partition of its user or account.
    pub partition: Partition,
    /// Its kind.
    pub kind: Kind,
    /// Its user or account.
    pub subject: &'a str,
    /// Its id.
    pub session_id: &'a str,
}

impl<'a> Queued<'a> {
    /// The session that a member of a queue names; none for a member that only newer rules
    /// understand.
    pub fn of_member(partition: Partition, kind: Kind, member: &'a str) -> Option<Self> {
        let (subject, session_id) = member.split_once('\n')?;
        let is_here = Partition::of(subject) == partition;
        is_here.then_some(Self { partition, kind, subject, session_id })
    }

    /// The key of its queue.
    pub fn queue(&self) -> String {
        self.kind.queue(self.partition)
    }

    /// Its name in the queue.
    pub fn member(&self) -> String {
        prefix(self.subject) + self.session_id
    }

    /// Queues it, due after this time.
    pub fn enqueue(&self, branch: &mut Branch, ttl_ms: u64) {
        branch.put(self.queue(), self.member(), ttl_ms + OVERDUE_RETENTION_MS);
    }

    /// Makes it due after this time, if it is still queued.
    pub fn postpone(&self, branch: &mut Branch, ttl_ms: u64) {
        branch.renew(self.queue(), self.member(), ttl_ms + OVERDUE_RETENTION_MS);
    }

    /// Takes it off the queue.
    pub fn dequeue(&self, branch: &mut Branch) {
        branch.remove(self.queue(), self.member());
    }

    /// Requires that it is queued.
    pub fn require(&self, when: &mut Conditions) {
        when.member(self.queue(), self.member());
    }

    /// Requires that it is not queued.
    pub fn require_absent(&self, when: &mut Conditions) {
        when.no_member(self.queue(), self.member());
    }
}

/// The text before the ids of one subject's sessions in a queue. No id of a subject has a line
/// break.
pub fn prefix(subject: &str) -> String {
    format!("{subject}\n")
}

/// How sessions of one kind expire.
pub trait Expiry: Sync {
    /// The kind.
    fn kind(&self) -> Kind;

    /// The set of the subject's live sessions: one that is in it has not expired.
    fn live(&self, session: Queued<'_>) -> String;

    /// The key of its record, and the fields that the other methods need.
    fn record(&self, session: Queued<'_>) -> (String, &'static [&'static str]);

    /// Whether the record is of this very session, and not of another one of the same id.
    fn owns(&self, _session: Queued<'_>, _record: &Hash) -> bool {
        true
    }

    /// When it expires without a use or a heartbeat, in milliseconds since the Unix epoch.
    fn expires_at_ms(&self, policy: &Policy, session: Queued<'_>, record: &Hash) -> u64;

    /// Adds conditions beside those that it is queued and not live.
    fn require(&self, _when: &mut Conditions, _session: Queued<'_>, _record: Option<&Hash>) {}

    /// The event that publishes its expiry.
    fn event(&self) -> Type;

    /// Removes or marks its other data, beside the queue and the set of live sessions.
    fn clean_up(
        &self,
        _branch: &mut Branch,
        _policy: &Policy,
        _session: Queued<'_>,
        _record: Option<&Hash>,
    ) {
    }
}
