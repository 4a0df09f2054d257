//! The store on Redis, 7.0 or later: one server, the one that Sentinels name, or a
//! Cluster. A connection for each worker that comes back by itself, a time limit on every
//! call. Reads go as plain commands in MULTI; whatever writes or compares goes as one script.

mod address;
mod commands;
mod link;
mod locator;
mod reply;
mod script;

use std::sync::OnceLock;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind, Value};

use crate::store::transaction::{Operation, Outcome, Reply, Shape, Txn};
use crate::store::{Answer, EVENT_AHEAD_MS_MAX, Error, KeyCount, LogMark, Logs, Store, growth};
use crate::workers::{self, PerWorker};
use address::Connector;
pub use address::{Address, NoAddress};
use commands::Commands;
use link::{Disconnected, Link};
pub use locator::Locator;
use script::{Refusal, TransactionScript};

/// About how many keys one step of a count looks at, for some 0.7 ms of the server.
const SCANNED: u32 = 1000;

/// A store on Redis.
pub struct Redis {
    connector: Connector,
    timeout: Duration,
    /// For whoever is no worker.
    first: Link,
    /// One for each worker, made on that worker when it first asks: a reply is read by
    /// the thread that waits for it.
    links: PerWorker<OnceLock<Link>>,
    script: TransactionScript,
    read_script: redis::Script,
    logs_script: redis::Script,
    empty_logs_script: redis::Script,
}

/// Why a server is not fit to keep sessions.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It would drop sessions to make room.
    #[error(
        "Redis evicts keys when it is full (maxmemory-policy {0}), so sessions would vanish; \
         set maxmemory-policy noeviction, or allow it with REDIS_ALLOW_EVICTION=true"
    )]
    Evicts(String),
    /// It does not know the commands used here.
    #[error("Redis is version {0}; 7.0 or later is needed")]
    Old(String),
}

impl Redis {
    /// A store on the server that `locator` says, which need not answer yet: a task of
    /// the present runtime connects, and connects again when the connection is
    /// lost. Every call is given up after `timeout`.
    ///
    /// # Errors
    /// When the address is not usable at all.
    pub fn new(locator: impl Into<Locator>, timeout: Duration) -> Result<Self, RedisError> {
        let connector = Connector::new(locator.into(), timeout)?;
        Ok(Self {
            first: Link::new(connector.clone(), timeout),
            connector,
            timeout,
            links: PerWorker::new(OnceLock::new),
            script: TransactionScript::new(),
            read_script: redis::Script::new(include_str!("read.lua")),
            logs_script: redis::Script::new(include_str!("logs.lua")),
            empty_logs_script: redis::Script::new(include_str!("empty_logs.lua")),
        })
    }

    /// The link of whoever runs this.
    fn link(&self) -> &Link {
        let Some(_) = workers::current() else { return &self.first };
        let another = || self.first.another(self.connector.clone(), self.timeout);
        self.links.own().get_or_init(another)
    }

