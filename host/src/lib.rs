//! The native host of the session component: gives the rules a store and random tokens, and serves
//! them over gRPC and REST.

pub mod admin;
pub mod api;
pub mod booking_command;
pub mod check;
pub mod check_data;
pub mod component_file;
pub mod config;
pub mod error;
pub mod events;
pub mod grpc;
pub mod health;
pub mod http;
pub mod local;
pub mod logic;
pub mod network;
pub mod privacy;
pub mod probes;
pub mod proto;
pub mod serve;
pub mod services;
pub mod store;
pub mod telemetry;
pub mod terminal;
pub mod top;
pub mod workers;
