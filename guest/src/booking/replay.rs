//! The answer of a change, for a caller that asks again as it does not know whether the first
//! request has come. It is kept for some seconds under the caller's idempotency key, beside
//! the session, and written in the transaction of the change: it is there exactly when the
//! change has happened.

use sha2::{Digest, Sha256};

use crate::fault::fault;
use crate::faults::{Fault, Reason};
use crate::keys;
use crate::store::{Compare, Entry, Hash, HashGet, HashMove, HashSet, HashStamp, Operation, Reply};
use crate::transaction::{entry, text, unexpected_replies};

/// How long an answer is kept.
const KEPT_MS: u64 = 10_000;
/// The field with a digest of the request's arguments: a key is for one request only.
const ARGUMENTS_FIELD: &str = "arguments";

/// Where the answer of one request is kept.
pub struct Replay {
    key: String,
    arguments: String,
}

impl Replay {
    /// The replay of an operation with these arguments; `session` is the key of its hash.
    pub fn of<'a>(
        session: &str,
        operation: &str,
        idempotency_key: &str,
        arguments: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        Self {
            key: keys::replay(session, operation, &digest([idempotency_key.as_bytes()])),
            arguments: digest(arguments),
        }
    }

    /// The change has not happened yet.
    pub fn is_new(&self) -> Compare {
        Compare::Absent(self.key.clone())
    }

    /// Keeps an answer.
    pub fn keep(&self, facts: impl IntoIterator<Item = Entry>) -> Operation {
        let arguments = entry(ARGUMENTS_FIELD, &self.arguments);
        Operation::HashSet(HashSet {
            key: self.key.clone(),
            entries: std::iter::once(arguments).chain(facts).collect(),
            ttl_ms: Some(KEPT_MS),
        })
    }

    /// Keeps a time that lies so much later than the change.
    pub fn keep_time(&self, field: &str, later_ms: u64) -> Operation {
        let (key, field) = (self.key.clone(), field.into());
        Operation::HashStamp(HashStamp { key, field, later_ms })
    }

    /// Keeps a session that is over as the answer.
    pub fn keep_session(&self, session: String) -> Operation {
        Operation::HashMove(HashMove { key: session, to: self.key.clone(), ttl_ms: KEPT_MS })
    }

    /// Reads the answer.
    pub fn read(&self) -> Operation {
        Operation::HashGet(HashGet { key: self.key.clone(), fields: None })
    }

    /// The answer in a reply to [`Self::read`]; none when the change has not happened.
    ///
    /// # Errors
    /// `idempotency-conflict` when it was asked for with other arguments.
    pub fn answer<'a>(&self, reply: Option<&'a Reply>) -> Result<Option<&'a Hash>, Fault> {
        let Some(Reply::Record(answer)) = reply else { return Err(unexpected_replies()) };
        match answer.as_ref().map(|answer| text(answer, ARGUMENTS_FIELD)) {
            Some(arguments) if arguments.as_ref() != Some(&self.arguments) => Err(fault(
                Reason::IdempotencyConflict,
                "The Idempotency-Key was used for another request; take a new one.",
            )),
            _ => Ok(answer.as_ref()),
        }
    }
}

/// A text that stands for these parts and no others.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
