//! The imports of the component: the store and the tokens, as the host has
//! them. Values move between the generated types and the store's own; nothing
//! is decided here.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use wasmtime::Result;

use crate::logic::bindings::session::manager::{faults, store as wit, tokens};
use crate::logic::instance::Instance;
use crate::store::{self, transaction as own};
use crate::telemetry::StoreOutcome;

/// The most characters of one token.
const TOKEN_CHARACTERS_MAX: u32 = 256;

impl wit::Host for Instance {
    async fn execute(&mut self, txn: wit::Txn) -> Result<Result<wit::Outcome, wit::StoreError>> {
        self.meter.pause();
        let since = Instant::now();
        let result = self.store.execute(txn.into()).await;
        let duration = since.elapsed();
        self.meter.resume();
        let outcome = match &result {
            Ok(_) => StoreOutcome::Answered,
            Err(store::Error::Unavailable(_)) => StoreOutcome::Unavailable,
            Err(store::Error::Rejected(_)) => StoreOutcome::Rejected,
        };
        self.metrics.store_call(outcome, duration);
        Ok(result.map(Into::into).map_err(Into::into))
    }
}

impl tokens::Host for Instance {
    async fn token(&mut self, length: u32) -> Result<String> {
        if !(1..=TOKEN_CHARACTERS_MAX).contains(&length) {
            wasmtime::bail!("a token has 1 to {TOKEN_CHARACTERS_MAX} characters");
        }
        let length = length as usize;
        let mut random = [0; (TOKEN_CHARACTERS_MAX as usize * 6).div_ceil(8)];
        let random = &mut random[..(length * 6).div_ceil(8)];
        getrandom::fill(random).map_err(|error| wasmtime::format_err!("no randomness: {error}"))?;
        let mut token = URL_SAFE_NO_PAD.encode(random);
        token.truncate(length);
        Ok(token)
    }

    async fn uuid(&mut self) -> Result<String> {
        Ok(uuid::Uuid::new_v4().to_string())
    }
}

impl faults::Host for Instance {}

impl From<wit::Txn> for own::Txn {
    fn from(txn: wit::Txn) -> Self {
        Self { compare: all(txn.compare), success: all(txn.success), failure: all(txn.failure) }
    }
}

impl From<wit::Compare> for own::Compare {
    fn from(compare: wit::Compare) -> Self {
        let field = |test: wit::FieldTest, or_absent| Self::FieldEquals {
            key: test.key,
            field: test.field,
            value: test.value.into(),
            or_absent,
        };
        let member = |reference: wit::MemberRef, alive| Self::Member {
            key: reference.key,
            member: reference.member,
            alive,
        };
        match compare {
            wit::Compare::Exists(key) => Self::Exists(key),
            wit::Compare::Absent(key) => Self::Absent(key),
            wit::Compare::FieldEquals(test) => field(test, false),
            wit::Compare::FieldEqualsOrAbsent(test) => field(test, true),
            wit::Compare::SizeAtMost(wit::SizeBound { key, except, limit }) => {
                Self::SizeAtMost { key, except, limit }
            }
            wit::Compare::MemberPresent(reference) => member(reference, true),
            wit::Compare::MemberAbsent(reference) => member(reference, false),
            wit::Compare::MembersBelow(wit::MemberBound { key, limit }) => {
                Self::MembersBelow { key, limit }
            }
        }
    }
}

impl From<wit::Operation> for own::Operation {
    fn from(operation: wit::Operation) -> Self {
        match operation {
            wit::Operation::HashSet(wit::HashSet { key, entries, ttl_ms }) => {
                Self::HashSet { key, entries: all(entries), ttl: ttl_ms }
            }
            wit::Operation::HashGet(wit::HashGet { key, fields }) => Self::HashGet { key, fields },
            wit::Operation::HashAdd(wit::HashAdd { key, field, delta }) => {
                Self::HashAdd { key, field, delta }
            }
            wit::Operation::HashDelete(key) => Self::HashDelete(key),
            wit::Operation::HashExpire(wit::Expiry { key, ttl_ms }) => {
                Self::HashExpire { key, ttl: ttl_ms }
            }
            wit::Operation::MemberSet(wit::MemberSet { key, member, ttl_ms }) => {
                Self::MemberSet { key, member, ttl: ttl_ms }
            }
            wit::Operation::MemberRemove(wit::MemberRef { key, member }) => {
                Self::MemberRemove { key, member }
            }
            wit::Operation::MemberList(wit::MemberList { key, order, after, limit }) => {
                Self::MemberList {
                    key,
                    order: match order {
                        wit::Order::SoonestFirst => own::Order::SoonestFirst,
                        wit::Order::LatestFirst => own::Order::LatestFirst,
                    },
                    after: after.map(|after| own::Member {
                        name: after.name,
                        expires_at: after.expires_at_ms,
                    }),
                    limit,
                }
            }
            wit::Operation::MemberClear(wit::MemberClear { key, except, record_prefix }) => {
                Self::MemberClear { key, except, record_prefix }
            }
            wit::Operation::AppendEvent(wit::Event { log, entries, keep }) => {
                Self::AppendEvent { log, entries: all(entries), keep }
            }
        }
    }
}

impl From<wit::Entry> for own::Entry {
    fn from(entry: wit::Entry) -> Self {
        Self { field: entry.field, value: Bytes::from(entry.value) }
    }
}

impl From<own::Entry> for wit::Entry {
    fn from(entry: own::Entry) -> Self {
        Self { field: entry.field, value: entry.value.into() }
    }
}

impl From<own::Outcome> for wit::Outcome {
    fn from(outcome: own::Outcome) -> Self {
        Self { succeeded: outcome.succeeded, replies: all(outcome.replies), now_ms: outcome.now }
    }
}

impl From<own::Reply> for wit::Reply {
    fn from(reply: own::Reply) -> Self {
        match reply {
            own::Reply::Deadline(deadline) => Self::Deadline(deadline),
            own::Reply::Number(number) => Self::Number(number),
            own::Reply::Record(hash) => Self::Record(hash.map(|hash| wit::Hash {
                entries: all(hash.entries),
                expires_at_ms: hash.expires_at,
            })),
            own::Reply::Existed(existed) => Self::Existed(existed),
            own::Reply::Members { members, live } => {
                Self::Members(wit::MemberPage { members: all(members), live })
            }
            own::Reply::Appended(id) => Self::Appended(id),
        }
    }
}

impl From<own::Member> for wit::Member {
    fn from(member: own::Member) -> Self {
        Self { name: member.name, expires_at_ms: member.expires_at }
    }
}

impl From<store::Error> for wit::StoreError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unavailable(message) => Self::Unavailable(message),
            store::Error::Rejected(message) => Self::Rejected(message),
        }
    }
}

fn all<T: Into<U>, U>(items: Vec<T>) -> Vec<U> {
    items.into_iter().map(Into::into).collect()
}