    /// What makes the server unfit to keep sessions; `None` when it is fit, or
    /// does not let us ask.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn unfit(&self) -> Result<Option<Unfit>, Error> {
        let mut info = redis::cmd("INFO");
        info.arg("server");
        // A server that forbids the question is its operator's to judge.
        let text: String = match self.ask(&info).await {
            Ok(text) => text,
            Err(Error::Rejected(_)) => String::new(),
            Err(error) => return Err(error),
        };
        let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        if let Some(version) = version.map(str::trim)
            && version.split('.').next().and_then(|major| major.parse::<u32>().ok()) < Some(7)
        {
            return Ok(Some(Unfit::Old(version.into())));
        }
        let mut policy = redis::cmd("CONFIG");
        policy.arg("GET").arg("maxmemory-policy");
        let pair: Vec<String> = match self.ask(&policy).await {
            Ok(pair) => pair,
            Err(Error::Rejected(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(pair.into_iter().nth(1).filter(|policy| policy != "noeviction").map(Unfit::Evicts))
    }

    async fn ask<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, Error> {
        self.call(async |connection| connection.ask(command).await).await
    }

    /// One exchange with the server, within the time limit.
    async fn call<T>(
        &self,
        exchange: impl AsyncFnOnce(&mut Commands) -> Result<T, RedisError>,
    ) -> Result<T, Error> {
        let link = self.link();
        let mut number = None;
        let limited = async {
            let mut connection = link.connection().await?;
            number = Some(connection.number());
            Ok(exchange(&mut connection.commands).await)
        };
        match tokio::time::timeout(self.timeout, limited).await {
            Ok(Ok(result)) => {
                link.answered();
                result.map_err(|error| {
                    // A server that was the primary takes no writes any more.
                    let demoted = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
                    if error.is_io_error() || error.is_unrecoverable_error() || demoted {
                        number.into_iter().for_each(|number| link.lost(number));
                    }
                    failure(&error)
                })
            }
            Ok(Err(Disconnected)) => Err(Error::Unavailable("Redis is not connected".into())),
            Err(_) => {
                link.timed_out(number);
                Err(Error::Unavailable("Redis does not answer in time".into()))
            }
        }
    }

    /// Reads hashes as plain commands.
    async fn read(&self, txn: &Txn) -> Result<Outcome, Error> {
        let mut pipeline = redis::Pipeline::with_capacity(1 + 2 * txn.success.len());
        pipeline.atomic().cmd("TIME");
        for (key, fields) in reads(txn) {
            pipeline.cmd("PEXPIRETIME").arg(key);
            match fields {
                // HMGET takes no empty list; what is asked for is the deadline.
                Some([]) => pipeline.cmd("HMGET").arg(key).arg(""),
                Some(fields) => pipeline.cmd("HMGET").arg(key).arg(fields),
                None => pipeline.cmd("HGETALL").arg(key),
            };
        }
        let (values, selected) = self
            .call(async |connection| match pipeline.query_async(connection).await {
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ExecAbort) => {
                    Ok((self.read_when_full(txn, connection).await?, false))
                }
                answered => answered.map(|values: Vec<Value>| (values, true)),
            })
            .await?;
        let mut values = values.into_iter();
        let now = values.next().as_ref().and_then(reply::time).ok_or_else(misunderstood)?;
        let mut replies = Vec::with_capacity(txn.success.len());
        for (_, fields) in reads(txn) {
            let (Some(deadline), Some(value)) = (values.next(), values.next()) else {
                return Err(misunderstood());
            };
            let given = fields.filter(|_| selected);
            let mut hash = reply::hash(&deadline, value, given).ok_or_else(misunderstood)?;
            if let (Some(hash), Some(fields), false) = (&mut hash, fields, selected) {
                hash.entries.retain(|entry| fields.contains(&entry.field));
            }
            replies.push(Reply::Record(hash));
        }
        Ok(Outcome { succeeded: true, replies, now })
    }

    /// Reads whole hashes by a script that a full server still runs.
    async fn read_when_full(
        &self,
        txn: &Txn,
        connection: &mut Commands,
    ) -> Result<Vec<Value>, RedisError> {
        let mut call = self.read_script.prepare_invoke();
        for (key, _) in reads(txn) {
            call.key(key);
        }
        call.invoke_async(connection).await
    }

    /// Events of logs that one server has.
    async fn read_logs_of_slot(&self, marks: &[LogMark], limit: usize) -> Result<Logs, Error> {
        let mut call = self.logs_script.prepare_invoke();
        call.arg(limit).arg(EVENT_AHEAD_MS_MAX);
        for mark in marks {
            call.key(mark.log.as_str());
            call.arg(mark.after.map(|id| id.to_string()).unwrap_or_default());
        }
        let value = self.call(async |connection| call.invoke_async(connection).await).await?;
        reply::logs(value, marks.len()).ok_or_else(misunderstood)
    }

    /// Empties those logs of one server that lie in the future.
    async fn empty_logs_of_slot(&self, logs: &[String]) -> Result<(), Error> {
        let mut call = self.empty_logs_script.prepare_invoke();
        call.arg(EVENT_AHEAD_MS_MAX);
        for log in logs {
            call.key(log.as_str());
        }
        self.call(async |connection| call.invoke_async(connection).await).await
    }

    /// How many logs one script may name: in a Cluster each has a slot of its own.
    fn logs_together(&self, logs: usize) -> usize {
        if self.connector.is_cluster() { 1 } else { logs.max(1) }
    }

    /// Anything, as one script.
    async fn run(&self, txn: &Txn) -> Result<Outcome, Error> {
        let value = self
            .call(async |connection| {
                if !txn.only_reads() {
                    match self.evaluate(txn, Refusal::Whole, connection).await {
                        // What it would have done may be taken all the same.
                        Err(error) if is_in_trouble(&error) => {}
                        answered => return answered,
                    }
                }
                self.evaluate(txn, Refusal::ByCommand, connection).await
            })
            .await?;
        reply::outcome(txn, value).ok_or_else(misunderstood)
    }

    /// Runs the script, and loads it before when the server does not know it.
    async fn evaluate(
        &self,
        txn: &Txn,
        refusal: Refusal,
        connection: &mut Commands,
    ) -> Result<Value, RedisError> {
        let command = self.script.command(txn, refusal);
        match command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.script.script(refusal).load_async(connection).await?;
                command.query_async(connection).await
            }
            answered => answered,
        }
    }
}

