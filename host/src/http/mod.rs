//! The REST wire. A request is matched to a route of the contract, decoded,
//! handed to its operation, and the reply encoded; what stands around that is
//! the same for every route.

pub mod answer;
pub mod body;
mod booking;
mod docs;
mod json;
mod openapi;
mod routes;
pub mod server;
mod sse;
mod transcode;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use prost::Message;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use tracing::Instrument;

use crate::api::Api;
use crate::error::{Error, Reason, Violation};
use crate::http::answer::Answer;
use crate::http::body::Missing;
use crate::http::openapi::OpenApi;
use crate::http::routes::{Action, BodyRule, PathRoutes, Reply, Route, Routes};
use crate::listener::Connections;
use crate::logic;
use crate::proto::DESCRIPTORS;
use crate::telemetry::traces::{Call, Trace};
use crate::telemetry::{Counts, Metrics, Operation, REQUEST_ID, microseconds, request_id};

/// The most bytes of one body.
const BODY_BYTES_MAX: usize = 4 << 20;
/// What a client has seen last of events that go on.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// The length of a body that needs no type.
const NOTHING: HeaderValue = HeaderValue::from_static("0");

/// The wire.
pub struct Rest {
    api: Api,
    routes: Routes,
    openapi: OpenApi,
    counts_openapi: Operation,
    counts_docs: Operation,
    /// What is not in the contract shares one label.
    counts_other: Operation,
}

/// Serves `connections` until no more come, then ends when the requests in flight
/// are answered.
///
/// # Errors
/// When the contract cannot be served.
pub async fn serve(
    connections: Connections,
    api: Api,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let rest = Arc::new(Rest::new(api, metrics.counts())?);
    let handler = move |request| Arc::clone(&rest).handle(request);
    server::serve(connections, handler).await;
    Ok(())
}

impl Rest {
    fn new(api: Api, counts: &Counts) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(DESCRIPTORS)?;
        Ok(Self {
            api,
            routes: Routes::read(&pool, counts)?,
            openapi: OpenApi::new(&pool)?,
            counts_openapi: counts.operation("rest", "OpenApi", "200"),
            counts_docs: counts.operation("rest", "Docs", "200"),
            counts_other: counts.operation("rest", "other", "404"),
        })
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        let id = request_id(head.headers.get(REQUEST_ID));
        let target = self.target(&head);
        let (operation, route) = match &target {
            Target::Route(route, operation, _) => (*operation, Some(&*route.template)),
            Target::OpenApi => (&self.counts_openapi, Some(openapi::PATH)),
            Target::Docs(_) => (&self.counts_docs, Some(docs::PATH)),
            Target::OtherMethod(_) | Target::Nothing => (&self.counts_other, None),
        };
        let request_id = id.to_str().unwrap_or_default();
        let trace = Trace::begin(&head.headers, Call::Http(&head.method, route), request_id);
        let span = tracing::info_span!(
            "request",
            protocol = operation.protocol,
            operation = operation.name,
            request_id,
            trace_id = trace.id().map(tracing::field::display)
        );
        let answering = async {
            let in_flight = operation.begin();
            let answered = self.answer(target, &head, body).await;
            let mut answer = answered.unwrap_or_else(Refusal::answer);
            let status = answer.status();
            let duration = in_flight.answered(status.as_str());
            trace.answered_http(status.as_u16());
            let (code, duration_us) = (status.as_u16(), microseconds(duration));
            if status.is_server_error() {
                tracing::warn!(code, duration_us, "request failed");
            } else {
                tracing::debug!(code, duration_us, "request answered");
            }
            answer.headers_mut().insert(REQUEST_ID, id.clone());
            answer
        };
        trace.follow(answering.instrument(span)).await
    }

    fn target<'a>(&'a self, head: &'a Parts) -> Target<'a> {
        let path = head.uri.path();
        let Ok(found) = self.routes.router.at(path) else {
            return match docs::asset(path) {
                Some(asset) => Target::Docs(asset),
                None if path == openapi::PATH => Target::OpenApi,
                None => Target::Nothing,
            };
        };
        match found.value.iter().find(|(route, _)| route.http_method == head.method) {
            Some((route, operation)) => Target::Route(route, operation, found.params),
            None => Target::OtherMethod(found.value),
        }
    }

    async fn answer(
        &self,
        target: Target<'_>,
        head: &Parts,
        body: Incoming,
    ) -> Result<Answer, Refusal> {
        let (route, parameters) = match target {
            Target::Route(route, _, parameters) => (route, parameters),
            Target::OpenApi => return self.openapi(&head.method),
            Target::Docs(asset) if head.method == Method::GET => return Ok(asset.answer()),
            Target::Docs(_) => return Err(Refusal::method("GET")),
            Target::OtherMethod(routes) => {
                let allowed = routes.iter().map(|(route, _)| route.http_method.as_str());
                return Err(Refusal::method(&allowed.collect::<Vec<_>>().join(", ")));
            }
            Target::Nothing => {
                return Err(Error::new(Reason::RouteNotFound, "There is no such path.").into());
            }
        };
        let mut decoded = Vec::with_capacity(parameters.len());
        for (name, value) in parameters.iter() {
            let value = percent_decode_str(value).decode_utf8();
            decoded.push((name, value.map_err(|_| Error::invalid(name, "is not UTF-8"))?));
        }
        let parameter = |wanted: &str| {
            let found = decoded.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| &**value)
        };
        let query = head.uri.query().unwrap_or_default();
        let body = match route.body {
            BodyRule::Nothing => Bytes::new(),
            BodyRule::Whole | BodyRule::Field(_) => collected(head, body).await?,
        };
        let message = || {
            let mut request = transcode::Request::new(route.method.input());
            for (name, value) in &decoded {
                request.path(name, value);
            }
            request.query(query);
            match &route.body {
                BodyRule::Nothing => {}
                BodyRule::Whole => request.body(&body)?,
                BodyRule::Field(field) => request.body_of(field, &body)?,
            }
            if let Action::Stream { last_event_id, header_counts, .. } = &route.action
                && let Some(last) = head.headers.get(LAST_EVENT_ID).filter(|last| !last.is_empty())
                && let Some(field) = route.method.input().get_field_by_name(last_event_id)
            {
                let last = last.to_str();
                let last = last.map_err(|_| Error::invalid("Last-Event-ID", "is not text"))?;
                request.header(&field, last, *header_counts);
            }
            route.required.iter().for_each(|field| request.require(field));
            Ok::<_, Error>(request.finish())
        };
        match &route.action {
            Action::Unary(call) => {
                let (message, violations) = message()?;
                let calling = call(self.api.clone(), message);
                if !violations.is_empty() {
                    return Err(wanting(&route.method.input(), violations, calling).await.into());
                }
                Ok(reply_of(route, &calling.await?))
            }
            Action::Stream { call, .. } => {
                let (message, violations) = message()?;
                if !violations.is_empty() {
                    return Err(Error::violations(violations).into());
                }
                let pieces = call(self.api.clone(), message).await?;
                Ok(answer::events(sse::encoded(route.method.output(), pieces)))
            }
            Action::SetFlat => {
                no_query(query)?;
                let context = parameter("context").unwrap_or_default();
                let key = parameter("session_key");
                let written = booking::set(&self.api, context, key, &body).await?;
                Ok(reply(route, &written))
            }
            Action::GetFlat => {
                no_query(query)?;
                let context = parameter("context").unwrap_or_default();
                let key = parameter("session_key").unwrap_or_default();
                Ok(answer::json(booking::get(&self.api, context, key).await?))
            }
        }
    }

    fn openapi(&self, method: &Method) -> Result<Answer, Refusal> {
        if method != Method::GET {
            return Err(Refusal::method("GET"));
        }
        Ok(answer::json(self.openapi.document(&self.api.logic.generation())))
    }
}

