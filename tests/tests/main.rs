//! Everything the service promises, tried from outside: over both wires, on
//! every store, through failures.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected ends")]

mod store;
