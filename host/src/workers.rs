//! The threads that serve. Each runs a scheduler of its own, and a connection
//! stays on one thread for its life, so that a request is never handed from core
//! to core. What each thread serves is not known here.

use std::cell::Cell;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;

/// How long work that blocks, such as a look-up of a name, may hold the end up.
const BLOCKING_PATIENCE: Duration = Duration::from_millis(100);

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the worker that runs this, counted from 0; `None` on any other
/// thread.
pub fn current() -> Option<usize> {
    CURRENT.get()
}

/// One of something for each worker, and one for everybody else, so that workers
/// need not share it.
pub struct PerWorker<T>(Box<[T]>);

impl<T> PerWorker<T> {
    /// Makes all of them.
    pub fn new(make: impl FnMut() -> T) -> Self {
        Self(std::iter::repeat_with(make).take(processors() + 1).collect())
    }

    /// That of whoever runs this.
    pub fn own(&self) -> &T {
        let everybody_else = self.0.len() - 1;
        &self.0[current().map_or(everybody_else, |worker| worker.min(everybody_else))]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

/// As many as there are processors for this process.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that serve until this is dropped.
pub struct Workers(Vec<Worker>);

struct Worker {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let mut workers = Self(Vec::with_capacity(count));
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let (stop, stopped) = oneshot::channel();
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            let thread = thread.spawn(move || {
                CURRENT.set(Some(number));
                // A sender that is gone means the same.
                drop(runtime.block_on(stopped));
                runtime.shutdown_timeout(BLOCKING_PATIENCE);
            })?;
            workers.0.push(Worker { handle, stop: Some(stop), thread: Some(thread) });
        }
        Ok(workers)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Runs one task on each worker; `task` makes it from the worker's share.
    pub fn spawn_on_each<S, F>(
        &self,
        shares: impl IntoIterator<Item = S>,
        mut task: impl FnMut(S) -> F,
    ) -> Vec<Task<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let spawn = |(worker, share): (&Worker, S)| worker.handle.spawn(task(share));
        self.0.iter().zip(shares).map(spawn).collect()
    }
}

impl Drop for Workers {
    /// Drops whatever still runs on the workers, and waits for their threads.
    fn drop(&mut self) {
        for worker in &mut self.0 {
            worker.stop.take();
        }
        for thread in self.0.iter_mut().filter_map(|worker| worker.thread.take()) {
            // A worker that panicked has nothing more to say.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_runs_its_share_on_a_thread_of_its_own() {
        let workers = Workers::start(3).expect("threads");
        let tasks = workers.spawn_on_each([10, 20, 30], |share| async move { (share, current()) });
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let ran = runtime.block_on(async {
            let mut ran = Vec::new();
            for task in tasks {
                ran.push(task.await.expect("no panic"));
            }
            ran
        });
        assert_eq!(ran, [(10, Some(0)), (20, Some(1)), (30, Some(2))]);
        assert_eq!(current(), None);
    }

    #[test]
    fn what_still_runs_is_dropped_with_the_workers() {
        let workers = Workers::start(1).expect("threads");
        let (kept, mut dropped) = oneshot::channel::<()>();
        let tasks = workers.spawn_on_each([kept], |kept| async move {
            std::future::pending::<()>().await;
            drop(kept);
        });
        drop(workers);
        assert_eq!(dropped.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(tasks[0].is_finished());
    }
}
