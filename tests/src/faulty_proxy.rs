//! A proxy in front of a Redis server. It treats replies as a broken network, proxy or server
//! may treat them.

use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A fault of one reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The reply is lost.
    Drop,
    /// The reply is sent twice.
    Double,
    /// The connection is closed in the middle of the reply.
    CutInside,
    /// The connection is closed instead of the reply.
    CutBefore,
    /// The reply, and all later ones, are delayed.
    Delay(Duration),
}

/// The replies that a fault may affect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Any reply.
    Any,
    /// An array: the reply to a script or to a transaction.
    Array,
}

/// A running proxy. Dropping it closes its connections.
pub struct FaultyProxy {
    /// The port it listens on.
    pub port: u16,
    faults: Arc<Faults>,
    silent: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Faults(Mutex<State>);

#[derive(Default)]
struct State {
    next: Option<(Fault, Which)>,
    done: u32,
}

impl FaultyProxy {
    /// Starts a proxy in front of a server on a port of this machine.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let own = listener.local_addr().expect("an address").port();
        let faults = Arc::<Faults>::default();
        let (silent, is_silent) = watch::channel(false);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, port, Arc::clone(&faults), is_silent));
        Self { port: own, faults, silent, _serving: serving }
    }

    /// Passes nothing on in either direction, as a cut network does, until `silent` is false
    /// again. Connections stay open.
    pub fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    /// Applies a fault to the next such reply of any connection.
    pub fn next(&self, fault: Fault, which: Which) {
        self.faults.state().next = Some((fault, which));
    }

    /// The number of faults applied so far.
    pub fn done(&self) -> u32 {
        self.faults.state().done
    }
}

impl Faults {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault to apply to a reply whose first byte is `begins`.
    fn for_reply(&self, begins: u8) -> Option<Fault> {
        let mut state = self.state();
        let fits = |which| which == Which::Any || begins == b'*';
        let (fault, _) = state.next.take_if(|(_, which)| fits(*which))?;
        state.done += 1;
        Some(fault)
    }
}

async fn serve(
    listener: TcpListener,
    port: u16,
    faults: Arc<Faults>,
    silent: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (faults, silent) = (Arc::clone(&faults), silent.clone());
        connections.spawn(async move {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let Ok(server) = TcpStream::connect(address).await else { return };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            // If one side closes its connection, the other one is closed too.
            tokio::select! {
                _ = requests(from_client, to_server, silent.clone()) => {}
                _ = replies(from_server, to_client, &faults, silent) => {}
            }
        });
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut bytes = vec![0; 1 << 16];
    loop {
        let length = from.read(&mut bytes).await?;
        if length == 0 {
            return Ok(());
        }
        while_silent(&mut silent).await?;
        to.write_all(&bytes[..length]).await?;
    }
}

/// Waits while the proxy is silent.
async fn while_silent(silent: &mut watch::Receiver<bool>) -> Result<(), Error> {
    silent.wait_for(|silent| !silent).await.map(drop).map_err(Error::other)
}

async fn replies(
    from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    faults: &Faults,
    mut silent: watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut from = BufReader::with_capacity(1 << 16, from);
    let mut reply = Vec::new();
    loop {
        reply.clear();
        read_reply(&mut from, &mut reply).await?;
        while_silent(&mut silent).await?;
        match faults.for_reply(reply[0]) {
            Some(Fault::Drop) => continue,
            Some(Fault::Double) => to.write_all(&reply).await?,
            Some(Fault::CutInside) => {
                to.write_all(&reply[..reply.len() / 2]).await?;
                return Ok(());
            }
            Some(Fault::CutBefore) => return Ok(()),
            Some(Fault::Delay(late)) => tokio::time::sleep(late).await,
            None => {}
        }
        to.write_all(&reply).await?;
    }
}

/// Reads one whole reply, with all its parts.
async fn read_reply(from: &mut BufReader<OwnedReadHalf>, reply: &mut Vec<u8>) -> Result<(), Error> {
    let mut parts = 1_u64;
    while parts > 0 {
        parts -= 1;
        let begins = reply.len();
        if from.read_until(b'\n', reply).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = str::from_utf8(&reply[begins..]).map_err(Error::other)?.trim_end();
        let length = || line[1..].parse::<i64>().map_err(Error::other);
        match line.as_bytes()[0] {
            b'*' => parts += u64::try_from(length()?).unwrap_or(0),
            b'$' => {
                if let Ok(length) = usize::try_from(length()?) {
                    let at = reply.len();
                    reply.resize(at + length + 2, 0);
                    from.read_exact(&mut reply[at..]).await?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}
