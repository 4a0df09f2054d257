//! Calls of booking contexts: the typed methods over gRPC, the paths of a context over REST.

use prost_reflect::{DynamicMessage, Value};
use serde_json::{Map, Value as Json, json};

use super::json::{number, set_field, to_json};
use super::rest::{object, request_of, rest};
use super::{Client, Conditions, Inner, Refusal, Written};
use crate::secrets;

/// The end of the names of a context's typed methods, behind `SetSession`, `GetSession` and
/// `DeleteSession`.
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
    /// Writes fields given as JSON. A document is any JSON value; a scalar has its own type.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn set(&self, context: &str, key: &str, fields: Json) -> Result<Written, Refusal> {
        self.set_if(context, key, fields, Conditions::default()).await
    }

    /// Writes fields, if conditions hold.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When `fields` is not an object.
    pub async fn set_if(
        &self,
        context: &str,
        key: &str,
        fields: Json,
        conditions: Conditions<'_>,
    ) -> Result<Written, Refusal> {
        secrets::remember_text(key);
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

    /// Reads a session: its fields, and `session_key`, `version` and `expires_at`.
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

    /// Deletes a session, if conditions hold.
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
            // Canonical JSON writes a 64-bit number as text.
            request["if_version"] = json!(version.to_string());
        }
        match &self.inner {
            Inner::Rest { http, base } => {
                let path = format!("/v1/{context}/sessions/{key}");
                rest(request_of(http, "DELETE", base, &path, object(request))).await?;
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

    /// Locks a session with the caller's token; for an empty one, the service makes a token.
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

    /// Releases a lock.
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
}
