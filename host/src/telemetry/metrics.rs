//! Every metric. Names follow the conventions of Prometheus; labels have few values, all known
//! beforehand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{
    Counter, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::telemetry::merge;
use crate::telemetry::process::ProcessMetrics;
use crate::workers::PerWorker;

/// Upper bounds of the latency histograms, in seconds.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The kinds of sessions that are counted.
const KINDS: [&str; 4] = ["booking", "user", "connection", "viewing"];

/// All metrics of the process. What is counted for every request is counted per worker, and added
/// up for readers. Counters that all cores write to would make every request wait.
pub struct Metrics {
    registry: Registry,
    counts: PerWorker<Counts>,
    /// The generation that new calls run on.
    pub generation: IntGauge,
    /// Idle instances.
    pub instances_idle: IntGauge,
    /// Instances that run a call.
    pub instances_busy: IntGauge,
    /// Whether the store answered the last health check.
    pub store_up: IntGauge,
    /// Whether it took writes then.
    pub store_writable: IntGauge,
    /// Open network connections of users.
    pub connections: IntGauge,
    /// Their limit.
    pub connections_max: IntGauge,
    /// Memory charged for bodies of requests and replies, in bytes.
    pub body_bytes: IntGauge,
    /// Session connections that this process holds.
    pub connects: IntGauge,
    /// Open subscriptions to events.
    pub subscriptions: IntGauge,
    /// Spans exported to the collector.
    pub sent_spans: SentSpans,
    build: IntGaugeVec,
    expired: IntCounter,
    sessions: IntGaugeVec,
    store_nodes: IntGaugeVec,
    store_bytes: IntGaugeVec,
    store_bytes_max: IntGaugeVec,
    swaps: IntCounterVec,
    rollbacks: IntCounterVec,
    gates: HistogramVec,
}

/// What one worker counts.
pub struct Counts {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    in_flight: IntGauge,
    /// The calls of the component.
    pub logic: Arc<LogicMetrics>,
    /// The store calls that the host makes itself.
    pub store: StoreMetrics,
}

/// The calls of the component.
pub struct LogicMetrics {
    /// Calls that ended with a reply or a refusal.
    pub answered: IntCounter,
    /// Calls that trapped.
    pub trapped: IntCounter,
    /// Calls that exceeded their time limit.
    pub timed_out: IntCounter,
    /// Calls that found no free instance.
    pub overloaded: IntCounter,
    /// Processor time of the component, in seconds.
    pub cpu_seconds: Counter,
    /// The store calls that it makes.
    pub store: StoreMetrics,
}

/// The calls of the store.
#[derive(Clone)]
pub struct StoreMetrics {
    /// By operation, and by outcome.
    calls: [[IntCounter; 4]; 4],
    durations: [Histogram; 4],
}

/// A kind of store call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// A transaction that only reads.
    Read,
    /// Any other transaction.
    Write,
    /// Reading the event logs.
    ReadLogs,
    /// Counting sessions.
    Count,
}

impl StoreOperation {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::ReadLogs, Self::Count];

    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadLogs => "read_logs",
            Self::Count => "count",
        }
    }
}

/// Spans exported to a collector, and those that were lost.
#[derive(Clone, Debug)]
pub struct SentSpans {
    taken: IntCounter,
    failed: IntCounter,
}

impl SentSpans {
    /// Counts spans that the collector has taken, or has not.
    pub fn count(&self, spans: u64, taken: bool) {
        let counter = if taken { &self.taken } else { &self.failed };
        counter.inc_by(spans);
    }
}

/// How a call of the store ended.
#[derive(Clone, Copy, Debug)]
pub enum StoreOutcome {
    /// With a reply.
    Answered,
    /// Without a reply.
    Unavailable,
    /// With a refusal.
    Rejected,
    /// With a refusal for lack of memory.
    Full,
}

