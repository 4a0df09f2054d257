//! The routes of the REST wire, read from the `google.api.http` annotations of
//! the contract: which path and method call which operation.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::Method;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, Value,
};

use crate::api::streams::Replies;
use crate::api::{self, Api, connections, events};
use crate::error::Error;
use crate::http::reply::{self, Json};
use crate::http::sse::{AsEvent, ServerSentEvents, server_sent_events};
use crate::logic::Interface;
use crate::services::{self, Service};
use crate::telemetry::{Counts, Operation};

/// A future reply in JSON.
pub type Reply = Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>> + Send>>;

/// Future server-sent events.
pub type Stream = Pin<Box<dyn Future<Output = Result<ServerSentEvents, Error>> + Send>>;

/// The action of a route on a request.
pub enum Action {
    /// Decode by the descriptor, call, encode as JSON.
    Unary(Box<dyn Fn(Api, Bytes) -> Reply + Send + Sync>),
    /// Decode by the descriptor, call, and encode each reply of the stream.
    Stream {
        /// The operation that it calls.
        call: Box<dyn Fn(Api, Bytes) -> Stream + Send + Sync>,
        /// The field that the header Last-Event-ID sets.
        last_event_id: &'static str,
        /// Whether the header counts when both are given: a browser that connects again repeats
        /// the query that it began with.
        header_counts: bool,
    },
    /// Write a booking session from a flat body.
    SetFlat,
    /// Read a booking session into a flat body.
    GetFlat,
    /// Delete a booking session, on a condition.
    DeleteFlat,
}

/// Which part of a request message is in the body.
pub enum BodyRule {
    /// Nothing.
    Nothing,
    /// Every field that is not in the path.
    Whole,
    /// This field, which is a message.
    Field(FieldDescriptor),
}

/// One binding of an operation.
pub struct Route {
    /// The HTTP method.
    pub http_method: Method,
    /// The path template.
    pub template: String,
    /// Which part of the request message is in the body.
    pub body: BodyRule,
    /// The fields that have to be given.
    pub required: Vec<FieldDescriptor>,
    /// The field of the reply that is the whole answer, when it is not the reply
    /// itself.
    pub response_body: Option<FieldDescriptor>,
    /// Whether JSON names are in lowerCamelCase, as proto3 JSON has them, or as they stand in
    /// the contract.
    pub camel_case: bool,
    /// Whether its answers may be compressed.
    pub compressible: bool,
    /// The interface of the component that the operation needs, if any.
    pub kind: Option<Interface>,
    /// The operation.
    pub method: MethodDescriptor,
    /// `package.Service/Method`, for metrics and logs.
    pub operation: String,
    /// Its action.
    pub action: Action,
}

impl Route {
    /// Whether conditions in the headers of a request count.
    pub fn has_conditions(&self) -> bool {
        matches!(self.action, Action::SetFlat | Action::DeleteFlat)
    }
}

/// The routes of one path, each with what it counts.
pub type PathRoutes = Vec<(Route, Operation)>;

/// All routes by path.
pub struct Routes {
    /// Finds the routes of a path.
    pub router: matchit::Router<Arc<PathRoutes>>,
}

/// A prefix under which the routes of users' sessions are served too.
pub const USERS_ALIAS: &str = "/a01";

/// Whether a path has the alias.
pub fn has_users_alias(template: &str) -> bool {
    template == "/session" || template.starts_with("/session/")
}

impl Routes {
    /// Reads the annotations.
    ///
    /// # Errors
    /// When an annotation cannot be served: two have one path, or an operation
    /// has no action.
    pub fn read(pool: &DescriptorPool, counts: &Counts) -> Result<Self> {
        let mut by_template: Vec<(String, PathRoutes)> = Vec::new();
        for route in all(pool)? {
            let template = route.template.clone();
            let operation = counts.operation("rest", &route.operation, "200");
            let known = by_template.iter_mut().find(|(known, _)| *known == template);
            match known {
                Some((_, routes)) => routes.push((route, operation)),
                None => by_template.push((template, vec![(route, operation)])),
            }
        }
        let mut router = matchit::Router::new();
        for (template, routes) in by_template {
            let routes = Arc::new(routes);
            if has_users_alias(&template) {
                router.insert([USERS_ALIAS, &template].concat(), Arc::clone(&routes))?;
            }
            router.insert(&template, routes).with_context(|| format!("route {template}"))?;
        }
        Ok(Self { router })
    }
}

/// Every binding of every annotated operation.
///
/// # Errors
/// When an annotation is not understood.
pub fn all(pool: &DescriptorPool) -> Result<Vec<Route>> {
    let http = pool
        .get_extension_by_name("google.api.http")
        .context("the descriptors hold google.api.http")?;
    let mut routes = Vec::new();
    for service in pool.services() {
        for method in service.methods() {
            let options = method.options();
            if !options.has_extension(&http) {
                continue;
            }
            let rule = options.get_extension(&http);
            let rule = rule.as_message().context("an HTTP rule is a message")?;
            routes.push(route(&method, rule)?);
            let more = rule.get_field_by_name("additional_bindings");
            for rule in more.as_deref().and_then(Value::as_list).unwrap_or_default() {
                routes.push(route(&method, rule.as_message().context("a rule is a message")?)?);
            }
        }
    }
    Ok(routes)
}

