//! Operations on a pod. Its connections are spread over all partitions, so each operation
//! proceeds in parts, each in one partition.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::connections::change::{Life, Target, end, renew};
use crate::connections::lease;
use crate::connections::record::{
    ATTEMPTS, Ending, How, POD_FIELD, REASON_BYTES_MAX, Record, alive,
};
use crate::connections_types::{Count, Drained, Page, PodCount, Renewed};
use crate::fault::{refuse, violation};
use crate::faults::{Fault, Violation};
use crate::imports::{Durable, Imports};
use crate::keys::{self, ID_BYTES_MAX, Partition, check_id, check_text};
use crate::policy::Policy;
use crate::store::{Member, Order};
use crate::transaction::{self, Transaction};

/// The most ids of one heartbeat of a pod.
pub const IDS_MAX: usize = 1000;
/// The most connections of a pod that a part has.
const PART_MAX: u32 = 1000;
/// How many connections one step of a drain closes.
const DRAINED_MAX: u32 = 512;
/// The most pods whose members are read in one step.
const PODS_AT_ONCE: usize = 1000;
/// The most members of a set that are read at once.
const LISTED_MAX: u32 = 10_000;

/// Keeps connections of a pod: those named, or all of one part.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn heartbeat_pod(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    session_ids: Option<Vec<String>>,
    cursor: &str,
) -> Result<Renewed, Fault> {
    let mut violations = Vec::new();
    check_id(POD_FIELD, pod_id, &mut violations);
    let (partition, mark) = parse_cursor(cursor, &mut violations);
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

/// The connections of a pod in one part. Partitions where the pod has none are skipped, so only
/// the last part may be empty.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn list_pod(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    cursor: &str,
) -> Result<Page, Fault> {
    let mut violations = Vec::new();
    check_id(POD_FIELD, pod_id, &mut violations);
    let (mut partition, mut mark) = parse_cursor(cursor, &mut violations);
    refuse(violations)?;
    // Each round continues behind the one before, up to the end of the last partition.
    loop {
        let page = members(imports, partition.pod(pod_id), mark, PART_MAX)?.0;
        let members = page.members;
        let mut found = alive(imports, partition, &names(&members))?;
        found.retain(|(_, record)| record.pod_id == pod_id);
        let last = members.last().filter(|_| members.len() == PART_MAX as usize);
        let next = next_cursor(partition, last);
        if !found.is_empty() || next.is_none() {
            let stale_ms = policy.connection_stale_ms;
            let connection = |(id, record): (String, Record)| record.connection(stale_ms, id);
            return Ok(Page { connections: found.into_iter().map(connection).collect(), next });
        }
        mark = last.cloned();
        if mark.is_none() {
            partition = partition.next().and_then(Partition::numbered).unwrap_or(partition);
        }
    }
}

/// Closes connections of a pod that is gone, in one part.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn drain_pod(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    reason: &str,
    cursor: &str,
) -> Result<Drained, Fault> {
    let imports = &Durable(imports);
    let mut violations = Vec::new();
    check_id(POD_FIELD, pod_id, &mut violations);
    check_text("reason", reason, REASON_BYTES_MAX, &mut violations);
    let (partition, _) = parse_cursor(cursor, &mut violations);
    refuse(violations)?;
    let transaction::Page { members, live } =
        members(imports, partition.pod(pod_id), None, DRAINED_MAX)?.0;
    let targets: Vec<Target<'_>> = members
        .iter()
        .filter_map(|member| Target::listed(partition, pod_id, &member.name))
        .collect();
    let ending = Ending { how: How::Drained, reason, by: "drain of the pod" };
    let ended = end(imports, policy, &targets, &ending)?;
    let closed = ended.into_iter().filter(|ended| *ended).count() as u32;
    let more = closed > 0 && live > members.len() as u32;
    let next = if more { Some(cursor.into()) } else { next_cursor(partition, None) };
    Ok(Drained { closed, next })
}

/// Counts the connections of one part.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn stats(imports: &impl Imports, cursor: &str) -> Result<Count, Fault> {
    let mut violations = Vec::new();
    let (partition, _) = parse_cursor(cursor, &mut violations);
    refuse(violations)?;
    let mut counted =
        Count { connections: 0, users: 0, pods: Vec::new(), next: next_cursor(partition, None) };
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

