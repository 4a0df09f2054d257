//! The engine: which generation answers, and how one gives way to the next. A call pins one
//! generation from start to end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::logic::bindings::exports::session::manager::catalog::Description;
use crate::logic::component;
use crate::logic::exports::Interface;
use crate::logic::failure::Failure;
use crate::logic::gates::{Gate, Passed, Refusal};
use crate::logic::generation::{End, Generation, History, Past};
use crate::logic::limits::Limits;
use crate::logic::pool::{Permits, Provisions};
use crate::logic::schema;
use crate::logic::trial::{Program, Source, Trial, aside};
use crate::telemetry::{Metrics, microseconds};
use session_store::Store;

/// The component this host was built with.
pub const BUILT_IN: &[u8] = include_bytes!(env!("SESSION_COMPONENT"));

/// The generations, and what they are made with.
pub struct Logic {
    pub(super) current: ArcSwap<Generation>,
    history: Mutex<History>,
    pub(super) provisions: Arc<Provisions>,
    trial: Trial,
    /// Components are tried one after the other.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// The result of a swap.
pub struct Swapped {
    /// The generation that answers now.
    pub generation: Arc<Generation>,
    /// The gates that were checked; none when the component was the running one already.
    pub passed: Passed,
}

/// Why a rollback is not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWayBack {
    /// Another generation runs than the one to roll back from.
    Changed,
    /// There is none before it.
    First,
}

