//! A world for tests of the rules: the store in memory, a clock that stands until a test moves
//! it, and tokens that are numbers.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::transaction::{
    Entry, MEMBERS_MAX, Member, Operation, Order, Outcome, Reply, Txn,
};
use session_store::{Error, LogMark};

use crate::imports::Imports;
use crate::keys::Partition;
use crate::store;

/// When the world begins, in milliseconds since the Unix epoch.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// A store of its own, and the other imports of the rules.
pub struct World {
    /// The store's clock.
    pub clock: Clock,
    memory: Memory,
    tokens: AtomicU64,
    executed: AtomicU64,
    interruption: Mutex<Option<(usize, Interruption)>>,
}

/// An interruption before a transaction. If it has an error, that is the store's answer.
type Interruption = Box<dyn FnOnce(&World) -> Result<(), Error> + Send>;

impl World {
    /// A world with nothing in it.
    pub fn new() -> Self {
        let clock = Clock::manual(EPOCH_MS);
        Self {
            memory: Memory::new(clock.clone()),
            clock,
            tokens: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            interruption: Mutex::default(),
        }
    }

    /// Makes the store apply `count` transactions, and answer the next one with an error without
    /// applying it.
    pub fn fail_after(&self, count: usize, error: Error) {
        self.interrupt_after(count, move |_| Err(error));
    }

    /// Makes something happen between two transactions of a rule: when `count` of them are
    /// applied and the next one is about to be.
    pub fn meanwhile_after(&self, count: usize, act: impl FnOnce(&Self) + Send + 'static) {
        self.interrupt_after(count, move |world| {
            act(world);
            Ok(())
        });
    }

    fn interrupt_after(
        &self,
        count: usize,
        interruption: impl FnOnce(&Self) -> Result<(), Error> + Send + 'static,
    ) {
        let mut pending = self.interruption.lock().expect("no thread panics with it");
        *pending = Some((count, Box::new(interruption)));
    }

    /// How many transactions the store was asked for.
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }

    /// Applies a transaction beside the rules.
    pub fn apply(&self, txn: Txn) -> Result<Outcome, Error> {
        self.memory.perform(txn)
    }

    /// Applies operations beside the rules, and returns their replies.
    pub fn perform(&self, success: Vec<Operation>) -> Vec<Reply> {
        self.apply(Txn { success, ..Txn::default() }).expect("it can be applied").replies
    }

    /// The fields of a hash as text, sorted by name; none when there is none.
    pub fn hash(&self, key: &str) -> Option<Vec<(String, String)>> {
        let get = Operation::HashGet { key: key.into(), fields: None };
        let Reply::Record(hash) = self.perform(vec![get]).remove(0) else { panic!("a record") };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let field = |entry: &Entry| (entry.field.clone(), text(&entry.value));
        hash.map(|hash| {
            let mut fields: Vec<_> = hash.entries.iter().map(field).collect();
            fields.sort();
            fields
        })
    }

    /// The members of a set that are alive, the next to end first.
    pub fn members(&self, key: impl Into<String>) -> Vec<Member> {
        let (key, order) = (key.into(), Order::SoonestFirst);
        let list = Operation::MemberList { key, order, after: None, limit: MEMBERS_MAX };
        match self.perform(vec![list]).remove(0) {
            Reply::Members { members, .. } => members,
            other => panic!("members, not {other:?}"),
        }
    }

    /// This world for one rule that is not alone: before each transaction of the rule, `act` gets
    /// the number of those before it.
    pub fn meanwhile<F: Fn(u64)>(&self, act: F) -> Meanwhile<'_, F> {
        Meanwhile { world: self, act, executed: AtomicU64::new(0) }
    }

    /// The events about a user or account, in order.
    pub fn entries_of_events(&self, subject: &str) -> Vec<Vec<Entry>> {
        let mark = LogMark { log: Partition::of(subject).log(), after: None };
        let logs = self.memory.events(&[mark], 10_000, |_| {});
        let events = logs.pages.into_iter().flat_map(|page| page.events);
        let is_theirs =
            |entries: &Vec<Entry>| field(entries, "user_id").as_deref() == Some(subject);
        events.map(|event| event.entries).filter(is_theirs).collect()
    }

    /// The types of the events about a user or account, in order.
    pub fn events(&self, subject: &str) -> Vec<String> {
        let events = self.entries_of_events(subject);
        events.iter().filter_map(|entries| field(entries, "type")).collect()
    }
}

impl Imports for World {
    fn execute(&self, txn: &store::Txn) -> Result<store::Outcome, store::StoreError> {
        self.executed.fetch_add(1, Ordering::Relaxed);
        let mut pending = self.interruption.lock().expect("no thread panics with it");
        let due = pending.take_if(|(left, _)| *left == 0);
        if let Some((left, _)) = &mut *pending {
            *left -= 1;
        }
        drop(pending);
        if let Some((_, interruption)) = due {
            interruption(self)?;
        }
        Ok(self.apply(txn.into())?.into())
    }

    fn token(&self, length: u32) -> String {
        let number = self.tokens.fetch_add(1, Ordering::Relaxed);
        format!("{number:0length$}", length = length as usize)
    }

    fn uuid(&self) -> String {
        format!("00000000-0000-4000-8000-{}", self.token(12))
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }
}

/// A world in which something happens between the transactions of a rule.
pub struct Meanwhile<'a, F> {
    world: &'a World,
    act: F,
    executed: AtomicU64,
}

impl<F> Meanwhile<'_, F> {
    /// How many transactions the rule has asked for.
    pub fn executed(&self) -> u64 {
        self.executed.load(Ordering::Relaxed)
    }
}

impl<F: Fn(u64)> Imports for Meanwhile<'_, F> {
    fn execute(&self, txn: &store::Txn) -> Result<store::Outcome, store::StoreError> {
        (self.act)(self.executed.fetch_add(1, Ordering::Relaxed));
        self.world.execute(txn)
    }

    fn token(&self, length: u32) -> String {
        self.world.token(length)
    }

    fn uuid(&self) -> String {
        self.world.uuid()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.world.setting(name)
    }
}

/// The text of a field.
pub fn field(entries: &[Entry], name: &str) -> Option<String> {
    let entry = entries.iter().find(|entry| entry.field == name)?;
    Some(String::from_utf8_lossy(&entry.value).into_owned())
}

/// A field with text.
pub fn entry(field: &str, value: &str) -> Entry {
    Entry { field: field.into(), value: value.to_owned().into() }
}
