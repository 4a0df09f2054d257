//! Sends commands that are answered once replicas have their changes. WAIT holds up every later
//! command on its connection, so these commands have a connection of their own. Those that
//! gather while a WAIT runs go as one pipeline, with one WAIT at its end. The WAIT has to use
//! the connection of the commands: another one may lead to another server by then, which would
//! acknowledge changes that it never had.

use std::io;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::sync::{mpsc, oneshot};

use crate::store::redis::commands::{Numbers, misfit};
use crate::store::redis::reply;

/// The most commands that go together.
const TOGETHER_MAX: usize = 128;
/// What an answer says that too few replicas have acknowledged in time.
pub const UNCOPIED: &str = "UNCOPIED";

/// How many replicas have to have a change before it is acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Copies {
    /// So many.
    pub replicas: u32,
    /// How long they may take.
    pub patience: Duration,
}

/// Sends commands over one connection.
#[derive(Clone)]
pub struct Group(mpsc::Sender<Job>);

struct Job {
    command: Cmd,
    asking: bool,
    done: oneshot::Sender<Result<Value, RedisError>>,
}

impl Group {
    /// Commands over a connection, which a task of the present runtime sends.
    pub fn new(connection: MultiplexedConnection, numbers: Numbers, copies: Copies) -> Self {
        let (jobs, waiting) = mpsc::channel(TOGETHER_MAX);
        tokio::spawn(send_all(connection, numbers, copies, waiting));
        Self(jobs)
    }

    /// The answer to a command, once so many replicas have what it did. With `asking`, the
    /// keys are on their way to this node of a Cluster.
    ///
    /// # Errors
    /// Those of the server, and of the way there; one with the code [`UNCOPIED`] when too few
    /// replicas have it. A caller that gives up before the command is sent has asked nothing.
    pub async fn send(&self, command: Cmd, asking: bool) -> Result<Value, RedisError> {
        let (done, answer) = oneshot::channel();
        self.0.send(Job { command, asking, done }).await.map_err(|_| ended())?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// Sends what has gathered, again and again, until the connection is of no use or nobody has
/// a use for it.
async fn send_all(
    mut connection: MultiplexedConnection,
    numbers: Numbers,
    copies: Copies,
    mut waiting: mpsc::Receiver<Job>,
) {
    let mut jobs = Vec::new();
    while waiting.recv_many(&mut jobs, TOGETHER_MAX).await > 0 {
        jobs.retain(|job: &Job| !job.done.is_closed());
        if jobs.is_empty() {
            continue;
        }
        let sending = send(&mut connection, &numbers, copies, &jobs);
        // WAIT ends by itself after `patience`; a server that is silent for twice that is gone.
        let sent = match tokio::time::timeout(copies.patience.saturating_mul(2), sending).await {
            Ok(sent) => sent,
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
        };
        match sent {
            Ok(answers) => {
                for (job, answer) in jobs.drain(..).zip(answers) {
                    // A caller that has gone does not wait for its answer.
                    drop(job.done.send(answer));
                }
            }
            Err(error) => {
                // One caller gets the error, the others that the connection has ended.
                if let Some(job) = jobs.pop() {
                    drop(job.done.send(Err(error)));
                }
                return;
            }
        }
    }
}

/// Sends some commands, and returns an answer for each.
async fn send(
    connection: &mut MultiplexedConnection,
    numbers: &Numbers,
    copies: Copies,
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
    let milliseconds = u64::try_from(copies.patience.as_millis()).unwrap_or(u64::MAX).max(1);
    pipeline.cmd("WAIT").arg(copies.replicas).arg(milliseconds);
    pipeline.cmd(numbers.repeat).arg(number);
    let asking = jobs.iter().filter(|job| job.asking).count();
    let count = jobs.len() + asking + 2;
    let mut values = connection.send_packed_commands(&pipeline, 0, count).await?.into_iter();
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        if job.asking {
            values.next();
        }
        answers.push(values.next().ok_or_else(misfit)?.extract_error());
    }
    let (acknowledged, echo) = (values.next(), values.next());
    if !echo.is_some_and(|echo| reply::repeats(&echo, number)) {
        return Err(misfit());
    }
    let acknowledged = match acknowledged.ok_or_else(misfit)?.extract_error() {
        Ok(Value::Int(acknowledged)) => u32::try_from(acknowledged).unwrap_or(0),
        Ok(_) => return Err(misfit()),
        // The user has no permission for WAIT, or the server is a replica by now.
        Err(error) => {
            tracing::warn!(%error, "Redis does not say how many replicas have a change");
            0
        }
    };
    if acknowledged < copies.replicas {
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = Err(redis::make_extension_error(UNCOPIED.into(), None));
        }
    }
    Ok(answers)
}

fn ended() -> RedisError {
    io::Error::from(io::ErrorKind::ConnectionAborted).into()
}
