//! Traces as a collector receives them: what they contain, which ones are sent, and that no
//! request waits for a collector.

use std::time::{Duration, Instant};

use serde_json::json;
use session_tests::admin::Admin;
use session_tests::certificate::Certificate;
use session_tests::client::Wire;
use session_tests::collector::{Collector, Manner, Span};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::{RedisServer, free_port};
use session_tests::wait;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const KEY: &str = "a-session-key-nobody-should-see";

/// A launch that sends traces without delay.
fn traced(launch: Launch, collector: &Collector) -> Launch {
    launch
        .set("ELASTIC_APM_SERVER_URL", &format!("http://{}", collector.address))
        .set("OTEL_BSP_SCHEDULE_DELAY", "100")
}

fn traceparent(sampled: bool) -> String {
    format!("00-{TRACE}-{CALLER}-0{}", u8::from(sampled))
}

/// Reads a missing session, as a part of the trace.
async fn ask(host: &Host, wire: Wire, sampled: bool) {
    let parent = traceparent(sampled);
    match wire {
        Wire::Rest => {
            let http = session_tests::http();
            let url = host.url("rest", &format!("/v1/ez-pay/sessions/{KEY}"));
            http.get(url).header("traceparent", parent).send().await.unwrap();
        }
        Wire::Grpc => {
            let (name, port) = host.address("grpc").rsplit_once(':').unwrap();
            let client = session_client::Client::builder().host(name).port(port.parse().unwrap());
            let client = client
                .propagate(move |metadata| {
                    metadata.insert("traceparent", parent.parse().unwrap());
                })
                .build()
                .unwrap();
            let key = session_client::proto::sessionmanager::GetSessionRequest {
                session_key: KEY.into(),
            };
            client.get_session_ez_pay(key).await.unwrap_err();
        }
    }
}

/// The spans of the request, of its call of the component, and of the exchange with the store.
fn steps(spans: &[Span]) -> [&Span; 3] {
    let below = |parent: &str| {
        let mut below = spans.iter().filter(|span| span.parent == parent);
        let only = below.next().unwrap_or_else(|| panic!("nothing is below {parent}: {spans:?}"));
        assert!(below.next().is_none(), "{spans:?}");
        only
    };
    let request = below(CALLER);
    let call = below(&request.id);
    [request, call, below(&call.id)]
}

#[tokio::test]
async fn a_request_and_its_steps_are_spans_of_the_callers_trace() {
    let redis = RedisServer::start().await;
    for (launch, store) in [(Launch::in_memory(), "memory"), (Launch::redis(&redis), "redis")] {
        for wire in [Wire::Rest, Wire::Grpc] {
            let collector = Collector::start(Manner::Takes).await;
            let host = traced(launch.clone(), &collector)
                .set("ELASTIC_APM_SECRET_TOKEN", "the-token")
                .set("ELASTIC_APM_SERVICE_NAME", "sessions-of-ours")
                .set("ELASTIC_APM_ENVIRONMENT", "staging")
                .set("POD_ID", "pod-7")
                .set("LOG_LEVEL", "debug")
                .set("LOG_FORMAT", "json")
                .start();
            ask(&host, wire, true).await;
            let spans = collector.trace(TRACE, 3).await;
            let [request, call, exchange] = steps(&spans);
            let (name, attributes) = match wire {
                Wire::Rest => (
                    "GET /v1/{context}/sessions/{session_key}",
                    vec![
                        ("http.request.method", "GET"),
                        ("http.route", "/v1/{context}/sessions/{session_key}"),
                        ("http.response.status_code", "404"),
                    ],
                ),
                Wire::Grpc => (
                    "sessionmanager.SessionManager/GetSessionEZPay",
                    vec![
                        ("rpc.system", "grpc"),
                        ("rpc.service", "sessionmanager.SessionManager"),
                        ("rpc.method", "GetSessionEZPay"),
                        ("rpc.grpc.status_code", "5"),
                    ],
                ),
            };
            assert_eq!((&*request.name, &*request.kind), (name, "SPAN_KIND_SERVER"));
            for (name, value) in attributes {
                assert_eq!(request.attributes[name], value, "{name}");
            }
            assert_eq!(call.name, "component booking.get");
            assert_eq!(call.attributes["session_manager.generation"], "1");
            let kind = if store == "redis" { "SPAN_KIND_CLIENT" } else { "SPAN_KIND_INTERNAL" };
            assert_eq!((exchange.name.clone(), &*exchange.kind), (format!("{store} read"), kind));
            assert_eq!(exchange.attributes["db.system.name"], store);
            assert!(!spans.iter().any(|span| span.failed), "a refusal is no failure: {spans:?}");
            for (name, value) in [
                ("service.name", "sessions-of-ours"),
                ("service.instance.id", "pod-7"),
                ("deployment.environment.name", "staging"),
            ] {
                assert_eq!(request.resource[name], value, "{name}");
            }
            let requests = collector.requests();
            let (authorization, path, _) = &requests[0];
            assert_eq!((&**authorization, &**path), ("Bearer the-token", "/v1/traces"));
            for (_, _, body) in requests {
                assert!(!body.windows(KEY.len()).any(|some| some == KEY.as_bytes()));
            }
            let log = host.log();
            let line = log.lines().find(|line| line.contains("request answered"));
            let line: serde_json::Value = serde_json::from_str(line.expect(&log)).unwrap();
            assert_eq!(line["span"]["trace_id"], TRACE);
            assert_eq!(
                line["span"]["request_id"],
                request.attributes["session_manager.request_id"]
            );
            assert!(!log.contains("the-token"));
        }
    }
}

