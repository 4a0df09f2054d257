//! Client of the Session Manager.
//!
//! ```no_run
//! use session_client::Client;
//! use session_client::proto::sessionmanager::{GetSessionRequest, SessionData};
//!
//! # async fn example() -> Result<(), session_client::Error> {
//! let client = Client::builder().host("sessionmanager-service").port(6027).build()?;
//!
//! client
//!     .set_session(SessionData {
//!         session_key: "unique-session-key".into(),
//!         fleet_list_request: Some(br#"{"area": "Jakarta"}"#.as_slice().into()),
//!         ..SessionData::default()
//!     })
//!     .await?;
//!
//! let session =
//!     client.get_session(GetSessionRequest { session_key: "unique-session-key".into() }).await?;
//! # drop(session);
//! # Ok(())
//! # }
//! ```
//!
//! A client is cheap to clone. It connects when it is first used, and reconnects whenever the
//! connection is lost. A call ends within its time limit. Within it the call is retried, with
//! growing delays, if that is safe: always when the service was too busy to begin it. A call that
//! may be repeated is also retried when the store did not answer or the connection broke, since
//! it may have been applied or not.

mod calls;
mod error;
pub mod proto;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

pub use calls::{Booking, Connections, Devices, Events, Users, Viewing};
pub use error::{Error, Reason, Violation};

/// The largest message, in bytes. A session has at most 4 MiB, but lists of sessions may be
/// longer.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection with calls in flight may be silent before it is probed.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to answer a probe.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The delay before the first retry; each later one is twice as long. Up to half of a delay is
/// jitter.
const RETRY_DELAY: Duration = Duration::from_millis(50);
/// The longest delay before a retry, without a suggestion of the service.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

type Propagate = Arc<dyn Fn(&mut MetadataMap) + Send + Sync>;

/// A client of one service.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    timeout: Duration,
    attempts: u32,
    propagate: Option<Propagate>,
}

/// The settings of a client.
#[must_use]
pub struct Builder {
    host: String,
    port: u16,
    timeout: Duration,
    attempts: u32,
    propagate: Option<Propagate>,
}

impl Client {
    /// A client of `localhost:6027` whose calls take at most 5 seconds and 4 attempts.
    pub fn builder() -> Builder {
        Builder {
            host: "localhost".into(),
            port: 6027,
            timeout: Duration::from_secs(5),
            attempts: 4,
            propagate: None,
        }
    }

    /// The same client with another deadline.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes a call with one reply.
    async fn call<Q, R, F>(
        &self,
        request: Q,
        may_repeat: bool,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Error>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let deadline = Instant::now() + self.timeout;
        let mut pause = RETRY_DELAY;
        let mut attempt = 1;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut outgoing = Request::new(request.clone());
            outgoing.set_timeout(left);
            self.propagate(outgoing.metadata_mut());
            let answer = tokio::time::timeout(left, send(self.channel.clone(), outgoing)).await;
            let error = match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Error::from(status),
                Err(_) => return Err(Error::deadline(self.timeout)),
            };
            // At least our own delay, and at least what the service suggests.
            let delay = error.retry_after().unwrap_or_default().max(with_jitter(pause));
            let in_time = Instant::now() + delay < deadline;
            if attempt >= self.attempts || !in_time || !error.may_retry(may_repeat) {
                return Err(error);
            }
            tokio::time::sleep(delay).await;
            attempt += 1;
            pause = (pause * 2).min(RETRY_DELAY_MAX);
        }
    }

    /// Makes a call with a stream of replies. The time limit holds until the stream is open.
    async fn open<Q, R, F>(
        &self,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut outgoing = Request::new(request);
        self.propagate(outgoing.metadata_mut());
        match tokio::time::timeout(self.timeout, send(self.channel.clone(), outgoing)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(Error::deadline(self.timeout)),
        }
    }

    fn propagate(&self, metadata: &mut MetadataMap) {
        if let Some(propagate) = &self.propagate {
            propagate(metadata);
        }
    }
}

impl Builder {
    /// The host name or address of the service.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// The gRPC port of the service.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The time limit of a call, with its retries.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The most attempts of a call; 1 never retries.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Writes metadata to each call, such as `traceparent` and `tracestate` of the current span, or
    /// an `x-request-id`.
    pub fn propagate(
        mut self,
        propagate: impl Fn(&mut MetadataMap) + Send + Sync + 'static,
    ) -> Self {
        self.propagate = Some(Arc::new(propagate));
        self
    }

    /// Builds the client. It connects when it is first used, so the service need not run yet.
    ///
    /// # Errors
    /// [`Error::Address`] if host and port are not an address.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Result<Client, Error> {
        // An IPv6 address must be in brackets.
        let bare = self.host.contains(':') && !self.host.starts_with('[');
        let host = if bare { format!("[{}]", self.host) } else { self.host };
        let endpoint = Endpoint::from_shared(format!("http://{host}:{}", self.port))
            .map_err(|error| Error::Address(format!("{host}:{}: {error}", self.port)))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .tcp_nodelay(true)
            .connect_lazy();
        let Self { timeout, attempts, propagate, .. } = self;
        Ok(Client { channel, timeout, attempts, propagate })
    }
}

/// A random part of a delay, from half of it to all of it, so that clients do not retry at the
/// same time.
fn with_jitter(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(()) % 1000;
    pause / 2 + pause / 2 * u32::try_from(random).unwrap_or_default() / 1000
}
