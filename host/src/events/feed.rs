//! The events of all logs as they happen, for those on this host who want to hear of
//! them. One task reads the logs, and only while somebody listens; it keeps the latest
//! events, and those who listen read them there at their own pace, or from the store
//! when they are further behind. So a slow one holds a place and nothing more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::events::birth::{self, Birth};
use crate::events::watch::{Watch, Watches};
use crate::events::{Event, Place};
use crate::logic::maintenance::LogCatalog;
use crate::logic::{Failure, Logic};
use crate::telemetry::{Metrics, StoreOperation, StoreOutcome};
use session_store::clock::Milliseconds;
use session_store::{LogMark, Logs, Store};

/// How often the logs are looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long the store is left alone when it does not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// For how long somebody may be about to empty logs whose birth is stamped anew, and how
/// long others wait for that.
const EMPTYING_MS_MAX: Milliseconds = 1000;
const EMPTYING_PAUSE: Duration = Duration::from_millis(50);
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
    /// The birth of the logs that were read last.
    born: Milliseconds,
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
    /// The birth of the logs that they are from.
    born: Milliseconds,
    /// Whether there are more to be had at once.
    more: bool,
}

/// Why there are no events.
#[derive(Debug)]
pub enum Silence {
    /// The rules do not say where they are.
    Logic(Failure),
    /// The store does not give them.
    Store(session_store::Error),
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
        let known = {
            let latest = self.latest();
            latest.live.then_some((latest.to, latest.born))
        };
        let Some((to, born)) = known else {
            let (now, born) = self.now().await?;
            let mut latest = self.latest();
            (latest.from, latest.to, latest.born, latest.live) = (now, now, born, true);
            drop(latest);
            // Who began to listen before the events were read has missed some.
            self.watches.tell_all();
            self.progress.send_replace(());
            return Ok(true);
        };
        let batch = self.read(to, Some(born)).await?;
        let mut latest = self.latest();
        (latest.to, latest.born) = (batch.to, batch.born);
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
        // Nobody has seen the future: what happens from now on is behind the gap, however
        // long it takes until the logs are read.
        let is_ahead = match after {
            // Whoever comes back during an outage waits for its end.
            Some(after) => self.logs(&[], 1).await.is_ok_and(|it| after > Place::before(it.now)),
            None => false,
        };
        let (at, born) = match after {
            Some(after) if !is_ahead => (after, None),
            _ => self.now().await.map(|(now, born)| (now, Some(born)))?,
        };
        let progress = self.progress.subscribe();
        let gaps = self.latest().gaps;
        let feed = Arc::clone(self);
        Ok(Subscription {
            feed,
            at,
            born,
            begins_with_gap: is_ahead,
            gaps,
            in_gap: false,
            progress,
            _listener: listener,
        })
    }

    fn listen(self: &Arc<Self>) -> Listener {
        if self.listeners.fetch_add(1, Ordering::SeqCst) == 0 {
            self.begin.notify_one();
        }
        Listener(Arc::clone(self))
    }

    /// The place that nothing of what happens from now on is before, and the birth of the
    /// logs.
    async fn now(&self) -> Result<(Place, Milliseconds), Silence> {
        let catalog = self.logic.describe_logs().await.map_err(Silence::Logic)?;
        let mut birth = self.birth(&catalog.born).await?;
        let now = self.logs(&[], 1).await?.now;
        // A log of the future would hide what happens from now on.
        let (read, _) = self.current_pages(&catalog, &mut birth, Place::before(now)).await?;
        Ok((Place::before(read.now), birth.at))
    }

    async fn birth(&self, key: &str) -> Result<Birth, Silence> {
        birth::read(&*self.store, key).await.map_err(Silence::Store)
    }

    /// Reads events behind a place from the store. A reader hears once of each birth of the
    /// logs but the one that it knows.
    async fn read(&self, from: Place, known: Option<Milliseconds>) -> Result<Batch, Silence> {
        let catalog = self.logic.describe_logs().await.map_err(Silence::Logic)?;
        // Before the logs: when they are lost in between, the next time tells.
        let mut birth = self.birth(&catalog.born).await?;
        let (mut read, mut is_anew) = self.current_pages(&catalog, &mut birth, from).await?;
        // A clock that goes back gives new events old places.
        let has_gone_back = from > Place::before(read.now);
        if has_gone_back {
            let now = Place::before(read.now);
            (read, is_anew) = self.current_pages(&catalog, &mut birth, now).await?;
        }
        // Of the present millisecond there may be more to come.
        let all = Place::before(read.now);
        let from = from.min(all);
        let mut to = all;
        let mut told = Vec::new();
        // One who has seen events that were never in these logs has not seen those that were.
        let is_older = from < Place::before(birth.at) && known != Some(birth.at);
        let mut gap = has_gone_back || is_anew || is_older;
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
        Ok(Batch { told, to, born: birth.at, more: to < all })
    }

    /// A page of each log behind a place. When the clock has gone back behind what is in a
    /// log, no event of it is of the present until the clock is there again: such logs begin
    /// anew, with a birth by which all who read them hear of a gap. Also returns whether they
    /// did.
    async fn current_pages(
        &self,
        catalog: &LogCatalog,
        birth: &mut Birth,
        from: Place,
    ) -> Result<(Logs, bool), Silence> {
        let is_ahead = |read: &Logs| read.pages.iter().any(|page| page.ahead);
        let read = self.pages(&catalog.logs, from).await?;
        if !is_ahead(&read) {
            return Ok((read, false));
        }
        if read.now.saturating_sub(birth.at) < EMPTYING_MS_MAX {
            // Somebody else has just stamped the birth, and is about to empty the logs: one
            // more birth would be one more gap for all.
            tokio::time::sleep(EMPTYING_PAUSE).await;
            let read = self.pages(&catalog.logs, from).await?;
            if !is_ahead(&read) {
                return Ok((read, true));
            }
        }
        tracing::warn!("the clock of the store has gone back: the logs of events begin anew");
        // Whoever finds them empty finds the new birth, too.
        let again = birth::again(&*self.store, &catalog.born, birth).await;
        *birth = again.map_err(Silence::Store)?;
        self.store.empty_logs_ahead(&catalog.logs).await.map_err(Silence::Store)?;
        Ok((self.pages(&catalog.logs, from).await?, true))
    }

    /// A page of each log behind a place.
    async fn pages(&self, logs: &[String], from: Place) -> Result<Logs, Silence> {
        let mark = |(number, log): (u16, &String)| LogMark {
            log: log.clone(),
            after: Some(from.in_log(number)),
        };
        let marks: Vec<LogMark> = (0..=u16::MAX).zip(logs).map(mark).collect();
        self.logs(&marks, PAGE).await
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
    /// The birth of the logs that it knows of.
    born: Option<Milliseconds>,
    /// Whether it has to be told of a gap first: it came back from the future.
    begins_with_gap: bool,
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
        if std::mem::take(&mut self.begins_with_gap) {
            return Ok(vec![Told::Gap(self.at)]);
        }
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
            let mut batch = self.feed.read(self.at, self.born).await?;
            (self.at, self.born, self.gaps) = (batch.to, Some(batch.born), gaps);
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