impl<T> From<&Result<T, session_store::Error>> for StoreOutcome {
    fn from(result: &Result<T, session_store::Error>) -> Self {
        match result {
            Ok(_) => Self::Answered,
            Err(session_store::Error::Unavailable(_)) => Self::Unavailable,
            Err(session_store::Error::Rejected(_)) => Self::Rejected,
            Err(session_store::Error::Full(_)) => Self::Full,
        }
    }
}

impl StoreOutcome {
    const ALL: [Self; 4] = [Self::Answered, Self::Unavailable, Self::Rejected, Self::Full];

    /// Its name in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unavailable => "unavailable",
            Self::Rejected => "rejected",
            Self::Full => "full",
        }
    }
}

impl Metrics {
    /// All metrics at zero, for as many workers as there are processors.
    ///
    /// # Panics
    /// Never: names and labels are constants, each registered once.
    pub fn new() -> Self {
        let registry = Registry::new();
        registry
            .register(Box::new(ProcessMetrics::new()))
            .expect("every metric is registered once");
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gates = HistogramVec::new(
            HistogramOpts::new(
                "session_manager_component_gate_duration_seconds",
                "Time for a component to pass a gate, in seconds.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["gate"],
        );
        let spans = counters(
            "session_manager_trace_spans_total",
            "Spans exported to the trace collector.",
            &["outcome"],
        );
        let swaps = counters(
            "session_manager_component_swaps_total",
            "Attempts to swap in a component.",
            &["source", "outcome"],
        );
        let rollbacks = counters(
            "session_manager_component_rollbacks_total",
            "Roll backs to the generation before.",
            &["cause"],
        );
        // A rate misses the first increment unless the counter exists at zero before it.
        for source in ["file", "upload"] {
            for outcome in ["published", "refused", "unchanged"] {
                swaps.with_label_values(&[source, outcome]);
            }
        }
        for cause in ["failures", "operator"] {
            rollbacks.with_label_values(&[cause]);
        }
        let build = IntGaugeVec::new(
            Opts::new(
                "session_manager_build_info",
                "Name and version of this process, in labels; always 1.",
            ),
            &["app", "version"],
        );
        Self {
            counts: PerWorker::new(Counts::new),
            sent_spans: SentSpans {
                taken: spans.with_label_values(&["taken"]),
                failed: spans.with_label_values(&["failed"]),
            },
            build: registered(&registry, build),
            generation: gauge(
                "session_manager_component_generation",
                "Number of the generation that new calls run on.",
            ),
            instances_idle: gauge(
                "session_manager_component_instances_idle",
                "Idle instances of the component.",
            ),
            instances_busy: gauge(
                "session_manager_component_instances_busy",
                "Instances of the component that run a call.",
            ),
            store_up: gauge(
                "session_manager_store_up",
                "1 if the store answered the last health check, else 0.",
            ),
            store_writable: gauge(
                "session_manager_store_writable",
                "1 if the store took writes at the last health check, else 0.",
            ),
            connections: gauge(
                "session_manager_network_connections_open",
                "Open network connections to the gRPC and REST ports.",
            ),
            connections_max: gauge(
                "session_manager_network_connections_max",
                "Limit of open network connections to the gRPC and REST ports.",
            ),
            body_bytes: gauge(
                "session_manager_body_memory_bytes",
                "Memory charged for bodies of requests and replies, copies included, in bytes.",
            ),
            connects: gauge(
                "session_manager_connects_open",
                "Session connections that this process holds for clients.",
            ),
            subscriptions: gauge(
                "session_manager_subscriptions_open",
                "Open subscriptions to events.",
            ),
            expired: registered(
                &registry,
                IntCounter::with_opts(Opts::new(
                    "session_manager_sessions_expired_total",
                    "Session expirations published by this process.",
                )),
            ),
            sessions: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_sessions",
                        "Live sessions in the store at the last sweep or count of this process.",
                    ),
                    &["kind"],
                ),
            ),
            store_nodes: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_store_node_up",
                        "1 if a server of the store is connected, else 0.",
                    ),
                    &["node"],
                ),
            ),
            // A vector without labels has no value until one is set. With Redis there is none.
            store_bytes: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_store_bytes",
                        "Memory used by the data of the embedded store, events included, in bytes.",
                    ),
                    &[],
                ),
            ),
            store_bytes_max: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_store_bytes_max",
                        "Limit of the memory for the data of the embedded store, in bytes.",
                    ),
                    &[],
                ),
            ),
            swaps,
            rollbacks,
            gates: registered(&registry, gates),
            registry,
        }
    }

    /// The counts of the current worker.
    pub fn counts(&self) -> &Counts {
        self.counts.own()
    }

    /// Sets the name of the process.
    pub fn named(&self, app: &str) {
        self.build.with_label_values(&[app, env!("CARGO_PKG_VERSION")]).set(1);
    }

    /// Records that a component has passed a gate.
    pub fn gate_passed(&self, gate: &'static str, duration: Duration) {
        self.gates.with_label_values(&[gate]).observe(duration.as_secs_f64());
    }

    /// Records that a component from `source` was `published`, `refused` or found `unchanged`.
    pub fn swap(&self, source: &'static str, outcome: &'static str) {
        self.swaps.with_label_values(&[source, outcome]).inc();
    }

    /// Records a roll back, by the `operator` or for `failures`.
    pub fn rolled_back(&self, cause: &'static str) {
        self.rollbacks.with_label_values(&[cause]).inc();
    }

    /// Sets the number of sessions of a kind. Unknown kinds are ignored, so that a component cannot
    /// make up labels.
    pub fn sessions(&self, kind: &str, count: u64) {
        if let Some(kind) = KINDS.iter().find(|known| **known == kind) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.sessions.with_label_values(&[kind]).set(count);
        }
    }

    /// Sets the servers of the store, and whether each is connected.
    pub fn store_nodes(&self, nodes: &[(String, bool)]) {
        // Servers that have left disappear.
        self.store_nodes.reset();
        for (node, is_up) in nodes {
            self.store_nodes.with_label_values(&[node]).set(i64::from(*is_up));
        }
    }

    /// Sets the memory of the store's data, and its limit.
    pub fn store_memory(&self, bytes: u64, bytes_max: Option<u64>) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.store_bytes.with_label_values::<&str>(&[]).set(gauge(bytes));
        if let Some(bytes_max) = bytes_max {
            self.store_bytes_max.with_label_values::<&str>(&[]).set(gauge(bytes_max));
        }
    }

    /// Counts published expiries.
    pub fn expired(&self, count: u64) {
        self.expired.inc_by(count);
    }

    /// All metrics in the text format of Prometheus.
    pub fn render(&self) -> Vec<u8> {
        let registries = self.counts.iter().map(|counts| &counts.registry);
        let families = registries.chain([&self.registry]).map(Registry::gather);
        let mut text = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&merge::sum(families), &mut text) {
            tracing::error!(%error, "metrics do not render");
        }
        text
    }
}

