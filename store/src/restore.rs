//! Restores a store in memory from rows.

use bytes::Bytes;

use crate::EventId;
use crate::memory::Memory;
use crate::rows::{HASH, LOG, MalformedRow, SET, decode_entries, split};
use crate::transaction::{self, Shape};

/// Restores one row: adds what it holds, or removes what it removes. A row holds a whole value and
/// never an increment, so rows may be applied again if all later rows are applied again too.
///
/// # Errors
/// If the row is not one that [`Changes`](crate::rows::Changes) makes.
pub fn row(memory: &Memory, key: &[u8], value: Option<&[u8]>) -> Result<(), MalformedRow> {
    let (letter, name, suffix) = split(key).ok_or(MalformedRow)?;
    let text = |bytes| str::from_utf8(bytes).map_err(|_| MalformedRow);
    let number = |bytes: &[u8]| {
        bytes.first_chunk().map(|chunk| u64::from_be_bytes(*chunk)).ok_or(MalformedRow)
    };
    let id = |bytes: &[u8]| {
        let sequence = number(bytes.get(8..).ok_or(MalformedRow)?)?;
        Ok(EventId { milliseconds: number(bytes)?, sequence })
    };
    let tag = transaction::tag(name);
    match (letter, suffix, value) {
        (HASH, b"", None) => {
            memory.restore(tag, |shard| shard.restore_key_removal(name, Shape::Hash));
        }
        (HASH, b"", Some(value)) => {
            let expires_at = Some(number(value)?).filter(|&at| at != 0);
            memory.restore(tag, |shard| shard.restore_deadline(name, expires_at));
        }
        (HASH, field, None) => {
            let field = text(field)?;
            memory.restore(tag, |shard| shard.restore_field_removal(name, field));
        }
        (HASH, field, Some(value)) => {
            let (field, value) = (text(field)?, Bytes::copy_from_slice(value));
            memory.restore(tag, |shard| shard.restore_field(name, field, value));
        }
        (SET, member, None) => {
            let member = text(member)?;
            memory.restore(tag, |shard| shard.restore_member_removal(name, member));
        }
        (SET, member, Some(value)) => {
            let (member, expires_at) = (text(member)?, number(value)?);
            memory.restore(tag, |shard| shard.restore_member(name, member, expires_at));
        }
        (LOG, b"", None) => {
            memory.restore(tag, |shard| shard.restore_key_removal(name, Shape::Log));
        }
        (LOG, b"", Some(value)) => {
            let dropped = id(value)?;
            memory.restore(tag, |shard| shard.restore_dropped(name, dropped));
        }
        (LOG, event, None) => {
            let at = id(event)?;
            memory.restore(tag, |shard| shard.restore_event_removal(name, at));
        }
        (LOG, event, Some(value)) => {
            let entries = decode_entries(value).ok_or(MalformedRow)?;
            let at = id(event)?;
            memory.restore(tag, |shard| shard.restore_event(name, at, entries));
        }
        _ => return Err(MalformedRow),
    }
    Ok(())
}
