//! Names the address of Redis and how to log in, anew for each connection. A password that was
//! changed in its file is used from the next connection on.

use std::fmt;
use std::sync::Arc;

use crate::store::redis::address::Address;

/// The address of Redis, which may change.
#[derive(Clone)]
pub struct Locator {
    /// The address at the start.
    first: Box<Address>,
    /// Reads the address again, if it can change. The error is one sentence for the log.
    resolver: Option<Arc<dyn Fn() -> Result<Address, String> + Send + Sync>>,
}

impl Locator {
    /// An address that `resolver` reads again for each new connection. It may read a file.
    pub fn with_resolver(
        address: Address,
        resolver: impl Fn() -> Result<Address, String> + Send + Sync + 'static,
    ) -> Self {
        Self { first: address.into(), resolver: Some(Arc::new(resolver)) }
    }

    /// The address at the start.
    pub fn first(&self) -> &Address {
        &self.first
    }

    /// The current address; `None` if it cannot change.
    ///
    /// # Errors
    /// One sentence, if it cannot be read.
    pub async fn resolve(&self) -> Result<Option<Address>, String> {
        let Some(resolver) = self.resolver.clone() else { return Ok(None) };
        // The file may be on a disk that does not answer.
        let found = tokio::task::spawn_blocking(move || resolver()).await;
        found.map_err(|error| error.to_string())?.map(Some)
    }
}

impl From<Address> for Locator {
    /// An address that never changes.
    fn from(address: Address) -> Self {
        Self { first: address.into(), resolver: None }
    }
}

impl fmt::Debug for Locator {
    /// Hides users and passwords.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.first)
    }
}
