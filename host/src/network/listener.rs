//! Network connections as they come, for every wire: as many as a door lets in, spread
//! evenly over the workers, without delay for small answers, and with a pause when one
//! cannot be accepted.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use super::door::{Door, Place};
use super::stream::Stream;

/// Connections that wait to be accepted; the system may allow fewer. One that
/// finds no room tries again after a second, and the usual 128 are soon taken when
/// all clients come back at once.
const QUEUE_MAX: u32 = 4096;
/// How long a peer may take to acknowledge what it was sent, or to read some of it, so that
/// one that is gone without a word, or only takes up room, is found out.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MS: u32 = 60_000;
/// What the system keeps of replies that a client does not read; it takes twice as much for
/// it. It grows to megabytes otherwise, which no budget would know of.
const SEND_BUFFER_BYTES: u32 = 128 << 10;
/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port that is kept for this process, and refuses connections.
///
/// # Errors
/// When the address is not ours or is taken.
pub fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A new process takes over the port of one that has just ended.
    socket.set_reuseaddr(true)?;
    // Every connection that is accepted has these from here.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(&socket, UNACKNOWLEDGED_MS)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Lets connections come to a port, with room for a burst of them.
///
/// # Errors
/// When another process has begun to listen there.
pub fn listen(port: TcpSocket) -> std::io::Result<TcpListener> {
    port.listen(QUEUE_MAX)
}

/// How many connections each worker has.
pub type Loads = Arc<[AtomicUsize]>;

/// Accepts connections while a door lets them in.
pub struct Acceptor {
    listener: TcpListener,
    door: Arc<Door>,
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
    seat: Seat,
}

/// A place behind the door, and on a worker.
pub struct Seat {
    /// The place behind the door.
    pub place: Place,
    loads: Loads,
    worker: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.loads[self.worker].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes an acceptor of `listener` that spreads connections over as many workers
/// as `loads` has, each to the one that has the fewest.
pub fn spread(
    listener: TcpListener,
    door: Arc<Door>,
    loads: &Loads,
) -> (Acceptor, Vec<Connections>) {
    let channels = loads.iter().map(|_| mpsc::unbounded_channel());
    let (shares, connections) =
        channels.map(|(share, connections)| (share, Connections(connections))).unzip();
    let turn = AtomicUsize::new(0);
    (Acceptor { listener, door, loads: Arc::clone(loads), turn, shares }, connections)
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
                Ok(Some(accepted)) => {
                    let worker = accepted.seat.worker;
                    // A worker that has ended is stopping with all others.
                    drop(self.shares[worker].send(accepted));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The next connection; none when it was not let in.
    async fn accept(&self) -> std::io::Result<Option<Accepted>> {
        self.door.opens().await;
        let (stream, address) = self.listener.accept().await?;
        let Some(place) = self.door.enter(address.ip()).await else { return Ok(None) };
        // Without it small answers wait for the peer's acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        let worker = fewest(&self.loads, self.turn.fetch_add(1, Ordering::Relaxed));
        self.loads[worker].fetch_add(1, Ordering::Relaxed);
        let seat = Seat { place, loads: Arc::clone(&self.loads), worker };
        Ok(Some(Accepted { stream: stream.into_std()?, seat }))
    }
}

/// The worker that has the fewest connections, the first such one from `turn` on.
fn fewest(loads: &[AtomicUsize], turn: usize) -> usize {
    let workers = (0..loads.len()).map(|step| (turn + step) % loads.len());
    workers.min_by_key(|worker| loads[*worker].load(Ordering::Relaxed)).unwrap_or(0)
}

impl tokio_stream::Stream for Connections {
    type Item = (Stream, Seat);

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(Accepted { stream, seat }) = ready!(self.0.poll_recv(context)) else {
                return Poll::Ready(None);
            };
            match TcpStream::from_std(stream) {
                Ok(stream) => {
                    let connection = Arc::clone(&seat.place.connection);
                    return Poll::Ready(Some((Stream::new(stream, connection), seat)));
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
        let port = bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let address = port.local_addr().expect("an address");
        TcpStream::connect(address).await.expect_err("nobody listens yet");
        let _listener = listen(port).expect("nobody else listens");
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
        let door = Door::new(&Network::for_tests(), 5);
        let (acceptor, mut connections) = spread(listener, Arc::clone(&door), &loads);
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
        assert_eq!((served, door.taken()), (1, 0));
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}
