//! The bytes of one network connection. Ends a connection over which nothing is sent, keeps one
//! open whose client has closed its side but waits for a reply, and replaces the replies of the
//! HTTP parser itself by the service's own.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::connection::Connection;
use super::heads::Heads;

/// How long a client may take to show which protocol it speaks.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(30);
/// The length of HTTP/2's preface. A client that has sent more has shown its protocol.
const PREFACE_BYTES: usize = 24;
/// How often a connection without requests in flight is polled after its client has closed its
/// side. By then hyper has parsed everything received.
const HALF_CLOSE_CHECKS: u32 = 4;
/// How long the last requests may take to be read after the client has closed its side.
const HALF_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often that is checked.
const HALF_CLOSE_INTERVAL: Duration = Duration::from_millis(5);
/// Bytes that the parser refuses in every state: in the lines of a head, which it checks at the
/// end of the head, in the length of a chunk, and after the last chunk.
const REFUSED: &[u8] = b"\r\0\n\n";
/// The start of a reply that the parser makes itself.
const REFUSAL: &[u8] = b"HTTP/1.1 4";
/// A header that each reply of the service has, and no reply of the parser.
pub const SERVICE_HEADER: &str = "x-content-type-options";

/// Makes the whole reply, head and body, for a status with which the parser refuses a request.
pub type Refuse = fn(u16) -> Vec<u8>;

/// The socket of a connection, with checks before hyper sees the bytes.
pub struct Stream {
    stream: TcpStream,
    connection: Arc<Connection>,
    received: usize,
    /// Runs until the client has shown which protocol it speaks.
    preface_timeout: Option<Pin<Box<Sleep>>>,
    heads: Heads,
    /// What the parser receives instead of the client's bytes. It refuses whole heads only, and a
    /// head with an overwritten byte may never end.
    substitute: &'static [u8],
    refuse: Option<Refuse>,
    /// Set once the client has closed its side.
    half_close: Option<HalfClose>,
    /// A reply sent instead of the parser's, and how much of it is written.
    refusal: Option<(Vec<u8>, usize)>,
}

/// The client's end of the connection, while hyper does not know of it.
struct HalfClose {
    /// The number of polls with nothing in flight.
    checks: u32,
    since: Instant,
    /// The timer of the next check, while a request is being read.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// The stream of a connection.
    pub fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            received: 0,
            preface_timeout: Some(Box::pin(tokio::time::sleep(PREFACE_TIMEOUT))),
            heads: Heads::default(),
            substitute: &[],
            refuse: None,
            half_close: None,
            refusal: None,
        }
    }

    /// Replaces the refusals of the HTTP/1 parser by these replies.
    #[must_use]
    pub fn refusing(mut self, refuse: Refuse) -> Self {
        self.refuse = Some(refuse);
        self
    }

    /// Writes the reply that replaces the parser's.
    fn poll_refusal(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while let Some((refusal, written)) = &mut self.refusal
            && *written < refusal.len()
        {
            let stream = Pin::new(&mut self.stream);
            match ready!(stream.poll_write(context, &refusal[*written..]))? {
                0 => return Poll::Ready(Err(ErrorKind::WriteZero.into())),
                more => *written += more,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The client has closed its side. Its last bytes may not be parsed yet, and it may wait for
    /// replies. hyper learns of the end only when no reply is due.
    fn poll_half_close(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let start = || HalfClose { checks: 0, since: Instant::now(), pause: None };
        let half_close = self.half_close.get_or_insert_with(start);
        let all_received = self.refuse.is_some() && self.heads.is_between_requests();
        if self.connection.only_replies_are_due(all_received) {
            // hyper polls again when the replies are sent.
            return Poll::Pending;
        }
        if self.connection.in_flight() == 0 {
            half_close.checks += 1;
            if half_close.checks > HALF_CLOSE_CHECKS {
                return Poll::Ready(Ok(()));
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let pause = half_close
            .pause
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSE_INTERVAL)));
        while pause.as_mut().poll(context).is_ready() {
            if half_close.since.elapsed() >= HALF_CLOSE_TIMEOUT {
                return Poll::Ready(Ok(()));
            }
            pause.as_mut().reset(Instant::now() + HALF_CLOSE_INTERVAL);
        }
        Poll::Pending
    }

    /// Whether these bytes are a reply that the parser makes itself. A session may hold the same
    /// bytes, so bytes that are sent while a request is in flight are never taken for one.
    fn is_refusal(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(REFUSAL)
            && self.connection.in_flight() == 0
            && memchr::memmem::find(bytes, SERVICE_HEADER.as_bytes()).is_none()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = &mut *self;
        if let Some(preface_timeout) = &mut this.preface_timeout
            && preface_timeout.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(Error::new(
                ErrorKind::TimedOut,
                "the client showed no protocol",
            )));
        }
        if !this.substitute.is_empty() {
            let (now, later) =
                this.substitute.split_at(this.substitute.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.substitute = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if read == 0 && buffer.remaining() > 0 {
            return this.poll_half_close(context);
        }
        if this.preface_timeout.is_some() {
            this.received += read;
            if this.received >= PREFACE_BYTES {
                this.preface_timeout = None;
            }
        }
        if this.refuse.is_some() {
            if this.connection.in_flight() == 0 {
                this.heads.next();
            }
            if let Some(end) = this.heads.check(&mut buffer.filled_mut()[before..]) {
                buffer.set_filled(before + end);
                this.substitute = REFUSED;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let this = &mut *self;
        if let Some(refuse) = this.refuse
            && this.refusal.is_none()
            && let Some(first) = slices.iter().find(|slice| !slice.is_empty())
            && this.is_refusal(first)
        {
            let status = first.get(9..12).and_then(|status| str::from_utf8(status).ok());
            let status = status.and_then(|status| status.parse().ok()).unwrap_or(400);
            this.refusal = Some((refuse(status), 0));
        }
        if this.refusal.is_some() {
            ready!(this.poll_refusal(context))?;
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(context, slices)
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
