//! The store on Redis 7.0 or later: one server, the primary that Sentinels name, or a Cluster.
//! Transactions that only read hashes go as plain commands in MULTI. All others go as one script.

mod address;
mod cluster;
mod commands;
mod connector;
mod group;
mod link;
mod locator;
mod node;
mod numbers;
mod reply;
mod script;
mod server;

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, Value};
use tokio::time::Instant;

pub use address::{Address, NotAnAddress};
use cluster::Cluster;
use commands::{Commands, refusal};
use connector::Connector;
use group::{ReplicaWait, TOO_FEW_REPLICAS};
pub use locator::Locator;
use reply::mismatch;
use script::{RefusalScope, TransactionScript};
use server::{CallError, CallOptions, Server};
use session_store::clock::Milliseconds;
use session_store::transaction::{Operation, Outcome, Reply, Shape, Txn};
use session_store::{
    Answer, EVENT_AHEAD_MS_MAX, Error, KeyCount, LogMark, Logs, Store, Takes, growth,
};

/// About how many keys one step of a count scans; that takes Redis some 0.7 ms.
const KEYS_PER_STEP: u32 = 1000;

/// A store on Redis.
pub struct Redis {
    topology: Topology,
    timeout: Duration,
    /// How many replicas must have a durable transaction, so that no failover can undo it.
    replica_wait: Option<ReplicaWait>,
    script: TransactionScript,
    read_script: Script,
    logs_script: Script,
    empty_logs_script: Script,
}

/// What the address names.
enum Topology {
    One(Arc<Server>),
    Cluster(Cluster),
}

/// Why a server is unsuitable for sessions.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// It drops sessions when it is full.
    #[error(
        "Redis evicts keys when it is full (maxmemory-policy {0}), so sessions would vanish; \
         set maxmemory-policy noeviction, or allow it with REDIS_ALLOW_EVICTION=true"
    )]
    Evicts(String),
    /// It lacks commands that are used here.
    #[error("Redis is version {0}; 7.0 or later is needed")]
    OldVersion(String),
}

impl Redis {
    /// A store on the server or Cluster of `locator`, which need not answer yet. Tasks on the
    /// current runtime connect, and reconnect whenever a connection is lost. A call ends after
    /// `timeout`, a durable transaction after twice that.
    ///
    /// # Errors
    /// If the address cannot be used at all.
    pub fn new(locator: impl Into<Locator>, timeout: Duration) -> Result<Self, RedisError> {
        let connector = Connector::new(locator.into(), timeout)?;
        let topology = match connector.is_cluster() {
            true => Topology::Cluster(Cluster::new(connector, timeout)),
            false => Topology::One(Arc::new(Server::new(connector, timeout))),
        };
        Ok(Self {
            topology,
            timeout,
            replica_wait: None,
            script: TransactionScript::new(),
            read_script: Script::new(include_str!("read.lua")),
            logs_script: Script::new(include_str!("logs.lua")),
            empty_logs_script: Script::new(include_str!("empty_logs.lua")),
        })
    }

    /// The same store, but a durable transaction is answered once this many replicas have it. They
    /// have nine tenths of the time limit of a call, so that the reply is in time.
    #[must_use]
    pub fn waiting_for(self, replicas: u32) -> Self {
        let replica_wait = ReplicaWait { replicas, timeout: self.timeout * 9 / 10 };
        Self { replica_wait: (replicas > 0).then_some(replica_wait), ..self }
    }

    /// The servers with fewer replicas than durable transactions wait for, with their number of
    /// replicas. Such a server answers no durable transaction.
    ///
    /// # Errors
    /// If a server cannot be asked.
    pub async fn short_of_replicas(&self) -> Result<Vec<(String, u32)>, Error> {
        let Some(replica_wait) = self.replica_wait else { return Ok(Vec::new()) };
        let mut short = Vec::new();
        for server in self.servers(self.deadline()).await? {
            let replicas = |mut commands: Commands| async move { commands.replicas().await };
            let asked = server.call(self.deadline(), CallOptions::default(), &replicas).await;
            if let Some(replicas) =
                asked.map_err(failure)?.filter(|&has| has < replica_wait.replicas)
            {
                short.push((server.shown(), replicas));
            }
        }
        Ok(short)
    }

