//! Requests of web pages are refused, unless the page is our own or CORS_ORIGINS names its
//! origin. tests/ecosystem tries the same in a real browser.

use session_tests::host::{Host, Launch};

async fn status(host: &Host, port: &str, line: &str, headers: &[(&str, &str)]) -> u16 {
    send(host, port, line, headers).await.status().as_u16()
}

async fn send(host: &Host, port: &str, line: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = session_tests::http().request(method.parse().unwrap(), host.url(port, path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn no_page_of_another_origin_reaches_any_route() {
    let host = Launch::in_memory().start();
    let from = |value| [("origin", value)];
    for (port, line) in [
        ("rest", "POST /home/h/sessions/setMaxSession?max_nb_of_session=0"),
        ("rest", "POST /device/d/create?account_id=a"),
        ("rest", "POST /v1/pre-order/sessions/k/lock"),
        ("rest", "POST /session"),
        ("rest", "GET /v1/connect?user_id=u&pod_id=p"),
        ("rest", "GET /api/sse/connect?userId=u"),
        ("rest", "DELETE /session?user_id=u"),
        ("rest", "GET /v1/contexts"),
        ("rest", "OPTIONS /session"),
        ("rest", "GET /openapi.json"),
        ("rest", "GET /nowhere"),
        ("admin", "GET /component"),
        ("admin", "PUT /component"),
        ("admin", "POST /component/rollback"),
        ("admin", "PUT /log-level"),
        ("admin", "GET /metrics"),
    ] {
        for origin in ["http://evil.test", "null", "http://127.0.0.1:1", "https://localhost"] {
            let answer = send(&host, port, line, &from(origin)).await;
            assert_eq!(answer.status(), 403, "{line} {origin}");
            assert!(answer.headers().get("access-control-allow-origin").is_none());
            let text = answer.text().await.unwrap();
            assert!(text.contains("FOREIGN_ORIGIN"), "{text}");
        }
        let image = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors")];
        assert_eq!(status(&host, port, line, &image).await, 403, "{line}");
        let rebound = [("host", "rebound.test")];
        assert_eq!(status(&host, port, line, &rebound).await, 421, "{line}");
    }
    let home = send(&host, "rest", "GET /homes/h", &[]).await.text().await.unwrap();
    assert!(home.contains("\"nbActiveSessions\":2"), "nothing has changed: {home}");
    // Programs, our own page, and probes under any host name are served.
    let own = format!("http://{}", host.address("rest"));
    assert_eq!(status(&host, "rest", "GET /v1/contexts", &[("origin", &own)]).await, 200);
    assert_eq!(status(&host, "rest", "GET /v1/contexts", &[("host", "localhost:1")]).await, 200);
    assert_eq!(status(&host, "rest", "GET /health", &[("host", "pod.test")]).await, 200);
    assert_eq!(status(&host, "admin", "GET /livez", &[("host", "pod.test")]).await, 200);
    let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
    assert_eq!(status(&host, "rest", "GET /docs", &link).await, 200);
}

#[tokio::test]
async fn pages_of_configured_origins_may_send_requests_and_read_replies() {
    let launch = Launch::in_memory().set("CORS_ORIGINS", "https://app.example");
    let host = launch.set("ALLOWED_HOSTS", "sessions.example").start();
    let page = ("origin", "https://app.example");
    let preflight = [page, ("access-control-request-method", "PUT")];
    let answer = send(&host, "rest", "OPTIONS /v1/pre-order/sessions/k", &preflight).await;
    assert_eq!(answer.status(), 204);
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("access-control-allow-origin"), "https://app.example");
    assert!(header("access-control-allow-methods").contains("PUT"));
    for name in [
        "authorization",
        "content-type",
        "idempotency-key",
        "if-match",
        "if-none-match",
        "last-event-id",
        "x-session-id",
        "traceparent",
    ] {
        assert!(header("access-control-allow-headers").contains(name), "{name}");
    }
    let answer = send(&host, "rest", "GET /v1/contexts", &[page]).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["access-control-allow-origin"], "https://app.example");
    assert_eq!(
        answer.headers()["access-control-expose-headers"],
        "etag, retry-after, x-request-id"
    );
    assert!(answer.headers().get_all("vary").iter().any(|value| value == "origin"));
    // A request of a page needs a content type, even without a body.
    let lock = "POST /v1/pre-order/sessions/k/lock";
    assert_eq!(send(&host, "rest", lock, &[page]).await.status(), 415);
    let typed = [page, ("content-type", "application/json")];
    assert_eq!(send(&host, "rest", lock, &typed).await.status(), 200);
    assert_eq!(send(&host, "admin", "PUT /component", &[page]).await.status(), 415);
    // The service accepts only the host names that were configured.
    let named = |name| [("host", name)];
    assert_eq!(status(&host, "rest", "GET /v1/contexts", &named("sessions.example")).await, 200);
    assert_eq!(status(&host, "rest", "GET /v1/contexts", &named("other.example")).await, 421);
}

#[tokio::test]
async fn the_grpc_port_refuses_every_page_and_accepts_any_host_name() {
    let host = Launch::in_memory().set("CORS_ORIGINS", "https://app.example").start();
    let call = async |authority: &str, origin: Option<&str>| {
        let stream = tokio::net::TcpStream::connect(host.address("grpc")).await.unwrap();
        let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
        let connection = tokio::spawn(connection);
        let path = "/sessionmanager.SessionManager/HealthCheck";
        let mut request = http::Request::post(format!("http://{authority}{path}"))
            .header("content-type", "application/grpc");
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let (answer, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(vec![0; 5].into(), true).unwrap();
        let answer = answer.await.unwrap();
        connection.abort();
        answer.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    assert_eq!(call("anything.test", None).await, None, "the call is answered");
    for origin in ["https://app.example", "null", "http://evil.test"] {
        assert_eq!(call("localhost", Some(origin)).await.as_deref(), Some("7"), "{origin}");
    }
}
