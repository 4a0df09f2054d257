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
//! A client is cheap to clone, connects when it is first used, and again whenever the
//! connection is lost. A call ends within its deadline, and is tried again within it, with
//! growing pauses, when the error says that this is safe: always when the service was too
//! busy to begin, and for calls that may be made twice also when its store did not answer or
//! the connection broke, as then nobody knows whether the call has happened.

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

/// The most bytes of one message: a session of 4 MiB and what surrounds it; lists of
/// sessions may be longer.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may be silent, with calls in flight, before it is asked whether
/// it is there, and then until it has answered.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause before a call is tried again, and the longest; each is half of it at
/// least, and the rest by chance.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

type Propagate = Arc<dyn Fn(&mut MetadataMap) + Send + Sync>;

/// A client of one service.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    timeout: Duration,
    attempts: u32,
    propagate: Option<Propagate>,
}

/// How a client is to be.
#[must_use]
pub struct Builder {
    host: String,
    port: u16,
    timeout: Duration,
    attempts: u32,
    propagate: Option<Propagate>,
}

impl Client {
    /// A client of `localhost:6027` whose calls may take 5 seconds and be tried 4 times.
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

    /// Makes a call that is answered once.
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
        let mut pause = PAUSE;
        let mut attempt = 1;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut asked = Request::new(request.clone());
            asked.set_timeout(left);
            self.propagate(asked.metadata_mut());
            let answer = tokio::time::timeout(left, send(self.channel.clone(), asked)).await;
            let error = match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Error::from(status),
                Err(_) => return Err(Error::deadline(self.timeout)),
            };
            // What the service asks for, and no less than we would wait by ourselves.
            let wanted = error.retry_after().unwrap_or_default().max(spread(pause));
            let in_time = Instant::now() + wanted < deadline;
            if attempt >= self.attempts || !in_time || !error.may_retry(may_repeat) {
                return Err(error);
            }
            tokio::time::sleep(wanted).await;
            attempt += 1;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Makes a call whose answers go on; only its beginning has a deadline.
    async fn open<Q, R, F>(
        &self,
        request: Q,
        send: impl Fn(Channel, Request<Q>) -> F,
    ) -> Result<R, Error>
    where
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let mut asked = Request::new(request);
        self.propagate(asked.metadata_mut());
        match tokio::time::timeout(self.timeout, send(self.channel.clone(), asked)).await {
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
    /// The name or address of the service.
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = host.into();
        self
    }

    /// Its gRPC port.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// How long a call may take, tries and pauses included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How often a call is tried at most; 1 never tries again.
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// Writes into the metadata of each call what it is part of: `traceparent` and
    /// `tracestate` of the present span, or an `x-request-id`.
    pub fn propagate(
        mut self,
        propagate: impl Fn(&mut MetadataMap) + Send + Sync + 'static,
    ) -> Self {
        self.propagate = Some(Arc::new(propagate));
        self
    }

    /// The client. It connects when it is first used, so that the service need not be there.
    ///
    /// # Errors
    /// [`Error::Address`] when host and port are no address.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn build(self) -> Result<Client, Error> {
        // An address of IPv6 stands in brackets.
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

/// Half of a pause at least, and the rest by chance, so that clients do not come back
/// together.
fn spread(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let chance = RandomState::new().hash_one(()) % 1000;
    pause / 2 + pause / 2 * u32::try_from(chance).unwrap_or_default() / 1000
}
