//! The harness of the tests: real processes on free ports, ended with the test,
//! and clients that speak both wires like users do.

pub mod admin;
pub mod certificate;
pub mod client;
pub mod collector;
pub mod guest;
pub mod host;
pub mod process;
pub mod redis_server;
pub mod redis_topology;
pub mod secrets;
pub mod wait;
