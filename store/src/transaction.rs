//! Transactions: the only way to read and change a store. The types mirror the `store` interface of
//! `wit/store.wit`, which defines them. [`Txn::check`] refuses what no store can apply.

use bytes::Bytes;

use crate::Error;
use crate::clock::Milliseconds;

/// The most compares of one transaction.
pub const COMPARES_MAX: usize = 64;
/// The most operations of one branch.
pub const OPERATIONS_MAX: usize = 4096;
/// The most members of one listing.
pub const MEMBERS_MAX: u32 = 10_000;
/// The most fields that one operation writes or reads.
pub const FIELDS_MAX: usize = 1024;
/// The most bytes of a key, a field's name or a member.
pub const NAME_BYTES_MAX: usize = 1024;
/// The longest lifetime: a hundred years.
pub const TTL_MS_MAX: u64 = 100 * 366 * 24 * 3600 * 1000;
/// Counters stay within what every store can represent exactly.
pub const NUMBER_MAX: u64 = (1 << 53) - 1;

/// One field of a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name of the field.
    pub field: String,
    /// Its value.
    pub value: Bytes,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// A hash lives under this key.
    Exists(String),
    /// No hash lives under this key.
    Absent(String),
    /// The field has exactly this value.
    FieldEquals {
        /// The hash.
        key: String,
        /// The field.
        field: String,
        /// The expected value.
        value: Bytes,
        /// Whether an absent field or hash will do too.
        or_absent: bool,
    },
    /// The field has one of these values.
    FieldAmong {
        /// The hash.
        key: String,
        /// The field.
        field: String,
        /// The values.
        values: Vec<Bytes>,
    },
    /// The field counts this number, as [`counted`] reads it.
    CountEquals {
        /// The hash.
        key: String,
        /// The field.
        field: String,
        /// The number.
        number: u64,
    },
    /// The values of all fields but some sum up to at most `limit` bytes.
    SizeAtMost {
        /// The hash.
        key: String,
        /// Fields that do not count.
        except: Vec<String>,
        /// The bound in bytes.
        limit: u64,
    },
    /// The member is alive, or is not.
    Member {
        /// The set.
        key: String,
        /// The member.
        member: String,
        /// Whether it has to be alive.
        alive: bool,
    },
    /// Fewer live members than `limit`.
    MembersBelow {
        /// The set.
        key: String,
        /// The bound.
        limit: u32,
    },
}

/// Order of a listing: by deadline, then by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Earliest deadline first.
    SoonestFirst,
    /// Latest deadline first.
    LatestFirst,
}

/// A member with its deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The member.
    pub name: String,
    /// Its deadline.
    pub expires_at: Milliseconds,
}

/// Another set that contains the members too, under prefixed names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// The other set.
    pub key: String,
    /// The prefix of a member's name there.
    pub prefix: String,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes fields of a hash and keeps the others.
    HashSet {
        /// The hash.
        key: String,
        /// The fields.
        entries: Vec<Entry>,
        /// The new lifetime; `None` keeps the deadline.
        ttl: Option<Milliseconds>,
    },
    /// Reads a hash; `fields` of `None` reads all fields.
    HashGet {
        /// The hash.
        key: String,
        /// The fields.
        fields: Option<Vec<String>>,
    },
    /// Adds to a number in a field, as [`added`] does.
    HashAdd {
        /// The hash.
        key: String,
        /// The field.
        field: String,
        /// What to add.
        delta: u64,
    },
    /// Writes the store's clock to a field, in decimal milliseconds.
    HashStamp {
        /// The hash.
        key: String,
        /// The field.
        field: String,
        /// How much later than now.
        later: Milliseconds,
    },
    /// Deletes a hash.
    HashDelete(String),
    /// Gives a hash a new lifetime.
    HashExpire {
        /// The hash.
        key: String,
        /// The lifetime.
        ttl: Milliseconds,
    },
    /// Moves a hash to another key, and replaces a hash there.
    HashMove {
        /// The hash.
        key: String,
        /// The other key.
        to: String,
        /// The lifetime there.
        ttl: Milliseconds,
    },
    /// Adds a member to a set, or gives it a new deadline.
    MemberSet {
        /// The set.
        key: String,
        /// The member.
        member: String,
        /// Its lifetime.
        ttl: Milliseconds,
    },
    /// Gives a live member a new deadline.
    MemberRenew {
        /// The set.
        key: String,
        /// The member.
        member: String,
        /// Its lifetime.
        ttl: Milliseconds,
    },
    /// Adds a member with this deadline; removes it if the deadline has passed.
    MemberSetUntil {
        /// The set.
        key: String,
        /// The member.
        member: String,
        /// Its deadline.
        expires_at: Milliseconds,
    },
    /// Removes a member.
    MemberRemove {
        /// The set.
        key: String,
        /// The member.
        member: String,
    },
    /// Lists live members.
    MemberList {
        /// The set.
        key: String,
        /// The order.
        order: Order,
        /// The member to continue after.
        after: Option<Member>,
        /// At most this many.
        limit: u32,
    },
    /// Removes all members, and the hash of each.
    MemberClear {
        /// The set.
        key: String,
        /// The member to keep.
        except: Option<String>,
        /// The prefix of the keys of the members' hashes; the name follows.
        record_prefix: Option<String>,
        /// Another set to remove them from.
        also_in: Option<Copies>,
    },
    /// Appends an event to a log.
    AppendEvent {
        /// The log.
        log: String,
        /// What happened.
        entries: Vec<Entry>,
        /// About how many events to keep.
        keep: u32,
    },
}

