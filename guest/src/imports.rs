//! What the rules may reach for: the store, the token generator and the
//! settings. The component binds it to the host; tests and the native benchmark
//! bind it to memory. Rules have no other source of time, randomness or state.

use crate::store::{Outcome, StoreError, Txn};

/// Everything outside a rule.
pub trait Imports {
    /// Applies one transaction atomically.
    ///
    /// # Errors
    /// When the store did not answer, or refused.
    fn execute(&self, txn: &Txn) -> Result<Outcome, StoreError>;

    /// An unguessable token of `length` base64url characters.
    fn token(&self, length: u32) -> String;

    /// A random UUID in its canonical form.
    fn uuid(&self) -> String;

    /// A setting, or `None` when the host has none of that name.
    fn setting(&self, name: &str) -> Option<String>;
}
