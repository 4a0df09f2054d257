//! Connections of users. A connection has a record, and a place in the expiring set of
//! its user and in that of its user's partition of its pod, which both end a short while
//! after its last heartbeat; the record outlives them, to tell what became of it. All of
//! it is in the partition of the user, and changes in one step, so that presence and the
//! counts of pods never drift apart.
//!
//! An id that the service has made names the partition. For one that somebody has chosen,
//! a locator in the partition of the id itself tells whose it is. To register is to claim
//! the locator, write the record, and confirm the claim: whoever took the id over from a
//! user whose connection was not alive changes the claim, so that of two who race one
//! finds theirs gone, and gives up.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::connections_types::{Connection, Count, Drained, Page, PodCount, Renewed};
use crate::events::{Event, Type};
use crate::fault::{fault, fault_with, invalid, quote, refuse, violation};
use crate::faults::{Detail, Fault, Reason, Violation};
use crate::imports::Imports;
use crate::keys::{self, ID_BYTES_MAX, Partition, check_id};
use crate::maintenance::{self, Kind};
use crate::policy::Policy;
use crate::store::{
    Compare, Expiry, FieldTest, Hash, HashSet, HashStamp, Member, MemberBound, MemberList,
    MemberPage, MemberRef, MemberSet, Operation, Order, Reply,
};
use crate::transaction::{entry, execute, moment, read, text, unexpected_replies};

/// The most connections of one user.
pub const CONNECTIONS_MAX: u32 = 1000;
/// The most ids of one heartbeat of a pod.
pub const IDS_MAX: usize = 1000;
/// How many connections one transaction changes; each needs two compares.
const BATCH: usize = 32;
/// The most connections of a pod that a part has.
const PART_MAX: u32 = 1000;
/// How many connections one step of a drain closes.
const DRAINED_MAX: u32 = 512;
/// The most pods whose members are read in one step.
const PODS_AT_ONCE: usize = 1000;
/// The most members of a set that are read at once.
const LISTED_MAX: u32 = 10_000;
/// How often a rule tries again when somebody changes what it has read.
const ATTEMPTS: u32 = 16;
/// The most bytes of the reason for an end, and of who brought it about.
const REASON_BYTES_MAX: usize = 256;
/// How long a locator is kept, as a multiple of how long a record is.
const LOCATED: u64 = 2;
/// The length of an epoch and of a claim.
const EPOCH_CHARACTERS: u32 = 16;
/// What no connection is called, as it is what a route is called.
const RESERVED: &str = "stats";

/// Whose connection it is.
pub const USER_FIELD: &str = "user_id";
/// Where it is held.
pub const POD_FIELD: &str = "pod_id";
const SESSION_FIELD: &str = "session_id";
const CONNECTED_FIELD: &str = "connected_at";
const EPOCH_FIELD: &str = "_epoch";
/// When its locator was written last.
const LOCATED_FIELD: &str = "_located";
const ENDED_FIELD: &str = "_ended";
const REASON_FIELD: &str = "_reason";
const BY_FIELD: &str = "_by";
/// Who has claimed an id.
const CLAIM_FIELD: &str = "claim";

/// The fields of a record.
const FIELDS: [&str; 8] = [
    USER_FIELD,
    POD_FIELD,
    CONNECTED_FIELD,
    EPOCH_FIELD,
    LOCATED_FIELD,
    ENDED_FIELD,
    REASON_FIELD,
    BY_FIELD,
];

/// When a connection ends whose record ends then.
pub fn ends_ms(policy: &Policy, record_expires_at_ms: u64) -> u64 {
    (record_expires_at_ms + policy.connection_stale_ms).saturating_sub(policy.connection_ttl_ms)
}

/// Notes in a record that its connection has ended by itself.
pub fn mark_expired(policy: &Policy, partition: Partition, session_id: &str) -> Operation {
    Operation::HashSet(HashSet {
        key: partition.connection(session_id),
        entries: vec![entry(ENDED_FIELD, How::Expired.name())],
        ttl_ms: Some(policy.connection_ttl_ms),
    })
}

/// Registers a connection; the same one again moves it to the pod.
///
/// # Errors
/// `invalid-request`; `session-exists` when the id is another user's;
/// `session-terminated` when the connection was ended by somebody;
/// `session-limit-reached`; `store-unavailable`.
pub fn register(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
    pod_id: &str,
    session_id: Option<String>,
) -> Result<Connection, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    check_id(POD_FIELD, pod_id, &mut violations);
    if let Some(session_id) = &session_id {
        check_session_id(SESSION_FIELD, session_id, &mut violations);
    }
    refuse(violations)?;
    let partition = Partition::of(user_id);
    let Some(session_id) = session_id else {
        let session_id = keys::connection_id(partition, |length| imports.token(length));
        let place = Place { partition, user_id, pod_id, session_id: &session_id };
        return write(imports, policy, &place, None);
    };
    let place = Place { partition, user_id, pod_id, session_id: &session_id };
    if keys::is_made(&session_id) {
        let Some(named) = keys::partition_of_made(&session_id) else {
            let why = "begins with ~ and is none that was made here";
            return Err(invalid(vec![violation(SESSION_FIELD, why)]));
        };
        if named != partition {
            let (record, _) = look(imports, named, &session_id)?;
            return Err(match record {
                Some(_) => exists(),
                None => invalid(vec![violation(SESSION_FIELD, "was not made for this user")]),
            });
        }
        let found = look(imports, partition, &session_id)?;
        return write(imports, policy, &place, Some(found));
    }
    let claim = claim(imports, policy, &place)?;
    let found = look(imports, partition, &session_id)?;
    let mut written = write(imports, policy, &place, Some(found));
    for _ in 0..ATTEMPTS {
        if !matches!(&written, Err(fault) if fault.reason == Reason::SessionExists) {
            break;
        }
        // Somebody from whom the id was taken over has written before he found that out.
        give_way(imports, policy, &place, &claim)?;
        let found = look(imports, partition, &session_id)?;
        written = write(imports, policy, &place, Some(found));
    }
    let connection = written?;
    let test = claimed(&session_id, claim);
    let confirmed = HashSet {
        key: test.key.clone(),
        entries: vec![entry(CLAIM_FIELD, &imports.token(EPOCH_CHARACTERS))],
        ttl_ms: Some(LOCATED * policy.connection_ttl_ms),
    };
    let compare = vec![Compare::FieldEquals(test)];
    if execute(imports, compare, vec![Operation::HashSet(confirmed)], Vec::new())?.succeeded {
        return Ok(connection);
    }
    let whose = read(keys::connection_of(&session_id), &[USER_FIELD]);
    let outcome = execute(imports, Vec::new(), vec![whose], Vec::new())?;
    if let [Reply::Record(Some(locator))] = &outcome.replies[..]
        && text(locator, USER_FIELD).as_deref() == Some(user_id)
    {
        // Another request of this user has registered it again.
        return Ok(connection);
    }
    let ending = Ending { how: How::Closed, reason: "another has registered the id", by: "" };
    end(imports, policy, &[Target::of(partition, &connection)], &ending)?;
    Err(exists())
}

