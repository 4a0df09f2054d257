//! Counts of what is limited: bytes of memory, and calls of the rules. What does not fit
//! is refused or waits in line; nothing is allocated here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How long a request waits for memory before it is refused.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// The most requests that wait in one line.
const WAITING_MAX: usize = 1024;

/// A bounded number.
pub struct Account {
    limit: usize,
    used: AtomicUsize,
    /// Those who wait for some to come back.
    pub line: Line,
}

impl Account {
    /// An account of which nothing is taken.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0), line: Line::default() }
    }

    /// Takes so many when they fit, or when `own` is all that is taken: whoever has an
    /// account alone may take more than there is.
    pub fn take(&self, bytes: usize, own: Option<usize>) -> bool {
        let taken = |used: usize| {
            let after = used.saturating_add(bytes);
            (after <= self.limit || own == Some(used)).then_some(after)
        };
        self.used.fetch_update(Ordering::AcqRel, Ordering::Relaxed, taken).is_ok()
    }

    /// Takes so many that are in use already, whether or not they fit.
    pub fn take_anyway(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Gives so many back.
    pub fn put_back(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
            self.line.wake();
        }
    }

    /// How many are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether more than half is taken.
    pub fn is_busy(&self) -> bool {
        self.used() > self.limit / 2
    }
}

/// Those who wait, about in the order they came: one for whom too little came back waits
/// anew behind the others.
#[derive(Default)]
pub struct Line {
    waiting: AtomicUsize,
    released: Notify,
}

impl Line {
    /// Some came back: the next in line looks whether it suffices.
    pub fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.released.notify_one();
        }
    }

    /// Waits for as long as `blocked` says so; it is asked whenever some came back.
    ///
    /// # Errors
    /// When too many wait already.
    pub async fn wait(&self, mut blocked: impl FnMut() -> bool) -> Result<(), Crowded> {
        let waiting = Waiting::begin(self);
        if waiting.before >= WAITING_MAX {
            return Err(Crowded);
        }
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            // From here on no return goes unnoticed, so look once more.
            released.as_mut().enable();
            if !blocked() {
                return Ok(());
            }
            released.await;
        }
    }
}

/// Too many wait already.
#[derive(Debug)]
pub struct Crowded;

/// One who waits, counted.
struct Waiting<'a> {
    line: &'a Line,
    before: usize,
}

impl<'a> Waiting<'a> {
    fn begin(line: &'a Line) -> Self {
        Self { line, before: line.waiting.fetch_add(1, Ordering::SeqCst) }
    }
}

impl Drop for Waiting<'_> {
    /// What suffices for one may suffice for the next as well.
    fn drop(&mut self) {
        self.line.waiting.fetch_sub(1, Ordering::SeqCst);
        self.line.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn an_account_lends_what_it_has_and_more_to_whoever_has_it_alone() {
        let account = Account::new(10);
        assert!(account.take(6, None));
        assert!(!account.take(5, None) && !account.take(5, Some(5)));
        assert!(account.take(5, Some(6)));
        assert_eq!((account.used(), account.is_busy()), (11, true));
        account.put_back(11);
        assert!(account.take(10, None) && !account.take(1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_memory_is_served_in_turn() {
        let account = Arc::new(Account::new(10));
        assert!(account.take(10, None));
        let wait = |bytes| {
            let account = Arc::clone(&account);
            tokio::spawn(async move { account.line.wait(|| !account.take(bytes, None)).await })
        };
        let waiting = [wait(4), wait(4), wait(4)];
        tokio::task::yield_now().await;
        account.put_back(10);
        let [first, second, third] = waiting;
        assert!(first.await.expect("no panic").is_ok());
        assert!(second.await.expect("no panic").is_ok());
        assert!(!third.is_finished());
        account.put_back(4);
        assert!(third.await.expect("no panic").is_ok());
        assert_eq!(account.line.waiting.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_has_an_end() {
        let account = Arc::new(Account::new(0));
        let waiting: Vec<_> = (0..=WAITING_MAX)
            .map(|_| {
                let account = Arc::clone(&account);
                tokio::spawn(async move { account.line.wait(|| true).await })
            })
            .collect();
        for _ in 0..WAITING_MAX {
            tokio::task::yield_now().await;
        }
        let refused = waiting.iter().filter(|waiting| waiting.is_finished()).count();
        assert_eq!(refused, 1);
    }
}
