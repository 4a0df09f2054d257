//! The routes of the REST wire, read from the `google.api.http` annotations of
//! the contract: which path and method call which operation. Only what an
//! operation does with a decoded request stands here, one line each.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::Method;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, MethodDescriptor, Value,
};

use crate::api::streams::Replies;
use crate::api::{Api, booking, connections, events, users, viewing};
use crate::error::Error;
use crate::http::sse::{Pieces, Told, pieces};
use crate::proto::session::booking::v1::ListContextsRequest;
use crate::proto::session::connections::v1::GetStatsRequest;
use crate::proto::sessionmanager::EmptyRequest;
use crate::telemetry::{Counts, Operation};

/// A reply message's bytes, some time.
pub type Reply = Pin<Box<dyn Future<Output = Result<Vec<u8>, Error>> + Send>>;

/// Server-sent events, some time.
pub type Going = Pin<Box<dyn Future<Output = Result<Pieces, Error>> + Send>>;

/// What a route does with a request.
pub enum Action {
    /// Decode by the descriptor, call, encode by the descriptor.
    Unary(Box<dyn Fn(Api, Bytes) -> Reply + Send + Sync>),
    /// Decode by the descriptor, call, and go on encoding what comes.
    Stream {
        /// What it calls.
        call: Box<dyn Fn(Api, Bytes) -> Going + Send + Sync>,
        /// The field that the header Last-Event-ID stands for.
        last_event_id: &'static str,
        /// Whether the header counts when both are given: a browser that comes back asks
        /// with the query that it began with.
        header_counts: bool,
    },
    /// Write a booking session from a flat body.
    SetFlat,
    /// Read a booking session into a flat body.
    GetFlat,
    /// Delete a booking session, on a condition.
    DeleteFlat,
}

/// What of a request message is in the body.
pub enum BodyRule {
    /// Nothing.
    Nothing,
    /// Whatever is not in the path.
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
    /// What of the request message is in the body.
    pub body: BodyRule,
    /// The fields that have to be given.
    pub required: Vec<FieldDescriptor>,
    /// The field of the reply that is the whole answer, when it is not the reply
    /// itself.
    pub response_body: Option<FieldDescriptor>,
    /// Whether names are told in lowerCamelCase, as proto3 JSON does by itself, or as
    /// they stand in the contract.
    pub camel_case: bool,
    /// Whether its answers may be compressed: not those that hold a secret, which somebody
    /// who can add to one and see its length could guess.
    pub compressible: bool,
    /// The operation.
    pub method: MethodDescriptor,
    /// `package.Service/Method`, for metrics and logs.
    pub operation: String,
    /// What it does.
    pub action: Action,
}

/// The routes of one path, each with what it counts.
pub type PathRoutes = Vec<(Route, Operation)>;

/// All routes by path.
pub struct Routes {
    /// Finds the routes of a path.
    pub router: matchit::Router<Arc<PathRoutes>>,
}

/// Where the routes of users' sessions are found too.
pub const USERS_ALIAS: &str = "/a01";

/// Whether a path has the alias.
pub fn has_users_alias(template: &str) -> bool {
    template == "/session" || template.starts_with("/session/")
}

impl Routes {
    /// Reads the annotations.
    ///
    /// # Errors
    /// When an annotation cannot be served: two claim one path, or an operation
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
    let operation = format!("{}/{}", method.parent_service().full_name(), method.name());
    Ok(Route {
        required: required(method)?,
        response_body,
        compressible: compressible(&operation),
        camel_case: CAMEL_CASE.contains(&method.parent_file().package_name()),
        http_method,
        template: text(name).unwrap_or_default(),
        body,
        method: method.clone(),
        action: action(&operation)?,
        operation,
    })
}

/// Whether the answers of an operation may be compressed.
pub fn compressible(operation: &str) -> bool {
    const SECRET: [&str; 6] = [
        "session.booking.v1.Booking/Lock",
        "session.connections.v1.Connections/Register",
        "session.connections.v1.Connections/Connect",
        "session.events.v1.Events/Subscribe",
        "com.example.sm.SM/CreateSession",
        "com.example.smdevice.Device/CreateSessionWithDevice",
    ];
    !operation.starts_with("session.users.v1.UserSessions/") && !SECRET.contains(&operation)
}

/// The packages whose clients expect lowerCamelCase.
const CAMEL_CASE: [&str; 2] = ["com.example.sm", "com.example.smdevice"];

/// The fields of the request that are annotated as required.
fn required(method: &MethodDescriptor) -> Result<Vec<FieldDescriptor>> {
    let pool = method.parent_pool();
    let behavior = pool
        .get_extension_by_name("google.api.field_behavior")
        .context("the descriptors hold google.api.field_behavior")?;
    let is_required = |field: &FieldDescriptor| {
        let options = field.options();
        let told = options.get_extension(&behavior);
        told.as_list().is_some_and(|told| told.contains(&Value::EnumNumber(REQUIRED)))
    };
    Ok(method.input().fields().filter(is_required).collect())
}

/// `REQUIRED` of `google.api.FieldBehavior`.
const REQUIRED: i32 = 2;

