//! The gRPC wire: the services of `proto/`, health and reflection, over HTTP/2.

mod answer;
mod body;
pub mod codec;
mod observe;
mod reflection;
mod services;
pub mod status;

use anyhow::Context;
use std::sync::Arc;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use crate::api::Api;
use crate::grpc::answer::MESSAGE_BYTES_MAX;
use crate::grpc::reflection::Reflection;
use crate::grpc::services::Service;
use crate::network::listener::Connections;
use crate::network::server::{self, Protocol};
use crate::proto::com::example::sm::sm_server::SmServer;
use crate::proto::com::example::smdevice::device_server::DeviceServer;
use crate::proto::session::booking::v1::booking_server::BookingServer;
use crate::proto::session::connections::v1::connections_server::ConnectionsServer;
use crate::proto::session::events::v1::events_server::EventsServer;
use crate::proto::session::users::v1::user_sessions_server::UserSessionsServer;
use crate::proto::sessionmanager::session_manager_server::SessionManagerServer;
use crate::telemetry::Metrics;

/// Serves `connections` until no more come, then ends when the requests in flight
/// have. Other parts of the process set `health`.
///
/// # Errors
/// When the server cannot be put together.
pub async fn serve(
    connections: Connections,
    api: Api,
    metrics: Arc<Metrics>,
    health: HealthReporter,
) -> anyhow::Result<()> {
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health),
    );
    /// A service within the bounds of all.
    macro_rules! service {
        ($server:ident) => {
            $server::new(Service(api.clone()))
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .send_compressed(CompressionEncoding::Gzip)
        };
    }
    let routes = Routes::new(service!(SessionManagerServer))
        .add_service(service!(BookingServer))
        .add_service(service!(SmServer))
        .add_service(service!(DeviceServer))
        .add_service(service!(ConnectionsServer))
        .add_service(service!(UserSessionsServer))
        .add_service(service!(EventsServer))
        .add_service(health)
        .prepare();
    let reflection = Reflection::new(&api.logic.generation()).context("reflection")?;
    let observed = observe::Observed::new(routes, reflection, api, &metrics);
    let handler = move |request, exchange| Arc::clone(&observed).call(request, exchange);
    server::serve(connections, Protocol::Http2, handler).await;
    Ok(())
}