/// The pods of a partition with all of their members at one moment. A connection that moves is
/// counted once.
fn all_of_pods(
    imports: &impl Imports,
    partition: Partition,
) -> Result<Vec<(String, Vec<String>)>, Fault> {
    let mut pods = all_members(imports, &partition.pods())?;
    for _ in 0..ATTEMPTS {
        if pods.len() > PODS_AT_ONCE {
            break;
        }
        let mut transaction = Transaction::new();
        let sets = std::iter::once(partition.pods()).chain(pods.iter().map(|it| partition.pod(it)));
        let pages: Vec<_> = sets.map(|set| list(&mut transaction, set, None, LISTED_MAX)).collect();
        let mut done = transaction.execute(imports)?;
        let mut pages: Vec<transaction::Page> =
            pages.into_iter().map(|page| done.take(page)).collect::<Result<_, _>>()?;
        let names = |page: transaction::Page| {
            page.members.into_iter().map(|one| one.name).collect::<Vec<_>>()
        };
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

/// Keeps connections of a pod in one partition: those that would end before `until_ms`. The
/// first part has no such time, and keeps all.
fn renew_part(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    partition: Partition,
    until_ms: Option<u64>,
) -> Result<Renewed, Fault> {
    let (page, now_ms) = members(imports, partition.pod(pod_id), None, PART_MAX)?;
    let mut members = page.members;
    // Connections that are kept from now on end later than that.
    let until_ms = until_ms.unwrap_or(now_ms + policy.connection_stale_ms);
    let full = members.len() == PART_MAX as usize;
    let listed = members.len();
    members.retain(|member| member.expires_at_ms < until_ms);
    let more = full && members.len() == listed;
    let targets: Vec<Target<'_>> = members
        .iter()
        .filter_map(|member| Target::listed(partition, pod_id, &member.name))
        .collect();
    let kept = keep(imports, policy, targets)?.len() as u32;
    // An empty name comes before all members that end at this time.
    let until = Member { name: String::new(), expires_at_ms: until_ms };
    // When none was kept, other calls have changed all of them, and keep them.
    let next = next_cursor(partition, Some(until).filter(|_| more && kept > 0).as_ref());
    Ok(Renewed { kept, gone: Vec::new(), next })
}

/// Keeps connections of one partition and pod, with the leases on their ids, and returns the
/// ids of those that were kept.
fn keep<'a>(
    imports: &impl Imports,
    policy: &Policy,
    targets: Vec<Target<'a>>,
) -> Result<Vec<&'a str>, Fault> {
    let is_made = |target: &Target<'_>| keys::is_made(target.session_id);
    let (made, chosen): (Vec<_>, Vec<_>) = targets.into_iter().partition(is_made);
    let mut lives: Vec<(Target<'a>, Life)> =
        made.into_iter().map(|target| (target, Life::Full)).collect();
    lives.extend(under_leases(imports, policy, chosen)?);
    let (renewed, _) = renew(imports, policy, &lives)?;
    let kept = lives.iter().zip(renewed).filter(|(_, renewed)| *renewed);
    Ok(kept.map(|((target, _), _)| target.session_id).collect())
}

/// How long connections of chosen ids may live on. Their leases are renewed first.
fn under_leases<'a>(
    imports: &impl Imports,
    policy: &Policy,
    chosen: Vec<Target<'a>>,
) -> Result<Vec<(Target<'a>, Life)>, Fault> {
    let of: Vec<_> = chosen.iter().map(|target| (target.user_id, target.session_id)).collect();
    let leases = lease::renew(imports, policy, &of)?;
    let lives = chosen.into_iter().zip(leases).filter_map(|(target, lease)| {
        let (now_ms, until_ms) = lease?;
        Some((target, Life::Leased { now_ms, until_ms }))
    });
    Ok(lives.collect())
}

