//! `sessionmanager.SessionManager`: sixteen methods over five contexts. Each
//! context has a message of its own; the macro below is the one place that
//! says which field of it is which field of the schema.

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::api::{Api, booking, given, idempotency, timestamp};
use crate::grpc::respond;
use crate::logic::{Condition, Field, Session, Value, Write};
use crate::proto::session::booking::v1::DeleteRequest;
use crate::proto::sessionmanager::session_manager_server::SessionManager;
use crate::proto::sessionmanager::{
    DefaultResponse, EmptyRequest, GetSessionRequest, SessionData, SessionDataCititrans,
    SessionEzPayData, SessionRentRevamp, SessionReschedule,
};

/// The service.
pub struct Service(pub Api);

/// A message of one context.
trait ContextMessage: Message {
    /// The context's name.
    const CONTEXT: &'static str;
    fn into_write(self) -> Write;
    fn from_session(session_key: String, session: Session) -> Self;
}

/// A type that a field of a message may have, and its bytes in the schema.
trait FieldValue: Sized {
    fn into_bytes(self) -> Vec<u8>;
    fn from_bytes(bytes: Vec<u8>) -> Option<Self>;
}

impl FieldValue for Bytes {
    fn into_bytes(self) -> Vec<u8> {
        self.into()
    }

    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        Some(bytes.into())
    }
}

impl FieldValue for String {
    fn into_bytes(self) -> Vec<u8> {
        self.into_bytes()
    }

    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        Self::from_utf8(bytes).ok()
    }
}

impl FieldValue for bool {
    fn into_bytes(self) -> Vec<u8> {
        if self { b"1".into() } else { b"0".into() }
    }

    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        Some(bytes == b"1")
    }
}

impl FieldValue for f64 {
    fn into_bytes(self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }

    fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        str::from_utf8(&bytes).ok()?.parse().ok()
    }
}

/// Both directions between a message and the schema. A field of the message
/// that the list forgets does not compile.
macro_rules! context_message {
    ($message:ident, $context:literal, $($field:ident),+) => {
        impl ContextMessage for $message {
            const CONTEXT: &'static str = $context;

            fn into_write(self) -> Write {
                let Self {
                    session_key, if_version, lock_token, version: _, expires_at: _, $($field),+
                } = self;
                let mut fields = Vec::new();
                $(if let Some(value) = $field {
                    let value = Value::Bytes(value.into_bytes());
                    fields.push(Field { name: stringify!($field).into(), value });
                })+
                Write {
                    context: $context.into(),
                    session_key,
                    fields,
                    condition: Condition { version: if_version, exists: None },
                    lock_token: given(lock_token),
                    idempotency_key: idempotency::key(),
                    violations: Vec::new(),
                }
            }

            fn from_session(session_key: String, session: Session) -> Self {
                let mut message = Self {
                    session_key,
                    version: Some(session.version),
                    expires_at: session.expires_at_ms.map(timestamp),
                    ..Self::default()
                };
                for field in session.fields {
                    let Some(value) = field.value else { continue };
                    match &*field.name {
                        $(stringify!($field) => message.$field = FieldValue::from_bytes(value),)+
                        // A field that a newer component added has no number here.
                        _ => {}
                    }
                }
                message
            }
        }
    };
}

context_message!(
    SessionData,
    "pre-order",
    fleet_list_request,
    fleet_list_response,
    strikethrough_promo_response
);
context_message!(SessionEzPayData, "ez-pay", request, response, vehicle_info_bbd_response);
context_message!(SessionDataCititrans, "cititrans", request, response, session_data);
context_message!(
    SessionReschedule,
    "reschedule",
    delete_after_get,
    pickup_time,
    is_price_changed,
    fixed,
    estimated_high,
    estimated_low,
    is_promo_valid,
    promo_code,
    localized_message,
    product_type,
    order_id,
    fixed_base
);
context_message!(
    SessionRentRevamp,
    "rent-revamp",
    dynamic_fleet_list_request,
    dynamic_fleet_list_response,
    fleet_id,
    selected_fleet,
    recalculate_rent_price_request,
    recalculate_rent_price_response,
    upsell_fleet_response,
    validate_prebook_request,
    validate_prebook_response,
    rent_order_confirmation_request,
    rent_order_confirmation_response,
    contact_information,
    passenger_information,
    selected_pickup,
    selected_dropoff
);

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    async fn set<M: ContextMessage>(&self, request: Request<M>) -> Answer<DefaultResponse> {
        respond(booking::write(&self.0, &request.into_inner().into_write()).await)
    }

    async fn get<M: ContextMessage>(&self, request: Request<GetSessionRequest>) -> Answer<M> {
        let session_key = request.into_inner().session_key;
        let session = booking::read(&self.0, M::CONTEXT, &session_key).await;
        respond(session.map(|session| M::from_session(session_key, session)))
    }

    async fn delete<M: ContextMessage>(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<DefaultResponse> {
        let request = DeleteRequest {
            context: M::CONTEXT.into(),
            session_key: request.into_inner().session_key,
            ..DeleteRequest::default()
        };
        respond(booking::delete(&self.0, request).await)
    }
}

#[tonic::async_trait]
impl SessionManager for Service {
    async fn health_check(&self, _: Request<EmptyRequest>) -> Answer<DefaultResponse> {
        respond(self.0.health().await.map(|_| booking::done()))
    }

    async fn set_session(&self, request: Request<SessionData>) -> Answer<DefaultResponse> {
        self.set(request).await
    }

    async fn get_session(&self, request: Request<GetSessionRequest>) -> Answer<SessionData> {
        self.get(request).await
    }

    async fn delete_session(&self, request: Request<GetSessionRequest>) -> Answer<DefaultResponse> {
        self.delete::<SessionData>(request).await
    }

    async fn set_session_ez_pay(
        &self,
        request: Request<SessionEzPayData>,
    ) -> Answer<DefaultResponse> {
        self.set(request).await
    }

    async fn get_session_ez_pay(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<SessionEzPayData> {
        self.get(request).await
    }

    async fn delete_session_ez_pay(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<DefaultResponse> {
        self.delete::<SessionEzPayData>(request).await
    }

    async fn set_session_cititrans(
        &self,
        request: Request<SessionDataCititrans>,
    ) -> Answer<DefaultResponse> {
        self.set(request).await
    }

    async fn get_session_cititrans(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<SessionDataCititrans> {
        self.get(request).await
    }

    async fn delete_session_cititrans(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<DefaultResponse> {
        self.delete::<SessionDataCititrans>(request).await
    }

    async fn set_session_reschedule(
        &self,
        request: Request<SessionReschedule>,
    ) -> Answer<DefaultResponse> {
        self.set(request).await
    }

    async fn get_session_reschedule(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<SessionReschedule> {
        self.get(request).await
    }

    async fn delete_session_reschedule(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<DefaultResponse> {
        self.delete::<SessionReschedule>(request).await
    }

    async fn set_session_rent_revamp(
        &self,
        request: Request<SessionRentRevamp>,
    ) -> Answer<DefaultResponse> {
        self.set(request).await
    }

    async fn get_session_rent_revamp(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<SessionRentRevamp> {
        self.get(request).await
    }

    async fn delete_session_rent_revamp(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Answer<DefaultResponse> {
        self.delete::<SessionRentRevamp>(request).await
    }
}
