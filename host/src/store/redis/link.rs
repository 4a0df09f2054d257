//! The connection to a Redis server. It is made again whenever it is lost, whatever the reason: a
//! server that is starting, full or refuses us may accept us later. Without a connection, calls
//! fail at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::store::redis::commands::Commands;
use crate::store::redis::connector::{Connector, PrimaryWatch};

/// How often a connection is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(1);
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(50);
const RECONNECT_DELAY_MAX: Duration = Duration::from_secs(1);
/// A connection is given up after this many calls in a row without a reply: the server may have
/// vanished.
const TIMEOUTS_MAX: u32 = 3;
/// The number of a connection lent by another link; own ones count from 1.
const LENT_NUMBER: u64 = 0;

/// A connection that reconnects whenever it is lost. At times there is none.
pub struct Link {
    state: watch::Sender<LinkState>,
    timeouts: AtomicU32,
    keeper: JoinHandle<()>,
}

/// One of the connections that a link has had.
pub struct LinkConnection {
    /// Sends commands on it.
    pub commands: Commands,
    number: u64,
}

enum LinkState {
    /// No attempt has ended yet.
    Starting,
    Up {
        commands: Commands,
        number: u64,
        /// The history of changes that the server follows, if it reports it. A link with a lender
        /// does not ask.
        history: Option<Arc<str>>,
    },
    /// Why the last attempt failed, without secrets; empty if none was made yet.
    Down(Arc<str>),
}

/// There is no connection.
#[derive(Debug)]
pub struct Disconnected;

/// Makes all links to a server reconnect once one of them finds that another server has taken
/// over. What is still written to the former server is lost.
#[derive(Clone, Default)]
pub struct MoveSignal(watch::Sender<()>);

impl Link {
    /// A link of `connector`, kept by a task on the current runtime. A connection without a reply
    /// for `timeout` is given up.
    pub fn new(connector: Connector, timeout: Duration, move_signal: MoveSignal) -> Self {
        Self::from_state(connector, timeout, move_signal, LinkState::Starting, None)
    }

    /// Another link to the same server. It borrows this link's connection until it has its own,
    /// which may take a while if the server is silent.
    pub fn another(
        &self,
        connector: Connector,
        timeout: Duration,
        move_signal: MoveSignal,
    ) -> Self {
        let lender = self.state.subscribe();
        let state = match &*lender.borrow() {
            LinkState::Up { commands, .. } => {
                LinkState::Up { commands: commands.clone(), number: LENT_NUMBER, history: None }
            }
            LinkState::Starting | LinkState::Down(_) => LinkState::Starting,
        };
        Self::from_state(connector, timeout, move_signal, state, Some(lender))
    }

    fn from_state(
        connector: Connector,
        timeout: Duration,
        move_signal: MoveSignal,
        state: LinkState,
        lender: Option<watch::Receiver<LinkState>>,
    ) -> Self {
        let (state, watched) = watch::channel(state);
        let keeping = keep(connector, timeout, move_signal, state.clone(), watched, lender);
        let keeper = tokio::spawn(keeping);
        Self { state, timeouts: AtomicU32::new(0), keeper }
    }

    /// The current connection. Waits for the first attempt to connect, but for no later one.
    ///
    /// # Errors
    /// If there is none.
    pub async fn connection(&self) -> Result<LinkConnection, Disconnected> {
        let known = LinkConnection::of(&self.state.borrow());
        if let Some(known) = known {
            return known;
        }
        let mut watched = self.state.subscribe();
        let tried = watched.wait_for(|state| !matches!(state, LinkState::Starting)).await;
        let tried = tried.map_err(|_| Disconnected)?;
        LinkConnection::of(&tried).unwrap_or(Err(Disconnected))
    }

    /// The history of changes that the server follows; `None` without a connection, or for a link
    /// with a lender.
    pub fn history(&self) -> Option<Arc<str>> {
        match &*self.state.borrow() {
            LinkState::Up { history, .. } => history.clone(),
            LinkState::Starting | LinkState::Down(_) => None,
        }
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Up { .. })
    }

    /// Why there is no connection, if an attempt has failed.
    pub fn obstacle(&self) -> Option<String> {
        match &*self.state.borrow() {
            LinkState::Down(why) if !why.is_empty() => Some(why.to_string()),
            _ => None,
        }
    }

    /// Records that a command was answered.
    pub fn answered(&self) {
        if self.timeouts.load(Ordering::Relaxed) > 0 {
            self.timeouts.store(0, Ordering::Relaxed);
        }
    }

    /// Records that a command on the connection of this number had no reply in time.
    pub fn timed_out(&self, number: Option<u64>) {
        if self.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS_MAX {
            self.timeouts.store(0, Ordering::Relaxed);
            number.into_iter().for_each(|number| self.lost(number));
        }
    }

    /// Gives up the connection of this number, if it is still the current one.
    pub fn lost(&self, lost: u64) {
        self.state.send_if_modified(|state| {
            let present = matches!(state, LinkState::Up { number, .. } if *number == lost);
            if present {
                *state = LinkState::Down(Arc::default());
            }
            present
        });
    }
}