impl Counts {
    fn new() -> Self {
        let registry = Registry::new();
        let request_labels = ["protocol", "operation", "code"];
        let requests = IntCounterVec::new(
            Opts::new("session_manager_requests_total", "Answered requests."),
            &request_labels,
        );
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "session_manager_request_duration_seconds",
                "Time from the head of a request to the head of its reply, in seconds.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &request_labels[..2],
        );
        let in_flight = IntGauge::new("session_manager_requests_in_flight", "Requests in flight.");
        let store = StoreMetrics::new(&registry);
        Self {
            requests: registered(&registry, requests),
            duration: registered(&registry, duration),
            in_flight: registered(&registry, in_flight),
            logic: Arc::new(LogicMetrics::new(&registry, store.clone())),
            store,
            registry,
        }
    }

    /// The metrics of one operation on one wire. `name` is from the contract, never from a request;
    /// `success` is the code of the usual reply.
    pub fn operation(
        &self,
        protocol: &'static str,
        name: &str,
        success: &'static str,
    ) -> Operation {
        Operation {
            protocol,
            name: name.into(),
            success,
            succeeded: self.requests.with_label_values(&[protocol, name, success]),
            requests: self.requests.clone(),
            duration: self.duration.with_label_values(&[protocol, name]),
            in_flight: self.in_flight.clone(),
        }
    }
}

