//! The connection to a Redis server, made again whenever it is lost, for whatever
//! reason: a server that is starting, full or closed to us may change its mind.
//! While there is none, calls fail at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::RedisError;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::store::redis::commands::Commands;
use crate::store::redis::connector::{Connector, Watch};
use crate::store::redis::server::ends_connection;

/// How often a connection is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);
/// Calls in a row without an answer after which a connection is given up: its
/// peer may be gone without a word.
const TIMEOUTS_MAX: u32 = 3;
/// The number of a connection that is another link's; own ones are counted from 1.
const LENT: u64 = 0;

/// A connection that is made again whenever it is lost; at times there is none.
pub struct Link {
    state: watch::Sender<State>,
    timeouts: AtomicU32,
    keeper: JoinHandle<()>,
}

/// One connection among those that a link has had.
pub struct Connection {
    /// To send commands on.
    pub commands: Commands,
    number: u64,
}

enum State {
    /// Nobody knows yet whether the server answers.
    Starting,
    Up {
        commands: Commands,
        number: u64,
        /// Which history of changes the server follows, if it says so; a link that has a
        /// lender leaves the question to it.
        history: Option<Arc<str>>,
    },
    /// Why the last attempt failed, in words without a secret; empty when none was made yet.
    Down(Arc<str>),
}

/// There is no connection.
#[derive(Debug)]
pub struct Disconnected;

/// Has all links to a server leave it once one of them finds that another server has taken its
/// place: whatever is still written to the former one is lost.
#[derive(Clone, Default)]
pub struct Moves(watch::Sender<()>);

impl Link {
    /// A link over what `connector` connects to, kept by a task of the present runtime. A
    /// server that does not answer for `timeout` is given up.
    pub fn new(connector: Connector, timeout: Duration, moves: Moves) -> Self {
        Self::from_state(connector, timeout, moves, State::Starting, None)
    }

    /// Another link to the same. Until it has a connection of its own, which may take a
    /// while when a server is silent, it has that of this one.
    pub fn another(&self, connector: Connector, timeout: Duration, moves: Moves) -> Self {
        let lender = self.state.subscribe();
        let state = match &*lender.borrow() {
            State::Up { commands, .. } => {
                State::Up { commands: commands.clone(), number: LENT, history: None }
            }
            State::Starting | State::Down(_) => State::Starting,
        };
        Self::from_state(connector, timeout, moves, state, Some(lender))
    }

    fn from_state(
        connector: Connector,
        timeout: Duration,
        moves: Moves,
        state: State,
        lender: Option<watch::Receiver<State>>,
    ) -> Self {
        let (state, watched) = watch::channel(state);
        let keeping = keep(connector, timeout, moves, state.clone(), watched, lender);
        let keeper = tokio::spawn(keeping);
        Self { state, timeouts: AtomicU32::new(0), keeper }
    }

    /// The present connection; waits for the first attempt to make one, and for
    /// no other.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connection(&self) -> Result<Connection, Disconnected> {
        let known = Connection::of(&self.state.borrow());
        if let Some(known) = known {
            return known;
        }
        let mut watched = self.state.subscribe();
        let tried = watched.wait_for(|state| !matches!(state, State::Starting)).await;
        let tried = tried.map_err(|_| Disconnected)?;
        Connection::of(&tried).unwrap_or(Err(Disconnected))
    }

    /// Which history of changes the server follows; `None` when there is no connection, or
    /// this is another link to the same.
    pub fn history(&self) -> Option<Arc<str>> {
        match &*self.state.borrow() {
            State::Up { history, .. } => history.clone(),
            State::Starting | State::Down(_) => None,
        }
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up { .. })
    }

    /// Why there is no connection, when an attempt to make one has failed.
    pub fn obstacle(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Down(why) if !why.is_empty() => Some(why.to_string()),
            _ => None,
        }
    }

    /// A command was answered.
    pub fn answered(&self) {
        if self.timeouts.load(Ordering::Relaxed) > 0 {
            self.timeouts.store(0, Ordering::Relaxed);
        }
    }

    /// A command on the connection of this number had no answer in time.
    pub fn timed_out(&self, number: Option<u64>) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX {
            self.timeouts.store(0, Ordering::Relaxed);
            number.into_iter().for_each(|number| self.lost(number));
        }
    }

    /// The connection of this number is of no use any more.
    pub fn lost(&self, lost: u64) {
        self.state.send_if_modified(|state| {
            let present = matches!(state, State::Up { number, .. } if *number == lost);
            if present {
                *state = State::Down(Arc::default());
            }
            present
        });
    }
}

