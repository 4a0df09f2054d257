//! What needs a browser, another language or a foreign validator.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected ends")]

mod client;
mod contract_page;
mod deploy;
mod python;