/// Keeps the connections named, those that are alive on the pod.
fn renew_named(
    imports: &impl Imports,
    policy: &Policy,
    pod_id: &str,
    session_ids: Vec<String>,
) -> Result<Renewed, Fault> {
    // By the partition of their users. An id that the service has made says only the partition.
    let mut named: Vec<(Partition, String, &str)> = Vec::with_capacity(session_ids.len());
    let mut chosen: Vec<(Partition, &str)> = Vec::new();
    for id in &session_ids {
        match keys::is_made(id) {
            true => named.extend(keys::partition_of_made(id).map(|it| (it, String::new(), &**id))),
            false => chosen.push((Partition::of(id), id)),
        }
    }
    chosen.sort_unstable();
    for same in chosen.chunk_by(|(a, _), (b, _)| a == b) {
        let ids: Vec<&str> = same.iter().map(|(_, id)| *id).collect();
        for (id, owner) in ids.iter().zip(lease::owners(imports, &ids)?) {
            named.extend(owner.map(|user_id| (Partition::of(&user_id), user_id, *id)));
        }
    }
    named.sort_unstable();
    named.dedup();
    let mut alive_ids: Vec<String> = Vec::new();
    for same in named.chunk_by(|(a, ..), (b, ..)| a == b) {
        let partition = same[0].0;
        let of: Vec<_> = same.iter().map(|(_, user_id, id)| (user_id.as_str(), *id)).collect();
        let mut found = alive(imports, partition, &of)?;
        found.retain(|(_, record)| record.pod_id == pod_id);
        let targets = found.iter().map(|(session_id, record)| Target {
            partition,
            user_id: &record.user_id,
            session_id,
            pod_id,
            epoch: Some(&record.epoch),
        });
        let kept = keep(imports, policy, targets.collect())?;
        alive_ids.extend(kept.into_iter().map(str::to_owned));
    }
    let kept = alive_ids.len() as u32;
    alive_ids.sort_unstable();
    let mut gone = session_ids;
    gone.retain(|id| alive_ids.binary_search(id).is_err());
    gone.sort_unstable();
    gone.dedup();
    Ok(Renewed { kept, gone, next: None })
}

/// The users and ids that the members of a pod's set name.
fn names(members: &[Member]) -> Vec<(&str, &str)> {
    members.iter().filter_map(|member| member.name.split_once('\n')).collect()
}

fn list(
    transaction: &mut Transaction,
    key: String,
    after: Option<Member>,
    limit: u32,
) -> transaction::Handle<transaction::Page> {
    transaction.then.list(key, Order::SoonestFirst, after, limit)
}

/// Members of a set, and the store's clock.
fn members(
    imports: &impl Imports,
    key: String,
    after: Option<Member>,
    limit: u32,
) -> Result<(transaction::Page, u64), Fault> {
    let mut transaction = Transaction::new();
    let page = list(&mut transaction, key, after, limit);
    let mut done = transaction.execute(imports)?;
    Ok((done.take(page)?, done.now_ms))
}

/// The names of all members of a set.
fn all_members(imports: &impl Imports, key: &str) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    let mut after = None;
    loop {
        let page = members(imports, key.into(), after, LISTED_MAX)?.0.members;
        let more = page.len() == LISTED_MAX as usize;
        after = page.last().filter(|_| more).cloned();
        names.extend(page.into_iter().map(|member| member.name));
        if after.is_none() {
            return Ok(names);
        }
    }
}

/// The cursor of the next part: in a partition, behind a member of it or at its beginning.
fn next_cursor(partition: Partition, behind: Option<&Member>) -> Option<String> {
    match behind {
        None => partition.next().map(|next| next.to_string()),
        Some(Member { name, expires_at_ms }) => {
            let name = URL_SAFE_NO_PAD.encode(name);
            Some(format!("{}.{expires_at_ms}.{name}", partition.number()))
        }
    }
}

/// The partition and the member that a cursor names; an empty cursor names the beginning.
fn parse_cursor(cursor: &str, violations: &mut Vec<Violation>) -> (Partition, Option<Member>) {
    let position = || {
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
        _ => position().unwrap_or_else(|| {
            violations.push(violation("cursor", "was not returned with an earlier part"));
            begin
        }),
    }
}
