//! A load of all kinds of sessions over both wires and on all hosts, recorded for the history
//! checker. Callers share keys, users and homes on purpose. The load requires no speed and
//! asserts nothing; its result is a history with its figures.

mod booking;
mod caller;
mod subscriber;
mod users;
mod viewing;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::booking::Register;
use self::caller::{Caller, Stage};
use self::users::Kind;
use crate::client::{Client, Wire};
use crate::history::event::Change;
use crate::history::recorder::{Counts, Recorder};
use crate::history::span::Span;
use crate::history::{History, Terms};
use crate::host::{Host, Launch};

/// The lifetimes and limits of the hosts under load.
pub const TERMS: Terms = Terms {
    lock: Duration::from_secs(1),
    slot: Duration::from_secs(2),
    slots_max: 2,
    login: Duration::from_secs(3600),
};
/// A subscriber that receives an event of this user has received everything.
const LAST_USER: &str = "last-of-all";
/// How long the last event may take until its absence is a violation.
const LAST_MAX: Duration = Duration::from_secs(300);

/// The settings of a host for the load: short lifetimes of locks and slots, long other
/// lifetimes, and no log line for each call.
pub fn terms_of(launch: Launch) -> Launch {
    let settings = [
        ("SESSION_LOCK_TTL", "1s"),
        ("VIEWING_TTL", "2s"),
        ("VIEWING_MAX_SESSIONS", "2"),
        ("SESSION_TTL", "24h"),
        ("CONNECTION_TTL", "2h"),
        ("CONNECTION_STALE", "1h"),
        ("LOG_LEVEL", "warn"),
    ];
    settings.iter().fold(launch, |launch, (name, value)| launch.set(name, value))
}

/// A running load. Dropping it ends it.
pub struct MixedLoad {
    stage: Stage,
    end: watch::Sender<bool>,
    callers: JoinSet<()>,
    subscribers: JoinSet<()>,
}

impl MixedLoad {
    /// Starts the load. The hosts have to keep their ports across restarts. About fifty calls
    /// are in flight at a time.
    ///
    /// # Panics
    /// When a host does not answer.
    pub async fn start(hosts: &[&Host]) -> Self {
        let mut clients = Vec::new();
        for wire in [Wire::Rest, Wire::Grpc] {
            for host in hosts {
                clients.push(Client::connect(host, wire).await);
            }
        }
        let (end, ended) = watch::channel(false);
        let recorder = Arc::new(Recorder::new());
        let stage = Stage { clients: clients.into(), recorder, ended };
        let (mut callers, mut subscribers) = (JoinSet::new(), JoinSet::new());
        for number in 0..3 {
            subscribers.spawn(subscriber::subscribe(stage.clone(), number));
        }
        let mut numbers = 0..;
        let mut next = || stage.caller(numbers.next().unwrap_or_default());
        for group in 0..2 {
            for member in 0..3 {
                callers.spawn(booking::register(next(), Register::Plain, group, member));
                callers.spawn(booking::register(next(), Register::Compared, group, member));
            }
            callers.spawn(booking::read_once(next(), [next(), next(), next()], group));
            for _ in 0..2 {
                callers.spawn(booking::lock(next(), group));
            }
            for member in 0..4 {
                callers.spawn(viewing::device(next(), group, member));
            }
            for kind in [Kind::Login, Kind::Connection] {
                callers.spawn(users::sessions(next(), next(), kind, group));
            }
        }
        callers.spawn(booking::write_each(next()));
        callers.spawn(booking::overwrite(next().staying_at(hosts.len() - 1)));
        callers.spawn(booking::follow(next().staying_at(0)));
        Self { stage, end, callers, subscribers }
    }

    /// The figures so far.
    pub fn counts(&self) -> Counts {
        self.stage.recorder.counts()
    }

    /// Ends the load: waits for the outcome of every call, reads the final state, and waits
    /// until the subscribers have received all events.
    pub async fn finish(mut self) -> (History, Counts) {
        self.end.send_replace(true);
        while self.callers.join_next().await.is_some() {}
        // Later calls are not a part of the load.
        let counts = self.counts();
        let mut caller = self.stage.caller(0).without_pace();
        booking::read_all(&mut caller).await;
        users::list_all(&mut caller).await;
        let subscribed = self.subscribers.len();
        let received = async {
            while !self.subscribers.is_empty() {
                let last = json!({ "session_attributes": { "user_id": LAST_USER } });
                caller.call(|client| async move { client.users("Create", last).await }).await;
                let next = self.subscribers.join_next();
                drop(tokio::time::timeout(Duration::from_millis(300), next).await);
            }
        };
        let in_time = tokio::time::timeout(LAST_MAX, received).await.is_ok();
        let (mut history, _) = self.stage.recorder.finish();
        if !in_time {
            // These subscribers have not received the last event. An empty record of each makes
            // the checker report what is missing.
            history.subscribers.resize_with(subscribed, Default::default);
        }
        (history, counts)
    }
}

/// Records a change whose event subscribers have to receive.
fn changed(caller: &Caller, span: Span, subject: &str, type_: &str, hash: &str) {
    let change = Change { span, subject: subject.into(), event: format!("{type_} {hash}") };
    caller.recorder.add(|history| history.changes.push(change));
}

/// The hash of a session id in an event.
fn hash(id: &str) -> String {
    Sha256::digest(id.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
