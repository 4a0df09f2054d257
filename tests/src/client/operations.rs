//! Calls of operations with a request in JSON, and the paths that they have over REST.

use serde_json::{Value as Json, json};

use super::rest::{object, request_of, rest};
use super::{Client, Inner, Refusal, Style};

impl Client {
    /// Calls an operation on viewing sessions or devices, with its request in canonical JSON.
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
        rest(request_of(http, verb, base, path, object(request))).await
    }

    /// Calls an operation on users' sessions, with its request in JSON.
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
        // A field that a message lists in `clear` is a null member in JSON.
        if let Some(Json::Array(names)) = request.remove("clear") {
            let names = names.into_iter().filter_map(|name| Some(name.as_str()?.to_owned()));
            attributes.get_or_insert_default().extend(names.map(|name| (name, Json::Null)));
        }
        let with_attributes = || {
            let mut whole = request.clone();
            whole.extend(attributes.unwrap_or_default());
            whole
        };
        let ask = |verb, path, request| rest(request_of(http, verb, base, path, request));
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

    /// Calls an operation on connections, with its request in JSON.
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
        rest(request_of(http, verb, base, path, object(request))).await
    }
}
