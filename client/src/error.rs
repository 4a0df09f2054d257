//! Why a call failed.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The meaning of a refusal, as the error table of the service names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The request is malformed; [`Error::violations`] lists every violation.
    InvalidRequest,
    /// There is no such booking context.
    UnknownContext,
    /// The session never existed, or its record is gone.
    SessionNotFound,
    /// The session is known to have expired.
    SessionExpired,
    /// The session was terminated; the metadata says why and by whom.
    SessionTerminated,
    /// The device has no account.
    DeviceNotRegistered,
    /// The session has another version, which the metadata names.
    VersionMismatch,
    /// Another caller holds the lock. The metadata has the remaining time, 0 if the lock has
    /// ended.
    SessionLocked,
    /// Another user has the id.
    SessionExists,
    /// The idempotency key was used before with other arguments.
    IdempotencyConflict,
    /// All slots are taken; the metadata names their holders.
    SessionLimitReached,
    /// The store did not answer. The call may have been applied or not.
    StoreUnavailable,
    /// The store has no memory for what the call would add.
    StoreFull,
    /// The running component does not serve this kind of session.
    NotServed,
    /// The service was too busy to begin the call.
    Overloaded,
    /// The rules exceeded their time limit.
    LogicTimeout,
    /// The rules failed.
    LogicFailed,
    /// Another reason, or none.
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
            "NOT_SERVED" => Self::NotServed,
            "OVERLOADED" => Self::Overloaded,
            "LOGIC_TIMEOUT" => Self::LogicTimeout,
            "LOGIC_FAILED" => Self::LogicFailed,
            _ => Self::Other,
        }
    }
}

/// One violation of the form of a request.
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

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The service refused it.
    #[error("{}", .0.status.message())]
    Refused(Box<Refusal>),
    /// The service cannot be reached, or the connection broke.
    #[error("the service does not answer: {}", .0.message())]
    Unreachable(Box<Status>),
    /// The call took too long. It may have been applied or not.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// Host and port are not an address.
    #[error("not an address: {0}")]
    Address(String),
}

impl Error {
    pub(crate) fn deadline(timeout: Duration) -> Self {
        Self::Deadline(timeout)
    }

    /// The meaning of the refusal.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Refused(refusal) => refusal.reason,
            _ => Reason::Other,
        }
    }

    /// A fact of the refusal, such as `currentVersion`.
    pub fn fact(&self, name: &str) -> Option<&str> {
        match self {
            Self::Refused(refusal) => refusal.metadata.get(name).map(String::as_str),
            _ => None,
        }
    }

    /// Every violation of the form of the request.
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Refused(refusal) => &refusal.violations,
            _ => &[],
        }
    }

    /// The delay before a retry that the service suggests.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }

    /// Whether the call may be retried. `may_repeat` says that it does no harm if it was applied
    /// already.
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
                // A status without details comes from the transport.
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
