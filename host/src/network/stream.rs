//! The bytes of one network connection. It is given up when nothing is said over it, a
//! client that has no more to send still gets its answer, and what the protocol's parser
//! refuses by itself is told in the service's own words.

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

/// How long a connection may take to say which protocol it speaks.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(30);
/// The length of HTTP/2's preface: what is longer has said it.
const PREFACE_BYTES: usize = 24;
/// How often a connection is looked at, once its client has closed its side, until none of
/// what was received can still be unparsed.
const END_LOOKS: u32 = 4;
/// How long what it has sent may take to be read as whole requests, and how often that is
/// looked at.
const END_PATIENCE: Duration = Duration::from_secs(5);
const END_PAUSE: Duration = Duration::from_millis(5);
/// What the parser refuses wherever it is: in lines of a head, which it looks at when that has
/// ended, in the length of a part, and behind the last part.
const REFUSED: &[u8] = b"\r\0\n\n";
/// How an answer of the parser itself begins.
const REFUSAL: &[u8] = b"HTTP/1.1 4";
/// What each answer of the service has in its head, and none of the parser.
pub const MARK: &str = "x-content-type-options";

/// The whole answer, head and body, for what the parser refuses with a status.
pub type Refuse = fn(u16) -> Vec<u8>;

/// The socket of a connection, with what is checked before hyper sees the bytes.
pub struct Stream {
    stream: TcpStream,
    connection: Arc<Connection>,
    received: usize,
    /// Until it has said which protocol it speaks.
    patience: Option<Pin<Box<Sleep>>>,
    heads: Heads,
    /// What the parser receives in the place of everything else: it refuses whole heads only,
    /// and one that is spoilt may never end.
    instead: &'static [u8],
    refuse: Option<Refuse>,
    /// The client has closed its side.
    end: Option<End>,
    /// An answer in the place of the parser's, and how much of it is written.
    refusal: Option<(Vec<u8>, usize)>,
}

/// The end of what a client sends, while hyper does not know of it.
struct End {
    /// How often it was looked at with nothing in flight.
    looks: u32,
    since: Instant,
    /// Until it is looked at again, once a request has to be waited for.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// The bytes of a connection.
    pub fn new(stream: TcpStream, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            connection,
            received: 0,
            patience: Some(Box::pin(tokio::time::sleep(PREFACE_TIMEOUT))),
            heads: Heads::default(),
            instead: &[],
            refuse: None,
            end: None,
            refusal: None,
        }
    }

    /// Tells in these words what the parser of HTTP/1 refuses.
    #[must_use]
    pub fn refusing(mut self, refuse: Refuse) -> Self {
        self.refuse = Some(refuse);
        self
    }

    /// Writes what stands in the place of a refusal of the parser.
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

    /// The client has no more to send. What it has sent may not have been looked at yet, and
    /// it may wait for answers: whoever serves it hears of the end when none is due.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let start = || End { looks: 0, since: Instant::now(), pause: None };
        let end = self.end.get_or_insert_with(start);
        let came_whole = self.refuse.is_some() && self.heads.is_between_requests();
        if self.connection.only_answers_are_due(came_whole) {
            // Whoever serves it comes back when the answers are sent.
            return Poll::Pending;
        }
        if self.connection.in_flight() == 0 {
            end.looks += 1;
            if end.looks > END_LOOKS {
                return Poll::Ready(Ok(()));
            }
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let pause = end.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(END_PAUSE)));
        while pause.as_mut().poll(context).is_ready() {
            if end.since.elapsed() >= END_PATIENCE {
                return Poll::Ready(Ok(()));
            }
            pause.as_mut().reset(Instant::now() + END_PAUSE);
        }
        Poll::Pending
    }

    /// Whether these bytes are an answer that the parser makes by itself, as nobody was
    /// asked. A session may hold the same bytes: while a reply is on its way, they are part
    /// of it.
    fn is_refusal(&self, bytes: &[u8]) -> bool {
        bytes.starts_with(REFUSAL)
            && self.connection.in_flight() == 0
            && memchr::memmem::find(bytes, MARK.as_bytes()).is_none()
    }
}

impl AsyncRead for Stream {
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
        if !this.instead.is_empty() {
            let (now, later) = this.instead.split_at(this.instead.len().min(buffer.remaining()));
            buffer.put_slice(now);
            this.instead = later;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let read = buffer.filled().len() - before;
        if read == 0 && buffer.remaining() > 0 {
            return this.poll_end(context);
        }
        if this.patience.is_some() {
            this.received += read;
            if this.received >= PREFACE_BYTES {
                this.patience = None;
            }
        }
        if this.refuse.is_some() {
            if this.connection.in_flight() == 0 {
                this.heads.next();
            }
            if let Some(end) = this.heads.check(&mut buffer.filled_mut()[before..]) {
                buffer.set_filled(before + end);
                this.instead = REFUSED;
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
