//! Calls over gRPC, with messages that are built from the descriptors of the contract.

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor, Value};
use serde_json::Value as Json;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::Refusal;
use super::json::Style;
use crate::secrets;

/// A gRPC client that knows the contract by its descriptors.
#[derive(Clone)]
pub struct GrpcClient {
    channel: Channel,
    pool: DescriptorPool,
    /// The idempotency key of its requests.
    key: Option<MetadataValue<Ascii>>,
}

impl GrpcClient {
    /// Connects.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn connect(address: &str) -> Self {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        let pool = DescriptorPool::decode(session_manager::proto::DESCRIPTORS);
        Self {
            channel: endpoint.connect().await.expect("the gRPC port answers"),
            pool: pool.expect("descriptors"),
            key: None,
        }
    }

    /// The same client; every request carries this idempotency key.
    pub(super) fn with_key(&self, key: &str) -> Self {
        Self { key: Some(key.parse().expect("a header value")), ..self.clone() }
    }

    /// The method of this name: `service/method`, or the method alone.
    ///
    /// # Panics
    /// When there is none.
    pub fn method(&self, name: &str) -> MethodDescriptor {
        let (service, name) = name.split_once('/').unwrap_or(("", name));
        let services = self.pool.services();
        let services = services.filter(|s| service.is_empty() || s.full_name() == service);
        let mut methods = services.flat_map(|s| s.methods().collect::<Vec<_>>());
        methods.find(|method| method.name() == name).expect(name)
    }

    /// Calls a method with some text fields.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn named(
        &self,
        method: &str,
        fields: &[(&str, &str)],
    ) -> Result<DynamicMessage, Refusal> {
        let method = self.method(method);
        let mut message = DynamicMessage::new(method.input());
        for (name, value) in fields {
            message.set_field_by_name(name, Value::String((*value).into()));
        }
        self.call(&method, message).await
    }

    /// Calls a method with its request and reply in canonical JSON.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the request does not fit the method.
    pub async fn json(&self, method: &str, request: Json) -> Result<Json, Refusal> {
        self.json_in(method, request, Style::Whole).await
    }

    /// Calls a method with its request in canonical JSON and its reply in a given style.
    ///
    /// # Errors
    /// The service's refusal.
    ///
    /// # Panics
    /// When the request does not fit the method.
    pub async fn json_in(
        &self,
        method: &str,
        request: Json,
        style: Style,
    ) -> Result<Json, Refusal> {
        secrets::remember(&request);
        let method = self.method(method);
        let request = DynamicMessage::deserialize(method.input(), request).expect("a request");
        let reply = style.write(&self.call(&method, request).await?);
        secrets::remember(&reply);
        Ok(reply)
    }

    /// Calls a method.
    ///
    /// # Errors
    /// The service's refusal.
    pub async fn call(
        &self,
        method: &MethodDescriptor,
        message: DynamicMessage,
    ) -> Result<DynamicMessage, Refusal> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        let reply = self.raw(&path, message.encode_to_vec().into()).await;
        let reply = reply.map_err(|status| refusal_of(&status))?;
        Ok(DynamicMessage::decode(method.output(), reply).expect("the reply is of its type"))
    }

    /// Calls a path with the bytes of a message.
    ///
    /// # Errors
    /// The status.
    ///
    /// # Panics
    /// When the path is invalid.
    pub async fn raw(&self, path: &str, message: Bytes) -> Result<Bytes, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone())
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20);
        grpc.ready().await.map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        let path = PathAndQuery::try_from(path).expect("a path");
        let mut request = tonic::Request::new(message);
        if let Some(key) = &self.key {
            request.metadata_mut().insert("idempotency-key", key.clone());
        }
        let reply = grpc.unary(request, path, Raw).await?;
        Ok(reply.into_inner())
    }

    /// Opens a stream of replies.
    ///
    /// # Errors
    /// The status.
    ///
    /// # Panics
    /// When the path is invalid.
    pub async fn stream(&self, path: &str, message: Bytes) -> Result<Streaming<Bytes>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::new(Code::Unknown, error.to_string()))?;
        let path = PathAndQuery::try_from(path).expect("a path");
        let reply = grpc.server_streaming(tonic::Request::new(message), path, Raw).await?;
        Ok(reply.into_inner())
    }
}

/// The refusal that a gRPC status carries.
pub fn refusal_of(status: &Status) -> Refusal {
    let details = status.get_error_details();
    let info = details.error_info();
    let bad = details.bad_request();
    Refusal {
        reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
        code: status.code() as i32,
        http: 0,
        message: status.message().into(),
        metadata: info.map(|info| info.metadata.clone().into_iter().collect()).unwrap_or_default(),
        violations: bad
            .map(|bad| bad.field_violations.iter().map(|v| v.field.clone()).collect())
            .unwrap_or_default(),
        retry: details.retry_info().is_some(),
    }
}

/// A codec that passes the bytes of messages through.
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put(buffer, item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = bytes::Buf::remaining(buffer);
        Ok(Some(bytes::Buf::copy_to_bytes(buffer, length)))
    }
}