/// If all compares hold, applies `success`, otherwise `failure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compare: Vec<Compare>,
    /// What to do when all hold.
    pub success: Vec<Operation>,
    /// What to do otherwise.
    pub failure: Vec<Operation>,
    /// Whether no failover may undo it: a store with replicas answers once as many of them have
    /// the transaction as its operator requires.
    pub durable: bool,
}

/// A hash that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hash {
    /// Its fields, in no particular order.
    pub entries: Vec<Entry>,
    /// Its deadline.
    pub expires_at: Option<Milliseconds>,
}

/// The reply to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A deadline, or none.
    Deadline(Option<Milliseconds>),
    /// A number.
    Number(i64),
    /// A hash, or none.
    Record(Option<Hash>),
    /// Whether there was something.
    Existed(bool),
    /// A page of live members and the number of all.
    Members {
        /// The page.
        members: Vec<Member>,
        /// How many are alive in the whole set.
        live: u32,
    },
    /// An event's id.
    Appended(String),
}

/// The result of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether all compares held.
    pub succeeded: bool,
    /// One reply per operation executed.
    pub replies: Vec<Reply>,
    /// The store's clock.
    pub now: Milliseconds,
}

impl Outcome {
    /// The length of its names and values, in bytes.
    pub fn bytes(&self) -> usize {
        let of_reply = |reply: &Reply| match reply {
            Reply::Record(Some(hash)) => {
                let of_entry =
                    |entry: &Entry| entry.field.len() + entry.value.len() + size_of::<Entry>();
                hash.entries.iter().map(of_entry).sum()
            }
            Reply::Members { members, .. } => {
                members.iter().map(|member| member.name.len() + size_of::<Member>()).sum()
            }
            Reply::Record(None)
            | Reply::Deadline(_)
            | Reply::Number(_)
            | Reply::Existed(_)
            | Reply::Appended(_) => 0,
        };
        self.replies.iter().map(of_reply).sum()
    }
}

/// The part of a key that decides where it is stored. All keys of a transaction share it.
pub fn tag(key: &str) -> &str {
    key.find('{')
        .and_then(|open| {
            let inner = &key[open + 1..];
            let tag = &inner[..inner.find('}')?];
            (!tag.is_empty()).then_some(tag)
        })
        .unwrap_or(key)
}

/// The number in a field: a plain number from 0 to [`NUMBER_MAX`], without leading zeros. Any other
/// text counts as 0.
pub fn counted(value: Option<&Bytes>) -> u64 {
    let text = value.and_then(|value| str::from_utf8(value).ok()).unwrap_or_default();
    let plain = text == "0" || !text.starts_with(['0', '+']);
    let number = text.parse::<u64>().ok().filter(|number| plain && *number <= NUMBER_MAX);
    number.unwrap_or(0)
}

/// The number in a field after an addition. It restarts instead of exceeding the range.
pub fn added(value: Option<&Bytes>, delta: u64) -> u64 {
    Some(counted(value) + delta).filter(|sum| *sum <= NUMBER_MAX).unwrap_or(delta)
}

/// The type of a key's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Fields and one deadline.
    Hash,
    /// Members with a deadline each.
    Set,
    /// Events.
    Log,
}

impl Compare {
    /// Its key, and the type that it expects.
    pub fn target(&self) -> (&str, Shape) {
        match self {
            Self::Exists(key)
            | Self::Absent(key)
            | Self::FieldEquals { key, .. }
            | Self::FieldAmong { key, .. }
            | Self::CountEquals { key, .. }
            | Self::SizeAtMost { key, .. } => (key, Shape::Hash),
            Self::Member { key, .. } | Self::MembersBelow { key, .. } => (key, Shape::Set),
        }
    }
}

