//! Logs, traces, request ids and metrics. Only this module names metrics and log fields.

mod json_log;
mod merge;
mod metrics;
mod plain_fields;
mod process;
pub mod traces;
pub mod waiting;

use std::cell::Cell;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use plain_fields::PlainFields;

pub use metrics::{
    Counts, LogicMetrics, Metrics, Operation, StoreMetrics, StoreOperation, StoreOutcome,
};

/// The header that carries a request's id, on both wires.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The most characters of a request id that a caller may give.
const REQUEST_ID_CHARACTERS_MAX: usize = 128;
/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Starts the log: to standard error, or to daily files in `directory`. Dropping the guard, if
/// there is one, writes what is buffered.
///
/// # Errors
/// If the directory is not writable.
pub fn start_log(
    level: LevelFilter,
    format: LogFormat,
    directory: Option<&Path>,
) -> anyhow::Result<Option<WorkerGuard>> {
    match directory {
        None => {
            subscribe(level, format, std::io::stderr);
            Ok(None)
        }
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            let files = tracing_appender::rolling::Builder::new()
                .rotation(tracing_appender::rolling::Rotation::DAILY)
                .filename_prefix("session-manager")
                .filename_suffix("log")
                .build(directory)?;
            let (writer, guard) = tracing_appender::non_blocking(files);
            subscribe(level, format, writer);
            Ok(Some(guard))
        }
    }
}

/// The filter of the log, which can be changed while it runs.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();
/// The target of this program's own lines.
const OURS: &str = "session_manager";

/// The current level of the log.
pub fn log_level() -> LevelFilter {
    let ours =
        |targets: &Targets| targets.iter().find_map(|(of, level)| (of == OURS).then_some(level));
    let level = FILTER.get().and_then(|handle| handle.with_current(ours).ok().flatten());
    level.unwrap_or(LevelFilter::OFF)
}

/// Changes the level of the log.
pub fn set_log_level(level: LevelFilter) {
    // Without a log there is no filter.
    if let Some(Err(error)) = FILTER.get().map(|handle| handle.reload(filter(level))) {
        tracing::error!(%error, "the level of the log was not changed");
    }
}

/// The level of a name: off, error, warn, info, debug or trace.
pub fn level(name: &str) -> Option<LevelFilter> {
    // The library accepts numbers as levels, which are easily mistaken.
    name.parse().ok().filter(|_| !name.is_empty() && name.parse::<usize>().is_err())
}

fn filter(level: LevelFilter) -> Targets {
    // The details of libraries are not about sessions.
    let libraries = level.min(LevelFilter::WARN);
    Targets::new().with_default(libraries).with_target(OURS, level)
}

fn subscribe<W>(level: LevelFilter, format: LogFormat, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    // A process has one log.
    drop(FILTER.set(handle));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    match format {
        LogFormat::Text => registry.with(layer.fmt_fields(PlainFields)).init(),
        LogFormat::Json => {
            registry.with(layer.json().event_format(json_log::JsonLine::new())).init();
        }
    }
}

/// A duration for a log field whose name ends in `_us`.
pub fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A duration for a log field whose name ends in `_ms`.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The id of a request: the caller's if it is safe to log, otherwise a new one. A random prefix
/// for each thread makes new ids unique.
pub fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    thread_local! {
        static PREFIX: [u8; 12] = {
            let mut buffer = uuid::Uuid::encode_buffer();
            let random = uuid::Uuid::new_v4().simple().encode_lower(&mut buffer).as_bytes();
            std::array::from_fn(|index| random[index])
        };
        static COUNT: Cell<u64> = const { Cell::new(0) };
    }
    if let Some(given) = given
        && given.len() <= REQUEST_ID_CHARACTERS_MAX
        && !given.is_empty()
        && given.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return given.clone();
    }
    // Written by hand, as this runs for every request and formatting is slow.
    let mut id = *b"............-................";
    PREFIX.with(|prefix| id[..12].copy_from_slice(prefix));
    let mut count = COUNT.get();
    COUNT.set(count + 1);
    for digit in id[13..].iter_mut().rev() {
        *digit = b"0123456789abcdef"[(count & 15) as usize];
        count >>= 4;
    }
    HeaderValue::from_bytes(&id).expect("hexadecimal digits are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_kept_if_it_is_safe_to_log() {
        let given = HeaderValue::from_static("client-7/42");
        assert_eq!(request_id(Some(&given)), given);
        let long = HeaderValue::try_from("x".repeat(129)).expect("a header");
        for unsafe_id in ["", "two words", long.to_str().expect("ascii")] {
            let unsafe_id = HeaderValue::try_from(unsafe_id).expect("a header");
            assert_ne!(request_id(Some(&unsafe_id)), unsafe_id);
        }
        assert_ne!(request_id(None), request_id(None));
    }
}
