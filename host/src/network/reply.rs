//! The body of a reply on its way to the client. It is handed to the connection in parts, and
//! each part stays charged until it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame, SizeHint};

use super::exchange::Exchange;

/// The most bytes that are handed over at once. A client that reads one such part makes
/// progress.
const PART_BYTES_MAX: usize = 64 << 10;

pin_project_lite::pin_project! {
    /// A body that belongs to an exchange.
    pub struct ReplyBody<B> {
        #[pin]
        body: B,
        // The bytes of the body so far.
        bytes_seen: usize,
        rest: Bytes,
        exchange: Arc<Exchange>,
    }
}

impl<B: Body<Data = Bytes>> ReplyBody<B> {
    /// The body of the exchange's reply.
    pub fn new(body: B, exchange: Arc<Exchange>) -> Self {
        if let Some(bytes) = body.size_hint().exact() {
            exchange.replied(usize::try_from(bytes).unwrap_or(usize::MAX));
        }
        exchange.progress().mark_unread();
        Self { body, bytes_seen: 0, rest: Bytes::new(), exchange }
    }
}

impl<B: Body<Data = Bytes>> Body for ReplyBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            let Some(frame) = ready!(this.body.poll_frame(context)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => *this.rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
            if !this.exchange.progress().is_streaming() {
                *this.bytes_seen += this.rest.len();
                this.exchange.replied(*this.bytes_seen);
            }
        }
        let part = this.rest.split_to(this.rest.len().min(PART_BYTES_MAX));
        let part = Part::hand_over(part, this.exchange);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.remaining() as u64;
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// A part of a reply that the connection has not sent yet.
struct Part {
    bytes: Bytes,
    exchange: Arc<Exchange>,
}

impl Part {
    fn hand_over(bytes: Bytes, exchange: &Arc<Exchange>) -> Bytes {
        exchange.progress().hand_over();
        Bytes::from_owner(Self { bytes, exchange: Arc::clone(exchange) })
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.exchange.progress().part_sent();
    }
}