impl Operation {
    /// Its key, and the type that it expects.
    pub fn target(&self) -> (&str, Shape) {
        match self {
            Self::HashSet { key, .. }
            | Self::HashGet { key, .. }
            | Self::HashAdd { key, .. }
            | Self::HashStamp { key, .. }
            | Self::HashDelete(key)
            | Self::HashMove { key, .. }
            | Self::HashExpire { key, .. } => (key, Shape::Hash),
            Self::MemberSet { key, .. }
            | Self::MemberRenew { key, .. }
            | Self::MemberSetUntil { key, .. }
            | Self::MemberRemove { key, .. }
            | Self::MemberList { key, .. }
            | Self::MemberClear { key, .. } => (key, Shape::Set),
            Self::AppendEvent { log, .. } => (log, Shape::Log),
        }
    }

    /// Why no store can apply it, if so.
    fn defect(&self) -> Option<&'static str> {
        let name = |name: &String| name.is_empty() || name.len() > NAME_BYTES_MAX;
        let lifetime = |ttl: &u64| *ttl == 0 || *ttl > TTL_MS_MAX;
        let defective = match self {
            Self::HashSet { entries, ttl, .. } => {
                entries.is_empty()
                    || entries.len() > FIELDS_MAX
                    || entries.iter().any(|entry| name(&entry.field))
                    || ttl.as_ref().is_some_and(lifetime)
            }
            Self::AppendEvent { entries, keep, .. } => {
                entries.is_empty()
                    || entries.len() > FIELDS_MAX
                    || entries.iter().any(|entry| name(&entry.field))
                    || *keep == 0
            }
            Self::HashGet { fields, .. } => fields.as_ref().is_some_and(|fields| {
                fields.len() > FIELDS_MAX || fields.iter().any(name) || repeats(fields)
            }),
            Self::HashAdd { field, delta, .. } => name(field) || *delta > NUMBER_MAX,
            Self::HashStamp { field, later, .. } => name(field) || *later > TTL_MS_MAX,
            Self::HashExpire { ttl, .. } => lifetime(ttl),
            Self::HashMove { key, to, ttl } => lifetime(ttl) || key == to,
            Self::MemberSet { member, ttl, .. } | Self::MemberRenew { member, ttl, .. } => {
                name(member) || lifetime(ttl)
            }
            Self::MemberSetUntil { member, expires_at, .. } => {
                name(member) || *expires_at > NUMBER_MAX
            }
            Self::MemberRemove { member, .. } => name(member),
            Self::MemberList { limit, .. } => *limit > MEMBERS_MAX,
            Self::HashDelete(_) | Self::MemberClear { .. } => false,
        };
        defective.then_some(
            "an operation has an empty, oversized or repeated key, name, list, number or lifetime",
        )
    }
}

impl Txn {
    /// Whether it never changes anything.
    pub fn only_reads(&self) -> bool {
        let reads = |operation: &Operation| {
            matches!(operation, Operation::HashGet { .. } | Operation::MemberList { .. })
        };
        self.success.iter().chain(&self.failure).all(reads)
    }

    /// Every key of both branches, with the expected types.
    pub fn targets(&self) -> impl Iterator<Item = (&str, Shape)> {
        let operations = || self.success.iter().chain(&self.failure);
        let others = operations().filter_map(|operation| match operation {
            Operation::MemberClear { also_in, .. } => {
                also_in.as_ref().map(|copies| (copies.key.as_str(), Shape::Set))
            }
            Operation::HashMove { to, .. } => Some((to.as_str(), Shape::Hash)),
            _ => None,
        });
        self.compare
            .iter()
            .map(Compare::target)
            .chain(operations().map(Operation::target))
            .chain(others)
    }

