//! The events of all logs as they happen, for those on this host who want to hear of
//! them. One task reads the logs, and only while somebody listens; it keeps the latest
//! events, and those who listen read them there at their own pace, or from the store
//! when they are further behind. So a slow one holds a place and nothing more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::clock::Milliseconds;
use crate::events::watch::{Watch, Watches};
use crate::events::{Event, Place, text};
use crate::logic::{Failure, Logic};
use crate::store::transaction::{Compare, Operation, Reply, Txn};
use crate::store::{self, LogMark, Logs, Store};
use crate::telemetry::{Metrics, StoreOperation, StoreOutcome};

/// How often the logs are looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long the store is left alone when it does not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// The most events of each log that are read at a time.
const PAGE: usize = 256;
/// How many of the latest events are kept.
const KEPT: usize = 16_384;
/// How many of them a listener takes at a time.
const TAKEN: usize = 256;

/// What there is to hear of.
#[derive(Clone, Debug)]
pub enum Told {
    /// Something has happened.
    Event(Arc<Event>),
    /// Events behind this place may be missing.
    Gap(Place),
}

impl Told {
    fn place(&self) -> Place {
        match self {
            Self::Event(event) => event.place,
            Self::Gap(place) => *place,
        }
    }
}

/// The events of all logs.
pub struct Feed {
    store: Arc<dyn Store>,
    logic: Arc<Logic>,
    metrics: Arc<Metrics>,
    latest: Mutex<Latest>,
    /// Changes whenever there is more.
    progress: watch::Sender<()>,
    watches: Arc<Watches>,
    listeners: AtomicUsize,
    begin: Notify,
}

/// The latest events, and from where on they are all there.
#[derive(Default)]
struct Latest {
    told: VecDeque<Arc<Event>>,
    from: Place,
    to: Place,
    /// Whether somebody reads the logs.
    live: bool,
    /// How many gaps there were: whoever has not heard of the last one reads the store.
    gaps: u64,
}

/// Some events behind a place.
struct Batch {
    told: Vec<Told>,
    /// Up to where these are all.
    to: Place,
    /// Whether there are more to be had at once.
    more: bool,
}

/// Why there are no events.
#[derive(Debug)]
pub enum Silence {
    /// The rules do not say where they are.
    Logic(Failure),
    /// The store does not give them.
    Store(store::Error),
}