    /// Why the server is unsuitable for sessions; `None` if it is suitable, or does not allow the
    /// question.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn unsuitable(&self) -> Result<Option<Unsuitable>, Error> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        // A server that refuses INFO is accepted: its operator has decided so.
        let text: String = match self.ask(&info).await {
            Ok(text) => text,
            Err(Error::Rejected(_)) => String::new(),
            Err(error) => return Err(error),
        };
        let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        if let Some(version) = version.map(str::trim)
            && version.split('.').next().and_then(|major| major.parse::<u32>().ok()) < Some(7)
        {
            return Ok(Some(Unsuitable::OldVersion(version.into())));
        }
        let mut policy = redis::cmd("CONFIG");
        policy.arg("GET").arg("maxmemory-policy");
        let pair: Vec<String> = match self.ask(&policy).await {
            Ok(pair) => pair,
            Err(Error::Rejected(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(pair.into_iter().nth(1).filter(|policy| policy != "noeviction").map(Unsuitable::Evicts))
    }

    /// Sends a command without keys to any server.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Error> {
        self.call_any(|mut commands| async move { commands.ask(command).await }).await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// One exchange with the server that holds a key.
    async fn call<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        key: &str,
        exchange: impl Fn(Commands) -> F,
    ) -> Result<T, Error> {
        self.call_within(key, self.deadline(), None, exchange).await
    }

    async fn call_within<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        key: &str,
        deadline: Instant,
        replica_wait: Option<ReplicaWait>,
        exchange: impl Fn(Commands) -> F,
    ) -> Result<T, Error> {
        let called = match &self.topology {
            Topology::One(server) => {
                server.call(deadline, CallOptions { asking: false, replica_wait }, &exchange).await
            }
            Topology::Cluster(cluster) => {
                cluster.call(key, deadline, replica_wait, &exchange).await
            }
        };
        called.map_err(failure)
    }

    /// Every server, in a stable order.
    async fn servers(&self, deadline: Instant) -> Result<Vec<Arc<Server>>, Error> {
        match &self.topology {
            Topology::One(server) => Ok(vec![Arc::clone(server)]),
            Topology::Cluster(cluster) => cluster.servers(deadline).await.map_err(failure),
        }
    }

