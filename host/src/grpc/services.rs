//! The services of the contract over gRPC: each method calls the operation of its name.

use tonic::{Request, Response, Status};

use crate::api::{self, Api};
use crate::grpc::answer::{Replies, plain, secret, stream};

/// All services.
#[derive(Clone)]
pub struct Service(pub Api);

macro_rules! serve {
    ($($service:path => $module:ident {
        routed { $($answer:ident $operation:literal $call:ident($request:ty) -> $reply:ty;)* }
        unrouted { $($answers:ident $of:literal $calls:ident($takes:ty) -> $gives:ty;)* }
        streams {
            $($secret:ident $name:literal $open:ident($asked:ty) -> $item:ty, $stream:ident;)*
        }
    })*) => {
        $(
            #[tonic::async_trait]
            impl $service for Service {
                $(
                    async fn $call(
                        &self,
                        request: Request<$request>,
                    ) -> Result<Response<$reply>, Status> {
                        $answer(api::$module::$call(&self.0, request.into_inner()).await)
                    }
                )*

                $(
                    async fn $calls(
                        &self,
                        request: Request<$takes>,
                    ) -> Result<Response<$gives>, Status> {
                        $answers(api::$module::$calls(&self.0, request.into_inner()).await)
                    }
                )*

                $(
                    type $stream = Replies<$item>;

                    async fn $open(
                        &self,
                        request: Request<$asked>,
                    ) -> Result<Response<Self::$stream>, Status> {
                        stream(api::$module::$open(&self.0, request.into_inner()).await)
                    }
                )*
            }
        )*
    };
}

crate::proto::operations!(serve);
