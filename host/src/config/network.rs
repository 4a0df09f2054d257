//! Settings of the ports, and where they are.

use std::net::IpAddr;

use clap::Args;

use super::given::given;
use super::refusal::PortSettings;
use super::values;

/// What a gRPC port that could not be opened is called.
pub const GRPC: PortSettings = PortSettings { port: "GRPC_PORT", address: "BIND_ADDRESS" };
/// What a REST port that could not be opened is called.
pub const REST: PortSettings = PortSettings { port: "REST_PORT", address: "BIND_ADDRESS" };
/// What an admin port that could not be opened is called.
pub const ADMIN: PortSettings = PortSettings { port: "ADMIN_PORT", address: "ADMIN_ADDRESS" };

/// Addresses and ports.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Addresses and ports")]
pub struct Network {
    /// Address of the gRPC and REST ports.
    #[arg(long, env = "BIND_ADDRESS", default_value = "127.0.0.1", global = true,
          value_parser = given(values::address))]
    pub bind_address: IpAddr,

    /// Address of the admin port.
    #[arg(long, env = "ADMIN_ADDRESS", default_value = "127.0.0.1", global = true,
          value_parser = given(values::address))]
    pub admin_address: IpAddr,

    /// Port of gRPC; 0 picks a free one.
    #[arg(long, env = "GRPC_PORT", default_value = "6027", global = true,
          value_parser = given(values::port))]
    pub grpc_port: u16,

    /// Port of REST; 0 picks a free one.
    #[arg(long, env = "REST_PORT", default_value = "8027", global = true,
          value_parser = given(values::port))]
    pub rest_port: u16,

    /// Port of metrics and probes; 0 picks a free one.
    #[arg(long, env = "ADMIN_PORT", default_value = "9027", global = true,
          value_parser = given(values::port))]
    pub admin_port: u16,
}
