//! `session.events.v1.Events`.

use tonic::{Request, Response, Status};

use crate::api::{Api, events};
use crate::grpc::{Replies, respond_with};
use crate::proto::session::events::v1::events_server::Events;
use crate::proto::session::events::v1::{SubscribeReply, SubscribeRequest};

/// The service.
pub struct Service(pub Api);

#[tonic::async_trait]
impl Events for Service {
    type SubscribeStream = Replies<SubscribeReply>;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        respond_with(events::subscribe(&self.0, request.into_inner()).await)
    }
}
