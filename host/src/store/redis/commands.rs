//! Sends commands to one server, and checks that each reply belongs to its command. Replies on a
//! connection come in the order of the commands, so a reply that is lost or doubled on the way
//! would give every later one to another request. Each command therefore carries a number that
//! its reply repeats, and a reply with another number ends the connection.

use std::sync::Arc;
use std::vec::IntoIter;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, Script, ServerErrorKind, Value};

use crate::store::redis::group::{CommandGroup, ReplicaWait};
use crate::store::redis::numbers::Numbers;
use crate::store::redis::reply::{self, mismatch};
use session_store::Takes;
use session_store::clock::Milliseconds;

/// The first number is random below this, so that two connections do not share numbers.
const FIRST_NUMBER_MAX: u64 = 1 << 48;
/// The error codes of our scripts. The number of the command follows.
const REFUSALS: [&str; 2] = ["HOLDS", "FULL"];

/// A connection to one server.
#[derive(Clone)]
pub struct Commands {
    connection: MultiplexedConnection,
    numbers: Numbers,
    /// Sends scripts that wait for replicas.
    group: Option<CommandGroup>,
    /// The keys are being moved here from another node of a Cluster.
    asking: bool,
}

impl Commands {
    /// Commands on a new connection. With `replica_wait`, a script is answered once enough replicas
    /// have its effect.
    ///
    /// # Errors
    /// If the system has no randomness, and those of the network.
    pub async fn new(
        mut connection: MultiplexedConnection,
        replica_wait: Option<ReplicaWait>,
    ) -> Result<Self, RedisError> {
        let first = getrandom::u64().map_err(std::io::Error::other)? % FIRST_NUMBER_MAX;
        let mut echo = redis::cmd("ECHO");
        let said = connection.send_packed_command(echo.arg(first)).await?.extract_error();
        let repeat = match said {
            Ok(said) if reply::repeats(&said, first) => "ECHO",
            Ok(_) => return Err(mismatch()),
            Err(error) if error.code() == Some("NOPERM") => "PING",
            Err(error) => return Err(error),
        };
        let numbers = Numbers::after(first, repeat);
        let group = replica_wait.map(|replica_wait| {
            CommandGroup::new(connection.clone(), numbers.clone(), replica_wait)
        });
        Ok(Self { connection, numbers, group, asking: false })
    }

    /// The same for keys that are being moved to this node of a Cluster.
    pub fn asking(mut self) -> Self {
        self.asking = true;
        self
    }

    /// Sends a command without keys.
    ///
    /// # Errors
    /// Those of the server and the network.
    pub async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, RedisError> {
        let number = self.numbers.next();
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(command.clone()).cmd(self.numbers.repeat).arg(number);
        let mut answers = self.connection.send_packed_commands(&pipeline, 0, 2).await?.into_iter();
        match (answers.next(), answers.next()) {
            (Some(answer), Some(echo)) if reply::repeats(&echo, number) => {
                Ok(T::from_redis_value(answer.extract_error()?)?)
            }
            // The PING that would repeat the number is refused while the disk refuses writes.
            (_, Some(Value::ServerError(error))) if error.code() == "MISCONF" => Err(error.into()),
            _ => Err(mismatch()),
        }
    }

    /// Whether the server answers. A server that cannot write to its disk refuses a PING, but still
    /// answers reads.
    ///
    /// # Errors
    /// Those of the server and the network.
    pub async fn ping(&mut self) -> Result<Takes, RedisError> {
        match self.ask::<Value>(&redis::cmd("PING")).await {
            Ok(_) => Ok(Takes::All),
            Err(error) if error.code() == Some("MISCONF") => Ok(Takes::ReadsOnly),
            Err(error) => Err(error),
        }
    }

