//! The REST wire. A request is matched to a route of the contract, decoded,
//! handed to its operation, and the reply encoded; what stands around that is
//! the same for every route.

pub mod answer;
pub mod body;
mod booking;
pub mod browsers;
mod conditions;
pub mod delivery;
mod docs;
mod encoding;
mod instant;
mod json;
mod openapi;
mod reply;
mod routes;
mod sse;
pub mod target;
mod transcode;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ORIGIN};
use http::request::Parts;
use http::{HeaderName, Method, Request, StatusCode};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use prost::Message;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use tracing::Instrument;

use crate::api::{Api, booking as operations, idempotency};
use crate::error::{Error, Reason, Violation};
use crate::http::answer::Answer;
use crate::http::body::RequestBody;
use crate::http::browsers::Browsers;
use crate::http::openapi::OpenApi;
use crate::http::routes::{Action, BodyRule, Reply, Route, Routes};
use crate::http::target::{Refusal, Target};
use crate::logic;
use crate::network::exchange::{self, Exchange};
use crate::network::listener::Connections;
use crate::network::server::{self, Protocol};
use crate::proto::DESCRIPTORS;
use crate::proto::session::booking::v1::DeleteRequest;
use crate::telemetry::traces::{Call, Trace};
use crate::telemetry::{Counts, Metrics, Operation, REQUEST_ID, microseconds, request_id};

/// The most bytes of one body.
const BODY_BYTES_MAX: usize = 4 << 20;
/// The methods that the service accepts on at least one path.
const EVERY_METHOD: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
/// The header with the last event that a client has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The wire.
pub struct Rest {
    api: Api,
    browsers: Browsers,
    routes: Routes,
    openapi: OpenApi,
    counts_openapi: Operation,
    counts_docs: Operation,
    /// Requests outside the contract share one label.
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
    browsers: Browsers,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let rest = Arc::new(Rest::new(api, browsers, metrics.counts())?);
    let handler = move |request, exchange| Arc::clone(&rest).handle(request, exchange);
    server::serve(connections, Protocol::Both(answer::unparsed), handler).await;
    Ok(())
}

impl Rest {
    fn new(api: Api, browsers: Browsers, counts: &Counts) -> anyhow::Result<Self> {
        let pool = DescriptorPool::decode(DESCRIPTORS)?;
        Ok(Self {
            api,
            browsers,
            routes: Routes::read(&pool, counts)?,
            openapi: OpenApi::new(&pool)?,
            counts_openapi: counts.operation("rest", "OpenApi", "200"),
            counts_docs: counts.operation("rest", "Docs", "200"),
            counts_other: counts.operation("rest", "other", "404"),
        })
    }

