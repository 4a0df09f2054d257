//! Decompresses bodies of requests within their bounds: what comes out is charged to the
//! exchange before more of it is made.

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use flate2::write::MultiGzDecoder;

use super::exchange::Exchange;

/// Why it does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// More comes out than is accepted.
    TooLarge,
    /// It is not gzip.
    NotGzip,
    /// There is no memory for it now.
    NoMemory,
}

/// A body on its way out of its gzip.
pub struct Gunzip(MultiGzDecoder<Output>);

impl Gunzip {
    /// Inflates a body to at most `bytes_max`, behind `front`. One that `travels` is handed on to
    /// the store, and charged for the copies on its way.
    pub fn new(exchange: Arc<Exchange>, travels: bool, front: &[u8], bytes_max: usize) -> Self {
        let bytes_max = bytes_max.saturating_add(front.len());
        let bytes = BytesMut::from(front);
        Self(MultiGzDecoder::new(Output { bytes, bytes_max, exchange, travels, refused: None }))
    }

    /// Takes what has come.
    ///
    /// # Errors
    /// Why no more is taken.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.0.write_all(bytes).map_err(|_| self.refused())
    }

    /// What has come out, when all has come.
    ///
    /// # Errors
    /// Why there is nothing.
    pub fn finish(mut self) -> Result<BytesMut, Refused> {
        self.0.try_finish().map_err(|_| self.refused())?;
        Ok(std::mem::take(&mut self.0.get_mut().bytes))
    }

    fn refused(&self) -> Refused {
        self.0.get_ref().refused.unwrap_or(Refused::NotGzip)
    }
}

/// What comes out, within its bounds.
struct Output {
    bytes: BytesMut,
    bytes_max: usize,
    exchange: Arc<Exchange>,
    travels: bool,
    /// Why no more is taken.
    refused: Option<Refused>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.refused = if self.bytes.len() + bytes.len() > self.bytes_max {
            Some(Refused::TooLarge)
        } else {
            let held = self.exchange.hold(self.travels, bytes.len());
            held.is_err().then_some(Refused::NoMemory)
        };
        if self.refused.is_some() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.bytes.put_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
