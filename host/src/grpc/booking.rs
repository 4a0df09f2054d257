//! `session.booking.v1.Booking`: any context of the running component, by name.

use tonic::{Request, Response, Status};

use crate::api::{Api, booking};
use crate::grpc::{respond, respond_secret};
use crate::proto::session::booking::v1::booking_server::Booking;
use crate::proto::session::booking::v1::{
    DeleteRequest, GetRequest, ListContextsReply, ListContextsRequest, LockReply, LockRequest,
    Session, SetRequest, UnlockRequest,
};
use crate::proto::sessionmanager::DefaultResponse;

/// The service.
pub struct Service(pub Api);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Booking for Service {
    async fn set(&self, request: Request<SetRequest>) -> Answer<DefaultResponse> {
        respond(booking::set(&self.0, request.into_inner()).await)
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<Session> {
        respond(booking::get(&self.0, request.into_inner()).await)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DefaultResponse> {
        respond(booking::delete(&self.0, request.into_inner()).await)
    }

    async fn lock(&self, request: Request<LockRequest>) -> Answer<LockReply> {
        respond_secret(booking::lock(&self.0, request.into_inner()).await)
    }

    async fn unlock(&self, request: Request<UnlockRequest>) -> Answer<DefaultResponse> {
        respond(booking::unlock(&self.0, request.into_inner()).await)
    }

    async fn list_contexts(&self, _: Request<ListContextsRequest>) -> Answer<ListContextsReply> {
        respond(Ok(booking::contexts(&self.0)))
    }
}
