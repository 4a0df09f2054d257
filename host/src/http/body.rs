//! Bodies of requests, received whole and within bounds.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

/// The most bytes set aside for a body before they have come.
const RESERVED_BYTES_MAX: usize = 64 << 10;
/// The most bytes of a body that is too large to be received and dropped.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
/// How long a body may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why a body is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It has more bytes than are accepted.
    TooLarge,
    /// The connection broke.
    Broken,
    /// It did not come in time.
    Late,
}

/// A body of at most `bytes_max` bytes. Most
/// callers read no answer before they have sent everything, so what is too large is
/// still received, up to a limit, and dropped.
///
/// # Errors
/// Why it is not there.
pub async fn collect(body: Incoming, bytes_max: usize) -> Result<Bytes, Missing> {
    match tokio::time::timeout(TIMEOUT, receive(body, bytes_max)).await {
        Ok(Ok(Some(body))) => Ok(body),
        Ok(Ok(None)) => Err(Missing::TooLarge),
        Ok(Err(_)) => Err(Missing::Broken),
        Err(_) => Err(Missing::Late),
    }
}

async fn receive(mut body: Incoming, bytes_max: usize) -> Result<Option<Bytes>, hyper::Error> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut received = 0;
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        received += data.len();
        if received > bytes_max {
            collected.clear();
            if received > DISCARDED_BYTES_MAX {
                return Ok(None);
            }
            continue;
        }
        if received == data.len() && body.is_end_stream() {
            // All of it in one piece, which needs no copy.
            return Ok(Some(data));
        }
        // What is announced need not come, so little is set aside for it.
        collected.reserve(announced.min(RESERVED_BYTES_MAX).saturating_sub(collected.len()));
        collected.extend_from_slice(&data);
    }
    Ok((received <= bytes_max).then(|| collected.freeze()))
}
