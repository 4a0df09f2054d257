//! Every metric. Names follow the conventions of Prometheus; labels have few
//! values, known beforehand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus::{
    Counter, Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::telemetry::merge;
use crate::telemetry::process::Process;
use crate::workers::PerWorker;

/// Upper bounds of the latency histograms, in seconds.
const LATENCY_BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The kinds of sessions that are counted.
const KINDS: [&str; 4] = ["booking", "user", "connection", "viewing"];

/// All metrics of the process. What is counted for every request is counted for
/// each worker apart, as counters that all cores write to would be the one thing
/// that all requests wait for; readers get the sums.
pub struct Metrics {
    registry: Registry,
    counts: PerWorker<Counts>,
    /// The generation that new calls run on.
    pub generation: IntGauge,
    /// Instances that wait for a call.
    pub instances_idle: IntGauge,
    /// Instances that run a call.
    pub instances_busy: IntGauge,
    /// Whether the store answered when it was last asked.
    pub store_up: IntGauge,
    /// Whether it took writes then.
    pub store_writable: IntGauge,
    /// Network connections of users.
    pub connections: IntGauge,
    /// How many of those there may be.
    pub connections_max: IntGauge,
    /// Memory that bodies of requests and replies take.
    pub body_bytes: IntGauge,
    /// Connections that this process holds.
    pub connects: IntGauge,
    /// Subscriptions to events.
    pub subscriptions: IntGauge,
    /// Spans that went to the collector, or should have.
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
    /// What the component does.
    pub logic: Arc<LogicMetrics>,
    /// What the store is asked for beside what the component asks for.
    pub store: StoreMetrics,
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
    /// What it asks the store for.
    pub store: StoreMetrics,
}

/// What the store is asked for.
#[derive(Clone)]
pub struct StoreMetrics {
    /// By operation, and by outcome.
    calls: [[IntCounter; 4]; 4],
    durations: [Histogram; 4],
}

/// What a store is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOperation {
    /// A transaction that reads, whatever it finds.
    Read,
    /// Any other transaction.
    Write,
    /// Events of logs.
    ReadLogs,
    /// How many sessions there are.
    Count,
}

impl StoreOperation {
    const ALL: [Self; 4] = [Self::Read, Self::Write, Self::ReadLogs, Self::Count];

    /// What it is called in metrics and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadLogs => "read_logs",
            Self::Count => "count",
        }
    }
}

/// Spans that went to a collector, or should have.
#[derive(Clone, Debug)]
pub struct SentSpans {
    taken: IntCounter,
    failed: IntCounter,
}

impl SentSpans {
    /// So many were taken, or were not.
    pub fn count(&self, spans: u64, taken: bool) {
        let counter = if taken { &self.taken } else { &self.failed };
        counter.inc_by(spans);
    }
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
    /// With a refusal for want of memory.
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

