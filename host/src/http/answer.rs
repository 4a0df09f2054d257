//! Answers over HTTP: JSON bodies, and errors in the form of grpc-gateway.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio_stream::Stream;

use crate::error::Error;

/// An answer.
pub type Answer = Response<Body>;

/// What an answer says.
pub enum Body {
    /// All of it.
    Whole(Full<Bytes>),
    /// Piece by piece, as there is something to say.
    Stream(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(context),
            Self::Stream(stream) => {
                let piece = stream.as_mut().poll_next(context);
                piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Proxies are not to keep events back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// Sessions are nobody's to cache.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// An answer with a JSON body.
pub fn json(body: impl Into<Bytes>) -> Answer {
    with_status(StatusCode::OK, body)
}

/// The answer that tells an error.
pub fn error(error: &Error) -> Answer {
    let mut answer = with_status(
        error.row().http,
        serde_json::to_vec(&error_body(error)).expect("writing to memory does not fail"),
    );
    if let Some(after) = error.retry() {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

/// The answer to a method that the path does not have; `allowed` lists those it
/// has, separated by commas.
pub fn method_not_allowed(error_: &Error, allowed: &str) -> Answer {
    let mut answer = error(error_);
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

/// An answer of server-sent events.
pub fn events(events: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    let mut answer = Response::new(Body::Stream(Box::pin(events)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    answer
}

/// An answer with a JSON body and a status of its own.
pub fn with_status(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = of_type(JSON, body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    answer
}

/// A whole answer with a body of this type.
pub fn of_type(content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Body::Whole(Full::new(body.into())));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// The body of an error; the order of its members is the order people read in.
#[derive(Serialize)]
struct ErrorBody<'a> {
    code: i32,
    message: &'a str,
    /// Proto3 JSON of messages of `google.rpc`.
    details: Vec<Value>,
}

fn error_body(error: &Error) -> ErrorBody<'_> {
    let row = error.row();
    let metadata: Map<String, Value> =
        error.metadata.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut details = vec![json!({
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": row.name,
        "domain": "session-manager",
        "metadata": metadata,
    })];
    if !error.violations.is_empty() {
        let violations = error.violations.iter();
        let violations =
            violations.map(|v| json!({ "field": v.field, "description": v.description }));
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": violations.collect::<Vec<_>>(),
        }));
    }
    if let Some(after) = error.retry() {
        details.push(json!({
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": format!("{}s", after.as_secs_f64()),
        }));
    }
    ErrorBody { code: row.code as i32, message: &error.message, details }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Reason, Violation};

    #[test]
    fn an_error_is_told_in_the_form_of_grpc_gateway() {
        let mut error = Error::violations(vec![Violation {
            field: "fleet_id".into(),
            description: "must be text".into(),
        }]);
        error.metadata.push(("a".into(), "b".into()));
        assert_eq!(
            json!(error_body(&error)),
            json!({
                "code": 3,
                "message": "fleet_id must be text",
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": "INVALID_REQUEST",
                        "domain": "session-manager",
                        "metadata": { "a": "b" },
                    },
                    {
                        "@type": "type.googleapis.com/google.rpc.BadRequest",
                        "fieldViolations": [
                            { "field": "fleet_id", "description": "must be text" },
                        ],
                    },
                ],
            })
        );
    }

    #[test]
    fn an_outage_says_when_to_try_again() {
        let error_ = Error::new(Reason::StoreUnavailable, "down");
        let answer = error(&error_);
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()[RETRY_AFTER], "1");
        assert_eq!(error_body(&error_).details[1]["retryDelay"], "1s");
    }
}
