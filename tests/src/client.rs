//! A user of booking sessions, over REST or over gRPC: the same questions, the
//! same answers. The gRPC side builds its messages from the descriptors of the
//! contract, so it calls the typed methods of each context.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::prost_types::Timestamp;
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MethodDescriptor, ReflectMessage, SerializeOptions, Value,
};
use serde_json::{Map, Value as Json, json};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::host::Host;
use crate::secrets;

/// A way to reach the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP and JSON.
    Rest,
    /// gRPC.
    Grpc,
}

/// Why a request has no reply, as both wires tell it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    /// The reason of `google.rpc.ErrorInfo`.
    pub reason: String,
    /// The code of google.rpc.Code.
    pub code: i32,
    /// The HTTP status; 0 over gRPC.
    pub http: u16,
    /// The sentence.
    pub message: String,
    /// The facts.
    pub metadata: BTreeMap<String, String>,
    /// The fields that break a rule.
    pub violations: Vec<String>,
    /// Whether the refusal says when to try again.
    pub retry: bool,
}

/// What a write answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The session's key.
    pub session_key: String,
    /// The version.
    pub version: u64,
}

/// Conditions of a write or a delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conditions<'a> {
    /// Only at this version.
    pub if_version: Option<u64>,
    /// The token of a lock.
    pub lock_token: &'a str,
}

/// A user.
#[derive(Clone)]
pub struct Client {
    inner: Inner,
}

#[derive(Clone)]
enum Inner {
    Rest { http: reqwest::Client, base: String },
    Grpc(GrpcClient),
}

/// The typed methods of a context: what follows `SetSession`, `GetSession` and
/// `DeleteSession` in their names.
fn suffix(context: &str) -> &'static str {
    match context {
        "pre-order" => "",
        "ez-pay" => "EZPay",
        "cititrans" => "Cititrans",
        "reschedule" => "Reschedule",
        "rent-revamp" => "RentRevamp",
        other => panic!("no typed methods for {other}"),
    }
}

