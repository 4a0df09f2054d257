//! Warm instances of one generation: check one out, call it once, check it in.
//! An instance that trapped, ran out of time or lost its caller is dropped, one
//! that has served long enough is retired. No instance ever runs two calls.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::logic::component::Warm;
use crate::logic::failure::Failure;
use crate::logic::instance::Instance;
use crate::logic::limits::Limits;
use crate::logic::trial::Program;
use crate::telemetry::Metrics;
use crate::workers::PerWorker;
use session_store::Store;

/// Calls that every instance may serve; up to as many again are added by chance,
/// so that instances do not retire together.
const CALLS_MIN: u32 = 10_000;

/// An instance whose memory has grown beyond this is dropped after its call: memory never
/// shrinks, and a few large sessions would leave every instance at its largest.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// The bound on instances, shared by all generations, and the callers that wait
/// for one.
pub struct Permits {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
    returned: Notify,
}

impl Permits {
    /// Permits for `instances` instances.
    pub fn new(instances: u32) -> Self {
        Self {
            free: Arc::new(Semaphore::new(instances as usize)),
            waiting: AtomicUsize::new(0),
            returned: Notify::new(),
        }
    }

    /// How many more instances may start.
    pub fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// Wakes a caller, because an instance or a permit may have become free.
    fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.returned.notify_one();
        }
    }
}

/// The parts that instances are made with, the same for all generations.
pub struct Provisions {
    /// Where transactions go.
    pub store: Arc<dyn Store>,
    /// What `wasi:config/store` answers.
    pub settings: Arc<[(String, String)]>,
    /// The limits of an instance.
    pub limits: Limits,
    /// Where all is counted.
    pub metrics: Arc<Metrics>,
    /// The bound on their number.
    pub permits: Permits,
}

/// Warm instances of one generation.
pub struct Pool {
    program: Arc<Program>,
    provisions: Arc<Provisions>,
    /// A stack for each worker and one for all other threads. An instance stays with
    /// the core whose caches hold its memory, and the last one used comes first. None
    /// once the generation was replaced: instances that come back then are dropped.
    idle: PerWorker<Mutex<Option<Vec<Idle>>>>,
    /// Held by every instance, so that they can be counted.
    live: Arc<()>,
}

struct Idle {
    warm: Box<Warm>,
    calls_left: u32,
    _live: Arc<()>,
    // The last field, because the permit may be free only when the instance is dropped.
    _permit: OwnedSemaphorePermit,
}

/// Why there is no instance.
pub enum NoLease {
    /// The generation was replaced before the call had begun: it belongs on the next.
    Retired,
    /// The call has no answer.
    Failed(Failure),
}

/// The generation was replaced.
struct Retired;

impl From<Retired> for NoLease {
    fn from(_: Retired) -> Self {
        Self::Retired
    }
}

/// An instance that is out for one call.
pub struct Lease<'a> {
    pool: &'a Pool,
    idle: Option<Idle>,
}

impl Pool {
    /// No instances yet.
    pub fn new(program: Arc<Program>, provisions: Arc<Provisions>) -> Self {
        let idle = PerWorker::new(|| Mutex::new(Some(Vec::new())));
        Self { program, provisions, idle, live: Arc::default() }
    }