/// What a request is for.
enum Target<'a> {
    /// A route, what it counts, and its parameters.
    Route(&'a Route, &'a Operation, matchit::Params<'a, 'a>),
    OpenApi,
    /// A part of the page that shows the contract.
    Docs(&'static docs::Asset),
    /// The path has other methods.
    OtherMethod(&'a PathRoutes),
    Nothing,
}

/// Why a request has no reply.
struct Refusal {
    error: Error,
    /// The methods that the path has, when the one used is not among them.
    allowed: Option<String>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, allowed: None }
    }
}

impl Refusal {
    fn method(allowed: &str) -> Self {
        let message = format!("The path takes {allowed} only.");
        Self { error: Error::new(Reason::MethodNotAllowed, message), allowed: Some(allowed.into()) }
    }

    fn answer(self) -> Answer {
        match self.allowed {
            Some(allowed) => answer::method_not_allowed(&self.error, &allowed),
            None => answer::error(&self.error),
        }
    }
}

/// Refuses a request that the wire found wanting, together with what the rules find
/// wrong with the rest of it: they are asked, but can change nothing. Of a message in
/// the request they have not seen what the wire has left out, so that what they say of
/// it as a whole does not count.
async fn wanting(
    request: &MessageDescriptor,
    mut violations: Vec<Violation>,
    calling: Reply,
) -> Error {
    if let Err(refused) = logic::without_store(calling).await {
        let told = |field: &str| violations.iter().any(|violation| violation.field == field);
        let whole = |field: &str| {
            let field = request.get_field_by_name(field);
            field.is_some_and(|field| matches!(field.kind(), Kind::Message(_)))
        };
        let more = refused.violations.into_iter();
        let more = more.filter(|violation| !told(&violation.field) && !whole(&violation.field));
        violations.extend(more.collect::<Vec<_>>());
    }
    Error::violations(violations)
}

fn reply(route: &Route, message: &impl Message) -> Answer {
    reply_of(route, &message.encode_to_vec())
}

fn reply_of(route: &Route, message: &[u8]) -> Answer {
    let (only, camel_case) = (route.response_body.as_ref(), route.camel_case);
    answer::json(transcode::reply(route.method.output(), message, only, camel_case))
}

fn no_query(query: &str) -> Result<(), Error> {
    if query.is_empty() {
        return Ok(());
    }
    let name = query.split(['=', '&']).next().unwrap_or_default();
    Err(Error::invalid(json::shown(name), "is not a parameter of this request"))
}

/// The whole body of a request that says it is JSON, or has none.
async fn collected(head: &Parts, body: Incoming) -> Result<Bytes, Error> {
    let too_large = || {
        let message = format!("The body is larger than {BODY_BYTES_MAX} bytes.");
        Error::new(Reason::RequestTooLarge, message)
    };
    if !is_json(&head.headers) && head.headers.get(CONTENT_LENGTH) != Some(&NOTHING) {
        return Err(Error::new(
            Reason::UnsupportedMediaType,
            "The body must be JSON, announced as content-type: application/json.",
        ));
    }
    let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    if length > BODY_BYTES_MAX && head.headers.contains_key(EXPECT) {
        return Err(too_large());
    }
    body::collect(body, BODY_BYTES_MAX).await.map_err(|missing| match missing {
        Missing::TooLarge => too_large(),
        Missing::Broken => Error::invalid("body", "does not arrive whole"),
        Missing::Late => Error::invalid("body", "does not arrive in time"),
    })
}

/// A body without a type is taken for what the wire speaks.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return true };
    let value = value.to_str().unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}
