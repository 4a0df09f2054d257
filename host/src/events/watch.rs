//! Watches of single sessions: wakes the calls that wait for an event of a session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The watches of this host, by user.
#[derive(Default)]
pub struct Watches(Mutex<ByUser>);

type ByUser = HashMap<Arc<str>, Vec<Arc<Watched>>>;

struct Watched {
    session_id: Box<str>,
    /// Keeps one notification until it is waited for.
    event: Notify,
}

impl Watches {
    /// Adds a watch on a session of a user.
    pub fn add(self: &Arc<Self>, user_id: &str, session_id: &str) -> Watch {
        let watched = Watched { session_id: session_id.into(), event: Notify::new() };
        let watched = Arc::new(watched);
        let mut watches = self.lock();
        let user_id = match watches.get_key_value(user_id) {
            Some((known, _)) => Arc::clone(known),
            None => Arc::from(user_id),
        };
        watches.entry(Arc::clone(&user_id)).or_default().push(Arc::clone(&watched));
        Watch { user_id, watched, watches: Arc::clone(self) }
    }

    /// Notifies the watches on the sessions of a user whose ids begin with `id_prefix`. Events
    /// show only the beginning of a session's id, and nothing of an id of one character: an empty
    /// prefix notifies all watches of the user.
    pub fn notify(&self, user_id: &str, id_prefix: &str) {
        let watches = self.lock();
        let of_user = watches.get(user_id).into_iter().flatten();
        for watched in of_user.filter(|watched| watched.session_id.starts_with(id_prefix)) {
            watched.event.notify_one();
        }
    }

    /// Notifies every watch.
    pub fn notify_all(&self) {
        for watched in self.lock().values().flatten() {
            watched.event.notify_one();
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
    /// Completes once the session has had an event since the last call.
    pub async fn notified(&self) {
        self.watched.event.notified().await;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watches = self.watches.lock();
        if let Some(of_user) = watches.get_mut(&self.user_id) {
            of_user.retain(|watched| !Arc::ptr_eq(watched, &self.watched));
            if of_user.is_empty() {
                watches.remove(&self.user_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_notified(watch: &Watch) -> bool {
        tokio::time::timeout(Duration::from_millis(20), watch.notified()).await.is_ok()
    }

    #[tokio::test]
    async fn a_watch_is_notified_of_its_session_until_it_is_dropped() {
        let watches = Arc::<Watches>::default();
        let add = |user_id, session_id| watches.add(user_id, session_id);
        let (one, same) = (add("u", "abcdefgh"), add("u", "abcdefxy"));
        let (other, another) = (add("v", "abcdefgh"), add("u", "abcdxyz"));
        watches.notify("u", "abcdef");
        assert!(!is_notified(&another).await);
        assert!(is_notified(&one).await && is_notified(&same).await && !is_notified(&other).await);
        assert!(!is_notified(&one).await, "one event notifies once");
        let short = add("w", "a");
        watches.notify("w", "");
        assert!(is_notified(&short).await, "its events show nothing of its id");
        drop(short);
        drop(one);
        watches.notify_all();
        assert!(is_notified(&same).await && is_notified(&other).await);
        drop((same, other, another));
        assert!(watches.lock().is_empty());
    }
}
