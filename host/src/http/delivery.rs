//! The last steps for every answer over HTTP before it is sent, on the REST and the admin port
//! alike: the rest of the request is received, the answer compressed, and shown to the page
//! that asked.

use http::Method;
use http::request::Parts;

use crate::http::answer::{self, Answer};
use crate::http::body::RequestBody;
use crate::http::browsers::Admitted;
use crate::http::encoding;
use crate::http::target::Refusal;

/// Makes an answer ready to be sent. `admitted` is the request as browsers may have it,
/// unless it was refused for them.
pub async fn deliver(
    head: &Parts,
    body: &mut RequestBody,
    admitted: Option<Admitted>,
    answered: Result<Answer, Refusal>,
    compressible: bool,
) -> Answer {
    body.drain().await;
    let succeeded = answered.is_ok();
    let mut answer = answered.unwrap_or_else(Refusal::answer);
    if succeeded && compressible {
        answer = encoding::compress(&head.headers, answer).await;
    }
    if let Some(admitted) = admitted {
        if succeeded && head.method == Method::OPTIONS {
            admitted.allow(head, &mut answer);
        }
        admitted.show(answer.headers_mut());
    }
    answer::peeked(head, answer)
}
