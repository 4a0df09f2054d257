//! The rows of values on disk: one for each field, deadline, member and event, so that a change
//! writes only what changed. The key of a row is a letter for the type, the length of the store's
//! key in two bytes, that key, and the field, member or event id.

use bytes::{BufMut, Bytes, BytesMut};

use crate::EventId;
use crate::clock::Milliseconds;
use crate::transaction::Entry;

pub(crate) const HASH: u8 = b'h';
pub(crate) const SET: u8 = b's';
pub(crate) const LOG: u8 = b'e';

/// A row to write (`Some`) or to remove (`None`).
pub struct Row {
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Option<Bytes>,
}

/// The changes of a transaction, as rows. A store without a journal collects none.
pub struct Changes(Option<Vec<Row>>);

impl Changes {
    /// No changes yet.
    pub fn new(journaled: bool) -> Self {
        Self(journaled.then(Vec::new))
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(Vec::is_empty)
    }

    /// The rows, in the order of the changes.
    pub fn into_rows(self) -> Vec<Row> {
        self.0.unwrap_or_default()
    }

    fn push(&mut self, key: impl FnOnce() -> Vec<u8>, value: impl FnOnce() -> Option<Bytes>) {
        if let Some(rows) = &mut self.0 {
            rows.push(Row { key: key(), value: value() });
        }
    }

    /// Records that a field was written.
    pub fn put_field(&mut self, key: &str, field: &str, value: &Bytes) {
        self.push(|| row_key(HASH, key, field.as_bytes()), || Some(value.clone()));
    }

    /// Records that a hash was made or has a new deadline.
    pub fn put_deadline(&mut self, key: &str, expires_at: Option<Milliseconds>) {
        let value = || Some(Bytes::copy_from_slice(&expires_at.unwrap_or(0).to_be_bytes()));
        self.push(|| row_key(HASH, key, b""), value);
    }

    /// Records that a hash was removed.
    pub fn remove_hash<'a>(&mut self, key: &str, fields: impl Iterator<Item = &'a str>) {
        for field in std::iter::once("").chain(fields) {
            self.push(|| row_key(HASH, key, field.as_bytes()), || None);
        }
    }

    /// Records that a member was added to a set.
    pub fn put_member(&mut self, key: &str, member: &str, expires_at: Milliseconds) {
        let value = || Some(Bytes::copy_from_slice(&expires_at.to_be_bytes()));
        self.push(|| row_key(SET, key, member.as_bytes()), value);
    }

    /// Records that a member was removed.
    pub fn remove_member(&mut self, key: &str, member: &str) {
        self.push(|| row_key(SET, key, member.as_bytes()), || None);
    }

    /// Records that an event was appended.
    pub fn put_event(&mut self, log: &str, id: EventId, entries: &[Entry]) {
        self.push(|| row_key(LOG, log, &event_suffix(id)), || Some(encode_entries(entries)));
    }

    /// Records that a log was removed, with its events and the id of the last dropped event.
    pub fn remove_log(&mut self, log: &str, events: impl Iterator<Item = EventId>) {
        for id in events {
            self.push(|| row_key(LOG, log, &event_suffix(id)), || None);
        }
        self.push(|| row_key(LOG, log, b""), || None);
    }

    /// Records that the oldest event was dropped.
    pub fn drop_event(&mut self, log: &str, id: EventId) {
        self.push(|| row_key(LOG, log, &event_suffix(id)), || None);
        self.put_dropped(log, id);
    }

    /// Records the last dropped event.
    pub fn put_dropped(&mut self, log: &str, id: EventId) {
        let value = || Some(Bytes::copy_from_slice(&event_suffix(id)));
        self.push(|| row_key(LOG, log, b""), value);
    }
}

/// The kind of a row's key, for people: the part before its first colon. The rest is not shown, as
/// it may identify a user.
pub fn kind(key: &[u8]) -> &str {
    let name = split(key).map_or("", |(_, name, _)| name);
    name.split_once(':').map_or("other", |(kind, _)| kind)
}

/// A row that no version of this store wrote.
#[derive(Debug, thiserror::Error)]
#[error("a row is malformed")]
pub struct MalformedRow;

fn row_key(letter: u8, name: &str, suffix: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).expect("a checked key is at most 1,024 bytes long");
    let mut key = Vec::with_capacity(3 + name.len() + suffix.len());
    key.push(letter);
    key.extend_from_slice(&length.to_be_bytes());
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(suffix);
    key
}

pub(crate) fn split(key: &[u8]) -> Option<(u8, &str, &[u8])> {
    let (&letter, rest) = key.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (name, suffix) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    Some((letter, str::from_utf8(name).ok()?, suffix))
}

fn event_suffix(id: EventId) -> [u8; 16] {
    ((u128::from(id.milliseconds) << 64) | u128::from(id.sequence)).to_be_bytes()
}

/// Encodes the length and the bytes of each name and value.
fn encode_entries(entries: &[Entry]) -> Bytes {
    let mut out = BytesMut::new();
    for entry in entries {
        for part in [entry.field.as_bytes(), &entry.value] {
            out.put_u32(u32::try_from(part.len()).expect("a value is far below 4 GiB"));
            out.put_slice(part);
        }
    }
    out.freeze()
}

pub(crate) fn decode_entries(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    let mut part = || {
        let (length, rest) = bytes.split_first_chunk()?;
        let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(part)
    };
    let mut entries = Vec::new();
    while let Some(field) = part() {
        let field = str::from_utf8(field).ok()?.to_owned();
        entries.push(Entry { field, value: Bytes::copy_from_slice(part()?) });
    }
    bytes.is_empty().then_some(entries)
}
