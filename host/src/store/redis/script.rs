//! Encodes a transaction as the arguments of `transaction.lua`: its number; a key that shows
//! whether the server is full; the type of each key; the positions of the success and the failure
//! branch; the compares; the branches. A key is given by its index in KEYS.

use redis::{Cmd, Script};

use session_store::transaction::{self, Compare, Operation, Order, Shape, Txn};

/// A key that is never written. The tag of a transaction follows it.
const PROBE: &str = "EVENTS:FULL";

/// With this line a script is refused as a whole, without effect, by a server that is full, whose
/// disk or replicas fail, or that is no longer the primary.
const FLAGS: &str = "#!lua\n";

/// The script in both forms, and how to call it.
pub struct TransactionScript {
    whole: Script,
    by_command: Script,
}

/// What a server refuses that is full or takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalScope {
    /// The script as a whole.
    Whole,
    /// The single commands that it does not take. So a branch passes that only reads, or that a
    /// full server takes.
    ByCommand,
}

impl TransactionScript {
    /// The script, not loaded yet.
    pub fn new() -> Self {
        let body = include_str!("transaction.lua");
        Self { whole: Script::new(&[FLAGS, body].concat()), by_command: Script::new(body) }
    }

    /// The script itself, to load it.
    pub fn script(&self, refusal: RefusalScope) -> &Script {
        match refusal {
            RefusalScope::Whole => &self.whole,
            RefusalScope::ByCommand => &self.by_command,
        }
    }

    /// The command that applies a checked transaction.
    pub fn command(&self, txn: &Txn, refusal: RefusalScope, number: u64) -> Cmd {
        let mut arguments = Arguments::default();
        for (key, shape) in txn.targets() {
            arguments.declare(key, shape);
        }
        for compare in &txn.compare {
            arguments.compare(compare);
        }
        let header = arguments.keys.len() + 5;
        let success_at = header + arguments.rest.len();
        arguments.branch(&txn.success);
        let failure_at = header + arguments.rest.len();
        arguments.branch(&txn.failure);

        let mut command = redis::cmd("EVALSHA");
        command.arg(self.script(refusal).get_hash()).arg(arguments.keys.len());
        for (key, _) in &arguments.keys {
            command.arg(*key);
        }
        command.arg(number).arg(probe(txn, refusal));
        for (_, shape) in &arguments.keys {
            command.arg(match shape {
                Shape::Hash => "hash",
                Shape::Set => "zset",
                Shape::Log => "stream",
            });
        }
        command.arg(success_at).arg(failure_at).arg(txn.compare.len());
        for argument in &arguments.rest {
            match argument {
                Argument::Bytes(bytes) => command.arg(*bytes),
                Argument::Number(number) => command.arg(*number),
            };
        }
        command
    }
}

/// The key that shows whether the server is full; empty for a transaction that writes nothing or
/// is refused as a whole. It is not a key of the transaction, but is on the same server.
fn probe(txn: &Txn, refusal: RefusalScope) -> String {
    match txn.targets().next() {
        Some((key, _)) if refusal == RefusalScope::ByCommand && !txn.only_reads() => {
            format!("{PROBE}{{{}}}", transaction::tag(key))
        }
        _ => String::new(),
    }
}

enum Argument<'a> {
    Bytes(&'a [u8]),
    Number(i64),
}

#[derive(Default)]
struct Arguments<'a> {
    keys: Vec<(&'a str, Shape)>,
    rest: Vec<Argument<'a>>,
}

impl<'a> Arguments<'a> {
    fn declare(&mut self, key: &'a str, shape: Shape) {
        if !self.keys.iter().any(|(known, _)| *known == key) {
            self.keys.push((key, shape));
        }
    }

    fn key(&mut self, key: &str) -> &mut Self {
        let place = self.keys.iter().position(|(known, _)| *known == key);
        self.number(place.map_or(0, |place| place as i64 + 1))
    }

    fn number(&mut self, number: i64) -> &mut Self {
        self.rest.push(Argument::Number(number));
        self
    }

    /// A count of things in memory, or a checked lifetime, which always fits. A number that a
    /// caller compares with may not fit, and then exceeds every stored one.
    fn count(&mut self, count: u64) -> &mut Self {
        self.number(i64::try_from(count).unwrap_or(i64::MAX))
    }

    fn flag(&mut self, flag: bool) -> &mut Self {
        self.number(i64::from(flag))
    }

