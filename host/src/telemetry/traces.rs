//! Traces: a span for each request, one in it for the call of the component, and one in that for
//! each exchange with the store. A trace of the caller is continued. A thread sends the spans over
//! OTLP from a queue that drops what does not fit, so no request waits for a collector. Only this
//! file knows OpenTelemetry.

use std::collections::HashMap;
use std::fmt::Display;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::Context as _;
use http::{HeaderMap, HeaderName, Method};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, TraceId, Tracer, TracerProvider};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData,
    SpanExporter,
};
use pin_project_lite::pin_project;

use crate::telemetry::Metrics;
use crate::telemetry::metrics::SentSpans;

/// How long the last spans may take to be sent when the process stops.
const FLUSH: Duration = Duration::from_secs(2);
/// The header that names the caller's trace (W3C Trace Context).
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The methods that appear by name.
const STANDARD_METHODS: [Method; 9] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
];

/// Makes spans, if they are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Which requests are traced, and where the traces go.
#[derive(Clone, Debug)]
pub struct Export {
    /// The collector's URL for traces.
    pub endpoint: String,
    /// Headers of each request to it, such as a token.
    pub headers: HashMap<String, String>,
    /// How long it may take to answer.
    pub timeout: Duration,
    /// `service.name`.
    pub service_name: String,
    /// `deployment.environment.name`, if there is one.
    pub environment: Option<String>,
    /// `service.instance.id`.
    pub instance: String,
    /// Which requests are traced.
    pub sampling: Sampling,
    /// The most spans that wait to be sent.
    pub queue: usize,
    /// The most spans in one request.
    pub batch: usize,
    /// How long spans wait for others.
    pub delay: Duration,
}

/// Which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Their share, from 0 to 1.
    pub share: f64,
    /// Whether the caller's decision about its trace holds for ours.
    pub by_parent: bool,
}

