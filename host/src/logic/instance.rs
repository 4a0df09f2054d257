//! What one instance of the component holds on the host's side: its sandbox,
//! its settings, its meter. Nothing in it outlives or is shared between
//! instances but the store behind them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_config::WasiConfigVariables;

use crate::logic::Limits;
use crate::logic::component::TICK;
use crate::telemetry::LogicMetrics;
use session_store::Store;

/// The most elements of a table.
pub const TABLE_ELEMENTS_MAX: usize = 20_000;
/// The most lines of error output that all instances of a component may log.
const LOG_LINES_MAX: u32 = 100;
/// The most bytes of one such line.
const LOG_LINE_BYTES_MAX: usize = 1024;

/// The host's side of one instance.
pub struct Instance {
    /// Where its transactions go.
    pub store: Arc<dyn Store>,
    /// Where its transactions are counted.
    pub metrics: Arc<LogicMetrics>,
    /// What it may use.
    pub memory: Memory,
    /// What it has used in the present call.
    pub meter: Meter,
    /// What `wasi:config/store` answers.
    pub settings: WasiConfigVariables,
    wasi: WasiCtx,
    table: ResourceTable,
}

impl Instance {
    /// A sandbox with no files, no network, no environment and no arguments.
    pub fn new(
        store: Arc<dyn Store>,
        settings: &[(String, String)],
        limits: &Limits,
        metrics: Arc<LogicMetrics>,
        log_lines: Arc<AtomicU32>,
    ) -> Self {
        Self {
            store,
            metrics,
            memory: Memory { bytes: 0, bytes_max: limits.memory_bytes },
            meter: Meter::new(limits.cpu),
            settings: settings.iter().cloned().collect(),
            wasi: WasiCtx::builder()
                .allow_tcp(false)
                .allow_udp(false)
                .stderr(ErrorOutput { lines: log_lines })
                .build(),
            table: ResourceTable::new(),
        }
    }
}

/// The memories of one instance: what they have grown to, and what they may.
pub struct Memory {
    /// Bytes of all memories together, which never become fewer.
    pub bytes: usize,
    bytes_max: usize,
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        if bytes > self.bytes_max || maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.bytes = bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|maximum| desired <= maximum))
    }
}

impl WasiView for Instance {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

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
    fn new(limit: Duration) -> Self {
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

/// The guest's error output, as lines of the log.
#[derive(Clone)]
struct ErrorOutput {
    /// How many were logged, by all instances.
    lines: Arc<AtomicU32>,
}

impl IsTerminal for ErrorOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ErrorOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for ErrorOutput {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.lines.fetch_add(1, Ordering::Relaxed) < LOG_LINES_MAX {
            let shown = &bytes[..bytes.len().min(LOG_LINE_BYTES_MAX)];
            let text = String::from_utf8_lossy(shown);
            tracing::warn!(output = text.trim_end(), "the component wrote to its error output");
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
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
