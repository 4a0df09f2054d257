//! The admin wire, for operators and probes: metrics, liveness, readiness, the
//! component. It never carries session data.

mod component;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::error::{Error, Reason};
use crate::http::{answer, server};
use crate::listener::Connections;
use crate::telemetry::Metrics;

const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The wire.
#[derive(Clone)]
pub struct Admin {
    /// What is asked about.
    pub api: Api,
    /// What has been counted.
    pub metrics: Arc<Metrics>,
    /// Set when the process has begun to stop.
    pub stopping: Arc<AtomicBool>,
    /// One component may be on its way at a time.
    pub upload: Arc<Semaphore>,
}

/// Serves `connections` until no more come.
pub async fn serve(connections: Connections, admin: Admin) {
    let handler = move |request| handle(admin.clone(), request);
    server::serve(connections, handler).await;
}

async fn handle(admin: Admin, request: Request<Incoming>) -> answer::Answer {
    let path = request.uri().path();
    if matches!(path, component::PATH | component::ROLLBACK_PATH) {
        return component::handle(&admin.api.logic, &admin.upload, request).await;
    }
    if !matches!(path, "/livez" | "/readyz" | "/metrics") {
        return answer::error(&Error::new(Reason::RouteNotFound, "There is no such path."));
    }
    if request.method() != Method::GET {
        let error = Error::new(Reason::MethodNotAllowed, "The path takes GET only.");
        return answer::method_not_allowed(&error, "GET");
    }
    match path {
        "/livez" => text(TEXT, "alive\n"),
        "/readyz" if admin.stopping.load(Ordering::Relaxed) => {
            answer::error(&Error::new(Reason::Overloaded, "The process is stopping."))
        }
        "/readyz" => match admin.api.health().await {
            Ok(()) => text(TEXT, "ready\n"),
            Err(error) => answer::error(&error),
        },
        _ => {
            admin.api.logic.measure();
            text(PROMETHEUS, admin.metrics.render())
        }
    }
}

fn text(content_type: HeaderValue, body: impl Into<Bytes>) -> answer::Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}