impl Client {
    /// A user of a server.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn connect(host: &Host, wire: Wire) -> Self {
        let inner = match wire {
            Wire::Rest => {
                let http = crate::http();
                Inner::Rest { http, base: host.url("rest", "") }
            }
            Wire::Grpc => Inner::Grpc(GrpcClient::connect(host.address("grpc")).await),
        };
        Self { inner }
    }

    /// The same user, whose requests all have this idempotency key.
    ///
    /// # Panics
    /// When the key is no header.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        let inner = match &self.inner {
            Inner::Rest { base, .. } => {
                Inner::Rest { http: crate::http_with_key(key), base: base.clone() }
            }
            Inner::Grpc(grpc) => Inner::Grpc(GrpcClient {
                key: Some(key.parse().expect("a header")),
                ..grpc.clone()
            }),
        };
        Self { inner }
    }

    /// Writes fields given as JSON; a document is any value, a scalar of its
    /// own type.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn set(&self, context: &str, key: &str, fields: Json) -> Result<Written, Refusal> {
        self.set_if(context, key, fields, Conditions::default()).await
    }

    /// Writes fields under conditions.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When `fields` is no object.
    pub async fn set_if(
        &self,
        context: &str,
        key: &str,
        fields: Json,
        conditions: Conditions<'_>,
    ) -> Result<Written, Refusal> {
        secrets::note_text(key);
        let Json::Object(mut fields) = fields else { panic!("fields are an object") };
        let reply = match &self.inner {
            Inner::Rest { http, base } => {
                if let Some(version) = conditions.if_version {
                    fields.insert("if_version".into(), json!(version));
                }
                if !conditions.lock_token.is_empty() {
                    fields.insert("lock_token".into(), json!(conditions.lock_token));
                }
                let request = if key.is_empty() {
                    http.post(format!("{base}/v1/{context}/sessions"))
                } else {
                    http.put(format!("{base}/v1/{context}/sessions/{key}"))
                };
                rest(request.json(&fields)).await?
            }
            Inner::Grpc(grpc) => {
                let method = grpc.method(&format!("SetSession{}", suffix(context)));
                let mut message = DynamicMessage::new(method.input());
                message.set_field_by_name("session_key", Value::String(key.into()));
                if let Some(version) = conditions.if_version {
                    message.set_field_by_name("if_version", Value::U64(version));
                }
                let token = conditions.lock_token.into();
                message.set_field_by_name("lock_token", Value::String(token));
                for (name, value) in &fields {
                    set_field(&mut message, name, value);
                }
                to_json(&grpc.call(&method, message).await?)
            }
        };
        Ok(Written {
            session_key: reply["session_key"].as_str().unwrap_or_default().into(),
            version: number(&reply["version"]),
        })
    }

    /// Reads a session: its fields, beside `session_key`, `version` and
    /// `expires_at`.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn get(&self, context: &str, key: &str) -> Result<Map<String, Json>, Refusal> {
        let reply = match &self.inner {
            Inner::Rest { http, base } => {
                rest(http.get(format!("{base}/v1/{context}/sessions/{key}"))).await?
            }
            Inner::Grpc(grpc) => {
                let method = format!("GetSession{}", suffix(context));
                to_json(&grpc.named(&method, &[("session_key", key)]).await?)
            }
        };
        let Json::Object(session) = reply else { panic!("a session is an object") };
        Ok(session)
    }

    /// Deletes a session.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn delete(&self, context: &str, key: &str) -> Result<(), Refusal> {
        match &self.inner {
            Inner::Rest { http, base } => {
                rest(http.delete(format!("{base}/v1/{context}/sessions/{key}"))).await?;
            }
            Inner::Grpc(grpc) => {
                let method = format!("DeleteSession{}", suffix(context));
                grpc.named(&method, &[("session_key", key)]).await?;
            }
        }
        Ok(())
    }

    /// Deletes a session under conditions.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn delete_if(
        &self,
        context: &str,
        key: &str,
        conditions: Conditions<'_>,
    ) -> Result<(), Refusal> {
        let mut request = json!({ "lock_token": conditions.lock_token });
        if let Some(version) = conditions.if_version {
            // A 64-bit number is text in canonical JSON.
            request["if_version"] = json!(version.to_string());
        }
        match &self.inner {
            Inner::Rest { http, base } => {
                let path = format!("/v1/{context}/sessions/{key}");
                rest(asking(http, "DELETE", base, &path, object(request))).await?;
            }
            Inner::Grpc(grpc) => {
                request["context"] = context.into();
                request["session_key"] = key.into();
                grpc.json("session.booking.v1.Booking/Delete", request).await?;
            }
        }
        Ok(())
    }

    /// Locks a session and returns the token.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn lock(&self, context: &str, key: &str) -> Result<String, Refusal> {
        let grant = self.lock_with(context, key, "").await?;
        Ok(grant["lock_token"].as_str().unwrap_or_default().into())
    }

    /// Locks a session with a token of the caller's; without one the service makes it.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn lock_with(&self, context: &str, key: &str, token: &str) -> Result<Json, Refusal> {
        match &self.inner {
            Inner::Rest { http, base } => {
                let mut request = http.post(format!("{base}/v1/{context}/sessions/{key}/lock"));
                if !token.is_empty() {
                    request = request.json(&json!({ "lock_token": token }));
                }
                rest(request).await
            }
            Inner::Grpc(grpc) => {
                let names = [("context", context), ("session_key", key), ("lock_token", token)];
                Ok(to_json(&grpc.named("Lock", &names).await?))
            }
        }
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn unlock(&self, context: &str, key: &str, token: &str) -> Result<(), Refusal> {
        match &self.inner {
            Inner::Rest { http, base } => {
                let url = format!("{base}/v1/{context}/sessions/{key}/lock?lock_token={token}");
                rest(http.delete(url)).await?;
            }
            Inner::Grpc(grpc) => {
                let names = [("context", context), ("session_key", key), ("lock_token", token)];
                grpc.named("Unlock", &names).await?;
            }
        }
        Ok(())
    }

    /// Calls an operation about homes and devices, with its request in canonical JSON.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When there is no such operation.
    pub async fn viewing(&self, operation: &str, request: Json) -> Result<Json, Refusal> {
        let (http, base) = match &self.inner {
            Inner::Grpc(grpc) => return grpc.json(operation, request).await,
            Inner::Rest { http, base } => (http, base),
        };
        let (verb, path) = match operation {
            "CreateSession" => ("POST", "/home/{accountId}/sessions/create"),
            "HeartBeat" => ("POST", "/home/{accountId}/sessions/heartbeat"),
            "TearDown" => ("POST", "/home/{accountId}/sessions/teardown"),
            "SetMaxSession" => ("POST", "/home/{accountId}/sessions/setMaxSession"),
            "GetHome" => ("GET", "/homes/{accountId}"),
            "CreateSessionWithDevice" => ("POST", "/device/{deviceId}/sessions/create"),
            "CreateDevice" => ("POST", "/device/{deviceId}/create"),
            "DeleteDevice" => ("POST", "/device/{deviceId}/delete"),
            "GetDevice" => ("GET", "/devices/{deviceId}"),
            other => panic!("no operation {other}"),
        };
        rest(asking(http, verb, base, path, object(request))).await
    }

    /// Calls an operation about users' sessions, with its request in JSON.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When there is no such operation.
    pub async fn users(&self, operation: &str, request: Json) -> Result<Json, Refusal> {
        let (http, base) = match &self.inner {
            Inner::Grpc(grpc) => {
                let method = format!("session.users.v1.UserSessions/{operation}");
                return grpc.json_in(&method, request, Style::AsDeclared).await;
            }
            Inner::Rest { http, base } => (http, base),
        };
        let mut request = object(request);
        let mut attributes = request.remove("session_attributes").map(object);
        // What a message names in a list is null in JSON.
        if let Some(Json::Array(names)) = request.remove("clear") {
            let names = names.into_iter().filter_map(|name| Some(name.as_str()?.to_owned()));
            attributes.get_or_insert_default().extend(names.map(|name| (name, Json::Null)));
        }
        let with_attributes = || {
            let mut whole = request.clone();
            whole.extend(attributes.unwrap_or_default());
            whole
        };
        let ask = |verb, path, request| rest(asking(http, verb, base, path, request));
        match operation {
            "Create" => ask("POST", "/session", with_attributes()).await,
            "Get" => ask("GET", "/session/{session_id}", request).await,
            "List" => ask("GET", "/session", request).await,
            "ListById" => {
                let sessions = ask("GET", "/session/user/{user_id}", request).await?;
                Ok(json!({ "sessions": sessions }))
            }
            "Update" => {
                let session = ask("PATCH", "/session/{session_id}", with_attributes()).await?;
                Ok(json!({ "session": session }))
            }
            "Delete" => ask("DELETE", "/session/{session_id}", request).await,
            "DeleteAll" => ask("DELETE", "/session", request).await,
            other => panic!("no operation {other}"),
        }
    }

    /// Calls an operation about connections, with its request in JSON.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When there is no such operation.
    pub async fn connections(&self, operation: &str, request: Json) -> Result<Json, Refusal> {
        let (http, base) = match &self.inner {
            Inner::Grpc(grpc) => {
                let method = format!("session.connections.v1.Connections/{operation}");
                return grpc.json_in(&method, request, Style::AsDeclared).await;
            }
            Inner::Rest { http, base } => (http, base),
        };
        let (verb, path) = match operation {
            "Register" => ("POST", "/v1/connections"),
            "Get" => ("GET", "/v1/connections/{session_id}"),
            "Heartbeat" => ("POST", "/v1/connections/{session_id}/heartbeat"),
            "HeartbeatPod" => ("POST", "/v1/pods/{pod_id}/heartbeat"),
            "Close" => ("DELETE", "/v1/connections/{session_id}"),
            "ListByUser" => ("GET", "/v1/users/{user_id}/connections"),
            "Terminate" => ("DELETE", "/v1/users/{user_id}/connections"),
            "GetPresence" => ("GET", "/v1/users/{user_id}/presence"),
            "ListByPod" => ("GET", "/v1/pods/{pod_id}/connections"),
            "Drain" => ("DELETE", "/v1/pods/{pod_id}/connections"),
            "GetStats" => ("GET", "/v1/connections/stats"),
            other => panic!("no operation {other}"),
        };
        rest(asking(http, verb, base, path, object(request))).await
    }

    /// Opens a stream of `service/method`, at `path` over REST.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the request is not one of the method.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        request: Json,
    ) -> Result<EventStream, Refusal> {
        match &self.inner {
            Inner::Rest { http, base } => {
                EventStream::get(asking(http, "GET", base, path, object(request))).await
            }
            Inner::Grpc(grpc) => {
                let method = grpc.method(method);
                let request =
                    DynamicMessage::deserialize(method.input(), request).expect("a request");
                let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
                let stream = grpc.stream(&path, request.encode_to_vec().into()).await;
                let stream = stream.map_err(|status| refusal_of(&status))?;
                Ok(EventStream::Grpc { stream, method })
            }
        }
    }

    /// Connects a user.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn connect_user(&self, request: Json) -> Result<EventStream, Refusal> {
        self.open("session.connections.v1.Connections/Connect", "/v1/connect", request).await
    }

    /// Subscribes to events.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn subscribe(&self, request: Json) -> Result<EventStream, Refusal> {
        self.open("session.events.v1.Events/Subscribe", "/v1/events", request).await
    }

    /// Asks whether the service is well.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn health(&self) -> Result<Json, Refusal> {
        match &self.inner {
            Inner::Rest { http, base } => rest(http.get(format!("{base}/health"))).await,
            Inner::Grpc(grpc) => Ok(to_json(&grpc.named("HealthCheck", &[]).await?)),
        }
    }
}

