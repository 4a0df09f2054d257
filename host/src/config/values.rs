//! Parsers of the values of settings. Each error says what is accepted.

use std::net::IpAddr;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use tracing_subscriber::filter::LevelFilter;

use super::early_exit::any_of;
use crate::network::address::Range;
use crate::telemetry::{self, LogFormat};

/// The DATA_DIR of a store that keeps nothing.
pub const IN_MEMORY: &str = ":memory:";

/// The most connections of one peer; `None` for a share of all.
#[derive(Clone, Copy, Debug)]
pub struct PerPeer(pub Option<usize>);
/// Ranges of addresses.
#[derive(Clone, Debug)]
pub struct Ranges(pub Vec<Range>);
/// A port, or `None` if it is off.
#[derive(Clone, Copy, Debug)]
pub struct ProbePort(pub Option<u16>);
/// A list of texts.
#[derive(Clone, Debug)]
pub struct Texts(pub Vec<String>);

/// An IP address.
pub fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "expected an IP address, such as 127.0.0.1 or 0.0.0.0".into())
}

/// A port.
pub fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| "expected a port from 0 to 65535".into())
}

/// The accepted hosts.
pub const A_HOST: &str = "a host name or an IP address";

/// A host, or an empty text.
pub fn host(text: &str) -> Result<String, String> {
    if text.is_empty() || text.parse::<IpAddr>().is_ok() {
        return Ok(text.into());
    }
    if text.contains("://") {
        return Err(format!("expected {A_HOST}; a URL belongs in REDIS_URL"));
    }
    let port = text.rsplit_once(':').map(|(_, port)| port);
    if port.is_some_and(|port| port.parse::<u16>().is_ok()) {
        return Err(format!("expected {A_HOST} without a port, which belongs in REDIS_PORT"));
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || r#"/\:@[]"'`?#,;"#.contains(c);
    if text.contains(odd) { Err(format!("expected {A_HOST}")) } else { Ok(text.into()) }
}

/// The number of a Redis database.
pub fn database(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| *number < 1 << 20);
    number.ok_or_else(|| "expected a database number from 0".into())
}

/// A number of instances.
pub fn instances(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=1024).contains(number));
    number.ok_or_else(|| "expected a number from 1 to 1024".into())
}

/// A number of Redis replicas to wait for.
pub fn replicas(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (0..=16).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 16".into())
}

/// The most viewing sessions of a home.
pub fn max_sessions(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (0..=1000).contains(number));
    number.ok_or_else(|| "expected a number from 0 to 1000".into())
}

/// The number of events that a log keeps.
pub fn events_kept(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (100..=1_000_000).contains(number));
    number.ok_or_else(|| "expected a number from 100 to 1000000".into())
}

/// An interval.
pub fn interval(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_millis(100), Duration::from_secs(24 * 3600))
        .ok_or_else(|| "expected a duration from 100ms to 24h, such as 30s".into())
}

/// A limit of memory in bytes; `None` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit(pub Option<u64>);

/// A limit of memory, or `off`.
pub fn memory_limit(text: &str) -> Result<MemoryLimit, String> {
    const LEAST: u64 = 1 << 20;
    let limit = match text {
        "off" => Some(None),
        text => bytes(text).filter(|bytes| *bytes >= LEAST).map(Some),
    };
    let expected = "expected off, or at least 1 MiB in bytes, KiB, MiB or GiB, such as 512 MiB";
    limit.map(MemoryLimit).ok_or_else(|| expected.into())
}

/// A name.
pub fn name(text: &str) -> Result<String, String> {
    if text.len() > 256 || text.chars().any(char::is_control) {
        return Err("expected at most 256 bytes without control characters".into());
    }
    Ok(text.into())
}

/// A level of the log.
pub fn level(text: &str) -> Result<LevelFilter, String> {
    const NAMES: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    telemetry::level(text).ok_or_else(|| none_of(text, &NAMES))
}

/// The form of the log.
pub fn format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(none_of(text, &["text", "json"])),
    }
}

/// True or false.
pub fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| none_of(text, &["true", "false"]))
}

