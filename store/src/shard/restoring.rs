//! Records the values of a shard for a journal, and restores them. Rows are applied in order, some
//! of them twice: the state that a row meets may be newer than the row, and the later rows correct
//! that.

use bytes::Bytes;

use crate::EventId;
use crate::clock::Milliseconds;
use crate::rows::Changes;
use crate::shard::{Shard, Slot};
use crate::transaction::{Entry, Shape};
use crate::value::{LogValue, Value, event_bytes, field_bytes};

impl Shard {
    /// All keys, including expired ones that are not swept yet.
    pub fn keys(&self) -> Vec<Box<str>> {
        self.slots.keys().cloned().collect()
    }

    /// Records everything under a key.
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

    /// Removes everything under a key, if it is of this shape.
    pub fn restore_key_removal(&mut self, key: &str, shape: Shape) {
        if self.slots.get(key).is_some_and(|slot| slot.value.shape() == shape) {
            self.remove_slot(key);
        }
    }

    /// Restores a field.
    pub fn restore_field(&mut self, key: &str, field: &str, value: Bytes) {
        self.remove_other_shape(key, Shape::Hash);
        let (before, after) = self.hash(key).put(field.into(), value);
        self.bytes = self.bytes + after - before;
    }

    /// Removes a field.
    pub fn restore_field_removal(&mut self, key: &str, field: &str) {
        let Some(Slot { value: Value::Hash(hash), .. }) = self.slots.get_mut(key) else { return };
        let Some(at) = hash.fields.iter().position(|(name, _)| **name == *field) else { return };
        let (name, value) = hash.fields.remove(at);
        self.bytes -= field_bytes(&name, value.len());
    }

    /// Restores the deadline of a hash.
    pub fn restore_deadline(&mut self, key: &str, expires_at: Option<Milliseconds>) {
        self.remove_other_shape(key, Shape::Hash);
        self.hash(key).expires_at = expires_at;
        self.enqueue(key);
    }

    /// Restores a member.
    pub fn restore_member(&mut self, key: &str, member: &str, expires_at: Milliseconds) {
        self.remove_other_shape(key, Shape::Set);
        self.put_member(key, member, expires_at);
        self.enqueue(key);
    }

    /// Removes a member.
    pub fn restore_member_removal(&mut self, key: &str, member: &str) {
        self.remove_members(key, &[member.into()], &mut Changes::new(false));
    }

    /// Restores an event.
    pub fn restore_event(&mut self, key: &str, id: EventId, entries: Vec<Entry>) {
        self.remove_other_shape(key, Shape::Log);
        let added = event_bytes(&entries);
        let log = self.log(key);
        log.last = log.last.max(id);
        match position(log, id) {
            Ok(at) => {
                let old = std::mem::replace(&mut log.events[at].1, entries);
                self.bytes -= event_bytes(&old);
            }
            Err(at) if at == log.events.len() => log.events.push_back((id, entries)),
            Err(at) => log.events.insert(at, (id, entries)),
        }
        self.bytes += added;
    }

    /// Removes an event.
    pub fn restore_event_removal(&mut self, key: &str, id: EventId) {
        let Some(Slot { value: Value::Log(log), .. }) = self.slots.get_mut(key) else { return };
        let Ok(at) = position(log, id) else { return };
        if let Some((_, entries)) = log.events.remove(at) {
            self.bytes -= event_bytes(&entries);
        }
    }

    /// Restores the id of the last dropped event.
    pub fn restore_dropped(&mut self, key: &str, id: EventId) {
        self.remove_other_shape(key, Shape::Log);
        let log = self.log(key);
        log.dropped = id;
        log.last = log.last.max(id);
    }

    /// Removes a value of another shape, as the key may have changed its type later.
    fn remove_other_shape(&mut self, key: &str, shape: Shape) {
        if self.slots.get(key).is_some_and(|slot| slot.value.shape() != shape) {
            self.remove_slot(key);
        }
    }
}

/// The index of an event, or the index at which it would be.
fn position(log: &LogValue, id: EventId) -> Result<usize, usize> {
    match log.events.back() {
        Some((last, _)) if *last < id => Err(log.events.len()),
        _ => log.events.binary_search_by_key(&id, |(at, _)| *at),
    }
}