impl Connection {
    /// The one that there is; nothing while nobody knows.
    fn of(state: &State) -> Option<Result<Self, Disconnected>> {
        match state {
            State::Starting => None,
            State::Up { commands, number, .. } => {
                Some(Ok(Self { commands: commands.clone(), number: *number }))
            }
            State::Down(_) => Some(Err(Disconnected)),
        }
    }

    /// Tells it from the others.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Connects, waits until the connection is lost, and begins anew.
async fn keep(
    connector: Connector,
    timeout: Duration,
    moves: Moves,
    state: watch::Sender<State>,
    mut watched: watch::Receiver<State>,
    lender: Option<watch::Receiver<State>>,
) {
    let mut delay = RECONNECT_DELAY_MIN;
    let mut told = false;
    for (attempt, number) in (1..).enumerate() {
        let mut moved = moves.0.subscribe();
        match connect(&connector, attempt, lender.is_none()).await {
            Ok((commands, mut watch, history)) => {
                delay = RECONNECT_DELAY_MIN;
                told = false;
                state.send_replace(State::Up { commands: commands.clone(), number, history });
                let has_seen_a_move = tokio::select! {
                    lost = watched.wait_for(|state| matches!(state, State::Down(_))) => {
                        if lost.is_err() {
                            return;
                        }
                        false
                    }
                    end = end(commands, &mut watch, timeout) => end == End::Moved,
                    // The link that has seen the move notifies all. A sender that is gone has none.
                    _ = moved.changed() => false,
                };
                state.send_replace(State::Down(Arc::default()));
                if has_seen_a_move {
                    moves.0.send_replace(());
                }
                tracing::warn!(redis = connector.shown(), "the connection to Redis is lost");
            }
            Err(error) => {
                // Links with a lender connect to the same server; the lender's line is enough.
                if lender.is_none() && !std::mem::replace(&mut told, true) {
                    tracing::warn!(redis = connector.shown(), %error, "Redis cannot be reached");
                }
                // What is lent is of use as long as it is to the lender, who watches it.
                let is_kept =
                    lender.as_ref().is_some_and(|it| matches!(it.has_changed(), Ok(false)));
                state.send_if_modified(|state| {
                    if is_kept && matches!(state, State::Up { number: LENT, .. }) {
                        return false;
                    }
                    *state = State::Down(obstacle(&error));
                    true
                });
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(RECONNECT_DELAY_MAX);
            }
        }
    }
}

async fn connect(
    connector: &Connector,
    attempt: usize,
    with_history: bool,
) -> Result<(Commands, Watch, Option<Arc<str>>), RedisError> {
    let (mut commands, watch) = connector.connect(attempt).await?;
    let history = match with_history {
        true => connector.limited(commands.history()).await?,
        false => None,
    };
    Ok((commands, watch, history))
}

/// Why a connection cannot be made. What a server says may name a user, so only words of
/// the system are repeated.
fn obstacle(error: &RedisError) -> Arc<str> {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) if error.is_io_error() => text[..end].into(),
        _ if error.is_io_error() => text.into(),
        _ => error.category().into(),
    }
}

/// Why a connection is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The server does not answer any more.
    Silent,
    /// It is the primary no more: it may take writes for a while yet, which are lost.
    Moved,
}

/// Completes when a connection is to be left, so that one that was closed while nobody used
/// it is replaced before somebody does.
async fn end(mut commands: Commands, watch: &mut Watch, timeout: Duration) -> End {
    loop {
        watch.listen(timeout).await;
        tokio::select! {
            () = tokio::time::sleep(PING_INTERVAL) => {}
            () = watch.told() => return End::Moved,
        }
        // An error that the server tells is an answer.
        let alive = match tokio::time::timeout(timeout, commands.ping()).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => !ends_connection(&error),
            Err(_) => false,
        };
        if !alive {
            return End::Silent;
        }
        if watch.has_moved(timeout).await {
            return End::Moved;
        }
    }
}
