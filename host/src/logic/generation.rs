//! Generations: which component answers, which did, and how one gives way to the
//! next. A call pins the generation it begins on; one that was replaced ends when
//! its last call does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::logic::bindings::exports::session::manager::catalog::Description;
use crate::logic::exports::Interface;
use crate::logic::pool::{Pool, Provisions};
use crate::logic::trial::{Program, Source};
use session_store::clock::{Clock, Milliseconds};

/// How long a new generation is watched.
const PROBATION: Duration = Duration::from_secs(60);
/// How many calls may fail in that time before the one before it comes back.
const FAILURES_MAX: u32 = 5;
/// How many generations can be rolled back.
const UNDO_MAX: usize = 3;
/// How many generations the history has.
const HISTORY_MAX: usize = 20;
/// How many digests are in quarantine; the oldest makes room.
const QUARANTINE_MAX: usize = 64;

/// One loaded component and its instances.
pub struct Generation {
    /// Counts up from 1.
    pub number: u64,
    /// When it began to answer.
    pub since: Milliseconds,
    pub(super) program: Arc<Program>,
    pub(super) pool: Pool,
    probation: Option<Probation>,
}

struct Probation {
    began: Instant,
    failures: AtomicU32,
}

/// Why a generation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Another was swapped in.
    Replaced,
    /// An operator went back to the one before.
    RolledBack,
    /// Its calls kept failing.
    Failed,
}

/// The entry of a generation in the history.
#[derive(Clone)]
pub struct Past {
    /// Its number.
    pub number: u64,
    /// SHA-256 of the component, in hexadecimal.
    pub digest: String,
    /// Where the component came from.
    pub source: Source,
    /// The version the component gave itself.
    pub version: String,
    /// When it began to answer.
    pub since: Milliseconds,
    /// When and why it ended; none for the present one.
    pub ended: Option<(Milliseconds, End)>,
    generation: Weak<Generation>,
}

/// A program that a rollback can return to.
pub struct Predecessor {
    /// The program.
    pub program: Arc<Program>,
    /// It was watched for as long as new ones are, and did not fail.
    pub proved: bool,
}

/// The past generations, for reports and for rollbacks.
#[derive(Default)]
pub struct History {
    past: VecDeque<Past>,
    undo: Vec<Predecessor>,
    quarantine: VecDeque<String>,
}

impl Generation {
    /// A generation that has not answered yet; a new one is watched at first.
    pub fn new(
        number: u64,
        program: Arc<Program>,
        provisions: Arc<Provisions>,
        watched: bool,
    ) -> Self {
        let pool = Pool::new(Arc::clone(&program), provisions);
        let probation =
            watched.then(|| Probation { began: Instant::now(), failures: AtomicU32::new(0) });
        Self { number, since: Clock::System.now(), program, pool, probation }
    }

    /// SHA-256 of the component, in hexadecimal.
    pub fn digest(&self) -> &str {
        &self.program.digest
    }

    /// Where the component came from.
    pub fn source(&self) -> Source {
        self.program.source
    }

    /// How many bytes the component had.
    pub fn size(&self) -> usize {
        self.program.size
    }

    /// The component's description of itself.
    pub fn description(&self) -> &Description {
        &self.program.description
    }

    /// The optional interfaces that the component exports.
    pub fn served(&self) -> &[Interface] {
        &self.program.served
    }

    /// Whether the component exports an interface.
    pub fn serves(&self, interface: Interface) -> bool {
        self.served().contains(&interface)
    }

    /// Instances that exist, and those of them that wait for a call.
    pub fn instances(&self) -> (usize, usize) {
        (self.pool.live(), self.pool.idle())
    }

    /// A call has failed by the component's fault. Whether that was one too many
    /// for a new generation; said once.
    pub fn failed(&self) -> bool {
        let Some(Probation { failures, .. }) = &self.probation else { return false };
        !self.proved() && failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES_MAX
    }

    /// Whether it need not be watched any more.
    pub fn proved(&self) -> bool {
        self.probation.as_ref().is_none_or(|probation| probation.began.elapsed() >= PROBATION)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        tracing::info!(generation = self.number, "the last call of a generation has ended");
    }
}

impl Past {
    /// Its instances that still exist.
    pub fn live_instances(&self) -> usize {
        self.generation.upgrade().map_or(0, |generation| generation.pool.live())
    }
}

impl History {
    /// The one before has ended, and `generation` begins.
    pub fn begin(&mut self, generation: &Arc<Generation>, end: End) {
        if let Some(before) = self.past.back_mut() {
            before.ended = Some((generation.since, end));
        }
        if self.past.len() == HISTORY_MAX {
            self.past.pop_front();
        }
        self.past.push_back(Past {
            number: generation.number,
            digest: generation.digest().into(),
            source: generation.source(),
            version: generation.description().version.clone(),
            since: generation.since,
            ended: None,
            generation: Arc::downgrade(generation),
        });
    }

    /// Makes it possible to come back to `generation`. Returns the one that this is
    /// no longer possible for: dropping a program takes its time.
    pub fn keep(&mut self, generation: &Generation) -> Option<Predecessor> {
        let forgotten = (self.undo.len() == UNDO_MAX).then(|| self.undo.remove(0));
        let (program, proved) = (Arc::clone(&generation.program), generation.proved());
        self.undo.push(Predecessor { program, proved });
        forgotten
    }

    /// The generation to roll back to, which is then the present one.
    pub fn undo(&mut self) -> Option<Predecessor> {
        self.undo.pop()
    }

    /// The generations, the latest first.
    pub fn past(&self) -> Vec<Past> {
        self.past.iter().rev().cloned().collect()
    }

    /// Puts a component into quarantine.
    pub fn quarantine(&mut self, digest: &str) {
        self.undo.retain(|predecessor| predecessor.program.digest != digest);
        self.release(digest);
        if self.quarantine.len() == QUARANTINE_MAX {
            self.quarantine.pop_front();
        }
        self.quarantine.push_back(digest.into());
    }

    /// Takes a component out of quarantine.
    pub fn release(&mut self, digest: &str) {
        self.quarantine.retain(|other| other != digest);
    }

    /// The digests in quarantine.
    pub fn quarantined(&self) -> impl Iterator<Item = &str> {
        self.quarantine.iter().map(String::as_str)
    }
}
