//! The gRPC wire: the services of `proto/`, health and reflection, over HTTP/2.

mod booking;
pub mod codec;
mod connections;
mod events;
mod observe;
mod session_manager;
pub mod status;
mod users;
mod viewing;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;
use tonic::{Response, Status};
use tonic_health::server::HealthReporter;

use crate::api::Api;
use crate::api::streams;
use crate::error::Error;
use crate::listener::{Connection, Connections};
use crate::proto::com::example::sm::sm_server::{self, SmServer};
use crate::proto::com::example::smdevice::device_server::{self, DeviceServer};
use crate::proto::session::booking::v1::booking_server::BookingServer;
use crate::proto::session::connections::v1::connections_server::ConnectionsServer;
use crate::proto::session::events::v1::events_server::EventsServer;
use crate::proto::session::users::v1::user_sessions_server::UserSessionsServer;
use crate::proto::sessionmanager::session_manager_server::SessionManagerServer;
use crate::proto::{DESCRIPTORS, session, sessionmanager};
use crate::telemetry::Metrics;

/// The most bytes of one message: a session of 4 MiB and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = (4 << 20) + (64 << 10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAMS_PER_CONNECTION: u32 = 1024;
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// The names of the services, as health reports them; the empty one stands for
/// the whole server.
pub const SERVICES: [&str; 8] = [
    "",
    sm_server::SERVICE_NAME,
    device_server::SERVICE_NAME,
    sessionmanager::session_manager_server::SERVICE_NAME,
    session::booking::v1::booking_server::SERVICE_NAME,
    session::connections::v1::connections_server::SERVICE_NAME,
    session::events::v1::events_server::SERVICE_NAME,
    session::users::v1::user_sessions_server::SERVICE_NAME,
];

/// Serves `connections` until no more come, then ends when the requests in flight
/// have. `health` is told by others.
///
/// # Errors
/// When the server cannot be put together.
pub async fn serve(
    connections: Connections,
    api: Api,
    metrics: Arc<Metrics>,
    health: HealthReporter,
) -> anyhow::Result<()> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that clients without our protos read the details of errors.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health),
    );
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .layer(observe::layer(metrics.counts()))
        .add_service(
            SessionManagerServer::new(session_manager::Service(api.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            SmServer::new(viewing::Service(api.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            DeviceServer::new(viewing::Service(api.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            UserSessionsServer::new(users::Service(api.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            ConnectionsServer::new(connections::Service(api.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            EventsServer::new(events::Service(api.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(
            BookingServer::new(booking::Service(api)).max_decoding_message_size(MESSAGE_BYTES_MAX),
        )
        .add_service(health)
        .add_service(reflection().build_v1().context("reflection v1")?)
        .add_service(reflection().build_v1alpha().context("reflection v1alpha")?)
        // The end of the connections is the signal; with one that never comes, the
        // server still waits for what is in flight.
        .serve_with_incoming_shutdown(connections, std::future::pending())
        .await
        .context("the gRPC server failed")
}

impl Connected for Connection {
    /// Nothing is decided by where a connection comes from.
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// The answer of an operation on this wire.
fn respond<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| status::from(&error))
}

/// Replies that go on.
type Replies<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The answer of an operation that goes on, on this wire.
fn respond_with<T: Send + 'static>(
    result: Result<streams::Replies<T>, Error>,
) -> Result<Response<Replies<T>>, Status> {
    let stream = |replies| -> Replies<T> { Box::pin(ReceiverStream::new(replies).map(Ok)) };
    respond(result.map(stream))
}