/// What each annotated operation does.
fn action(operation: &str) -> Result<Action> {
    Ok(match operation {
        "sessionmanager.SessionManager/HealthCheck" => {
            unary(|api, _: EmptyRequest| async move { api.health().await.map(|_| booking::done()) })
        }
        "session.booking.v1.Booking/Set" => Action::SetFlat,
        "session.booking.v1.Booking/Get" => Action::GetFlat,
        "session.booking.v1.Booking/Delete" => Action::DeleteFlat,
        "session.booking.v1.Booking/Lock" => {
            unary(|api, request| async move { booking::lock(&api, request).await })
        }
        "session.booking.v1.Booking/Unlock" => {
            unary(|api, request| async move { booking::unlock(&api, request).await })
        }
        "session.booking.v1.Booking/ListContexts" => {
            unary(|api, _: ListContextsRequest| async move { Ok(booking::contexts(&api)) })
        }
        "session.connections.v1.Connections/Register" => {
            unary(|api, request| async move { connections::register(&api, request).await })
        }
        "session.connections.v1.Connections/Get" => {
            unary(|api, request| async move { connections::get(&api, request).await })
        }
        "session.connections.v1.Connections/Heartbeat" => {
            unary(|api, request| async move { connections::heartbeat(&api, request).await })
        }
        "session.connections.v1.Connections/HeartbeatPod" => {
            unary(|api, request| async move { connections::heartbeat_pod(&api, request).await })
        }
        "session.connections.v1.Connections/Close" => {
            unary(|api, request| async move { connections::close(&api, request).await })
        }
        "session.connections.v1.Connections/ListByUser" => {
            unary(|api, request| async move { connections::list_by_user(&api, request).await })
        }
        "session.connections.v1.Connections/Terminate" => {
            unary(|api, request| async move { connections::terminate(&api, request).await })
        }
        "session.connections.v1.Connections/GetPresence" => {
            unary(|api, request| async move { connections::presence(&api, request).await })
        }
        "session.connections.v1.Connections/ListByPod" => {
            unary(|api, request| async move { connections::list_by_pod(&api, request).await })
        }
        "session.connections.v1.Connections/Drain" => {
            unary(|api, request| async move { connections::drain(&api, request).await })
        }
        "session.connections.v1.Connections/GetStats" => {
            unary(|api, _: GetStatsRequest| async move { connections::stats(&api).await })
        }
        "session.connections.v1.Connections/Connect" => {
            going("session_id", false, |api, request| async move {
                connections::connect(&api, request).await
            })
        }
        "session.events.v1.Events/Subscribe" => {
            going(
                "after",
                true,
                |api, request| async move { events::subscribe(&api, request).await },
            )
        }
        "session.users.v1.UserSessions/Create" => {
            unary(|api, request| async move { users::create(&api, request).await })
        }
        "session.users.v1.UserSessions/Get" => {
            unary(|api, request| async move { users::get(&api, request).await })
        }
        "session.users.v1.UserSessions/List" => {
            unary(|api, request| async move { users::list(&api, request).await })
        }
        "session.users.v1.UserSessions/ListById" => {
            unary(|api, request| async move { users::list_by_id(&api, request).await })
        }
        "session.users.v1.UserSessions/Update" => {
            unary(|api, request| async move { users::update(&api, request).await })
        }
        "session.users.v1.UserSessions/Delete" => {
            unary(|api, request| async move { users::delete(&api, request).await })
        }
        "session.users.v1.UserSessions/DeleteAll" => {
            unary(|api, request| async move { users::delete_all(&api, request).await })
        }
        "com.example.sm.SM/CreateSession" => {
            unary(|api, request| async move { viewing::create(&api, request).await })
        }
        "com.example.sm.SM/HeartBeat" => {
            unary(|api, request| async move { viewing::heartbeat(&api, request).await })
        }
        "com.example.sm.SM/TearDown" => {
            unary(|api, request| async move { viewing::tear_down(&api, request).await })
        }
        "com.example.sm.SM/SetMaxSession" => {
            unary(|api, request| async move { viewing::set_max(&api, request).await })
        }
        "com.example.sm.SM/GetHome" => {
            unary(|api, request| async move { viewing::home(&api, request).await })
        }
        "com.example.smdevice.Device/CreateSessionWithDevice" => {
            unary(|api, request| async move { viewing::create_with_device(&api, request).await })
        }
        "com.example.smdevice.Device/CreateDevice" => {
            unary(|api, request| async move { viewing::create_device(&api, request).await })
        }
        "com.example.smdevice.Device/DeleteDevice" => {
            unary(|api, request| async move { viewing::delete_device(&api, request).await })
        }
        "com.example.smdevice.Device/GetDevice" => {
            unary(|api, request| async move { viewing::device(&api, request).await })
        }
        unserved => bail!("{unserved} is annotated, but nothing serves it"),
    })
}

fn unary<Q, R, F>(call: impl Fn(Api, Q) -> F + Send + Sync + 'static) -> Action
where
    Q: Message + Default,
    R: Message,
    F: Future<Output = Result<R, Error>> + Send + 'static,
{
    Action::Unary(Box::new(move |api, bytes| match Q::decode(bytes) {
        Ok(request) => {
            let call = call(api, request);
            Box::pin(async move { call.await.map(|reply| reply.encode_to_vec()) })
        }
        // The bytes were encoded by the descriptor of Q, so this is a limit of
        // the decoder that the sender ran into.
        Err(error) => {
            let error = Error::invalid("body", error.to_string());
            Box::pin(std::future::ready(Err(error)))
        }
    }))
}

fn going<Q, R, F>(
    last_event_id: &'static str,
    header_counts: bool,
    call: impl Fn(Api, Q) -> F + Send + Sync + 'static,
) -> Action
where
    Q: Message + Default,
    R: Told,
    F: Future<Output = Result<Replies<R>, Error>> + Send + 'static,
{
    let call = move |api, bytes| -> Going {
        match Q::decode(bytes) {
            Ok(request) => {
                let call = call(api, request);
                Box::pin(async move { call.await.map(pieces) })
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
