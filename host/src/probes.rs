//! Probes on their own port: whether the process is alive, and whether it is ready. Open
//! connections cannot delay a probe, as a new one replaces the oldest.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use http::{HeaderValue, Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::api::Api;
use crate::error::{Error, Reason};
use crate::http::answer::{self, Answer};
use crate::http::browsers;
use crate::network::Network;
use crate::network::connection::Connection;
use crate::network::exchange::Exchange;
use crate::network::reply::ReplyBody;
use crate::network::stream::Stream;

/// The path of the probe whether the process is alive.
pub const LIVE: &str = "/livez";
/// The path of the probe whether the process is ready.
pub const READY: &str = "/readyz";

/// The most probes at a time.
const PROBES_MAX: usize = 64;
const HEAD_BYTES_MAX: usize = 8 << 10;
/// The time limit of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_millis(50);
const METHODS: &str = "GET, HEAD, OPTIONS";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers the probes on a port until the service stops.
///
/// # Errors
/// None: a failed probe concerns its client only.
pub async fn serve(
    listener: TcpListener,
    network: Arc<Network>,
    api: Api,
    stopping: Arc<AtomicBool>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut probes: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the sender is gone, which is a stop too.
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
        };
        let Ok((stream, address)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        probes.retain(|probe| !probe.is_finished());
        if probes.len() >= PROBES_MAX
            && let Some(oldest) = probes.pop_front()
        {
            oldest.abort();
        }
        let connection = Connection::new(&network, address.ip());
        let answering = answer_one(stream, connection, api.clone(), Arc::clone(&stopping));
        probes.push_back(tokio::spawn(answering).abort_handle());
    }
}

/// Answers one request, and ends the connection.
async fn answer_one(
    stream: TcpStream,
    connection: Arc<Connection>,
    api: Api,
    stopping: Arc<AtomicBool>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let (api, stopping) = (api.clone(), Arc::clone(&stopping));
        let exchange = Exchange::begin(&connection);
        async move {
            let (head, _) = request.into_parts();
            let answer = match browsers::named_host(&head, true) {
                Err(error) => answer::error(&error),
                Ok(_) => match (head.uri.path(), &head.method) {
                    (LIVE | READY | "*", &Method::OPTIONS) => answer::options(METHODS),
                    (path @ (LIVE | READY), &(Method::GET | Method::HEAD)) => {
                        answer(path, &api, &stopping).await
                    }
                    (LIVE | READY, _) => answer::method_not_allowed(METHODS),
                    _ => {
                        answer::error(&Error::new(Reason::RouteNotFound, "There is no such path."))
                    }
                },
            };
            let answer = answer::peeked(&head, answer);
            Ok::<_, Infallible>(answer.map(|body| ReplyBody::new(body, exchange)))
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(PROBE_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false);
    let stream = Stream::new(stream, Arc::clone(&connection)).refusing(answer::unparsed);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    // The client of a failed probe tries again.
    drop(tokio::time::timeout(PROBE_TIMEOUT, serving).await);
}

/// The answer to a probe.
pub async fn answer(path: &str, api: &Api, stopping: &AtomicBool) -> Answer {
    if path == LIVE {
        return answer::of_type(TEXT, "alive\n");
    }
    if stopping.load(Ordering::Relaxed) {
        return answer::error(&Error::new(Reason::Overloaded, "The process is stopping."));
    }
    match api.health().await {
        Ok(_) => answer::of_type(TEXT, "ready\n"),
        Err(error) => answer::error(&error),
    }
}
