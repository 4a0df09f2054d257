//! From bytes to a component that is ready to run: the engine it is compiled
//! for, its imports, and its first instance.

use std::io::Write;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{
    Config, Engine, EngineWeak, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    RegallocAlgorithm, Store,
};

use crate::logic::bindings::session;
use crate::logic::exports::{Exports, Indices, Interface};
use crate::logic::instance::{Instance, TABLE_ELEMENTS_MAX};

/// The most core instances of one instance: as many as there may be modules.
const CORE_INSTANCES_MAX: u32 = 48;
/// The most memories and tables of one instance.
pub const MEMORIES_MAX: u32 = 4;
pub const TABLES_MAX: u32 = 16;

/// A component ready to be instantiated. It has an engine of its own: what the
/// engine gathers while it compiles goes when the component does.
pub struct Loaded {
    engine: Engine,
    pre: InstancePre<Instance>,
    indices: Indices,
}

/// An instance and the sandbox it runs in.
pub struct Warm {
    /// The sandbox.
    pub store: Store<Instance>,
    /// The exports.
    pub exports: Exports,
}

/// A compiled component: code for this engine, and what an instance of it needs.
pub struct Artifact {
    code: Vec<u8>,
    memories: u32,
    tables: u32,
}

impl Artifact {
    /// Reads what [`Self::write`] wrote; none when that is not whole.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (memories, rest) = bytes.split_first_chunk::<4>()?;
        let (tables, code) = rest.split_first_chunk::<4>()?;
        let [memories, tables] = [*memories, *tables].map(u32::from_le_bytes);
        Some(Self { code: code.to_vec(), memories, tables })
    }

    /// Writes it for another process of this program.
    ///
    /// # Errors
    /// When the other process does not read it.
    pub fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        to.write_all(&self.memories.to_le_bytes())?;
        to.write_all(&self.tables.to_le_bytes())?;
        to.write_all(&self.code)?;
        to.flush()
    }

    /// Whether an instance stays within its bounds.
    fn check(&self) -> Result<(), String> {
        for (what, count, most) in
            [("memories", self.memories, MEMORIES_MAX), ("tables", self.tables, TABLES_MAX)]
        {
            if count > most {
                return Err(format!("an instance has {count} {what}, {most} are accepted"));
            }
        }
        Ok(())
    }
}

/// A compiled component that has not met its imports.
pub struct Compiled {
    engine: Engine,
    component: Component,
}

/// Compiles a component. Takes up to minutes of processor time: never call it on a
/// thread that serves.
///
/// # Errors
/// When it does not compile, or an instance of it would have too much.
pub fn compile(bytes: &[u8], parallel: bool) -> Result<Artifact, String> {
    let compiling = || {
        let engine = Engine::new(config().parallel_compilation(parallel))?;
        let component = Component::from_binary(&engine, bytes)?;
        let needed = component.resources_required();
        let needed = needed.ok_or_else(|| wasmtime::format_err!("it imports modules"))?;
        let (memories, tables) = (needed.num_memories, needed.num_tables);
        Ok(Artifact { code: component.serialize()?, memories, tables })
    };
    let compiled: wasmtime::Result<Artifact> = compiling();
    let artifact = compiled.map_err(|error| format!("it does not compile: {error:#}"))?;
    artifact.check()?;
    Ok(artifact)
}

/// The target that code is compiled for. How instances are allocated makes no difference to it.
fn config() -> Config {
    let mut config = Config::new();
    config.concurrency_support(false).epoch_interruption(true);
    // In a debug build the compiler itself is slow, and each test starts a server.
    if cfg!(debug_assertions) {
        config
            .cranelift_opt_level(OptLevel::None)
            .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
    }
    config
}

/// Makes room for the instances of a compiled component.
///
/// # Errors
/// When the machine does not offer the address space.
pub fn load(artifact: &Artifact, instances: u32, memory_bytes: usize) -> Result<Compiled, String> {
    artifact.check()?;
    let mut pool = PoolingAllocationConfig::new();
    // One more, for the instance on trial.
    let slots = instances + 1;
    pool.total_component_instances(slots)
        .total_core_instances(slots * CORE_INSTANCES_MAX)
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .total_memories(slots * artifact.memories)
        .max_memories_per_component(artifact.memories)
        .total_tables(slots * artifact.tables)
        .max_tables_per_component(artifact.tables)
        .table_elements(TABLE_ELEMENTS_MAX)
        .total_stacks(slots)
        .max_memory_size(memory_bytes);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    let engine = Engine::new(&config).map_err(|error| {
        format!(
            "this host has no address space for {instances} more instances, fewer LOGIC_INSTANCES \
             need less: {error:#}"
        )
    })?;
    // SAFETY: the code comes from this program's own compiler, in this process or in one
    // that this process has started and whose output no other process can write to.
    #[allow(unsafe_code, reason = "compiled code is trusted, and only our compiler makes it")]
    let component = unsafe { Component::deserialize(&engine, &artifact.code) };
    let component = component.map_err(|error| format!("it cannot be loaded: {error:#}"))?;
    Ok(Compiled { engine, component })
}

impl Compiled {
    /// Binds the imports of the component to the host, and the host to its exports, of which
    /// the optional ones are `served`.
    ///
    /// # Errors
    /// When it imports what the host does not have, or has with another type.
    pub fn link(self, served: &[Interface]) -> wasmtime::Result<Loaded> {
        let pre = linker(&self.engine)?.instantiate_pre(&self.component)?;
        let indices = Indices::find(&pre, served)?;
        Ok(Loaded { engine: self.engine, pre, indices })
    }
}

impl Loaded {
    /// The engine of its instances, for the ticker.
    pub fn engine(&self) -> EngineWeak {
        self.engine.weak()
    }

    /// A fresh instance.
    ///
    /// # Errors
    /// When the component traps while it starts, or no slot is free.
    pub async fn instantiate(&self, instance: Instance) -> wasmtime::Result<Warm> {
        let mut store = Store::new(&self.engine, instance);
        store.limiter(|instance| &mut instance.memory);
        store.epoch_deadline_callback(|mut context| Ok(context.data_mut().meter.tick()));
        store.data_mut().meter.start();
        store.set_epoch_deadline(1);
        let instance = self.pre.instantiate_async(&mut store).await?;
        let exports = self.indices.load(&mut store, &instance)?;
        Ok(Warm { store, exports })
    }
}

/// SHA-256, in hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
