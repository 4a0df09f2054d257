//! One suite for every store: `contract` lists what each must do, `model`
//! compares random transactions with memory.

/// Runs each promise on each store, as a test of its own.
macro_rules! suite {
    ($($promise:ident),+ $(,)?) => {
        mod on_memory {
            $(#[tokio::test] async fn $promise() { super::$promise(&super::memory()).await; })+
        }
        mod on_embedded {
            $(#[tokio::test] async fn $promise() { super::$promise(&super::embedded()).await; })+
        }
        mod on_redis {
            $(#[tokio::test] async fn $promise() { super::$promise(&super::redis().await).await; })+
        }
    };
}

mod contract;
mod embedded;
mod full;
mod model;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use session_manager::clock::Clock;
use session_manager::store::embedded::Embedded;
use session_manager::store::memory::Memory;
use session_manager::store::redis::{Address, Redis};
use session_manager::store::transaction::{
    Compare, Entry, Hash, Operation, Order, Outcome, Reply, Txn,
};
use session_manager::store::{Error, Store, Takes};
use session_tests::redis_server::RedisServer;
use session_tests::wait;

/// The most memory that the stores of this process may take.
const BYTES_MAX: u64 = 4 << 20;

/// A store, what it lives on, and how its time passes.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    clock: Option<Clock>,
    _keep: Keep,
}

#[allow(dead_code, reason = "held for their destructors")]
pub enum Keep {
    Nothing,
    Directory(tempfile::TempDir),
    Server(Box<RedisServer>),
}

/// The time at which manual clocks start.
pub const EPOCH: u64 = 1_800_000_000_000;

pub fn memory() -> Fixture {
    let clock = Clock::manual(EPOCH);
    let store = Arc::new(Memory::limited(clock.clone(), Some(BYTES_MAX)));
    Fixture { store, clock: Some(clock), _keep: Keep::Nothing }
}

pub fn embedded() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(EPOCH);
    let store = Embedded::limited(directory.path(), clock.clone(), Some(BYTES_MAX)).unwrap();
    let store = Arc::new(store);
    Fixture { store, clock: Some(clock), _keep: Keep::Directory(directory) }
}

pub async fn redis() -> Fixture {
    let server = RedisServer::start().await;
    let store = Arc::new(connect(&server));
    Fixture { store, clock: None, _keep: Keep::Server(Box::new(server)) }
}

pub fn connect(server: &RedisServer) -> Redis {
    let address = Address::from_parts("127.0.0.1", server.port, 5, "", "").unwrap();
    Redis::new(address, Duration::from_secs(15)).unwrap()
}

impl Fixture {
    pub async fn run(&self, txn: Txn) -> Outcome {
        self.store.execute(txn).await.expect("the store answers")
    }

    /// Applies operations without conditions and returns their replies.
    pub async fn perform(&self, success: Vec<Operation>) -> Vec<Reply> {
        self.run(Txn { success, ..Txn::default() }).await.replies
    }

    pub async fn rejected(&self, txn: Txn) {
        match self.store.execute(txn).await {
            Err(Error::Rejected(_)) => {}
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    pub async fn refused_as_full(&self, success: Vec<Operation>) {
        match self.store.execute(Txn { success, ..Txn::default() }).await {
            Err(Error::Full(message)) => assert!(message.contains("still work"), "{message}"),
            other => panic!("expected a full store, got {other:?}"),
        }
    }

    /// Leaves no room: a server is told that it is full, other stores are filled.
    pub async fn fill(&self) {
        if let Keep::Server(server) = &self._keep {
            return server.limit_memory(1).await;
        }
        let mut size = 1 << 20;
        for number in 0.. {
            let more = set("filling", &[(&format!("f{number}"), &"x".repeat(size))], None);
            match self.store.execute(Txn { success: vec![more], ..Txn::default() }).await {
                Err(Error::Full(_)) if size == 1 => break,
                Err(Error::Full(_)) => size /= 2,
                answered => drop(answered.unwrap()),
            }
        }
        // What is left is less than a field takes.
        for length in 1.. {
            let longer = set("filling", &[("f0", &"x".repeat((1 << 20) + length))], None);
            match self.store.execute(Txn { success: vec![longer], ..Txn::default() }).await {
                Err(Error::Full(_)) => return,
                answered => drop(answered.unwrap()),
            }
        }
    }

    /// Makes room again.
    pub async fn make_room(&self) {
        match &self._keep {
            Keep::Server(server) => server.limit_memory(0).await,
            _ => drop(self.perform(vec![Operation::HashDelete("filling".into())]).await),
        }
    }

    pub async fn holds(&self, compare: Compare) -> bool {
        let failure = vec![get("t{t}")];
        let success = failure.clone();
        self.run(Txn { compare: vec![compare], success, failure, durable: false }).await.succeeded
    }

    pub async fn now(&self) -> u64 {
        self.run(Txn { success: vec![get("t{t}")], ..Txn::default() }).await.now
    }

    /// Lets the store's clock go on by at least this much.
    pub async fn pass(&self, milliseconds: u64) {
        if let Some(clock) = &self.clock {
            clock.advance(milliseconds);
            return;
        }
        let until = self.now().await + milliseconds;
        wait::until("the clock of Redis goes on", async || {
            (self.now().await > until).then_some(())
        })
        .await;
    }

    pub async fn hash(&self, key: &str) -> Option<Hash> {
        match self.perform(vec![get(key)]).await.remove(0) {
            Reply::Record(hash) => hash,
            other => panic!("a record, not {other:?}"),
        }
    }

    pub async fn members(&self, key: &str) -> Vec<String> {
        match self.perform(vec![list(key, Order::SoonestFirst, 100)]).await.remove(0) {
            Reply::Members { members, live } => {
                assert_eq!(members.len(), live as usize);
                members.into_iter().map(|member| member.name).collect()
            }
            other => panic!("members, not {other:?}"),
        }
    }
}

pub fn get(key: &str) -> Operation {
    Operation::HashGet { key: key.into(), fields: None }
}

pub fn set(key: &str, fields: &[(&str, &str)], ttl: Option<u64>) -> Operation {
    Operation::HashSet { key: key.into(), entries: entries(fields), ttl }
}

pub fn entries(fields: &[(&str, &str)]) -> Vec<Entry> {
    let entry = |(field, value): &(&str, &str)| Entry {
        field: (*field).into(),
        value: value.to_string().into(),
    };
    fields.iter().map(entry).collect()
}

pub fn add(key: &str, field: &str, delta: u64) -> Operation {
    Operation::HashAdd { key: key.into(), field: field.into(), delta }
}

pub fn put(key: &str, member: &str, ttl: u64) -> Operation {
    Operation::MemberSet { key: key.into(), member: member.into(), ttl }
}

pub fn list(key: &str, order: Order, limit: u32) -> Operation {
    Operation::MemberList { key: key.into(), order, after: None, limit }
}

/// The fields of a hash, sorted.
pub fn fields(hash: &Hash) -> Vec<(String, String)> {
    let mut fields: Vec<_> = hash
        .entries
        .iter()
        .map(|entry| (entry.field.clone(), String::from_utf8_lossy(&entry.value).into_owned()))
        .collect();
    fields.sort();
    fields
}
