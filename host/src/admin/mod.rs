//! The admin wire, for operators and probes: metrics, liveness, readiness, the
//! component. It never carries session data.

mod component;
mod log;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::ORIGIN;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::error::{Error, Reason};
use crate::http::{answer, server};
use crate::listener::{Connections, Loads};
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
    /// How many connections of users each worker has.
    pub loads: Loads,
}

/// Serves `connections` until no more come.
pub async fn serve(connections: Connections, admin: Admin) {
    let handler = move |request| handle(admin.clone(), request);
    server::serve(connections, handler).await;
}

async fn handle(admin: Admin, request: Request<Incoming>) -> answer::Answer {
    let path = request.uri().path();
    let changes = matches!(path, component::PATH | component::ROLLBACK_PATH | log::PATH);
    // Browsers name the page that a request comes from. No page is an operator.
    if changes && request.headers().contains_key(ORIGIN) {
        let body = json!({ "message": "Requests of web pages are not accepted." });
        return answer::with_status(StatusCode::FORBIDDEN, body.to_string());
    }
    if path == log::PATH {
        return log::handle(request).await;
    }
    if changes {
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
        "/livez" => answer::of_type(TEXT, "alive\n"),
        "/readyz" if admin.stopping.load(Ordering::Relaxed) => {
            answer::error(&Error::new(Reason::Overloaded, "The process is stopping."))
        }
        "/readyz" => match admin.api.health().await {
            Ok(()) => answer::of_type(TEXT, "ready\n"),
            Err(error) => answer::error(&error),
        },
        _ => {
            let Admin { api, metrics, loads, .. } = &admin;
            api.logic.measure();
            let open = loads.iter().map(|load| load.load(Ordering::Relaxed)).sum();
            let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
            metrics.connections.set(gauge(open));
            metrics.connects.set(gauge(api.streams.connected()));
            metrics.subscriptions.set(gauge(api.streams.subscribed()));
            answer::of_type(PROMETHEUS, admin.metrics.render())
        }
    }
}
