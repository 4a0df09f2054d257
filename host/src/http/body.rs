//! Bodies of requests: received whole and within bounds of size, time and memory,
//! decompressed on the way, or received and dropped.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Version};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use crate::error::{Error, Reason};
use crate::network::BODY_TIMEOUT;
use crate::network::exchange::Exchange;
use crate::network::gunzip::{Gunzip, Refused};

/// The most bytes set aside for a body before they have come.
const RESERVED_BYTES_MAX: usize = 64 << 10;
/// The most bytes of a refused body that are received and dropped.
const DRAINED_BYTES_MAX: usize = 8 << 20;

/// Why there is no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// It has more bytes than are accepted.
    TooLarge,
    /// The connection broke.
    Broken,
    /// It did not come in time.
    Late,
    /// It is compressed in a way that the service does not accept.
    Encoding,
    /// It is not the gzip that it says it is.
    NotGzip,
    /// The memory for bodies has no room for it now.
    NoMemory,
}

impl Missing {
    /// The error for the caller, of a body that may have this many bytes.
    pub fn error(self, bytes_max: usize) -> Error {
        match self {
            Self::TooLarge => {
                let message = format!("The body is larger than {bytes_max} bytes.");
                Error::new(Reason::RequestTooLarge, message)
            }
            Self::Broken => Error::invalid("body", "does not arrive whole"),
            Self::Late => Error::invalid("body", "does not arrive in time"),
            Self::Encoding => Error::new(
                Reason::UnsupportedEncoding,
                "The body must be sent as it is, or with content-encoding: gzip.",
            ),
            Self::NotGzip => Error::invalid("body", "is not the gzip that content-encoding says"),
            Self::NoMemory => Error::no_memory(),
        }
    }
}

/// Whether a body says that it is of one of these types; when `optional`, it may also say
/// nothing. A web page always has to say it, as no form can.
///
/// # Errors
/// `UNSUPPORTED_MEDIA_TYPE`.
pub fn typed(head: &Parts, types: &[&str], optional: bool) -> Result<(), Error> {
    let given = head.headers.get(CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
    let fits = match given {
        None => optional && !head.headers.contains_key(ORIGIN),
        Some(given) => {
            let essence = given.split(';').next().unwrap_or_default().trim();
            types.iter().any(|accepted| accepted.eq_ignore_ascii_case(essence))
        }
    };
    if fits {
        return Ok(());
    }
    let message = format!("The body must be announced as content-type: {}.", types.join(" or "));
    Err(Error::new(Reason::UnsupportedMediaType, message))
}

/// A body that is on its way.
pub struct RequestBody {
    body: Incoming,
    exchange: Arc<Exchange>,
    /// It is for the store, and takes memory on its way there.
    travels: bool,
    /// How it is compressed; none when it is not known.
    encoding: Option<Encoding>,
    /// The client sends it only once it is asked for.
    awaits_word: bool,
    /// It did not come in time.
    late: bool,
    /// A connection that speaks HTTP/1 can end in order only behind its bodies.
    blocks_connection: bool,
}

#[derive(Clone, Copy)]
enum Encoding {
    Identity,
    Gzip,
}

impl RequestBody {
    /// The body of a request.
    pub fn new(head: &Parts, body: Incoming, exchange: Arc<Exchange>) -> Self {
        if body.is_end_stream() {
            exchange.received();
        }
        let mut encodings = head.headers.get_all(CONTENT_ENCODING).iter();
        let encoding = match (encodings.next().map(HeaderValue::as_bytes), encodings.next()) {
            (None, _) => Some(Encoding::Identity),
            (Some(value), None) if value.eq_ignore_ascii_case(b"identity") => {
                Some(Encoding::Identity)
            }
            (Some(value), None) if value.eq_ignore_ascii_case(b"gzip") => Some(Encoding::Gzip),
            _ => None,
        };
        Self {
            body,
            exchange,
            travels: true,
            encoding,
            awaits_word: head.headers.contains_key(EXPECT),
            late: false,
            blocks_connection: head.version < Version::HTTP_2,
        }
    }

    /// It is read here, and not handed on.
    #[must_use]
    pub fn read_here(mut self) -> Self {
        self.travels = false;
        self
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.body.is_end_stream()
    }

    /// The whole body, decompressed, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// Why there is no body. The rest of it is left for [`Self::drain`].
    pub async fn collect(&mut self, bytes_max: usize) -> Result<Bytes, Missing> {
        let encoding = self.encoding.ok_or(Missing::Encoding)?;
        let announced = usize::try_from(self.body.size_hint().lower()).unwrap_or(usize::MAX);
        if announced > bytes_max {
            return Err(Missing::TooLarge);
        }
        self.awaits_word = false;
        let receiving = async {
            match encoding {
                Encoding::Identity => self.receive(announced, bytes_max).await,
                Encoding::Gzip => self.decompress(bytes_max).await,
            }
        };
        let received = tokio::time::timeout(BODY_TIMEOUT, receiving).await;
        self.late = received.is_err();
        let body = received.map_err(|_| Missing::Late)??;
        self.exchange.received();
        Ok(body)
    }

    async fn receive(&mut self, announced: usize, bytes_max: usize) -> Result<Bytes, Missing> {
        let mut collected = BytesMut::new();
        while let Some(data) = self.data().await? {
            if collected.len() + data.len() > bytes_max {
                return Err(Missing::TooLarge);
            }
            let held = self.exchange.hold(self.travels, data.len());
            held.map_err(|_| Missing::NoMemory)?;
            if collected.is_empty() && self.body.is_end_stream() {
                // All of it came in one frame, which needs no copy.
                return Ok(data);
            }
            // A client may announce more than it sends, so little memory is set aside for it.
            collected.reserve(announced.min(RESERVED_BYTES_MAX).saturating_sub(collected.len()));
            collected.extend_from_slice(&data);
        }
        Ok(collected.freeze())
    }

    async fn decompress(&mut self, bytes_max: usize) -> Result<Bytes, Missing> {
        let exchange = Arc::clone(&self.exchange);
        let mut gunzip = Gunzip::new(exchange, self.travels, &[], bytes_max);
        while let Some(data) = self.data().await? {
            let _turn = self.exchange.turn_to_inflate().await;
            gunzip.take(&data)?;
        }
        Ok(gunzip.finish()?.freeze())
    }

    /// The next bytes; none at the end.
    async fn data(&mut self) -> Result<Option<Bytes>, Missing> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|_| Missing::Broken)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Receives and drops what is left of the body, up to a limit, before the answer is
    /// sent: most clients read no answer before they have sent everything, and a
    /// connection that is closed before loses the answer.
    pub async fn drain(&mut self) {
        let comes = !self.awaits_word && !self.late && !self.body.is_end_stream();
        if !self.blocks_connection || !comes {
            return;
        }
        let dropping = async {
            let mut dropped = 0;
            while dropped < DRAINED_BYTES_MAX
                && let Ok(Some(data)) = self.data().await
            {
                dropped += data.len();
            }
        };
        // A client that is late loses the connection.
        drop(tokio::time::timeout(BODY_TIMEOUT, dropping).await);
        if self.body.is_end_stream() {
            self.exchange.received();
        }
    }
}

impl From<Refused> for Missing {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooLarge => Self::TooLarge,
            Refused::NotGzip => Self::NotGzip,
            Refused::NoMemory => Self::NoMemory,
        }
    }
}
