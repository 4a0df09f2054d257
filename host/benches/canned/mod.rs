//! A store that answers at once, for the component and for the rules linked
//! natively, so that nothing but the call itself is measured.

use std::sync::Arc;

use bytes::Bytes;
use session_guest::booking_types;
use session_guest::imports::Imports;
use session_guest::store as guest_store;
use session_manager::logic::{self, Limits, Logic};
use session_manager::telemetry::Metrics;
use session_store::transaction::{Entry, Hash, Operation, Outcome, Reply, Txn};
use session_store::{Answer, KeyCount, LogMark, Logs, Store, Takes};
use tokio::runtime::Runtime;

const NOW: u64 = 1_800_000_000_000;
const EXPIRES: u64 = NOW + 900_000;

fn document() -> Vec<u8> {
    format!("{{\"fleets\":\"{}\"}}", "x".repeat(1000)).into_bytes()
}

/// Answers every transaction of the booking rules at once.
struct Canned {
    session: Hash,
}

impl Store for Canned {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        let reply = |operation: &Operation| match operation {
            Operation::HashGet { .. } => Reply::Record(Some(self.session.clone())),
            Operation::HashAdd { .. } => Reply::Number(2),
            _ => Reply::Deadline(Some(EXPIRES)),
        };
        let replies = txn.success.iter().map(reply).collect();
        Box::pin(std::future::ready(Ok(Outcome { succeeded: true, replies, now: NOW })))
    }

    fn read_logs<'a>(&'a self, _: &'a [LogMark], _: usize) -> Answer<'a, Logs> {
        Box::pin(std::future::ready(Ok(Logs { now: 0, pages: Vec::new() })))
    }

    fn empty_logs_ahead<'a>(&'a self, _: &'a [String]) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn count_keys<'a>(&'a self, _: &'a [String], _: &'a str) -> Answer<'a, KeyCount> {
        Box::pin(std::future::ready(Ok(KeyCount { keys: 0, next: None })))
    }

    fn ping(&self) -> Answer<'_, Takes> {
        Box::pin(std::future::ready(Ok(Takes::All)))
    }

    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "canned"
    }
}

/// The same answers for the rules linked natively.
pub struct Native {
    session: guest_store::Hash,
}

impl Imports for Native {
    fn execute(
        &self,
        txn: &guest_store::Txn,
    ) -> Result<guest_store::Outcome, guest_store::StoreError> {
        let reply = |operation: &guest_store::Operation| match operation {
            guest_store::Operation::HashGet(_) => {
                guest_store::Reply::Record(Some(self.session.clone()))
            }
            guest_store::Operation::HashAdd(_) => guest_store::Reply::Number(2),
            _ => guest_store::Reply::Deadline(Some(EXPIRES)),
        };
        let replies = txn.success.iter().map(reply).collect();
        Ok(guest_store::Outcome { succeeded: true, replies, now_ms: NOW })
    }

    fn token(&self, length: u32) -> String {
        "T".repeat(length as usize)
    }

    fn uuid(&self) -> String {
        "00000000-0000-4000-8000-000000000000".into()
    }

    fn setting(&self, _: &str) -> Option<String> {
        None
    }
}

pub fn component(runtime: &Runtime, instances: u32) -> Arc<Logic> {
    let entry = |field: &str, value: Bytes| Entry { field: field.into(), value };
    let session = Hash {
        entries: vec![
            entry("FLEET_LIST_REQUEST", document().into()),
            entry("_version", Bytes::from_static(b"1")),
        ],
        expires_at: Some(EXPIRES),
    };
    let started = Logic::start(
        Bytes::from_static(logic::BUILT_IN),
        logic::Source::BuiltIn,
        Arc::new(Canned { session }),
        Vec::new(),
        Limits { instances, ..Limits::default() },
        Arc::new(Metrics::new()),
    );
    runtime.block_on(started).unwrap()
}

pub fn native() -> Native {
    let entry = |field: &str, value: Vec<u8>| guest_store::Entry { field: field.into(), value };
    let entries = vec![entry("FLEET_LIST_REQUEST", document()), entry("_version", b"1".to_vec())];
    Native { session: guest_store::Hash { entries, expires_at_ms: Some(EXPIRES) } }
}

pub fn component_write() -> logic::Write {
    logic::Write {
        context: "pre-order".into(),
        session_key: "a-session-key".into(),
        fields: vec![logic::Field {
            name: "fleet_list_request".into(),
            value: logic::Value::Json(document()),
        }],
        condition: logic::Condition { version: None, exists: None },
        lock_token: None,
        idempotency_key: None,
        violations: Vec::new(),
    }
}

pub fn native_write() -> booking_types::Write {
    booking_types::Write {
        context: "pre-order".into(),
        session_key: "a-session-key".into(),
        fields: vec![booking_types::Field {
            name: "fleet_list_request".into(),
            value: booking_types::Value::Json(document()),
        }],
        condition: booking_types::Condition { version: None, exists: None },
        lock_token: None,
        idempotency_key: None,
        violations: Vec::new(),
    }
}
