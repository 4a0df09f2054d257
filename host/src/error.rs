//! The one table of everything that can go wrong for a caller: each reason with its gRPC code, its
//! HTTP status and its retry advice. Wires render it; nothing else maps errors. No text in an error
//! contains a token, a whole session id, a path or the name of a type.

mod body;

use std::time::Duration;

use http::StatusCode;

/// Why an operation has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The request is malformed.
    InvalidRequest,
    /// The request is too large.
    RequestTooLarge,
    /// The type of the body is not supported.
    UnsupportedMediaType,
    /// The compression of the body or message is not supported.
    UnsupportedEncoding,
    /// No such path.
    RouteNotFound,
    /// The path does not support the method.
    MethodNotAllowed,
    /// No such gRPC method.
    MethodNotFound,
    /// There is no booking context with this name.
    UnknownContext,
    /// The session never existed, or its record is gone.
    SessionNotFound,
    /// The session is known to have expired.
    SessionExpired,
    /// The session was terminated.
    SessionTerminated,
    /// The device has no account.
    DeviceNotRegistered,
    /// The session has another version than the request demands.
    VersionMismatch,
    /// A condition in a request header does not hold.
    PreconditionFailed,
    /// Another caller holds the lock.
    SessionLocked,
    /// Another user holds the id.
    SessionExists,
    /// The idempotency key was used for another request.
    IdempotencyConflict,
    /// All slots are taken.
    SessionLimitReached,
    /// A web page of another origin sent the request.
    ForeignOrigin,
    /// The request is for another host.
    Misdirected,
    /// The store does not answer.
    StoreUnavailable,
    /// The store has no memory for what the request would add.
    StoreFull,
    /// There are too many requests at a time.
    Overloaded,
    /// A gate refuses a component.
    ComponentRefused,
    /// Another swap is in progress.
    SwapInProgress,
    /// There is no generation to roll back to, or another one runs by now.
    RollbackRefused,
    /// The running component does not export the kind.
    NotServed,
    /// The rules ran for too long.
    LogicTimeout,
    /// The rules or the store failed unexpectedly.
    LogicFailed,
}

/// A code of google.rpc.Code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 3.
    InvalidArgument = 3,
    /// 4.
    DeadlineExceeded = 4,
    /// 5.
    NotFound = 5,
    /// 6.
    AlreadyExists = 6,
    /// 7.
    PermissionDenied = 7,
    /// 8.
    ResourceExhausted = 8,
    /// 9.
    FailedPrecondition = 9,
    /// 10.
    Aborted = 10,
    /// 12.
    Unimplemented = 12,
    /// 13.
    Internal = 13,
    /// 14.
    Unavailable = 14,
}

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    /// The reason.
    pub reason: Reason,
    /// Its name in `google.rpc.ErrorInfo`.
    pub name: &'static str,
    /// The gRPC code.
    pub code: Code,
    /// The HTTP status.
    pub http: StatusCode,
    /// The delay before the same request may succeed; `None` if a retry does not help.
    pub retry: Option<Duration>,
}

