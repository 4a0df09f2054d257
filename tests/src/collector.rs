//! A collector of traces: accepts OTLP over HTTP, decoded with the official definitions of its
//! messages.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::wait;

/// A span, as it was received.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace that it is part of, in hexadecimal digits.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// The span that it is part of; empty for none.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// `SPAN_KIND_SERVER` and the like.
    pub kind: String,
    /// Whether it has failed.
    pub failed: bool,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The attributes of its resource, as text.
    pub resource: BTreeMap<String, String>,
}

/// What a collector does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// It accepts the spans.
    Takes,
    /// It answers 503.
    Refuses,
    /// It never answers.
    Hangs,
}

/// A running collector. Dropping it closes its port.
pub struct Collector {
    /// Where it listens.
    pub address: SocketAddr,
    received: Arc<Mutex<Received>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Received {
    spans: Vec<Span>,
    /// The value of `authorization`, the path and the body of each request.
    requests: Vec<(String, String, Bytes)>,
}

impl Collector {
    /// Starts a collector on a free port.
    pub async fn start(manner: Manner) -> Self {
        Self::on("127.0.0.1:0", manner, None).await
    }

    /// Starts a collector that uses TLS.
    pub async fn with_tls(acceptor: TlsAcceptor) -> Self {
        Self::on("127.0.0.1:0", Manner::Takes, Some(acceptor)).await
    }

    /// Starts a collector at an address.
    ///
    /// # Panics
    /// When another process uses the address.
    pub async fn on(address: &str, manner: Manner, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let received: Arc<Mutex<Received>> = Arc::default();
        let serving = tokio::spawn(serve(listener, manner, tls, Arc::clone(&received)));
        Self { address, received, serving }
    }

    /// The spans received so far.
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.received).spans.clone()
    }

    /// The value of `authorization`, the path and the body of each request received so far.
    pub fn requests(&self) -> Vec<(String, String, Bytes)> {
        lock(&self.received).requests.clone()
    }

    /// Waits until a trace has this many spans.
    pub async fn trace(&self, trace: &str, spans: usize) -> Vec<Span> {
        wait::until("the spans are received", async || {
            let mut found = self.spans();
            found.retain(|span| span.trace == trace);
            (found.len() >= spans).then_some(found)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    manner: Manner,
    tls: Option<TlsAcceptor>,
    received: Arc<Mutex<Received>>,
) {
    // Dropping the set ends the connections with this task.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (received, tls) = (Arc::clone(&received), tls.clone());
        connections.spawn(async move {
            match tls {
                None => answer(stream, manner, received).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, manner, received).await;
                    }
                }
            }
        });
    }
}

async fn answer<S>(stream: S, manner: Manner, received: Arc<Mutex<Received>>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| take(request, manner, Arc::clone(&received)));
    let serving = hyper::server::conn::http1::Builder::new();
    // A client may disconnect at any time.
    drop(serving.serve_connection(TokioIo::new(stream), service).await);
}

async fn take(
    request: Request<Incoming>,
    manner: Manner,
    received: Arc<Mutex<Received>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let authorization = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    let authorization = authorization.unwrap_or_default().to_owned();
    lock(&received).requests.push((authorization, head.uri.path().to_owned(), body.clone()));
    match manner {
        Manner::Takes => {}
        Manner::Hangs => std::future::pending().await,
        Manner::Refuses => {
            let mut answer = Response::new(Full::default());
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return Ok(answer);
        }
    }
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        let mut answer = Response::new(Full::default());
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(answer);
    };
    lock(&received).spans.extend(spans(request));
    let reply = ExportTraceServiceResponse::default().encode_to_vec();
    Ok(Response::new(Full::new(reply.into())))
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.unwrap_or_default().attributes;
        for span in of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                kind: span.kind().as_str_name().to_owned(),
                failed: span.status.as_ref().is_some_and(|status| status.code == 2),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                attributes: texts(&span.attributes),
                resource: texts(&resource),
            });
        }
    }
    spans
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => Some(format!("{other:?}")),
    };
    let texts = attributes.iter().filter_map(|one| Some((one.key.clone(), text(one)?)));
    texts.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(received: &Mutex<Received>) -> std::sync::MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}
