//! The limits on what a component uses of the process.

use std::time::Duration;

use crate::logic::compiler::Compiler;

/// The limits of a component.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Calls at the same time, and so instances.
    pub instances: u32,
    /// How long a call waits for an instance.
    pub wait: Duration,
    /// Processor time of one call, without waiting for the store.
    pub cpu: Duration,
    /// All memories of one instance together.
    pub memory_bytes: usize,
    /// Processor time of compiling a component that we were not built with.
    pub compile: Duration,
    /// Where such a component is compiled.
    pub compiler: Compiler,
}

impl Limits {
    /// The limits of a process with this many instances. Foreign components are compiled in a
    /// process of their own.
    ///
    /// # Errors
    /// When the system does not say which program runs.
    pub fn of_process(instances: u32) -> std::io::Result<Self> {
        Ok(Self { instances, compiler: Compiler::apart()?, ..Self::default() })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instances: 256,
            wait: Duration::from_millis(500),
            cpu: Duration::from_millis(100),
            memory_bytes: 64 << 20,
            compile: Duration::from_secs(120),
            compiler: Compiler::Here,
        }
    }
}
