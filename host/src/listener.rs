//! Connections as they come, for every wire: a bounded number, spread evenly over
//! the workers, without delay for small answers, given up when nothing is said
//! over them, and with a pause when one cannot be accepted.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;

/// Connections that wait to be accepted; the system may allow fewer. One that
/// finds no room tries again after a second, and the usual 128 are soon taken when
/// all clients come back at once.
const QUEUE_MAX: u32 = 4096;
/// How long a peer may take to acknowledge what it was sent, or to read some of it, so that
/// one that is gone without a word, or only takes up room, is found out.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS: u32 = 60_000;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may take to say which protocol it speaks.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(30);
/// The length of HTTP/2's preface: what is longer has said it.
const PREFACE_BYTES: usize = 24;

/// A port with room for a burst of connections.
///
/// # Errors
/// When the address is not ours or is taken.
pub fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A new process takes over the port of one that has just ended.
    socket.set_reuseaddr(true)?;
    // Every connection that is accepted has it from here.
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS)?;
    socket.bind(address)?;
    socket.listen(QUEUE_MAX)
}

/// How many connections each worker has.
pub type Loads = Arc<[AtomicUsize]>;

/// Accepts connections while there is a place for them; the rest waits to be
/// accepted.
pub struct Acceptor {
    listener: TcpListener,
    places: Arc<Semaphore>,
    loads: Loads,
    /// Who gets a connection when all have as many.
    turn: AtomicUsize,
    shares: Vec<UnboundedSender<Accepted>>,
}

/// The connections that one worker got; ends when nobody accepts any more.
pub struct Connections(UnboundedReceiver<Accepted>);

/// A connection on its way to a worker; bounded by the places.
struct Accepted {
    stream: std::net::TcpStream,
    place: Place,
}

/// A place among the connections allowed, and on a worker.
struct Place {
    _permit: OwnedSemaphorePermit,
    loads: Loads,
    worker: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes an acceptor of `listener` that spreads connections over as many workers
/// as `loads` has, each to the one that has the fewest.
pub fn spread(
    listener: TcpListener,
    places: Arc<Semaphore>,
    loads: &Loads,
) -> (Acceptor, Vec<Connections>) {
    let channels = loads.iter().map(|_| mpsc::unbounded_channel());
    let (shares, connections) =
        channels.map(|(share, connections)| (share, Connections(connections))).unzip();
    let turn = AtomicUsize::new(0);
    (Acceptor { listener, places, loads: Arc::clone(loads), turn, shares }, connections)
}

impl Acceptor {
    /// Accepts until `stop` completes; then nobody listens any more.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = &mut stop => return,
            };
            match accepted {
                Ok((stream, place)) => {
                    let worker = place.worker;
                    // A worker that has ended is stopping with all others.
                    drop(self.shares[worker].send(Accepted { stream, place }));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self) -> std::io::Result<(std::net::TcpStream, Place)> {
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(Error::other)?;
        let (stream, _) = self.listener.accept().await?;
        // Without it small answers wait for the peer's acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        let worker = fewest(&self.loads, self.turn.fetch_add(1, Ordering::Relaxed));
        self.loads[worker].fetch_add(1, Ordering::Relaxed);
        let place = Place { _permit: permit, loads: Arc::clone(&self.loads), worker };
        Ok((stream.into_std()?, place))
    }
}

/// The worker that has the fewest connections, the first such one from `turn` on.
fn fewest(loads: &[AtomicUsize], turn: usize) -> usize {
    let workers = (0..loads.len()).map(|step| (turn + step) % loads.len());
    workers.min_by_key(|worker| loads[*worker].load(Ordering::Relaxed)).unwrap_or(0)
}

impl Stream for Connections {
    type Item = std::io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(Accepted { stream, place }) = ready!(self.0.poll_recv(context)) else {
                return Poll::Ready(None);
            };
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let patience = Some(Box::pin(tokio::time::sleep(PREFACE_TIMEOUT)));
                    let connection = Connection { stream, received: 0, patience, _place: place };
                    return Poll::Ready(Some(Ok(connection)));
                }
                Err(error) => tracing::warn!(%error, "a connection was not taken over"),
            }
        }
    }
}

/// A connection, and its place among those allowed.
pub struct Connection {
    stream: TcpStream,
    received: usize,
    /// Until it has said which protocol it speaks.
    patience: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if let Some(patience) = &mut this.patience
            && patience.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(Error::new(ErrorKind::TimedOut, "nothing was said")));
        }
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut this.stream).poll_read(context, buffer));
        if this.patience.is_some() {
            this.received += buffer.filled().len() - before;
            if this.received >= PREFACE_BYTES {
                this.patience = None;
            }
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[test]
    fn a_connection_goes_to_who_has_the_fewest_and_ties_take_turns() {
        let loads = |loads: &[usize]| loads.iter().map(|l| (*l).into()).collect::<Vec<_>>();
        for (given, turn, expected) in
            [(&[2, 1, 3][..], 0, 1), (&[1, 1, 1], 0, 0), (&[1, 1, 1], 1, 1), (&[1, 1, 2], 5, 0)]
        {
            assert_eq!(fewest(&loads(given), turn), expected, "{given:?} {turn}");
        }
    }

    #[tokio::test]
    async fn a_burst_of_connections_finds_room_before_any_is_accepted() {
        let listener = listen("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = listener.local_addr().expect("an address");
        let patience = Duration::from_secs(10);
        let burst: Vec<_> = (0..300)
            .map(|_| std::net::TcpStream::connect_timeout(&address, patience))
            .collect::<Result<_, _>>()
            .expect("all of them are queued");
        assert_eq!(burst.len(), 300);
    }

    #[tokio::test]
    async fn connections_are_spread_and_give_their_places_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let loads: Loads = (0..2).map(|_| AtomicUsize::new(0)).collect();
        let places = Arc::new(Semaphore::new(5));
        let (acceptor, mut connections) = spread(listener, Arc::clone(&places), &loads);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let accepting = tokio::spawn(acceptor.run(async {
            drop(stopped.await);
        }));
        let mut ends = Vec::new();
        for _ in 0..2 {
            ends.push(TcpStream::connect(address).await.expect("is accepted"));
        }
        for connections in &mut connections {
            let connection = connections.next().await.expect("each worker has one");
            drop(connection.expect("a connection"));
        }
        assert!(loads.iter().all(|load| load.load(Ordering::Relaxed) == 0));
        // One that was accepted before the stop is served after it.
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
        assert_eq!((served, places.available_permits()), (1, 5));
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
