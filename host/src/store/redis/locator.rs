//! Says where Redis is and how to speak to it, anew for each connection: a password that was
//! changed in its file is used from the next connection on.

use std::fmt;
use std::sync::Arc;

use crate::store::redis::address::Address;

/// Where Redis is, now and later.
#[derive(Clone)]
pub struct Locator {
    /// As it was at the start.
    first: Box<Address>,
    /// Reads it again, when it may change; the error is one sentence for the log.
    find: Option<Arc<dyn Fn() -> Result<Address, String> + Send + Sync>>,
}

impl Locator {
    /// Redis is there, and `find` says where it is at each new connection. It may read a file.
    pub fn asked(
        address: Address,
        find: impl Fn() -> Result<Address, String> + Send + Sync + 'static,
    ) -> Self {
        Self { first: address.into(), find: Some(Arc::new(find)) }
    }

    /// Where it was at the start.
    pub fn first(&self) -> &Address {
        &self.first
    }

    /// Where it is by now; `None` when that cannot change.
    ///
    /// # Errors
    /// One sentence, when nobody can say.
    pub async fn found_again(&self) -> Result<Option<Address>, String> {
        let Some(find) = self.find.clone() else { return Ok(None) };
        // A file may be on a disk that does not answer.
        let found = tokio::task::spawn_blocking(move || find()).await;
        found.map_err(|error| error.to_string())?.map(Some)
    }
}

impl From<Address> for Locator {
    /// Redis is there and stays there.
    fn from(address: Address) -> Self {
        Self { first: address.into(), find: None }
    }
}

impl fmt::Debug for Locator {
    /// Without users and passwords.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.first)
    }
}
