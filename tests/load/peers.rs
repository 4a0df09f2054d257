//! The peers that the service is compared with: webdis, and an empty tonic service.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use session_manager::proto::session::booking::v1::booking_server::{Booking, BookingServer};
use session_manager::proto::session::booking::v1::{
    DeleteRequest, GetRequest, ListContextsReply, ListContextsRequest, LockReply, LockRequest,
    Session, SetRequest, UnlockRequest,
};
use session_manager::proto::sessionmanager::DefaultResponse;
use session_tests::process::Process;
use session_tests::redis_server::RedisServer;
use session_tests::wait;
use tonic::{Request, Response, Status};

/// A peer. Dropping it ends it.
pub struct Peer {
    pub process: Process,
    pub port: u16,
    _configuration: Option<tempfile::NamedTempFile>,
}

/// webdis on a Redis server, with as many threads as its package gives it.
pub async fn webdis(redis: &RedisServer) -> Peer {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let configuration = tempfile::NamedTempFile::new().unwrap();
    let text = serde_json::json!({
        "redis_host": "127.0.0.1", "redis_port": redis.port, "database": 5,
        "http_host": "127.0.0.1", "http_port": port,
        "threads": 2, "daemonize": false, "websockets": false,
        "acl": [{ "disabled": [] }], "verbosity": 0, "logfile": "/dev/null",
    });
    std::fs::write(configuration.path(), text.to_string()).unwrap();
    let process = Process::start(
        Command::new("webdis")
            .arg(configuration.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    wait::until("webdis answers", async || {
        let answer =
            session_tests::http().get(format!("http://127.0.0.1:{port}/PING")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    Peer { process, port, _configuration: Some(configuration) }
}

/// Starts this program as an empty tonic service.
pub fn tonic_echo() -> Peer {
    let mut process = Process::start(
        Command::new(std::env::current_exe().unwrap()).arg("echo").stdout(Stdio::piped()),
    );
    let mut line = String::new();
    let stdout = process.child().stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    Peer { process, port: line.trim().parse().unwrap(), _configuration: None }
}

/// Serves the empty service until it is killed.
pub async fn echo() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap().port());
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder().add_service(BookingServer::new(Empty));
    server.serve_with_incoming(incoming).await.unwrap();
}

struct Empty;

fn empty<T: Default>() -> Response<T> {
    Response::new(T::default())
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Booking for Empty {
    async fn set(&self, _: Request<SetRequest>) -> Answer<DefaultResponse> {
        Ok(empty())
    }

    async fn get(&self, _: Request<GetRequest>) -> Answer<Session> {
        Ok(empty())
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Answer<DefaultResponse> {
        Ok(empty())
    }

    async fn lock(&self, _: Request<LockRequest>) -> Answer<LockReply> {
        Ok(empty())
    }

    async fn unlock(&self, _: Request<UnlockRequest>) -> Answer<DefaultResponse> {
        Ok(empty())
    }

    async fn list_contexts(&self, _: Request<ListContextsRequest>) -> Answer<ListContextsReply> {
        Ok(empty())
    }
}
