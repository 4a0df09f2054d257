//! The logic engine: runs the rules of the component. A call pins one
//! generation from start to end, borrows one of its warm instances, and is
//! limited in processor time and memory. Only this room knows wasmtime.

mod bindings;
#[cfg(not(feature = "native-rules"))]
mod booking;
mod component;
mod conversions;
mod imports;
mod instance;
#[cfg(feature = "native-rules")]
mod native;
mod pool;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;

pub use bindings::exports::session::manager::booking::{
    Field, LockGrant, Session, StoredField, Value, Write, Written,
};
pub use bindings::exports::session::manager::catalog::{Context, Description, Kind};
pub use bindings::session::manager::faults::{Fault, Reason, Violation};

use crate::store::Store;
use crate::telemetry::Metrics;
use component::Loaded;
use pool::{Places, Pool};

/// The component this host was built with.
pub const BUILT_IN: &[u8] = include_bytes!(env!("SESSION_COMPONENT"));

/// What a component may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls at the same time, and so instances.
    pub instances: u32,
    /// How long a call waits for an instance.
    pub wait: Duration,
    /// Processor time of one call, without waiting for the store.
    pub cpu: Duration,
    /// Memory of one instance.
    pub memory_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instances: 256,
            wait: Duration::from_millis(500),
            cpu: Duration::from_millis(100),
            memory_bytes: 64 << 20,
        }
    }
}

/// Why bytes are not a component that can serve.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The host cannot run any component.
    #[error("the engine does not start: {0}")]
    Engine(String),
    /// Not a component, or one that does not compile.
    #[error("not a valid component: {0}")]
    Invalid(String),
    /// It asks for more than the world offers.
    #[error("it imports {0}, which the host does not offer")]
    Import(String),
    /// It lacks what the world demands.
    #[error("it does not fit the world session:manager/session-manager: {0}")]
    World(String),
    /// It does not describe itself.
    #[error("its first instance failed")]
    Trial,
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum Failure {
    /// A rule said no.
    Fault(Fault),
    /// Too many calls at the same time.
    Overloaded,
    /// The component computed for too long.
    TimedOut,
    /// The component trapped.
    Trapped,
}

/// One loaded component and its instances.
pub struct Generation {
    /// Counts up from 1.
    pub number: u64,
    /// What the component says of itself.
    pub description: Arc<Description>,
    pool: Pool,
}

impl Generation {
    /// SHA-256 of the component, in hexadecimal.
    pub fn digest(&self) -> &str {
        self.pool.digest()
    }
}

/// The engine and its current generation.
pub struct Logic {
    current: ArcSwap<Generation>,
    places: Arc<Places>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

impl Logic {
    /// Compiles `bytes` and makes it the first generation.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub async fn start(
        bytes: Bytes,
        store: Arc<dyn Store>,
        settings: Vec<(String, String)>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, LoadError> {
        let for_compiling = limits.clone();
        let compiling = tokio::task::spawn_blocking(move || {
            Loaded::compile(&component::engine(&for_compiling)?, &bytes)
        });
        let loaded = compiling.await.map_err(|error| LoadError::Engine(error.to_string()))??;
        let places = Arc::new(Places::new(limits.instances));
        let pool = Pool::new(
            loaded,
            store,
            settings.into(),
            limits.clone(),
            Arc::clone(&metrics),
            Arc::clone(&places),
        );
        let mut lease = pool.lease().await.map_err(|_| LoadError::Trial)?;
        let warm = lease.warm();
        let described = warm.exports.session_manager_catalog().call_describe(&mut warm.store).await;
        let description = Arc::new(lease.end(described).map_err(|_| LoadError::Trial)?);
        let current = ArcSwap::from_pointee(Generation { number: 1, description, pool });
        metrics.generation.set(1);
        Ok(Self { current, places, limits, metrics })
    }

    /// The generation that the next call will run on.
    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Brings the gauges of instances up to date.
    pub fn measure(&self) {
        let alive = self.limits.instances as usize - self.places.free();
        let idle = self.current.load().pool.idle();
        let busy = alive.saturating_sub(idle);
        self.metrics.instances_busy.set(i64::try_from(busy).unwrap_or(i64::MAX));
        self.metrics.instances_idle.set(i64::try_from(idle).unwrap_or(i64::MAX));
    }
}
