//! Logs, traces, request ids and every metric: the only place that names them.

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
/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts the log: to standard error, or to daily files in `directory`. The
/// guard, when there is one, writes what is left when it is dropped.
///
/// # Errors
/// When the directory does not take files.
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

/// What the log is told to leave out.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();
/// The target of our own lines.
const OURS: &str = "session_manager";

/// What is logged.
pub fn log_level() -> LevelFilter {
    let ours =
        |targets: &Targets| targets.iter().find_map(|(of, level)| (of == OURS).then_some(level));
    let level = FILTER.get().and_then(|handle| handle.with_current(ours).ok().flatten());
    level.unwrap_or(LevelFilter::OFF)
}

/// Has another level be logged from now on.
pub fn set_log_level(level: LevelFilter) {
    // Without a log there is nothing to tell.
    if let Some(Err(error)) = FILTER.get().map(|handle| handle.reload(filter(level))) {
        tracing::error!(%error, "the level of the log was not changed");
    }
}

/// The level of a name: off, error, warn, info, debug or trace.
pub fn level(name: &str) -> Option<LevelFilter> {
    // Numbers are levels too, but nobody means them.
    name.parse().ok().filter(|_| !name.is_empty() && name.parse::<usize>().is_err())
}

fn filter(level: LevelFilter) -> Targets {
    // What libraries tell at length is not about sessions.
    let libraries = level.min(LevelFilter::WARN);
    Targets::new().with_default(libraries).with_target(OURS, level)
}

fn subscribe<W>(level: LevelFilter, format: LogFormat, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter(level));
    // There is one log in a process.
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

/// A duration as the log has it in a key that ends in `_us`.
pub fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A duration as the log has it in a key that ends in `_ms`.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The id of a request: the caller's, when it is fit to be logged, else a new
/// one, unique by the prefix of its thread and without meaning.
pub fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    thread_local! {
        static PREFIX: [u8; 12] = {
            let mut buffer = uuid::Uuid::encode_buffer();
            let random = uuid::Uuid::new_v4().simple().encode_lower(&mut buffer).as_bytes();
            std::array::from_fn(|place| random[place])
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
    // By hand, as it is done for every request and formatting is slow.
    let mut id = *b"............-................";
    PREFIX.with(|prefix| id[..12].copy_from_slice(prefix));
    let mut count = COUNT.get();
    COUNT.set(count + 1);
    for digit in id[13..].iter_mut().rev() {
        *digit = b"0123456789abcdef"[(count & 15) as usize];
        count >>= 4;
    }
    HeaderValue::from_bytes(&id).expect("hexadecimal digits are fit for a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_kept_when_it_is_fit_for_the_log() {
        let given = HeaderValue::from_static("client-7/42");
        assert_eq!(request_id(Some(&given)), given);
        let long = HeaderValue::try_from("x".repeat(129)).expect("a header");
        for unfit in ["", "two words", long.to_str().expect("ascii")] {
            let unfit = HeaderValue::try_from(unfit).expect("a header");
            assert_ne!(request_id(Some(&unfit)), unfit);
        }
        assert_ne!(request_id(None), request_id(None));
    }
}
