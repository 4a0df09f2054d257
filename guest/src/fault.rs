//! The ways a rule says no. Texts name what is wrong and what is accepted, and
//! never carry a token, a whole session key or a value.

use crate::faults::{Detail, Fault, Reason, Violation};
use crate::store::StoreError;

/// The most violations one fault lists.
const VIOLATIONS_MAX: usize = 100;
/// The most characters of a name from the request that a text repeats.
const NAME_CHARACTERS_MAX: usize = 64;

/// A fault with one sentence and nothing more.
pub fn fault(reason: Reason, message: impl Into<String>) -> Fault {
    Fault { reason, message: message.into(), metadata: Vec::new(), violations: Vec::new() }
}

/// A fault with one fact.
pub fn fault_with(reason: Reason, message: impl Into<String>, name: &str, value: String) -> Fault {
    let mut fault = fault(reason, message);
    fault.metadata.push(Detail { name: name.into(), value });
    fault
}

/// The fault for a limit that is reached. Libraries that try again after
/// `RESOURCE_EXHAUSTED` are told that it does not help: a session has to end first.
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
    Fault { reason: Reason::InvalidRequest, message, metadata: Vec::new(), violations }
}

/// Refuses a request that breaks rules of form.
///
/// # Errors
/// `invalid-request` when there are violations.
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
