//! Connections as they come, for every wire: a bounded number, without delay for
//! small answers, given up when nothing is said over them, and with a pause when
//! one cannot be accepted.

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_stream::Stream;

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may take to say which protocol it speaks.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(30);
/// The length of HTTP/2's preface: what is longer has said it.
const PREFACE_BYTES: usize = 24;

/// The connections of one listener; never ends.
pub struct Connections {
    listener: TcpListener,
    places: Arc<Semaphore>,
    waiting: Option<Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>>,
    place: Option<OwnedSemaphorePermit>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// What comes over `listener`, while there is a place for it; the rest waits
    /// to be accepted.
    pub fn new(listener: TcpListener, places: Arc<Semaphore>) -> Self {
        Self { listener, places, waiting: None, place: None, pause: None }
    }
}

impl Stream for Connections {
    type Item = std::io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if self.place.is_none() {
                let places = Arc::clone(&self.places);
                let waiting = self
                    .waiting
                    .get_or_insert_with(|| Box::pin(async { places.acquire_owned().await.ok() }));
                let place = ready!(waiting.as_mut().poll(context));
                self.waiting = None;
                if place.is_none() {
                    return Poll::Ready(None);
                }
                self.place = place;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    // Without it small answers wait for the peer's acknowledgement.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "a connection keeps its delay");
                    }
                    let patience = Some(Box::pin(tokio::time::sleep(PREFACE_TIMEOUT)));
                    let place = self.place.take();
                    let connection = Connection { stream, received: 0, patience, _place: place };
                    return Poll::Ready(Some(Ok(connection)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
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
    _place: Option<OwnedSemaphorePermit>,
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
