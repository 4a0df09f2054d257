//! The faults with which a rule refuses. Texts name what is wrong and what is accepted.
//! They never contain a token, a whole session key or a value.

use crate::faults::{Detail, Ending, Fault, Violation};
use crate::store::StoreError;

/// The most violations one fault lists.
const VIOLATIONS_MAX: usize = 100;
/// The most characters of a name from the request that a text repeats.
const NAME_CHARACTERS_MAX: usize = 64;

/// Why a rule refuses, as `wit/faults.wit` says. The contract has them as text, because the
/// set grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "documented in wit/faults.wit")]
pub enum Reason {
    InvalidRequest,
    UnknownContext,
    SessionNotFound,
    SessionExpired,
    SessionTerminated,
    DeviceNotRegistered,
    VersionMismatch,
    SessionLocked,
    SessionExists,
    SessionLimitReached,
    IdempotencyConflict,
    StoreUnavailable,
    StoreRejected,
    StoreFull,
}

impl Reason {
    /// Its text in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::UnknownContext => "UNKNOWN_CONTEXT",
            Self::SessionNotFound => "SESSION_NOT_FOUND",
            Self::SessionExpired => "SESSION_EXPIRED",
            Self::SessionTerminated => "SESSION_TERMINATED",
            Self::DeviceNotRegistered => "DEVICE_NOT_REGISTERED",
            Self::VersionMismatch => "VERSION_MISMATCH",
            Self::SessionLocked => "SESSION_LOCKED",
            Self::SessionExists => "SESSION_EXISTS",
            Self::SessionLimitReached => "SESSION_LIMIT_REACHED",
            Self::IdempotencyConflict => "IDEMPOTENCY_CONFLICT",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::StoreRejected => "STORE_REJECTED",
            Self::StoreFull => "STORE_FULL",
        }
    }
}

/// Whether a fault has one of these reasons.
pub fn is_any(fault: &Fault, reasons: &[Reason]) -> bool {
    reasons.iter().any(|reason| fault.reason == *reason)
}

impl PartialEq<Reason> for String {
    fn eq(&self, reason: &Reason) -> bool {
        self == reason.name()
    }
}

/// A fault with one sentence and nothing more.
pub fn fault(reason: Reason, message: impl Into<String>) -> Fault {
    Fault {
        reason: reason.name().into(),
        message: message.into(),
        metadata: Vec::new(),
        violations: Vec::new(),
        ending: None,
        retry_after_ms: None,
    }
}

/// The fault for a session that was ended.
pub fn terminated(message: impl Into<String>, how: &str, reason: &str, by: &str) -> Fault {
    let ending = Ending { how: how.into(), reason: reason.into(), by: by.into() };
    Fault { ending: Some(ending), ..fault(Reason::SessionTerminated, message) }
}

/// A fault with one fact.
pub fn fault_with(reason: Reason, message: impl Into<String>, name: &str, value: String) -> Fault {
    let mut fault = fault(reason, message);
    fault.metadata.push(Detail { name: name.into(), value });
    fault
}

/// The fault for a limit that is reached. `retry` is for libraries that repeat a call after
/// `RESOURCE_EXHAUSTED`: repeating does not help, because a session has to end first.
pub fn at_limit(message: impl Into<String>, limit: u32) -> Fault {
    let mut fault = fault_with(Reason::SessionLimitReached, message, "limit", limit.to_string());
    fault.metadata.push(Detail { name: "retry".into(), value: "false".into() });
    fault
}

/// A violation.
pub fn violation(field: impl Into<String>, description: impl Into<String>) -> Violation {
    Violation { field: field.into(), description: description.into() }
}

/// The fault for a request that breaks rules of form.
pub fn invalid(mut violations: Vec<Violation>) -> Fault {
    let count = violations.len();
    violations.truncate(VIOLATIONS_MAX);
    let message = match &violations[..] {
        [only] => format!("{} {}", only.field, only.description),
        [first, ..] => {
            format!("{count} violations, the first: {} {}", first.field, first.description)
        }
        [] => "the request is not valid".into(),
    };
    Fault { violations, ..fault(Reason::InvalidRequest, message) }
}

/// Refuses a request that breaks rules of form.
///
/// # Errors
/// `INVALID_REQUEST` when there are violations.
pub fn refuse(violations: Vec<Violation>) -> Result<(), Fault> {
    if violations.is_empty() { Ok(()) } else { Err(invalid(violations)) }
}

/// The fault for a store without an answer.
pub fn from_store(error: StoreError) -> Fault {
    match error {
        StoreError::Unavailable(message) => fault(Reason::StoreUnavailable, message),
        StoreError::Rejected(message) => fault(Reason::StoreRejected, message),
        StoreError::Full(message) => fault(Reason::StoreFull, message),
    }
}

/// A field's name from the request as a violation may repeat it: as it is when a
/// field could have it, else as [`quote`] does.
pub fn field_name(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let fits = !name.is_empty() && name.len() <= NAME_CHARACTERS_MAX;
    if fits && name.bytes().all(plain) { name.into() } else { quote(name) }
}

/// A name from the request as a text may repeat it: short, quoted, escaped.
pub fn quote(name: &str) -> String {
    let mut short: String = name.chars().take(NAME_CHARACTERS_MAX).collect();
    if short.len() < name.len() {
        short.push('\u{2026}');
    }
    format!("{short:?}")
}