/// Ends the connection that another user of the partition has under an id whose claim is
/// ours, as he would himself in a moment.
fn give_way(
    imports: &impl Imports,
    policy: &Policy,
    place: &Place<'_>,
    claim: &str,
) -> Result<(), Fault> {
    let test = claimed(place.session_id, claim.into());
    let ours = execute(imports, vec![Compare::FieldEquals(test)], Vec::new(), Vec::new())?;
    if !ours.succeeded {
        return Err(exists());
    }
    let (record, now_ms) = look(imports, place.partition, place.session_id)?;
    let is_theirs =
        |record: &Record| record.user_id != place.user_id && record.is_alive(policy, now_ms);
    let Some(theirs) = record.filter(is_theirs) else {
        // He has found out meanwhile.
        return Ok(());
    };
    let ending = Ending { how: How::Closed, reason: "another has registered the id", by: "" };
    let connection = theirs.connection(policy, place.session_id.into());
    end(imports, policy, &[Target::of(place.partition, &connection)], &ending).map(drop)
}

/// Reads a connection that is alive.
///
/// # Errors
/// `invalid-request`; `session-not-found`; `session-expired`; `session-terminated` with
/// why and by whom; `store-unavailable`.
pub fn get(imports: &impl Imports, policy: &Policy, session_id: &str) -> Result<Connection, Fault> {
    find(imports, policy, session_id).map(|found| found.connection)
}

/// Keeps a connection that is alive for another lifetime.
///
/// # Errors
/// As [`get`].
pub fn heartbeat(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    epoch: Option<&str>,
) -> Result<Connection, Fault> {
    for _ in 0..ATTEMPTS {
        let found = find(imports, policy, session_id)?;
        if epoch.is_some_and(|epoch| epoch != found.connection.epoch) {
            return Err(terminated("moved", "MOVED", &found.connection.pod_id));
        }
        let (kept, now_ms) = renew(imports, policy, &[found.target()])?;
        if kept.first() == Some(&true) {
            found.keep_located(imports, policy)?;
            let expires_at_ms = now_ms + policy.connection_stale_ms;
            return Ok(Connection {
                last_heartbeat_at_ms: now_ms,
                expires_at_ms,
                ..found.connection
            });
        }
    }
    Err(restless())
}

/// Keeps connections of a pod: those named, or all of one part.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn heartbeat_pod(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    session_ids: Option<Vec<String>>,
    cursor: &str,
) -> Result<Renewed, Fault> {
    let mut violations = Vec::new();
    check_id(POD_FIELD, pod_id, &mut violations);
    let (partition, mark) = place_in_part(cursor, &mut violations);
    if let Some(session_ids) = &session_ids {
        if session_ids.len() > IDS_MAX {
            let description =
                format!("names {}, at most {IDS_MAX} are accepted", session_ids.len());
            violations.push(violation("session_ids", description));
        } else if session_ids.iter().any(|id| keys::session_key_violation(id).is_some()) {
            violations.push(violation("session_ids", "has an item that is no id"));
        }
    }
    refuse(violations)?;
    match session_ids {
        Some(session_ids) => renew_named(imports, policy, pod_id, session_ids),
        None => renew_part(imports, policy, pod_id, partition, mark.map(|mark| mark.expires_at_ms)),
    }
}

/// Which connection is meant, when not whichever has the id.
#[derive(Clone, Copy, Debug, Default)]
pub struct Only<'a> {
    /// That of this user.
    pub user_id: Option<&'a str>,
    /// The one of this registration.
    pub epoch: Option<&'a str>,
}

/// Closes a connection, whether or not it is alive.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn close(
    imports: &impl Imports,
    policy: &Policy,
    session_id: &str,
    reason: &str,
    by: &str,
    only: Only<'_>,
) -> Result<(), Fault> {
    let Only { user_id, epoch } = only;
    let mut violations = Vec::new();
    if let Some(description) = keys::session_key_violation(session_id) {
        violations.push(violation(SESSION_FIELD, description));
    }
    check_reason("reason", reason, &mut violations);
    check_reason("by", by, &mut violations);
    if let Some(user_id) = user_id {
        check_id(USER_FIELD, user_id, &mut violations);
    }
    refuse(violations)?;
    for _ in 0..ATTEMPTS {
        let found = match find(imports, policy, session_id) {
            Err(fault) if is_over(&fault) => return Ok(()),
            found => found?,
        };
        let another = |wanted: Option<&str>, is: &str| wanted.is_some_and(|wanted| wanted != is);
        let Connection { user_id: theirs, epoch: present, .. } = &found.connection;
        if another(user_id, theirs) || another(epoch, present) {
            return Ok(());
        }
        let ending = Ending { how: How::Closed, reason, by };
        if end(imports, policy, &[found.target()], &ending)? == 1 {
            return Ok(());
        }
    }
    Err(restless())
}

/// The connections of a user, the oldest first.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn list_user(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
) -> Result<Vec<Connection>, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    refuse(violations)?;
    let mut connections = of_user(imports, policy, user_id)?;
    connections.sort_by(|a, b| {
        (a.connected_at_ms, &a.session_id).cmp(&(b.connected_at_ms, &b.session_id))
    });
    Ok(connections)
}

