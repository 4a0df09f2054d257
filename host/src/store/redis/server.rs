//! One server: a connection for each worker that reconnects by itself, and a time limit on every
//! call.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::RedisError;
use tokio::time::Instant;

use crate::store::redis::commands::Commands;
use crate::store::redis::connector::Connector;
use crate::store::redis::group::ReplicaWait;
use crate::store::redis::link::{Disconnected, Link, MoveSignal, ends_connection};
use crate::store::redis::node::NodeAddress;
use crate::workers::{self, PerWorker};

/// A server, or the one that Sentinels name now.
pub struct Server {
    connector: Connector,
    timeout: Duration,
    /// Makes all links reconnect together.
    move_signal: MoveSignal,
    /// The link for threads that are no workers.
    first: Link,
    /// One link for each worker, made when the worker first needs it. So a reply is read by the
    /// thread that waits for it.
    links: PerWorker<OnceLock<Link>>,
    /// The same for commands that wait for replicas.
    durable: PerWorker<OnceLock<Link>>,
}

/// Why a call failed.
#[derive(Debug)]
pub enum CallError {
    /// There is no connection.
    Disconnected,
    /// There was no reply in time.
    TimedOut,
    /// The server or the network reported an error.
    Redis(RedisError),
}

/// How a command is sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallOptions {
    /// The keys are being moved to it from another node of a Cluster.
    pub asking: bool,
    /// The replicas that must have the effect of a script.
    pub replica_wait: Option<ReplicaWait>,
}

impl Server {
    /// The server of `connector`, which need not answer yet. A task on the current runtime
    /// connects, and reconnects when the connection is lost. A connection without a reply for
    /// `timeout` is given up.
    pub fn new(connector: Connector, timeout: Duration) -> Self {
        let move_signal = MoveSignal::default();
        Self {
            first: Link::new(connector.clone(), timeout, move_signal.clone()),
            move_signal,
            connector,
            timeout,
            links: PerWorker::new(OnceLock::new),
            durable: PerWorker::new(OnceLock::new),
        }
    }

    /// Why there is no connection, if an attempt has failed.
    pub fn obstacle(&self) -> Option<String> {
        self.first.obstacle()
    }

    /// Its name for logs and metrics.
    pub fn shown(&self) -> String {
        self.connector.shown()
    }

    /// The history of changes that it follows, as its current connection reports it.
    pub fn history(&self) -> Option<Arc<str>> {
        self.first.history()
    }

    /// Whether it was connected at the last look.
    pub fn is_up(&self) -> bool {
        self.first.is_up()
    }

    /// Its address, if it is a node of a Cluster.
    pub fn address(&self) -> Option<&NodeAddress> {
        self.connector.node()
    }

    /// The link of the current thread.
    fn link(&self, replica_wait: Option<ReplicaWait>) -> &Link {
        if let Some(replica_wait) = replica_wait {
            // Its pings are answered after the WAITs before them, so they have more time.
            let timeout = self.timeout.saturating_mul(3);
            let connector = || self.connector.waiting_for(replica_wait);
            let link = || Link::new(connector(), timeout, self.move_signal.clone());
            return self.durable.own().get_or_init(link);
        }
        let Some(_) = workers::current() else { return &self.first };
        let connector = || self.connector.clone();
        let another = || self.first.another(connector(), self.timeout, self.move_signal.clone());
        self.links.own().get_or_init(another)
    }

    /// One exchange with the server, which must end before `deadline`.
    ///
    /// # Errors
    /// [`CallError`]; the server may have applied the command or not.
    pub async fn call<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        deadline: Instant,
        options: CallOptions,
        exchange: &impl Fn(Commands) -> F,
    ) -> Result<T, CallError> {
        let link = self.link(options.replica_wait);
        let mut number = None;
        let limited = async {
            let connection = link.connection().await?;
            number = Some(connection.number());
            let commands = match options.asking {
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
                    CallError::Redis(error)
                })
            }
            Ok(Err(Disconnected)) => Err(CallError::Disconnected),
            Err(_) => {
                link.timed_out(number);
                Err(CallError::TimedOut)
            }
        }
    }
}
