//! The client crate against real servers: typed calls, refusals, deadlines, and what it
//! does when a store or a server is gone for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use session_client::proto::{connections, events, sessionmanager, sm, smdevice, users};
use session_client::{Client, Error, Reason};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::{RedisServer, free_port};
use session_tests::wait;

fn client(host: &Host) -> Client {
    builder(host).build().unwrap()
}

fn builder(host: &Host) -> session_client::Builder {
    let (name, port) = host.address("grpc").rsplit_once(':').unwrap();
    Client::builder().host(name).port(port.parse().unwrap())
}

/// What `docs/client.md` prints, with the host and port of a server of the test.
async fn example(host: &str, port: u16) -> Result<sessionmanager::SessionData, Error> {
    // The example begins.
    use session_client::Client;
    use session_client::proto::sessionmanager::{GetSessionRequest, SessionData};

    let client = Client::builder().host(host).port(port).build()?;

    client
        .set_session(SessionData {
            session_key: "unique-session-key".into(),
            fleet_list_request: Some(r#"{"area": "Jakarta"}"#.into()),
            fleet_list_response: Some(r#"[{"fleet": "MPV"}]"#.into()),
            ..SessionData::default()
        })
        .await?;

    let session =
        client.get_session(GetSessionRequest { session_key: "unique-session-key".into() }).await?;
    // The example ends.
    Ok(session)
}

#[tokio::test]
async fn the_example_of_the_page_for_clients_runs() {
    let host = Launch::in_memory().start();
    let (name, port) = host.address("grpc").rsplit_once(':').unwrap();
    let session = example(name, port.parse().unwrap()).await.unwrap();
    assert_eq!(session.fleet_list_request.unwrap(), r#"{"area": "Jakarta"}"#);
    assert_eq!(session.version, Some(1));
    // It is the same text, but for the indentation and for where the server is.
    let code = |text: &str| text.split_whitespace().collect::<String>();
    let (_, ours) = include_str!("client.rs").split_once("// The example begins.\n").unwrap();
    let (ours, _) = ours.split_once("// The example ends.").unwrap();
    let ours = code(ours).replace(".host(host).port(port)", ".host(\"localhost\").port(6027)");
    let page = code(include_str!("../../docs/client.md"));
    assert!(page.contains(&ours), "docs/client.md has another example");
}

#[tokio::test]
async fn each_kind_of_session_has_typed_calls() {
    let host = Launch::in_memory().start();
    let client = client(&host);
    assert_eq!(client.health_check(sessionmanager::EmptyRequest {}).await.unwrap().message, "OK");

    let mut events = client.events().subscribe(events::SubscribeRequest::default()).await.unwrap();
    let attributes = users::Attributes { user_id: Some("alice".into()), ..Default::default() };
    let request = users::CreateRequest { session_attributes: Some(attributes) };
    let session_id = client.users().create(request).await.unwrap().session_id;
    // Events of one millisecond are told in an order of their own.
    wait::next_millisecond().await;
    let session = client.users().get(users::GetRequest { session_id }).await.unwrap();
    assert_eq!(session.user_id, "alice");

    let request = smdevice::CreateDeviceParam { device_id: "tv".into(), account_id: "home".into() };
    client.devices().create_device(request).await.unwrap();
    let request = smdevice::SessionSetupWithDevice { device_id: "tv".into(), replace: vec![] };
    let slot = client.devices().create_session_with_device(request).await.unwrap();
    let home = client.viewing().get_home(sm::GetHomeInfo { account_id: slot.account_id }).await;
    assert_eq!(home.unwrap().sessions[0].session_id, slot.session_id);

    wait::next_millisecond().await;
    let request = connections::ConnectRequest { user_id: "alice".into(), ..Default::default() };
    let mut held = client.connections().connect(request).await.unwrap();
    let first = held.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(first, connections::connect_reply::Event::Connected(_)));
    let request = connections::GetPresenceRequest { user_id: "alice".into() };
    assert!(client.connections().get_presence(request).await.unwrap().online);

    let mut types = Vec::new();
    while types.len() < 3 {
        let item = events.message().await.unwrap().unwrap().item.unwrap();
        if let events::subscribe_reply::Item::Event(event) = item {
            types.push(event.r#type);
        }
    }
    assert_eq!(types, ["user.created", "viewing.created", "connection.created"]);
    let contexts = client.booking().list_contexts(Default::default()).await.unwrap();
    assert_eq!(contexts.contexts.len(), 5);
}

#[tokio::test]
async fn a_refusal_says_what_is_the_matter() {
    let host = Launch::in_memory().start();
    let client = client(&host);
    let key = || sessionmanager::GetSessionRequest { session_key: "k".into() };
    let error = client.get_session(key()).await.unwrap_err();
    assert_eq!((error.reason(), error.violations().len()), (Reason::SessionNotFound, 0));
    let write = |if_version| sessionmanager::SessionData {
        session_key: "k".into(),
        fleet_list_request: Some("1".into()),
        if_version,
        ..Default::default()
    };
    client.set_session(write(Some(0))).await.unwrap();
    let error = client.set_session(write(Some(7))).await.unwrap_err();
    assert_eq!(error.reason(), Reason::VersionMismatch);
    assert_eq!(error.fact("currentVersion"), Some("1"));
    let request = connections::RegisterRequest { session_id: "a b".into(), ..Default::default() };
    let error = client.connections().register(request).await.unwrap_err();
    let fields: Vec<_> = error.violations().iter().map(|v| v.field.as_str()).collect();
    assert_eq!(fields, ["user_id", "pod_id", "session_id"]);
    assert!(Client::builder().host("no host").build().is_err());
}

#[tokio::test]
async fn calls_are_tried_again_where_that_is_safe() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).set("REDIS_TIMEOUT", "200ms").start();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let client = builder(&host)
        .timeout(Duration::from_secs(10))
        .attempts(20)
        .propagate(move |metadata| {
            counted.fetch_add(1, Ordering::SeqCst);
            metadata.insert("x-request-id", "a-request-of-ours".parse().unwrap());
        })
        .build()
        .unwrap();
    let key = || sessionmanager::GetSessionRequest { session_key: "k".into() };
    let write = || sessionmanager::SessionData {
        session_key: "k".into(),
        fleet_list_request: Some("1".into()),
        ..Default::default()
    };
    // So little patience may be too little at first.
    wait::until("it is written", async || client.set_session(write()).await.ok()).await;
    redis.signal("STOP");
    // Nobody knows whether a write has happened, so it is not made again.
    tries.store(0, Ordering::SeqCst);
    let error = client.set_session(write()).await.unwrap_err();
    assert_eq!((error.reason(), tries.load(Ordering::SeqCst)), (Reason::StoreUnavailable, 1));
    // A read is, until the store is back.
    let reading = client.get_session(key());
    let (read, ()) = tokio::join!(reading, async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        redis.signal("CONT");
    });
    assert_eq!(read.unwrap().fleet_list_request.unwrap(), "1");
    assert!(tries.load(Ordering::SeqCst) >= 3);
    assert!(host.log().contains("a-request-of-ours"), "{}", host.log());
}