/// Ends all connections of a user, and returns how many.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn terminate_user(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
    reason: &str,
    by: &str,
) -> Result<u32, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    check_reason("reason", reason, &mut violations);
    check_reason("by", by, &mut violations);
    refuse(violations)?;
    let partition = Partition::of(user_id);
    let ending = Ending { how: How::Terminated, reason, by };
    let mut connections = of_user(imports, policy, user_id)?;
    let mut ended = 0;
    for _ in 0..ATTEMPTS {
        let targets = connections.iter().map(|one| Target::of(partition, one));
        ended += end(imports, policy, &targets.collect::<Vec<_>>(), &ending)?;
        // Those that moved meanwhile are still there; those that came since may stay.
        let mut left = of_user(imports, policy, user_id)?;
        left.retain(|one| connections.iter().any(|known| known.session_id == one.session_id));
        if left.is_empty() {
            return Ok(ended);
        }
        connections = left;
    }
    Err(restless())
}

/// How many connections a user has.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn presence(imports: &impl Imports, user_id: &str) -> Result<u32, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    refuse(violations)?;
    let connections = Partition::of(user_id).connections(user_id);
    let (_, live, _) = members(imports, connections, None, 0)?;
    Ok(live)
}

/// The connections of a pod in one part.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn list_pod(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    cursor: &str,
) -> Result<Page, Fault> {
    let mut violations = Vec::new();
    check_id(POD_FIELD, pod_id, &mut violations);
    let (partition, mark) = place_in_part(cursor, &mut violations);
    refuse(violations)?;
    let (members, _, _) = members(imports, partition.pod(pod_id), mark, PART_MAX)?;
    let ids = members.iter().filter_map(|member| member.name.split_once('\n'));
    let ids: Vec<&str> = ids.map(|(_, session_id)| session_id).collect();
    let mut connections = alive(imports, policy, partition, &ids)?;
    connections.retain(|one| one.pod_id == pod_id);
    let last = members.last().filter(|_| members.len() == PART_MAX as usize);
    Ok(Page { connections, next: next_place(partition, last) })
}

/// Closes connections of a pod that is gone, in one part.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn drain_pod(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    reason: &str,
    cursor: u32,
) -> Result<Drained, Fault> {
    let mut violations = Vec::new();
    check_id(POD_FIELD, pod_id, &mut violations);
    check_reason("reason", reason, &mut violations);
    let partition = part(cursor, &mut violations);
    refuse(violations)?;
    let (members, live, _) = members(imports, partition.pod(pod_id), None, DRAINED_MAX)?;
    let targets: Vec<Target<'_>> = members
        .iter()
        .filter_map(|member| Target::listed(partition, pod_id, &member.name))
        .collect();
    let ending = Ending { how: How::Drained, reason, by: "drain of the pod" };
    let closed = end(imports, policy, &targets, &ending)?;
    let more = closed > 0 && live > members.len() as u32;
    let next = if more { Some(cursor) } else { partition.next() };
    Ok(Drained { closed, next })
}

/// Counts the connections of one part.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn stats(imports: &impl Imports, cursor: u32) -> Result<Count, Fault> {
    let mut violations = Vec::new();
    let partition = part(cursor, &mut violations);
    refuse(violations)?;
    let mut counted = Count { connections: 0, users: 0, pods: Vec::new(), next: partition.next() };
    let mut online: Vec<String> = Vec::new();
    for (pod, members) in all_of_pods(imports, partition)? {
        let users = members.iter().filter_map(|name| Some(name.split_once('\n')?.0.to_owned()));
        let mut users: Vec<String> = users.collect();
        if users.is_empty() {
            continue;
        }
        let connections = users.len() as u32;
        users.sort_unstable();
        users.dedup();
        counted.connections += connections;
        counted.pods.push(PodCount { pod_id: pod, connections, users: users.len() as u32 });
        online.append(&mut users);
    }
    online.sort_unstable();
    online.dedup();
    counted.users = online.len() as u32;
    Ok(counted)
}

/// The pods of a partition with all of their members, as of one moment, so that one who
/// moves is counted once.
fn all_of_pods(
    imports: &impl Imports,
    partition: Partition,
) -> Result<Vec<(String, Vec<String>)>, Fault> {
    let mut pods = all_members(imports, &partition.pods())?;
    for _ in 0..ATTEMPTS {
        if pods.len() > PODS_AT_ONCE {
            break;
        }
        let all = std::iter::once(listing(partition.pods(), None, LISTED_MAX));
        let all = all.chain(pods.iter().map(|pod| listing(partition.pod(pod), None, LISTED_MAX)));
        let outcome = execute(imports, Vec::new(), all.collect(), Vec::new())?;
        let pages = outcome.replies.into_iter().map(|reply| match reply {
            Reply::Members(page) => Ok(page),
            _ => Err(unexpected_replies()),
        });
        let mut pages: Vec<MemberPage> = pages.collect::<Result<_, _>>()?;
        let names = |page: MemberPage| page.members.into_iter().map(|one| one.name).collect();
        if pages.iter().any(|page| page.live as usize > page.members.len()) {
            break;
        }
        let present: Vec<String> = names(pages.remove(0));
        if present.iter().all(|pod| pods.contains(pod)) {
            return Ok(pods.into_iter().zip(pages.into_iter().map(names)).collect());
        }
        pods = present;
    }
    // There are too many for one step.
    let of_pod = |pod: String| {
        let members = all_members(imports, &partition.pod(&pod))?;
        Ok((pod, members))
    };
    pods.into_iter().map(of_pod).collect()
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Closed,
    Terminated,
    Drained,
    Expired,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Terminated => "terminated",
            Self::Drained => "drained",
            Self::Expired => "expired",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Closed, Self::Terminated, Self::Drained, Self::Expired]
            .into_iter()
            .find(|how| how.name() == name)
    }

    fn event(self) -> Type {
        match self {
            Self::Closed | Self::Drained => Type::ConnectionClosed,
            Self::Terminated => Type::ConnectionTerminated,
            Self::Expired => Type::ConnectionExpired,
        }
    }
}

/// How connections are brought to an end, why, and by whom.
struct Ending<'a> {
    how: How,
    reason: &'a str,
    by: &'a str,
}

