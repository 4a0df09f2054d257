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
/// How long a heartbeat waits that the store did not take; half of it at least, and the
/// rest by chance, so that not all come back at once.
const PAUSE_MS: u32 = 2000;

/// Why answers end when the service stops.
pub const STOPPING: &str = "SERVER_STOPPING";

/// The replies of an answer that goes on; whoever drops them has left.
pub type Replies<T> = mpsc::Receiver<T>;

/// A way for replies.
pub fn channel<T>() -> (mpsc::Sender<T>, Replies<T>) {
    mpsc::channel(WAITING_MAX)
}

/// What all answers that go on have in common.
pub struct Streams {
    /// Where connections are held when nobody says where.
    pub pod_id: String,
    /// How often a connection that is held is kept.
    heartbeat: Duration,
    stopped: watch::Receiver<bool>,
    connects: Places,
    subscriptions: Places,
}

/// A bounded number of places.
struct Places {
    free: Arc<Semaphore>,
    count: usize,
}

impl Places {
    fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), count }
    }

    fn take(&self) -> Result<OwnedSemaphorePermit, Error> {
        let place = Arc::clone(&self.free).try_acquire_owned();
        place.map_err(|_| {
            let message = format!("{} such calls are in flight, which is the most.", self.count);
            Error::new(Reason::Overloaded, message)
        })
    }

    fn taken(&self) -> usize {
        self.count - self.free.available_permits()
    }
}

impl Streams {
    /// None yet. Of so many network connections, some are always left to calls that are
    /// answered at once.
    pub fn new(
        pod_id: String,
        heartbeat: Duration,
        network_connections: usize,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let connects = Places::new((network_connections * 3 / 4).max(1));
        let subscriptions = Places::new(Self::subscriptions_of(network_connections));
        Self { pod_id, heartbeat, stopped, connects, subscriptions }
    }

    /// A place for a connection that is held.
    ///
    /// # Errors
    /// `OVERLOADED`.
    pub fn connect(&self) -> Result<OwnedSemaphorePermit, Error> {
        self.connects.take()
    }

    /// How many subscriptions there may be with so many network connections.
    pub fn subscriptions_of(network_connections: usize) -> usize {
        (network_connections / 8).clamp(1, SUBSCRIPTIONS_MAX)
    }

    /// A place for a subscription, of those that its peer may have.
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

    /// When a connection is kept that begins now: the first time by chance a little early,
    /// so that those that came together do not stay together. What was missed is not made
    /// up for.
    pub fn heartbeats(&self) -> Interval {
        let early = self.heartbeat.mul_f64(0.1 * chance());
        let mut heartbeats = interval_at(Instant::now() + self.heartbeat - early, self.heartbeat);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        heartbeats
    }

    /// How long to leave a store alone that does not answer.
    pub fn pause(&self) -> Duration {
        let pause = Duration::from_millis(PAUSE_MS.into()).min(self.heartbeat);
        pause.mul_f64(0.5 + 0.5 * chance())
    }
}

/// From 0 to 1.
fn chance() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