#[tokio::test]
async fn a_call_ends_within_its_deadline() {
    let redis = RedisServer::start().await;
    let host = Launch::redis(&redis).set("REDIS_TIMEOUT", "20s").start();
    let client = client(&host);
    let key = || sessionmanager::GetSessionRequest { session_key: "k".into() };
    assert_eq!(client.get_session(key()).await.unwrap_err().reason(), Reason::SessionNotFound);
    redis.signal("STOP");
    let started = Instant::now();
    let hurried = client.with_timeout(Duration::from_millis(300));
    hurried.get_session(key()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    redis.signal("CONT");
}

#[tokio::test]
async fn a_client_finds_its_server_again() {
    let directory = tempfile::tempdir().unwrap();
    let port = free_port().to_string();
    let launch = || Launch::embedded(directory.path()).set("GRPC_PORT", &port);
    let mut host = launch().start();
    let client = builder(&host).timeout(Duration::from_secs(15)).attempts(50).build().unwrap();
    let key = || sessionmanager::GetSessionRequest { session_key: "k".into() };
    let write = sessionmanager::SessionData {
        session_key: "k".into(),
        fleet_list_request: Some("1".into()),
        ..Default::default()
    };
    client.set_session(write).await.unwrap();
    host.signal("TERM");
    host.ended().await;
    let again = launch();
    let (read, _host) = tokio::join!(client.get_session(key()), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        again.start()
    });
    assert_eq!(read.unwrap().fleet_list_request.unwrap(), "1");
    // Without anybody there, it says so.
    let nobody = Client::builder().port(1).attempts(2).build().unwrap();
    let error = wait::until("refused", async || nobody.get_session(key()).await.err()).await;
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
}
