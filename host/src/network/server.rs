//! HTTP over network connections, for every wire. Limits how long a client may take and how old
//! and idle a connection may get, and closes connections in order. The content of requests is not
//! known here.

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::connection::Connection;
use super::exchange::Exchange;
use super::listener::{Admission, Connections};
use super::reply::ReplyBody;
use super::stream::{Refuse, Stream};

/// How long a client may take to send the head of its first or next request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest head of a request over HTTP/1.
const HTTP1_HEAD_BYTES_MAX: usize = 32 << 10;
/// The largest header list of a request over HTTP/2, as HTTP/2 counts it.
const HTTP2_HEADERS_BYTES_MAX: u32 = 16 << 10;
const STREAMS_PER_CONNECTION: u32 = 100;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may leave a reply unread.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(30);
/// How often a connection is checked for unread replies and idleness.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The grace period of an idle connection that was asked to close.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// The HTTP versions of a wire.
#[derive(Clone, Copy)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2, with the reply to what the HTTP/1 parser refuses.
    Both(Refuse),
    /// HTTP/2 only.
    Http2,
}

/// Serves the requests of `connections` until no more connections come, and returns once the
/// requests in flight are answered.
pub async fn serve<H, F, B>(mut connections: Connections, protocol: Protocol, handler: H)
where
    H: Fn(Request<Incoming>, Arc<Exchange>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let builder = Arc::new(builder(protocol));
    let (stop, stopped) = watch::channel(false);
    let (served, mut all_served) = mpsc::channel::<Infallible>(1);
    while let Some((stream, admission)) = connections.next().await {
        let stream = match protocol {
            Protocol::Both(refuse) => stream.refusing(refuse),
            Protocol::Http2 => stream,
        };
        let (builder, handler) = (Arc::clone(&builder), handler.clone());
        let (stopped, served) = (stopped.clone(), served.clone());
        tokio::spawn(async move {
            serve_one(&builder, stream, admission, handler, stopped).await;
            drop(served);
        });
    }
    stop.send_replace(true);
    drop(served);
    // Nothing is ever sent: this waits until every connection has dropped its sender.
    let _: Option<Infallible> = all_served.recv().await;
}

fn builder(protocol: Protocol) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HTTP1_HEAD_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_header_list_size(HTTP2_HEADERS_BYTES_MAX)
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    match protocol {
        Protocol::Both(_) => builder,
        Protocol::Http2 => builder.http2_only(),
    }
}

async fn serve_one<H, F, B>(
    builder: &auto::Builder<TokioExecutor>,
    stream: Stream,
    admission: Admission,
    handler: H,
    stopped: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>, Arc<Exchange>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = &admission.permit.connection;
    let service = service_fn(move |request: Request<Incoming>| {
        let exchange = Exchange::begin(connection);
        exchange.identify_peer(request.headers());
        let multiplexed = request.version() == Version::HTTP_2;
        connection.set_multiplexed(multiplexed);
        // The future is large, and is moved several times before it runs.
        let reply = Box::pin(handler(request, Arc::clone(&exchange)));
        async move {
            let mut reply = reply.await;
            if !multiplexed && exchange.is_last() {
                reply.headers_mut().insert(CONNECTION, CLOSE);
            }
            Ok::<_, Infallible>(reply.map(|body| ReplyBody::new(body, exchange)))
        }
    });
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut signals = signals(connection, stopped);
    let mut closing = ClosePhase::NotYet;
    loop {
        let signal = tokio::select! {
            biased;
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            Some(signal) = signals.next() => signal,
        };
        if connection.is_cut() {
            tracing::debug!("a connection was ended, as it left too many refusals unread");
            return;
        }
        let now = Instant::now();
        let stays_open = match signal {
            // The rest of an upload may take long, so the connection ends at once.
            Signal::Evicted if connection.is_upload() => false,
            Signal::Evicted => {
                closing = closing.max(ClosePhase::Now);
                true
            }
            Signal::Leave => {
                connection.close_soon();
                // HTTP/1 announces the end with the next reply. Closing earlier would lose a
                // request that is on its way.
                closing = closing.max(match connection.is_multiplexed() {
                    true => ClosePhase::Now,
                    false => ClosePhase::AfterReply,
                });
                true
            }
            Signal::Recheck => closing.recheck(connection, now),
            Signal::Check => {
                connection.release_unused();
                let unread = connection.unread_for(now) >= UNREAD_TIME_MAX;
                if unread {
                    tracing::debug!("a connection was ended, as a reply was not read");
                }
                !unread && !is_idle(connection, now)
            }
        };
        if !stays_open {
            return;
        }
        if closing == ClosePhase::Now {
            closing = ClosePhase::Announced;
            http.as_mut().graceful_shutdown();
        }
        match signal {
            Signal::Evicted | Signal::Leave | Signal::Recheck => {
                signals.push(after(CLOSE_GRACE, Signal::Recheck));
            }
            Signal::Check => signals.push(after(CHECK_INTERVAL, Signal::Check)),
        }
    }
}

/// What a connection reacts to beside its requests.
#[derive(Clone, Copy)]
enum Signal {
    /// Its permit is needed for another connection.
    Evicted,
    /// The service stops, or the connection is old.
    Leave,
    /// The grace period has passed.
    Recheck,
    /// A check is due.
    Check,
}

/// Each future is polled only when it is woken, and not with every request.
type Signals<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Signal> + Send + 'a>>>;

fn signals(connection: &Connection, mut stopped: watch::Receiver<bool>) -> Signals<'_> {
    let signals = Signals::new();
    signals.push(Box::pin(async {
        connection.evicted().await;
        Signal::Evicted
    }));
    signals.push(Box::pin(async move {
        // An error means that the sender is gone, which is a stop too.
        drop(stopped.wait_for(|stopped| *stopped).await);
        Signal::Leave
    }));
    signals.push(after(connection.network.limits.age_max.mul_f64(jitter()), Signal::Leave));
    signals.push(after(CHECK_INTERVAL, Signal::Check));
    signals
}

fn after(time: Duration, signal: Signal) -> Pin<Box<dyn Future<Output = Signal> + Send>> {
    Box::pin(async move {
        tokio::time::sleep(time).await;
        signal
    })
}

/// Whether a connection has had no request for too long. An HTTP/1 connection ends by its head
/// time-out long before.
fn is_idle(connection: &Connection, now: Instant) -> bool {
    let idle_max = connection.network.limits.idle_max;
    connection.idle_since().is_some_and(|since| now.duration_since(since) >= idle_max)
}

/// How far the closing of a connection has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ClosePhase {
    NotYet,
    /// The next reply will announce it.
    AfterReply,
    /// It must be announced now.
    Now,
    /// It was announced to the client.
    Announced,
}

impl ClosePhase {
    /// Moves a connection on that has been idle for the grace period. Returns false once its time
    /// is over.
    fn recheck(&mut self, connection: &Connection, now: Instant) -> bool {
        let was_idle = connection.idle_since().is_some_and(|since| now - since >= CLOSE_GRACE);
        match self {
            Self::AfterReply if was_idle => *self = Self::Now,
            Self::Announced => return !was_idle,
            _ => {}
        }
        true
    }
}

/// A factor from 0.9 to 1.1, so that connections of the same age do not close together.
fn jitter() -> f64 {
    0.9 + 0.2 * f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
