//! `com.example.sm.SM` and `com.example.smdevice.Device`.

use tonic::{Request, Response, Status};

use crate::api::{Api, viewing};
use crate::grpc::{respond, respond_secret};
use crate::proto::com::example::sm::sm_server::Sm;
use crate::proto::com::example::sm::{
    GetHomeInfo, HeartBeatSession, Home, MaxSession, SessionResponse, SessionSetup, TearDownSession,
};
use crate::proto::com::example::smdevice::device_server::Device;
use crate::proto::com::example::smdevice::{
    CreateDeviceParam, DeleteDeviceParam, DeviceInfo, GetDeviceInfo, SessionSetupWithDevice,
};

/// Both services.
#[derive(Clone)]
pub struct Service(pub Api);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Sm for Service {
    async fn create_session(&self, request: Request<SessionSetup>) -> Answer<SessionResponse> {
        respond_secret(viewing::create(&self.0, request.into_inner()).await)
    }

    async fn heart_beat(&self, request: Request<HeartBeatSession>) -> Answer<SessionResponse> {
        respond(viewing::heartbeat(&self.0, request.into_inner()).await)
    }

    async fn tear_down(&self, request: Request<TearDownSession>) -> Answer<()> {
        respond(viewing::tear_down(&self.0, request.into_inner()).await)
    }

    async fn set_max_session(&self, request: Request<MaxSession>) -> Answer<()> {
        respond(viewing::set_max(&self.0, request.into_inner()).await)
    }

    async fn get_home(&self, request: Request<GetHomeInfo>) -> Answer<Home> {
        respond(viewing::home(&self.0, request.into_inner()).await)
    }
}

#[tonic::async_trait]
impl Device for Service {
    async fn create_session_with_device(
        &self,
        request: Request<SessionSetupWithDevice>,
    ) -> Answer<SessionResponse> {
        respond_secret(viewing::create_with_device(&self.0, request.into_inner()).await)
    }

    async fn create_device(&self, request: Request<CreateDeviceParam>) -> Answer<()> {
        respond(viewing::create_device(&self.0, request.into_inner()).await)
    }

    async fn delete_device(&self, request: Request<DeleteDeviceParam>) -> Answer<()> {
        respond(viewing::delete_device(&self.0, request.into_inner()).await)
    }

    async fn get_device(&self, request: Request<GetDeviceInfo>) -> Answer<DeviceInfo> {
        respond(viewing::device(&self.0, request.into_inner()).await)
    }
}
