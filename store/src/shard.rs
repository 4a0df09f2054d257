//! The values of some tags, and the rules of a transaction on them: plain data, with time passed
//! in, no lock and no I/O. Invariant: a refused transaction has changed nothing, and a value past
//! its deadline is never seen.

mod growing;
mod restoring;

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::capacity::Reservation;
use crate::clock::Milliseconds;
use crate::growth;
use crate::rows::Changes;
use crate::transaction::{
    Compare, Copies, Entry, Hash, Operation, Order, Outcome, Reply, Shape, Txn, added, counted,
};
use crate::value::{HashValue, LogValue, SetValue, Value, event_bytes, key_bytes, member_bytes};
use crate::{EVENT_AHEAD_MS_MAX, Error, Event, EventId, LogMark, LogPage};

struct Slot {
    value: Value,
    /// The earliest deadline that the queue holds for this key. A later deadline does not change
    /// the queue; the sweep checks the value.
    queued: Option<Milliseconds>,
}

/// The values of some tags.
#[derive(Default)]
pub struct Shard {
    slots: HashMap<Box<str>, Slot>,
    queue: BTreeSet<(Milliseconds, Box<str>)>,
    /// The number of keys of each kind.
    counts: HashMap<Box<str>, u64>,
    /// The memory of all values.
    bytes: u64,
}

/// Whether an event lies too far in the future.
fn is_ahead(now: Milliseconds, id: EventId) -> bool {
    id.milliseconds > now.saturating_add(EVENT_AHEAD_MS_MAX)
}

/// The kind of a key: the part up to its first colon.
fn kind(key: &str) -> &str {
    key.find(':').map_or("", |colon| &key[..=colon])
}

impl Shard {
    /// Applies a checked transaction whose keys all belong to this shard.
    ///
    /// # Errors
    /// [`Error::Rejected`] if a key holds another type than the transaction expects;
    /// [`Error::Full`] if `reservation` has no room for what it adds. Then nothing has changed.
    pub fn execute(
        &mut self,
        now: Milliseconds,
        txn: Txn,
        changes: &mut Changes,
        reservation: &mut Reservation<'_>,
    ) -> Result<Outcome, Error> {
        for (key, shape) in txn.targets() {
            self.expire(now, key, changes);
            self.expect(key, shape)?;
        }
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { txn.success } else { txn.failure };
        if reservation.is_limited() {
            let growth = self.growth(now, &branch);
            if growth.needs_room() && !reservation.reserve(growth.bytes) {
                return Err(growth::full("The store", "MEMORY_MAX"));
            }
        }
        let replies =
            branch.into_iter().map(|operation| self.perform(now, operation, changes)).collect();
        Ok(Outcome { succeeded, replies, now })
    }

    /// The memory of all values, in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Counts the keys with one of the prefixes, including expired ones that are not swept yet.
    /// Fast for a prefix that ends with its only colon.
    pub fn count(&self, prefixes: &[String]) -> u64 {
        let count = |prefix: &String| match self.counts.get(&**prefix) {
            Some(count) => *count,
            None if kind(prefix) == prefix => 0,
            None => self.slots.keys().filter(|key| key.starts_with(&**prefix)).count() as u64,
        };
        prefixes.iter().map(count).sum()
    }

    /// Events of a log after `mark`, oldest first.
    pub fn events(&self, now: Milliseconds, mark: &LogMark, limit: usize) -> LogPage {
        let Some(Slot { value: Value::Log(log), .. }) = self.slots.get(mark.log.as_str()) else {
            return LogPage::default();
        };
        let start = log.events.partition_point(|(id, _)| mark.after.is_some_and(|at| *id <= at));
        let event =
            |(id, entries): &(EventId, Vec<Entry>)| Event { id: *id, entries: entries.clone() };
        let events: Vec<Event> = log.events.iter().skip(start).take(limit).map(event).collect();
        LogPage {
            trimmed: mark.after.is_some_and(|at| at < log.dropped),
            ahead: events.last().is_some_and(|last| is_ahead(now, last.id)),
            events,
        }
    }

