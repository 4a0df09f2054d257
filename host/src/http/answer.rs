//! Answers over HTTP: JSON bodies, and errors in the form of grpc-gateway.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_stream::Stream;

use crate::error::{Error, Reason};

/// An answer.
pub type Answer = Response<Body>;

/// The body of an answer.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Frame by frame, as they are made.
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
            Self::Whole(whole) if whole.is_empty() => Poll::Ready(None),
            Self::Whole(whole) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(whole))))),
            Self::Stream(stream) => {
                let next = stream.as_mut().poll_next(context);
                next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_empty(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.len() as u64),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
/// Proxies must not keep events back.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// No cache may keep sessions.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// A browser must not guess the type of an answer.
const NO_SNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// How a body may be compressed.
const ENCODINGS: HeaderValue = HeaderValue::from_static("gzip, identity");

/// An answer with a JSON body.
pub fn json(body: impl Into<Vec<u8>>) -> Answer {
    with_status(StatusCode::OK, body)
}

/// The answer of an error.
pub fn error(error: &Error) -> Answer {
    error_of(error, error.to_json())
}

/// The answer of an error, with one more member in its body.
pub fn error_with(error: &Error, name: &str, value: &str) -> Answer {
    error_of(error, error.to_json_with(name, value))
}

fn error_of(error: &Error, body: Vec<u8>) -> Answer {
    let mut answer = with_status(error.row().http, body);
    if let Some(after) = error.retry() {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if error.reason == Reason::UnsupportedEncoding {
        answer.headers_mut().insert(ACCEPT_ENCODING, ENCODINGS);
    }
    answer
}

/// The answers to requests that the parser of HTTP/1 refuses by itself, as bytes for the
/// connection.
pub fn unparsed(status: u16) -> Vec<u8> {
    let error = match status {
        431 => Error::new(Reason::RequestTooLarge, "The head of the request is too large."),
        414 => Error::new(Reason::RequestTooLarge, "The target of the request is too long."),
        _ => {
            let rules = "is not well-formed HTTP/1.1: lines end with CR LF, fields are `name: value`, \
                         and the length is given once, as a number or as `chunked`";
            Error::invalid("request", rules)
        }
    };
    let body = error.to_json();
    let status = StatusCode::from_u16(status).unwrap_or(error.row().http);
    let mut text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-content-type-options: \
         nosniff\r\ncache-control: no-store\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend(body);
    text
}

/// The answer to a request for the methods of a path; `allowed` lists them.
pub fn options(allowed: &str) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Body::Whole(Bytes::new()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    answer
}

/// The answer to a method that the path does not have; `allowed` lists those it
/// has, separated by commas.
pub fn method_not_allowed(allowed: &str) -> Answer {
    let message = format!("The path takes {allowed} only.");
    let mut answer = error(&Error::new(Reason::MethodNotAllowed, message));
    if let Ok(allowed) = HeaderValue::try_from(allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}

/// The answer as its client asked for it: with HEAD, all but the body.
pub fn peeked(head: &Parts, mut answer: Answer) -> Answer {
    if head.method == Method::HEAD {
        let length = answer.body().size_hint().exact().unwrap_or_default();
        answer.headers_mut().insert(CONTENT_LENGTH, length.into());
        *answer.body_mut() = Body::Whole(Bytes::new());
    }
    answer
}

/// An answer of server-sent events.
pub fn events(events: impl Stream<Item = Bytes> + Send + 'static) -> Answer {
    let mut answer = Response::new(Body::Stream(Box::pin(events)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, NO_SNIFF);
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    answer
}

/// An answer with a JSON body and a status of its own.
pub fn with_status(status: StatusCode, body: impl Into<Vec<u8>>) -> Answer {
    let mut body = body.into();
    if body.last() != Some(&b'\n') {
        body.push(b'\n');
    }
    let mut answer = of_type(JSON, body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    answer
}

/// A whole answer with a body of this type.
pub fn of_type(content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = empty(StatusCode::OK);
    *answer.body_mut() = Body::Whole(body.into());
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn an_outage_says_when_to_try_again() {
        let error_ = Error::new(Reason::StoreUnavailable, "down");
        let answer = error(&error_);
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()[RETRY_AFTER], "1");
        let body: Value = serde_json::from_slice(&error_.to_json()).expect("it is JSON");
        assert_eq!(body["details"][1]["retryDelay"], "1s");
    }
}