    async fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        exchange: Arc<Exchange>,
    ) -> Answer {
        let (head, body) = request.into_parts();
        let id = request_id(head.headers.get(REQUEST_ID));
        let target = self.target(&head);
        let (operation, route) = match &target {
            Target::Route(route, operation, _) => (*operation, Some(&*route.template)),
            Target::OpenApi => (&self.counts_openapi, Some(openapi::PATH)),
            Target::Docs(_) => (&self.counts_docs, Some(docs::PATH)),
            Target::Options(_) | Target::OtherMethod(_) | Target::Nothing => {
                (&self.counts_other, None)
            }
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
            let body = RequestBody::new(&head, body, Arc::clone(&exchange));
            let mut answer = self.answer(target, &head, body, &exchange).await;
            let status = answer.status();
            let duration = in_flight.answered(status.as_str());
            trace.answered_http(status.as_u16());
            let (code, duration_us) = (status.as_u16(), microseconds(duration));
            if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
                tracing::warn!(code, duration_us, "request failed");
            } else {
                tracing::debug!(code, duration_us, "request answered");
            }
            answer.headers_mut().insert(REQUEST_ID, id.clone());
            answer
        };
        let answering = trace.follow(answering.instrument(span));
        exchange::within(Arc::clone(&exchange), answering).await
    }

    fn target<'a>(&'a self, head: &'a Parts) -> Target<'a> {
        let path = head.uri.path();
        if let Ok(found) = self.routes.router.at(path) {
            let one_time = |context: &str| {
                let context = percent_decode_str(context).decode_utf8_lossy();
                operations::is_one_time(&self.api, &context)
            };
            return Target::of_path(&head.method, found.value, found.params, one_time);
        }
        match docs::asset(path) {
            Some(asset) => Target::page(&head.method, Target::Docs(asset)),
            None if path == openapi::PATH => Target::page(&head.method, Target::OpenApi),
            None if path == "*" && head.method == Method::OPTIONS => {
                Target::Options(EVERY_METHOD.into())
            }
            None => Target::Nothing,
        }
    }

    /// The answer to a request, as browsers and other clients may have it.
    async fn answer(
        &self,
        target: Target<'_>,
        head: &Parts,
        mut body: RequestBody,
        exchange: &Arc<Exchange>,
    ) -> Answer {
        let compressible = match &target {
            Target::Route(route, ..) => route.compressible,
            _ => true,
        };
        let (admitted, answered) = match self.browsers.admit(head) {
            Err(error) => (None, Err(error.into())),
            Ok(admitted) => {
                let answered = match exchange.admit().await {
                    Ok(()) => match idempotency::read(&head.headers) {
                        Ok(None) => self.reply(target, head, &mut body, exchange).await,
                        Ok(Some(key)) => {
                            // It is large, and most requests have none.
                            let reply = Box::pin(self.reply(target, head, &mut body, exchange));
                            idempotency::within(key, reply).await
                        }
                        Err(error) => Err(error.into()),
                    },
                    Err(_) => Err(Error::no_memory().into()),
                };
                (Some(admitted), answered)
            }
        };
        delivery::deliver(head, &mut body, admitted, answered, compressible).await
    }

    async fn reply(
        &self,
        target: Target<'_>,
        head: &Parts,
        body: &mut RequestBody,
        exchange: &Arc<Exchange>,
    ) -> Result<Answer, Refusal> {
        let (route, parameters) = match target {
            Target::Route(route, _, parameters) => (route, parameters),
            Target::OpenApi => {
                let document = self.openapi.document(&self.api.logic.generation());
                return Ok(answer::json(document));
            }
            Target::Docs(asset) => return Ok(asset.answer()),
            Target::Options(methods) => return Ok(answer::options(&methods)),
            Target::OtherMethod(methods) => return Err(Refusal::Method(methods)),
            Target::Nothing => {
                return Err(Error::new(Reason::RouteNotFound, "There is no such path.").into());
            }
        };
        self.api.check_served(route.kind)?;
        let mut decoded = Vec::with_capacity(parameters.len());
        for (name, value) in parameters.iter() {
            if !value.as_bytes().contains(&b'%') {
                decoded.push((name, Cow::Borrowed(value)));
                continue;
            }
            if !is_percent_encoded(value) {
                return Err(Error::invalid(name, "has a % without two hexadecimal digits").into());
            }
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
                conditions::refuse_all(&head.method, &head.headers)?;
                let (message, violations) = message()?;
                let calling = call(self.api.clone(), message);
                if !violations.is_empty() {
                    return Err(invalid_request(&route.method.input(), violations, calling)
                        .await
                        .into());
                }
                Ok(answer_of(route, calling.await?))
            }
            Action::Stream { call, .. } => {
                let (message, violations) = message()?;
                if !violations.is_empty() {
                    return Err(Error::violations(violations).into());
                }
                let events = call(self.api.clone(), message).await?;
                exchange.begin_stream();
                Ok(answer::events(events))
            }
            Action::SetFlat => {
                no_query(query)?;
                let context = parameter("context").unwrap_or_default();
                let key = parameter("session_key");
                let condition = conditions::read(&head.headers)?;
                let written = booking::set(&self.api, context, key, condition, &body).await?;
                let mut answer = answer::json(reply::json(&written));
                conditions::tag(&mut answer, written.version());
                Ok(answer)
            }
            Action::GetFlat => {
                no_query(query)?;
                let context = parameter("context").unwrap_or_default();
                let key = parameter("session_key").unwrap_or_default();
                let (version, body) = booking::get(&self.api, context, key).await?;
                let mut answer = answer::json(body);
                conditions::tag(&mut answer, version);
                Ok(answer)
            }
            Action::DeleteFlat => {
                let condition = conditions::read(&head.headers)?;
                let (message, violations) = message()?;
                if !violations.is_empty() {
                    return Err(Error::violations(violations).into());
                }
                let request = DeleteRequest::decode(message);
                let request =
                    request.map_err(|error| Error::invalid("query", error.to_string()))?;
                Ok(answer::json(reply::json(
                    &booking::delete(&self.api, condition, request).await?,
                )))
            }
        }
    }
}

/// Whether each % in a part of a path stands before the digits of a byte.
fn is_percent_encoded(text: &str) -> bool {
    let digits = |rest: &str| {
        let mut digits = rest.bytes().take(2).filter(u8::is_ascii_hexdigit);
        digits.next().is_some() && digits.next().is_some()
    };
    text.split('%').skip(1).all(digits)
}

/// Refuses a request with the violations that the wire has found, and those that the rules find
/// in the rest of it. The rules run without a store, so they change nothing. The wire has left
/// out the wrong fields of a message, so violations of that message as a whole do not count.
async fn invalid_request(
    request: &MessageDescriptor,
    mut violations: Vec<Violation>,
    calling: Reply,
) -> Error {
    if let Err(refused) = logic::without_store(calling).await {
        let is_listed = |field: &str| violations.iter().any(|violation| violation.field == field);
        let whole = |field: &str| {
            let field = request.get_field_by_name(field);
            field.is_some_and(|field| matches!(field.kind(), Kind::Message(_)))
        };
        let more = refused.violations.into_iter();
        let more =
            more.filter(|violation| !is_listed(&violation.field) && !whole(&violation.field));
        violations.extend(more.collect::<Vec<_>>());
    }
    Error::violations(violations)
}

fn answer_of(route: &Route, reply: Vec<u8>) -> Answer {
    let Some(only) = &route.response_body else { return answer::json(reply) };
    let member = if route.camel_case { only.json_name() } else { only.name() };
    answer::json(reply::only(member, &reply))
}

fn no_query(query: &str) -> Result<(), Error> {
    if query.is_empty() {
        return Ok(());
    }
    let name = query.split(['=', '&']).next().unwrap_or_default();
    Err(Error::invalid(json::shown(name), "is not a parameter of this request"))
}

/// The whole body of a request that says it is JSON, or has none. Whether there is one may
/// show only when it ends.
async fn collected(head: &Parts, body: &mut RequestBody) -> Result<Bytes, Error> {
    let has = |name| head.headers.contains_key(name);
    let typed = || body::typed(head, &["application/json"], false);
    if has(ORIGIN) || has(CONTENT_TYPE) && !body.is_empty() {
        typed()?;
    }
    let collected = body.collect(BODY_BYTES_MAX).await;
    let collected = collected.map_err(|missing| missing.error(BODY_BYTES_MAX))?;
    if !collected.is_empty() {
        typed()?;
    }
    Ok(collected)
}