impl Ending<'_> {
    fn reason(&self) -> &str {
        match (self.reason, self.how) {
            ("", How::Drained) => "POD_GONE",
            ("", How::Closed) => "CLOSED",
            ("", _) => "TERMINATED",
            (reason, _) => reason,
        }
    }
}

/// Where a connection is to be registered.
struct Place<'a> {
    partition: Partition,
    user_id: &'a str,
    pod_id: &'a str,
    session_id: &'a str,
}

impl Place<'_> {
    /// The connection as one of its user's.
    fn of_user(&self) -> MemberRef {
        let key = self.partition.connections(self.user_id);
        MemberRef { key, member: self.session_id.into() }
    }
}

/// What a record tells.
#[derive(Clone, Debug)]
struct Record {
    user_id: String,
    pod_id: String,
    connected_at_ms: u64,
    epoch: String,
    /// When the locator was written last; none when there is none.
    located_ms: Option<u64>,
    ended: Option<(How, String, String)>,
    expires_at_ms: u64,
}

impl Record {
    fn of(hash: &Hash) -> Option<Self> {
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

    fn is_alive(&self, policy: &Policy, now_ms: u64) -> bool {
        self.ended.is_none() && ends_ms(policy, self.expires_at_ms) > now_ms
    }

    fn connection(self, policy: &Policy, session_id: String) -> Connection {
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

/// A connection that is alive.
struct Found {
    partition: Partition,
    connection: Connection,
    located_ms: Option<u64>,
    now_ms: u64,
}

impl Found {
    fn target(&self) -> Target<'_> {
        Target::of(self.partition, &self.connection)
    }

    /// Has the locator outlive the record, when half of its time has passed.
    fn keep_located(&self, imports: &impl Imports, policy: &Policy) -> Result<(), Fault> {
        let due = |located_ms| self.now_ms >= located_ms + policy.connection_ttl_ms;
        if !self.located_ms.is_some_and(due) {
            return Ok(());
        }
        keep_located(imports, policy, self.partition, &[&self.connection.session_id])
    }
}

/// A connection to be changed, if it is still alive and where it was found.
struct Target<'a> {
    partition: Partition,
    user_id: &'a str,
    session_id: &'a str,
    pod_id: &'a str,
    /// When it has to be as it was read.
    epoch: Option<&'a str>,
}

impl<'a> Target<'a> {
    fn of(partition: Partition, connection: &'a Connection) -> Self {
        let Connection { user_id, session_id, pod_id, epoch, .. } = connection;
        Self { partition, user_id, session_id, pod_id, epoch: Some(epoch) }
    }

    /// A member of the set of a pod.
    fn listed(partition: Partition, pod_id: &'a str, name: &'a str) -> Option<Self> {
        let (user_id, session_id) = name.split_once('\n')?;
        Some(Self { partition, user_id, session_id, pod_id, epoch: None })
    }

    fn of_pod(&self) -> MemberRef {
        let member = pod_member(self.user_id, self.session_id);
        MemberRef { key: self.partition.pod(self.pod_id), member }
    }

    fn of_user(&self) -> MemberRef {
        let key = self.partition.connections(self.user_id);
        MemberRef { key, member: self.session_id.into() }
    }

    fn holds(&self) -> impl Iterator<Item = Compare> {
        let epoch = self.epoch.map(|epoch| {
            Compare::FieldEquals(FieldTest {
                key: self.partition.connection(self.session_id),
                field: EPOCH_FIELD.into(),
                value: epoch.into(),
            })
        });
        std::iter::once(Compare::MemberPresent(self.of_pod())).chain(epoch)
    }

    fn keep(&self, policy: &Policy) -> [Operation; 3] {
        let place = |MemberRef { key, member }| {
            Operation::MemberSet(MemberSet { key, member, ttl_ms: policy.connection_stale_ms })
        };
        [
            place(self.of_user()),
            place(self.of_pod()),
            Operation::HashExpire(Expiry {
                key: self.partition.connection(self.session_id),
                ttl_ms: policy.connection_ttl_ms,
            }),
        ]
    }