/// The thread that sends spans.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts to trace requests.
    ///
    /// # Errors
    /// If the exporter cannot be built. A collector that does not answer is tried again with the
    /// next spans.
    pub fn start(export: Export, metrics: &Metrics) -> anyhow::Result<Self> {
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(export.endpoint)
            .with_headers(export.headers)
            .with_timeout(export.timeout)
            .build()
            .context("traces cannot be sent")?;
        let exporter = CountingExporter {
            exporter,
            spans: metrics.sent_spans.clone(),
            succeeded: AtomicBool::new(true),
        };
        let mut attributes = vec![
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", export.instance),
        ];
        if let Some(environment) = export.environment {
            // The second is the former name, which Elastic uses.
            attributes.push(KeyValue::new("deployment.environment.name", environment.clone()));
            attributes.push(KeyValue::new("deployment.environment", environment));
        }
        let resource = Resource::builder()
            .with_attributes(attributes)
            .with_service_name(export.service_name)
            .build();
        let root = Sampler::TraceIdRatioBased(export.sampling.share);
        let sampler = match export.sampling.by_parent {
            true => Sampler::ParentBased(Box::new(root)),
            false => root,
        };
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(export.queue)
            .with_max_export_batch_size(export.batch)
            .with_scheduled_delay(export.delay)
            .build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_resource(resource)
            .with_sampler(sampler)
            .build();
        // A process has one tracer.
        drop(TRACER.set(provider.tracer("session-manager")));
        Ok(Self(provider))
    }

    /// Sends the last spans.
    pub fn stop(self) {
        if let Err(error) = self.0.shutdown_with_timeout(FLUSH) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// An exporter that counts spans, and logs once when they cannot be sent.
#[derive(Debug)]
struct CountingExporter {
    exporter: opentelemetry_otlp::SpanExporter,
    spans: SentSpans,
    succeeded: AtomicBool,
}

impl SpanExporter for CountingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let result = self.exporter.export(batch).await;
        self.spans.count(count, result.is_ok());
        match (&result, self.succeeded.swap(result.is_ok(), Ordering::Relaxed)) {
            (Err(error), true) => tracing::warn!(%error, "traces are not taken"),
            (Ok(()), false) => tracing::info!("traces are taken again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// The kind of a request.
#[derive(Clone, Copy, Debug)]
pub enum Call<'a> {
    /// An HTTP method, with the route if there is one.
    Http(&'a Method, Option<&'a str>),
    /// A gRPC method, as `package.Service/Method`.
    Grpc(&'a str),
}

/// The trace of a request, if there is one.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Has the span of the request, when it is to be sent.
    context: Option<Context>,
    id: Option<TraceId>,
}

impl Trace {
    /// Continues the caller's trace, or begins one.
    pub fn begin(headers: &HeaderMap, call: Call<'_>, request_id: &str) -> Self {
        let parent = match headers.contains_key(TRACEPARENT) {
            true => TraceContextPropagator::new()
                .extract_with_context(&Context::new(), &HeaderExtractor(headers)),
            false => Context::new(),
        };
        let id_of = |context: &Context| {
            let id = context.span().span_context().trace_id();
            (id != TraceId::INVALID).then_some(id)
        };
        let Some(tracer) = TRACER.get() else {
            return Self { context: None, id: id_of(&parent) };
        };
        // The name is set once the span is known to be sampled.
        let span = tracer.span_builder("").with_kind(SpanKind::Server);
        let context = parent.with_span(span.start_with_context(tracer, &parent));
        let span = context.span();
        if !span.is_recording() {
            return Self { context: None, id: id_of(&parent) };
        }
        span.set_attribute(KeyValue::new("session_manager.request_id", request_id.to_owned()));
        match call {
            Call::Http(method, route) => {
                // A method made up by the caller must not become a name.
                let known = STANDARD_METHODS.contains(method);
                let name = if known { method.as_str() } else { "HTTP" };
                span.update_name(match route {
                    Some(route) => format!("{name} {route}"),
                    None => name.to_owned(),
                });
                let method = if known { method.as_str() } else { "_OTHER" };
                span.set_attribute(KeyValue::new("http.request.method", method.to_owned()));
                if let Some(route) = route {
                    span.set_attribute(KeyValue::new("http.route", route.to_owned()));
                }
            }
            Call::Grpc(name) => {
                let (service, method) = name.split_once('/').unwrap_or(("", name));
                span.update_name(name.to_owned());
                span.set_attribute(KeyValue::new("rpc.system", "grpc"));
                span.set_attribute(KeyValue::new("rpc.service", service.to_owned()));
                span.set_attribute(KeyValue::new("rpc.method", method.to_owned()));
            }
        }
        let id = id_of(&context);
        Self { context: Some(context), id }
    }

    /// The id of the trace.
    pub fn id(&self) -> Option<impl Display> {
        self.id
    }

    /// Runs the work of the request within the trace.
    pub fn follow<F>(&self, work: F) -> Within<F> {
        Within { context: self.context.clone(), ends: false, work }
    }

    /// Records that the request was answered with an HTTP status.
    pub fn answered_http(&self, status: u16) {
        self.answered("http.response.status_code", status.into(), status >= 500);
    }

    /// Records that the request was answered with a gRPC code; `failed` says that the service is
    /// at fault.
    pub fn answered_grpc(&self, code: i32, failed: bool) {
        self.answered("rpc.grpc.status_code", code.into(), failed);
    }

    fn answered(&self, name: &'static str, code: i64, failed: bool) {
        let Some(context) = &self.context else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new(name, code));
        if failed {
            span.set_attribute(KeyValue::new("error.type", code.to_string()));
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// A step of a request that has its own span.
pub struct Step {
    name: String,
    kind: SpanKind,
    attributes: Vec<KeyValue>,
}

impl Step {
    /// A call of the component.
    pub fn component(interface: &str, function: &str, generation: u64) -> Self {
        let interface = interface.trim_start_matches("session_manager_");
        let function = function.trim_start_matches("call_");
        let generation = i64::try_from(generation).unwrap_or(i64::MAX);
        Self {
            name: format!("component {interface}.{function}"),
            kind: SpanKind::Internal,
            attributes: vec![KeyValue::new("session_manager.generation", generation)],
        }
    }

    /// An exchange with the named store.
    pub fn store(store: &'static str, operation: &'static str) -> Self {
        Self {
            name: format!("{store} {operation}"),
            kind: if store == "redis" { SpanKind::Client } else { SpanKind::Internal },
            attributes: vec![
                KeyValue::new("db.system.name", store),
                KeyValue::new("db.operation.name", operation),
            ],
        }
    }
}

/// Runs a step of a request, within its own span if the request is traced.
pub fn step<F>(describe: impl FnOnce() -> Step, work: F) -> Within<F> {
    let traced = |context: &Context| context.has_active_span() && context.span().is_recording();
    let begun = match TRACER.get() {
        Some(tracer) if Context::map_current(traced) => {
            let Step { name, kind, attributes } = describe();
            let span = tracer.span_builder(name).with_kind(kind).with_attributes(attributes);
            let parent = Context::current();
            Some(parent.with_span(span.start_with_context(tracer, &parent)))
        }
        _ => None,
    };
    Within { context: begun, ends: true, work }
}

/// Records that the current step has failed.
pub fn step_failed(how: &'static str) {
    Context::map_current(|context| {
        if context.has_active_span() {
            context.span().set_attribute(KeyValue::new("error.type", how));
            context.span().set_status(Status::error(how));
        }
    });
}

pin_project! {
    /// Work within a trace, if there is one.
    pub struct Within<F> {
        context: Option<Context>,
        // Whether the span ends with the work.
        ends: bool,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        let Some(context) = this.context else { return this.work.poll(task) };
        let _present = context.clone().attach();
        let polled = this.work.poll(task);
        if *this.ends && polled.is_ready() {
            context.span().end();
        }
        polled
    }
}
