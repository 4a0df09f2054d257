//! The threads that serve. Each runs its own scheduler, and a connection stays on one thread for
//! its life, so a request is never moved between cores. What the threads serve is not known here.

use std::cell::Cell;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinHandle as Task;

/// How long blocking work, such as a name look-up, may delay the end.
const BLOCKING_TIMEOUT: Duration = Duration::from_millis(100);

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the current worker, from 0; `None` on any other thread.
pub fn current() -> Option<usize> {
    CURRENT.get()
}

/// One value for each worker, and one for all other threads, so that workers share none.
pub struct PerWorker<T>(Box<[T]>);

impl<T> PerWorker<T> {
    /// Makes all values.
    pub fn new(make: impl FnMut() -> T) -> Self {
        Self(std::iter::repeat_with(make).take(processors() + 1).collect())
    }

    /// The value of the current thread.
    pub fn own(&self) -> &T {
        let other_threads = self.0.len() - 1;
        &self.0[current().map_or(other_threads, |worker| worker.min(other_threads))]
    }

    /// All values.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }
}

/// The number of processors available to this process.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads that serve until the value is dropped.
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
    /// If the system cannot start a thread.
    pub fn start(count: usize) -> std::io::Result<Self> {
        let mut workers = Self(Vec::with_capacity(count));
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let (stop, stopped) = oneshot::channel();
            let thread = std::thread::Builder::new().name(format!("worker-{number}"));
            let thread = thread.spawn(move || {
                CURRENT.set(Some(number));
                // An error means that the sender is gone, which is a stop too.
                drop(runtime.block_on(stopped));
                runtime.shutdown_timeout(BLOCKING_TIMEOUT);
            })?;
            workers.0.push(Worker { handle, stop: Some(stop), thread: Some(thread) });
        }
        Ok(workers)
    }

    /// The number of workers.
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
    /// Drops the tasks of the workers, and waits for their threads.
    fn drop(&mut self) {
        for worker in &mut self.0 {
            worker.stop.take();
        }
        for thread in self.0.iter_mut().filter_map(|worker| worker.thread.take()) {
            // The panic of a worker was reported when it happened.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_runs_its_share_on_its_own_thread() {
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
    fn running_tasks_are_dropped_with_the_workers() {
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
