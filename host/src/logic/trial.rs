//! The trial of a candidate: the gates, on a thread of its own. No thread that serves waits
//! for it, and nothing that it does reaches the store.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::logic::bindings::exports::session::manager::catalog::Description;
use crate::logic::compiler::Compiler;
use crate::logic::component::{self, Loaded};
use crate::logic::exports::Interface;
use crate::logic::gates::{COMPONENT_BYTES_MAX, Gate, Passed, Refusal, TOO_LARGE};
use crate::logic::instance::Instance;
use crate::logic::limits::Limits;
use crate::logic::meter::Ticker;
use crate::logic::schema;
use crate::logic::world::{self, World};
use crate::telemetry::Metrics;
use session_store::transaction::{Outcome, Txn};
use session_store::{Answer, Error, KeyCount, LogMark, Logs, Store, Takes};

/// How long the first instance may take to start and to describe itself, waiting
/// included.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How far a trial steps back behind the threads that serve, as `nice` counts.
const NICENESS: i32 = 10;
/// Compilers like to call themselves.
const STACK_BYTES: usize = 8 << 20;

/// Where a component came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host was built with it.
    BuiltIn,
    /// The file that COMPONENT names.
    File,
    /// An operator sent it.
    Upload,
}

impl Source {
    /// Its name in reports, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BuiltIn => "built-in",
            Self::File => "file",
            Self::Upload => "upload",
        }
    }
}

/// A component that has passed all gates that it can pass alone.
pub struct Program {
    /// SHA-256 of its bytes, in hexadecimal.
    pub digest: String,
    /// How many bytes it had.
    pub size: usize,
    /// Where it came from.
    pub source: Source,
    /// Its description of itself.
    pub description: Description,
    /// The optional interfaces that it exports.
    pub served: Vec<Interface>,
    /// How many lines its instances have logged.
    pub(super) log_lines: Arc<AtomicU32>,
    pub(super) loaded: Loaded,
}

/// The parts that a trial needs.
#[derive(Clone)]
pub struct Trial {
    /// The limits of an instance.
    pub limits: Limits,
    /// What `wasi:config/store` answers.
    pub settings: Arc<[(String, String)]>,
    /// Where all is counted.
    pub metrics: Arc<Metrics>,
    /// Ticks for what is loaded.
    pub ticker: Arc<Ticker>,
    /// Nothing is served yet, so compiling may take all processors.
    pub alone: bool,
}

impl Trial {
    /// Trials before anything is served.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn new(
        settings: Vec<(String, String)>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Refusal> {
        let ticker = Ticker::start().map_err(|error| {
            Refusal::new(Gate::Compiles, format!("there is no thread to watch it: {error}"))
        })?;
        Ok(Self { limits, settings: settings.into(), metrics, ticker, alone: true })
    }

    /// Leads a component through the gates, on this thread.
    ///
    /// # Errors
    /// The first gate that it does not pass.
    pub fn run(
        &self,
        bytes: &[u8],
        source: Source,
        quarantined: impl FnOnce(&str) -> bool,
        passed: &mut Passed,
    ) -> Result<Program, Refusal> {
        passed.gate(Gate::Size, || match bytes.len() {
            0 => Err("it is empty".into()),
            1..=COMPONENT_BYTES_MAX => Ok(()),
            _ => Err(TOO_LARGE.into()),
        })?;
        let digest = component::digest(bytes);
        passed.gate(Gate::Quarantine, || match quarantined(&digest) {
            false => Ok(()),
            true => Err("it was rolled back before because its calls kept failing; \
                         ?force=true lets it try again"
                .into()),
        })?;
        passed.gate(Gate::Valid, || world::valid(bytes))?;
        let world = passed.gate(Gate::Imports, || {
            let world = World::of(bytes)?;
            world.imports()?;
            Ok(world)
        })?;
        let served = passed.gate(Gate::Exports, || world.exports())?;
        let compiled = passed.gate(Gate::Compiles, || {
            let compiler = match source {
                Source::BuiltIn => &Compiler::Here,
                Source::File | Source::Upload => &self.limits.compiler,
            };
            let artifact = compiler.compile(bytes, self.limits.compile, self.alone)?;
            component::load(&artifact, self.limits.instances, self.limits.memory_bytes)
        })?;
        // The names were found before; now their types are compared as well.
        let loaded = compiled
            .link(&served)
            .map_err(|error| Refusal::new(Gate::Imports, format!("{error:#}")))?;
        self.ticker.add(loaded.engine());
        let description = self.describe(&loaded, passed)?;
        passed.gate(Gate::Describes, || schema::makes_sense(&description))?;
        let (size, log_lines) = (bytes.len(), Arc::default());
        Ok(Program { digest, size, source, description, served, log_lines, loaded })
    }

