//! What happens around every gRPC call: its id, its span, its metrics, and
//! errors of the transport itself told like all others.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response};
use prost_reflect::DescriptorPool;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::error::{Error, Reason};
use crate::grpc::{MESSAGE_BYTES_MAX, status};
use crate::proto::DESCRIPTORS;
use crate::telemetry::traces::{Call, Trace};
use crate::telemetry::{Counts, Operation, REQUEST_ID, microseconds, request_id};

const DETAILS: &str = "grpc-status-details-bin";
const STATUS: &str = "grpc-status";

/// Wraps a service.
#[derive(Clone)]
pub struct Observe {
    /// By path of the contract.
    operations: Arc<HashMap<String, Arc<Operation>>>,
    /// What is not in the contract shares one label, so that callers cannot make
    /// labels up.
    other: Arc<Operation>,
}

/// The layer that records to `counts`.
///
/// # Panics
/// Never: the descriptors were made by the build.
pub fn layer(counts: &Counts) -> Observe {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build compiled the descriptors");
    let operation = |name: &str| Arc::new(counts.operation("grpc", name, name_of(Code::Ok)));
    let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
    let operations = methods.map(|method| {
        let name = format!("{}/{}", method.parent_service().full_name(), method.name());
        (format!("/{name}"), operation(&name))
    });
    Observe { operations: Arc::new(operations.collect()), other: operation("other") }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, observe: self.clone() }
    }
}

/// A wrapped service.
#[derive(Clone)]
pub struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let id = request_id(request.headers().get(REQUEST_ID));
        let known = self.observe.operations.get(request.uri().path());
        let operation = Arc::clone(known.unwrap_or(&self.observe.other));
        let known = known.is_some();
        let request_id = id.to_str().unwrap_or_default();
        let trace = Trace::begin(request.headers(), Call::Grpc(&operation.name), request_id);
        let span = tracing::info_span!(
            "request",
            protocol = operation.protocol,
            operation = operation.name,
            request_id,
            trace_id = trace.id().map(tracing::field::display)
        );
        let answer = self.inner.call(request);
        let going = trace.clone();
        let observed = async move {
            let in_flight = operation.begin();
            let mut response = answer.await?;
            let mut code = code(&response);
            if let Some(error) = transport_error(&response, code, known) {
                code = status::from(&error).code();
                response = status::from(&error).into_http();
            }
            let duration = in_flight.answered(name_of(code));
            let failed =
                matches!(code, Code::Internal | Code::Unavailable | Code::DeadlineExceeded);
            trace.answered_grpc(code as i32, failed);
            // As over REST a number, so that a key has values of one type.
            let (status, code, duration_us) = (name_of(code), code as i32, microseconds(duration));
            if failed {
                tracing::warn!(code, status, duration_us, "request failed");
            } else {
                tracing::debug!(code, status, duration_us, "request answered");
            }
            response.headers_mut().insert(REQUEST_ID, id);
            Ok(response)
        };
        Box::pin(going.follow(observed.instrument(span)))
    }
}

/// An error is told in the head of the answer, success behind its body.
fn code(response: &Response<Body>) -> Code {
    let header = response.headers().get(STATUS).map(HeaderValue::as_bytes);
    header.map_or(Code::Ok, Code::from_bytes)
}

/// The error that the transport told in its own words.
fn transport_error(response: &Response<Body>, code: Code, known: bool) -> Option<Error> {
    if response.headers().contains_key(DETAILS) {
        return None;
    }
    match code {
        Code::OutOfRange => Some(Error::new(
            Reason::RequestTooLarge,
            format!("The message is larger than {MESSAGE_BYTES_MAX} bytes."),
        )),
        Code::Unimplemented if !known => {
            Some(Error::new(Reason::MethodNotFound, "The service has no such method."))
        }
        Code::Internal => {
            let message = Status::from_header_map(response.headers())
                .map_or_else(String::new, |status| status.message().to_owned());
            Some(Error::invalid("message", format!("does not arrive whole: {message}")))
        }
        _ => None,
    }
}

fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
