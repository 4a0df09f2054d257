//! The body of a gRPC request on its way in: bounded in time and memory, and decompressed, so
//! that the decompressed bytes are charged too. Only calls of server reflection have more than
//! one request message.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::Status;

use crate::error::Error;
use crate::grpc::answer::{self, MESSAGE_BYTES_MAX};
use crate::grpc::status;
use crate::network::BODY_TIMEOUT;
use crate::network::exchange::Exchange;
use crate::network::gunzip::{Gunzip, Refused};

pin_project_lite::pin_project! {
    /// A body, charged to its exchange as it comes.
    pub struct Received {
        #[pin]
        body: Incoming,
        exchange: Arc<Exchange>,
        // The time begins when the body is waited for: most bodies come with their head.
        deadline: Option<Pin<Box<Sleep>>>,
        // The call has several request messages, and each has its own time.
        has_many_messages: bool,
        // Its messages may be compressed.
        unpacking: Option<Unpacking>,
        // The bytes of them that have come and are not inflated yet.
        waiting: Option<(Bytes, Turn)>,
    }
}

impl Received {
    /// The body of the exchange's request, whose messages may be compressed when it `is_gzip`.
    pub fn new(
        body: Incoming,
        exchange: Arc<Exchange>,
        is_gzip: bool,
        has_many_messages: bool,
    ) -> Self {
        let unpacking = is_gzip.then(Unpacking::default);
        Self { body, exchange, deadline: None, has_many_messages, unpacking, waiting: None }
    }
}

type Turn = Pin<Box<dyn Future<Output = Option<OwnedSemaphorePermit>> + Send>>;

/// The state of a body with compressed messages.
#[derive(Default)]
struct Unpacking {
    /// The bytes of a prefix that have come.
    prefix: Vec<u8>,
    /// How much is still to come of the present message.
    left: usize,
    /// The present message, when it is compressed.
    message: Option<Gunzip>,
}

/// The most bytes of a compressed message: one that does not get smaller gets a little larger.
const COMPRESSED_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (64 << 10);
/// The prefix of a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

impl Unpacking {
    /// Takes the bytes that have come, and returns them with no message compressed.
    fn take(&mut self, mut bytes: Bytes, exchange: &Arc<Exchange>) -> Result<Bytes, Refused> {
        let mut out = BytesMut::new();
        while !bytes.is_empty() {
            if self.left == 0 {
                let wanted = PREFIX_BYTES - self.prefix.len();
                self.prefix.extend_from_slice(&bytes.split_to(wanted.min(bytes.len())));
                let Some((flag, length)) = self.prefix.split_first_chunk::<1>() else { continue };
                let Some(length) = length.first_chunk() else { continue };
                self.left = u32::from_be_bytes(*length) as usize;
                if *flag == [1] {
                    if self.left > COMPRESSED_BYTES_MAX {
                        return Err(Refused::TooLarge);
                    }
                    let exchange = Arc::clone(exchange);
                    let front = [0; PREFIX_BYTES];
                    let message = Gunzip::new(exchange, true, &front, MESSAGE_BYTES_MAX);
                    self.message = Some(message);
                } else {
                    out.extend_from_slice(&self.prefix);
                }
                self.prefix.clear();
            }
            let part = bytes.split_to(self.left.min(bytes.len()));
            self.left -= part.len();
            match &mut self.message {
                Some(message) => message.take(&part)?,
                None => {
                    exchange.receive(part.len()).map_err(|_| Refused::NoMemory)?;
                    out.extend_from_slice(&part);
                }
            }
            if self.left == 0
                && let Some(message) = self.message.take()
            {
                let mut message = message.finish()?;
                let length = u32::try_from(message.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
                message[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
                if out.is_empty() { out = message } else { out.unsplit(message) }
            }
        }
        Ok(out.freeze())
    }
}

fn refusal(refused: Refused) -> Status {
    status::from(&match refused {
        Refused::TooLarge => answer::too_large(),
        Refused::NotGzip => Error::invalid("message", "is not the gzip that grpc-encoding says"),
        Refused::NoMemory => Error::no_memory(),
    })
}

impl Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        loop {
            if let (Some((data, turn)), Some(unpacking)) = (&mut this.waiting, &mut this.unpacking)
            {
                let _turn = ready!(turn.as_mut().poll(context));
                let taken = unpacking.take(std::mem::take(data), this.exchange);
                *this.waiting = None;
                match taken {
                    // More has to come before there is something to hand on.
                    Ok(data) if data.is_empty() => {}
                    taken => return Poll::Ready(Some(taken.map(Frame::data).map_err(refusal))),
                }
            }
            let frame = match this.body.as_mut().poll_frame(context) {
                Poll::Pending => {
                    let deadline = this
                        .deadline
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_TIMEOUT)));
                    return deadline.as_mut().poll(context).map(|()| {
                        let late = Error::invalid("message", "does not arrive in time");
                        Some(Err(status::from(&late)))
                    });
                }
                Poll::Ready(None) => {
                    this.exchange.received();
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(frame)) => frame,
            };
            if *this.has_many_messages {
                *this.deadline = None;
            }
            let frame = match frame {
                Ok(frame) => frame,
                Err(error) => return Poll::Ready(Some(Err(Status::from_error(Box::new(error))))),
            };
            let exchange = &*this.exchange;
            match (frame.into_data(), &this.unpacking) {
                (Ok(data), Some(_)) => {
                    *this.waiting = Some((data, Box::pin(exchange.turn_to_inflate())));
                }
                (Ok(data), None) => {
                    let held = exchange.receive(data.len());
                    let held = held.map_err(|_| refusal(Refused::NoMemory));
                    return Poll::Ready(Some(held.map(|()| Frame::data(data))));
                }
                (Err(trailers), _) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.unpacking {
            None => self.body.size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}
