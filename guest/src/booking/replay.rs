//! The answer of a change, for a caller that asks again because it does not know whether the
//! first request has arrived. It is kept for some seconds under the caller's idempotency key,
//! beside the session. The transaction of the change writes it, so it exists exactly when the
//! change has happened.

use crate::store::{Entry, Hash};
use sha2::{Digest, Sha256};

use crate::fault::{Reason, fault};
use crate::faults::Fault;
use crate::keys;
use crate::transaction::{Branch, Conditions, Handle, entry, text};

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

    /// Requires that the change has not happened yet.
    pub fn require_new(&self, when: &mut Conditions) {
        when.absent(self.key.as_str());
    }

    /// Keeps an answer.
    pub fn keep(&self, then: &mut Branch, facts: impl IntoIterator<Item = Entry>) {
        let arguments = entry(ARGUMENTS_FIELD, &self.arguments);
        let entries = std::iter::once(arguments).chain(facts).collect();
        then.write(self.key.as_str(), entries, KEPT_MS);
    }

    /// Keeps a time that is later than the change by this much.
    pub fn keep_time(&self, then: &mut Branch, field: &str, later_ms: u64) {
        then.stamp(self.key.as_str(), field, later_ms);
    }

    /// Keeps a session that is over as the answer.
    pub fn keep_session(&self, then: &mut Branch, session: &str) {
        then.move_to(session, self.key.clone(), KEPT_MS);
    }

    /// Reads the answer.
    pub fn read(&self, branch: &mut Branch) -> Handle<Option<Hash>> {
        branch.read_whole(self.key.as_str())
    }

    /// The answer, when it was kept for these arguments; none when the change has not happened.
    ///
    /// # Errors
    /// `IDEMPOTENCY_CONFLICT` when it was kept for others.
    pub fn answer(&self, kept: Option<Hash>) -> Result<Option<Hash>, Fault> {
        match kept.as_ref().map(|kept| text(kept, ARGUMENTS_FIELD)) {
            Some(arguments) if arguments.as_ref() != Some(&self.arguments) => Err(fault(
                Reason::IdempotencyConflict,
                "The Idempotency-Key was used for another request; take a new one.",
            )),
            _ => Ok(kept),
        }
    }
}

/// A text that differs for all other parts.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
