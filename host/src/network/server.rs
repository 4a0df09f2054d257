//! HTTP over network connections, for every wire: bounds their patience, their age and
//! their idleness, and ends them in order. What is asked over them is not known here.

use std::convert::Infallible;
use std::error::Error;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::StreamExt;

use super::connection::Connection;
use super::exchange::Exchange;
use super::listener::{Connections, Seat};
use super::reply::Reply;
use super::stream::{Refuse, Stream};

/// How long a connection may take to send the head of a request, the first or
/// the next.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
const HEAD_BYTES_MAX: usize = 32 << 10;
const HEADER_BYTES_MAX: u32 = 16 << 10;
const STREAMS_PER_CONNECTION: u32 = 100;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may leave a reply unread.
const UNREAD_MAX: Duration = Duration::from_secs(30);
/// How often connections are looked at.
const TICK: Duration = Duration::from_secs(5);
/// How long an idle connection that was asked to end may take to do so.
const FAREWELL: Duration = Duration::from_secs(1);

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
        .max_buf_size(HEAD_BYTES_MAX)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_header_list_size(HEADER_BYTES_MAX)
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
    mut stopped: watch::Receiver<bool>,
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
        let answer = handler(request, Arc::clone(&exchange));
        async move {
            let answer = answer.await;
            Ok::<_, Infallible>(answer.map(|body| Reply::new(body, exchange)))
        }
    });
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let age = connection.network.limits.age_max.mul_f64(jitter());
    let mut aged = pin!(tokio::time::sleep(age));
    let mut tick = tokio::time::interval_at(Instant::now() + TICK, TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut leaving = Leaving::default();
    loop {
        let asked = tokio::select! {
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = connection.evicted() => true,
            // A sender that is gone means the same.
            _ = stopped.wait_for(|stopped| *stopped), if !leaving.is_asked() => true,
            () = aged.as_mut(), if !leaving.is_asked() => true,
            () = leaving.look_again() => false,
            now = tick.tick() => {
                connection.settle();
                if connection.unread_for(now) >= UNREAD_MAX {
                    tracing::debug!("a connection was ended, as a reply was not read");
                    return;
                }
                is_idle(connection, now)
            }
        };
        if asked && leaving.ask() {
            http.as_mut().graceful_shutdown();
        }
        if leaving.is_over(connection) {
            return;
        }
    }
}

/// Whether a connection has been without a request for too long. One that speaks
/// HTTP/1 has ended by itself long before.
fn is_idle(connection: &Connection, now: Instant) -> bool {
    let idle_max = connection.network.limits.idle_max;
    connection.idle_since().is_some_and(|since| now.duration_since(since) >= idle_max)
}

/// Whether a connection was asked to end, and when to look whether it can.
#[derive(Default)]
struct Leaving {
    next_look: Option<Instant>,
}

impl Leaving {
    fn is_asked(&self) -> bool {
        self.next_look.is_some()
    }

    /// Asks; false when it was asked before.
    fn ask(&mut self) -> bool {
        let first = !self.is_asked();
        self.next_look.get_or_insert(Instant::now() + FAREWELL);
        first
    }

    async fn look_again(&self) {
        match self.next_look {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Whether its client had its time to say goodbye, and nothing is in flight.
    fn is_over(&mut self, connection: &Connection) -> bool {
        let now = Instant::now();
        match self.next_look {
            Some(at) if at <= now => {
                self.next_look = Some(now + FAREWELL);
                connection.idle_since().is_some_and(|since| now - since >= FAREWELL)
            }
            _ => false,
        }
    }
}

/// A tenth less to a tenth more, so that connections that began together do not end
/// together.
fn jitter() -> f64 {
    0.9 + 0.2 * f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