    /// The same exchange with each server, in a stable order.
    async fn call_each<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        exchange: impl Fn(Commands) -> F,
    ) -> Result<Vec<Result<T, CallError>>, Error> {
        let deadline = self.deadline();
        let servers = self.servers(deadline).await?;
        let called =
            servers.iter().map(|server| server.call(deadline, CallOptions::default(), &exchange));
        Ok(futures_util::future::join_all(called).await)
    }

    /// The same exchange with each server; the first success counts.
    async fn call_any<T, F: Future<Output = Result<T, RedisError>>>(
        &self,
        exchange: impl Fn(Commands) -> F,
    ) -> Result<T, Error> {
        let mut last = None;
        for called in self.call_each(exchange).await? {
            match called {
                Ok(value) => return Ok(value),
                Err(error) => last = Some(error),
            }
        }
        Err(failure(last.unwrap_or(CallError::Disconnected)))
    }

    /// Reads hashes as plain commands.
    async fn read(&self, txn: &Txn) -> Result<Outcome, Error> {
        self.call(key_of(txn), |mut commands| async move {
            let commands = &mut commands;
            let add = |pipeline: &mut redis::Pipeline| {
                pipeline.cmd("TIME");
                for (key, fields) in reads(txn) {
                    pipeline.cmd("PEXPIRETIME").arg(key);
                    match fields {
                        // HMGET needs a field. Only the deadline is wanted.
                        Some([]) => pipeline.cmd("HMGET").arg(key).arg(""),
                        Some(fields) => pipeline.cmd("HMGET").arg(key).arg(fields),
                        None => pipeline.cmd("HGETALL").arg(key),
                    };
                }
            };
            let (values, selected) = match commands.transact(1 + 2 * txn.success.len(), add).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort) => {
                    (self.read_by_script(txn, commands).await?, false)
                }
                answered => (answered?, true),
            };
            hashes(txn, values, selected).ok_or_else(mismatch)
        })
        .await
    }

    /// Reads whole hashes by a script, which a full server still runs.
    async fn read_by_script(
        &self,
        txn: &Txn,
        commands: &mut Commands,
    ) -> Result<std::vec::IntoIter<Value>, RedisError> {
        let keys: Vec<&str> = reads(txn).map(|(key, _)| key).collect();
        commands
            .evaluate(&self.read_script, |number| {
                let mut command = evaluation(&self.read_script, &keys);
                command.arg(number);
                command
            })
            .await
    }

    /// Reads logs of one slot.
    async fn read_logs_of_slot(&self, marks: &[LogMark], limit: usize) -> Result<Logs, Error> {
        let keys: Vec<&str> = marks.iter().map(|mark| mark.log.as_str()).collect();
        let keys = &keys;
        self.call(keys.first().copied().unwrap_or_default(), |mut commands| async move {
            let command = |number| {
                let mut command = evaluation(&self.logs_script, keys);
                command.arg(number).arg(limit).arg(EVENT_AHEAD_MS_MAX);
                for mark in marks {
                    command.arg(mark.after.map(|id| id.to_string()).unwrap_or_default());
                }
                command
            };
            let values = commands.evaluate(&self.logs_script, command).await?;
            reply::logs(values, marks.len()).ok_or_else(mismatch)
        })
        .await
    }

    /// Empties those logs of one slot whose last event lies in the future.
    async fn empty_logs_of_slot(&self, logs: &[String]) -> Result<(), Error> {
        let keys: Vec<&str> = logs.iter().map(String::as_str).collect();
        let keys = &keys;
        self.call(keys.first().copied().unwrap_or_default(), |mut commands| async move {
            let command = |number| {
                let mut command = evaluation(&self.empty_logs_script, keys);
                command.arg(number).arg(EVENT_AHEAD_MS_MAX);
                command
            };
            commands.evaluate(&self.empty_logs_script, command).await.map(drop)
        })
        .await
    }

    /// How many logs one script may name. In a Cluster each log has a slot of its own.
    fn logs_together(&self, logs: usize) -> usize {
        if matches!(self.topology, Topology::Cluster(_)) { 1 } else { logs.max(1) }
    }

    /// The clock of the server; in a Cluster, the one that is furthest behind.
    async fn clock(&self) -> Result<Milliseconds, Error> {
        let clocks = self.call_each(|mut commands| async move { commands.clock().await }).await?;
        let clocks = clocks.into_iter().map(|clock| clock.map_err(failure));
        let clocks: Vec<Milliseconds> = clocks.collect::<Result<_, _>>()?;
        clocks.into_iter().min().ok_or_else(|| failure(CallError::Disconnected))
    }

    /// Scans some keys, one server after the other. Returns those that match the pattern, and the
    /// cursor of the next step if there is one.
    async fn scan(&self, at: &str, pattern: &str) -> Result<(Vec<String>, Option<String>), Error> {
        let deadline = self.deadline();
        // The cursor is the number of the server and the server's own cursor.
        let (number, cursor) = at.split_once(' ').unwrap_or(("0", "0"));
        let scan = |mut commands: Commands| async move {
            commands.scan(cursor, pattern, KEYS_PER_STEP).await
        };
        let servers = self.servers(deadline).await?;
        let number: usize = number.parse().unwrap_or(0);
        let Some(server) = servers.get(number) else { return Ok((Vec::new(), None)) };
        let (keys, next) =
            server.call(deadline, CallOptions::default(), &scan).await.map_err(failure)?;
        let next = match next {
            Some(cursor) => Some(format!("{number} {cursor}")),
            None => (number + 1 < servers.len()).then(|| format!("{} 0", number + 1)),
        };
        Ok((keys, next))
    }

    /// Runs any transaction as one script.
    async fn run(&self, txn: &Txn) -> Result<Outcome, Error> {
        let replica_wait = self.replica_wait_of(txn);
        // Transactions before it may wait for replicas on the same connection.
        let deadline = match replica_wait {
            None => self.deadline(),
            Some(_) => self.deadline() + self.timeout,
        };
        self.call_within(key_of(txn), deadline, replica_wait, |mut commands| async move {
            if !txn.only_reads() {
                match self.evaluate(txn, RefusalScope::Whole, &mut commands).await {
                    // The branch that applies may be one that the server still takes.
                    Err(error) if refuses_writes(&error) => {}
                    answered => return answered,
                }
            }
            self.evaluate(txn, RefusalScope::ByCommand, &mut commands).await
        })
        .await
    }

    /// The replicas that a transaction waits for.
    fn replica_wait_of(&self, txn: &Txn) -> Option<ReplicaWait> {
        self.replica_wait.filter(|_| txn.durable)
    }

    async fn evaluate(
        &self,
        txn: &Txn,
        refusal: RefusalScope,
        commands: &mut Commands,
    ) -> Result<Outcome, RedisError> {
        let command = |number| self.script.command(txn, refusal, number);
        let values = commands.evaluate(self.script.script(refusal), command).await?;
        reply::outcome(txn, values).ok_or_else(mismatch)
    }
}

