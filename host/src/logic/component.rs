//! From bytes to a component that is ready to run: the engine it is compiled
//! for, what it may import, and its first instance.

use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};

use crate::logic::bindings::{SessionManager, SessionManagerPre, session};
use crate::logic::instance::Instance;
use crate::logic::{Limits, LoadError};

/// How often running guests are looked at.
pub const TICK: Duration = Duration::from_millis(10);
/// Generations that may have instances at the same time: the current one, the
/// one that drains, and one on trial.
const GENERATIONS_ALIVE: u32 = 3;
/// The core instances, memories and tables of one component, with room.
const CORE_INSTANCES_MAX: u32 = 8;
/// What a component may import; the rest of WASI is not there.
const OFFERED: [&str; 7] = [
    "session:manager/",
    "wasi:config/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:random/",
];

/// A component ready to be instantiated.
pub struct Loaded {
    /// SHA-256 of its bytes, in hexadecimal.
    pub digest: String,
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

/// The engine that all generations share, with a thread that ticks for it.
///
/// # Errors
/// When the machine does not offer the address space for so many instances.
pub fn engine(limits: &Limits) -> Result<Engine, LoadError> {
    let slots = limits.instances * GENERATIONS_ALIVE;
    let mut pool = PoolingAllocationConfig::new();
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
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).map_err(|error| LoadError::Engine(error.to_string()))?;
    let weak = engine.weak();
    std::thread::Builder::new()
        .name("logic-ticker".into())
        .spawn(move || {
            while let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(TICK);
            }
        })
        .map_err(|error| LoadError::Engine(error.to_string()))?;
    Ok(engine)
}

impl Loaded {
    /// Compiles a component and checks what it imports and exports. Takes up to
    /// seconds of processor time: never call it on a thread that serves.
    ///
    /// # Errors
    /// What the author of the component has to mend.
    pub fn compile(engine: &Engine, bytes: &[u8]) -> Result<Self, LoadError> {
        let component = Component::from_binary(engine, bytes)
            .map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
        for (name, _) in component.component_type().imports(engine) {
            if !OFFERED.iter().any(|offered| name.starts_with(offered)) {
                return Err(LoadError::Import(name.into()));
            }
        }
        let linker = linker(engine).map_err(|error| LoadError::Engine(error.to_string()))?;
        let pre = linker
            .instantiate_pre(&component)
            .and_then(SessionManagerPre::new)
            .map_err(|error| LoadError::World(format!("{error:#}")))?;
        let digest = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { digest, engine: engine.clone(), pre })
    }

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

fn linker(engine: &Engine) -> wasmtime::Result<Linker<Instance>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_config::add_to_linker(&mut linker, |instance: &mut Instance| {
        wasmtime_wasi_config::WasiConfig::from(&instance.settings)
    })?;
    session::manager::store::add_to_linker::<_, HasSelf<Instance>>(&mut linker, |i| i)?;
    session::manager::tokens::add_to_linker::<_, HasSelf<Instance>>(&mut linker, |i| i)?;
    session::manager::faults::add_to_linker::<_, HasSelf<Instance>>(&mut linker, |i| i)?;
    Ok(linker)
}