    /// Returns the tag that all keys share.
    ///
    /// # Errors
    /// [`Error::Rejected`] for a transaction that no store can apply: too large, without a key,
    /// with several tags, or with one key of two types.
    pub fn check(&self) -> Result<&str, Error> {
        let rejected = |why: &str| Error::Rejected(why.into());
        let branches = [&self.success, &self.failure];
        if self.compare.len() > COMPARES_MAX
            || branches.iter().any(|branch| branch.len() > OPERATIONS_MAX)
        {
            return Err(rejected("the transaction has too many compares or operations"));
        }
        let operations = || branches.into_iter().flatten();
        let Some((first, _)) = self.targets().next() else {
            return Err(rejected("the transaction names no key"));
        };
        let shared = tag(first);
        if self.targets().any(|(key, _)| key.is_empty() || key.len() > NAME_BYTES_MAX) {
            return Err(rejected("a key is empty or too long"));
        }
        if self.targets().any(|(key, _)| tag(key) != shared) {
            return Err(rejected("the keys of the transaction have several tags"));
        }
        if let Some(defect) = operations().find_map(Operation::defect) {
            return Err(rejected(defect));
        }
        let mut shapes: Vec<(&str, Shape)> = self.targets().collect();
        shapes.sort_unstable_by_key(|(key, _)| *key);
        if shapes.windows(2).any(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1) {
            return Err(rejected("a key is used as two types"));
        }
        for operation in operations() {
            if let Operation::MemberClear { record_prefix: Some(prefix), .. } = operation
                && tag(&[prefix, "x"].concat()) != shared
            {
                return Err(rejected("a record prefix has another tag"));
            }
        }
        Ok(shared)
    }
}

fn repeats(names: &[String]) -> bool {
    names.iter().enumerate().any(|(index, name)| names[..index].contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_the_content_of_the_first_braces() {
        for (key, expected) in [
            ("plain", "plain"),
            ("lock:{a}", "a"),
            ("{a}{b}", "a"),
            ("x{}y", "x{}y"),
            ("x{}{a}", "x{}{a}"),
            ("open{a", "open{a"),
        ] {
            assert_eq!(tag(key), expected, "{key}");
        }
    }

    #[test]
    fn a_field_counts_a_plain_number_and_restarts_beyond_the_limit() {
        let most = NUMBER_MAX.to_string();
        for (text, counts, one_more) in [
            ("0", 0, 1),
            ("7", 7, 8),
            (most.as_str(), NUMBER_MAX, 1),
            ("9007199254740992", 0, 1),
            ("99999999999999999999", 0, 1),
            ("007", 0, 1),
            ("00", 0, 1),
            ("+7", 0, 1),
            ("-7", 0, 1),
            ("", 0, 1),
            ("abc", 0, 1),
            (" 7", 0, 1),
            ("7.0", 0, 1),
        ] {
            let value = Bytes::copy_from_slice(text.as_bytes());
            assert_eq!(counted(Some(&value)), counts, "{text}");
            assert_eq!(added(Some(&value), 1), one_more, "{text}");
        }
        assert_eq!((counted(None), added(None, 5)), (0, 5));
        assert_eq!(counted(Some(&Bytes::from_static(b"\xff"))), 0);
    }

    fn get(key: &str) -> Operation {
        Operation::HashGet { key: key.into(), fields: None }
    }

    #[test]
    fn a_transaction_that_no_store_can_apply_is_refused() {
        let entry = Entry { field: "f".into(), value: Bytes::new() };
        let set = |entries, ttl| Operation::HashSet { key: "k".into(), entries, ttl };
        let add = |delta| Operation::HashAdd { key: "k".into(), field: "f".into(), delta };
        let clear = Operation::MemberClear {
            key: "k{t}".into(),
            except: None,
            record_prefix: Some("other:".into()),
            also_in: None,
        };
        let listing = |key: &str, limit| Operation::MemberList {
            key: key.into(),
            order: Order::SoonestFirst,
            after: None,
            limit,
        };
        for (success, why) in [
            (vec![], "no key"),
            (vec![get("a"), get("b")], "several tags"),
            (vec![get("")], "empty"),
            (vec![get(&"k".repeat(NAME_BYTES_MAX + 1))], "too long"),
            (vec![set(vec![], None)], "empty"),
            (vec![set(vec![entry.clone()], Some(0))], "lifetime"),
            (vec![set(vec![entry.clone()], Some(TTL_MS_MAX + 1))], "lifetime"),
            (vec![add(NUMBER_MAX + 1)], "number"),
            (vec![get("k"), listing("k", 1)], "two types"),
            (vec![listing("k", MEMBERS_MAX + 1)], "oversized"),
            (vec![clear], "another tag"),
            (vec![get("k"); OPERATIONS_MAX + 1], "too many"),
        ] {
            let txn = Txn { success, ..Txn::default() };
            match txn.check() {
                Err(Error::Rejected(message)) => assert!(message.contains(why), "{message}"),
                other => panic!("{why}: {other:?}"),
            }
        }
    }

    #[test]
    fn keys_of_one_tag_are_accepted() {
        let txn = Txn { success: vec![get("a"), get("lock:{a}")], ..Txn::default() };
        assert_eq!(txn.check(), Ok("a"));
    }
}