impl Store for Redis {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        Box::pin(async move {
            txn.check()?;
            if self.replica_wait_of(&txn).is_none()
                && txn.compare.is_empty()
                && txn.failure.is_empty()
                && reads(&txn).count() == txn.success.len()
            {
                match self.read(&txn).await {
                    // The script names the type that the key holds.
                    Err(Error::Rejected(_)) => self.run(&txn).await,
                    answered => answered,
                }
            } else {
                self.run(&txn).await
            }
        })
    }

    fn read_logs<'a>(&'a self, marks: &'a [LogMark], limit: usize) -> Answer<'a, Logs> {
        Box::pin(async move {
            if marks.is_empty() {
                return Ok(Logs { now: self.clock().await?, pages: Vec::new() });
            }
            let parts = marks
                .chunks(self.logs_together(marks.len()))
                .map(|marks| self.read_logs_of_slot(marks, limit));
            let parts = futures_util::future::try_join_all(parts).await?;
            // Each node has its own clock. An event counts once all of them have passed it.
            let now = parts.iter().map(|logs| logs.now).min().unwrap_or_default();
            Ok(Logs { now, pages: parts.into_iter().flat_map(|logs| logs.pages).collect() })
        })
    }

    fn empty_logs_ahead<'a>(&'a self, logs: &'a [String]) -> Answer<'a, ()> {
        Box::pin(async move {
            let parts = logs.chunks(self.logs_together(logs.len()));
            let parts = parts.map(|logs| self.empty_logs_of_slot(logs));
            futures_util::future::try_join_all(parts).await.map(drop)
        })
    }

    fn count_keys<'a>(&'a self, prefixes: &'a [String], cursor: &'a str) -> Answer<'a, KeyCount> {
        Box::pin(async move {
            let (found, next) = self.scan(cursor, &pattern(prefixes)).await?;
            let begins = |key: &&String| prefixes.iter().any(|prefix| key.starts_with(&**prefix));
            let keys = found.iter().filter(begins).count() as u64;
            Ok(KeyCount { keys, next })
        })
    }

    /// One server of a Cluster must answer, and every server that does must take writes.
    fn ping(&self) -> Answer<'_, Takes> {
        Box::pin(async move {
            let answers = self.call_each(|mut commands| async move { commands.ping().await });
            let (mut takes, mut error) = (None, CallError::Disconnected);
            for answer in answers.await? {
                match answer {
                    Ok(Takes::All) => takes = takes.or(Some(Takes::All)),
                    Ok(Takes::ReadsOnly) => takes = Some(Takes::ReadsOnly),
                    Err(of_one) => error = of_one,
                }
            }
            takes.ok_or_else(|| failure(error))
        })
    }

    fn nodes(&self) -> Vec<(String, bool)> {
        match &self.topology {
            Topology::One(server) => vec![(server.shown(), server.is_up())],
            Topology::Cluster(cluster) => cluster.nodes(),
        }
    }

    fn history(&self) -> Option<String> {
        match &self.topology {
            Topology::One(server) => server.history().map(|history| history.to_string()),
            Topology::Cluster(cluster) => cluster.history(),
        }
    }

    fn obstacle(&self) -> Option<String> {
        match &self.topology {
            Topology::One(server) => server.obstacle(),
            Topology::Cluster(cluster) => cluster.obstacle(),
        }
    }

    /// Redis itself makes changes durable.
    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "redis"
    }
}

/// A pattern that matches every key with one of the prefixes, and as few others as possible.
fn pattern(prefixes: &[String]) -> String {
    let shared = |a: &str, b: &str| {
        let ends = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        a.get(..ends).unwrap_or_default().to_owned()
    };
    let first = prefixes.first().cloned().unwrap_or_default();
    let common = prefixes.iter().fold(first, |common, prefix| shared(&common, prefix));
    let mut pattern = String::with_capacity(common.len() + 1);
    for character in common.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern + "*"
}