    fn end(&self, policy: &Policy, ending: &Ending<'_>) -> [Operation; 5] {
        let event = Event {
            pod_id: self.pod_id,
            reason: ending.reason(),
            by: ending.by,
            ..Event::of(ending.how.event(), self.user_id, self.session_id)
        };
        [
            Operation::MemberRemove(self.of_user()),
            Operation::MemberRemove(self.of_pod()),
            maintenance::forget(self.partition, Kind::Connection, self.user_id, self.session_id),
            Operation::HashSet(HashSet {
                key: self.partition.connection(self.session_id),
                entries: vec![
                    entry(ENDED_FIELD, ending.how.name()),
                    entry(REASON_FIELD, ending.reason()),
                    entry(BY_FIELD, ending.by),
                ],
                ttl_ms: Some(policy.connection_ttl_ms),
            }),
            event.append(policy, self.partition),
        ]
    }
}

/// Has an id that somebody has chosen belong to the user, and returns the claim.
fn claim(imports: &impl Imports, policy: &Policy, place: &Place<'_>) -> Result<String, Fault> {
    let key = keys::connection_of(place.session_id);
    let mine = |claim: &str| {
        Operation::HashSet(HashSet {
            key: key.clone(),
            entries: vec![entry(USER_FIELD, place.user_id), entry(CLAIM_FIELD, claim)],
            ttl_ms: Some(LOCATED * policy.connection_ttl_ms),
        })
    };
    for _ in 0..ATTEMPTS {
        let claim = imports.token(EPOCH_CHARACTERS);
        let free = Compare::FieldEqualsOrAbsent(FieldTest {
            key: key.clone(),
            field: USER_FIELD.into(),
            value: place.user_id.into(),
        });
        let whose = read(key.as_str(), &[USER_FIELD, CLAIM_FIELD]);
        let outcome = execute(imports, vec![free], vec![mine(&claim)], vec![whose])?;
        if outcome.succeeded {
            return Ok(claim);
        }
        let [Reply::Record(Some(locator))] = &outcome.replies[..] else { continue };
        let (Some(user_id), Some(theirs)) = (text(locator, USER_FIELD), text(locator, CLAIM_FIELD))
        else {
            return Err(unexpected_replies());
        };
        let (record, now_ms) = look(imports, Partition::of(&user_id), place.session_id)?;
        let alive = |record: &Record| record.user_id == user_id && record.is_alive(policy, now_ms);
        if record.as_ref().is_some_and(alive) {
            return Err(exists());
        }
        let unchanged = Compare::FieldEquals(claimed(place.session_id, theirs));
        if execute(imports, vec![unchanged], vec![mine(&claim)], Vec::new())?.succeeded {
            return Ok(claim);
        }
    }
    Err(restless())
}

/// The id is still claimed so.
fn claimed(session_id: &str, claim: String) -> FieldTest {
    let key = keys::connection_of(session_id);
    FieldTest { key, field: CLAIM_FIELD.into(), value: claim.into_bytes() }
}

/// Writes a connection; `found` is what was read of it before, and when, unless it is
/// new.
fn write(
    imports: &impl Imports,
    policy: &Policy,
    place: &Place<'_>,
    found: Option<(Option<Record>, u64)>,
) -> Result<Connection, Fault> {
    let Place { partition, user_id, session_id, .. } = *place;
    let (mut record, mut now_ms) = found.unwrap_or_default();
    for _ in 0..ATTEMPTS {
        let before = match &record {
            None => Before::Nothing,
            Some(record) => Before::of(record, place, policy, now_ms)?,
        };
        let epoch = imports.token(EPOCH_CHARACTERS);
        let compare = before.still(place, record.as_ref());
        let success = before.replace(policy, place, record.as_ref(), &epoch);
        let failure = vec![
            read(partition.connection(session_id), &FIELDS),
            listing(partition.connections(user_id), None, 0),
        ];
        let outcome = execute(imports, compare, success, failure)?;
        if outcome.succeeded {
            return Ok(Connection {
                user_id: user_id.into(),
                session_id: session_id.into(),
                pod_id: place.pod_id.into(),
                connected_at_ms: outcome.now_ms,
                last_heartbeat_at_ms: outcome.now_ms,
                expires_at_ms: outcome.now_ms + policy.connection_stale_ms,
                epoch,
            });
        }
        let [Reply::Record(hash), Reply::Members(page)] = &outcome.replies[..] else {
            return Err(unexpected_replies());
        };
        let epoch_of = |record: &Option<Record>| record.as_ref().map(|known| known.epoch.clone());
        let present = hash.as_ref().and_then(Record::of);
        let unchanged = epoch_of(&present) == epoch_of(&record);
        if unchanged && !matches!(before, Before::Alive) && page.live >= CONNECTIONS_MAX {
            return Err(limit_reached(imports, policy, place));
        }
        (record, now_ms) = (present, outcome.now_ms);
    }
    Err(restless())
}

/// What there was of a connection before it is registered.
enum Before {
    Nothing,
    /// It is alive, and moves.
    Alive,
    /// It is over, and everybody who wants to know was told.
    Over,
    /// It has ended by itself, and nobody has told of it.
    Unnoticed,
}

impl Before {
    fn of(record: &Record, place: &Place<'_>, policy: &Policy, now_ms: u64) -> Result<Self, Fault> {
        let same_user = record.user_id == place.user_id;
        match &record.ended {
            Some((how @ How::Terminated, reason, by)) if same_user => {
                Err(terminated(how.name(), reason, by))
            }
            Some(_) => Ok(Self::Over),
            None if record.is_alive(policy, now_ms) && same_user => Ok(Self::Alive),
            None if record.is_alive(policy, now_ms) => Err(exists()),
            None if same_user => Ok(Self::Unnoticed),
            // Whoever sweeps tells of it.
            None => Ok(Self::Over),
        }
    }

    /// What has to hold still.
    fn still(&self, place: &Place<'_>, record: Option<&Record>) -> Vec<Compare> {
        let key = place.partition.connection(place.session_id);
        let epoch = |value| FieldTest { key, field: EPOCH_FIELD.into(), value };
        let mut compare = vec![match record {
            // No epoch is empty.
            None => Compare::FieldEqualsOrAbsent(epoch(Vec::new())),
            Some(record) => Compare::FieldEquals(epoch(record.epoch.clone().into_bytes())),
        }];
        if matches!(self, Self::Alive) {
            compare.push(Compare::MemberPresent(place.of_user()));
            return compare;
        }
        if matches!(self, Self::Unnoticed) {
            let Place { partition, user_id, session_id, .. } = *place;
            let noted = maintenance::noted(partition, Kind::Connection, user_id, session_id);
            compare.push(Compare::MemberPresent(noted));
        }
        let key = place.partition.connections(place.user_id);
        compare.push(Compare::MemberAbsent(place.of_user()));
        compare.push(Compare::MembersBelow(MemberBound { key, limit: CONNECTIONS_MAX }));
        compare
    }

