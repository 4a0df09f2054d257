//! An error as a gRPC status with `google.rpc` details.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::error::Error;

/// The domain of every `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "session-manager";

/// The status that tells an error.
pub fn from(error: &Error) -> Status {
    let row = error.row();
    let metadata: HashMap<_, _> = error.metadata.iter().cloned().collect();
    let mut details = ErrorDetails::with_error_info(row.name, DOMAIN, metadata);
    if !error.violations.is_empty() {
        let violations = error.violations.iter();
        let violations = violations.map(|v| FieldViolation::new(&v.field, &v.description));
        details.set_bad_request(violations.collect::<Vec<_>>());
    }
    if let Some(after) = error.retry() {
        details.set_retry_info(Some(after));
    }
    Status::with_error_details(Code::from(row.code as i32), &error.message, details)
}
