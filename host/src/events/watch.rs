//! Who wants to hear of events of one session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Those who watch, by user.
#[derive(Default)]
pub struct Watches(Mutex<ByUser>);

type ByUser = HashMap<Arc<str>, Vec<Arc<Watched>>>;

struct Watched {
    session_id: Box<str>,
    happened: Notify,
}

impl Watches {
    /// Watches a session of a user.
    pub fn add(self: &Arc<Self>, user_id: &str, session_id: &str) -> Watch {
        let watched = Watched { session_id: session_id.into(), happened: Notify::new() };
        let watched = Arc::new(watched);
        let mut watches = self.lock();
        let user_id = match watches.get_key_value(user_id) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(user_id),
        };
        watches.entry(Arc::clone(&user_id)).or_default().push(Arc::clone(&watched));
        Watch { user_id, watched, watches: Arc::clone(self) }
    }

    /// Tells those who watch sessions of a user whose ids begin like this.
    pub fn tell(&self, user_id: &str, shown: &str) {
        if shown.is_empty() {
            return;
        }
        let watches = self.lock();
        let those = watches.get(user_id).into_iter().flatten();
        for watched in those.filter(|watched| watched.session_id.starts_with(shown)) {
            // Kept until it is waited for.
            watched.happened.notify_one();
        }
    }

    /// Tells all who watch.
    pub fn tell_all(&self) {
        for watched in self.lock().values().flatten() {
            watched.happened.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByUser> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A watch on the events of one session; ends when it is dropped.
pub struct Watch {
    user_id: Arc<str>,
    watched: Arc<Watched>,
    watches: Arc<Watches>,
}

impl Watch {
    /// Completes when something has happened since the last time.
    pub async fn told(&self) {
        self.watched.happened.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.watches.lock();
        if let Some(those) = watches.get_mut(&self.user_id) {
            those.retain(|watched| !Arc::ptr_eq(watched, &self.watched));
            if those.is_empty() {
                watches.remove(&self.user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_told(watch: &Watch) -> bool {
        tokio::time::timeout(Duration::from_millis(20), watch.told()).await.is_ok()
    }

    #[tokio::test]
    async fn those_who_watch_a_session_are_told_until_they_leave() {
        let watches = Arc::<Watches>::default();
        let add = |user_id, session_id| watches.add(user_id, session_id);
        let (one, same) = (add("u", "abcdefgh"), add("u", "abcdefxy"));
        let (other, another) = (add("v", "abcdefgh"), add("u", "abcdxyz"));
        watches.tell("u", "abcdef");
        watches.tell("u", "");
        assert!(!is_told(&another).await);
        assert!(is_told(&one).await && is_told(&same).await && !is_told(&other).await);
        assert!(!is_told(&one).await, "only once");
        drop(one);
        watches.tell_all();
        assert!(is_told(&same).await && is_told(&other).await);
        drop((same, other, another));
        assert!(watches.lock().is_empty());
    }
}