    /// The history of changes that the server follows, if it allows the question.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn history(&mut self) -> Result<Option<Arc<str>>, RedisError> {
        self.replication("master_replid:", |id| Some(id.into())).await
    }

    /// A line of `INFO replication` that begins with `name`.
    async fn replication<T>(
        &mut self,
        name: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, RedisError> {
        let mut info = redis::cmd("INFO");
        match self.ask::<String>(info.arg("replication")).await {
            Ok(facts) => {
                let fact = facts.lines().find_map(|line| line.strip_prefix(name));
                Ok(fact.and_then(|fact| read(fact.trim())))
            }
            Err(error) if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The number of replicas that follow the server; `None` if it does not allow the question.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn replicas(&mut self) -> Result<Option<u32>, RedisError> {
        self.replication("connected_slaves:", |count| count.parse().ok()).await
    }

    /// The clock of the server.
    ///
    /// # Errors
    /// Those of the server and the network.
    pub async fn clock(&mut self) -> Result<Milliseconds, RedisError> {
        let time: Value = self.ask(&redis::cmd("TIME")).await?;
        reply::time(&time).ok_or_else(mismatch)
    }

    /// Scans some keys. Returns those that match the pattern, and the cursor of the next step.
    ///
    /// # Errors
    /// Those of the server and the network.
    pub async fn scan(
        &mut self,
        cursor: &str,
        pattern: &str,
        count: u32,
    ) -> Result<(Vec<String>, Option<String>), RedisError> {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count);
        let (cursor, keys): (String, Vec<String>) = self.ask(&scan).await?;
        Ok((keys, (cursor != "0").then_some(cursor)))
    }

    /// Runs plain commands atomically. A node that the keys are being moved to does not take them,
    /// as ASKING holds for one command only: there this fails as if aborted.
    ///
    /// # Errors
    /// Those of the server and the network.
    pub async fn transact(
        &mut self,
        capacity: usize,
        add: impl FnOnce(&mut Pipeline),
    ) -> Result<IntoIter<Value>, RedisError> {
        if self.asking {
            return Err((ErrorKind::Server(ServerErrorKind::ExecAbort), "asking").into());
        }
        let number = self.numbers.next();
        let mut pipeline = Pipeline::with_capacity(capacity + 1);
        pipeline.atomic().cmd(self.numbers.repeat).arg(number);
        add(&mut pipeline);
        behind_number(pipeline.query_async(&mut self.connection).await?, number)
    }

    /// Runs a script, and loads it first if the server does not know it. `command` makes the
    /// command for a number, which the script takes as its first argument and repeats before its
    /// replies.
    ///
    /// # Errors
    /// Those of the script, the server and the network.
    pub async fn evaluate(
        &mut self,
        script: &Script,
        command: impl FnOnce(u64) -> Cmd,
    ) -> Result<IntoIter<Value>, RedisError> {
        let number = self.numbers.next();
        let command = command(number);
        let answer = match self.send(&command).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let loaded = script.load_async(&mut self.connection).await?;
                if loaded != script.get_hash() {
                    return Err(mismatch());
                }
                self.send(&command).await
            }
            answer => answer,
        };
        let answer = answer.map_err(|error| match refusal(&error) {
            Some((of, _)) if of != number => mismatch(),
            _ => error,
        })?;
        let Value::Array(values) = answer else { return Err(mismatch()) };
        behind_number(values, number)
    }

    async fn send(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        if let Some(group) = &self.group {
            return group.send(command.clone(), self.asking).await;
        }
        if !self.asking {
            return self.connection.send_packed_command(command).await?.extract_error();
        }
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.cmd("ASKING").add_command(command.clone());
        let answers = self.connection.send_packed_commands(&pipeline, 1, 1).await?;
        answers.into_iter().next().ok_or_else(mismatch)?.extract_error()
    }
}

/// The replies after the number that a reply repeats.
fn behind_number(values: Vec<Value>, number: u64) -> Result<IntoIter<Value>, RedisError> {
    let mut values = values.into_iter();
    match values.next() {
        Some(echo) if reply::repeats(&echo, number) => Ok(values),
        _ => Err(mismatch()),
    }
}

/// The refusal of one of our scripts: the number of its command, and the rest.
pub fn refusal(error: &RedisError) -> Option<(u64, &str)> {
    if !REFUSALS.contains(&error.code()?) {
        return None;
    }
    let (number, rest) = error.detail()?.split_once(' ')?;
    Some((number.parse().ok()?, rest))
}