/// The metrics of one operation on one wire, looked up once.
pub struct Operation {
    /// The wire.
    pub protocol: &'static str,
    /// `package.Service/Method`.
    pub name: String,
    success: &'static str,
    succeeded: IntCounter,
    requests: IntCounterVec,
    duration: Histogram,
    in_flight: IntGauge,
}

impl Operation {
    /// Begins a request.
    pub fn begin(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight { operation: self, started: Instant::now(), answered: false }
    }
}

/// A request in flight. If it is dropped before it is answered, because the caller has left or has
/// timed out, it counts as `cancelled`.
pub struct InFlight<'a> {
    operation: &'a Operation,
    started: Instant,
    answered: bool,
}

impl InFlight<'_> {
    /// Ends the request, and returns its duration.
    pub fn answered(mut self, code: &str) -> Duration {
        self.answered = true;
        self.count(code)
    }

    fn count(&self, code: &str) -> Duration {
        let duration = self.started.elapsed();
        let Operation { protocol, name, success, .. } = self.operation;
        if code == *success {
            self.operation.succeeded.inc();
        } else {
            self.operation.requests.with_label_values(&[*protocol, name, code]).inc();
        }
        self.operation.duration.observe(duration.as_secs_f64());
        duration
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.operation.in_flight.dec();
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
    fn new(registry: &Registry, store: StoreMetrics) -> Self {
        let calls = IntCounterVec::new(
            Opts::new("session_manager_component_calls_total", "Calls of the component."),
            &["outcome"],
        );
        let calls = registered(registry, calls);
        let cpu = Counter::new(
            "session_manager_component_cpu_seconds_total",
            "Processor time of the component, without waits for the store, in seconds.",
        );
        Self {
            answered: calls.with_label_values(&["answered"]),
            trapped: calls.with_label_values(&["trapped"]),
            timed_out: calls.with_label_values(&["timed_out"]),
            overloaded: calls.with_label_values(&["overloaded"]),
            cpu_seconds: registered(registry, cpu),
            store,
        }
    }
}

impl StoreMetrics {
    fn new(registry: &Registry) -> Self {
        let calls = IntCounterVec::new(
            Opts::new("session_manager_store_calls_total", "Calls of the store."),
            &["operation", "outcome"],
        );
        let calls = registered(registry, calls);
        let durations = HistogramVec::new(
            HistogramOpts::new(
                "session_manager_store_call_duration_seconds",
                "Time of one call of the store, in seconds.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["operation"],
        );
        let durations = registered(registry, durations);
        Self {
            calls: StoreOperation::ALL.map(|operation| {
                StoreOutcome::ALL
                    .map(|outcome| calls.with_label_values(&[operation.name(), outcome.name()]))
            }),
            durations: StoreOperation::ALL
                .map(|operation| durations.with_label_values(&[operation.name()])),
        }
    }

    /// Records a call of the store.
    pub fn call(&self, operation: StoreOperation, outcome: StoreOutcome, duration: Duration) {
        self.calls[operation as usize][outcome as usize].inc();
        self.durations[operation as usize].observe(duration.as_secs_f64());
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
    fn metrics_render_with_their_labels() {
        let metrics = Metrics::new();
        let operation = metrics.counts().operation("rest", "Booking/Get", "200");
        operation.begin().answered("200");
        operation.begin().answered("404");
        drop(operation.begin());
        let text = String::from_utf8(metrics.render()).expect("text");
        for (code, count) in [("200", 1), ("404", 1), ("cancelled", 1)] {
            let line = format!(
                "session_manager_requests_total\
                 {{code=\"{code}\",operation=\"Booking/Get\",protocol=\"rest\"}} {count}"
            );
            assert!(text.contains(&line), "{text}");
        }
        assert!(text.contains("session_manager_requests_in_flight 0"), "{text}");
    }
}
