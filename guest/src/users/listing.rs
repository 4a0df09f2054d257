//! Lists of a user's sessions, page by page, the newest first. A page ends at a position in
//! the order of creation. No session that begins, ends or is used moves that position, so a
//! session that lives through the paging is on exactly one page.

use std::collections::BTreeSet;

use crate::fault::{refuse, violation};
use crate::faults::Fault;
use crate::imports::Imports;
use crate::keys::{self, User as Keys, check_id};
use crate::store::{Hash, Member, Order};
use crate::transaction::{self, Transaction, instant, read_all, text};
use crate::users::attributes::{
    CREATED_FIELD, DEVICE_FIELD, SEEN_FIELD, UPDATED_FIELD, USER_FIELD,
};
use crate::users::order;
use crate::users_types::{Overview, Page};

/// How many sessions a page has when the request does not say.
const PAGE_SIZE: u32 = 100;
/// The most sessions of one page.
pub const PAGE_SIZE_MAX: u32 = 1000;
/// The most sessions that the first page compares one by one with the order; of more, it
/// compares how many there are.
const COMPARED_MAX: u32 = PAGE_SIZE_MAX + 1;
/// How many characters of an id mark its position in a list.
const MARK_CHARACTERS: usize = 16;
/// The first character of a page token. The tokens of earlier releases, which are positions in
/// another order, begin differently.
const TOKEN: char = 'c';

/// Lists the sessions of a user, the newest first.
///
/// # Errors
/// `INVALID_REQUEST`; `STORE_UNAVAILABLE`.
pub fn list(
    imports: &impl Imports,
    user_id: &str,
    page_size: i32,
    page_token: &str,
) -> Result<Page, Fault> {
    let mut violations = Vec::new();
    check_id(USER_FIELD, user_id, &mut violations);
    let size = u32::try_from(page_size).ok();
    if size.is_none() {
        violations.push(violation("page_size", "must not be negative"));
    }
    let after = mark(page_token);
    if !page_token.is_empty() && after.is_none() {
        let description = "is not the next_page_token of an earlier page; begin again without one";
        violations.push(violation("page_token", description));
    }
    refuse(violations)?;
    let limit = match size {
        None | Some(0) => PAGE_SIZE,
        Some(size) => size.min(PAGE_SIZE_MAX),
    };
    let keys = Keys::of(user_id);
    let (mut members, in_order) = page(imports, &keys, after.as_ref(), limit)?;
    // A store that takes no writes now is listed as it is. The next list repairs what changes
    // again meanwhile.
    if !in_order && order::repair(imports, &keys).is_ok() {
        members = page(imports, &keys, after.as_ref(), limit)?.0;
    }
    let more = members.len() > limit as usize;
    members.truncate(limit as usize);
    let next_page_token = members.last().filter(|_| more).map(token).unwrap_or_default();
    Ok(Page { sessions: overviews(imports, &keys, members)?, next_page_token })
}

/// The sessions of a page, and those behind it that were read; and whether the order is
/// one of the sessions that are alive, as far as can be seen from here.
fn page(
    imports: &impl Imports,
    keys: &Keys,
    after: Option<&Member>,
    limit: u32,
) -> Result<(Vec<Member>, bool), Fault> {
    let first = after.is_none();
    // One more than the page has, to know whether there are any behind it.
    let listed = if first { COMPARED_MAX } else { limit + 1 };
    let compared = if first { COMPARED_MAX } else { 0 };
    let mut transaction = Transaction::new();
    let ordered =
        transaction.then.list(keys.order.as_str(), Order::LatestFirst, after.cloned(), listed);
    let alive = transaction.then.list(keys.sessions.as_str(), Order::SoonestFirst, None, compared);
    let mut done = transaction.execute(imports)?;
    let (ordered, alive) = (done.take(ordered)?, done.take(alive)?);
    let whole = |page: &transaction::Page| page.members.len() == page.live as usize;
    let same = || {
        let names: BTreeSet<&String> = alive.members.iter().map(|member| &member.name).collect();
        ordered.members.iter().all(|member| names.contains(&member.name))
    };
    let compared = first && whole(&ordered) && whole(&alive);
    let in_order = ordered.live == alive.live && (!compared || same());
    Ok((ordered.members, in_order))
}

/// The sessions that the members of the order name, without those that have ended meanwhile.
fn overviews(
    imports: &impl Imports,
    keys: &Keys,
    members: Vec<Member>,
) -> Result<Vec<Overview>, Fault> {
    let fields = [DEVICE_FIELD, CREATED_FIELD, UPDATED_FIELD, SEEN_FIELD];
    let records = members.iter().map(|member| keys.session(&member.name));
    let (records, _) = read_all(imports, records, &fields)?;
    let overview = |(member, hash): (Member, Option<Hash>)| {
        let hash = hash?;
        let created_at_ms = instant(&hash, CREATED_FIELD).unwrap_or_default();
        let updated_at_ms = instant(&hash, UPDATED_FIELD).unwrap_or(created_at_ms);
        let seen_at_ms = instant(&hash, SEEN_FIELD).unwrap_or(created_at_ms);
        Some(Overview {
            session_id: member.name,
            device_id: text(&hash, DEVICE_FIELD).unwrap_or_default(),
            created_at_ms,
            updated_at_ms,
            last_seen_at_ms: seen_at_ms.max(updated_at_ms),
        })
    };
    Ok(members.into_iter().zip(records).filter_map(overview).collect())
}

/// The token for the end of a page. It does not contain the whole id.
pub fn token(last: &Member) -> String {
    let name: String = last.name.chars().take(MARK_CHARACTERS).collect();
    format!("{TOKEN}{}.{name}", order::created_at_ms(last))
}

/// The position that a token names. The token has only the first characters of an id. Of ids
/// with one deadline, the longest comes first, so the whole id is before this position.
pub fn mark(token: &str) -> Option<Member> {
    let (created_at, name) = token.strip_prefix(TOKEN)?.split_once('.')?;
    let expires_at = order::deadline_of(created_at.parse().ok()?)?;
    let fits = name.len() == MARK_CHARACTERS && name.bytes().all(keys::is_base64url);
    fits.then(|| Member { name: name.into(), expires_at_ms: expires_at })
}
