//! Sends one HTTP/1.1 request to the process with the same settings.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long the process may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer: a session in JSON, or all metrics.
const ANSWER_BYTES_MAX: u64 = 32 << 20;

/// An answer.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// Whether the request succeeded.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Sends a request to one of the ports of the process.
///
/// # Errors
/// If there is no complete answer.
pub fn ask(
    address: IpAddr,
    port: u16,
    method: &str,
    path: &str,
    body: &str,
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&reachable(address, port), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    let whole = || {
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
        });
        let complete = length.is_none_or(|length: usize| length == body.len());
        complete.then(|| Answer { status, body: body.into() })
    };
    whole().ok_or_else(|| Error::new(ErrorKind::InvalidData, "the answer is not whole"))
}

/// The address that reaches a process which listens on `address`.
fn reachable(address: IpAddr, port: u16) -> SocketAddr {
    let address = match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    SocketAddr::new(address, port)
}
