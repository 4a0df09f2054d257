//! The harness of the tests: real processes on free ports, ended with the test,
//! and clients that speak both wires like users do.

pub mod admin;
pub mod client;
pub mod guest;
pub mod host;
pub mod process;
pub mod redis_server;
pub mod wait;