    /// Where its instances send their transactions.
    #[cfg(feature = "native-rules")]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.provisions.store
    }

    /// Instances that exist.
    pub fn live(&self) -> usize {
        Arc::strong_count(&self.live) - 1
    }

    /// Instances that wait for a call.
    pub fn idle(&self) -> usize {
        self.idle.iter().map(|stack| lock(stack).as_ref().map_or(0, Vec::len)).sum()
    }

    /// Drops the instances that wait for a call, and from now on every one that comes
    /// back from its call: their permits are for the instances of the next generation.
    pub fn retire(&self) {
        for stack in self.idle.iter() {
            let idle = lock(stack).take();
            drop(idle);
        }
        // Callers that wait for one of them have to wait on the next generation instead.
        self.provisions.permits.returned.notify_waiters();
        self.provisions.permits.wake();
    }

    fn pop(stack: &Mutex<Option<Vec<Idle>>>) -> Result<Option<Idle>, Retired> {
        lock(stack).as_mut().map(Vec::pop).ok_or(Retired)
    }

    /// Keeps an instance for the next call.
    fn push(&self, idle: Idle) {
        let mut stack = lock(self.idle.own());
        if let Some(stack) = &mut *stack {
            stack.push(idle);
        } else {
            // An instance takes longer to drop than others should wait.
            drop(stack);
            drop(idle);
        }
    }

    /// An instance for one call: a warm one of this worker, a fresh one, a warm
    /// one of another worker; or, behind the callers that wait already, the next that
    /// comes back, for as long as the limits say.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] when none comes back; [`Failure::Trapped`] when a
    /// fresh one does not start; [`NoLease::Retired`] when the generation is replaced
    /// before one is found.
    pub async fn lease(&self) -> Result<Lease<'_>, NoLease> {
        // From here on the end of this call, in any way, wakes a waiting caller.
        let mut lease = Lease { pool: self, idle: None };
        if self.provisions.permits.waiting.load(Ordering::SeqCst) == 0 {
            lease.idle = match Self::pop(self.idle.own())? {
                Some(idle) => Some(idle),
                None => self.find().await?,
            };
        }
        if lease.idle.is_none() {
            lease.idle = Some(self.wait().await?);
        }
        Ok(lease)
    }

    /// An instance that is available at once.
    async fn find(&self) -> Result<Option<Idle>, NoLease> {
        if lock(self.idle.own()).is_none() {
            return Err(NoLease::Retired);
        }
        if let Ok(permit) = Arc::clone(&self.provisions.permits.free).try_acquire_owned() {
            return self.start(permit).await.map(Some).map_err(NoLease::Failed);
        }
        for stack in self.idle.iter() {
            if let Some(idle) = Self::pop(stack)? {
                return Ok(Some(idle));
            }
        }
        Ok(None)
    }

    async fn wait(&self) -> Result<Idle, NoLease> {
        let Provisions { permits, limits, metrics, .. } = &*self.provisions;
        let mut waiting = Waiting::begin(permits);
        let found = tokio::time::timeout(limits.wait, async {
            let mut next = waiting.first;
            loop {
                let mut returned = pin!(permits.returned.notified());
                // From here on no return goes unnoticed, so look once more; but
                // not before those who came earlier.
                returned.as_mut().enable();
                if next && let Some(idle) = self.find().await? {
                    return Ok(idle);
                }
                if lock(self.idle.own()).is_none() {
                    return Err(NoLease::Retired);
                }
                returned.await;
                next = true;
            }
        });
        let found = found.await;
        // If one more is available, the next caller in line need not wait for this call.
        waiting.served = matches!(found, Ok(Ok(_))) && permits.free() == 0 && self.idle() == 0;
        found.unwrap_or_else(|_| {
            metrics.counts().logic.overloaded.inc();
            Err(NoLease::Failed(Failure::Overloaded))
        })
    }

    async fn start(&self, permit: OwnedSemaphorePermit) -> Result<Idle, Failure> {
        let Provisions { store, settings, limits, metrics, .. } = &*self.provisions;
        let Limits { memory_bytes, cpu, .. } = *limits;
        let metrics = &metrics.counts().logic;
        let lines = Arc::clone(&self.program.log_lines);
        let instance = Instance::new(
            Arc::clone(store),
            settings,
            memory_bytes,
            cpu,
            Arc::clone(metrics),
            lines,
        );
        let warm = self.program.loaded.instantiate(instance).await.map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "an instance does not start");
            metrics.trapped.inc();
            Failure::Trapped
        })?;
        let chance = u32::from(uuid::Uuid::new_v4().as_bytes()[0]) * (CALLS_MIN / 256);
        Ok(Idle {
            warm: Box::new(warm),
            calls_left: CALLS_MIN + chance,
            _live: Arc::clone(&self.live),
            _permit: permit,
        })
    }
}

/// No code panics while it holds this lock, which guards a push or a pop.
fn lock(stack: &Mutex<Option<Vec<Idle>>>) -> MutexGuard<'_, Option<Vec<Idle>>> {
    stack.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A caller that waits, which is counted.
struct Waiting<'a> {
    permits: &'a Permits,
    /// No other caller waited before.
    first: bool,
    /// It took the instance or permit that it was woken for, and there is no other.
    served: bool,
}

impl<'a> Waiting<'a> {
    fn begin(permits: &'a Permits) -> Self {
        let before = permits.waiting.fetch_add(1, Ordering::SeqCst);
        Self { permits, first: before == 0, served: false }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.permits.waiting.fetch_sub(1, Ordering::SeqCst);
        if !self.served {
            self.permits.wake();
        }
    }
}

impl Drop for Lease<'_> {
    /// An instance that was not taken back is dropped, which frees its permit.
    fn drop(&mut self) {
        drop(self.idle.take());
        self.pool.provisions.permits.wake();
    }
}

impl Lease<'_> {
    /// The instance, its meter started.
    pub fn warm(&mut self) -> &mut Warm {
        let warm = &mut self.idle.as_mut().expect("a lease holds its instance until it ends").warm;
        warm.store.data_mut().meter.start();
        warm.store.set_epoch_deadline(1);
        warm
    }

    /// Ends the call: takes the instance back, unless it trapped.
    ///
    /// # Errors
    /// The failure of the call.
    pub fn end<T>(mut self, result: wasmtime::Result<T>) -> Result<T, Failure> {
        let metrics = &self.pool.provisions.metrics.counts().logic;
        if let Some(idle) = &mut self.idle {
            let meter = &mut idle.warm.store.data_mut().meter;
            meter.pause(Instant::now());
            metrics.cpu_seconds.inc_by(meter.computed().as_secs_f64());
        }
        match result {
            Ok(value) => {
                metrics.answered.inc();
                if let Some(mut idle) = self.idle.take() {
                    idle.calls_left -= 1;
                    let grown = idle.warm.store.data().memory.bytes > KEPT_BYTES_MAX;
                    if idle.calls_left > 0 && !grown {
                        self.pool.push(idle);
                    }
                }
                Ok(value)
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "a call of the component failed");
                match error.downcast_ref::<wasmtime::Trap>() {
                    Some(wasmtime::Trap::Interrupt) => {
                        metrics.timed_out.inc();
                        Err(Failure::TimedOut)
                    }
                    _ => {
                        metrics.trapped.inc();
                        Err(Failure::Trapped)
                    }
                }
            }
        }
    }
}
