//! Random transactions on the stores of this host: every outcome is that of the memory store.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use session_store::contract::model::{self, Subjects};
use tokio::runtime::Runtime;

use super::*;

struct OnRedis {
    runtime: Runtime,
    server: RedisServer,
    redis: Redis,
}

impl Subjects for OnRedis {
    type Subject = ();

    fn fresh(&self) {
        self.runtime.block_on(async {
            let mut connection = self.server.connect(5).await;
            let _: () = ::redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
        });
    }

    fn store<'a>(&'a self, _: &'a ()) -> &'a dyn Store {
        &self.redis
    }

    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }
}

#[test]
fn redis_does_what_memory_does() {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let guard = runtime.enter();
    let redis = connect(&server);
    drop(guard);
    model::compare_with_memory(&OnRedis { runtime, server, redis }, 256);
}

struct OnDisk(Runtime);

impl Subjects for OnDisk {
    type Subject = (Embedded, tempfile::TempDir);

    fn fresh(&self) -> Self::Subject {
        let directory = tempfile::tempdir().unwrap();
        (Embedded::open(directory.path(), Clock::System).unwrap(), directory)
    }

    fn store<'a>(&'a self, (store, _): &'a Self::Subject) -> &'a dyn Store {
        store
    }

    fn behind(&self, transaction: usize, (store, directory): Self::Subject) -> Self::Subject {
        if transaction % 13 != 12 {
            return (store, directory);
        }
        drop(store);
        (Embedded::open(directory.path(), Clock::System).unwrap(), directory)
    }

    fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.0.block_on(answer)
    }
}

#[test]
fn the_embedded_store_does_what_memory_does_and_keeps_it_after_reopening() {
    model::compare_with_memory(&OnDisk(Runtime::new().unwrap()), 48);
}

#[test]
fn a_full_redis_refuses_what_a_full_embedded_store_refuses() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(RedisServer::start());
    let redis = {
        let _guard = runtime.enter();
        connect(&server)
    };
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&model::transactions(), |transactions| {
            runtime.block_on(async {
                server.limit_memory(0).await;
                let mut connection = server.connect(5).await;
                let _: () = ::redis::cmd("FLUSHDB").query_async(&mut connection).await.unwrap();
            });
            let directory = tempfile::tempdir().unwrap();
            let half = transactions.len() / 2;
            let mut embedded = Embedded::open(directory.path(), Clock::System).unwrap();
            for (index, txn) in transactions.into_iter().enumerate() {
                if index == half {
                    drop(embedded);
                    let clock = Clock::System;
                    embedded = Embedded::limited(directory.path(), clock, Some(0)).unwrap();
                    runtime.block_on(server.limit_memory(1));
                }
                let expected = runtime.block_on(embedded.execute(txn.clone()));
                let found = runtime.block_on(redis.execute(txn.clone()));
                prop_assert_eq!(model::comparable(found), model::comparable(expected), "{:?}", txn);
            }
            Ok(())
        })
        .unwrap();
}