/// The hashes that a transaction reads if it succeeds, with the fields.
fn reads(txn: &Txn) -> impl Iterator<Item = (&str, Option<&[String]>)> {
    txn.success.iter().filter_map(|operation| match operation {
        Operation::HashGet { key, fields } => Some((key.as_str(), fields.as_deref())),
        _ => None,
    })
}

/// A key of a transaction. All its keys are on the same server.
fn key_of(txn: &Txn) -> &str {
    txn.targets().next().map_or("", |(key, _)| key)
}

/// The start of a command that runs a script on keys.
fn evaluation(script: &Script, keys: &[&str]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys);
    command
}

/// The outcome of a transaction that reads: the clock, then the deadline and the fields of each
/// hash. `selected` says that the replies hold the named fields only.
fn hashes(txn: &Txn, mut values: impl Iterator<Item = Value>, selected: bool) -> Option<Outcome> {
    let now = reply::time(&values.next()?)?;
    let mut replies = Vec::with_capacity(txn.success.len());
    for (_, fields) in reads(txn) {
        let (deadline, value) = (values.next()?, values.next()?);
        let mut hash = reply::hash(&deadline, value, fields.filter(|_| selected))?;
        if let (Some(hash), Some(fields), false) = (&mut hash, fields, selected) {
            hash.entries.retain(|entry| fields.contains(&entry.field));
        }
        replies.push(Reply::Record(hash));
    }
    Some(Outcome { succeeded: true, replies, now })
}

/// Whether the server refuses writes now, or some of them.
fn refuses_writes(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS"))
}

/// What a failed call means to the caller. The server's own words go to the log only, as they
/// may name keys.
fn failure(error: CallError) -> Error {
    let error = match error {
        CallError::Disconnected => return Error::Unavailable("Redis is not connected".into()),
        CallError::TimedOut => return Error::Unavailable("Redis does not answer in time".into()),
        CallError::Redis(error) => error,
    };
    if let Some((_, rest)) = refusal(&error) {
        return match error.code() {
            Some("HOLDS") => wrong_type(rest),
            _ => growth::full("Redis", "maxmemory"),
        };
    }
    match error.kind() {
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown
            | ServerErrorKind::ReadOnly
            // The Cluster moves slots.
            | ServerErrorKind::Moved
            | ServerErrorKind::Ask
            // The script cache was flushed between loading and running.
            | ServerErrorKind::NoScript,
        ) => Error::Unavailable(format!("Redis is not ready: {}", words(&error))),
        ErrorKind::Extension if error.code() == Some("OOM") => growth::full("Redis", "maxmemory"),
        ErrorKind::Extension if matches!(error.code(), Some("MISCONF" | "BUSY" | "NOREPLICAS")) => {
            Error::Unavailable("Redis takes no writes now".into())
        }
        ErrorKind::AuthenticationFailed => {
            Error::Unavailable("Redis refuses the login".into())
        }
        ErrorKind::Extension if error.code() == Some("NOAUTH") => {
            Error::Unavailable("Redis refuses the login".into())
        }
        ErrorKind::Extension if error.code() == Some(TOO_FEW_REPLICAS) => Error::Unavailable(
            "too few replicas of Redis have acknowledged the change; it may have happened".into(),
        ),
        ErrorKind::Extension if error.code() == Some("WRONGTYPE") => {
            Error::Rejected("a key holds another type of value".into())
        }
        ErrorKind::Server(_) | ErrorKind::Extension => {
            tracing::warn!(%error, "Redis refused a command");
            Error::Rejected(format!("Redis refused the command: {}", words(&error)))
        }
        // Cut off on its way, or that of another question.
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            tracing::warn!("a reply of Redis does not match its command");
            Error::Unavailable("Redis gave a reply that does not match the command".into())
        }
        _ => {
            tracing::debug!(%error, "Redis does not answer");
            Error::Unavailable(format!("Redis does not answer: {}", words(&error)))
        }
    }
}

/// The error for a key of another type; `types` names the type found and the one expected.
fn wrong_type(types: &str) -> Error {
    let (found, expected) = types.split_once(' ').unwrap_or((types, "hash"));
    let expected = match expected {
        "zset" => Shape::Set,
        "stream" => Shape::Log,
        _ => Shape::Hash,
    };
    Error::wrong_type(if found == "zset" { "sorted set" } else { found }, expected)
}

/// The kind of an error in a few words; the client library has none for some.
fn words(error: &RedisError) -> &str {
    match error.category() {
        "" => error.code().unwrap_or("unknown"),
        words => words,
    }
}
