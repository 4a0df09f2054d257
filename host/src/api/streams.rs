//! Answers that go on: bounded in number and in what waits to be sent, and ended in
//! order when the service stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::error::{Error, Reason};
use crate::network::quota::SubscriptionPermit;

/// The most subscriptions to events at the same time.
const SUBSCRIPTIONS_MAX: usize = 1024;
/// How many replies may wait to be taken.
const WAITING_MAX: usize = 4;
/// The longest pause before a heartbeat that the store did not take is tried again. Half of it is
/// fixed and half is jitter, so that not all are tried at once.
const PAUSE_MS: u32 = 2000;

/// Why answers end when the service stops.
pub const STOPPING: &str = "SERVER_STOPPING";

/// The replies of an answer that is a stream. A receiver that drops them has left.
pub type Replies<T> = mpsc::Receiver<T>;

/// A channel for replies.
pub fn channel<T>() -> (mpsc::Sender<T>, Replies<T>) {
    mpsc::channel(WAITING_MAX)
}

/// The state that all answers that are streams share.
pub struct Streams {
    /// The pod that holds connections when the request does not say.
    pub pod_id: String,
    /// How often a connection that is held is kept.
    heartbeat: Duration,
    stopped: watch::Receiver<bool>,
    connects: Permits,
    subscriptions: Permits,
}

/// A bounded number of calls of one kind.
struct Permits {
    free: Arc<Semaphore>,
    count: usize,
}

impl Permits {
    fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), count }
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, Error> {
        let permit = Arc::clone(&self.free).try_acquire_owned();
        permit.map_err(|_| {
            let message = format!("{} such calls are in flight, which is the most.", self.count);
            Error::new(Reason::Overloaded, message)
        })
    }

    fn taken(&self) -> usize {
        self.count - self.free.available_permits()
    }
}

impl Streams {
    /// No streams yet. They may take only a part of the network connections, so that some are
    /// always left to calls that are answered at once.
    pub fn new(
        pod_id: String,
        heartbeat: Duration,
        network_connections: usize,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let connects = Permits::new((network_connections * 3 / 4).max(1));
        let subscriptions = Permits::new(Self::subscriptions_of(network_connections));
        Self { pod_id, heartbeat, stopped, connects, subscriptions }
    }

    /// A permit for a call that holds a connection.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub fn connect(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.connects.take()
    }

    /// How many subscriptions there may be with this many network connections.
    pub fn subscriptions_of(network_connections: usize) -> usize {
        (network_connections / 8).clamp(1, SUBSCRIPTIONS_MAX)
    }

    /// A permit for a subscription, of those that its peer may have.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub fn subscription(&self) -> Result<(OwnedSemaphorePermit, SubscriptionPermit), Error> {
        let subscribed = SubscriptionPermit::take().ok_or_else(|| {
            let message = "As many subscriptions come from this address as one may have.";
            Error::new(Reason::Overloaded, message)
        })?;
        Ok((self.subscriptions.take()?, subscribed))
    }

    /// Completes when the service stops.
    pub async fn stopping(&self) {
        // A sender that is gone means the same.
        drop(self.stopped.clone().wait_for(|stopped| *stopped).await);
    }

    /// How many connections are held.
    pub fn connected(&self) -> usize {
        self.connects.taken()
    }

    /// How many subscriptions there are.
    pub fn subscribed(&self) -> usize {
        self.subscriptions.taken()
    }

    /// Completes when the service stops and no connection is held any more.
    pub async fn ended(&self) {
        self.stopping().await;
        let all = u32::try_from(self.connects.count).unwrap_or(u32::MAX);
        drop(self.connects.free.acquire_many(all).await);
    }

    /// The heartbeats of a connection that begins now. The first one comes a little early, by
    /// jitter, so that connections that began together do not stay together. A missed heartbeat
    /// is skipped.
    pub fn heartbeats(&self) -> Interval {
        let early = self.heartbeat.mul_f64(0.1 * chance());
        let mut heartbeats = interval_at(Instant::now() + self.heartbeat - early, self.heartbeat);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        heartbeats
    }

    /// How long to wait when the store does not answer.
    pub fn pause(&self) -> Duration {
        let pause = Duration::from_millis(PAUSE_MS.into()).min(self.heartbeat);
        pause.mul_f64(0.5 + 0.5 * chance())
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