fn object(request: Json) -> Map<String, Json> {
    secrets::note(&request);
    let Json::Object(request) = request else { panic!("a request is an object") };
    request
}

/// A request: what the path has not is in the query, or in the body of a POST or a PATCH.
fn asking(
    http: &reqwest::Client,
    verb: &str,
    base: &str,
    path: &str,
    mut request: Map<String, Json>,
) -> reqwest::RequestBuilder {
    let mut url = reqwest::Url::parse(base).expect("an address");
    let segments = path.split('/').skip(1).map(|segment| {
        match segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}')) {
            Some(name) => {
                request.remove(name).unwrap_or_default().as_str().unwrap_or_default().into()
            }
            None => segment.to_owned(),
        }
    });
    url.path_segments_mut().expect("a URL with a path").extend(segments);
    let verb: reqwest::Method = verb.parse().expect("a verb");
    if matches!(verb, reqwest::Method::POST | reqwest::Method::PATCH) {
        return http.request(verb, url).json(&request);
    }
    for (name, value) in request.iter().filter(|(_, value)| !value.is_null()) {
        let items = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for item in items {
            let text = item.as_str().map_or_else(|| item.to_string(), Into::into);
            url.query_pairs_mut().append_pair(name, &text);
        }
    }
    http.request(verb, url)
}

