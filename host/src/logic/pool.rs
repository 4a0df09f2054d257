//! Warm instances of one generation: check one out, call it once, check it in.
//! An instance that trapped, ran out of time or lost its caller is dropped, one
//! that has served long enough is retired. No instance ever runs two calls.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::logic::component::{Loaded, Warm};
use crate::logic::instance::Instance;
use crate::logic::{Failure, Limits};
use crate::store::Store;
use crate::telemetry::LogicMetrics;

/// Calls that every instance may serve; up to as many again are added by chance,
/// so that instances do not retire together.
const CALLS_MIN: u32 = 10_000;

/// Warm instances of one generation.
pub struct Pool {
    loaded: Loaded,
    store: Arc<dyn Store>,
    settings: Arc<[(String, String)]>,
    limits: Limits,
    metrics: Arc<LogicMetrics>,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    warm: Box<Warm>,
    calls_left: u32,
}

/// An instance that is out for one call.
pub struct Lease<'a> {
    pool: &'a Pool,
    idle: Option<Idle>,
    _permit: OwnedSemaphorePermit,
}

impl Pool {
    /// No instances yet.
    pub fn new(
        loaded: Loaded,
        store: Arc<dyn Store>,
        settings: Arc<[(String, String)]>,
        limits: Limits,
        metrics: Arc<LogicMetrics>,
    ) -> Self {
        Self { loaded, store, settings, limits, metrics, idle: Mutex::default() }
    }

    /// SHA-256 of the component.
    pub fn digest(&self) -> &str {
        &self.loaded.digest
    }

    /// Instances that wait for a call.
    pub fn idle(&self) -> usize {
        self.lock().len()
    }

    /// An instance for one call, warm or fresh; waits for a free place among
    /// `places` as long as the limits say.
    ///
    /// # Errors
    /// [`Failure::Overloaded`] when no place becomes free; [`Failure::Trapped`]
    /// when a fresh instance does not start.
    pub async fn lease(&self, places: &Arc<Semaphore>) -> Result<Lease<'_>, Failure> {
        let permit = match Arc::clone(places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let permit = Arc::clone(places).acquire_owned();
                match tokio::time::timeout(self.limits.wait, permit).await {
                    Ok(Ok(permit)) => permit,
                    _ => {
                        self.metrics.overloaded.inc();
                        return Err(Failure::Overloaded);
                    }
                }
            }
        };
        let idle = self.lock().pop();
        let idle = match idle {
            Some(idle) => idle,
            None => self.start().await?,
        };
        Ok(Lease { pool: self, idle: Some(idle), _permit: permit })
    }

    async fn start(&self) -> Result<Idle, Failure> {
        let instance = Instance::new(
            Arc::clone(&self.store),
            &self.settings,
            &self.limits,
            Arc::clone(&self.metrics),
        );
        let warm = self.loaded.instantiate(instance).await.map_err(|error| {
            tracing::error!(error = format!("{error:#}"), "an instance does not start");
            Failure::Trapped
        })?;
        let chance = u32::from(uuid::Uuid::new_v4().as_bytes()[0]) * (CALLS_MIN / 256);
        Ok(Idle { warm: Box::new(warm), calls_left: CALLS_MIN + chance })
    }

    /// No code panics while it holds this lock, which guards a push or a pop.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// What the call ended with.
    pub fn end<T>(mut self, result: wasmtime::Result<T>) -> Result<T, Failure> {
        let metrics = &self.pool.metrics;
        if let Some(idle) = &mut self.idle {
            idle.warm.store.data_mut().meter.pause();
            metrics.cpu_seconds.inc_by(idle.warm.store.data().meter.computed().as_secs_f64());
        }
        match result {
            Ok(value) => {
                metrics.answered.inc();
                if let Some(mut idle) = self.idle.take() {
                    idle.calls_left -= 1;
                    if idle.calls_left > 0 {
                        self.pool.lock().push(idle);
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
