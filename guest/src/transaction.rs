//! What rules of every kind say to the store, and to a store that makes no sense.

use crate::fault::{fault, from_store};
use crate::faults::{Fault, Reason};
use crate::imports::Imports;
use crate::store::{Compare, HashGet, Operation, Outcome, Txn};

/// Reads the named fields of a hash.
pub fn read(key: impl Into<String>, fields: &[&str]) -> Operation {
    let fields = Some(fields.iter().map(|&field| field.into()).collect());
    Operation::HashGet(HashGet { key: key.into(), fields })
}

/// Applies one transaction.
///
/// # Errors
/// `store-unavailable`, or `store-rejected`.
pub fn execute(
    imports: &impl Imports,
    compare: Vec<Compare>,
    success: Vec<Operation>,
    failure: Vec<Operation>,
) -> Result<Outcome, Fault> {
    imports.execute(&Txn { compare, success, failure }).map_err(from_store)
}

/// The store answered in another shape than the transaction asks for.
pub fn unexpected_replies() -> Fault {
    fault(Reason::StoreRejected, "The store gave an answer that does not fit the question.")
}