/// What a stream has told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// What it is called.
    pub name: String,
    /// What to come back with; empty over gRPC, and when there is nothing.
    pub id: String,
    /// The message.
    pub data: Json,
}

/// Replies that go on.
pub enum EventStream {
    /// Server-sent events.
    Rest {
        /// The answer.
        response: reqwest::Response,
        /// What has come of it and was not told.
        text: String,
    },
    /// A stream of messages.
    Grpc {
        /// The stream.
        stream: Streaming<Bytes>,
        /// What it is of.
        method: MethodDescriptor,
    },
}

impl EventStream {
    /// Reads server-sent events.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the answer is something else.
    pub async fn get(request: reqwest::RequestBuilder) -> Result<Self, Refusal> {
        let response = request.send().await.map_err(|error| Refusal {
            message: format!("no answer: {error}"),
            ..Refusal::default()
        })?;
        let status = response.status();
        if !status.is_success() {
            let body = response.json().await.expect("a refusal is JSON");
            return Err(refusal(status.as_u16(), &body));
        }
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Ok(Self::Rest { response, text: String::new() })
    }

    /// What is told next; `None` when nothing more is.
    ///
    /// # Panics
    /// When it does not make sense, or nothing comes for half a minute.
    pub async fn next(&mut self) -> Option<Told> {
        let next = tokio::time::timeout(std::time::Duration::from_secs(30), self.any());
        next.await.expect("something is told")
    }