impl Store for Redis {
    fn execute(&self, txn: Txn) -> Answer<'_, Outcome> {
        Box::pin(async move {
            txn.check()?;
            if txn.compare.is_empty()
                && txn.failure.is_empty()
                && reads(&txn).count() == txn.success.len()
            {
                match self.read(&txn).await {
                    // The script says which type it is.
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
                let clock = self.call(async |connection| connection.clock().await).await?;
                let now = clock.ok_or_else(misunderstood)?;
                return Ok(Logs { now, pages: Vec::new() });
            }
            let parts = marks
                .chunks(self.logs_together(marks.len()))
                .map(|marks| self.read_logs_of_slot(marks, limit));
            let parts = futures_util::future::try_join_all(parts).await?;
            // Nodes have clocks of their own: what is there by all of them is there.
            let now = parts.iter().map(|logs| logs.now).min().ok_or_else(misunderstood)?;
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
            let pattern = pattern(prefixes);
            let scan =
                self.call(async |connection| connection.scan(cursor, &pattern, SCANNED).await);
            let (found, next) = scan.await?;
            let begins = |key: &&String| prefixes.iter().any(|prefix| key.starts_with(&**prefix));
            let keys = found.iter().filter(begins).count() as u64;
            Ok(KeyCount { keys, next })
        })
    }

    fn ping(&self) -> Answer<'_, ()> {
        Box::pin(self.call(async |connection| connection.ping().await))
    }

    fn obstacle(&self) -> Option<String> {
        self.first.obstacle()
    }

    /// Durability is the server's own affair.
    fn flush(&self) -> Answer<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "redis"
    }
}

/// What all keys match that begin with one of the prefixes, and as few others as one
/// pattern lets be.
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

/// The hashes that a transaction reads when it succeeds, and which fields.
fn reads(txn: &Txn) -> impl Iterator<Item = (&str, Option<&[String]>)> {
    txn.success.iter().filter_map(|operation| match operation {
        Operation::HashGet { key, fields } => Some((key.as_str(), fields.as_deref())),
        _ => None,
    })
}

/// Whether a server takes no writes now, or not all of them.
fn is_in_trouble(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)
        || matches!(error.code(), Some("OOM" | "MISCONF" | "NOREPLICAS"))
}

/// What an error of the client or the server means. The server's own words go to
/// the log only: they may name keys.
fn failure(error: &RedisError) -> Error {
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
            // Forgotten again between loading and running.
            | ServerErrorKind::NoScript,
        ) => Error::Unavailable(format!("Redis is not ready: {}", words(error))),
        ErrorKind::Extension if error.code() == Some("REJECTED") => {
            Error::Rejected(error.detail().unwrap_or("no reason given").into())
        }
        ErrorKind::Extension if error.code() == Some("HOLDS") => {
            holds_another(error.detail().unwrap_or_default())
        }
        ErrorKind::Extension if matches!(error.code(), Some("FULL" | "OOM")) => {
            growth::full("Redis", "maxmemory")
        }
        ErrorKind::Extension if matches!(error.code(), Some("MISCONF" | "BUSY" | "NOREPLICAS")) => {
            Error::Unavailable("Redis takes no writes now".into())
        }
        ErrorKind::AuthenticationFailed => {
            Error::Unavailable("Redis does not let us in".into())
        }
        ErrorKind::Extension if error.code() == Some("NOAUTH") => {
            Error::Unavailable("Redis does not let us in".into())
        }
        ErrorKind::Extension if error.code() == Some("WRONGTYPE") => {
            Error::Rejected("a key holds another type of value".into())
        }
        ErrorKind::Server(_) | ErrorKind::Extension => {
            tracing::warn!(%error, "Redis refused a command");
            Error::Rejected(format!("Redis refused the command: {}", words(error)))
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => misunderstood(),
        _ => {
            tracing::debug!(%error, "Redis does not answer");
            Error::Unavailable(format!("Redis does not answer: {}", words(error)))
        }
    }
}

/// What the script says of a key of another type: the type found, and the one expected.
fn holds_another(types: &str) -> Error {
    let (found, expected) = types.split_once(' ').unwrap_or((types, "hash"));
    let expected = match expected {
        "zset" => Shape::Set,
        "stream" => Shape::Log,
        _ => Shape::Hash,
    };
    Error::holds_another(if found == "zset" { "sorted set" } else { found }, expected)
}

/// What kind of error it is, in a few words; for some the client has none.
fn words(error: &RedisError) -> &str {
    match error.category() {
        "" => error.code().unwrap_or("unknown"),
        words => words,
    }
}

fn misunderstood() -> Error {
    Error::Rejected("Redis gave an answer that does not fit the question".into())
}
