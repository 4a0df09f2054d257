//! An open loop: each request is due at a fixed time, whether or not earlier ones were answered,
//! and its latency counts from that time. No packaged generator does this: wrk waits for each
//! answer, and h2load sends in bursts and counts from the sending.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::generator::{Protocol, Request, Sample};

/// The resolution of the clock of tokio. The requests of one tick are due together.
const TICK: Duration = Duration::from_millis(1);

/// Sends `rate` requests a second over all connections in turn.
pub fn run(request: &Request, connections: u32, length: Duration, rate: f64) -> Sample {
    // It runs on its own thread, as the other generators are processes.
    let (latencies, took) = std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(send(request, connections, length, rate))
        });
        running.join().unwrap()
    });
    Sample::new(latencies, took)
}

async fn send(
    request: &Request,
    connections: u32,
    length: Duration,
    rate: f64,
) -> (Vec<f64>, Duration) {
    let (answered, mut latencies) = mpsc::unbounded_channel();
    let mut queues = Vec::new();
    let mut serving = JoinSet::new();
    for _ in 0..connections {
        let (queue, due) = mpsc::unbounded_channel();
        queues.push(queue);
        let connection = Connection::open(request).await;
        serving.spawn(connection.serve(due, answered.clone()));
    }
    drop(answered);
    let started = Instant::now();
    let mut sent = 0_u64;
    while started.elapsed() < length {
        tokio::time::sleep(TICK).await;
        // Time counts in whole ticks, so a late tick makes its requests late too.
        let ticks = started.elapsed().as_millis() as u64;
        for tick in 0..=ticks {
            let due = started + TICK * tick as u32;
            let until = (rate * TICK.as_secs_f64() * tick as f64) as u64;
            while sent < until {
                queues[(sent % u64::from(connections)) as usize].send(due).unwrap();
                sent += 1;
            }
        }
    }
    drop(queues);
    serving.join_all().await;
    let took = started.elapsed();
    let mut all = Vec::new();
    while let Some(latency) = latencies.recv().await {
        all.push(latency);
    }
    assert_eq!(all.len() as u64, sent, "requests were lost");
    (all, took)
}

/// Opens one connection.
struct Connection {
    sender: Sender,
    template: Arc<Request>,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

impl Connection {
    async fn open(request: &Request) -> Self {
        let uri: http::Uri = request.url.parse().unwrap();
        let stream = TcpStream::connect(uri.authority().unwrap().as_str()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = TokioIo::new(stream);
        let sender = if request.protocol == Protocol::Http1 {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Sender::One(sender)
        } else {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Sender::Many(sender)
        };
        Self { sender, template: Arc::new(request.clone()) }
    }

    async fn serve(
        self,
        mut due: mpsc::UnboundedReceiver<Instant>,
        answered: mpsc::UnboundedSender<f64>,
    ) {
        let message = |template: &Request| {
            let kind = match template.protocol {
                Protocol::Grpc => "application/grpc",
                _ => "application/json",
            };
            let request = http::Request::builder().method(template.method).uri(&template.url);
            let request = request.header("content-type", kind).header("te", "trailers");
            request.body(Full::new(Bytes::copy_from_slice(&template.body))).unwrap()
        };
        match self.sender {
            Sender::One(mut sender) => {
                while let Some(due) = due.recv().await {
                    sender.ready().await.unwrap();
                    take(sender.send_request(message(&self.template)).await.unwrap()).await;
                    answered.send(microseconds(due)).unwrap();
                }
            }
            Sender::Many(sender) => {
                let mut requests = JoinSet::new();
                while let Some(due) = due.recv().await {
                    let (mut sender, answered) = (sender.clone(), answered.clone());
                    let message = message(&self.template);
                    requests.spawn(async move {
                        take(sender.send_request(message).await.unwrap()).await;
                        answered.send(microseconds(due)).unwrap();
                    });
                }
                requests.join_all().await;
            }
        }
    }
}

/// Receives a whole answer.
async fn take(answer: http::Response<hyper::body::Incoming>) {
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
}

fn microseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}
