//! The event feed of this host. One task reads the logs, and only while a subscriber or a
//! watch exists. It caches the latest events. Subscribers read from the cache at their own pace,
//! or from the store when they are further behind, so a slow subscriber costs one cursor and no
//! queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::events::baseline::{self, Baseline};
use crate::events::cursor::Cursor;
use crate::events::event::FeedEvent;
use crate::events::watch::{Watch, Watches};
use crate::logic::maintenance::LogCatalog;
use crate::logic::{Failure, Logic};
use crate::telemetry::{Metrics, StoreOperation, StoreOutcome};
use session_store::clock::Milliseconds;
use session_store::{LogMark, Logs, Store};

/// How often the logs are read.
const INTERVAL: Duration = Duration::from_millis(100);
/// The delay before a retry after the store failed.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// How long after a new baseline another host may still be emptying the logs.
const EMPTYING_MS_MAX: Milliseconds = 1000;
/// How long this host waits for it to do so.
const EMPTYING_WAIT: Duration = Duration::from_millis(50);
/// The most events of one log in one read.
const PAGE: usize = 256;
/// The most events in the cache.
const CACHED_EVENTS_MAX: usize = 16_384;
/// The most cached events that a subscriber takes at once.
const BATCH_MAX: usize = 256;

/// What a subscriber receives.
#[derive(Clone, Debug)]
pub enum FeedItem {
    /// An event.
    Event(Arc<FeedEvent>),
    /// Events after this cursor may be missing.
    Gap(Cursor),
}

impl FeedItem {
    fn cursor(&self) -> Cursor {
        match self {
            Self::Event(event) => event.cursor,
            Self::Gap(cursor) => *cursor,
        }
    }
}

/// The events of all logs.
pub struct Feed {
    store: Arc<dyn Store>,
    logic: Arc<Logic>,
    metrics: Arc<Metrics>,
    latest: Mutex<Latest>,
    /// Changes whenever the cache has grown.
    progress: watch::Sender<()>,
    watches: Arc<Watches>,
    interests: AtomicUsize,
    interest_began: Notify,
}

/// The cached events: all events after `from` up to `to`.
#[derive(Default)]
struct Latest {
    events: VecDeque<Arc<FeedEvent>>,
    from: Cursor,
    to: Cursor,
    /// The baseline of the logs at the last read.
    baseline: Milliseconds,
    /// Whether the task is reading the logs.
    live: bool,
    /// How many gaps the task has found. A subscriber that knows of fewer reads the store, and
    /// finds the gap there.
    gaps: u64,
}

/// The events after a cursor, or the first page of them.
struct Batch {
    items: Vec<FeedItem>,
    /// The cursor up to which `items` is complete.
    to: Cursor,
    /// The baseline of the logs at the read.
    baseline: Milliseconds,
    /// Whether more events can be read at once.
    more: bool,
}

/// Why the events cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// The rules did not name the logs.
    Logic(Failure),
    /// The store did not return them.
    Store(session_store::Error),
}

