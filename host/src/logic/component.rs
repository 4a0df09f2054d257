//! From bytes to a component that is ready to run: the engine it is compiled
//! for, what it finds when it looks around, and its first instance.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    RegallocAlgorithm, Store,
};

use crate::logic::Limits;
use crate::logic::bindings::{SessionManager, SessionManagerPre, session};
use crate::logic::instance::Instance;

/// How often running guests are looked at.
pub const TICK: Duration = Duration::from_millis(10);
/// The core instances and tables of one component, with room.
const CORE_INSTANCES_MAX: u32 = 8;

/// A component ready to be instantiated. It has an engine of its own: what the
/// engine gathers while it compiles goes when the component does.
pub struct Loaded {
    engine: Engine,
    pre: SessionManagerPre<Instance>,
}

/// An instance and the sandbox it runs in.
pub struct Warm {
    /// The sandbox.
    pub store: Store<Instance>,
    /// The exports.
    pub exports: SessionManager,
}

/// A compiled component that has not met its imports.
pub struct Compiled {
    engine: Engine,
    component: Component,
}

/// Compiles a component. Takes up to seconds of processor time: never call it on a
/// thread that serves.
///
/// # Errors
/// When the machine does not offer the address space for its instances, or the
/// component does not compile.
pub fn compile(bytes: &[u8], limits: &Limits, parallel: bool) -> Result<Compiled, String> {
    let mut pool = PoolingAllocationConfig::new();
    // One more, for the instance on trial.
    let slots = limits.instances + 1;
    pool.total_component_instances(slots)
        .total_core_instances(slots * CORE_INSTANCES_MAX)
        .total_memories(slots)
        .total_tables(slots * CORE_INSTANCES_MAX)
        .total_stacks(slots)
        .max_memories_per_component(1)
        .max_memory_size(limits.memory_bytes);
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .epoch_interruption(true)
        .parallel_compilation(parallel)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    // In a debug build the compiler itself is slow, and each test starts a server.
    if cfg!(debug_assertions) {
        config
            .cranelift_opt_level(OptLevel::None)
            .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    }
    let engine = Engine::new(&config).map_err(|error| {
        format!(
            "this host has no address space for {} more instances, fewer LOGIC_INSTANCES need \
             less: {error:#}",
            limits.instances
        )
    })?;
    let component = Component::from_binary(&engine, bytes)
        .map_err(|error| format!("it does not compile: {error:#}"))?;
    Ok(Compiled { engine, component })
}

impl Compiled {
    /// Binds the imports of the component to the host.
    ///
    /// # Errors
    /// When it imports what the host does not have, or has with another type.
    pub fn link(self) -> wasmtime::Result<Loaded> {
        let linker = linker(&self.engine)?;
        let pre = linker.instantiate_pre(&self.component).and_then(SessionManagerPre::new)?;
        Ok(Loaded { engine: self.engine, pre })
    }
}

impl Loaded {
    /// A fresh instance.
    ///
    /// # Errors
    /// When the component traps while it starts, or no slot is free.
    pub async fn instantiate(&self, instance: Instance) -> wasmtime::Result<Warm> {
        let mut store = Store::new(&self.engine, instance);
        store.limiter(|instance| &mut instance.limits);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().meter.tick()));
        store.data_mut().meter.start();
        store.set_epoch_deadline(1);
        let exports = self.pre.instantiate_async(&mut store).await?;
        Ok(Warm { store, exports })
    }
}

/// SHA-256, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
    pub fn add(&self, loaded: &Loaded) {
        self.lock().push(loaded.engine.weak());
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

fn linker(engine: &Engine) -> wasmtime::Result<Linker<Instance>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |instance: &mut Instance| {
        wasmtime_wasi_config::WasiConfig::from(&instance.settings)
    })?;
    session::manager::store::add_to_linker::<_, HasSelf<Instance>>(&mut linker, |i| i)?;
    session::manager::tokens::add_to_linker::<_, HasSelf<Instance>>(&mut linker, |i| i)?;
    session::manager::faults::add_to_linker::<_, HasSelf<Instance>>(&mut linker, |i| i)?;
    refuse_to_sleep(&mut linker)?;
    Ok(linker)
}

/// A rule that sleeps would keep its instance for as long as it likes without
/// computing: there is nothing to wait for but the store.
fn refuse_to_sleep(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    // The version that wasmtime-wasi has; under another nothing would be replaced.
    let mut clock = linker.instance("wasi:clocks/monotonic-clock@0.2.12")?;
    for function in ["subscribe-duration", "subscribe-instant"] {
        clock
            .func_new(function, |_, _, _, _| Err(wasmtime::format_err!("a rule may not sleep")))?;
    }
    linker.allow_shadowing(false);
    Ok(())
}
