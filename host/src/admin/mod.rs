//! The admin wire, for operators and probes: metrics, liveness, readiness, the component and the
//! log level. It never carries session data.

mod component;
mod log;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use http::request::Parts;
use http::{HeaderValue, Method, Request};
use hyper::body::{Body as _, Incoming};
use tokio::sync::Semaphore;

use crate::api::Api;
use crate::error::{Error, Reason};
use crate::http::answer::{self, Answer};
use crate::http::body::RequestBody;
use crate::http::browsers::Browsers;
use crate::http::delivery;
use crate::http::target::Refusal;
use crate::network::Network;
use crate::network::exchange::Exchange;
use crate::network::limiter::Limiter;
use crate::network::listener::Connections;
use crate::network::server::{self, Protocol};
use crate::probes::{self, LIVE, READY};
use crate::telemetry::Metrics;

const METRICS: &str = "/metrics";
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
/// The methods of a path that changes nothing.
const READS: &str = "GET, HEAD, OPTIONS";
/// All methods of all paths.
const EVERY_METHOD: &str = "GET, HEAD, POST, PUT, OPTIONS";

/// The size up to which a reply is sent even without memory.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// The state of the wire.
pub struct Admin {
    /// The service.
    pub api: Api,
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// Set once the process is stopping.
    pub stopping: Arc<AtomicBool>,
    /// One permit: only one component is uploaded at a time.
    pub upload: Arc<Semaphore>,
    /// The network connections of users.
    pub network: Arc<Network>,
    /// Admits the connections of users.
    pub limiter: Arc<Limiter>,
    /// The requests that web pages may send.
    pub browsers: Browsers,
}

/// Serves `connections` until no more come.
pub async fn serve(connections: Connections, admin: Admin) {
    let admin = Arc::new(admin);
    let handler = move |request, exchange| handle(Arc::clone(&admin), request, exchange);
    server::serve(connections, Protocol::Both(answer::unparsed), handler).await;
}

async fn handle(admin: Arc<Admin>, request: Request<Incoming>, exchange: Arc<Exchange>) -> Answer {
    let (head, body) = request.into_parts();
    // The memory of users is not charged, so operators get through when it is exhausted. Their
    // requests are small, except for components.
    let mut body = RequestBody::new(&head, body, Arc::clone(&exchange)).read_here();
    let (admitted, answered) = match admin.browsers.admit(&head) {
        Err(error) => (None, Err(error.into())),
        Ok(admitted) => {
            let answered = admin.answer(&head, &mut body).await;
            (Some(admitted), answered.and_then(|answer| held(answer, &exchange)))
        }
    };
    delivery::deliver(&head, &mut body, admitted, answered, true).await
}

/// Charges a reply, or refuses it: a client that reads no replies cannot send requests without
/// end. A small reply, such as that to a probe, is always sent.
fn held(answer: Answer, exchange: &Exchange) -> Result<Answer, Refusal> {
    let bytes = answer.body().size_hint().upper().unwrap_or(0);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    if bytes <= SMALL_BYTES_MAX || exchange.need(bytes).is_ok() {
        return Ok(answer);
    }
    Err(Error::no_memory().into())
}

impl Admin {
    async fn answer(&self, head: &Parts, body: &mut RequestBody) -> Result<Answer, Refusal> {
        let methods = match head.uri.path() {
            LIVE | READY | METRICS => READS,
            log::PATH => log::METHODS,
            component::PATH => component::METHODS,
            component::ROLLBACK_PATH => component::ROLLBACK_METHODS,
            "*" if head.method == Method::OPTIONS => EVERY_METHOD,
            _ => return Err(Error::new(Reason::RouteNotFound, "There is no such path.").into()),
        };
        if head.method == Method::OPTIONS {
            return Ok(answer::options(methods));
        }
        if !methods.split(", ").any(|method| head.method == *method) {
            return Err(Refusal::Method(methods.into()));
        }
        match head.uri.path() {
            log::PATH => Ok(log::handle(head, body).await?),
            component::PATH | component::ROLLBACK_PATH => {
                Ok(component::handle(&self.api.logic, &self.upload, head, body).await?)
            }
            METRICS => Ok(self.metrics()),
            probe => Ok(probes::answer(probe, &self.api, &self.stopping).await),
        }
    }

    fn metrics(&self) -> Answer {
        let Self { api, metrics, limiter, network, .. } = self;
        api.logic.measure();
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.connections.set(gauge(limiter.taken()));
        metrics.body_bytes.set(gauge(network.body_bytes()));
        metrics.connects.set(gauge(api.streams.connected()));
        metrics.subscriptions.set(gauge(api.streams.subscribed()));
        if let Some(used) = api.store.memory() {
            metrics.store_memory(used.bytes, used.bytes_max);
        }
        answer::of_type(PROMETHEUS, metrics.render())
    }
}
