//! What is about a pod, whose connections are spread over all partitions: it goes part by
//! part, each in one partition.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::change::{Target, end, renew};
use super::record::{Ending, How};
use super::{ATTEMPTS, POD_FIELD, REASON_BYTES_MAX, USER_FIELD, alive, listing, locator, members};
use crate::connections_types::{Count, Drained, Page, PodCount, Renewed};
use crate::fault::{refuse, violation};
use crate::faults::{Fault, Violation};
use crate::imports::{Durable, Imports};
use crate::keys::{self, ID_BYTES_MAX, Partition, check_id, check_text};
use crate::policy::Policy;
use crate::store::{Member, MemberPage, Reply};
use crate::transaction::{execute, read, text, unexpected_replies};

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

/// The connections of a pod in one part, which has some unless it is the last: partitions
/// where the pod has none are passed over.
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
    let (mut partition, mut mark) = place_in_part(cursor, &mut violations);
    refuse(violations)?;
    // Each round goes on behind the one before, up to the end of the last partition.
    loop {
        let (members, _, _) = members(imports, partition.pod(pod_id), mark, PART_MAX)?;
        let ids = members.iter().filter_map(|member| member.name.split_once('\n'));
        let ids: Vec<&str> = ids.map(|(_, session_id)| session_id).collect();
        let mut connections = alive(imports, policy, partition, &ids)?;
        connections.retain(|one| one.pod_id == pod_id);
        let last = members.last().filter(|_| members.len() == PART_MAX as usize);
        let next = next_place(partition, last);
        if !connections.is_empty() || next.is_none() {
            return Ok(Page { connections, next });
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
/// `invalid-request`; `store-unavailable`.
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
    let (partition, _) = place_in_part(cursor, &mut violations);
    refuse(violations)?;
    let (members, live, _) = members(imports, partition.pod(pod_id), None, DRAINED_MAX)?;
    let targets: Vec<Target<'_>> = members
        .iter()
        .filter_map(|member| Target::listed(partition, pod_id, &member.name))
        .collect();
    let ending = Ending { how: How::Drained, reason, by: "drain of the pod" };
    let closed = end(imports, policy, &targets, &ending)?;
    let more = closed > 0 && live > members.len() as u32;
    let next = if more { Some(cursor.into()) } else { next_place(partition, None) };
    Ok(Drained { closed, next })
}

/// Counts the connections of one part.
///
/// # Errors
/// `invalid-request`; `store-unavailable`.
pub fn stats(imports: &impl Imports, cursor: &str) -> Result<Count, Fault> {
    let mut violations = Vec::new();
    let (partition, _) = place_in_part(cursor, &mut violations);
    refuse(violations)?;
    let mut counted =
        Count { connections: 0, users: 0, pods: Vec::new(), next: next_place(partition, None) };
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
    locator::keep_due(imports, policy, partition, &chosen, now_ms)?;
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
        locator::keep_due(imports, policy, partition, &chosen.collect::<Vec<_>>(), now_ms)?;
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