    /// What is told next, however long it takes; `None` when nothing more is.
    ///
    /// # Panics
    /// When it does not make sense.
    pub async fn any(&mut self) -> Option<Told> {
        match self {
            Self::Rest { response, text } => loop {
                if let Some((event, rest)) = text.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    *text = rest;
                    if let Some(told) = server_sent(&event) {
                        return Some(told);
                    }
                    continue;
                }
                let chunk = response.chunk().await.ok().flatten()?;
                *text += std::str::from_utf8(&chunk).expect("events are text");
            },
            Self::Grpc { stream, method } => {
                let bytes = stream.message().await.ok().flatten()?;
                let reply = DynamicMessage::decode(method.output(), bytes).expect("a reply");
                let (field, value) = reply.fields().next().expect("a reply says something");
                let Value::Message(message) = value else { panic!("a member is a message") };
                let data = Style::AsDeclared.write(message);
                let name = data["type"].as_str().unwrap_or(field.name()).to_owned();
                if name == "position" {
                    return Box::pin(self.any()).await;
                }
                Some(Told { name, id: String::new(), data })
            }
        }
    }

    /// The next of this name; those of other names are passed over.
    ///
    /// # Panics
    /// When the stream ends before.
    pub async fn next_named(&mut self, name: &str) -> Told {
        loop {
            let told = self.next().await.unwrap_or_else(|| panic!("no {name} is told"));
            if told.name == name {
                return told;
            }
        }
    }
}

/// An event from its lines; `None` for a comment.
fn server_sent(event: &str) -> Option<Told> {
    let line = |name: &str| {
        let mut lines = event.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
    };
    let (name, id, data) = (line("event").to_owned(), line("id").to_owned(), line("data"));
    (!name.is_empty()).then(|| Told { name, id, data: data.parse().expect("data is JSON") })
}

/// Sends a request and reads its reply or refusal.
///
/// # Errors
/// The service's refusal; one without a reason when there is no whole answer.
///
/// # Panics
/// When the service does not answer in JSON.
pub async fn rest(request: reqwest::RequestBuilder) -> Result<Json, Refusal> {
    let unanswered = |error: reqwest::Error| Refusal {
        message: format!("no answer: {error}"),
        ..Refusal::default()
    };
    let response = request.send().await.map_err(unanswered)?;
    let status = response.status();
    let text = response.text().await.map_err(unanswered)?;
    let body: Json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    secrets::note(&body);
    if status.is_success() { Ok(body) } else { Err(refusal(status.as_u16(), &body)) }
}

