//! Settings of the ports and their addresses.

use std::net::IpAddr;

use clap::Args;

use super::early_exit::PortSettings;
use super::given::given;
use super::values;

/// The settings of the gRPC port.
pub const GRPC: PortSettings = PortSettings { port: "GRPC_PORT", address: "BIND_ADDRESS" };
/// The settings of the REST port.
pub const REST: PortSettings = PortSettings { port: "REST_PORT", address: "BIND_ADDRESS" };
/// The settings of the admin port.
pub const ADMIN: PortSettings = PortSettings { port: "ADMIN_PORT", address: "ADMIN_ADDRESS" };

/// Addresses and ports.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Addresses and ports")]
pub struct Ports {
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
