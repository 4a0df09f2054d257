//! `session.connections.v1.Connections`.

use tonic::{Request, Response, Status};

use crate::api::{Api, connections};
use crate::grpc::{Replies, respond, respond_secret, respond_with};
use crate::proto::session::connections::v1::connections_server::Connections;
use crate::proto::session::connections::v1::{
    CloseReply, CloseRequest, ConnectReply, ConnectRequest, Connection, DrainReply, DrainRequest,
    GetPresenceRequest, GetRequest, GetStatsRequest, HeartbeatPodReply, HeartbeatPodRequest,
    HeartbeatRequest, ListByPodReply, ListByPodRequest, ListByUserReply, ListByUserRequest,
    Presence, RegisterRequest, Stats, TerminateReply, TerminateRequest,
};

/// The service.
pub struct Service(pub Api);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Connections for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Answer<Connection> {
        respond_secret(connections::register(&self.0, request.into_inner()).await)
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<Connection> {
        respond(connections::get(&self.0, request.into_inner()).await)
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Answer<Connection> {
        respond(connections::heartbeat(&self.0, request.into_inner()).await)
    }

    async fn heartbeat_pod(
        &self,
        request: Request<HeartbeatPodRequest>,
    ) -> Answer<HeartbeatPodReply> {
        respond(connections::heartbeat_pod(&self.0, request.into_inner()).await)
    }

    async fn close(&self, request: Request<CloseRequest>) -> Answer<CloseReply> {
        respond(connections::close(&self.0, request.into_inner()).await)
    }

    async fn list_by_user(&self, request: Request<ListByUserRequest>) -> Answer<ListByUserReply> {
        respond(connections::list_by_user(&self.0, request.into_inner()).await)
    }

    async fn terminate(&self, request: Request<TerminateRequest>) -> Answer<TerminateReply> {
        respond(connections::terminate(&self.0, request.into_inner()).await)
    }

    async fn get_presence(&self, request: Request<GetPresenceRequest>) -> Answer<Presence> {
        respond(connections::presence(&self.0, request.into_inner()).await)
    }

    async fn list_by_pod(&self, request: Request<ListByPodRequest>) -> Answer<ListByPodReply> {
        respond(connections::list_by_pod(&self.0, request.into_inner()).await)
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Answer<DrainReply> {
        respond(connections::drain(&self.0, request.into_inner()).await)
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Answer<Stats> {
        respond(connections::stats(&self.0).await)
    }

    type ConnectStream = Replies<ConnectReply>;

    async fn connect(&self, request: Request<ConnectRequest>) -> Answer<Self::ConnectStream> {
        respond_with(connections::connect(&self.0, request.into_inner()).await)
    }
}
