//! Runs the contract of stores on every store of this host: its promises, and random
//! transactions that are compared with the memory store.

mod counted;
mod embedded;
mod model;
mod redis;

use std::sync::Arc;
use std::time::Duration;

use session_manager::store::embedded::Embedded;
use session_manager::store::redis::{Address, Redis};
use session_store::clock::Clock;
use session_store::contract::{
    self, BYTES_MAX, EPOCH, Subject, add, entries, fields, get, list, put, set,
};
use session_store::memory::Memory;
use session_store::transaction::{Hash, Operation, Order, Reply, Txn};
use session_store::{Error, Store, Takes};
use session_tests::redis_server::RedisServer;
use session_tests::wait;

/// A store, its directory or server, and its clock.
pub struct Fixture {
    pub store: Arc<dyn Store>,
    clock: Option<Clock>,
    keep: Keep,
}

#[allow(dead_code, reason = "held for their destructors")]
pub enum Keep {
    Nothing,
    Directory(tempfile::TempDir),
    Server(Box<RedisServer>),
}

pub fn memory() -> Fixture {
    let clock = Clock::manual(EPOCH);
    let store = Arc::new(Memory::limited(clock.clone(), Some(BYTES_MAX)));
    Fixture { store, clock: Some(clock), keep: Keep::Nothing }
}

pub fn embedded() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let clock = Clock::manual(EPOCH);
    let store = Embedded::limited(directory.path(), clock.clone(), Some(BYTES_MAX)).unwrap();
    let store = Arc::new(store);
    Fixture { store, clock: Some(clock), keep: Keep::Directory(directory) }
}

pub async fn redis() -> Fixture {
    let server = RedisServer::start().await;
    let store = Arc::new(connect(&server));
    Fixture { store, clock: None, keep: Keep::Server(Box::new(server)) }
}

pub fn connect(server: &RedisServer) -> Redis {
    let address = Address::from_parts("127.0.0.1", server.port, 5, "", "").unwrap();
    Redis::new(address, Duration::from_secs(15)).unwrap()
}

impl Subject for Fixture {
    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn pass(&self, milliseconds: u64) {
        if let Some(clock) = &self.clock {
            clock.advance(milliseconds);
            return;
        }
        let until = self.now().await + milliseconds;
        wait::until("the clock of Redis advances", async || {
            (self.now().await > until).then_some(())
        })
        .await;
    }

    async fn fill(&self) {
        match &self.keep {
            Keep::Server(server) => server.limit_memory(1).await,
            _ => contract::fill(&*self.store).await,
        }
    }

    async fn make_room(&self) {
        match &self.keep {
            Keep::Server(server) => server.limit_memory(0).await,
            _ => contract::make_room(&*self.store).await,
        }
    }
}

session_store::contract_tests!(on_memory, super::memory());
session_store::contract_tests!(on_embedded, super::embedded());
session_store::contract_tests!(on_redis, super::redis().await);
