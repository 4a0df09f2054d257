//! The operations of the service, one function each: a request in, the
//! component's answer out. They depend on no wire; every wire calls these and
//! nothing else.

pub mod booking;
pub mod connections;
pub mod events;
pub mod idempotency;
pub mod streams;
pub mod users;
pub mod viewing;

use std::sync::Arc;

use prost_types::Timestamp;
use streams::Streams;

use crate::error::{Error, Reason, Violation};
use crate::events::Feed;
use crate::logic::{self, Failure, Interface, Logic};
use crate::network::exchange;
use session_store::clock::Milliseconds;
use session_store::{Store, Takes};

/// The most characters of an unknown reason that the log shows.
const REASON_CHARACTERS_MAX: usize = 64;

/// The parts of the service that operations use.
#[derive(Clone)]
pub struct Api {
    /// The rules.
    pub logic: Arc<Logic>,
    /// The store behind the rules, for its health.
    pub store: Arc<dyn Store>,
    /// The events of sessions.
    pub feed: Arc<Feed>,
    /// Answers that are streams.
    pub streams: Arc<Streams>,
}

impl Api {
    /// Refuses an operation that needs an interface which the component does not export.
    ///
    /// # Errors
    /// `NOT_SERVED`.
    pub fn check_served(&self, needed: Option<Interface>) -> Result<(), Error> {
        match needed.filter(|interface| !self.logic.serves(*interface)) {
            Some(missing) => Err(Error::not_served(missing.public_name())),
            None => Ok(()),
        }
    }

    /// Whether the service can do its work, which is to read at least.
    ///
    /// # Errors
    /// `STORE_UNAVAILABLE`.
    pub async fn health(&self) -> Result<Takes, Error> {
        self.store.ping().await.map_err(|error| match error {
            session_store::Error::Unavailable(message)
            | session_store::Error::Rejected(message)
            | session_store::Error::Full(message) => Error::new(Reason::StoreUnavailable, message),
        })
    }
}

/// An instant in the form of the contract.
pub fn timestamp(at: Milliseconds) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(at / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(at % 1000).unwrap_or(0) * 1_000_000,
    }
}

/// A text that the wire leaves empty when it is not given.
pub fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Fault(fault) => {
                let error = Self::from(fault);
                let ran_out = error.reason == Reason::StoreUnavailable && exchange::ran_out();
                if ran_out { Self::no_memory() } else { error }
            }
            Failure::NotServed(interface) => Self::not_served(interface.public_name()),
            Failure::Overloaded => Self::new(
                Reason::Overloaded,
                "Too many requests are in flight; try again in a moment.",
            ),
            Failure::TimedOut => {
                Self::new(Reason::LogicTimeout, "The rules ran past their time limit.")
            }
            Failure::Trapped => Self::new(Reason::LogicFailed, "The rules failed on this request."),
        }
    }
}

impl From<logic::Fault> for Error {
    fn from(fault: logic::Fault) -> Self {
        // Neither is a mistake of the caller: a key of another program, and a reason that this
        // host does not know yet.
        let known = Reason::of_rules(&fault.reason);
        if known.is_none() && fault.reason != "STORE_REJECTED" {
            let reason: String = fault.reason.chars().take(REASON_CHARACTERS_MAX).collect();
            tracing::warn!(reason, "the component refused with an unknown reason");
        }
        let reason = known.unwrap_or(Reason::LogicFailed);
        let mut metadata: Vec<_> = fault.metadata.into_iter().map(|d| (d.name, d.value)).collect();
        if let Some(logic::Ending { how, reason, by }) = fault.ending {
            let facts = [("how", how), ("reason", reason), ("by", by)];
            metadata.extend(facts.map(|(name, value)| (name.to_owned(), value)));
        }
        let violation = |violation: logic::Violation| Violation {
            field: violation.field,
            description: violation.description,
        };
        Self {
            reason,
            message: fault.message,
            metadata,
            violations: fault.violations.into_iter().map(violation).collect(),
            retry_after_ms: fault.retry_after_ms.filter(|_| known.is_some()),
        }
    }
}