fn route(method: &MethodDescriptor, rule: &DynamicMessage) -> Result<Route> {
    let verbs = [
        ("get", Method::GET),
        ("put", Method::PUT),
        ("post", Method::POST),
        ("delete", Method::DELETE),
        ("patch", Method::PATCH),
    ];
    let found = verbs.into_iter().find(|(name, _)| rule.has_field_by_name(name));
    let (name, http_method) =
        found.with_context(|| format!("{} has a rule without a path", method.full_name()))?;
    let text = |name: &str| {
        let value = rule.get_field_by_name(name)?;
        value.as_str().map(str::to_owned)
    };
    let field_of = |message: MessageDescriptor, name: &str| {
        let field = message.get_field_by_name(name);
        field.with_context(|| format!("{} has no field {name}", message.full_name()))
    };
    let body = match text("body").unwrap_or_default().as_str() {
        "" => BodyRule::Nothing,
        "*" => BodyRule::Whole,
        name => BodyRule::Field(field_of(method.input(), name)?),
    };
    let response_body = match text("response_body").unwrap_or_default().as_str() {
        "" => None,
        name => Some(field_of(method.output(), name)?),
    };
    let template = text(name).unwrap_or_default();
    let service = method.parent_service();
    let name = service.full_name();
    let operation = format!("{name}/{}", method.name());
    let service = Service::named(name).with_context(|| format!("{name} is of no kind"))?;
    Ok(Route {
        required: required(method)?,
        response_body,
        compressible: !services::is_secret(&operation),
        camel_case: service.camel_case,
        kind: service.needed(&operation).and_then(Interface::named),
        http_method,
        template,
        body,
        method: method.clone(),
        action: action(&operation)?,
        operation,
    })
}

/// The fields of the request that are annotated as required.
fn required(method: &MethodDescriptor) -> Result<Vec<FieldDescriptor>> {
    let pool = method.parent_pool();
    let behavior = pool
        .get_extension_by_name("google.api.field_behavior")
        .context("the descriptors hold google.api.field_behavior")?;
    let is_required = |field: &FieldDescriptor| {
        let options = field.options();
        let behavior = options.get_extension(&behavior);
        behavior.as_list().is_some_and(|list| list.contains(&Value::EnumNumber(REQUIRED)))
    };
    Ok(method.input().fields().filter(is_required).collect())
}

/// `REQUIRED` of `google.api.FieldBehavior`.
const REQUIRED: i32 = 2;

/// The action of each annotated operation.
fn action(operation: &str) -> Result<Action> {
    Ok(match operation {
        "session.booking.v1.Booking/Set" => Action::SetFlat,
        "session.booking.v1.Booking/Get" => Action::GetFlat,
        "session.booking.v1.Booking/Delete" => Action::DeleteFlat,
        "session.connections.v1.Connections/Connect" => {
            stream("session_id", false, |api, request| async move {
                connections::connect(&api, request).await
            })
        }
        "session.events.v1.Events/Subscribe" => {
            stream(
                "after",
                true,
                |api, request| async move { events::subscribe(&api, request).await },
            )
        }
        _ => call(operation).with_context(|| format!("{operation} has an unknown path"))?,
    })
}

macro_rules! calls {
    ($($service:path => $module:ident {
        routed { $($answer:ident $operation:literal $call:ident($request:ty) -> $reply:ty;)* }
        unrouted { $($unrouted:tt)* }
        streams { $($streams:tt)* }
    })*) => {
        /// The call of a unary operation by its name, if the contract has it.
        fn call(operation: &str) -> Option<Action> {
            Some(match operation {
                $($($operation => unary::<$request, $reply, _>(|api, request| async move {
                    api::$module::$call(&api, request).await
                }),)*)*
                _ => return None,
            })
        }
    };
}

crate::proto::operations!(calls);

