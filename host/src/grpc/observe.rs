//! The parts that every gRPC call shares: its id, its span, its metrics, and the errors
//! of the transport in the form of all others.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ORIGIN};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use prost_reflect::DescriptorPool;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;
use tracing::Instrument;

use crate::api::{Api, idempotency};
use crate::error::{Error, Reason};
use crate::grpc::answer::too_large;
use crate::grpc::body::Received;
use crate::grpc::reflection::Reflection;
use crate::grpc::status;
use crate::logic::Interface;
use crate::network::exchange::{self, Exchange};
use crate::network::stream::SERVICE_HEADER;
use crate::proto::DESCRIPTORS;
use crate::services;
use crate::telemetry::traces::{Call, Trace};
use crate::telemetry::{Counts, Metrics, Operation, REQUEST_ID, microseconds, request_id};

const DETAILS: &str = "grpc-status-details-bin";
const STATUS: &str = "grpc-status";
const ACCEPTED_ENCODINGS: &str = "grpc-accept-encoding";
const ENCODING: &str = "grpc-encoding";
const GZIP: &str = "gzip";
/// How many calls of server reflection may be in flight.
const REFLECTIONS_MAX: usize = 64;
/// The beginning of the content type of every gRPC request.
const GRPC: &[u8] = b"application/grpc";

/// The services, and the operations of their methods.
pub struct Observed {
    routes: Routes,
    reflection: Reflection,
    api: Api,
    /// By path of the contract.
    methods: HashMap<String, Method>,
    /// Calls outside the contract share one label, so that callers cannot make labels up.
    other: Arc<Operation>,
    /// Permits for calls of server reflection: the answers are large.
    reflections: Arc<Semaphore>,
}

struct Method {
    operation: Arc<Operation>,
    streams: bool,
    /// The interface of the component that it needs, if any.
    needed: Option<Interface>,
}