    /// Starts an instance and asks it to describe itself.
    fn describe(&self, loaded: &Loaded, passed: &mut Passed) -> Result<Description, Refusal> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime =
            runtime.map_err(|error| Refusal::new(Gate::Instantiates, error.to_string()))?;
        let metrics = Arc::clone(&self.metrics.counts().logic);
        let started = Instant::now();
        let starting = async {
            let Limits { memory_bytes, cpu, .. } = self.limits;
            let lines = Arc::default();
            let instance =
                Instance::new(Arc::new(NoStore), &self.settings, memory_bytes, cpu, metrics, lines);
            tokio::time::timeout(DESCRIBE_TIMEOUT, loaded.instantiate(instance)).await
        };
        let mut warm = runtime
            .block_on(starting)
            .map_err(|_| Refusal::new(Gate::Instantiates, "an instance of it never starts"))?
            .map_err(|error| {
                Refusal::new(
                    Gate::Instantiates,
                    format!("an instance of it does not start: {error:#}"),
                )
            })?;
        passed.0.push((Gate::Instantiates, started.elapsed()));
        warm.store.data_mut().meter.start();
        warm.store.set_epoch_deadline(1);
        let describing = async {
            let describing = warm.exports.catalog.call_describe(&mut warm.store);
            tokio::time::timeout(DESCRIBE_TIMEOUT, describing).await
        };
        runtime
            .block_on(describing)
            .map_err(|_| Refusal::new(Gate::Describes, "it never describes itself"))?
            .map_err(|error| {
                Refusal::new(Gate::Describes, format!("it does not describe itself: {error:#}"))
            })
    }
}

/// Runs `work` on a thread of its own that steps back behind those that serve,
/// unless there are none yet.
///
/// # Errors
/// When it ends without a result.
pub async fn aside<T: Send + 'static>(
    alone: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    let (sender, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("component-trial".into())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            if !alone && let Err(error) = rustix::process::nice(NICENESS) {
                tracing::debug!(%error, "the trial does not step back");
            }
            // The caller may be gone.
            drop(sender.send(work()));
        })
        .map_err(|error| {
            let message = format!("there is no thread to compile it on: {error}");
            Refusal::new(Gate::Compiles, message)
        })?;
    result.await.map_err(|_| {
        let message = "the compiler failed; what it said is in the log of the process";
        Refusal::new(Gate::Compiles, message)
    })
}

/// The store of a component on trial.
struct NoStore;

impl Store for NoStore {
    fn execute(&self, _: Txn) -> Answer<'_, Outcome> {
        let message = "a component on trial has no store";
        Box::pin(std::future::ready(Err(Error::Rejected(message.into()))))
    }

    fn read_logs<'a>(&'a self, _: &'a [LogMark], _: usize) -> Answer<'a, Logs> {
        Box::pin(std::future::ready(Ok(Logs { now: 0, pages: Vec::new() })))
    }

    fn empty_logs_ahead<'a>(&'a self, _: &'a [String]) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn count_keys<'a>(&'a self, _: &'a [String], _: &'a str) -> Answer<'a, KeyCount> {
        Box::pin(std::future::ready(Ok(KeyCount { keys: 0, next: None })))
    }

    fn ping(&self) -> Answer<'_, Takes> {
        Box::pin(std::future::ready(Ok(Takes::All)))
    }

    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "none"
    }
}
