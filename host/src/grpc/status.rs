//! An error as a gRPC status with `google.rpc` details.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::Error;

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "session-manager";

/// The most bytes of violations in one status: details travel in a header, and
/// clients accept no more than 8 KiB of those by default.
const VIOLATION_BYTES_MAX: usize = 3 << 10;

/// The status of an error.
pub fn from(error: &Error) -> Status {
    let row = error.row();
    let metadata: HashMap<_, _> = error.metadata.iter().cloned().collect();
    let mut details = ErrorDetails::with_error_info(row.name, DOMAIN, metadata);
    if !error.violations.is_empty() {
        details.set_bad_request(violations(error));
    }
    if let Some(after) = error.retry() {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(Code::from(row.code as i32), &error.message, details)
}

/// All violations, or as many as fit and the number of the others.
fn violations(error: &Error) -> Vec<FieldViolation> {
    let mut bytes = 0;
    let fitting = error.violations.iter().take_while(|violation| {
        bytes += violation.field.len() + violation.description.len();
        bytes <= VIOLATION_BYTES_MAX
    });
    let mut sent: Vec<_> = fitting.map(|v| FieldViolation::new(&v.field, &v.description)).collect();
    let left = error.violations.len() - sent.len();
    if left > 0 {
        sent.push(FieldViolation::new("", format!("and {left} more violations")));
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Violation;

    #[test]
    fn details_stay_below_what_clients_accept() {
        let violation = |n: usize| Violation {
            field: format!("{n}{}", "\u{20ac}".repeat(64)),
            description: "is not a field of the context pre-order".into(),
        };
        let error = Error::violations((0..100).map(violation).collect());
        let status = from(&error);
        assert!(status.details().len() < 4 << 10, "{}", status.details().len());
        let sent = status.get_error_details().bad_request().expect("violations").clone();
        let last = sent.field_violations.last().expect("at least one");
        let left = 100 - (sent.field_violations.len() - 1);
        assert_eq!(last.description, format!("and {left} more violations"));
    }
}
