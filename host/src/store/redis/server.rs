//! One server: a connection for each worker that comes back by itself, and a time limit on
//! every call.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

use crate::store::redis::commands::Commands;
use crate::store::redis::connector::{Connector, NodeAddress};
use crate::store::redis::group::Copies;
use crate::store::redis::link::{Disconnected, Link, Moves};
use crate::workers::{self, PerWorker};

/// A server, or whichever Sentinels name at present.
pub struct Server {
    connector: Connector,
    timeout: Duration,
    /// Has all links go elsewhere together.
    moves: Moves,
    /// For whoever is no worker.
    first: Link,
    /// One for each worker, made on that worker when it first asks: a reply is read by
    /// the thread that waits for it.
    links: PerWorker<OnceLock<Link>>,
    /// The same for what replicas must have.
    durable: PerWorker<OnceLock<Link>>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum Trouble {
    /// There is no connection.
    Disconnected,
    /// There is no answer in time.
    TimedOut,
    /// What the server or the way there says.
    Told(RedisError),
}

/// How a server is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// The keys are on their way to it from another node of a Cluster.
    pub asking: bool,
    /// So many of its replicas must have what a script does.
    pub copies: Option<Copies>,
}

impl Server {
    /// The server that `connector` connects to, which need not answer yet: a task of the
    /// present runtime connects, and connects again when the connection is lost. One that
    /// does not answer for `timeout` is given up.
    pub fn new(connector: Connector, timeout: Duration) -> Self {
        let moves = Moves::default();
        Self {
            first: Link::new(connector.clone(), timeout, moves.clone()),
            moves,
            connector,
            timeout,
            links: PerWorker::new(OnceLock::new),
            durable: PerWorker::new(OnceLock::new),
        }
    }

    /// Why there is no connection, when an attempt to make one has failed.
    pub fn obstacle(&self) -> Option<String> {
        self.first.obstacle()
    }

    /// What it is called, for people.
    pub fn shown(&self) -> String {
        self.connector.shown()
    }

    /// Which history of changes it follows, by the connection that it has now.
    pub fn history(&self) -> Option<Arc<str>> {
        self.first.history()
    }

    /// Whether it was connected to when last seen.
    pub fn is_up(&self) -> bool {
        self.first.is_up()
    }

    /// Where it is, when it is a node of a Cluster.
    pub fn address(&self) -> Option<&NodeAddress> {
        self.connector.node()
    }

    /// The link of whoever runs this.
    fn link(&self, copies: Option<Copies>) -> &Link {
        if let Some(copies) = copies {
            // Its pings are answered behind WAITs, so they are given more time.
            let patience = self.timeout.saturating_mul(3);
            let connector = || self.connector.waiting_for(copies);
            let link = || Link::new(connector(), patience, self.moves.clone());
            return self.durable.own().get_or_init(link);
        }
        let Some(_) = workers::current() else { return &self.first };
        let connector = || self.connector.clone();
        let another = || self.first.another(connector(), self.timeout, self.moves.clone());
        self.links.own().get_or_init(another)
    }

    /// One exchange with the server, which has to end before `deadline`.
    ///
    /// # Errors
    /// [`Trouble`]; the server may have done what it was asked, or not.
    pub async fn call<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        deadline: Instant,
        manner: Manner,
        exchange: &impl Fn(Commands) -> F,
    ) -> Result<T, Trouble> {
        let link = self.link(manner.copies);
        let mut number = None;
        let limited = async {
            let connection = link.connection().await?;
            number = Some(connection.number());
            let commands = match manner.asking {
                false => connection.commands,
                true => connection.commands.asking(),
            };
            Ok(exchange(commands).await)
        };
        match tokio::time::timeout_at(deadline, limited).await {
            Ok(Ok(result)) => {
                link.answered();
                result.map_err(|error| {
                    if ends_connection(&error) {
                        number.into_iter().for_each(|number| link.lost(number));
                    }
                    Trouble::Told(error)
                })
            }
            Ok(Err(Disconnected)) => Err(Trouble::Disconnected),
            Err(_) => {
                link.timed_out(number);
                Err(Trouble::TimedOut)
            }
        }
    }
}

/// Whether an error ends the connection: it is broken, a reply on it does not fit its command,
/// or its server is the primary no more and refuses writes.
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