fn unary<Q, R, F>(call: impl Fn(Api, Q) -> F + Send + Sync + 'static) -> Action
where
    Q: Message + Default,
    R: Json,
    F: Future<Output = Result<R, Error>> + Send + 'static,
{
    Action::Unary(Box::new(move |api, bytes| match Q::decode(bytes) {
        Ok(request) => {
            let call = call(api, request);
            Box::pin(async move { call.await.map(|reply| reply::json(&reply)) })
        }
        // The bytes were encoded by the descriptor of Q, so the request exceeds a limit of the
        // decoder.
        Err(error) => {
            let error = Error::invalid("body", error.to_string());
            Box::pin(std::future::ready(Err(error)))
        }
    }))
}

fn stream<Q, R, F>(
    last_event_id: &'static str,
    header_counts: bool,
    call: impl Fn(Api, Q) -> F + Send + Sync + 'static,
) -> Action
where
    Q: Message + Default,
    R: AsEvent,
    F: Future<Output = Result<Replies<R>, Error>> + Send + 'static,
{
    let call = move |api, bytes| -> Stream {
        match Q::decode(bytes) {
            Ok(request) => {
                let call = call(api, request);
                Box::pin(async move { call.await.map(server_sent_events) })
            }
            // As above.
            Err(error) => {
                let error = Error::invalid("query", error.to_string());
                Box::pin(std::future::ready(Err(error)))
            }
        }
    };
    Action::Stream { call: Box::new(call), last_event_id, header_counts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::DESCRIPTORS;
    use crate::telemetry::Metrics;

    #[test]
    fn the_routes_are_those_of_the_contract() {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        let mut routes: Vec<String> = all(&pool)
            .expect("routes")
            .iter()
            .map(|route| format!("{} {} {}", route.http_method, route.template, route.operation))
            .collect();
        routes.sort();
        let expected = [
            "DELETE /session session.users.v1.UserSessions/DeleteAll",
            "DELETE /session/{session_id} session.users.v1.UserSessions/Delete",
            "DELETE /v1/connections/{session_id} session.connections.v1.Connections/Close",
            "DELETE /v1/pods/{pod_id}/connections session.connections.v1.Connections/Drain",
            "DELETE /v1/users/{user_id}/connections session.connections.v1.Connections/Terminate",
            "DELETE /v1/{context}/sessions/{session_key} session.booking.v1.Booking/Delete",
            "DELETE /v1/{context}/sessions/{session_key}/lock session.booking.v1.Booking/Unlock",
            "GET /api/sse/connect session.connections.v1.Connections/Connect",
            "GET /devices/{device_id} com.example.smdevice.Device/GetDevice",
            "GET /health sessionmanager.SessionManager/HealthCheck",
            "GET /homes/{account_id} com.example.sm.SM/GetHome",
            "GET /homes/{account_id}/sessions com.example.sm.SM/GetHome",
            "GET /session session.users.v1.UserSessions/List",
            "GET /session/user/{user_id} session.users.v1.UserSessions/ListById",
            "GET /session/{session_id} session.users.v1.UserSessions/Get",
            "GET /v1/connect session.connections.v1.Connections/Connect",
            "GET /v1/connections/stats session.connections.v1.Connections/GetStats",
            "GET /v1/connections/{session_id} session.connections.v1.Connections/Get",
            "GET /v1/contexts session.booking.v1.Booking/ListContexts",
            "GET /v1/events session.events.v1.Events/Subscribe",
            "GET /v1/pods/{pod_id}/connections session.connections.v1.Connections/ListByPod",
            "GET /v1/users/{user_id}/connections session.connections.v1.Connections/ListByUser",
            "GET /v1/users/{user_id}/presence session.connections.v1.Connections/GetPresence",
            "GET /v1/{context}/sessions/{session_key} session.booking.v1.Booking/Get",
            "PATCH /session session.users.v1.UserSessions/Update",
            "PATCH /session/{session_id} session.users.v1.UserSessions/Update",
            "POST /api/sse/disconnect session.connections.v1.Connections/Close",
            "POST /device/{device_id}/create com.example.smdevice.Device/CreateDevice",
            "POST /device/{device_id}/delete com.example.smdevice.Device/DeleteDevice",
            "POST /device/{device_id}/sessions/create \
             com.example.smdevice.Device/CreateSessionWithDevice",
            "POST /home/{account_id}/sessions/create com.example.sm.SM/CreateSession",
            "POST /home/{account_id}/sessions/heartbeat com.example.sm.SM/HeartBeat",
            "POST /home/{account_id}/sessions/setMaxSession com.example.sm.SM/SetMaxSession",
            "POST /home/{account_id}/sessions/teardown com.example.sm.SM/TearDown",
            "POST /session session.users.v1.UserSessions/Create",
            "POST /v1/connections session.connections.v1.Connections/Register",
            "POST /v1/connections/{session_id}/heartbeat \
             session.connections.v1.Connections/Heartbeat",
            "POST /v1/pods/{pod_id}/heartbeat session.connections.v1.Connections/HeartbeatPod",
            "POST /v1/{context}/sessions session.booking.v1.Booking/Set",
            "POST /v1/{context}/sessions/{session_key}/lock session.booking.v1.Booking/Lock",
            "PUT /v1/{context}/sessions/{session_key} session.booking.v1.Booking/Set",
        ];
        assert_eq!(routes, expected);
    }

    #[test]
    fn every_route_is_found_by_its_path() {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        let routes = Routes::read(&pool, Metrics::new().counts()).expect("routes");
        for route in all(&pool).expect("routes") {
            let path = route.template.replace(['{', '}'], "");
            let found = routes.router.at(&path).expect("a path");
            assert!(found.value.iter().any(|(r, _)| r.http_method == route.http_method), "{path}");
        }
        assert!(routes.router.at("/a01/session/x").is_ok());
        assert!(routes.router.at("/a01/homes/x").is_err());
    }
}
