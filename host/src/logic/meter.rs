//! Processor time of guests: what one instance has computed in its present call, and the ticker
//! that looks at running guests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::{EngineWeak, UpdateDeadline};

/// How often running guests are looked at.
pub const TICK: Duration = Duration::from_millis(10);

/// Time that the guest computes, without the time that it waits: for the store,
/// for its turn after it let others run, or, once it is found running by the clock,
/// for a processor.
pub struct Meter {
    limit: Duration,
    computed: Duration,
    origin: Instant,
    /// Since when the guest runs; shared with the future that it waits in for its turn.
    running: Arc<Running>,
    /// The clock has found it running in the present call.
    ticked: bool,
}

/// When a guest was last set running.
#[derive(Default)]
struct Running {
    /// In nanoseconds after the meter's origin.
    since: AtomicU64,
    /// In nanoseconds that its thread had computed by then; none, as 0, for the many
    /// calls that are done before the clock ticks: it takes a system call.
    thread_since: AtomicU64,
}

impl Running {
    /// The guest is set running.
    fn begin(&self, since: Duration, thread_since: u64) {
        self.since.store(nanoseconds(since), Ordering::Relaxed);
        self.thread_since.store(thread_since, Ordering::Relaxed);
    }
}

impl Meter {
    /// A meter for calls that may compute for this long.
    pub fn new(limit: Duration) -> Self {
        let running = Arc::default();
        let (computed, origin) = (Duration::ZERO, Instant::now());
        Self { limit, computed, origin, running, ticked: false }
    }

    /// A call begins.
    pub fn start(&mut self) {
        self.computed = Duration::ZERO;
        self.ticked = false;
        self.resume(Instant::now());
    }

    /// The guest stops computing for a while. A running guest is looked at on every
    /// tick: when it seems to have run for far longer, the process was not running.
    pub fn pause(&mut self, now: Instant) {
        let since = Duration::from_nanos(self.running.since.load(Ordering::Relaxed));
        let ran = (now - self.origin).saturating_sub(since).min(TICK * 2);
        self.computed += match self.running.thread_since.load(Ordering::Relaxed) {
            0 => ran,
            since => ran.min(Duration::from_nanos(thread_nanoseconds().saturating_sub(since))),
        };
    }

    /// The guest goes on computing.
    pub fn resume(&self, now: Instant) {
        let thread_since = if self.ticked { thread_nanoseconds() } else { 0 };
        self.running.begin(now - self.origin, thread_since);
    }

    /// How long the guest has computed in the present call, up to its last pause.
    pub fn computed(&self) -> Duration {
        self.computed
    }

    /// What to do with a guest that is found running when the clock ticks: stop
    /// it, or let others run and go on.
    pub fn tick(&mut self) -> UpdateDeadline {
        self.pause(Instant::now());
        self.ticked = true;
        if self.computed > self.limit {
            return UpdateDeadline::Interrupt;
        }
        let (origin, running) = (self.origin, Arc::clone(&self.running));
        let turn = async move {
            tokio::task::yield_now().await;
            running.begin(origin.elapsed(), thread_nanoseconds());
        };
        UpdateDeadline::YieldCustom(1, Box::pin(turn))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How long the present thread has computed. A guest stays on one thread from its turn
/// to where it next waits.
fn thread_nanoseconds() -> u64 {
    let computed = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(computed).map_or(0, nanoseconds)
}

/// Ticks for the engines of all components, so that running guests are looked at.
pub struct Ticker {
    engines: Mutex<Vec<EngineWeak>>,
}

impl Ticker {
    /// A thread that ticks for as long as the ticker lives.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let ticker = Arc::new(Self { engines: Mutex::default() });
        let weak = Arc::downgrade(&ticker);
        std::thread::Builder::new().name("logic-ticker".into()).spawn(move || {
            while let Some(ticker) = weak.upgrade() {
                ticker.tick();
                drop(ticker);
                std::thread::sleep(TICK);
            }
        })?;
        Ok(ticker)
    }

    /// Ticks for a component from now on, for as long as it lives.
    pub fn add(&self, engine: EngineWeak) {
        self.lock().push(engine);
    }

    fn tick(&self) {
        self.lock().retain(|engine| match engine.upgrade() {
            Some(engine) => {
                engine.increment_epoch();
                true
            }
            None => false,
        });
    }

    /// No code panics while it holds this lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<EngineWeak>> {
        self.engines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_computing_counts() {
        let mut meter = Meter::new(Duration::from_millis(100));
        meter.origin = Instant::now() - Duration::from_secs(2);
        // Two seconds of waiting: the guest is set running only now.
        meter.start();
        assert!(matches!(meter.tick(), UpdateDeadline::YieldCustom(1, _)));
        // Two seconds in which it was not looked at: it cannot have run.
        meter.running.since.store(0, Ordering::Relaxed);
        assert!(matches!(meter.tick(), UpdateDeadline::YieldCustom(1, _)));
        // It is found running again and again.
        let ticks = (0..10).take_while(|_| {
            meter.running.since.store(0, Ordering::Relaxed);
            matches!(meter.tick(), UpdateDeadline::YieldCustom(1, _))
        });
        assert_eq!(ticks.count(), 3);
        meter.start();
        assert_eq!(meter.computed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn waiting_for_a_processor_does_not_count_once_the_clock_has_ticked() {
        let mut meter = Meter::new(Duration::from_secs(10));
        meter.start();
        let UpdateDeadline::YieldCustom(1, turn) = meter.tick() else { panic!("it goes on") };
        turn.await;
        let before = meter.computed();
        // The thread has none, before and after a wait for the store.
        for _ in 0..2 {
            std::thread::sleep(TICK);
            meter.pause(Instant::now());
            meter.resume(Instant::now());
        }
        assert!(meter.computed() - before < TICK / 2, "{:?}", meter.computed());
        // And here it has.
        let before = meter.computed();
        let since = thread_nanoseconds();
        while thread_nanoseconds() - since < nanoseconds(TICK) {}
        meter.pause(Instant::now());
        assert!(meter.computed() - before >= TICK, "{:?}", meter.computed());
    }
}
