//! Budgets of limited resources: bytes of memory, calls, subscriptions. A request that exceeds a
//! budget is refused or waits in a queue. Nothing is allocated here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a request waits for memory before it is refused.
pub const WAIT_MAX: Duration = Duration::from_millis(500);
/// The most waiters in one queue.
const WAITING_MAX: usize = 1024;

/// A limited amount of a resource.
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
    /// The requests that wait for the resource.
    pub queue: WaitQueue,
}

impl Budget {
    /// An unused budget.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), queue: WaitQueue::default() }
    }

    /// Takes an amount if it fits. A sole user of the budget, whose `own` amount is all that
    /// is used, may exceed the limit.
    pub fn take(&self, amount: usize, own: Option<usize>) -> bool {
        let taken = |used: usize| {
            let after = used.saturating_add(amount);
            (after <= self.limit || own == Some(used)).then_some(after)
        };
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, taken).is_ok()
    }

    /// Takes an amount that is in use already, even beyond the limit.
    pub fn take_anyway(&self, amount: usize) {
        self.used.fetch_add(amount, Ordering::AcqRel);
    }

    /// Returns an amount.
    pub fn put_back(&self, amount: usize) {
        if amount > 0 {
            self.used.fetch_sub(amount, Ordering::AcqRel);
            self.queue.wake();
        }
    }

    /// The amount in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more than half is in use.
    pub fn is_busy(&self) -> bool {
        self.used() > self.limit / 2
    }
}

/// Waiters for a resource, served roughly in the order of arrival. A waiter whose amount does
/// not fit yet goes to the end of the queue.
#[derive(Default)]
pub struct WaitQueue {
    waiting: AtomicUsize,
    released: Notify,
}

impl WaitQueue {
    /// Wakes the next waiter after an amount was returned.
    pub fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.released.notify_one();
        }
    }

    /// Waits until `blocked` returns false. It is called whenever an amount was returned.
    ///
    /// # Errors
    /// If the queue is full.
    pub async fn wait(&self, mut blocked: impl FnMut() -> bool) -> Result<(), QueueFull> {
        let waiter = Waiter::begin(self);
        if waiter.before >= WAITING_MAX {
            return Err(QueueFull);
        }
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            // Registered before the check, so a return in between is not missed.
            released.as_mut().enable();
            if !blocked() {
                return Ok(());
            }
            released.await;
        }
    }
}

/// The queue has too many waiters.
#[derive(Debug)]
pub struct QueueFull;

/// One counted waiter.
struct Waiter<'a> {
    queue: &'a WaitQueue,
    before: usize,
}

impl<'a> Waiter<'a> {
    fn begin(queue: &'a WaitQueue) -> Self {
        Self { queue, before: queue.waiting.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Drop for Waiter<'_> {
    /// Wakes the next waiter too, as the amount returned may suffice for both.
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, Ordering::SeqCst);
        self.queue.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_budget_grants_up_to_its_limit_and_more_to_a_sole_user() {
        let budget = Budget::new(10);
        assert!(budget.take(6, None));
        assert!(!budget.take(5, None) && !budget.take(5, Some(5)));
        assert!(budget.take(5, Some(6)));
        assert_eq!((budget.used(), budget.is_busy()), (11, true));
        budget.put_back(11);
        assert!(budget.take(10, None) && !budget.take(1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_for_memory_are_served_in_turn() {
        let budget = Arc::new(Budget::new(10));
        assert!(budget.take(10, None));
        let wait = |bytes| {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { budget.queue.wait(|| !budget.take(bytes, None)).await })
        };
        let waiting = [wait(4), wait(4), wait(4)];
        tokio::task::yield_now().await;
        budget.put_back(10);
        let [first, second, third] = waiting;
        assert!(first.await.expect("no panic").is_ok());
        assert!(second.await.expect("no panic").is_ok());
        assert!(!third.is_finished());
        budget.put_back(4);
        assert!(third.await.expect("no panic").is_ok());
        assert_eq!(budget.queue.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_refuses_waiters_beyond_its_limit() {
        let budget = Arc::new(Budget::new(0));
        let waiting: Vec<_> = (0..=WAITING_MAX)
            .map(|_| {
                let budget = Arc::clone(&budget);
                tokio::spawn(async move { budget.queue.wait(|| true).await })
            })
            .collect();
        for _ in 0..WAITING_MAX {
            tokio::task::yield_now().await;
        }
        let refused = waiting.iter().filter(|waiting| waiting.is_finished()).count();
        assert_eq!(refused, 1);
    }
}
