//! The name that a caller gives a request: the Idempotency-Key of HTTP and of gRPC's metadata.
//! With it the caller may ask again when it does not know whether the first request has arrived.
//! The key belongs to the request and not to its message, so it is passed beside the message.

use http::{HeaderMap, HeaderName};
use tokio::task_local;

use crate::error::Error;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

task_local! {
    static KEY: String;
}

/// The key in the head of a request. Its form is the rules' to check.
///
/// # Errors
/// `INVALID_REQUEST` when there are several, or one that is no text.
pub fn read(headers: &HeaderMap) -> Result<Option<String>, Error> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(key) = given.next() else { return Ok(None) };
    let invalid = |what: &str| Error::invalid(IDEMPOTENCY_KEY.as_str(), what);
    if given.next().is_some() {
        return Err(invalid("is given more than once"));
    }
    let key = key.to_str().map_err(|_| invalid("must have visible ASCII characters only"))?;
    Ok(Some(key.into()))
}

/// Does the work of a request that has a key.
pub async fn within<F: Future>(key: String, work: F) -> F::Output {
    KEY.scope(key, work).await
}

/// The key of the request that this task serves; `None` when it has none.
pub fn key() -> Option<String> {
    KEY.try_with(Clone::clone).ok()
}
