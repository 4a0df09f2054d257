//! Transactions between the types that wasmtime generates from the WIT and the store's own.

session_store::wit_conversions!(crate::logic::bindings::session::manager::store);