impl Logic {
    /// Makes a component the first generation.
    ///
    /// # Errors
    /// The gate that the component does not pass.
    pub async fn start(
        bytes: Bytes,
        source: Source,
        store: Arc<dyn Store>,
        settings: Vec<(String, String)>,
        limits: Limits,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, Refusal> {
        let mut trial = Trial::new(settings, limits, metrics)?;
        let first = trial.clone();
        let program =
            aside(true, move || first.run(&bytes, source, |_| false, &mut Passed::default()));
        let program = Arc::new(program.await??);
        trial.alone = false;
        let provisions = Arc::new(Provisions {
            store,
            settings: Arc::clone(&trial.settings),
            limits: trial.limits.clone(),
            metrics: Arc::clone(&trial.metrics),
            permits: Permits::new(trial.limits.instances),
        });
        let first = Arc::new(Generation::new(1, program, Arc::clone(&provisions), false));
        let mut history = History::default();
        history.begin(&first, End::Replaced);
        trial.metrics.generation.set(1);
        Ok(Arc::new(Self {
            current: ArcSwap::new(first),
            history: Mutex::new(history),
            provisions,
            trial,
            turn: Arc::default(),
        }))
    }

    /// The generation that the next call will run on.
    pub fn generation(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    /// Whether the component that runs exports an interface.
    pub fn serves(&self, interface: Interface) -> bool {
        self.current.load().serves(interface)
    }

    /// The generations, the latest first.
    pub fn past(&self) -> Vec<Past> {
        self.history().past()
    }

    /// The digests of the components that were rolled back because they kept failing.
    pub fn quarantined(&self) -> Vec<String> {
        self.history().quarantined().map(Into::into).collect()
    }

    /// Leads a component through the gates and makes it the present generation.
    /// A swap that has begun continues when the caller goes away. With
    /// `force`, the component may lack what the running one has, and one that is in
    /// quarantine may try again.
    ///
    /// # Errors
    /// The gate that the component does not pass; the running one is untouched.
    pub async fn swap(
        self: &Arc<Self>,
        bytes: Bytes,
        source: Source,
        force: bool,
    ) -> Result<Swapped, Refusal> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let logic = Arc::clone(self);
        let swapping = tokio::spawn(async move {
            let swapped = logic.swap_now(bytes, source, force).await;
            drop(turn);
            swapped
        });
        swapping.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
    }

    async fn swap_now(
        &self,
        bytes: Bytes,
        source: Source,
        force: bool,
    ) -> Result<Swapped, Refusal> {
        let mut passed = Passed::default();
        let swapped = self.try_swap(bytes, source, force, &mut passed).await;
        for (gate, duration) in &passed.0 {
            let duration_us = microseconds(*duration);
            tracing::info!(source = source.name(), gate = gate.name(), duration_us, "gate passed");
            self.provisions.metrics.gate_passed(gate.name(), *duration);
        }
        match &swapped {
            Ok(generation) if passed.0.is_empty() => {
                tracing::info!(generation = generation.number, "the component runs already");
                self.provisions.metrics.swap(source.name(), "unchanged");
            }
            Ok(_) => self.provisions.metrics.swap(source.name(), "published"),
            Err(refusal) => self.refused(source, refusal),
        }
        swapped.map(|generation| Swapped { generation, passed })
    }

    /// Records a refused component in the log and the metrics.
    pub fn refused(&self, source: Source, refusal: &Refusal) {
        let (source, gate) = (source.name(), refusal.gate.name());
        tracing::warn!(source, gate, reason = refusal.message, "component refused");
        self.provisions.metrics.swap(source, "refused");
    }

    async fn try_swap(
        &self,
        bytes: Bytes,
        source: Source,
        force: bool,
        passed: &mut Passed,
    ) -> Result<Arc<Generation>, Refusal> {
        let running = self.generation();
        let kept_out = if force { Vec::new() } else { self.quarantined() };
        let (trial, present) = (self.trial.clone(), Arc::clone(&running));
        let tried = aside(false, move || {
            if present.size() == bytes.len() && present.digest() == component::digest(&bytes) {
                return None;
            }
            let mut passed = Passed::default();
            let quarantined = |digest: &str| kept_out.iter().any(|kept_out| kept_out == digest);
            let program = trial.run(&bytes, source, quarantined, &mut passed);
            Some((program, passed))
        });
        let Some((program, gates)) = tried.await? else { return Ok(running) };
        *passed = gates;
        self.publish(Arc::new(program?), force, passed).await
    }

    /// Makes a program the present generation. Nothing here steps back: callers wait for
    /// what the former one returns.
    async fn publish(
        &self,
        program: Arc<Program>,
        force: bool,
        passed: &mut Passed,
    ) -> Result<Arc<Generation>, Refusal> {
        let (generation, former, forgotten) = {
            let mut history = self.history();
            // With the history locked, what runs stays what it is.
            let running = self.generation();
            passed.gate(Gate::Schema, || keeps_sessions(&running.program, &program, force))?;
            history.release(&program.digest);
            let forgotten = history.keep(&running);
            let generation = self.begin(&mut history, program, true, End::Replaced);
            (generation, running, forgotten)
        };
        // Dropping many instances, or a program, takes its time.
        let retiring = tokio::task::spawn_blocking(move || {
            former.pool.retire();
            drop(forgotten);
        });
        drop(retiring.await);
        Ok(generation)
    }

    /// Rolls back to the generation before the present one, as a new one; with `from`,
    /// only when that is the number of the present one.
    ///
    /// # Errors
    /// Why a rollback is not possible.
    pub fn roll_back(&self, from: Option<u64>) -> Result<Arc<Generation>, NoWayBack> {
        self.undo(from, End::RolledBack)
    }

    fn undo(&self, from: Option<u64>, end: End) -> Result<Arc<Generation>, NoWayBack> {
        let mut history = self.history();
        let running = self.generation();
        if from.is_some_and(|from| from != running.number) {
            return Err(NoWayBack::Changed);
        }
        let back = history.undo().ok_or(NoWayBack::First)?;
        let generation = self.begin(&mut history, back.program, !back.proved, end);
        drop(history);
        let cause = if end == End::Failed { "failures" } else { "operator" };
        tracing::warn!(from = running.number, to = generation.number, cause, "rolled back");
        self.provisions.metrics.rolled_back(cause);
        // Dropping many instances takes its time.
        tokio::task::spawn_blocking(move || running.pool.retire());
        Ok(generation)
    }

    fn begin(
        &self,
        history: &mut History,
        program: Arc<Program>,
        watched: bool,
        end: End,
    ) -> Arc<Generation> {
        let number = self.generation().number + 1;
        let provisions = Arc::clone(&self.provisions);
        let generation = Arc::new(Generation::new(number, program, provisions, watched));
        history.begin(&generation, end);
        self.current.store(Arc::clone(&generation));
        self.provisions.metrics.generation.set(i64::try_from(number).unwrap_or(i64::MAX));
        tracing::info!(
            generation = number,
            digest = generation.digest(),
            version = generation.description().version,
            source = generation.source().name(),
            "a generation begins"
        );
        generation
    }

    /// A call has not begun, as there are too many.
    pub(super) fn overloaded(&self) -> Failure {
        self.provisions.metrics.counts().logic.overloaded.inc();
        Failure::Overloaded
    }

    /// A call on `generation` has ended with `failure`.
    #[cfg_attr(feature = "native-rules", allow(dead_code, reason = "linked rules do not trap"))]
    pub(super) fn failed(&self, generation: &Arc<Generation>, failure: &Failure) {
        if !matches!(failure, Failure::TimedOut | Failure::Trapped) || !generation.failed() {
            return;
        }
        self.history().quarantine(generation.digest());
        let number = generation.number;
        match self.undo(Some(number), End::Failed) {
            Err(NoWayBack::First) => tracing::error!(
                generation = number,
                "the component keeps failing, and there is none to go back to"
            ),
            // It has given way already.
            Ok(_) | Err(NoWayBack::Changed) => {}
        }
    }

    /// Brings the gauges of instances up to date.
    pub fn measure(&self) {
        let live = self.provisions.limits.instances as usize - self.provisions.permits.free();
        let idle = self.current.load().pool.idle();
        let busy = live.saturating_sub(idle);
        let metrics = &self.provisions.metrics;
        metrics.instances_busy.set(i64::try_from(busy).unwrap_or(i64::MAX));
        metrics.instances_idle.set(i64::try_from(idle).unwrap_or(i64::MAX));
    }

    /// No code panics while it holds this lock.
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leads a component through all gates, beside the one that `running` holds, and
/// serves neither. With `force`, it may lack what the running one has.
///
/// # Errors
/// The gate that the component does not pass; what it did pass is in `passed`.
pub fn check(
    bytes: &[u8],
    running: &[u8],
    settings: Vec<(String, String)>,
    limits: Limits,
    force: bool,
    passed: &mut Passed,
) -> Result<Description, Refusal> {
    let trial = Trial::new(settings, limits, Arc::new(Metrics::new()))?;
    let candidate = trial.run(bytes, Source::File, |_| false, passed)?;
    let running = trial.run(running, Source::BuiltIn, |_| false, &mut Passed::default());
    let running = running.map_err(|refusal| {
        let message = format!("the component to compare it with does not fit: {refusal}");
        Refusal::new(Gate::Schema, message)
    })?;
    passed.gate(Gate::Schema, || keeps_sessions(&running, &candidate, force))?;
    Ok(candidate.description)
}

/// Whether the sessions of the running component stay readable.
fn keeps_sessions(running: &Program, candidate: &Program, force: bool) -> Result<(), String> {
    let gone = running.served.iter().filter(|interface| !candidate.served.contains(interface));
    let mut lost: Vec<_> =
        gone.map(|interface| format!("the kind {} is gone", interface.name())).collect();
    lost.extend(schema::lost(&running.description, &candidate.description));
    if force || lost.is_empty() {
        return Ok(());
    }
    Err(format!("{}; ?force=true accepts that stored sessions lose it", lost.join("; ")))
}