#[tokio::test]
async fn the_log_has_trace_ids_without_a_collector() {
    let host = Launch::in_memory().set("LOG_LEVEL", "debug").start();
    for wire in [Wire::Rest, Wire::Grpc] {
        let before = host.log().len();
        ask(&host, wire, true).await;
        let log = host.log();
        assert!(log[before..].contains(&format!("trace_id={TRACE}")), "{log}");
    }
    // An invalid `traceparent` is ignored.
    let http = session_tests::http();
    let before = host.log().len();
    for wrong in ["", "00", "00-xyz-1-01", &format!("00-{}-{CALLER}-01", "0".repeat(32))] {
        let request = http.get(host.url("rest", "/health")).header("traceparent", wrong);
        assert_eq!(request.send().await.unwrap().status(), 200);
    }
    assert!(!host.log()[before..].contains("trace_id"), "{}", host.log());
}

#[tokio::test]
async fn traces_are_sampled_as_the_caller_or_the_setting_requires() {
    const LATE: &str = "60000";
    for (settings, sampled, expected) in [
        (&[][..], true, true),
        (&[("OTEL_BSP_SCHEDULE_DELAY", LATE)], true, true),
        (&[], false, false),
        (&[("OTEL_TRACES_SAMPLER", "always_on")], false, true),
        (&[("OTEL_TRACES_SAMPLER", "always_off")], true, false),
        (&[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0")], true, false),
        (
            &[
                ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
                ("OTEL_TRACES_SAMPLER_ARG", "0"),
            ],
            true,
            true,
        ),
    ] {
        let collector = Collector::start(Manner::Takes).await;
        let launch = traced(Launch::in_memory(), &collector);
        let set = |launch: Launch, (name, value): &(&str, &str)| launch.set(name, value);
        let mut host = settings.iter().fold(launch, set).start();
        ask(&host, Wire::Rest, sampled).await;
        if expected && !settings.iter().any(|(_, value)| *value == LATE) {
            collector.trace(TRACE, 1).await;
        }
        // The server sends all remaining spans before it ends.
        host.signal("TERM");
        assert!(host.ended().await.success());
        let sent = collector.spans().iter().any(|span| span.trace == TRACE);
        assert_eq!(sent, expected, "{settings:?} {sampled}");
    }
}

#[tokio::test]
async fn the_configured_share_of_requests_is_traced() {
    let collector = Collector::start(Manner::Takes).await;
    let mut host = traced(Launch::in_memory(), &collector)
        .set("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        .set("OTEL_TRACES_SAMPLER_ARG", "0.25")
        .start();
    let client = host.client(Wire::Rest).await;
    for _ in 0..800 {
        client.get("ez-pay", KEY).await.unwrap_err();
    }
    host.signal("TERM");
    host.ended().await;
    let traced = collector.spans().iter().filter(|span| span.parent.is_empty()).count();
    assert!((100..300).contains(&traced), "{traced} of 800");
}

#[tokio::test]
async fn a_failure_of_the_store_is_recorded_in_the_trace() {
    let mut redis = RedisServer::start().await;
    let collector = Collector::start(Manner::Takes).await;
    let host = traced(Launch::redis(&redis), &collector).start();
    redis.kill().await;
    ask(&host, Wire::Rest, true).await;
    let spans = collector.trace(TRACE, 3).await;
    let [request, _, exchange] = steps(&spans);
    assert!(request.failed && exchange.failed, "{spans:?}");
    assert_eq!(request.attributes["http.response.status_code"], "503");
    assert_eq!(exchange.attributes["error.type"], "unavailable");
}

#[tokio::test]
async fn no_request_waits_for_a_collector() {
    let (refuses, hangs) =
        tokio::join!(Collector::start(Manner::Refuses), Collector::start(Manner::Hangs));
    let address = format!("127.0.0.1:{}", free_port());
    for (what, url) in [
        ("refuses", refuses.address.to_string()),
        ("hangs", hangs.address.to_string()),
        ("is not there", address.clone()),
    ] {
        let mut host = Launch::in_memory()
            .set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{url}"))
            .set("OTEL_EXPORTER_OTLP_TIMEOUT", "500")
            .set("OTEL_BSP_SCHEDULE_DELAY", "100")
            .start();
        let client = host.client(Wire::Rest).await;
        client.set("ez-pay", KEY, json!({ "request": 1 })).await.unwrap();
        let before = host.resident_bytes();
        // Many times as many spans as the queue holds.
        for _ in 0..6000 {
            client.get("ez-pay", KEY).await.unwrap();
        }
        let grown = host.resident_bytes().saturating_sub(before);
        assert!(grown < 24 << 20, "{what}: {} MiB", grown >> 20);
        wait::until("the failure is counted and logged", async || {
            let metrics = Admin::of(&host).metrics().await;
            let failed = "session_manager_trace_spans_total{outcome=\"failed\"} 0";
            let logged = host.log().contains("traces are not taken");
            (logged && !metrics.contains(failed)).then_some(())
        })
        .await;
        assert_eq!(host.log().matches("traces are not taken").count(), 1, "{}", host.log());
        let asked = Instant::now();
        host.signal("TERM");
        assert!(host.ended().await.success(), "{what}");
        assert!(asked.elapsed() < Duration::from_secs(8), "{what}: {:?}", asked.elapsed());
    }
    // A collector that starts later receives later spans.
    let host = Launch::in_memory()
        .set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &format!("http://{address}/only"))
        .set("OTEL_BSP_SCHEDULE_DELAY", "100")
        .start();
    ask(&host, Wire::Rest, false).await;
    host.client(Wire::Rest).await.health().await.unwrap();
    wait::until("the missing collector is logged", async || {
        host.log().contains("traces are not taken").then_some(())
    })
    .await;
    let collector = Collector::on(&address, Manner::Takes, None).await;
    ask(&host, Wire::Rest, true).await;
    collector.trace(TRACE, 3).await;
    wait::until("the recovery is logged", async || {
        host.log().contains("traces are taken again").then_some(())
    })
    .await;
    assert_eq!(collector.requests()[0].1, "/only");
}

#[tokio::test]
async fn traces_are_sent_over_tls() {
    let certificate = Certificate::new();
    let collector = Collector::with_tls(certificate.acceptor()).await;
    let port = collector.address.port();
    let launch = Launch::in_memory()
        .set("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("https://localhost:{port}"))
        .set("OTEL_BSP_SCHEDULE_DELAY", "100");
    let host = launch
        .clone()
        .set("SSL_CERT_FILE", certificate.file("authority.pem").to_str().unwrap())
        .start();
    ask(&host, Wire::Rest, true).await;
    collector.trace(TRACE, 3).await;
    // No span is sent to a server with an untrusted certificate.
    let untrusting = launch.start();
    ask(&untrusting, Wire::Rest, true).await;
    wait::until("the certificate is refused", async || {
        untrusting.log().contains("traces are not taken").then_some(())
    })
    .await;
    assert_eq!(collector.spans().len(), 3);
}