    /// What it is called in metrics and traces.
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
        registry.register(Box::new(Process::new())).expect("every metric is registered once");
        let gauge = |name: &str, help: &str| registered(&registry, IntGauge::new(name, help));
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gates = HistogramVec::new(
            HistogramOpts::new(
                "session_manager_component_gate_duration_seconds",
                "Time that a component took to pass a gate.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["gate"],
        );
        let spans = counters(
            "session_manager_trace_spans_total",
            "Spans for the collector of traces.",
            &["outcome"],
        );
        let swaps = counters(
            "session_manager_component_swaps_total",
            "Components that were to become a generation.",
            &["source", "outcome"],
        );
        let rollbacks = counters(
            "session_manager_component_rollbacks_total",
            "Generations that gave way to the one before.",
            &["cause"],
        );
        // Rates see the first only if it is one more than none.
        for source in ["file", "upload"] {
            for outcome in ["published", "refused", "unchanged"] {
                swaps.with_label_values(&[source, outcome]);
            }
        }
        for cause in ["failures", "operator"] {
            rollbacks.with_label_values(&[cause]);
        }
        let build = IntGaugeVec::new(
            Opts::new("session_manager_build_info", "What this process is; always 1."),
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
                "Instances that wait for a call.",
            ),
            instances_busy: gauge(
                "session_manager_component_instances_busy",
                "Instances that run a call.",
            ),
            store_up: gauge(
                "session_manager_store_up",
                "1 when the store answered when last asked, else 0.",
            ),
            store_writable: gauge(
                "session_manager_store_writable",
                "1 when the store took writes when last asked, else 0.",
            ),
            connections: gauge(
                "session_manager_network_connections_open",
                "Network connections to the gRPC and REST ports.",
            ),
            connections_max: gauge(
                "session_manager_network_connections_max",
                "Network connections to the gRPC and REST ports that there may be.",
            ),
            body_bytes: gauge(
                "session_manager_body_memory_bytes",
                "Memory that bodies of requests and replies take, with what is made of them, in bytes.",
            ),
            connects: gauge(
                "session_manager_connects_open",
                "Connections that this process holds for clients.",
            ),
            subscriptions: gauge("session_manager_subscriptions_open", "Subscriptions to events."),
            expired: registered(
                &registry,
                IntCounter::with_opts(Opts::new(
                    "session_manager_sessions_expired_total",
                    "Sessions of which this process has told that they ended by themselves.",
                )),
            ),
            sessions: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_sessions",
                        "Sessions in the store, as the last sweep of this process has found them.",
                    ),
                    &["kind"],
                ),
            ),
            store_nodes: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_store_node_up",
                        "1 when there is a connection to a server of the store, else 0.",
                    ),
                    &["node"],
                ),
            ),
            // Without labels, and without a value until there is one: Redis has its own.
            store_bytes: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_store_bytes",
                        "Memory that the data of the embedded store takes, events included, in bytes.",
                    ),
                    &[],
                ),
            ),
            store_bytes_max: registered(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "session_manager_store_bytes_max",
                        "Memory that the data of the embedded store may take, in bytes.",
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

    /// Those of the worker that runs this.
    pub fn counts(&self) -> &Counts {
        self.counts.own()
    }

    /// The process is called this.
    pub fn named(&self, app: &str) {
        self.build.with_label_values(&[app, env!("CARGO_PKG_VERSION")]).set(1);
    }

    /// A component has passed a gate.
    pub fn gate_passed(&self, gate: &'static str, duration: Duration) {
        self.gates.with_label_values(&[gate]).observe(duration.as_secs_f64());
    }

    /// A component from `source` was `published`, `refused` or found `unchanged`.
    pub fn swap(&self, source: &'static str, outcome: &'static str) {
        self.swaps.with_label_values(&[source, outcome]).inc();
    }

    /// A generation gave way to the one before, by will of the `operator` or for its
    /// `failures`.
    pub fn rolled_back(&self, cause: &'static str) {
        self.rollbacks.with_label_values(&[cause]).inc();
    }

    /// There are so many sessions of a kind. A kind that no rule of ours has is left out, so
    /// that rules cannot make labels up.
    pub fn sessions(&self, kind: &str, count: u64) {
        if let Some(kind) = KINDS.iter().find(|known| **known == kind) {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.sessions.with_label_values(&[kind]).set(count);
        }
    }

    /// The servers of the store, and whether there is a connection to each.
    pub fn store_nodes(&self, nodes: &[(String, bool)]) {
        // Those that are not there any more go.
        self.store_nodes.reset();
        for (node, is_up) in nodes {
            self.store_nodes.with_label_values(&[node]).set(i64::from(*is_up));
        }
    }

    /// The data of the store takes so many bytes of memory, and may take so many.
    pub fn store_memory(&self, bytes: u64, bytes_max: Option<u64>) {
        let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.store_bytes.with_label_values::<&str>(&[]).set(gauge(bytes));
        if let Some(bytes_max) = bytes_max {
            self.store_bytes_max.with_label_values::<&str>(&[]).set(gauge(bytes_max));
        }
    }

    /// So many sessions have ended by themselves.
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
            Opts::new("session_manager_requests_total", "Requests answered."),
            &request_labels,
        );
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "session_manager_request_duration_seconds",
                "Time from the head of a request to the head of its answer.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &request_labels[..2],
        );
        let in_flight =
            IntGauge::new("session_manager_requests_in_flight", "Requests being served.");
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

    /// What one operation on one wire counts. `name` is one of the contract's,
    /// never taken from a request; `success` is the code of the usual answer.
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

/// What one operation on one wire counts, looked up once.
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
    /// A request has come.
    pub fn begin(&self) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight { operation: self, started: Instant::now(), answered: false }
    }
}

/// A request in flight. One that is dropped before it is answered, as its caller
/// has gone or has waited long enough, counts as `cancelled`.
pub struct InFlight<'a> {
    operation: &'a Operation,
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
            "Seconds that the component computed, without waiting for the store.",
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
                "Time of one call of the store.",
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

    /// A call of the store has ended.
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
