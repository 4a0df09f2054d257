//! Answers over gRPC: replies, compressed where that is safe, and errors.

use prost::Message;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Response, Status};

use crate::api::streams;
use crate::error::{Error, Reason};
use crate::grpc::status;

/// The most bytes of one message: a session of 4 MiB and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = (4 << 20) + (64 << 10);
/// Replies with fewer bytes are not compressed.
const COMPRESSED_BYTES_MIN: usize = 1 << 10;

/// The error of a message that is too large.
pub fn too_large() -> Error {
    let message = format!("The message is larger than {MESSAGE_BYTES_MAX} bytes.");
    Error::new(Reason::RequestTooLarge, message)
}

/// The answer of an operation.
pub fn plain<T: Message>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    let reply = result.map_err(|error| status::from(&error))?;
    let small = reply.encoded_len() < COMPRESSED_BYTES_MIN;
    let mut response = Response::new(reply);
    if small {
        response.disable_compression();
    }
    Ok(response)
}

/// The answer of an operation that holds a secret. It is never compressed: an attacker who can
/// add to an answer and sees its length could guess the rest.
pub fn secret<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    let mut response = result.map(Response::new).map_err(|error| status::from(&error))?;
    response.disable_compression();
    Ok(response)
}

/// A stream of replies.
pub type Replies<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The answer of an operation that streams replies.
pub fn stream<T: Send + 'static>(
    result: Result<streams::Replies<T>, Error>,
) -> Result<Response<Replies<T>>, Status> {
    let stream = |replies| -> Replies<T> { Box::pin(ReceiverStream::new(replies).map(Ok)) };
    secret(result.map(stream))
}
