//! The operations of `sessionmanager.SessionManager`: three for each of five contexts. Each
//! context has a message of its own; only the macro below says which field of
//! the message is which field of the schema.

use bytes::Bytes;
use prost::Message;

use crate::api::{Api, booking, given, idempotency, timestamp};
use crate::error::Error;
use crate::logic::{Condition, Field, Session, Value, Write};
use crate::proto::session::booking::v1::DeleteRequest;
use crate::proto::sessionmanager::{
    DefaultResponse, GetSessionRequest, SessionData, SessionDataCititrans, SessionEzPayData,
    SessionRentRevamp, SessionReschedule,
};

/// A message of one context.
trait ContextMessage: Message {
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

/// Both directions between a message and the schema, and the operations on it. A field of the
/// message that the list forgets does not compile.
macro_rules! context {
    ($message:ident, $context:literal, $set:ident $get:ident $delete:ident, $($field:ident),+) => {
        /// Writes fields of a session of the context.
        ///
        /// # Errors
        /// As [`booking::write()`].
        pub async fn $set(api: &Api, request: $message) -> Result<DefaultResponse, Error> {
            booking::write(api, &request.into_write()).await
        }

        /// Reads a session of the context.
        ///
        /// # Errors
        /// As [`booking::read`].
        pub async fn $get(api: &Api, request: GetSessionRequest) -> Result<$message, Error> {
            let session = booking::read(api, $context, &request.session_key).await?;
            Ok($message::from_session(request.session_key, session))
        }

        /// Deletes a session of the context.
        ///
        /// # Errors
        /// As [`booking::delete`].
        pub async fn $delete(
            api: &Api,
            request: GetSessionRequest,
        ) -> Result<DefaultResponse, Error> {
            let GetSessionRequest { session_key } = request;
            let context = $context.into();
            booking::delete(api, DeleteRequest { context, session_key, ..Default::default() }).await
        }

        impl ContextMessage for $message {
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

context!(
    SessionData,
    "pre-order",
    set_session get_session delete_session,
    fleet_list_request,
    fleet_list_response,
    strikethrough_promo_response
);
context!(SessionEzPayData, "ez-pay", set_session_ez_pay get_session_ez_pay delete_session_ez_pay, request, response, vehicle_info_bbd_response);
context!(SessionDataCititrans, "cititrans", set_session_cititrans get_session_cititrans delete_session_cititrans, request, response, session_data);
context!(
    SessionReschedule,
    "reschedule",
    set_session_reschedule get_session_reschedule delete_session_reschedule,
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
context!(
    SessionRentRevamp,
    "rent-revamp",
    set_session_rent_revamp get_session_rent_revamp delete_session_rent_revamp,
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