fn refusal(http: u16, body: &Json) -> Refusal {
    let detail = |name: &str| {
        let details = body["details"].as_array().into_iter().flatten();
        let wanted = format!("type.googleapis.com/google.rpc.{name}");
        details.into_iter().find(|detail| detail["@type"] == wanted).cloned().unwrap_or_default()
    };
    let info = detail("ErrorInfo");
    assert_eq!(info["domain"], "session-manager", "{body}");
    let text = |value: &Json| value.as_str().unwrap_or_default().to_owned();
    let metadata = info["metadata"].as_object().into_iter().flatten();
    let bad = detail("BadRequest");
    let violations = bad["fieldViolations"].as_array().into_iter().flatten();
    Refusal {
        reason: text(&info["reason"]),
        code: body["code"].as_i64().and_then(|code| code.try_into().ok()).unwrap_or_default(),
        http,
        message: text(&body["message"]),
        metadata: metadata.map(|(name, value)| (name.clone(), text(value))).collect(),
        violations: violations.map(|violation| text(&violation["field"])).collect(),
        retry: detail("RetryInfo")["retryDelay"].is_string(),
    }
}

/// The refusal that a gRPC status tells.
pub fn refusal_of(status: &Status) -> Refusal {
    let details = status.get_error_details();
    let info = details.error_info();
    let bad = details.bad_request();
    Refusal {
        reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
        code: status.code() as i32,
        http: 0,
        message: status.message().into(),
        metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
        violations: bad
            .map(|bad| bad.field_violations.iter().map(|v| v.field.clone()).collect())
            .unwrap_or_default(),
        retry: details.retry_info().is_some(),
    }
}

/// A 64-bit number in proto3 JSON.
pub fn number(value: &Json) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

/// An instant in proto3 JSON, in seconds and nanoseconds.
///
/// # Panics
/// When it is none.
pub fn instant(value: &Json) -> (i64, i32) {
    let instant: Timestamp = value.as_str().expect("text").parse().expect("an instant");
    (instant.seconds, instant.nanos)
}

/// How a reply is written in JSON.
#[derive(Clone, Copy, PartialEq)]
pub enum Style {
    /// Names in lowerCamelCase, unset fields with their default.
    Whole,
    /// Names as they are declared, unset fields with their default.
    AsDeclared,
    /// Names in lowerCamelCase, unset fields left out, as most programs print it.
    Brief,
}

impl Style {
    fn write(self, message: &DynamicMessage) -> Json {
        let options = SerializeOptions::new()
            .skip_default_fields(self == Self::Brief)
            .use_proto_field_name(self == Self::AsDeclared);
        let json = message.serialize_with_options(serde_json::value::Serializer, &options);
        json.expect("a message is JSON")
    }
}

/// A gRPC client that knows the contract by its descriptors.
#[derive(Clone)]
pub struct GrpcClient {
    channel: Channel,
    pool: DescriptorPool,
    /// The idempotency key of its requests.
    key: Option<MetadataValue<Ascii>>,
}

