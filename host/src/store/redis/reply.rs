//! Converts Redis replies to the replies of a transaction. `None` means that a reply has another
//! form than its command asks for, which is a defect of the script or the server.

use bytes::Bytes;
use redis::{ErrorKind, RedisError, Value};

use crate::store::redis::node::NodeAddress;
use session_store::clock::Milliseconds;
use session_store::transaction::{Entry, Hash, Member, Operation, Outcome, Reply, Txn};
use session_store::{Event, LogPage, Logs};

/// A reply that does not match its command.
pub fn mismatch() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "the reply does not match the command").into()
}

/// Whether a reply repeats the number of its command.
pub fn repeats(value: &Value, number: u64) -> bool {
    text(value).is_some_and(|text| text.parse() == Ok(number))
}

/// The nodes and their slots, as `CLUSTER SLOTS` reports them. A node that does not know its own
/// host is on the host of `own`, the node that was asked.
pub fn slots(value: Value, own: &NodeAddress) -> Option<Vec<(u16, u16, NodeAddress)>> {
    let Value::Array(ranges) = value else { return None };
    let range = |range: Value| {
        let Value::Array(parts) = range else { return None };
        let [first, last, Value::Array(primary), ..] = &*parts else { return None };
        let [host, port, ..] = &**primary else { return None };
        let host = text(host).filter(|host| !host.is_empty() && *host != "?");
        let host = host.unwrap_or(&own.host).to_owned();
        let port = u16::try_from(integer(port)?).ok()?;
        let slot = |value: &Value| u16::try_from(integer(value)?).ok();
        Some((slot(first)?, slot(last)?, NodeAddress { host, port }))
    };
    ranges.into_iter().map(range).collect()
}

/// The outcome that the script returned.
pub fn outcome(txn: &Txn, mut values: impl Iterator<Item = Value>) -> Option<Outcome> {
    let succeeded = integer(&values.next()?)? == 1;
    let now = integer(&values.next()?)?.unsigned_abs();
    let branch = if succeeded { &txn.success } else { &txn.failure };
    let replies = branch.iter().map(|operation| reply(operation, values.next()?));
    Some(Outcome { succeeded, replies: replies.collect::<Option<_>>()?, now })
}

/// The time that `TIME` returned.
pub fn time(value: &Value) -> Option<Milliseconds> {
    let Value::Array(parts) = value else { return None };
    let number = |value: &Value| text(value)?.parse::<u64>().ok();
    Some(number(parts.first()?)? * 1000 + number(parts.get(1)?)? / 1000)
}

/// A hash from its deadline and the reply to `HGETALL`, or to `HMGET` of `fields`.
pub fn hash(deadline: &Value, value: Value, fields: Option<&[String]>) -> Option<Option<Hash>> {
    let deadline = integer(deadline)?;
    if deadline == ABSENT {
        return Some(None);
    }
    let entries = match (fields, value) {
        (None, value) => pairs(value)?.into_iter().map(entry).collect::<Option<_>>()?,
        (Some(fields), Value::Array(values)) => fields
            .iter()
            .zip(values)
            .filter_map(|(field, value)| {
                bytes(value).map(|value| Entry { field: field.clone(), value })
            })
            .collect(),
        _ => return None,
    };
    Some(Some(Hash { entries, expires_at: expires_at(deadline) }))
}

/// The pages that `logs.lua` returned for `count` logs.
pub fn logs(mut values: impl Iterator<Item = Value>, count: usize) -> Option<Logs> {
    let now = integer(&values.next()?)?.unsigned_abs();
    let mut page = || {
        let Value::Array(items) = values.next()? else { return None };
        let events = items.into_iter().map(event).collect::<Option<_>>()?;
        let mut flag = || Some(integer(&values.next()?)? != 0);
        Some(LogPage { events, trimmed: flag()?, ahead: flag()? })
    };
    Some(Logs { now, pages: (0..count).map(|_| page()).collect::<Option<_>>()? })
}

/// An event as `XRANGE` returns it.
fn event(item: Value) -> Option<Event> {
    let Value::Array(parts) = item else { return None };
    let mut parts = parts.into_iter();
    let id = text(&parts.next()?)?.parse().ok()?;
    let entries = pairs(parts.next()?)?.into_iter().map(entry).collect::<Option<_>>()?;
    Some(Event { id, entries })
}

/// The reply of `PEXPIRETIME` for a key that does not exist.
const ABSENT: i64 = -2;

fn expires_at(deadline: i64) -> Option<Milliseconds> {
    u64::try_from(deadline).ok()
}

fn reply(operation: &Operation, value: Value) -> Option<Reply> {
    Some(match operation {
        Operation::HashSet { .. }
        | Operation::HashExpire { .. }
        | Operation::HashMove { .. }
        | Operation::MemberSet { .. }
        | Operation::MemberRenew { .. }
        | Operation::MemberSetUntil { .. } => Reply::Deadline(expires_at(integer(&value)?)),
        Operation::HashAdd { .. } | Operation::HashStamp { .. } => Reply::Number(integer(&value)?),
        Operation::HashDelete(_) | Operation::MemberRemove { .. } => {
            Reply::Existed(integer(&value)? != 0)
        }
        Operation::HashGet { .. } => match value {
            Value::Nil => Reply::Record(None),
            Value::Array(parts) => {
                let mut parts = parts.into_iter();
                Reply::Record(hash(&parts.next()?, parts.next()?, None)?)
            }
            _ => return None,
        },
        Operation::MemberList { .. } | Operation::MemberClear { .. } => {
            let Value::Array(parts) = value else { return None };
            let mut parts = parts.into_iter();
            let live = u32::try_from(integer(&parts.next()?)?).ok()?;
            let members = match parts.next() {
                None => Vec::new(),
                Some(page) => pairs(page)?.into_iter().map(member).collect::<Option<_>>()?,
            };
            Reply::Members { members, live }
        }
        Operation::AppendEvent { .. } => Reply::Appended(text(&value)?.to_owned()),
    })
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => str::from_utf8(bytes).ok(),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        _ => None,
    }
}

fn pairs(value: Value) -> Option<Vec<(Value, Value)>> {
    let Value::Array(values) = value else { return None };
    let mut values = values.into_iter();
    let mut pairs = Vec::with_capacity(values.len() / 2);
    while let Some(first) = values.next() {
        pairs.push((first, values.next()?));
    }
    Some(pairs)
}

/// Another program may have written a field name that is not text.
fn entry((field, value): (Value, Value)) -> Option<Entry> {
    let Value::BulkString(field) = field else { return None };
    let field = String::from_utf8(field)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Some(Entry { field, value: bytes(value)? })
}

fn member((name, deadline): (Value, Value)) -> Option<Member> {
    let Value::BulkString(name) = name else { return None };
    let name = String::from_utf8_lossy(&name).into_owned();
    Some(Member { name, expires_at: text(&deadline)?.parse().ok()? })
}
