//! The body of a gRPC request on its way in: bounded in time and memory. Only programs that
//! ask what the service offers ask more than once in a call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::Sleep;
use tonic::Status;

use crate::error::Error;
use crate::grpc::status;
use crate::network::BODY_TIMEOUT;
use crate::network::exchange::Exchange;

pin_project_lite::pin_project! {
    /// A body, charged to its exchange as it comes.
    pub struct Received {
        #[pin]
        body: Incoming,
        exchange: Arc<Exchange>,
        // From when it is waited for: most come with their head.
        deadline: Option<Pin<Box<Sleep>>>,
        // The client asks more than once, and each time anew has its time.
        asks_often: bool,
    }
}

impl Received {
    /// The body of the exchange's request.
    pub fn new(body: Incoming, exchange: Arc<Exchange>, asks_often: bool) -> Self {
        Self { body, exchange, deadline: None, asks_often }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        let frame = match this.body.poll_frame(context) {
            Poll::Pending => {
                let deadline =
                    this.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(BODY_TIMEOUT)));
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
        if *this.asks_often {
            *this.deadline = None;
        }
        let charged =
            frame.map_err(|error| Status::from_error(Box::new(error))).and_then(|frame| {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.exchange
                    .receive(bytes)
                    .map(|()| frame)
                    .map_err(|_| status::from(&Error::no_memory()))
            });
        Poll::Ready(Some(charged))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