impl LinkConnection {
    /// The connection of a state; `None` before the first attempt has ended.
    fn of(state: &LinkState) -> Option<Result<Self, Disconnected>> {
        match state {
            LinkState::Starting => None,
            LinkState::Up { commands, number, .. } => {
                Some(Ok(Self { commands: commands.clone(), number: *number }))
            }
            LinkState::Down(_) => Some(Err(Disconnected)),
        }
    }

    /// Identifies the connection among those of its link.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Connects, waits until the connection is lost, and starts again.
async fn keep(
    connector: Connector,
    timeout: Duration,
    move_signal: MoveSignal,
    state: watch::Sender<LinkState>,
    mut watched: watch::Receiver<LinkState>,
    lender: Option<watch::Receiver<LinkState>>,
) {
    let mut delay = RECONNECT_DELAY_MIN;
    let mut logged = false;
    for (attempt, number) in (1..).enumerate() {
        let mut moved = move_signal.0.subscribe();
        match connect(&connector, attempt, lender.is_none()).await {
            Ok((commands, mut watch, history)) => {
                delay = RECONNECT_DELAY_MIN;
                logged = false;
                state.send_replace(LinkState::Up { commands: commands.clone(), number, history });
                let saw_move = tokio::select! {
                    lost = watched.wait_for(|state| matches!(state, LinkState::Down(_))) => {
                        if lost.is_err() {
                            return;
                        }
                        false
                    }
                    end = end(commands, &mut watch, timeout) => end == EndReason::Moved,
                    // The link that finds the move notifies the others. An error cannot happen,
                    // as this task holds a sender.
                    _ = moved.changed() => false,
                };
                state.send_replace(LinkState::Down(Arc::default()));
                if saw_move {
                    move_signal.0.send_replace(());
                }
                tracing::warn!(redis = connector.shown(), "the connection to Redis is lost");
            }
            Err(error) => {
                // A link with a lender connects to the same server; the lender's log line is
                // enough.
                if lender.is_none() && !std::mem::replace(&mut logged, true) {
                    tracing::warn!(redis = connector.shown(), %error, "Redis cannot be reached");
                }
                // A lent connection stays usable until the lender's state changes.
                let is_kept =
                    lender.as_ref().is_some_and(|it| matches!(it.has_changed(), Ok(false)));
                state.send_if_modified(|state| {
                    if is_kept && matches!(state, LinkState::Up { number: LENT_NUMBER, .. }) {
                        return false;
                    }
                    *state = LinkState::Down(obstacle(&error));
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
) -> Result<(Commands, PrimaryWatch, Option<Arc<str>>), RedisError> {
    let (mut commands, watch) = connector.connect(attempt).await?;
    let history = match with_history {
        true => connector.limited(commands.history()).await?,
        false => None,
    };
    Ok((commands, watch, history))
}

/// Why a connection cannot be made. A message of the server may name a user, so only messages of
/// the system are repeated.
fn obstacle(error: &RedisError) -> Arc<str> {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) if error.is_io_error() => text[..end].into(),
        _ if error.is_io_error() => text.into(),
        _ => error.category().into(),
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndReason {
    /// The server no longer answers.
    Silent,
    /// The server is no longer the primary. It may take writes for a while, which are lost.
    Moved,
}

/// Completes when a connection must end. A connection that was closed while idle is replaced
/// before a call uses it.
async fn end(mut commands: Commands, watch: &mut PrimaryWatch, timeout: Duration) -> EndReason {
    loop {
        watch.listen(timeout).await;
        tokio::select! {
            () = tokio::time::sleep(PING_INTERVAL) => {}
            () = watch.moved() => return EndReason::Moved,
        }
        // An error reported by the server is a reply too.
        let alive = match tokio::time::timeout(timeout, commands.ping()).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => !ends_connection(&error),
            Err(_) => false,
        };
        if !alive {
            return EndReason::Silent;
        }
        if watch.has_moved(timeout).await {
            return EndReason::Moved;
        }
    }
}

/// Whether an error ends the connection: it is broken, a reply does not match its command, or the
/// server is no longer the primary and refuses writes.
pub fn ends_connection(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Parse
                | ErrorKind::UnexpectedReturnType
                | ErrorKind::Server(ServerErrorKind::ReadOnly)
        )
}