impl Feed {
    /// Of the logs that the rules keep in the store.
    pub fn new(store: Arc<dyn Store>, logic: Arc<Logic>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            store,
            logic,
            metrics,
            latest: Mutex::default(),
            progress: watch::Sender::new(()),
            watches: Arc::default(),
            listeners: AtomicUsize::new(0),
            begin: Notify::new(),
        })
    }

    /// Reads the logs whenever somebody listens, for ever.
    pub async fn run(self: Arc<Self>) {
        loop {
            while self.listeners.load(Ordering::SeqCst) == 0 {
                self.begin.notified().await;
            }
            let mut well = true;
            while self.listeners.load(Ordering::SeqCst) > 0 {
                let pause = match self.step().await {
                    Ok(true) => Duration::ZERO,
                    Ok(false) => INTERVAL,
                    Err(_) => PAUSE,
                };
                well = match (well, pause == PAUSE) {
                    (true, true) => {
                        tracing::warn!("the logs of events cannot be read");
                        false
                    }
                    (false, false) => {
                        tracing::info!("the logs of events are read again");
                        // Much may have happened that the logs do not tell.
                        self.watches.tell_all();
                        true
                    }
                    (well, _) => well,
                };
                tokio::time::sleep(pause).await;
            }
            let mut latest = self.latest();
            *latest = Latest { gaps: latest.gaps, ..Latest::default() };
        }
    }

    /// Reads what has happened since the last time, and tells whether there is more.
    async fn step(&self) -> Result<bool, Silence> {
        let to = {
            let latest = self.latest();
            latest.live.then_some(latest.to)
        };
        let Some(to) = to else {
            let now = self.now().await?;
            let mut latest = self.latest();
            (latest.from, latest.to, latest.live) = (now, now, true);
            drop(latest);
            // Who began to listen before the events were read has missed some.
            self.watches.tell_all();
            self.progress.send_replace(());
            return Ok(true);
        };
        let batch = self.read(to).await?;
        let mut latest = self.latest();
        latest.to = batch.to;
        let any = !batch.told.is_empty();
        for told in batch.told {
            match told {
                Told::Event(event) => {
                    self.watches.tell(event.text("user_id"), event.text("session_id"));
                    latest.told.push_back(event);
                }
                Told::Gap(_) => {
                    // Who listens finds the gap in the store.
                    latest.told.clear();
                    (latest.from, latest.gaps) = (batch.to, latest.gaps + 1);
                    self.watches.tell_all();
                    break;
                }
            }
        }
        while latest.told.len() > KEPT {
            if let Some(dropped) = latest.told.pop_front() {
                latest.from = dropped.place;
            }
        }
        drop(latest);
        if any {
            self.progress.send_replace(());
        }
        Ok(batch.more)
    }

    /// Watches what happens to a session of a user.
    pub fn watch(self: &Arc<Self>, user_id: &str, session_id: &str) -> (Watch, Listener) {
        (self.watches.add(user_id, session_id), self.listen())
    }

    /// Subscribes to all events behind a place; from now on without one.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn subscribe(
        self: &Arc<Self>,
        after: Option<Place>,
    ) -> Result<Subscription, Silence> {
        let listener = self.listen();
        let at = match after {
            Some(after) => after,
            None => self.now().await?,
        };
        let progress = self.progress.subscribe();
        let gaps = self.latest().gaps;
        let feed = Arc::clone(self);
        Ok(Subscription { feed, at, gaps, in_gap: false, progress, _listener: listener })
    }

    fn listen(self: &Arc<Self>) -> Listener {
        if self.listeners.fetch_add(1, Ordering::SeqCst) == 0 {
            self.begin.notify_one();
        }
        Listener(Arc::clone(self))
    }

    /// The place that nothing of what happens from now on is before.
    async fn now(&self) -> Result<Place, Silence> {
        let catalog = self.logic.describe_logs().await.map_err(Silence::Logic)?;
        self.born(catalog.born).await?;
        let logs = self.logs(&[], 1).await?;
        Ok(Place::before(logs.now))
    }

    /// Since when there are logs in the store: it may have been emptied.
    async fn born(&self, key: String) -> Result<Milliseconds, Silence> {
        const AT: &str = "at";
        let read = || Operation::HashGet { key: key.clone(), fields: Some(vec![AT.to_owned()]) };
        let only = Txn { success: vec![read()], ..Txn::default() };
        // Only once is there anything to write.
        let stamp = Operation::HashStamp { key: key.clone(), field: AT.into(), later: 0 };
        let first = Txn {
            compare: vec![Compare::Absent(key.clone())],
            success: vec![stamp],
            failure: vec![read()],
        };
        let mut now = 0;
        for txn in [only, first] {
            let outcome = self.store.execute(txn).await.map_err(Silence::Store)?;
            now = outcome.now;
            if let Some(Reply::Record(Some(hash))) = outcome.replies.into_iter().next() {
                let at = hash.entries.iter().find(|entry| entry.field == AT);
                return Ok(at.and_then(|at| text(&at.value)?.parse().ok()).unwrap_or(now));
            }
        }
        Ok(now)
    }

    /// Reads events behind a place from the store.
    async fn read(&self, from: Place) -> Result<Batch, Silence> {
        let catalog = self.logic.describe_logs().await.map_err(Silence::Logic)?;
        // Before the logs: when they are lost in between, the next time tells.
        let born = self.born(catalog.born).await?;
        let logs = catalog.logs;
        let mark = |(number, log)| LogMark { log, after: Some(from.in_log(number)) };
        let marks: Vec<LogMark> = (0..=u16::MAX).zip(logs).map(mark).collect();
        let read = self.logs(&marks, PAGE).await?;
        // Of the present millisecond there may be more to come.
        let all = Place::before(read.now);
        let mut to = all;
        let mut told = Vec::new();
        // A clock that goes back gives new events old places, and one who has seen events
        // that were never in these logs has not seen those that were.
        let mut gap = from > all || from < Place::before(born);
        for (number, page) in (0..=u16::MAX).zip(read.pages) {
            gap |= page.trimmed;
            if let Some(last) = page.events.last().filter(|_| page.events.len() == PAGE) {
                to = to.min(Place { id: last.id, log: number });
            }
            let events = page.events.into_iter().map(|event| Event::new(number, event));
            told.extend(events.map(|event| Told::Event(Arc::new(event))));
        }
        told.retain(|told| told.place() > from && told.place() <= to);
        told.sort_by_key(Told::place);
        if gap {
            told.insert(0, Told::Gap(from));
        }
        Ok(Batch { told, to, more: to < all })
    }

    async fn logs(&self, marks: &[LogMark], limit: usize) -> Result<Logs, Silence> {
        let asked = Instant::now();
        let read = self.store.read_logs(marks, limit).await;
        let outcome = StoreOutcome::from(&read);
        self.metrics.counts().store.call(StoreOperation::ReadLogs, outcome, asked.elapsed());
        read.map_err(Silence::Store)
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who wants the logs to be read; not any more when it is dropped.
pub struct Listener(Arc<Feed>);

impl Drop for Listener {
    fn drop(&mut self) {
        self.0.listeners.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A place among the events, that moves forward.
pub struct Subscription {
    feed: Arc<Feed>,
    at: Place,
    /// How many gaps of the feed it knows of.
    gaps: u64,
    /// Whether what was told last was behind a gap: of one, the pages of a store tell
    /// several times.
    in_gap: bool,
    progress: watch::Receiver<()>,
    _listener: Listener,
}

impl Subscription {
    /// Where it is.
    pub fn at(&self) -> Place {
        self.at
    }

    /// What comes next; waits until there is something. May be dropped at any time.
    ///
    /// # Errors
    /// When the events have to be read from the store, which does not give them; asking
    /// again goes on from there.
    pub async fn next(&mut self) -> Result<Vec<Told>, Silence> {
        loop {
            self.progress.borrow_and_update();
            if let Some(told) = self.kept() {
                if !told.is_empty() {
                    return Ok(told);
                }
                // The feed is as old as this.
                drop(self.progress.changed().await);
                continue;
            }
            let gaps = self.feed.latest().gaps;
            let mut batch = self.feed.read(self.at).await?;
            (self.at, self.gaps) = (batch.to, gaps);
            let is_gap = |told: &Told| matches!(told, Told::Gap(_));
            let gap = batch.told.first().is_some_and(is_gap);
            if gap && self.in_gap {
                batch.told.remove(0);
            }
            self.in_gap = gap && batch.more;
            if !batch.told.is_empty() {
                return Ok(batch.told);
            }
            if !batch.more {
                // Until the feed has begun.
                drop(tokio::time::timeout(INTERVAL, self.progress.changed()).await);
            }
        }
    }

    /// Those of the latest events that come next; `None` when it is further behind.
    fn kept(&mut self) -> Option<Vec<Told>> {
        let latest = self.feed.latest();
        let is_behind = self.at < latest.from || self.gaps != latest.gaps;
        if !latest.live || is_behind || self.at > latest.to {
            return None;
        }
        let first = latest.told.partition_point(|event| event.place <= self.at);
        let next = latest.told.range(first..).take(TAKEN);
        let told: Vec<Told> = next.map(|event| Told::Event(Arc::clone(event))).collect();
        self.at = told.last().map_or(latest.to, Told::place);
        Some(told)
    }
}

#[cfg(test)]
mod tests;
