//! Tests that need a browser, another language or a foreign validator.

#![allow(clippy::unwrap_used, reason = "a test ends at an unexpected error")]

mod client;
mod contract_page;
mod deploy;
mod python;