impl Observed {
    /// Watches over `routes`, and records to the metrics.
    ///
    /// # Panics
    /// Never: the descriptors were made by the build.
    pub fn new(routes: Routes, reflection: Reflection, api: Api, metrics: &Metrics) -> Arc<Self> {
        let counts: &Counts = metrics.counts();
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("the build compiled the descriptors");
        let operation = |name: &str| Arc::new(counts.operation("grpc", name, name_of(Code::Ok)));
        let methods = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>());
        let methods = methods.map(|method| {
            let name = format!("{}/{}", method.parent_service().full_name(), method.name());
            let streams = method.is_server_streaming();
            let service = services::Service::named(method.parent_service().full_name());
            let needed = service.and_then(|service| service.needed(&name));
            let needed = needed.and_then(Interface::named);
            (format!("/{name}"), Method { operation: operation(&name), streams, needed })
        });
        Arc::new(Self {
            routes,
            reflection,
            api,
            methods: methods.collect(),
            other: operation("other"),
            reflections: Arc::new(Semaphore::new(REFLECTIONS_MAX)),
        })
    }

    /// Answers a call.
    pub fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        exchange: Arc<Exchange>,
    ) -> impl Future<Output = Response<Body>> + Send {
        let id = request_id(request.headers().get(REQUEST_ID));
        let method = self.methods.get(request.uri().path());
        let known = method.is_some();
        let needed = method.and_then(|method| method.needed);
        let streams = match (method, request.uri().path()) {
            (Some(method), _) if method.streams => Streams::Bounded,
            (None, WATCH) => Streams::Free,
            (None, path) if path.starts_with(REFLECTION) => Streams::Few,
            _ => Streams::No,
        };
        let operation = Arc::clone(method.map_or(&self.other, |method| &method.operation));
        let request_id = id.to_str().unwrap_or_default();
        let trace = Trace::begin(request.headers(), Call::Grpc(&operation.name), request_id);
        let span = tracing::info_span!(
            "request",
            protocol = operation.protocol,
            operation = operation.name,
            request_id,
            trace_id = trace.id().map(tracing::field::display)
        );
        let trace_of_call = trace.clone();
        let within = Arc::clone(&exchange);
        let observed = async move {
            let in_flight = operation.begin();
            let mut response = self.answer(request, exchange, streams, needed).await;
            let mut code = code(&response);
            if let Some(error) = transport_error(&response, code, known) {
                code = status::from(&error).code();
                response = status::from(&error).into_http();
                if error.reason == Reason::UnsupportedEncoding {
                    let accepted = HeaderValue::from_static("identity,gzip");
                    response.headers_mut().insert(ACCEPTED_ENCODINGS, accepted);
                }
            }
            let duration = in_flight.answered(name_of(code));
            let failed =
                matches!(code, Code::Internal | Code::Unavailable | Code::DeadlineExceeded);
            trace.answered_grpc(code as i32, failed);
            // The code is a number, as over REST, so that a key has values of one type.
            let (status, code, duration_us) = (name_of(code), code as i32, microseconds(duration));
            if failed {
                tracing::warn!(code, status, duration_us, "request failed");
            } else {
                tracing::debug!(code, status, duration_us, "request answered");
            }
            response.headers_mut().insert(REQUEST_ID, id);
            response
        };
        exchange::within(within, trace_of_call.follow(observed.instrument(span)))
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        exchange: Arc<Exchange>,
        streams: Streams,
        needed: Option<Interface>,
    ) -> Response<Body> {
        if !is_grpc(request.headers()) {
            return not_grpc();
        }
        // Programs that speak gRPC name no origin. A page in a browser always names one.
        if request.headers().contains_key(ORIGIN) {
            let message = "Web pages may not ask over gRPC; the REST port has CORS_ORIGINS.";
            return status::from(&Error::new(Reason::ForeignOrigin, message)).into_http();
        }
        if exchange.admit().await.is_err() {
            return status::from(&Error::no_memory()).into_http();
        }
        if let Err(error) = self.api.check_served(needed) {
            return status::from(&error).into_http();
        }
        match streams {
            Streams::No => {}
            Streams::Bounded => exchange.begin_stream(),
            Streams::Free => exchange.begin_charged_stream(None),
            Streams::Few => match Arc::clone(&self.reflections).try_acquire_owned() {
                Ok(permit) => exchange.begin_charged_stream(Some(permit)),
                Err(_) => return status::from(&Error::no_memory()).into_http(),
            },
        }
        let key = match idempotency::read(request.headers()) {
            Ok(key) => key,
            Err(error) => return status::from(&error).into_http(),
        };
        let mut request = request;
        let encoding = request.headers().get(ENCODING);
        let is_gzip = encoding.is_some_and(|encoding| encoding == GZIP);
        if is_gzip {
            // No message is compressed any more when it is read.
            request.headers_mut().remove(ENCODING);
        }
        let has_many_messages = streams == Streams::Few;
        let request = request.map(|body| Received::new(body, exchange, is_gzip, has_many_messages));
        let mut routes = match streams {
            Streams::Few => self.reflection.routes(&self.api.logic.generation()),
            _ => self.routes.clone(),
        };
        let called = match key {
            Some(key) => idempotency::within(key, routes.call(request)).await,
            None => routes.call(request).await,
        };
        match called {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// Whether a reply is a stream, and what bounds the number of such streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Streams {
    No,
    /// By a count of the service.
    Bounded,
    /// By the memory that each takes.
    Free,
    /// By a number of permits.
    Few,
}

/// A watch of the health streams changes as long as its client stays.
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// The beginning of the paths of server reflection. Its calls last as long as their clients
/// stay.
const REFLECTION: &str = "/grpc.reflection.";

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|content_type| {
        let rest = content_type.get(GRPC.len()..);
        let begins = content_type.len() >= GRPC.len()
            && content_type[..GRPC.len()].eq_ignore_ascii_case(GRPC);
        begins && matches!(rest.and_then(<[u8]>::first), None | Some(b'+' | b';' | b' '))
    })
}

/// The answer to a request that is not gRPC. It has an HTTP status, which its sender can read.
fn not_grpc() -> Response<Body> {
    let message =
        "This port speaks gRPC: content-type application/grpc. REST has a port of its own.";
    let error = Error::new(Reason::UnsupportedMediaType, message);
    let mut response = Response::new(Body::new(Full::new(Bytes::from(error.to_json()))));
    *response.status_mut() = error.row().http;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(SERVICE_HEADER, HeaderValue::from_static("nosniff"));
    response
}

/// The code of an answer. An error is in the head of the answer, and success behind its body.
fn code(response: &Response<Body>) -> Code {
    let header = response.headers().get(STATUS).map(HeaderValue::as_bytes);
    header.map_or(Code::Ok, Code::from_bytes)
}

/// The error that the transport reported in its own form, in the form of all others.
fn transport_error(response: &Response<Body>, code: Code, known: bool) -> Option<Error> {
    if response.headers().contains_key(DETAILS) {
        return None;
    }
    match code {
        Code::OutOfRange => Some(too_large()),
        Code::Unimplemented if response.headers().contains_key(ACCEPTED_ENCODINGS) => {
            let message = "The message must be sent as it is, or with grpc-encoding: gzip.";
            Some(Error::new(Reason::UnsupportedEncoding, message))
        }
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
