//! What a transaction would add to the values of a shard, given their current state. A store with a
//! limit needs it before it applies a transaction. Changes nothing.

use bytes::Bytes;

use crate::clock::Milliseconds;
use crate::growth::{Effect, Growth};
use crate::shard::Shard;
use crate::transaction::{Entry, Operation};
use crate::value::{event_bytes, field_bytes, key_bytes, member_bytes};

/// The most digits of a number, with its sign.
const NUMBER_BYTES_MAX: usize = 20;

impl Shard {
    /// The growth by a branch. Each operation is judged by itself, so for several operations on one
    /// key the sum is an upper bound.
    pub(super) fn growth(&self, now: Milliseconds, branch: &[Operation]) -> Growth {
        let mut growth = Growth::default();
        // A key that the same branch makes again frees nothing.
        let mut deleted: Vec<&str> = Vec::new();
        for operation in branch {
            let key = operation.target().0;
            let is_absent = !self.slots.contains_key(key);
            let made = if is_absent { key_bytes(key) } else { 0 };
            match operation.effect() {
                Effect::Keeps => {}
                Effect::Frees if matches!(operation, Operation::HashDelete(_)) => {
                    if self.removes(operation) {
                        deleted.push(key);
                    }
                }
                Effect::Frees => growth.frees |= self.removes(operation),
                Effect::Makes if operation.has_passed(now) => {
                    growth.frees |= self.removes(operation);
                }
                Effect::Makes => {
                    deleted.retain(|gone| *gone != key);
                    let (is_new, added) = self.made_by(operation);
                    growth.makes |= is_absent || is_new;
                    growth.bytes += made + added;
                }
                Effect::Writes => {
                    deleted.retain(|gone| *gone != key);
                    let Operation::HashSet { entries, .. } = operation else { continue };
                    let (longer, added) = self.longer_by(key, entries);
                    growth.makes |= is_absent;
                    growth.enlarges |= longer;
                    growth.bytes += made + added;
                }
                Effect::Appends => {
                    let Operation::AppendEvent { entries, .. } = operation else { continue };
                    growth.enlarges = true;
                    growth.bytes += made + event_bytes(entries);
                }
            }
        }
        growth.frees |= !deleted.is_empty();
        growth
    }

    /// Whether the operation removes something.
    fn removes(&self, operation: &Operation) -> bool {
        match operation {
            Operation::HashDelete(key) => self.slots.contains_key(&**key),
            Operation::MemberRemove { key, member }
            | Operation::MemberSetUntil { key, member, .. } => {
                self.existing_set(key).is_some_and(|set| set.by_name.contains_key(&**member))
            }
            Operation::MemberClear { key, except, .. } => {
                self.existing_set(key).is_some_and(|set| {
                    let kept = except.as_deref().is_some_and(|it| set.by_name.contains_key(it));
                    set.by_name.len() > usize::from(kept)
                })
            }
            _ => false,
        }
    }

    /// Whether the operation adds a member, and the most bytes that it adds to existing values.
    fn made_by(&self, operation: &Operation) -> (bool, u64) {
        match operation {
            Operation::MemberSet { key, member, .. }
            | Operation::MemberSetUntil { key, member, .. } => {
                let set = self.existing_set(key);
                let is_new = set.is_none_or(|set| !set.by_name.contains_key(&**member));
                (is_new, if is_new { member_bytes(member) } else { 0 })
            }
            Operation::HashAdd { key, field, .. } | Operation::HashStamp { key, field, .. } => {
                let after = field_bytes(field, NUMBER_BYTES_MAX);
                let before = self.field(key, field).map(|value| field_bytes(field, value.len()));
                (false, after.saturating_sub(before.unwrap_or(0)))
            }
            _ => (false, 0),
        }
    }

    /// Whether the values become longer, and how many bytes they add.
    fn longer_by(&self, key: &str, entries: &[Entry]) -> (bool, u64) {
        let (mut before, mut after, mut taken, mut takes) = (0, 0, 0, 0);
        for Entry { field, value } in entries {
            let old = self.field(key, field);
            before += old.map_or(0, Bytes::len);
            after += value.len();
            taken += old.map_or(0, |old| field_bytes(field, old.len()));
            takes += field_bytes(field, value.len());
        }
        (after > before, takes.saturating_sub(taken))
    }
}
