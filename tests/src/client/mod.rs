//! A user of the service, over REST or over gRPC: the same calls, the same replies. The
//! gRPC side builds its messages from the descriptors of the contract, so it calls the
//! typed methods of each booking context.

mod booking;
mod grpc;
mod json;
mod operations;
mod rest;
mod stream;

use std::collections::BTreeMap;

use serde_json::Value as Json;

pub use self::grpc::{GrpcClient, refusal_of};
use self::json::to_json;
pub use self::json::{Style, instant, number};
pub use self::rest::rest;
pub use self::stream::{EventStream, StreamEvent};
use crate::host::Host;

/// A way to reach the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP and JSON.
    Rest,
    /// gRPC.
    Grpc,
}

/// Why a request has no reply, as both wires report it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Refusal {
    /// The reason of `google.rpc.ErrorInfo`.
    pub reason: String,
    /// The code of google.rpc.Code.
    pub code: i32,
    /// The HTTP status; 0 over gRPC.
    pub http: u16,
    /// The message.
    pub message: String,
    /// The facts of `google.rpc.ErrorInfo`.
    pub metadata: BTreeMap<String, String>,
    /// The fields that break a rule.
    pub violations: Vec<String>,
    /// Whether the refusal says when to try again.
    pub retry: bool,
}

/// The reply to a write.
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

    /// The same user; every request carries this idempotency key.
    ///
    /// # Panics
    /// When the key is not a valid header value.
    #[must_use]
    pub fn with_key(&self, key: &str) -> Self {
        let inner = match &self.inner {
            Inner::Rest { base, .. } => {
                Inner::Rest { http: crate::http_with_key(key), base: base.clone() }
            }
            Inner::Grpc(grpc) => Inner::Grpc(grpc.with_key(key)),
        };
        Self { inner }
    }

    /// Calls the health check.
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