/// The table, in the order of [`Reason`].
pub const TABLE: [Row; 29] = {
    use Reason as R;
    const fn row(
        reason: Reason,
        name: &'static str,
        code: Code,
        http: StatusCode,
        retry_ms: u64,
    ) -> Row {
        let retry = if retry_ms == 0 { None } else { Some(Duration::from_millis(retry_ms)) };
        Row { reason, name, code, http, retry }
    }
    const BAD: StatusCode = StatusCode::BAD_REQUEST;
    const LARGE: StatusCode = StatusCode::PAYLOAD_TOO_LARGE;
    const MEDIA: StatusCode = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    const MISSING: StatusCode = StatusCode::NOT_FOUND;
    const METHOD: StatusCode = StatusCode::METHOD_NOT_ALLOWED;
    const MISSING_METHOD: StatusCode = StatusCode::NOT_IMPLEMENTED;
    const CONFLICT: StatusCode = StatusCode::CONFLICT;
    const CONDITION: StatusCode = StatusCode::PRECONDITION_FAILED;
    const FORBIDDEN: StatusCode = StatusCode::FORBIDDEN;
    const ELSEWHERE: StatusCode = StatusCode::MISDIRECTED_REQUEST;
    const UNPROCESSABLE: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    const MANY: StatusCode = StatusCode::TOO_MANY_REQUESTS;
    const BUSY: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    const SLOW: StatusCode = StatusCode::GATEWAY_TIMEOUT;
    const BROKEN: StatusCode = StatusCode::INTERNAL_SERVER_ERROR;
    [
        row(R::InvalidRequest, "INVALID_REQUEST", Code::InvalidArgument, BAD, 0),
        row(R::RequestTooLarge, "REQUEST_TOO_LARGE", Code::InvalidArgument, LARGE, 0),
        row(R::UnsupportedMediaType, "UNSUPPORTED_MEDIA_TYPE", Code::InvalidArgument, MEDIA, 0),
        row(R::UnsupportedEncoding, "UNSUPPORTED_ENCODING", Code::Unimplemented, MEDIA, 0),
        row(R::RouteNotFound, "ROUTE_NOT_FOUND", Code::NotFound, MISSING, 0),
        row(R::MethodNotAllowed, "METHOD_NOT_ALLOWED", Code::Unimplemented, METHOD, 0),
        row(R::MethodNotFound, "METHOD_NOT_FOUND", Code::Unimplemented, MISSING_METHOD, 0),
        row(R::UnknownContext, "UNKNOWN_CONTEXT", Code::NotFound, MISSING, 0),
        row(R::SessionNotFound, "SESSION_NOT_FOUND", Code::NotFound, MISSING, 0),
        row(R::SessionExpired, "SESSION_EXPIRED", Code::NotFound, MISSING, 0),
        row(R::SessionTerminated, "SESSION_TERMINATED", Code::NotFound, MISSING, 0),
        row(R::DeviceNotRegistered, "DEVICE_NOT_REGISTERED", Code::NotFound, MISSING, 0),
        row(R::VersionMismatch, "VERSION_MISMATCH", Code::Aborted, CONFLICT, 0),
        row(R::PreconditionFailed, "PRECONDITION_FAILED", Code::FailedPrecondition, CONDITION, 0),
        row(R::SessionLocked, "SESSION_LOCKED", Code::Aborted, CONFLICT, 500),
        row(R::SessionExists, "SESSION_EXISTS", Code::AlreadyExists, CONFLICT, 0),
        row(R::IdempotencyConflict, "IDEMPOTENCY_CONFLICT", Code::AlreadyExists, CONFLICT, 0),
        row(R::SessionLimitReached, "SESSION_LIMIT_REACHED", Code::ResourceExhausted, MANY, 0),
        row(R::ForeignOrigin, "FOREIGN_ORIGIN", Code::PermissionDenied, FORBIDDEN, 0),
        row(R::Misdirected, "MISDIRECTED", Code::PermissionDenied, ELSEWHERE, 0),
        row(R::StoreUnavailable, "STORE_UNAVAILABLE", Code::Unavailable, BUSY, 1000),
        row(R::StoreFull, "STORE_FULL", Code::ResourceExhausted, MANY, 5000),
        row(R::Overloaded, "OVERLOADED", Code::Unavailable, BUSY, 250),
        row(R::ComponentRefused, "COMPONENT_REFUSED", Code::InvalidArgument, UNPROCESSABLE, 0),
        row(R::SwapInProgress, "SWAP_IN_PROGRESS", Code::Aborted, CONFLICT, 5000),
        row(R::RollbackRefused, "ROLLBACK_REFUSED", Code::Aborted, CONFLICT, 0),
        row(R::NotServed, "NOT_SERVED", Code::Unimplemented, MISSING_METHOD, 0),
        row(R::LogicTimeout, "LOGIC_TIMEOUT", Code::DeadlineExceeded, SLOW, 0),
        row(R::LogicFailed, "LOGIC_FAILED", Code::Internal, BROKEN, 0),
    ]
};

impl Reason {
    /// The row of the reason.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The reason of this name that a rule may refuse with.
    pub fn of_rules(name: &str) -> Option<Self> {
        use Reason as R;
        const OF_RULES: [Reason; 13] = [
            R::InvalidRequest,
            R::UnknownContext,
            R::SessionNotFound,
            R::SessionExpired,
            R::SessionTerminated,
            R::DeviceNotRegistered,
            R::VersionMismatch,
            R::SessionLocked,
            R::SessionExists,
            R::IdempotencyConflict,
            R::SessionLimitReached,
            R::StoreUnavailable,
            R::StoreFull,
        ];
        OF_RULES.into_iter().find(|reason| reason.row().name == name)
    }

    /// Whether only the admin port answers with it.
    pub fn is_for_operators(self) -> bool {
        matches!(self, Self::ComponentRefused | Self::SwapInProgress | Self::RollbackRefused)
    }
}

/// One violation of the form of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The path of the field in the request.
    pub field: String,
    /// What is wrong and what is accepted.
    pub description: String,
}

/// Why an operation has no result, as every wire reports it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// The meaning.
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
    /// Facts for programs.
    pub metadata: Vec<(String, String)>,
    /// Every violation, for [`Reason::InvalidRequest`].
    pub violations: Vec<Violation>,
    /// After how many milliseconds the same request may succeed, when that is known better than
    /// the table does; 0 when repeating it does not help.
    pub retry_after_ms: Option<u64>,
}