/// How similar a text must be to a name to suggest it, from 0 to 1.
const ALIKE: f64 = 0.7;

/// What is accepted instead of a text, with a suggestion.
fn none_of(text: &str, names: &[&str]) -> String {
    let expected = any_of(names);
    let text = text.to_ascii_lowercase();
    let alike = names.iter().map(|name| (strsim::jaro_winkler(&text, name), name));
    match alike.max_by(|(a, _), (b, _)| a.total_cmp(b)) {
        Some((alike, name)) if alike > ALIKE => {
            format!("expected {expected}; did you mean {name}?")
        }
        _ => format!("expected {expected}"),
    }
}

/// A directory.
pub fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err(format!("expected a directory, or {IN_MEMORY}"));
    }
    Ok(text.into())
}

/// The lifetime of a session.
pub fn lifetime(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_millis(1), Duration::from_secs(10 * 366 * 24 * 3600))
        .ok_or_else(|| "expected a duration from 1ms to 10 years, such as 15m or 1h30m".into())
}

/// The lifetime of a session without use.
pub fn idle(text: &str) -> Result<Duration, String> {
    match duration(text) {
        Some(Duration::ZERO) => Ok(Duration::ZERO),
        _ => lifetime(text).map_err(|expected| format!("{expected}, or 0s for no limit")),
    }
}

/// A time-out.
pub fn timeout(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_millis(1), Duration::from_secs(60))
        .ok_or_else(|| "expected a duration from 1ms to 1m, such as 500ms".into())
}

/// Whether a text is an http or https URL without a query.
pub fn is_url(text: &str) -> bool {
    let fits = |uri: Uri| {
        let port = uri.authority().is_some_and(|authority| {
            let (_, port) = authority.as_str().rsplit_once(':').unwrap_or_default();
            port.is_empty() || port.contains([']', '@']) || authority.port_u16().is_some()
        });
        port && uri.query().is_none() && matches!(uri.scheme_str(), Some("http" | "https"))
    };
    !text.contains('#') && text.parse().is_ok_and(fits)
}

/// A time-out in milliseconds, as OpenTelemetry writes it.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number| (1..=60_000).contains(number));
    number
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a number of milliseconds from 1 to 60000".into())
}

/// A delay in milliseconds, as OpenTelemetry writes it.
pub fn delay(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number| (10..=60_000).contains(number));
    number
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a number of milliseconds from 10 to 60000".into())
}

/// A number of spans.
pub fn spans(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=65_536).contains(number));
    number.ok_or_else(|| "expected a number from 1 to 65536".into())
}

/// An exporter of traces.
pub fn exporter(text: &str) -> Result<String, String> {
    match text {
        "otlp" | "none" => Ok(text.into()),
        _ => Err(none_of(text, &["otlp", "none"])),
    }
}

/// The protocol of a collector.
pub fn protocol(text: &str) -> Result<String, String> {
    match text {
        "http/protobuf" => Ok(text.into()),
        _ => Err("expected http/protobuf".into()),
    }
}

/// A sampler of traces.
pub fn sampler(text: &str) -> Result<String, String> {
    const NAMES: [&str; 3] = ["always_on", "always_off", "traceidratio"];
    let name = text.strip_prefix("parentbased_").unwrap_or(text);
    if NAMES.contains(&name) {
        return Ok(text.into());
    }
    let expected = none_of(name, &NAMES);
    let (accepted, meant) = expected.split_once("; ").unwrap_or((&expected, ""));
    let meant = if meant.is_empty() { String::new() } else { format!("; {meant}") };
    Err(format!("{accepted}, or one of them with the prefix parentbased_{meant}"))
}

/// A share, from 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".into())
}

/// The memory for bodies. The least value fits the largest request.
pub fn body_memory(text: &str) -> Result<usize, String> {
    let size = bytes(text).filter(|bytes| (32 << 20..=1 << 40).contains(bytes));
    size.and_then(|bytes| usize::try_from(bytes).ok())
        .ok_or_else(|| "expected a size from 32MiB to 1024GiB, such as 128MiB".into())
}

