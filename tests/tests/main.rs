//! Black-box tests of everything the service promises: over both wires, on every store, and
//! through failures.

#![allow(clippy::unwrap_used, reason = "a test ends at an unexpected error")]

mod bad_input;
mod booking;
mod browsers;
mod client;
mod clock_steps;
mod command_line;
mod conditions;
mod connections;
mod contract;
mod data_directory;
mod deploy;
mod everywhere;
mod foreign_keys;
mod full;
mod history;
mod hostile;
mod house;
mod http;
mod idempotency;
mod kinds;
mod lifecycle;
mod logic;
mod network;
mod openapi;
mod outage;
mod protos;
mod readme;
mod replicas;
mod replies;
mod settings;
mod store;
mod swap;
mod topology;
mod traces;
mod user_lists;
mod users;
mod viewing;
mod walkthrough;