impl Error {
    /// An error with one sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: Vec::new(),
            violations: Vec::new(),
            retry_after_ms: None,
        }
    }

    /// There is no memory for the bodies of a request now.
    pub fn no_memory() -> Self {
        let message = "The memory for requests and replies is in use; try again in a moment.";
        Self::new(Reason::Overloaded, message)
    }

    /// A request for a kind that the running component does not export.
    pub fn not_served(kind: &str) -> Self {
        let message = format!("The running component does not serve {kind}.");
        let metadata = vec![("kind".into(), kind.into())];
        Self { metadata, ..Self::new(Reason::NotServed, message) }
    }

    /// A request that breaks one rule.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::violations(vec![Violation { field: field.into(), description: description.into() }])
    }

    /// A request with violations; there is at least one.
    pub fn violations(violations: Vec<Violation>) -> Self {
        let message = match &violations[..] {
            [first, _, ..] => format!(
                "{} violations, the first: {} {}",
                violations.len(),
                first.field,
                first.description
            ),
            [only] => format!("{} {}", only.field, only.description),
            [] => "the request is not valid".into(),
        };
        Self { violations, ..Self::new(Reason::InvalidRequest, message) }
    }

    /// The row of the error.
    pub fn row(&self) -> &'static Row {
        self.reason.row()
    }

    /// How long to wait before trying again; `None` when repeating the request does not help.
    pub fn retry(&self) -> Option<Duration> {
        match self.retry_after_ms {
            None => self.row().retry,
            Some(0) => None,
            Some(after_ms) => Some(Duration::from_millis(after_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_row() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.reason as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn an_error_may_know_better_than_the_table_when_to_try_again() {
        for (retry_after_ms, expected) in
            [(None, Some(500)), (Some(1200), Some(1200)), (Some(0), None)]
        {
            let error = Error { retry_after_ms, ..Error::new(Reason::SessionLocked, "") };
            assert_eq!(error.retry(), expected.map(Duration::from_millis));
        }
    }

    #[test]
    fn rules_may_refuse_with_reasons_of_callers_alone() {
        assert_eq!(Reason::of_rules("SESSION_LOCKED"), Some(Reason::SessionLocked));
        for name in [
            "COMPONENT_REFUSED",
            "SWAP_IN_PROGRESS",
            "REQUEST_TOO_LARGE",
            "OVERLOADED",
            "session_locked",
            "STORE_REJECTED",
            "",
        ] {
            assert_eq!(Reason::of_rules(name), None, "{name}");
        }
    }

    /// The table as users depend on it: a change here is a change for them.
    #[test]
    fn the_table_is_what_users_depend_on() {
        let rendered: Vec<String> = TABLE
            .iter()
            .map(|row| {
                let retry = row.retry.map_or(String::from("-"), |retry| format!("{retry:?}"));
                format!("{} {} {} {retry}", row.name, row.code as i32, row.http.as_u16())
            })
            .collect();
        let expected = [
            "INVALID_REQUEST 3 400 -",
            "REQUEST_TOO_LARGE 3 413 -",
            "UNSUPPORTED_MEDIA_TYPE 3 415 -",
            "UNSUPPORTED_ENCODING 12 415 -",
            "ROUTE_NOT_FOUND 5 404 -",
            "METHOD_NOT_ALLOWED 12 405 -",
            "METHOD_NOT_FOUND 12 501 -",
            "UNKNOWN_CONTEXT 5 404 -",
            "SESSION_NOT_FOUND 5 404 -",
            "SESSION_EXPIRED 5 404 -",
            "SESSION_TERMINATED 5 404 -",
            "DEVICE_NOT_REGISTERED 5 404 -",
            "VERSION_MISMATCH 10 409 -",
            "PRECONDITION_FAILED 9 412 -",
            "SESSION_LOCKED 10 409 500ms",
            "SESSION_EXISTS 6 409 -",
            "IDEMPOTENCY_CONFLICT 6 409 -",
            "SESSION_LIMIT_REACHED 8 429 -",
            "FOREIGN_ORIGIN 7 403 -",
            "MISDIRECTED 7 421 -",
            "STORE_UNAVAILABLE 14 503 1s",
            "STORE_FULL 8 429 5s",
            "OVERLOADED 14 503 250ms",
            "COMPONENT_REFUSED 3 422 -",
            "SWAP_IN_PROGRESS 10 409 5s",
            "ROLLBACK_REFUSED 10 409 -",
            "NOT_SERVED 12 501 -",
            "LOGIC_TIMEOUT 4 504 -",
            "LOGIC_FAILED 13 500 -",
        ];
        assert_eq!(rendered, expected);
    }
}