impl GrpcClient {
    /// Connects.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn connect(address: &str) -> Self {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        let pool = DescriptorPool::decode(session_manager::proto::DESCRIPTORS);
        Self {
            channel: endpoint.connect().await.expect("the gRPC port answers"),
            pool: pool.expect("descriptors"),
            key: None,
        }
    }

    /// The method of this name, with its service before a `/` or in whichever.
    ///
    /// # Panics
    /// When there is none.
    pub fn method(&self, name: &str) -> MethodDescriptor {
        let (service, name) = name.split_once('/').unwrap_or(("", name));
        let services = self.pool.services();
        let services = services.filter(|s| service.is_empty() || s.full_name() == service);
        let mut methods = services.flat_map(|s| s.methods().collect::<Vec<_>>());
        methods.find(|method| method.name() == name).expect(name)
    }

    /// Calls a method with some text fields.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn named(
        &self,
        method: &str,
        fields: &[(&str, &str)],
    ) -> Result<DynamicMessage, Refusal> {
        let method = self.method(method);
        let mut message = DynamicMessage::new(method.input());
        for (name, value) in fields {
            message.set_field_by_name(name, Value::String((*value).into()));
        }
        self.call(&method, message).await
    }

    /// Calls a method with its request and reply in canonical JSON.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the request is not one of the method.
    pub async fn json(&self, method: &str, request: Json) -> Result<Json, Refusal> {
        self.json_in(method, request, Style::Whole).await
    }

    /// Calls a method with its request in canonical JSON and its reply in some style.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the request is not one of the method.
    pub async fn json_in(
        &self,
        method: &str,
        request: Json,
        style: Style,
    ) -> Result<Json, Refusal> {
        secrets::note(&request);
        let method = self.method(method);
        let request = DynamicMessage::deserialize(method.input(), request).expect("a request");
        let reply = style.write(&self.call(&method, request).await?);
        secrets::note(&reply);
        Ok(reply)
    }

    /// Calls a method.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn call(
        &self,
        method: &MethodDescriptor,
        message: DynamicMessage,
    ) -> Result<DynamicMessage, Refusal> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let reply = self.raw(&path, message.encode_to_vec().into()).await;
        let reply = reply.map_err(|status| refusal_of(&status))?;
        Ok(DynamicMessage::decode(method.output(), reply).expect("the reply is of its type"))
    }

    /// Calls a path with the bytes of a message.
    ///
    /// # Errors
    /// The status.
    ///
    /// # Panics
    /// When the channel is gone.
    pub async fn raw(&self, path: &str, message: Bytes) -> Result<Bytes, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        grpc.ready().await.map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        let path = PathAndQuery::try_from(path).expect("a path");
        let mut request = tonic::Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("idempotency-key", key.clone());
        }
        let reply = grpc.unary(request, path, Raw).await?;
        Ok(reply.into_inner())
    }
}

impl GrpcClient {
    /// Opens a stream of replies.
    ///
    /// # Errors
    /// The status.
    ///
    /// # Panics
    /// When `path` is none.
    pub async fn stream(&self, path: &str, message: Bytes) -> Result<Streaming<Bytes>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        let path = PathAndQuery::try_from(path).expect("a path");
        let reply = grpc.server_streaming(tonic::Request::new(message), path, Raw).await?;
        Ok(reply.into_inner())
    }
}

/// Messages as the bytes they are.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length)))
    }
}

/// Sets a field of a context's message from JSON.
fn set_field(message: &mut DynamicMessage, name: &str, value: &Json) {
    let field = message.descriptor().get_field_by_name(name).unwrap_or_else(|| panic!("{name}"));
    let value = match field.kind() {
        Kind::Bytes => Value::Bytes(value.to_string().into()),
        Kind::String => Value::String(value.as_str().expect("text").into()),
        Kind::Bool => Value::Bool(value.as_bool().expect("a boolean")),
        Kind::Double => Value::F64(value.as_f64().expect("a number")),
        kind => panic!("{name} is {kind:?}"),
    };
    message.set_field(&field, value);
}

/// A message as the flat JSON that REST answers: documents as JSON values,
/// unset scalars with their default.
fn to_json(message: &DynamicMessage) -> Json {
    let mut json = Map::new();
    for field in message.descriptor().fields() {
        let ours = matches!(field.name(), "if_version" | "lock_token" | "expires_at" | "version");
        let document = field.kind() == Kind::Bytes;
        if (ours || document) && !message.has_field(&field) {
            continue;
        }
        let value = match message.get_field(&field).as_ref() {
            Value::Bytes(bytes) => serde_json::from_slice(bytes).expect("a test writes JSON"),
            Value::String(text) => json!(text),
            Value::Bool(boolean) => json!(boolean),
            Value::F64(number) => json!(number),
            Value::U64(number) => json!(number.to_string()),
            _ => continue,
        };
        json.insert(field.name().into(), value);
    }
    let json = Json::Object(json);
    secrets::note(&json);
    json
}
