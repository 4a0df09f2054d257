//! Decompresses bodies of requests within their limits: output is charged to the exchange before
//! more is produced.

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use flate2::write::MultiGzDecoder;

use super::exchange::Exchange;

/// Why decompression stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The output is larger than accepted.
    TooLarge,
    /// The input is not gzip.
    NotGzip,
    /// There is no memory for the output now.
    NoMemory,
}

/// A body that is being decompressed.
pub struct Gunzip(MultiGzDecoder<Output>);

impl Gunzip {
    /// Decompresses a body to at most `bytes_max` bytes, after a `prefix`. A body that goes
    /// `to_store` is charged with its copies.
    pub fn new(exchange: Arc<Exchange>, to_store: bool, prefix: &[u8], bytes_max: usize) -> Self {
        let bytes_max = bytes_max.saturating_add(prefix.len());
        let bytes = BytesMut::from(prefix);
        Self(MultiGzDecoder::new(Output { bytes, bytes_max, exchange, to_store, refused: None }))
    }

    /// Decompresses received bytes.
    ///
    /// # Errors
    /// Why decompression stopped.
    pub fn take(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.0.write_all(bytes).map_err(|_| self.refused())
    }

    /// The whole output, once all input was taken.
    ///
    /// # Errors
    /// Why decompression stopped.
    pub fn finish(mut self) -> Result<BytesMut, Refused> {
        self.0.try_finish().map_err(|_| self.refused())?;
        Ok(std::mem::take(&mut self.0.get_mut().bytes))
    }

    fn refused(&self) -> Refused {
        self.0.get_ref().refused.unwrap_or(Refused::NotGzip)
    }
}

/// The output, within its limits.
struct Output {
    bytes: BytesMut,
    bytes_max: usize,
    exchange: Arc<Exchange>,
    to_store: bool,
    /// Why decompression stopped.
    refused: Option<Refused>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.refused = if self.bytes.len() + bytes.len() > self.bytes_max {
            Some(Refused::TooLarge)
        } else {
            let held = self.exchange.hold(self.to_store, bytes.len());
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