    /// Empties a log whose newest event lies too far in the future.
    pub fn empty_if_ahead(&mut self, now: Milliseconds, log: &str, changes: &mut Changes) {
        let Some(Slot { value: Value::Log(value), .. }) = self.slots.get(log) else { return };
        if is_ahead(now, value.last) {
            changes.remove_log(log, value.events.iter().map(|(id, _)| *id));
            self.remove_slot(log);
        }
    }

    /// Visits up to `limit` due keys, and removes expired values. Returns how many it visited.
    pub fn sweep(&mut self, now: Milliseconds, limit: usize, changes: &mut Changes) -> usize {
        let mut visited = 0;
        while visited < limit && self.queue.first().is_some_and(|(deadline, _)| *deadline <= now) {
            let Some((_, key)) = self.queue.pop_first() else { break };
            visited += 1;
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.queued = None;
                self.expire(now, &key, changes);
                self.enqueue(&key);
            }
        }
        visited
    }

    /// Checks that a key holds nothing, or a value of this shape.
    fn expect(&self, key: &str, shape: Shape) -> Result<(), Error> {
        match self.slots.get(key) {
            Some(slot) if slot.value.shape() != shape => {
                Err(Error::wrong_type(slot.value.name(), shape))
            }
            _ => Ok(()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Exists(key) => self.slots.contains_key(&**key),
            Compare::Absent(key) => !self.slots.contains_key(&**key),
            Compare::FieldEquals { key, field, value, or_absent } => {
                self.field(key, field).map_or(*or_absent, |found| found == value)
            }
            Compare::FieldAmong { key, field, values } => {
                self.field(key, field).is_some_and(|found| values.contains(found))
            }
            Compare::CountEquals { key, field, number } => {
                counted(self.field(key, field)) == *number
            }
            Compare::SizeAtMost { key, except, limit } => {
                let fields = match self.slots.get(&**key) {
                    Some(Slot { value: Value::Hash(hash), .. }) => &hash.fields[..],
                    _ => &[],
                };
                let counted =
                    fields.iter().filter(|(name, _)| !except.iter().any(|e| **e == **name));
                counted.map(|(_, value)| value.len() as u64).sum::<u64>() <= *limit
            }
            Compare::Member { key, member, alive } => {
                let found =
                    self.existing_set(key).is_some_and(|s| s.by_name.contains_key(&**member));
                found == *alive
            }
            Compare::MembersBelow { key, limit } => {
                self.existing_set(key).map_or(0, |set| set.by_name.len()) < *limit as usize
            }
        }
    }

    fn perform(&mut self, now: u64, operation: Operation, changes: &mut Changes) -> Reply {
        match operation {
            Operation::HashSet { key, entries, ttl } => {
                let created = self.hash(&key).fields.is_empty();
                for Entry { field, value } in entries {
                    self.put_field(&key, field, value, changes);
                }
                let hash = self.hash(&key);
                if let Some(ttl) = ttl {
                    hash.expires_at = Some(now + ttl);
                }
                let expires_at = hash.expires_at;
                if created || ttl.is_some() {
                    changes.put_deadline(&key, expires_at);
                    self.enqueue(&key);
                }
                Reply::Deadline(expires_at)
            }
            Operation::HashGet { key, fields } => Reply::Record(self.read(&key, fields.as_deref())),
            Operation::HashAdd { key, field, delta } => {
                let hash = self.hash(&key);
                if hash.fields.is_empty() {
                    changes.put_deadline(&key, None);
                }
                let number = added(hash.get(&field), delta);
                self.put_field(&key, field, Bytes::from(number.to_string()), changes);
                Reply::Number(i64::try_from(number).unwrap_or(i64::MAX))
            }
            Operation::HashStamp { key, field, later } => {
                let hash = self.hash(&key);
                if hash.fields.is_empty() {
                    changes.put_deadline(&key, None);
                }
                self.put_field(&key, field, Bytes::from((now + later).to_string()), changes);
                Reply::Number(i64::try_from(now + later).unwrap_or(i64::MAX))
            }
            Operation::HashDelete(key) => Reply::Existed(self.remove_hash(&key, changes)),
            Operation::HashExpire { key, ttl } => {
                let deadline = match self.slots.get_mut(&*key) {
                    Some(Slot { value: Value::Hash(hash), .. }) => {
                        hash.expires_at = Some(now + ttl);
                        changes.put_deadline(&key, hash.expires_at);
                        hash.expires_at
                    }
                    _ => None,
                };
                self.enqueue(&key);
                Reply::Deadline(deadline)
            }
            Operation::HashMove { key, to, ttl } => {
                let fields = match self.slots.get(&*key) {
                    Some(Slot { value: Value::Hash(hash), .. }) => hash.fields.clone(),
                    _ => return Reply::Deadline(None),
                };
                self.remove_hash(&key, changes);
                self.remove_hash(&to, changes);
                for (field, value) in fields {
                    self.put_field(&to, field.into(), value, changes);
                }
                self.hash(&to).expires_at = Some(now + ttl);
                changes.put_deadline(&to, Some(now + ttl));
                self.enqueue(&to);
                Reply::Deadline(Some(now + ttl))
            }
            Operation::MemberSet { key, member, ttl } => {
                changes.put_member(&key, &member, now + ttl);
                self.put_member(&key, &member, now + ttl);
                self.enqueue(&key);
                Reply::Deadline(Some(now + ttl))
            }
            Operation::MemberRenew { key, member, ttl } => {
                let alive =
                    self.existing_set(&key).is_some_and(|s| s.by_name.contains_key(&*member));
                if alive {
                    changes.put_member(&key, &member, now + ttl);
                    self.put_member(&key, &member, now + ttl);
                    self.enqueue(&key);
                }
                Reply::Deadline(alive.then_some(now + ttl))
            }
            Operation::MemberSetUntil { key, member, expires_at } if expires_at > now => {
                changes.put_member(&key, &member, expires_at);
                self.put_member(&key, &member, expires_at);
                self.enqueue(&key);
                Reply::Deadline(Some(expires_at))
            }
            Operation::MemberSetUntil { key, member, .. } => {
                self.remove_members(&key, &[member.into()], changes);
                Reply::Deadline(None)
            }
            Operation::MemberRemove { key, member } => {
                let existed =
                    self.existing_set(&key).is_some_and(|s| s.by_name.contains_key(&*member));
                if existed {
                    self.remove_members(&key, &[member.into()], changes);
                }
                Reply::Existed(existed)
            }
            Operation::MemberList { key, order, after, limit } => self.existing_set(&key).map_or(
                Reply::Members { members: Vec::new(), live: 0 },
                |set| Reply::Members {
                    members: set.list(order, after.as_ref(), limit as usize),
                    live: set.by_name.len() as u32,
                },
            ),
            Operation::MemberClear { key, except, record_prefix, also_in } => {
                let except = except.as_deref();
                self.clear(&key, except, record_prefix.as_deref(), also_in.as_ref(), changes)
            }
            Operation::AppendEvent { log, entries, keep } => {
                Reply::Appended(self.append(now, &log, entries, keep, changes).to_string())
            }
        }
    }

    fn append(
        &mut self,
        now: Milliseconds,
        log: &str,
        entries: Vec<Entry>,
        keep: u32,
        changes: &mut Changes,
    ) -> EventId {
        let (added, mut dropped) = (event_bytes(&entries), 0);
        let value = self.log(log);
        let id = match value.last {
            last if now > last.milliseconds => EventId { milliseconds: now, sequence: 0 },
            last => EventId { sequence: last.sequence + 1, ..last },
        };
        value.last = id;
        changes.put_event(log, id, &entries);
        value.events.push_back((id, entries));
        while value.events.len() > keep as usize {
            if let Some((oldest, entries)) = value.events.pop_front() {
                dropped += event_bytes(&entries);
                changes.drop_event(log, oldest);
                value.dropped = oldest;
            }
        }
        self.bytes = self.bytes + added - dropped;
        id
    }

    fn put_field(&mut self, key: &str, field: String, value: Bytes, changes: &mut Changes) {
        changes.put_field(key, &field, &value);
        let (before, after) = self.hash(key).put(field, value);
        self.bytes = self.bytes + after - before;
    }

    fn put_member(&mut self, key: &str, member: &str, expires_at: Milliseconds) {
        if self.set(key).insert(member, expires_at) {
            self.bytes += member_bytes(member);
        }
    }

    fn read(&self, key: &str, fields: Option<&[String]>) -> Option<Hash> {
        let Slot { value: Value::Hash(hash), .. } = self.slots.get(key)? else { return None };
        let wanted = |name: &str| fields.is_none_or(|fields| fields.iter().any(|f| f == name));
        let entries = hash
            .fields
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| Entry { field: name.to_string(), value: value.clone() });
        Some(Hash { entries: entries.collect(), expires_at: hash.expires_at })
    }

    fn clear(
        &mut self,
        key: &str,
        except: Option<&str>,
        record_prefix: Option<&str>,
        also_in: Option<&Copies>,
        changes: &mut Changes,
    ) -> Reply {
        let listed =
            self.existing_set(key).map(|set| set.list(Order::SoonestFirst, None, usize::MAX));
        let mut members = listed.unwrap_or_default();
        let all = members.len();
        members.retain(|member| Some(&*member.name) != except);
        let live = (all - members.len()) as u32;
        let names: Vec<Box<str>> =
            members.iter().map(|member| member.name.as_str().into()).collect();
        self.remove_members(key, &names, changes);
        if let Some(prefix) = record_prefix {
            for name in &names {
                self.remove_hash(&[prefix, name].concat(), changes);
            }
        }
        if let Some(Copies { key, prefix }) = also_in {
            let copies: Vec<Box<str>> =
                names.iter().map(|name| [prefix, &**name].concat().into()).collect();
            self.remove_members(key, &copies, changes);
        }
        Reply::Members { members, live }
    }

    fn remove_hash(&mut self, key: &str, changes: &mut Changes) -> bool {
        match self.slots.get(key) {
            Some(Slot { value: Value::Hash(hash), .. }) => {
                changes.remove_hash(key, hash.fields.iter().map(|(name, _)| &**name));
                self.remove_slot(key);
                true
            }
            _ => false,
        }
    }

    fn remove_members(&mut self, key: &str, names: &[Box<str>], changes: &mut Changes) {
        let Some(Slot { value: Value::Set(set), .. }) = self.slots.get_mut(key) else { return };
        for name in names {
            changes.remove_member(key, name);
            if set.remove(name) {
                self.bytes -= member_bytes(name);
            }
        }
        if set.by_name.is_empty() {
            self.remove_slot(key);
        }
    }

    /// Removes what has expired under one key.
    fn expire(&mut self, now: Milliseconds, key: &str, changes: &mut Changes) {
        let Some(slot) = self.slots.get(key) else { return };
        if slot.value.next_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        match &slot.value {
            Value::Hash(_) => {
                self.remove_hash(key, changes);
            }
            Value::Set(set) => {
                let dead: Vec<Box<str>> = set
                    .by_deadline
                    .iter()
                    .take_while(|(deadline, _)| *deadline <= now)
                    .map(|(_, name)| name.clone())
                    .collect();
                self.remove_members(key, &dead, changes);
            }
            Value::Log(_) => {}
        }
    }

    /// Makes sure that the sweep visits this key at its next deadline.
    fn enqueue(&mut self, key: &str) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(deadline) = slot.value.next_deadline() else { return };
        if slot.queued.is_none_or(|queued| deadline < queued) {
            if let Some(queued) = slot.queued.replace(deadline) {
                self.queue.remove(&(queued, key.into()));
            }
            self.queue.insert((deadline, key.into()));
        }
    }

    /// Removes everything under a key, and its entry in the queue.
    fn remove_slot(&mut self, key: &str) {
        let Some(slot) = self.slots.remove(key) else { return };
        self.bytes -= key_bytes(key) + slot.value.bytes();
        if let Some(queued) = slot.queued {
            self.queue.remove(&(queued, key.into()));
        }
        if let Some(count) = self.counts.get_mut(kind(key)) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(kind(key));
            }
        }
    }

    fn field(&self, key: &str, field: &str) -> Option<&Bytes> {
        match self.slots.get(key)? {
            Slot { value: Value::Hash(hash), .. } => hash.get(field),
            _ => None,
        }
    }

    fn existing_set(&self, key: &str) -> Option<&SetValue> {
        match self.slots.get(key)? {
            Slot { value: Value::Set(set), .. } => Some(set),
            _ => None,
        }
    }

    fn slot(&mut self, key: &str, empty: fn() -> Value) -> &mut Value {
        if !self.slots.contains_key(key) {
            self.bytes += key_bytes(key);
            self.slots.insert(key.into(), Slot { value: empty(), queued: None });
            match self.counts.get_mut(kind(key)) {
                Some(count) => *count += 1,
                None => drop(self.counts.insert(kind(key).into(), 1)),
            }
        }
        &mut self.slots.get_mut(key).expect("it was just put there").value
    }

    fn hash(&mut self, key: &str) -> &mut HashValue {
        match self.slot(key, || Value::Hash(HashValue::default())) {
            Value::Hash(hash) => hash,
            _ => unreachable!("types are checked before anything is written"),
        }
    }

    fn set(&mut self, key: &str) -> &mut SetValue {
        match self.slot(key, || Value::Set(SetValue::default())) {
            Value::Set(set) => set,
            _ => unreachable!("types are checked before anything is written"),
        }
    }

    fn log(&mut self, key: &str) -> &mut LogValue {
        match self.slot(key, || Value::Log(LogValue::default())) {
            Value::Log(log) => log,
            _ => unreachable!("types are checked before anything is written"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::Capacity;

    fn run(shard: &mut Shard, now: Milliseconds, success: Vec<Operation>) {
        let txn = Txn { success, ..Txn::default() };
        let capacity = Capacity::new(None);
        let mut reservation = capacity.open(0);
        shard.execute(now, txn, &mut Changes::new(false), &mut reservation).expect("accepted");
    }

    fn set(key: &str, ttl: Milliseconds) -> Operation {
        let entries = vec![Entry { field: "f".into(), value: Bytes::new() }];
        Operation::HashSet { key: key.into(), entries, ttl: Some(ttl) }
    }

    #[test]
    fn removed_keys_leave_no_trace() {
        let mut shard = Shard::default();
        for n in 0..100 {
            let (key, set_key) = (format!("k{n}{{t}}"), format!("s{n}{{t}}"));
            run(&mut shard, n, vec![set(&key, 1000), set(&key, 500), set(&key, 2000)]);
            let put = |member: &str| Operation::MemberSet {
                key: set_key.clone(),
                member: member.into(),
                ttl: 1000,
            };
            run(&mut shard, n, vec![put("a"), put("b")]);
            let clear = Operation::MemberClear {
                key: set_key,
                except: None,
                record_prefix: None,
                also_in: None,
            };
            run(&mut shard, n, vec![Operation::HashDelete(key), clear]);
        }
        assert!(shard.slots.is_empty() && shard.queue.is_empty() && shard.counts.is_empty());
        assert_eq!(shard.bytes, 0);
    }

    #[test]
    fn a_sweep_removes_expired_values() {
        let mut shard = Shard::default();
        run(&mut shard, 0, vec![set("short{t}", 10), set("long{t}", 100), set("moved{t}", 10)]);
        run(&mut shard, 5, vec![set("moved{t}", 200)]);
        let sweep = |shard: &mut Shard, now| shard.sweep(now, 256, &mut Changes::new(false));
        assert_eq!(sweep(&mut shard, 9), 0);
        assert_eq!(sweep(&mut shard, 10), 2);
        assert_eq!(shard.slots.len(), 2, "a renewed value stays");
        sweep(&mut shard, 100);
        assert_eq!(shard.slots.len(), 1);
        sweep(&mut shard, 205);
        assert!(shard.slots.is_empty() && shard.queue.is_empty());
    }
}
