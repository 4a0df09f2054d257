//! HTTP over network connections, for every wire: limits how long a client may take, how old
//! and how idle a connection may get, and ends connections in order. What is asked over them is not known here.

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
use super::listener::{Connections, Seat};
use super::reply::Reply;
use super::stream::{Refuse, Stream};

/// How long a connection may take to send the head of a request, the first or
/// the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Of the head of a request over HTTP/1.
const HTTP1_HEAD_BYTES_MAX: usize = 32 << 10;
/// Of all header fields of a request over HTTP/2, as it counts them.
const HTTP2_HEADERS_BYTES_MAX: u32 = 16 << 10;
const STREAMS_PER_CONNECTION: u32 = 100;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may leave a reply unread.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// How often connections are looked at.
const TICK: Duration = Duration::from_secs(5);
/// How long an idle connection that was asked to end may take to do so.
const FAREWELL: Duration = Duration::from_secs(1);

const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// How a wire speaks.
#[derive(Clone, Copy)]
pub enum Protocol {
    /// HTTP/1.1 or HTTP/2; with the words for what HTTP/1's parser refuses.
    Both(Refuse),
    /// HTTP/2 alone.
    Http2,
}

/// Answers the requests that come over `connections` until no more come, then
/// ends when those in flight are answered.
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
    while let Some((stream, seat)) = connections.next().await {
        let stream = match protocol {
            Protocol::Both(refuse) => stream.refusing(refuse),
            Protocol::Http2 => stream,
        };
        let (builder, handler) = (Arc::clone(&builder), handler.clone());
        let (stopped, served) = (stopped.clone(), served.clone());
        tokio::spawn(async move {
            serve_one(&builder, stream, seat, handler, stopped).await;
            drop(served);
        });
    }
    stop.send_replace(true);
    drop(served);
    // Nothing is ever sent; it ends when the last connection has.
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
    seat: Seat,
    handler: H,
    stopped: watch::Receiver<bool>,
) where
    H: Fn(Request<Incoming>, Arc<Exchange>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let connection = &seat.place.connection;
    let service = service_fn(move |request: Request<Incoming>| {
        let exchange = connection.begin();
        exchange.came(request.headers());
        let multiplexed = request.version() == Version::HTTP_2;
        connection.speaks(multiplexed);
        // It is large, and moved several times until it runs.
        let answer = Box::pin(handler(request, Arc::clone(&exchange)));
        async move {
            let mut answer = answer.await;
            if !multiplexed && exchange.is_last() {
                answer.headers_mut().insert(CONNECTION, CLOSE);
            }
            Ok::<_, Infallible>(answer.map(|body| Reply::new(body, exchange)))
        }
    });
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut signals = signals(connection, stopped);
    let mut leaving = Leaving::No;
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
        let goes_on = match signal {
            // One that waits for the rest of a request would wait for long.
            Signal::Evicted if connection.is_upload() => false,
            Signal::Evicted => {
                leaving = leaving.max(Leaving::Now);
                true
            }
            Signal::Leave => {
                connection.close_soon();
                // A client that speaks HTTP/1 is told with its next answer, or it would
                // lose what it asks just now.
                leaving = leaving.max(match connection.is_multiplexed() {
                    true => Leaving::Now,
                    false => Leaving::Soon,
                });
                true
            }
            Signal::Look => leaving.look(connection, now),
            Signal::Tick => {
                connection.settle();
                let unread = connection.unread_for(now) >= UNREAD_MAX;
                if unread {
                    tracing::debug!("a connection was ended, as a reply was not read");
                }
                !unread && !is_idle(connection, now)
            }
        };
        if !goes_on {
            return;
        }
        if leaving == Leaving::Now {
            leaving = Leaving::Asked;
            http.as_mut().graceful_shutdown();
        }
        match signal {
            Signal::Evicted | Signal::Leave | Signal::Look => {
                signals.push(after(FAREWELL, Signal::Look));
            }
            Signal::Tick => signals.push(after(TICK, Signal::Tick)),
        }
    }
}

/// What a connection has to look at beside what is asked over it.
#[derive(Clone, Copy)]
enum Signal {
    /// Its place is wanted for another.
    Evicted,
    /// The service stops, or the connection is old.
    Leave,
    /// It was asked to end some time ago.
    Look,
    /// Some time has passed.
    Tick,
}

/// Each is looked at only when it has come, and not whenever something is asked.
type Signals<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Signal> + Send + 'a>>>;

fn signals(connection: &Connection, mut stopped: watch::Receiver<bool>) -> Signals<'_> {
    let signals = Signals::new();
    signals.push(Box::pin(async {
        connection.evicted().await;
        Signal::Evicted
    }));
    signals.push(Box::pin(async move {
        // A sender that is gone means the same.
        drop(stopped.wait_for(|stopped| *stopped).await);
        Signal::Leave
    }));
    signals.push(after(connection.network.limits.age_max.mul_f64(jitter()), Signal::Leave));
    signals.push(after(TICK, Signal::Tick));
    signals
}

fn after(time: Duration, signal: Signal) -> Pin<Box<dyn Future<Output = Signal> + Send>> {
    Box::pin(async move {
        tokio::time::sleep(time).await;
        signal
    })
}

/// Whether a connection has been without a request for too long. One that speaks
/// HTTP/1 has ended by itself long before.
fn is_idle(connection: &Connection, now: Instant) -> bool {
    let idle_max = connection.network.limits.idle_max;
    connection.idle_since().is_some_and(|since| now.duration_since(since) >= idle_max)
}

/// How far a connection is on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leaving {
    No,
    /// Its client is told with the next answer.
    Soon,
    /// Its client is to be told now.
    Now,
    /// Its client has been told.
    Asked,
}

impl Leaving {
    /// Looks again at a connection that is on its way to its end; false when it is over, as
    /// its client had its time to say goodbye.
    fn look(&mut self, connection: &Connection, now: Instant) -> bool {
        let rested = connection.idle_since().is_some_and(|since| now - since >= FAREWELL);
        match self {
            Self::Soon if rested => *self = Self::Now,
            Self::Asked => return !rested,
            _ => {}
        }
        true
    }
}

/// A tenth less to a tenth more, so that connections that began together do not end
/// together.
fn jitter() -> f64 {
    0.9 + 0.2 * f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
