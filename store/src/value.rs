//! The value of a key in the memory store: a hash, a set with deadlines or a log. Plain data; the
//! shard decides what has expired.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use bytes::Bytes;

use crate::EventId;
use crate::clock::Milliseconds;
use crate::transaction::{Entry, Member, Order, Shape};

/// About the memory of a key besides its own bytes, which are in a table and in the queue of the
/// sweep. By these constants the process uses 1.1 to 1.3 times the counted memory.
const KEY_BYTES: u64 = 224;
/// About the memory of a field besides its name and its value.
const FIELD_BYTES: u64 = 96;
/// About the memory of a member besides its name, which is in two tables.
const MEMBER_BYTES: u64 = 112;
/// About the memory of an event besides its entries.
const EVENT_BYTES: u64 = 64;

/// The memory of a key with an empty value.
pub fn key_bytes(key: &str) -> u64 {
    KEY_BYTES + 2 * key.len() as u64
}

/// The memory of a field with a value of this length.
pub fn field_bytes(field: &str, value_bytes: usize) -> u64 {
    FIELD_BYTES + (field.len() + value_bytes) as u64
}

/// The memory of a member.
pub fn member_bytes(member: &str) -> u64 {
    MEMBER_BYTES + 2 * member.len() as u64
}

/// The memory of an event.
pub fn event_bytes(entries: &[Entry]) -> u64 {
    let entry = |entry: &Entry| field_bytes(&entry.field, entry.value.len());
    EVENT_BYTES + entries.iter().map(entry).sum::<u64>()
}

/// Fields with one deadline.
#[derive(Default)]
pub struct HashValue {
    /// The fields, in the order of their first writing.
    pub fields: Vec<(Box<str>, Bytes)>,
    /// The deadline of all of them.
    pub expires_at: Option<Milliseconds>,
}

/// Members with a deadline each.
#[derive(Default)]
pub struct SetValue {
    /// Deadlines by member.
    pub by_name: HashMap<Box<str>, Milliseconds>,
    /// Members in the order of their deadlines.
    pub by_deadline: BTreeSet<(Milliseconds, Box<str>)>,
}

/// Events, oldest first.
#[derive(Default)]
pub struct LogValue {
    /// The events with their ids.
    pub events: VecDeque<(EventId, Vec<Entry>)>,
    /// The id of the last event.
    pub last: EventId,
    /// The id of the last dropped event.
    pub dropped: EventId,
}

/// The value of a key.
pub enum Value {
    /// Fields and one deadline.
    Hash(HashValue),
    /// Members with a deadline each.
    Set(SetValue),
    /// Events.
    Log(LogValue),
}

impl Value {
    /// Its type, in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hash(_) => "hash",
            Self::Set(_) => "sorted set",
            Self::Log(_) => "stream",
        }
    }

    /// Its type.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Hash(_) => Shape::Hash,
            Self::Set(_) => Shape::Set,
            Self::Log(_) => Shape::Log,
        }
    }

    /// Its memory, without its key.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Hash(hash) => {
                hash.fields.iter().map(|(name, value)| field_bytes(name, value.len())).sum()
            }
            Self::Set(set) => set.by_name.keys().map(|name| member_bytes(name)).sum(),
            Self::Log(log) => log.events.iter().map(|(_, entries)| event_bytes(entries)).sum(),
        }
    }

    /// The earliest deadline in it.
    pub fn next_deadline(&self) -> Option<Milliseconds> {
        match self {
            Self::Hash(hash) => hash.expires_at,
            Self::Set(set) => set.by_deadline.first().map(|(deadline, _)| *deadline),
            Self::Log(_) => None,
        }
    }
}

impl HashValue {
    /// The value of a field.
    pub fn get(&self, field: &str) -> Option<&Bytes> {
        self.fields.iter().find(|(name, _)| **name == *field).map(|(_, value)| value)
    }

    /// Writes a field, and returns its memory before and after.
    pub fn put(&mut self, field: String, value: Bytes) -> (u64, u64) {
        let after = field_bytes(&field, value.len());
        match self.fields.iter_mut().find(|(name, _)| **name == *field) {
            Some((_, old)) => {
                let before = field_bytes(&field, old.len());
                *old = value;
                (before, after)
            }
            None => {
                self.fields.push((field.into(), value));
                (0, after)
            }
        }
    }
}

impl SetValue {
    /// Adds a member, or gives it a new deadline; returns whether it is new.
    pub fn insert(&mut self, name: &str, expires_at: Milliseconds) -> bool {
        let old = self.by_name.insert(name.into(), expires_at);
        if let Some(old) = old {
            self.by_deadline.remove(&(old, name.into()));
        }
        self.by_deadline.insert((expires_at, name.into()));
        old.is_none()
    }

    /// Removes a member; returns whether it was in the set.
    pub fn remove(&mut self, name: &str) -> bool {
        let old = self.by_name.remove(name);
        if let Some(old) = old {
            self.by_deadline.remove(&(old, name.into()));
        }
        old.is_some()
    }

    /// Lists members in order, after a mark.
    pub fn list(&self, order: Order, after: Option<&Member>, limit: usize) -> Vec<Member> {
        let member = |(deadline, name): &(u64, Box<str>)| Member {
            name: name.to_string(),
            expires_at: *deadline,
        };
        let mark = after.map(|after| (after.expires_at, Box::from(after.name.as_str())));
        let mark = mark.map_or(Unbounded, Excluded);
        match order {
            Order::SoonestFirst => {
                self.by_deadline.range((mark, Unbounded)).take(limit).map(member).collect()
            }
            Order::LatestFirst => {
                self.by_deadline.range((Unbounded, mark)).rev().take(limit).map(member).collect()
            }
        }
    }
}