impl Feed {
    /// A feed of the logs that the rules write to this store.
    pub fn new(store: Arc<dyn Store>, logic: Arc<Logic>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            store,
            logic,
            metrics,
            latest: Mutex::default(),
            progress: watch::Sender::new(()),
            watches: Arc::default(),
            interests: AtomicUsize::new(0),
            interest_began: Notify::new(),
        })
    }

    /// Reads the logs while there is interest in them; never returns.
    pub async fn run(self: Arc<Self>) {
        loop {
            while self.interests.load(Ordering::SeqCst) == 0 {
                self.interest_began.notified().await;
            }
            let mut readable = true;
            while self.interests.load(Ordering::SeqCst) > 0 {
                let pause = match self.step().await {
                    Ok(true) => Duration::ZERO,
                    Ok(false) => INTERVAL,
                    Err(ReadError::Logic(Failure::NotServed(_))) => {
                        // Subscribers that wait for events find out that there are none.
                        self.forget_latest();
                        self.progress.send_replace(());
                        RETRY_DELAY
                    }
                    Err(_) => RETRY_DELAY,
                };
                readable = match (readable, pause == RETRY_DELAY) {
                    (true, true) => {
                        tracing::warn!("the logs of events cannot be read");
                        false
                    }
                    (false, false) => {
                        tracing::info!("the logs of events are read again");
                        // The logs may have been trimmed or lost in between.
                        self.watches.notify_all();
                        true
                    }
                    (readable, _) => readable,
                };
                tokio::time::sleep(pause).await;
            }
            self.forget_latest();
        }
    }

    /// Empties the cache.
    fn forget_latest(&self) {
        let mut latest = self.latest();
        *latest = Latest { gaps: latest.gaps, ..Latest::default() };
    }

    /// Adds the events since the last read to the cache, and returns whether more are ready.
    async fn step(&self) -> Result<bool, ReadError> {
        let known = {
            let latest = self.latest();
            latest.live.then_some((latest.to, latest.baseline))
        };
        let Some((to, baseline)) = known else {
            let (now, baseline) = self.now().await?;
            let mut latest = self.latest();
            (latest.from, latest.to, latest.baseline, latest.live) = (now, now, baseline, true);
            drop(latest);
            // A watch made before this first read may have missed events.
            self.watches.notify_all();
            self.progress.send_replace(());
            return Ok(true);
        };
        let batch = self.read(to, Some(baseline)).await?;
        let mut latest = self.latest();
        (latest.to, latest.baseline) = (batch.to, batch.baseline);
        let any = !batch.items.is_empty();
        for item in batch.items {
            match item {
                FeedItem::Event(event) => {
                    self.watches.notify(event.text("user_id"), event.text("session_id"));
                    latest.events.push_back(event);
                }
                FeedItem::Gap(_) => {
                    // Subscribers read the store now, and find the gap there.
                    latest.events.clear();
                    (latest.from, latest.gaps) = (batch.to, latest.gaps + 1);
                    self.watches.notify_all();
                    break;
                }
            }
        }
        while latest.events.len() > CACHED_EVENTS_MAX {
            if let Some(dropped) = latest.events.pop_front() {
                latest.from = dropped.cursor;
            }
        }
        drop(latest);
        if any {
            self.progress.send_replace(());
        }
        Ok(batch.more)
    }

    /// Watches the events of one session of a user.
    pub fn watch(self: &Arc<Self>, user_id: &str, session_id: &str) -> (Watch, Interest) {
        (self.watches.add(user_id, session_id), self.interest())
    }

    /// Subscribes to all events after a cursor, or from now on if there is none.
    ///
    /// # Errors
    /// If the rules or the store fail.
    pub async fn subscribe(
        self: &Arc<Self>,
        after: Option<Cursor>,
    ) -> Result<Subscription, ReadError> {
        let interest = self.interest();
        // A cursor of the future was issued before the clock was set back. Its subscriber starts
        // with a gap, and receives everything from now on.
        let is_ahead = match after {
            // During an outage the cursor is taken as it is, and read when the outage ends.
            Some(after) => self.logs(&[], 1).await.is_ok_and(|it| after > Cursor::before(it.now)),
            None => false,
        };
        let (cursor, baseline) = match after {
            Some(after) if !is_ahead => (after, None),
            _ => self.now().await.map(|(now, baseline)| (now, Some(baseline)))?,
        };
        let progress = self.progress.subscribe();
        let gaps = self.latest().gaps;
        let feed = Arc::clone(self);
        Ok(Subscription {
            feed,
            cursor,
            baseline,
            begins_with_gap: is_ahead,
            gaps,
            in_gap: false,
            progress,
            _interest: interest,
        })
    }

    /// Has the task read the logs until the value is dropped.
    fn interest(self: &Arc<Self>) -> Interest {
        if self.interests.fetch_add(1, Ordering::SeqCst) == 0 {
            self.interest_began.notify_one();
        }
        Interest(Arc::clone(self))
    }

    /// A cursor that all events from now on come after, and the baseline of the logs.
    async fn now(&self) -> Result<(Cursor, Milliseconds), ReadError> {
        let catalog = self.logic.describe_logs().await.map_err(ReadError::Logic)?;
        let mut baseline = self.baseline(&catalog.baseline).await?;
        let now = self.logs(&[], 1).await?.now;
        // This empties logs that are ahead of the clock, which would hide new events.
        let (read, _) = self.current_pages(&catalog, &mut baseline, Cursor::before(now)).await?;
        Ok((Cursor::before(read.now), baseline.at))
    }

    async fn baseline(&self, key: &str) -> Result<Baseline, ReadError> {
        baseline::read(&*self.store, key).await.map_err(ReadError::Store)
    }

    /// Reads events after a cursor from the store. A reader receives one gap for each baseline
    /// other than the one it knows.
    async fn read(&self, from: Cursor, known: Option<Milliseconds>) -> Result<Batch, ReadError> {
        let catalog = self.logic.describe_logs().await.map_err(ReadError::Logic)?;
        // Read before the logs: if they are lost in between, the next read finds the gap.
        let mut baseline = self.baseline(&catalog.baseline).await?;
        let (mut read, mut emptied) = self.current_pages(&catalog, &mut baseline, from).await?;
        // After the clock is set back, new events have ids below the cursor.
        let was_set_back = from > Cursor::before(read.now);
        if was_set_back {
            let now = Cursor::before(read.now);
            (read, emptied) = self.current_pages(&catalog, &mut baseline, now).await?;
        }
        // More events may still be written in the current millisecond.
        let end = Cursor::before(read.now);
        let from = from.min(end);
        let mut to = end;
        let mut items = Vec::new();
        // The reader may have missed events between its cursor and the baseline.
        let is_older = from < Cursor::before(baseline.at) && known != Some(baseline.at);
        let mut gap = was_set_back || emptied || is_older;
        for (number, page) in (0..=u16::MAX).zip(read.pages) {
            gap |= page.trimmed;
            if let Some(last) = page.events.last().filter(|_| page.events.len() == PAGE) {
                to = to.min(Cursor { id: last.id, log: number });
            }
            let events = page.events.into_iter().map(|event| FeedEvent::new(number, event));
            items.extend(events.map(|event| FeedItem::Event(Arc::new(event))));
        }
        items.retain(|item| item.cursor() > from && item.cursor() <= to);
        items.sort_by_key(FeedItem::cursor);
        if gap {
            items.insert(0, FeedItem::Gap(from));
        }
        Ok(Batch { items, to, baseline: baseline.at, more: to < end })
    }

    /// A page of each log after a cursor, and whether logs were emptied. If the clock was set
    /// back to before the last event of a log, new events would stay invisible until the clock
    /// catches up. Such logs are emptied under a new baseline, so every reader receives a gap.
    async fn current_pages(
        &self,
        catalog: &LogCatalog,
        baseline: &mut Baseline,
        from: Cursor,
    ) -> Result<(Logs, bool), ReadError> {
        let is_ahead = |read: &Logs| read.pages.iter().any(|page| page.ahead);
        let read = self.pages(&catalog.logs, from).await?;
        if !is_ahead(&read) {
            return Ok((read, false));
        }
        if read.now.saturating_sub(baseline.at) < EMPTYING_MS_MAX {
            // Another host has just stamped the baseline and is about to empty the logs. A
            // second baseline would cause a second gap for every reader.
            tokio::time::sleep(EMPTYING_WAIT).await;
            let read = self.pages(&catalog.logs, from).await?;
            if !is_ahead(&read) {
                return Ok((read, true));
            }
        }
        tracing::warn!("the clock of the store has gone back: the logs of events begin anew");
        // Stamped before the logs are emptied: a reader of empty logs finds the new baseline.
        let renewed = baseline::renew(&*self.store, &catalog.baseline, baseline).await;
        *baseline = renewed.map_err(ReadError::Store)?;
        self.store.empty_logs_ahead(&catalog.logs).await.map_err(ReadError::Store)?;
        Ok((self.pages(&catalog.logs, from).await?, true))
    }

    /// A page of each log after a cursor.
    async fn pages(&self, logs: &[String], from: Cursor) -> Result<Logs, ReadError> {
        let mark = |(number, log): (u16, &String)| LogMark {
            log: log.clone(),
            after: Some(from.in_log(number)),
        };
        let marks: Vec<LogMark> = (0..=u16::MAX).zip(logs).map(mark).collect();
        self.logs(&marks, PAGE).await
    }

    async fn logs(&self, marks: &[LogMark], limit: usize) -> Result<Logs, ReadError> {
        let started = Instant::now();
        let read = self.store.read_logs(marks, limit).await;
        let outcome = StoreOutcome::from(&read);
        self.metrics.counts().store.call(StoreOperation::ReadLogs, outcome, started.elapsed());
        read.map_err(ReadError::Store)
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Interest in the events: the feed reads the logs until the last one is dropped.
pub struct Interest(Arc<Feed>);

impl Drop for Interest {
    fn drop(&mut self) {
        self.0.interests.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One subscriber, and how far it has read.
pub struct Subscription {
    feed: Arc<Feed>,
    cursor: Cursor,
    /// The baseline of the logs at its last read.
    baseline: Option<Milliseconds>,
    /// Whether the first item is a gap, as its cursor was of the future.
    begins_with_gap: bool,
    /// How many gaps of the feed it knows of.
    gaps: u64,
    /// Whether the last read began with a gap and was not complete. The next page of the store
    /// reports the same gap, which must not be sent twice.
    in_gap: bool,
    progress: watch::Receiver<()>,
    _interest: Interest,
}

impl Subscription {
    /// The cursor after the last item returned.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Returns the next items, and waits until there are some. May be cancelled at any time.
    ///
    /// # Errors
    /// If the events must be read from the store and it fails. The next call continues at the
    /// same cursor.
    pub async fn next(&mut self) -> Result<Vec<FeedItem>, ReadError> {
        if std::mem::take(&mut self.begins_with_gap) {
            return Ok(vec![FeedItem::Gap(self.cursor)]);
        }
        loop {
            self.progress.borrow_and_update();
            if let Some(items) = self.take_cached() {
                if !items.is_empty() {
                    return Ok(items);
                }
                // The subscriber has caught up with the feed.
                drop(self.progress.changed().await);
                continue;
            }
            let gaps = self.feed.latest().gaps;
            let mut batch = self.feed.read(self.cursor, self.baseline).await?;
            (self.cursor, self.baseline, self.gaps) = (batch.to, Some(batch.baseline), gaps);
            let is_gap = |item: &FeedItem| matches!(item, FeedItem::Gap(_));
            let gap = batch.items.first().is_some_and(is_gap);
            if gap && self.in_gap {
                batch.items.remove(0);
            }
            self.in_gap = gap && batch.more;
            if !batch.items.is_empty() {
                return Ok(batch.items);
            }
            if !batch.more {
                // The task has not begun to read yet.
                drop(tokio::time::timeout(INTERVAL, self.progress.changed()).await);
            }
        }
    }

    /// The next events of the cache; `None` if the cursor is outside of it.
    fn take_cached(&mut self) -> Option<Vec<FeedItem>> {
        let latest = self.feed.latest();
        let is_behind = self.cursor < latest.from || self.gaps != latest.gaps;
        if !latest.live || is_behind || self.cursor > latest.to {
            return None;
        }
        let first = latest.events.partition_point(|event| event.cursor <= self.cursor);
        let next = latest.events.range(first..).take(BATCH_MAX);
        let items: Vec<FeedItem> = next.map(|event| FeedItem::Event(Arc::clone(event))).collect();
        self.cursor = items.last().map_or(latest.to, FeedItem::cursor);
        Some(items)
    }
}

#[cfg(test)]
mod tests;