    fn bytes(&mut self, bytes: &'a (impl AsRef<[u8]> + ?Sized)) -> &mut Self {
        self.rest.push(Argument::Bytes(bytes.as_ref()));
        self
    }

    fn name(&mut self, name: &'static str) -> &mut Self {
        self.bytes(name)
    }

    fn compare(&mut self, compare: &'a Compare) {
        match compare {
            Compare::Exists(key) => self.name("exists").key(key),
            Compare::Absent(key) => self.name("absent").key(key),
            Compare::FieldEquals { key, field, value, or_absent } => {
                self.name("field").key(key).bytes(field).bytes(value).flag(*or_absent)
            }
            Compare::FieldAmong { key, field, values } => {
                self.name("among").key(key).bytes(field).count(values.len() as u64);
                for value in values {
                    self.bytes(value);
                }
                self
            }
            Compare::CountEquals { key, field, number } => {
                self.name("count").key(key).bytes(field).count(*number)
            }
            Compare::SizeAtMost { key, except, limit } => {
                self.name("size").key(key).count(*limit).count(except.len() as u64);
                for field in except {
                    self.bytes(field);
                }
                self
            }
            Compare::Member { key, member, alive } => {
                self.name("member").key(key).bytes(member).flag(*alive)
            }
            Compare::MembersBelow { key, limit } => {
                self.name("below").key(key).number(i64::from(*limit))
            }
        };
    }

    fn branch(&mut self, operations: &'a [Operation]) {
        self.count(operations.len() as u64);
        for operation in operations {
            self.operation(operation);
        }
    }

    fn operation(&mut self, operation: &'a Operation) {
        match operation {
            Operation::HashSet { key, entries, ttl } => {
                self.name("hash_set").key(key);
                match ttl {
                    Some(ttl) => self.count(*ttl),
                    None => self.number(-1),
                };
                self.count(entries.len() as u64);
                for entry in entries {
                    self.bytes(&entry.field).bytes(&entry.value);
                }
                self
            }
            Operation::HashGet { key, fields } => {
                self.name("hash_get").key(key);
                match fields {
                    Some(fields) => self.count(fields.len() as u64),
                    None => self.number(-1),
                };
                for field in fields.iter().flatten() {
                    self.bytes(field);
                }
                self
            }
            Operation::HashAdd { key, field, delta } => {
                self.name("hash_add").key(key).bytes(field).count(*delta)
            }
            Operation::HashStamp { key, field, later } => {
                self.name("hash_stamp").key(key).bytes(field).count(*later)
            }
            Operation::HashDelete(key) => self.name("hash_delete").key(key),
            Operation::HashExpire { key, ttl } => self.name("hash_expire").key(key).count(*ttl),
            Operation::HashMove { key, to, ttl } => {
                self.name("hash_move").key(key).key(to).count(*ttl)
            }
            Operation::MemberSet { key, member, ttl } => {
                self.name("member_set").key(key).bytes(member).count(*ttl)
            }
            Operation::MemberRenew { key, member, ttl } => {
                self.name("member_renew").key(key).bytes(member).count(*ttl)
            }
            Operation::MemberSetUntil { key, member, expires_at } => {
                self.name("member_set_until").key(key).bytes(member).count(*expires_at)
            }
            Operation::MemberRemove { key, member } => {
                self.name("member_remove").key(key).bytes(member)
            }
            Operation::MemberList { key, order, after, limit } => {
                self.name("member_list").key(key).flag(*order == Order::LatestFirst);
                self.number(i64::from(*limit)).flag(after.is_some());
                if let Some(after) = after {
                    self.count(after.expires_at).bytes(&after.name);
                }
                self
            }
            Operation::MemberClear { key, except, record_prefix, also_in } => {
                self.name("member_clear").key(key);
                for option in [except, record_prefix] {
                    self.flag(option.is_some()).bytes(option.as_deref().unwrap_or_default());
                }
                match also_in {
                    Some(copies) => self.key(&copies.key).bytes(&copies.prefix),
                    None => self.number(0),
                }
            }
            Operation::AppendEvent { log, entries, keep } => {
                self.name("append_event").key(log).number(i64::from(*keep));
                self.count(entries.len() as u64);
                for entry in entries {
                    self.bytes(&entry.field).bytes(&entry.value);
                }
                self
            }
        };
    }
}
