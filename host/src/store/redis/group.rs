//! Sends commands whose effect replicas must have before they are answered. WAIT delays every
//! later command on its connection, so these commands have a connection of their own. Commands
//! that arrive while a WAIT runs go as one pipeline with one WAIT at its end. The WAIT must use
//! the connection of the commands: another one may reach another server by then, which would
//! acknowledge changes that it never had.

use std::io;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::sync::{mpsc, oneshot};

use crate::store::redis::numbers::Numbers;
use crate::store::redis::reply;
use crate::store::redis::reply::mismatch;

/// The most commands in one pipeline.
const TOGETHER_MAX: usize = 128;
/// The error code if too few replicas have acknowledged in time.
pub const TOO_FEW_REPLICAS: &str = "TOO_FEW_REPLICAS";

/// How many replicas must have a change before it is acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaWait {
    /// Their number.
    pub replicas: u32,
    /// How long they may take.
    pub timeout: Duration,
}

/// Sends commands over one connection.
#[derive(Clone)]
pub struct CommandGroup(mpsc::Sender<Job>);

struct Job {
    command: Cmd,
    asking: bool,
    done: oneshot::Sender<Result<Value, RedisError>>,
}

impl CommandGroup {
    /// A group of commands over a connection, sent by a task on the current runtime.
    pub fn new(
        connection: MultiplexedConnection,
        numbers: Numbers,
        replica_wait: ReplicaWait,
    ) -> Self {
        let (jobs, waiting) = mpsc::channel(TOGETHER_MAX);
        tokio::spawn(send_all(connection, numbers, replica_wait, waiting));
        Self(jobs)
    }

    /// The reply to a command, once enough replicas have its effect. With `asking`, the keys are
    /// being moved to this node of a Cluster.
    ///
    /// # Errors
    /// Those of the server and the network; one with the code [`TOO_FEW_REPLICAS`] if too few
    /// replicas have it. A caller that gives up before the command is sent has changed nothing.
    pub async fn send(&self, command: Cmd, asking: bool) -> Result<Value, RedisError> {
        let (done, answer) = oneshot::channel();
        self.0.send(Job { command, asking, done }).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Sends what has gathered, until the connection fails or every sender is dropped.
async fn send_all(
    mut connection: MultiplexedConnection,
    numbers: Numbers,
    replica_wait: ReplicaWait,
    mut waiting: mpsc::Receiver<Job>,
) {
    let mut jobs = Vec::new();
    while waiting.recv_many(&mut jobs, TOGETHER_MAX).await > 0 {
        jobs.retain(|job: &Job| !job.done.is_closed());
        if jobs.is_empty() {
            continue;
        }
        let sending = send(&mut connection, &numbers, replica_wait, &jobs);
        // WAIT ends by itself after `timeout`; a server that is silent for twice that is gone.
        let sent = match tokio::time::timeout(replica_wait.timeout.saturating_mul(2), sending).await
        {
            Ok(sent) => sent,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        match sent {
            Ok(answers) => {
                for (job, answer) in jobs.drain(..).zip(answers) {
                    // The caller may have stopped waiting.
                    drop(job.done.send(answer));
                }
            }
            Err(error) => {
                // One caller gets the error, the others learn that the connection has ended.
                if let Some(job) = jobs.pop() {
                    drop(job.done.send(Err(error)));
                }
                return;
            }
        }
    }
}

/// Sends some commands, and returns a reply for each.
async fn send(
    connection: &mut MultiplexedConnection,
    numbers: &Numbers,
    replica_wait: ReplicaWait,
    jobs: &[Job],
) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
    let number = numbers.next();
    let mut pipeline = Pipeline::with_capacity(jobs.len() + 2);
    for job in jobs {
        if job.asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(job.command.clone());
    }
    let milliseconds = u64::try_from(replica_wait.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    pipeline.cmd("WAIT").arg(replica_wait.replicas).arg(milliseconds);
    pipeline.cmd(numbers.repeat).arg(number);
    let asking = jobs.iter().filter(|job| job.asking).count();
    let count = jobs.len() + asking + 2;
    let mut values = connection.send_packed_commands(&pipeline, 0, count).await?.into_iter();
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        if job.asking {
            values.next();
        }
        answers.push(values.next().ok_or_else(mismatch)?.extract_error());
    }
    let (acknowledged, echo) = (values.next(), values.next());
    if !echo.is_some_and(|echo| reply::repeats(&echo, number)) {
        return Err(mismatch());
    }
    let acknowledged = match acknowledged.ok_or_else(mismatch)?.extract_error() {
        Ok(Value::Int(acknowledged)) => u32::try_from(acknowledged).unwrap_or(0),
        Ok(_) => return Err(mismatch()),
        // The user has no permission for WAIT, or the server is a replica by now.
        Err(error) => {
            tracing::warn!(%error, "Redis does not say how many replicas have a change");
            0
        }
    };
    if acknowledged < replica_wait.replicas {
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = Err(redis::make_extension_error(TOO_FEW_REPLICAS.into(), None));
        }
    }
    Ok(answers)
}

fn ended() -> RedisError {
    io::Error::from(io::ErrorKind::ConnectionAborted).into()
}
