//! What rules of every kind say to the store, and to a store that makes no sense.

use crate::fault::{fault, from_store};
use crate::faults::{Fault, Reason};
use crate::imports::Imports;
use crate::store::{Compare, Entry, Hash, HashGet, Operation, Outcome, Txn};

/// A field to write.
pub fn entry(field: &str, value: &str) -> Entry {
    Entry { field: field.into(), value: value.as_bytes().to_vec() }
}

/// The text in a field; none when there is none.
pub fn text(hash: &Hash, field: &str) -> Option<String> {
    let entry = hash.entries.iter().find(|entry| entry.field == field)?;
    String::from_utf8(entry.value.clone()).ok()
}

/// The instant in a field, in milliseconds; none when there is none.
pub fn moment(hash: &Hash, field: &str) -> Option<u64> {
    text(hash, field)?.parse().ok()
}

/// Reads the named fields of a hash.
pub fn read(key: impl Into<String>, fields: &[&str]) -> Operation {
    let fields = Some(fields.iter().map(|&field| field.into()).collect());
    Operation::HashGet(HashGet { key: key.into(), fields })
}

/// Applies one transaction.
///
/// # Errors
/// `store-unavailable`, `store-rejected` or `store-full`.
pub fn execute(
    imports: &impl Imports,
    compare: Vec<Compare>,
    success: Vec<Operation>,
    failure: Vec<Operation>,
) -> Result<Outcome, Fault> {
    let durable = imports.durable();
    imports.execute(&Txn { compare, success, failure, durable }).map_err(from_store)
}

/// The store answered in another shape than the transaction asks for.
pub fn unexpected_replies() -> Fault {
    fault(Reason::StoreRejected, "The store gave an answer that does not fit the question.")
}
