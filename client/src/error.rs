//! Why a call has no answer.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What a refusal means, as the table of errors of the service names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The request is malformed; [`Error::violations`] tells each breach.
    InvalidRequest,
    /// There is no such booking context.
    UnknownContext,
    /// The session never existed or is long gone.
    SessionNotFound,
    /// The session is known to have expired.
    SessionExpired,
    /// Somebody has ended the session; the metadata says why and who.
    SessionTerminated,
    /// The device has no account.
    DeviceNotRegistered,
    /// The session is at another version; the metadata has it.
    VersionMismatch,
    /// The lock is not the caller's; the metadata has the time that remains, 0 when it has
    /// ended.
    SessionLocked,
    /// Another user has the id.
    SessionExists,
    /// The idempotency key was used with other arguments before.
    IdempotencyConflict,
    /// There are as many sessions as may be; the metadata names their holders.
    SessionLimitReached,
    /// The store did not answer: nobody knows whether the call has happened.
    StoreUnavailable,
    /// The store had no memory left for what the call would have added.
    StoreFull,
    /// The service was too busy to begin.
    Overloaded,
    /// The rules ran past their limit.
    LogicTimeout,
    /// The rules failed.
    LogicFailed,
    /// Another reason, or none was given.
    Other,
}

impl Reason {
    fn named(name: &str) -> Self {
        match name {
            "INVALID_REQUEST" => Self::InvalidRequest,
            "UNKNOWN_CONTEXT" => Self::UnknownContext,
            "SESSION_NOT_FOUND" => Self::SessionNotFound,
            "SESSION_EXPIRED" => Self::SessionExpired,
            "SESSION_TERMINATED" => Self::SessionTerminated,
            "DEVICE_NOT_REGISTERED" => Self::DeviceNotRegistered,
            "VERSION_MISMATCH" => Self::VersionMismatch,
            "SESSION_LOCKED" => Self::SessionLocked,
            "SESSION_EXISTS" => Self::SessionExists,
            "IDEMPOTENCY_CONFLICT" => Self::IdempotencyConflict,
            "SESSION_LIMIT_REACHED" => Self::SessionLimitReached,
            "STORE_UNAVAILABLE" => Self::StoreUnavailable,
            "STORE_FULL" => Self::StoreFull,
            "OVERLOADED" => Self::Overloaded,
            "LOGIC_TIMEOUT" => Self::LogicTimeout,
            "LOGIC_FAILED" => Self::LogicFailed,
            _ => Self::Other,
        }
    }
}

/// One breach of a rule of form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The field.
    pub field: String,
    /// What is wrong, and what is accepted.
    pub description: String,
}

/// A refusal of the service.
#[derive(Clone, Debug)]
pub struct Refusal {
    reason: Reason,
    metadata: HashMap<String, String>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
    status: Status,
}

/// Why a call has no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The service refused it.
    #[error("{}", .0.status.message())]
    Refused(Box<Refusal>),
    /// The service was not reached, or the connection broke.
    #[error("the service does not answer: {}", .0.message())]
    Unreachable(Box<Status>),
    /// It took too long; nobody knows whether it has happened.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// There is no such address.
    #[error("no address: {0}")]
    Address(String),
}

impl Error {
    pub(crate) fn deadline(timeout: Duration) -> Self {
        Self::Deadline(timeout)
    }

    /// What the refusal means.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(refusal) => refusal.reason,
            _ => Reason::Other,
        }
    }

    /// A fact that the refusal tells, such as `currentVersion`.
    pub fn fact(&self, name: &str) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.metadata.get(name).map(String::as_str),
            _ => None,
        }
    }

    /// Every breach of a rule of form.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Refused(refusal) => &refusal.violations,
            _ => &[],
        }
    }

    /// When the service suggests to try again.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the call may be made again, given that it does no harm twice, or does.
    pub(crate) fn may_retry(&self, may_repeat: bool) -> bool {
        match self {
            Self::Refused(refusal) => match refusal.reason {
                Reason::Overloaded => true,
                Reason::StoreUnavailable => may_repeat,
                _ => false,
            },
            Self::Unreachable(_) => may_repeat,
            Self::Deadline(_) | Self::Address(_) => false,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let Some(info) = details.error_info() else {
            return match status.code() {
                // Whatever is not told by the service was told by the transport.
                Code::Unavailable | Code::Unknown | Code::Cancelled => {
                    Self::Unreachable(Box::new(status))
                }
                _ => Self::Refused(Box::new(Refusal {
                    reason: Reason::Other,
                    metadata: HashMap::new(),
                    violations: Vec::new(),
                    retry_after: None,
                    status,
                })),
            };
        };
        let violations = details.bad_request().map(|bad| {
            let violation = |violation: &tonic_types::FieldViolation| Violation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            };
            bad.field_violations.iter().map(violation).collect()
        });
        Self::Refused(Box::new(Refusal {
            reason: Reason::named(&info.reason),
            metadata: info.metadata.clone(),
            violations: violations.unwrap_or_default(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            status,
        }))
    }
}
