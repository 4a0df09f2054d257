//! What lives under a key of the memory store: a hash, an expiring set or a log.
//! Plain data; whether it has ended, and what that means, is its shard's to say.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use bytes::Bytes;

use crate::clock::Milliseconds;
use crate::store::EventId;
use crate::store::transaction::{Entry, Member, Order, Shape};

/// A map of fields with one deadline.
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
    /// The id given last.
    pub last: EventId,
    /// The id of the event that was dropped last.
    pub dropped: EventId,
}

/// One of the three.
pub enum Value {
    /// Fields and one deadline.
    Hash(HashValue),
    /// Members with a deadline each.
    Set(SetValue),
    /// Events.
    Log(LogValue),
}

impl Value {
    /// Which of the three.
    pub fn shape(&self) -> Shape {
        match self {
            Self::Hash(_) => Shape::Hash,
            Self::Set(_) => Shape::Set,
            Self::Log(_) => Shape::Log,
        }
    }

    /// When something of it ends next.
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

    /// Writes a field.
    pub fn put(&mut self, field: String, value: Bytes) {
        match self.fields.iter_mut().find(|(name, _)| **name == *field) {
            Some((_, old)) => *old = value,
            None => self.fields.push((field.into(), value)),
        }
    }
}

impl SetValue {
    /// Puts a member in, or gives it a new deadline.
    pub fn insert(&mut self, name: &str, expires_at: Milliseconds) {
        if let Some(old) = self.by_name.insert(name.into(), expires_at) {
            self.by_deadline.remove(&(old, name.into()));
        }
        self.by_deadline.insert((expires_at, name.into()));
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) {
        if let Some(old) = self.by_name.remove(name) {
            self.by_deadline.remove(&(old, name.into()));
        }
    }

    /// Members in order, behind a mark.
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