/// The age or idle time of a network connection.
pub fn network_age(text: &str) -> Result<Duration, String> {
    bounded(text, Duration::from_secs(1), Duration::from_secs(30 * 24 * 3600))
        .ok_or_else(|| "expected a duration from 1s to 720h, such as 1h".into())
}

/// The most network connections of one peer.
pub fn connections_of_peer(text: &str) -> Result<PerPeer, String> {
    if text.is_empty() {
        return Ok(PerPeer(None));
    }
    let number = text.parse().ok().filter(|number| (1..=1_000_000).contains(number));
    let number = number.ok_or_else(|| String::from("expected a number from 1 to 1000000"))?;
    Ok(PerPeer(Some(number)))
}

/// Ranges of addresses.
pub fn ranges(text: &str) -> Result<Ranges, String> {
    let ranges = listed(text).map(str::parse).collect::<Result<_, _>>();
    ranges.map(Ranges).map_err(|_| "expected CIDRs, such as 10.0.0.0/8,fd00::/8".into())
}

/// The port of probes, or `off`.
pub fn probe_port(text: &str) -> Result<ProbePort, String> {
    if text == "off" {
        return Ok(ProbePort(None));
    }
    let port = text.parse().map_err(|_| "expected off, or a port from 0 to 65535")?;
    Ok(ProbePort(Some(port)))
}

/// Host names.
pub fn hosts(text: &str) -> Result<Texts, String> {
    let host = |host: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        // A trailing dot names the root, and is optional.
        let host = host.strip_suffix('.').unwrap_or(host);
        (!host.is_empty() && host.chars().all(plain)).then(|| host.to_ascii_lowercase())
    };
    let hosts: Option<Vec<_>> = listed(text).map(host).collect();
    hosts.map(Texts).ok_or_else(|| {
        "expected host names without a port, such as sessions.example,localhost".into()
    })
}

/// Origins of web pages.
pub fn origins(text: &str) -> Result<Texts, String> {
    let origin = |origin: &str| {
        let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"))?;
        let host = rest.parse::<Authority>().ok()?;
        (host == rest && !rest.contains('@')).then(|| origin.to_owned())
    };
    let origins: Option<Vec<_>> = listed(text).map(origin).collect();
    origins.map(Texts).ok_or_else(|| {
        "expected origins without a path, such as https://app.example,http://localhost:3000".into()
    })
}

/// The parts of a list, separated by commas and blanks.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

/// A size: a whole number of bytes, or of a unit that follows it.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim_start() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn bounded(text: &str, least: Duration, most: Duration) -> Option<Duration> {
    duration(text).filter(|duration| (least..=most).contains(duration))
}

/// A duration as Go writes it: numbers with units, such as `1h30m` or `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let units = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("\u{b5}s", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let mut rest = text;
    let mut seconds = 0.0;
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let number_ends = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(number_ends);
        let unit_ends = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_ends);
        let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
        seconds += number.parse::<f64>().ok()? * factor;
        rest = after;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, milliseconds) in [
            ("15m", Some(900_000)),
            ("3s", Some(3000)),
            ("1h30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("8760h", Some(31_536_000_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("", None),
            ("15", None),
            ("m", None),
            ("-3s", None),
            ("3 s", None),
            ("3d", None),
            ("1..5s", None),
        ] {
            let read = duration(text).map(|duration| duration.as_millis());
            assert_eq!(read, milliseconds, "{text:?}");
        }
    }

    #[test]
    fn a_size_is_a_number_of_bytes_or_of_a_unit() {
        for (text, expected) in [
            ("off", Some(None)),
            ("1048576", Some(Some(1 << 20))),
            ("1024KiB", Some(Some(1 << 20))),
            ("512 MiB", Some(Some(512 << 20))),
            ("2GiB", Some(Some(2 << 30))),
            ("1048575", None),
            ("0", None),
            ("", None),
            ("MiB", None),
            ("512 MB", None),
            ("512mib", None),
            ("1.5GiB", None),
            ("-1", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(memory_limit(text).ok().map(|limit| limit.0), expected, "{text:?}");
        }
    }
}
