//! Accepts network connections for every wire, as many as the limiter admits, and spreads them
//! evenly over the workers.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::limiter::{Limiter, Permit};
use super::stream::Stream;

/// The most connections in the accept queue; the system may allow fewer. A client that finds the
/// queue full tries again after a second, and the usual 128 are soon exceeded when all clients
/// reconnect at once.
const QUEUE_MAX: u32 = 4096;
/// How long a peer may take to acknowledge or read what it was sent. It finds peers that vanished
/// or that hold a connection without reading.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS_MAX: u32 = 60_000;
/// The system's buffer for unread replies of one connection; the system reserves twice as much.
/// Without a limit it grows to megabytes, which no budget would count.
const SEND_BUFFER_BYTES: u32 = 128 << 10;
/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Binds a port for this process. It refuses connections until [`listen`] is called.
///
/// # Errors
/// If the address is not one of this machine, or is in use.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Lets a new process bind the port of one that has just ended.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit these options.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS_MAX)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Starts to queue connections on a port.
///
/// # Errors
/// If another process listens there already.
pub fn listen(port: TcpSocket) -> std::io::Result<TcpListener> {
    port.listen(QUEUE_MAX)
}

/// The number of connections of each worker.
pub type Loads = Arc<[AtomicUsize]>;

/// Accepts connections as the limiter admits them.
pub struct Acceptor {
    listener: TcpListener,
    limiter: Arc<Limiter>,
    loads: Loads,
    /// The worker that gets the next connection if all have the same load.
    turn: AtomicUsize,
    workers: Vec<UnboundedSender<Accepted>>,
}

/// The connections of one worker; ends when the acceptor has stopped.
pub struct Connections(UnboundedReceiver<Accepted>);

/// A connection on its way to a worker. The permits bound how many there are.
struct Accepted {
    stream: std::net::TcpStream,
    admission: Admission,
}

/// The permit of a connection, and its count on a worker. Dropping it returns both.
pub struct Admission {
    /// The permit of the limiter.
    pub permit: Permit,
    loads: Loads,
    worker: usize,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes an acceptor that spreads the connections of `listener` over as many workers as `loads`
/// has entries. Each connection goes to the worker with the fewest.
pub fn spread(
    listener: TcpListener,
    limiter: Arc<Limiter>,
    loads: &Loads,
) -> (Acceptor, Vec<Connections>) {
    let channels = loads.iter().map(|_| mpsc::unbounded_channel());
    let (workers, connections) =
        channels.map(|(worker, connections)| (worker, Connections(connections))).unzip();
    let turn = AtomicUsize::new(0);
    (Acceptor { listener, limiter, loads: Arc::clone(loads), turn, workers }, connections)
}

impl Acceptor {
    /// Accepts until `stop` completes, and then closes the port.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = &mut stop => return,
            };
            match accepted {
                Ok(Some(accepted)) => {
                    let worker = accepted.admission.worker;
                    // A worker ends only when the process stops.
                    drop(self.workers[worker].send(accepted));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next connection; `None` if it was refused.
    async fn accept(&self) -> std::io::Result<Option<Accepted>> {
        self.limiter.until_open().await;
        let (stream, address) = self.listener.accept().await?;
        let Some(permit) = self.limiter.admit(address.ip()).await else { return Ok(None) };
        // Otherwise small replies wait for the peer's acknowledgement (Nagle's algorithm).
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        let worker = fewest(&self.loads, self.turn.fetch_add(1, Ordering::Relaxed));
        self.loads[worker].fetch_add(1, Ordering::Relaxed);
        let admission = Admission { permit, loads: Arc::clone(&self.loads), worker };
        Ok(Some(Accepted { stream: stream.into_std()?, admission }))
    }
}

/// The worker with the fewest connections; the first one from `turn` on if several have.
fn fewest(loads: &[AtomicUsize], turn: usize) -> usize {
    let workers = (0..loads.len()).map(|step| (turn + step) % loads.len());
    workers.min_by_key(|worker| loads[*worker].load(Ordering::Relaxed)).unwrap_or(0)
}

impl tokio_stream::Stream for Connections {
    type Item = (Stream, Admission);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(Accepted { stream, admission }) = ready!(self.0.poll_recv(context)) else {
                return Poll::Ready(None);
            };
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let connection = Arc::clone(&admission.permit.connection);
                    return Poll::Ready(Some((Stream::new(stream, connection), admission)));
                }
                Err(error) => tracing::warn!(%error, "a connection was not taken over"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use tokio_stream::StreamExt;

    #[test]
    fn a_connection_goes_to_the_worker_with_the_fewest_and_ties_take_turns() {
        let loads = |loads: &[usize]| loads.iter().map(|l| (*l).into()).collect::<Vec<_>>();
        for (given, turn, expected) in
            [(&[2, 1, 3][..], 0, 1), (&[1, 1, 1], 0, 0), (&[1, 1, 1], 1, 1), (&[1, 1, 2], 5, 0)]
        {
            assert_eq!(fewest(&loads(given), turn), expected, "{given:?} {turn}");
        }
    }

    #[tokio::test]
    async fn a_burst_of_connections_is_queued_before_any_is_accepted() {
        let port = bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = port.local_addr().expect("an address");
        TcpStream::connect(address).await.expect_err("no process listens yet");
        let _listener = listen(port).expect("no other process listens");
        let limit = Duration::from_secs(10);
        let burst: Vec<_> = (0..300)
            .map(|_| std::net::TcpStream::connect_timeout(&address, limit))
            .collect::<Result<_, _>>()
            .expect("all of them are queued");
        assert_eq!(burst.len(), 300);
    }

    #[tokio::test]
    async fn connections_are_spread_and_return_their_permits() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let loads: Loads = (0..2).map(|_| AtomicUsize::new(0)).collect();
        let limiter = Limiter::new(&Network::for_tests(), 5);
        let (acceptor, mut connections) = spread(listener, Arc::clone(&limiter), &loads);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let accepting = tokio::spawn(acceptor.run(async {
            drop(stopped.await);
        }));
        let mut ends = Vec::new();
        for _ in 0..2 {
            ends.push(TcpStream::connect(address).await.expect("is accepted"));
        }
        for connections in &mut connections {
            drop(connections.next().await.expect("each worker has one"));
        }
        assert!(loads.iter().all(|load| load.load(Ordering::Relaxed) == 0));
        // A connection that was accepted before the stop is still served.
        ends.push(TcpStream::connect(address).await.expect("is accepted"));
        while loads.iter().all(|load| load.load(Ordering::Relaxed) == 0) {
            tokio::task::yield_now().await;
        }
        drop(stop);
        accepting.await.expect("no panic");
        let mut served = 0;
        for connections in &mut connections {
            while connections.next().await.is_some() {
                served += 1;
            }
        }
        assert_eq!((served, limiter.taken()), (1, 0));
        assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
    }
}
