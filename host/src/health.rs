//! `session-manager health`: asks the process of the same settings whether it is ready, so
//! that an image needs no other program to be probed.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::Settings;

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 4096;

/// Asks, and tells whether it is.
///
/// # Errors
/// When nobody answers.
#[allow(clippy::print_stdout, reason = "this is what was asked for")]
pub fn run(settings: &Settings) -> Result<bool> {
    let address = SocketAddr::new(reachable(settings.admin_address), settings.admin_port);
    let answer = ask(address).with_context(|| format!("{address} does not answer"))?;
    let ready = answer.starts_with("HTTP/1.0 200") || answer.starts_with("HTTP/1.1 200");
    println!("{}", if ready { "ready" } else { "not ready" });
    Ok(ready)
}

fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Where a process is reached that listens on an address.
fn reachable(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    }
}
