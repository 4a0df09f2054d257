//! Logs, request ids and every metric: the only place that names them. Metric
//! names follow the conventions of Prometheus; labels have few values, known
//! beforehand.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use prometheus::{
    Counter, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    Opts, Registry, TextEncoder,
};
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The header that carries a request's id, on both wires.
pub const REQUEST_ID: &str = "x-request-id";
/// The most characters of a request id that a caller may give.
const REQUEST_ID_CHARACTERS_MAX: usize = 128;
/// Upper bounds of the latency histograms, in seconds.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

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

fn subscribe<W>(level: LevelFilter, format: LogFormat, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // What libraries tell at length is not about sessions.
    let libraries = level.min(LevelFilter::WARN);
    let filter = Targets::new().with_default(libraries).with_target("session_manager", level);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(false);
    match format {
        LogFormat::Text => registry.with(layer).init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).init(),
    }
}

/// The id of a request: the caller's, when it is fit to be logged, else a new
/// one, unique to this process and without meaning.
pub fn request_id(given: Option<&HeaderValue>) -> HeaderValue {
    static PREFIX: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string()[..12].to_owned());
    static COUNT: AtomicU64 = AtomicU64::new(0);
    if let Some(given) = given
        && given.len() <= REQUEST_ID_CHARACTERS_MAX
        && !given.is_empty()
        && given.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return given.clone();
    }
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    HeaderValue::try_from(format!("{}-{count:x}", *PREFIX))
        .expect("hexadecimal digits are fit for a header")
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGauge,
    /// What the component does.
    pub logic: Arc<LogicMetrics>,
    /// Whether the store answered when it was last asked.
    pub store_up: IntGauge,
}

/// What the component does.
pub struct LogicMetrics {
    /// Calls that ended with an answer or a refusal.
    pub answered: IntCounter,
    /// Calls that trapped.
    pub trapped: IntCounter,
    /// Calls that ran past their limit.
    pub timed_out: IntCounter,
    /// Calls that found no free instance.
    pub overloaded: IntCounter,
    /// Seconds that the component computed.
    pub cpu_seconds: Counter,
    /// The generation that new calls run on.
    pub generation: IntGauge,
    /// Instances that wait for a call.
    pub instances_idle: IntGauge,
    /// Instances that run a call.
    pub instances_busy: IntGauge,
    store_calls: IntCounterVec,
    store_duration: Histogram,
}

/// How a call of the store ended.
#[derive(Clone, Copy, Debug)]
pub enum StoreOutcome {
    /// With an outcome.
    Answered,
    /// Without an answer.
    Unavailable,
    /// With a refusal.
    Rejected,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Panics
    /// Never: names and labels are constants, each registered once.
    pub fn new() -> Self {
        let registry = Registry::new();
        let request_labels = ["protocol", "operation", "code"];
        let requests = IntCounterVec::new(
            Opts::new("session_manager_requests_total", "Requests answered."),
            &request_labels,
        );
        let requests = registered(&registry, requests);
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "session_manager_request_duration_seconds",
                "Time from the head of a request to the head of its answer.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &request_labels[..2],
        );
        let duration = registered(&registry, duration);
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let in_flight = gauge("session_manager_requests_in_flight", "Requests being served.");
        let store_up =
            gauge("session_manager_store_up", "1 when the store answered when last asked, else 0.");
        let logic = Arc::new(LogicMetrics::new(&registry));
        #[cfg(target_os = "linux")]
        registry
            .register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))
            .expect("every metric is registered once");
        Self { registry, requests, duration, in_flight, logic, store_up }
    }

    /// A request has come. `operation` is one of the contract's, never taken from
    /// a request.
    pub fn request<'a>(&'a self, protocol: &'static str, operation: &'a str) -> InFlight<'a> {
        self.in_flight.inc();
        InFlight { metrics: self, protocol, operation, started: Instant::now(), answered: false }
    }

    /// All metrics in the text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "metrics do not render");
        }
        text
    }
}

/// A request in flight. One that is dropped before it is answered, as its caller
/// has gone or has waited long enough, counts as `cancelled`.
pub struct InFlight<'a> {
    metrics: &'a Metrics,
    protocol: &'static str,
    operation: &'a str,
    started: Instant,
    answered: bool,
}

impl InFlight<'_> {
    /// The request is answered; returns how long that took.
    pub fn answered(mut self, code: &str) -> Duration {
        self.answered = true;
        self.count(code)
    }

    fn count(&self, code: &str) -> Duration {
        let duration = self.started.elapsed();
        let (protocol, operation) = (self.protocol, self.operation);
        self.metrics.requests.with_label_values(&[protocol, operation, code]).inc();
        let histogram = self.metrics.duration.with_label_values(&[protocol, operation]);
        histogram.observe(duration.as_secs_f64());
        duration
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        if !self.answered {
            self.count("cancelled");
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl LogicMetrics {
    fn new(registry: &Registry) -> Self {
        let calls = IntCounterVec::new(
            Opts::new("session_manager_component_calls_total", "Calls of the component."),
            &["outcome"],
        );
        let calls = registered(registry, calls);
        let store_calls = IntCounterVec::new(
            Opts::new("session_manager_store_calls_total", "Transactions of the store."),
            &["outcome"],
        );
        let store_calls = registered(registry, store_calls);
        let store_duration = Histogram::with_opts(
            HistogramOpts::new(
                "session_manager_store_call_duration_seconds",
                "Time of one transaction of the store.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
        );
        let gauge = |name: &str, help: &str| registered(registry, IntGauge::new(name, help));
        let cpu = Counter::new(
            "session_manager_component_cpu_seconds_total",
            "Seconds that the component computed, without waiting for the store.",
        );
        Self {
            answered: calls.with_label_values(&["answered"]),
            trapped: calls.with_label_values(&["trapped"]),
            timed_out: calls.with_label_values(&["timed_out"]),
            overloaded: calls.with_label_values(&["overloaded"]),
            cpu_seconds: registered(registry, cpu),
            generation: gauge(
                "session_manager_component_generation",
                "Number of the generation that new calls run on.",
            ),
            instances_idle: gauge(
                "session_manager_component_instances_idle",
                "Instances that wait for a call.",
            ),
            instances_busy: gauge(
                "session_manager_component_instances_busy",
                "Instances that run a call.",
            ),
            store_calls,
            store_duration: registered(registry, store_duration),
        }
    }

    /// A transaction of the store ended.
    pub fn store_call(&self, outcome: StoreOutcome, duration: Duration) {
        let outcome = match outcome {
            StoreOutcome::Answered => "answered",
            StoreOutcome::Unavailable => "unavailable",
            StoreOutcome::Rejected => "rejected",
        };
        self.store_calls.with_label_values(&[outcome]).inc();
        self.store_duration.observe(duration.as_secs_f64());
    }
}

fn registered<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("names and labels of metrics are valid constants");
    registry.register(Box::new(collector.clone())).expect("every metric is registered once");
    collector
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

    #[test]
    fn metrics_render_with_their_labels() {
        let metrics = Metrics::new();
        metrics.request("rest", "Booking/Get").answered("200");
        drop(metrics.request("rest", "Booking/Get"));
        let text = String::from_utf8(metrics.render()).expect("text");
        for (code, count) in [("200", 1), ("cancelled", 1)] {
            let line = format!(
                "session_manager_requests_total\
                 {{code=\"{code}\",operation=\"Booking/Get\",protocol=\"rest\"}} {count}"
            );
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("session_manager_requests_in_flight 0"), "{text}");
    }
}
