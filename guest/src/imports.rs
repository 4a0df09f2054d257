//! The imports of the rules: the store, the token generator and the settings. The component
//! binds them to the host; tests and the native benchmark bind them to memory. Rules have no
//! other source of time, randomness or state.

use crate::store::{Outcome, StoreError, Txn};

/// Everything outside a rule.
pub trait Imports {
    /// Applies one transaction atomically.
    ///
    /// # Errors
    /// When the store did not answer, or refused.
    fn execute(&self, txn: &Txn) -> Result<Outcome, StoreError>;

    /// Whether no failover of the store may undo what the transactions of a rule say.
    fn durable(&self) -> bool {
        false
    }

    /// An unguessable token of `length` base64url characters.
    fn token(&self, length: u32) -> String;

    /// A random UUID in its canonical form.
    fn uuid(&self) -> String;

    /// A setting, or `None` when the host has none of that name.
    fn setting(&self, name: &str) -> Option<String>;
}

/// The imports of a rule whose outcome no failover of the store may undo: a session ends, or a
/// caller gets a slot, a lock or a version. The same rule may answer that the change has happened
/// before, so all of its transactions are durable, also those that only read.
pub struct Durable<'a, I>(pub &'a I);

impl<I: Imports> Imports for Durable<'_, I> {
    fn execute(&self, txn: &Txn) -> Result<Outcome, StoreError> {
        self.0.execute(txn)
    }

    fn durable(&self) -> bool {
        true
    }

    fn token(&self, length: u32) -> String {
        self.0.token(length)
    }

    fn uuid(&self) -> String {
        self.0.uuid()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.0.setting(name)
    }
}
