//! The gRPC wire: the services of `proto/`, health and reflection, over HTTP/2.

mod body;
mod booking;
pub mod codec;
mod connections;
mod events;
mod observe;
mod session_manager;
pub mod status;
mod users;
mod viewing;

use anyhow::Context;
use prost::Message;
use std::sync::Arc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Response, Status};
use tonic_health::server::HealthReporter;

use crate::api::Api;
use crate::api::streams;
use crate::error::{Error, Reason};
use crate::network::listener::Connections;
use crate::network::server::{self, Protocol};
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
/// Replies with fewer bytes are not compressed.
const COMPRESSED_BYTES_MIN: usize = 1 << 10;

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
    /// A service within the bounds of all.
    macro_rules! service {
        ($server:ident, $service:expr) => {
            $server::new($service)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .send_compressed(CompressionEncoding::Gzip)
        };
    }
    let routes = Routes::new(service!(SessionManagerServer, session_manager::Service(api.clone())))
        .add_service(service!(BookingServer, booking::Service(api.clone())))
        .add_service(service!(SmServer, viewing::Service(api.clone())))
        .add_service(service!(DeviceServer, viewing::Service(api.clone())))
        .add_service(service!(ConnectionsServer, connections::Service(api.clone())))
        .add_service(service!(UserSessionsServer, users::Service(api.clone())))
        .add_service(service!(EventsServer, events::Service(api)))
        .add_service(health)
        .add_service(reflection().build_v1().context("reflection v1")?)
        .add_service(reflection().build_v1alpha().context("reflection v1alpha")?)
        .prepare();
    let observed = observe::Observed::new(routes, &metrics);
    let handler = move |request, exchange| Arc::clone(&observed).call(request, exchange);
    server::serve(connections, Protocol::Http2, handler).await;
    Ok(())
}

/// The error of a message that is too large.
fn too_large() -> Error {
    let message = format!("The message is larger than {MESSAGE_BYTES_MAX} bytes.");
    Error::new(Reason::RequestTooLarge, message)
}

/// The answer of an operation on this wire.
fn respond<T: Message>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    let reply = result.map_err(|error| status::from(&error))?;
    let small = reply.encoded_len() < COMPRESSED_BYTES_MIN;
    let mut response = Response::new(reply);
    if small {
        response.disable_compression();
    }
    Ok(response)
}

/// The answer of an operation that tells a secret: whoever can add to an answer and sees
/// its length compressed could guess what else is in it.
fn respond_secret<T>(result: Result<T, Error>) -> Result<Response<T>, Status> {
    let mut response = result.map(Response::new).map_err(|error| status::from(&error))?;
    response.disable_compression();
    Ok(response)
}

/// Replies that go on.
type Replies<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The answer of an operation that goes on, on this wire.
fn respond_with<T: Send + 'static>(
    result: Result<streams::Replies<T>, Error>,
) -> Result<Response<Replies<T>>, Status> {
    let stream = |replies| -> Replies<T> { Box::pin(ReceiverStream::new(replies).map(Ok)) };
    respond_secret(result.map(stream))
}
