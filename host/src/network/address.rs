//! Addresses of peers, and ranges of addresses in CIDR notation.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// Providers give each customer an IPv6 network of at least this size.
const PEER_BITS_V6: u32 = 64;

/// The length of the prefix of an IPv4 address that is written as an IPv6 address.
const MAPPED_BITS: u32 = 96;

/// The address that identifies the peer of an address.
pub fn peer_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << (128 - PEER_BITS_V6));
            Ipv6Addr::from(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

/// Parses an address in X-Forwarded-For; some proxies add a port or brackets.
pub fn forwarded(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let with_port = || text.parse().ok().map(|socket: SocketAddr| socket.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(with_port).or_else(in_brackets)
}

/// A range of addresses, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    address: IpAddr,
    bits: u32,
}

impl Range {
    /// Whether an address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        let network = |bits: u128, of: u32| match of - self.bits {
            128.. => 0,
            free => bits >> free,
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(range), IpAddr::V4(address)) => {
                network(u32::from(range).into(), 32) == network(u32::from(address).into(), 32)
            }
            (IpAddr::V6(range), IpAddr::V6(address)) => {
                network(range.into(), 128) == network(address.into(), 128)
            }
            _ => false,
        }
    }
}

/// The text is not a range.
#[derive(Debug, PartialEq, Eq)]
pub struct NotARange;

impl FromStr for Range {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotARange)?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let number = |bits: &str| -> Result<u32, NotARange> {
            let plain = bits.bytes().all(|byte| byte.is_ascii_digit());
            bits.parse().ok().filter(|bits| plain && *bits <= bits_max).ok_or(NotARange)
        };
        let bits = bits.map_or(Ok(bits_max), number)?;
        match address.to_canonical() {
            // IPv4 addresses are compared as such, even when written as IPv6.
            canonical @ IpAddr::V4(_) if address.is_ipv6() => {
                let bits = bits.checked_sub(MAPPED_BITS).ok_or(NotARange)?;
                Ok(Self { address: canonical, bits })
            }
            _ => Ok(Self { address, bits }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_contains_the_addresses_with_its_prefix() {
        for (range, address, expected) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("10.0.0.0/8", "::ffff:10.1.1.1", true),
            ("10.0.0.0/8", "::1", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "2001:db8::1", true),
            ("::ffff:10.0.0.0/104", "10.1.1.1", true),
            ("::ffff:10.0.0.0/104", "11.1.1.1", false),
        ] {
            let range: Range = range.parse().expect(range);
            assert_eq!(range.contains(address.parse().expect(address)), expected, "{address}");
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "10.0.0/8",
            "a",
            "10.0.0.0/",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/95",
        ] {
            assert_eq!(wrong.parse::<Range>(), Err(NotARange), "{wrong}");
        }
    }

    #[test]
    fn an_ipv6_network_is_one_peer() {
        let peer = |address: &str| peer_of(address.parse().expect(address));
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::2"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
    }
}
