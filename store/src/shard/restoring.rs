//! What a journal does with the values of a shard: writes down what is there, and puts back
//! what was recorded. Rows are applied in their order, some of them a second time: what a row
//! meets may be newer than itself, and the rows behind it put that right.

use bytes::Bytes;

use crate::EventId;
use crate::clock::Milliseconds;
use crate::rows::Changes;
use crate::shard::{Shard, Slot};
use crate::transaction::{Entry, Shape};
use crate::value::{LogValue, Value, event_bytes, field_bytes};

impl Shard {
    /// The keys that are there, those included that have ended and were not swept yet.
    pub fn keys(&self) -> Vec<Box<str>> {
        self.slots.keys().cloned().collect()
    }

    /// Writes down everything under a key.
    pub fn record(&self, key: &str, changes: &mut Changes) {
        let Some(slot) = self.slots.get(key) else { return };
        match &slot.value {
            Value::Hash(hash) => {
                changes.put_deadline(key, hash.expires_at);
                hash.fields.iter().for_each(|(name, value)| changes.put_field(key, name, value));
            }
            Value::Set(set) => {
                let members = set.by_name.iter();
                members.for_each(|(name, deadline)| changes.put_member(key, name, *deadline));
            }
            Value::Log(log) => {
                if log.dropped != EventId::default() {
                    changes.put_dropped(key, log.dropped);
                }
                log.events.iter().for_each(|(id, entries)| changes.put_event(key, *id, entries));
            }
        }
    }

    /// Takes away everything under a key, if it is of this shape.
    pub fn restore_removal(&mut self, key: &str, shape: Shape) {
        if self.slots.get(key).is_some_and(|slot| slot.value.shape() == shape) {
            self.remove_slot(key);
        }
    }

    /// Puts back a field.
    pub fn restore_field(&mut self, key: &str, field: &str, value: Bytes) {
        self.make_way(key, Shape::Hash);
        let (before, after) = self.hash(key).put(field.into(), value);
        self.bytes = self.bytes + after - before;
    }

    /// Takes a field away.
    pub fn restore_no_field(&mut self, key: &str, field: &str) {
        let Some(Slot { value: Value::Hash(hash), .. }) = self.slots.get_mut(key) else { return };
        let Some(at) = hash.fields.iter().position(|(name, _)| **name == *field) else { return };
        let (name, value) = hash.fields.remove(at);
        self.bytes -= field_bytes(&name, value.len());
    }

    /// Puts back the deadline of a hash.
    pub fn restore_deadline(&mut self, key: &str, expires_at: Option<Milliseconds>) {
        self.make_way(key, Shape::Hash);
        self.hash(key).expires_at = expires_at;
        self.enqueue(key);
    }

    /// Puts back a member.
    pub fn restore_member(&mut self, key: &str, member: &str, expires_at: Milliseconds) {
        self.make_way(key, Shape::Set);
        self.put_member(key, member, expires_at);
        self.enqueue(key);
    }

    /// Takes a member away.
    pub fn restore_no_member(&mut self, key: &str, member: &str) {
        self.remove_members(key, &[member.into()], &mut Changes::new(false));
    }

    /// Puts back an event.
    pub fn restore_event(&mut self, key: &str, id: EventId, entries: Vec<Entry>) {
        self.make_way(key, Shape::Log);
        let added = event_bytes(&entries);
        let log = self.log(key);
        log.last = log.last.max(id);
        match place(log, id) {
            Ok(at) => {
                let old = std::mem::replace(&mut log.events[at].1, entries);
                self.bytes -= event_bytes(&old);
            }
            Err(at) if at == log.events.len() => log.events.push_back((id, entries)),
            Err(at) => log.events.insert(at, (id, entries)),
        }
        self.bytes += added;
    }

    /// Takes an event away.
    pub fn restore_no_event(&mut self, key: &str, id: EventId) {
        let Some(Slot { value: Value::Log(log), .. }) = self.slots.get_mut(key) else { return };
        let Ok(at) = place(log, id) else { return };
        if let Some((_, entries)) = log.events.remove(at) {
            self.bytes -= event_bytes(&entries);
        }
    }

    /// Puts back which event was dropped last.
    pub fn restore_dropped(&mut self, key: &str, id: EventId) {
        self.make_way(key, Shape::Log);
        let log = self.log(key);
        log.dropped = id;
        log.last = log.last.max(id);
    }

    /// What comes later under a key may be of another shape.
    fn make_way(&mut self, key: &str, shape: Shape) {
        if self.slots.get(key).is_some_and(|slot| slot.value.shape() != shape) {
            self.remove_slot(key);
        }
    }
}

/// Where an event is, or would be.
fn place(log: &LogValue, id: EventId) -> Result<usize, usize> {
    match log.events.back() {
        Some((last, _)) if *last < id => Err(log.events.len()),
        _ => log.events.binary_search_by_key(&id, |(at, _)| *at),
    }
}