    /// What takes the place of it.
    fn replace(
        &self,
        policy: &Policy,
        place: &Place<'_>,
        record: Option<&Record>,
        epoch: &str,
    ) -> Vec<Operation> {
        let Place { partition, user_id, pod_id, session_id } = *place;
        let key = partition.connection(session_id);
        let event = |type_, pod_id: &str| {
            Event { pod_id, ..Event::of(type_, user_id, session_id) }.append(policy, partition)
        };
        let mut operations = Vec::with_capacity(10);
        match (self, record) {
            (Self::Alive, Some(before)) if before.pod_id != pod_id => {
                operations.push(Operation::MemberRemove(MemberRef {
                    key: partition.pod(&before.pod_id),
                    member: pod_member(user_id, session_id),
                }));
            }
            (Self::Unnoticed, Some(before)) => {
                operations.push(event(Type::ConnectionExpired, &before.pod_id));
            }
            _ => {}
        }
        operations.push(Operation::HashDelete(key.clone()));
        operations.push(Operation::HashSet(HashSet {
            key: key.clone(),
            entries: vec![
                entry(USER_FIELD, user_id),
                entry(SESSION_FIELD, session_id),
                entry(POD_FIELD, pod_id),
                entry(EPOCH_FIELD, epoch),
            ],
            ttl_ms: Some(policy.connection_ttl_ms),
        }));
        let stamp = |field: &str| {
            Operation::HashStamp(HashStamp { key: key.clone(), field: field.into(), later_ms: 0 })
        };
        operations.push(stamp(CONNECTED_FIELD));
        if !keys::is_made(session_id) {
            operations.push(stamp(LOCATED_FIELD));
        }
        let alive = |key, member| {
            let ttl_ms = policy.connection_stale_ms;
            Operation::MemberSet(MemberSet { key, member, ttl_ms })
        };
        operations.push(alive(partition.connections(user_id), session_id.into()));
        operations.push(alive(partition.pod(pod_id), pod_member(user_id, session_id)));
        operations.push(alive(partition.pods(), pod_id.into()));
        let ttl_ms = policy.connection_stale_ms;
        let kind = Kind::Connection;
        operations.push(maintenance::note(partition, kind, user_id, session_id, ttl_ms));
        let type_ = match self {
            Self::Alive => Type::ConnectionMoved,
            _ => Type::ConnectionCreated,
        };
        operations.push(event(type_, pod_id));
        operations
    }
}

/// Ends the connections that are still as they were found, and returns how many.
fn end(
    imports: &impl Imports,
    policy: &Policy,
    targets: &[Target<'_>],
    ending: &Ending<'_>,
) -> Result<u32, Fault> {
    let change = |target: &Target<'_>| target.end(policy, ending).to_vec();
    let (ended, _) = change_all(imports, targets, &change, &[])?;
    Ok(ended.into_iter().filter(|ended| *ended).count() as u32)
}

/// Keeps the connections that are still as they were found, and tells which, and when.
fn renew(
    imports: &impl Imports,
    policy: &Policy,
    targets: &[Target<'_>],
) -> Result<(Vec<bool>, u64), Fault> {
    let Some(first) = targets.first() else { return Ok((Vec::new(), 0)) };
    let pod = Operation::MemberSet(MemberSet {
        key: first.partition.pods(),
        member: first.pod_id.into(),
        ttl_ms: policy.connection_stale_ms,
    });
    change_all(imports, targets, &|target| target.keep(policy).to_vec(), &[pod])
}

/// Changes connections of one partition, as many in one step as may be, and tells which
/// were still as they were found, and when that was.
fn change_all(
    imports: &impl Imports,
    targets: &[Target<'_>],
    change: &dyn Fn(&Target<'_>) -> Vec<Operation>,
    also: &[Operation],
) -> Result<(Vec<bool>, u64), Fault> {
    let mut changed = Vec::with_capacity(targets.len());
    let mut now_ms = 0;
    // From the front to the back; a batch that does not hold is halved.
    let mut batches: Vec<&[Target<'_>]> = targets.chunks(BATCH).rev().collect();
    while let Some(batch) = batches.pop() {
        let compare = batch.iter().flat_map(Target::holds).collect();
        let mut success: Vec<Operation> = batch.iter().flat_map(change).collect();
        success.extend(also.iter().cloned());
        let outcome = execute(imports, compare, success, Vec::new())?;
        now_ms = outcome.now_ms;
        match batch {
            _ if outcome.succeeded => changed.extend(batch.iter().map(|_| true)),
            [] | [_] => changed.push(false),
            several => {
                let (these, those) = several.split_at(several.len() / 2);
                batches.extend([those, these]);
            }
        }
    }
    Ok((changed, now_ms))
}

/// Keeps connections of a pod in one partition: those that would end before a time, which
/// is that of the first part, and all of them there.
fn renew_part(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    partition: Partition,
    until_ms: Option<u64>,
) -> Result<Renewed, Fault> {
    let (mut members, _, now_ms) = members(imports, partition.pod(pod_id), None, PART_MAX)?;
    // What is kept from now on ends later than that.
    let until_ms = until_ms.unwrap_or(now_ms + policy.connection_stale_ms);
    let full = members.len() == PART_MAX as usize;
    let listed = members.len();
    members.retain(|member| member.expires_at_ms < until_ms);
    let more = full && members.len() == listed;
    let targets: Vec<Target<'_>> = members
        .iter()
        .filter_map(|member| Target::listed(partition, pod_id, &member.name))
        .collect();
    let (renewed, now_ms) = renew(imports, policy, &targets)?;
    let kept = renewed.iter().filter(|kept| **kept).count() as u32;
    let chosen = targets.iter().map(|target| target.session_id);
    let chosen: Vec<&str> = chosen.filter(|id| !keys::is_made(id)).collect();
    keep_those_located(imports, policy, partition, &chosen, now_ms)?;
    // Nothing that would end then has a name.
    let until = Member { name: String::new(), expires_at_ms: until_ms };
    // When none was kept, all of them have changed, and whoever did that keeps them.
    let next = next_place(partition, Some(until).filter(|_| more && kept > 0).as_ref());
    Ok(Renewed { kept, gone: Vec::new(), next })
}

/// Keeps the connections named, those that are alive on the pod.
fn renew_named(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    session_ids: Vec<String>,
) -> Result<Renewed, Fault> {
    let mut named: Vec<(Option<Partition>, &str)> = Vec::with_capacity(session_ids.len());
    let mut chosen: Vec<(Partition, &str)> = Vec::new();
    for id in &session_ids {
        match keys::is_made(id) {
            true => named.push((keys::partition_of_made(id), id)),
            false => chosen.push((Partition::of(id), id)),
        }
    }
    chosen.sort_unstable();
    for same in chosen.chunk_by(|(a, _), (b, _)| a == b) {
        let locators = same.iter().map(|(_, id)| read(keys::connection_of(id), &[USER_FIELD]));
        let outcome = execute(imports, Vec::new(), locators.collect(), Vec::new())?;
        for ((_, id), reply) in same.iter().zip(outcome.replies) {
            let Reply::Record(locator) = reply else { return Err(unexpected_replies()) };
            let user_id = locator.and_then(|locator| text(&locator, USER_FIELD));
            named.push((user_id.map(|user_id| Partition::of(&user_id)), id));
        }
    }
    named.sort_unstable();
    named.dedup();
    let (mut kept, mut alive_ids) = (0, Vec::new());
    for same in named.chunk_by(|(a, _), (b, _)| a == b) {
        let Some(partition) = same[0].0 else { continue };
        let ids: Vec<&str> = same.iter().map(|(_, id)| *id).collect();
        let mut found = alive(imports, policy, partition, &ids)?;
        found.retain(|one| one.pod_id == pod_id);
        let targets: Vec<Target<'_>> = found.iter().map(|one| Target::of(partition, one)).collect();
        let (renewed, now_ms) = renew(imports, policy, &targets)?;
        let renewed = found.iter().zip(renewed).filter(|(_, kept)| *kept);
        let renewed: Vec<&str> = renewed.map(|(one, _)| one.session_id.as_str()).collect();
        let chosen = renewed.iter().copied().filter(|id| !keys::is_made(id));
        keep_those_located(imports, policy, partition, &chosen.collect::<Vec<_>>(), now_ms)?;
        kept += renewed.len() as u32;
        alive_ids.extend(renewed.into_iter().map(str::to_owned));
    }
    alive_ids.sort_unstable();
    let mut gone = session_ids;
    gone.retain(|id| alive_ids.binary_search(id).is_err());
    gone.sort_unstable();
    gone.dedup();
    Ok(Renewed { kept, gone, next: None })
}

/// Keeps the locators of those connections for which it is time.
fn keep_those_located(
    imports: &impl Imports,
    policy: &Policy,
    partition: Partition,
    session_ids: &[&str],
    now_ms: u64,
) -> Result<(), Fault> {
    if session_ids.is_empty() {
        return Ok(());
    }
    let stamps = session_ids.iter().map(|id| read(partition.connection(id), &[LOCATED_FIELD]));
    let outcome = execute(imports, Vec::new(), stamps.collect(), Vec::new())?;
    let is_due = |reply: &Reply| match reply {
        Reply::Record(Some(record)) => moment(record, LOCATED_FIELD)
            .is_some_and(|located_ms| now_ms >= located_ms + policy.connection_ttl_ms),
        _ => false,
    };
    let due = session_ids.iter().zip(&outcome.replies).filter(|(_, reply)| is_due(reply));
    let due: Vec<&str> = due.map(|(id, _)| *id).collect();
    keep_located(imports, policy, partition, &due)
}

/// Has the locators of connections outlive their records.
fn keep_located(
    imports: &impl Imports,
    policy: &Policy,
    partition: Partition,
    session_ids: &[&str],
) -> Result<(), Fault> {
    let mut placed: Vec<(Partition, &str)> =
        session_ids.iter().map(|id| (Partition::of(id), *id)).collect();
    placed.sort_unstable();
    for same in placed.chunk_by(|(a, _), (b, _)| a == b) {
        let ttl_ms = LOCATED * policy.connection_ttl_ms;
        let kept = same
            .iter()
            .map(|(_, id)| Operation::HashExpire(Expiry { key: keys::connection_of(id), ttl_ms }));
        execute(imports, Vec::new(), kept.collect(), Vec::new())?;
    }
    for id in session_ids {
        let key = partition.connection(id);
        let stamp = HashStamp { key: key.clone(), field: LOCATED_FIELD.into(), later_ms: 0 };
        let there = vec![Compare::Exists(key)];
        execute(imports, there, vec![Operation::HashStamp(stamp)], Vec::new())?;
    }
    Ok(())
}

/// Finds a connection that is alive by its id.
fn find(imports: &impl Imports, policy: &Policy, session_id: &str) -> Result<Found, Fault> {
    let mut violations = Vec::new();
    if let Some(description) = keys::session_key_violation(session_id) {
        violations.push(violation(SESSION_FIELD, description));
    }
    refuse(violations)?;
    let (partition, whose) = if keys::is_made(session_id) {
        (keys::partition_of_made(session_id).ok_or_else(not_found)?, None)
    } else {
        let locator = read(keys::connection_of(session_id), &[USER_FIELD]);
        let outcome = execute(imports, Vec::new(), vec![locator], Vec::new())?;
        let [Reply::Record(locator)] = &outcome.replies[..] else {
            return Err(unexpected_replies());
        };
        let whose = locator.as_ref().and_then(|locator| text(locator, USER_FIELD));
        let whose = whose.ok_or_else(not_found)?;
        (Partition::of(&whose), Some(whose))
    };
    let (record, now_ms) = look(imports, partition, session_id)?;
    let record = record.ok_or_else(not_found)?;
    // Of an id that has just been taken over the record may still be the former user's.
    if whose.is_some_and(|whose| whose != record.user_id) {
        return Err(not_found());
    }
    if let Some((how, reason, by)) = &record.ended {
        return Err(match how {
            How::Expired => expired(),
            How::Closed | How::Terminated | How::Drained => terminated(how.name(), reason, by),
        });
    }
    if !record.is_alive(policy, now_ms) {
        return Err(expired());
    }
    let located_ms = record.located_ms;
    let connection = record.connection(policy, session_id.into());
    Ok(Found { partition, connection, located_ms, now_ms })
}

/// Reads a record, and the store's clock.
fn look(
    imports: &impl Imports,
    partition: Partition,
    session_id: &str,
) -> Result<(Option<Record>, u64), Fault> {
    let record = read(partition.connection(session_id), &FIELDS);
    let outcome = execute(imports, Vec::new(), vec![record], Vec::new())?;
    match &outcome.replies[..] {
        [Reply::Record(hash)] => Ok((hash.as_ref().and_then(Record::of), outcome.now_ms)),
        _ => Err(unexpected_replies()),
    }
}

/// Those of the connections that are alive.
fn alive(
    imports: &impl Imports,
    policy: &Policy,
    partition: Partition,
    session_ids: &[&str],
) -> Result<Vec<Connection>, Fault> {
    if session_ids.is_empty() {
        return Ok(Vec::new());
    }
    let records = session_ids.iter().map(|id| read(partition.connection(id), &FIELDS)).collect();
    let outcome = execute(imports, Vec::new(), records, Vec::new())?;
    let connection = |(id, reply): (&&str, Reply)| {
        let Reply::Record(Some(hash)) = reply else { return None };
        let record = Record::of(&hash)?;
        let alive = record.is_alive(policy, outcome.now_ms);
        alive.then(|| record.connection(policy, (*id).into()))
    };
    Ok(session_ids.iter().zip(outcome.replies).filter_map(connection).collect())
}

fn of_user(
    imports: &impl Imports,
    policy: &Policy,
    user_id: &str,
) -> Result<Vec<Connection>, Fault> {
    let partition = Partition::of(user_id);
    let (members, _, _) = members(imports, partition.connections(user_id), None, CONNECTIONS_MAX)?;
    let ids: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    let mut connections = alive(imports, policy, partition, &ids)?;
    connections.retain(|one| one.user_id == user_id);
    Ok(connections)
}

/// Members of a set, how many are alive in it, and the store's clock.
fn members(
    imports: &impl Imports,
    key: String,
    after: Option<Member>,
    limit: u32,
) -> Result<(Vec<Member>, u32, u64), Fault> {
    let outcome = execute(imports, Vec::new(), vec![listing(key, after, limit)], Vec::new())?;
    match outcome.replies.into_iter().next() {
        Some(Reply::Members(page)) => Ok((page.members, page.live, outcome.now_ms)),
        _ => Err(unexpected_replies()),
    }
}

/// The names of all members of a set.
fn all_members(imports: &impl Imports, key: &str) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let (page, _, _) = members(imports, key.into(), after, LISTED_MAX)?;
        let more = page.len() == LISTED_MAX as usize;
        after = page.last().filter(|_| more).cloned();
        names.extend(page.into_iter().map(|member| member.name));
        if after.is_none() {
            return Ok(names);
        }
    }
}

fn listing(key: String, after: Option<Member>, limit: u32) -> Operation {
    Operation::MemberList(MemberList { key, order: Order::SoonestFirst, after, limit })
}

/// What a connection is called among those of a pod; no id of a user has a line break.
fn pod_member(user_id: &str, session_id: &str) -> String {
    format!("{user_id}\n{session_id}")
}

/// The partition that a cursor names.
fn part(cursor: u32, violations: &mut Vec<Violation>) -> Partition {
    Partition::numbered(cursor).unwrap_or_else(|| {
        violations.push(violation("cursor", "is none that a part before has told"));
        Partition::of("")
    })
}

/// Where a part goes on: in a partition, behind a member of it or at its beginning.
fn next_place(partition: Partition, behind: Option<&Member>) -> Option<String> {
    match behind {
        None => partition.next().map(|next| next.to_string()),
        Some(Member { name, expires_at_ms }) => {
            let name = URL_SAFE_NO_PAD.encode(name);
            Some(format!("{}.{expires_at_ms}.{name}", partition.number()))
        }
    }
}

/// The place that a cursor names; an empty one names the beginning.
fn place_in_part(cursor: &str, violations: &mut Vec<Violation>) -> (Partition, Option<Member>) {
    let place = || {
        let mut parts = cursor.splitn(3, '.');
        let partition = Partition::numbered(parts.next()?.parse().ok()?)?;
        let Some(expires_at) = parts.next() else { return Some((partition, None)) };
        let name = URL_SAFE_NO_PAD.decode(parts.next()?).ok()?;
        let name =
            String::from_utf8(name).ok().filter(|name| name.len() <= 2 * ID_BYTES_MAX + 1)?;
        Some((partition, Some(Member { name, expires_at_ms: expires_at.parse().ok()? })))
    };
    let begin = (Partition::of(""), None);
    match cursor {
        "" => (Partition::numbered(0).unwrap_or(begin.0), None),
        _ => place().unwrap_or_else(|| {
            violations.push(violation("cursor", "is none that a part before has told"));
            begin
        }),
    }
}

fn check_session_id(field: &str, session_id: &str, violations: &mut Vec<Violation>) {
    let reserved = || format!("must not be {}", quote(RESERVED));
    let description = match keys::session_key_violation(session_id) {
        None => (session_id == RESERVED).then(reserved),
        wrong => wrong,
    };
    violations.extend(description.map(|description| violation(field, description)));
}

fn check_reason(field: &str, text: &str, violations: &mut Vec<Violation>) {
    if text.len() > REASON_BYTES_MAX {
        let bytes = text.len();
        let description = format!("has {bytes} bytes, at most {REASON_BYTES_MAX} are accepted");
        violations.push(violation(field, description));
    } else if let Some(control) = text.chars().find(|character| character.is_control()) {
        let description = format!("contains the control character {control:?}");
        violations.push(violation(field, description));
    }
}

/// Whether a fault says that a connection is not alive.
fn is_over(fault: &Fault) -> bool {
    use Reason::{SessionExpired, SessionNotFound, SessionTerminated};
    matches!(fault.reason, SessionNotFound | SessionExpired | SessionTerminated)
}

fn not_found() -> Fault {
    fault(Reason::SessionNotFound, "The connection does not exist.")
}

fn expired() -> Fault {
    fault(Reason::SessionExpired, "The connection has expired; no heartbeat came in time.")
}

fn exists() -> Fault {
    fault(Reason::SessionExists, "Another user has a connection of this id.")
}

fn terminated(how: &str, reason: &str, by: &str) -> Fault {
    let message = format!("The connection was {how}.");
    let mut fault = fault_with(Reason::SessionTerminated, message, "how", how.into());
    for (name, value) in [("reason", reason), ("by", by)] {
        fault.metadata.push(Detail { name: name.into(), value: value.into() });
    }
    fault
}

fn restless() -> Fault {
    fault(Reason::StoreUnavailable, "The connection changes too often; try again.")
}

fn limit_reached(imports: &impl Imports, policy: &Policy, place: &Place<'_>) -> Fault {
    let event =
        Event { pod_id: place.pod_id, ..Event::new(Type::ConnectionLimitReached, place.user_id) };
    let told = vec![event.append(policy, place.partition)];
    // What the refusal says does not depend on whether anybody hears of it.
    let _ = execute(imports, Vec::new(), told, Vec::new());
    let message = format!("The user has {CONNECTIONS_MAX} connections, which is the most.");
    fault_with(Reason::SessionLimitReached, message, "limit", CONNECTIONS_MAX.to_string())
}

#[cfg(test)]
mod tests;
