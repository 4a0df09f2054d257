//! `session.users.v1.UserSessions`.

use tonic::{Request, Response, Status};

use crate::api::{Api, users};
use crate::grpc::respond_secret;
use crate::proto::session::users::v1::user_sessions_server::UserSessions;
use crate::proto::session::users::v1::{
    CreateReply, CreateRequest, DeleteAllReply, DeleteAllRequest, DeleteReply, DeleteRequest,
    GetRequest, ListByIdReply, ListByIdRequest, ListReply, ListRequest, Session, UpdateReply,
    UpdateRequest,
};

/// The service.
pub struct Service(pub Api);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl UserSessions for Service {
    async fn create(&self, request: Request<CreateRequest>) -> Answer<CreateReply> {
        respond_secret(users::create(&self.0, request.into_inner()).await)
    }

    async fn get(&self, request: Request<GetRequest>) -> Answer<Session> {
        respond_secret(users::get(&self.0, request.into_inner()).await)
    }

    async fn list(&self, request: Request<ListRequest>) -> Answer<ListReply> {
        respond_secret(users::list(&self.0, request.into_inner()).await)
    }

    async fn list_by_id(&self, request: Request<ListByIdRequest>) -> Answer<ListByIdReply> {
        respond_secret(users::list_by_id(&self.0, request.into_inner()).await)
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Answer<UpdateReply> {
        respond_secret(users::update(&self.0, request.into_inner()).await)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Answer<DeleteReply> {
        respond_secret(users::delete(&self.0, request.into_inner()).await)
    }

    async fn delete_all(&self, request: Request<DeleteAllRequest>) -> Answer<DeleteAllReply> {
        respond_secret(users::delete_all(&self.0, request.into_inner()).await)
    }
}
