//! Booking sessions.

mod contexts;

use std::time::Duration;

use bytes::Bytes;

use crate::api::{Api, given, idempotency, timestamp};
use crate::error::Error;
use crate::logic::{self, Condition, Kind, Session, Write, Written};
use crate::proto::session::booking::v1;
use crate::proto::sessionmanager::{DefaultResponse, EmptyRequest};
pub use contexts::{
    delete_session, delete_session_cititrans, delete_session_ez_pay, delete_session_rent_revamp,
    delete_session_reschedule, get_session, get_session_cititrans, get_session_ez_pay,
    get_session_rent_revamp, get_session_reschedule, set_session, set_session_cititrans,
    set_session_ez_pay, set_session_rent_revamp, set_session_reschedule,
};

/// The most fields of one write.
const FIELDS_MAX: usize = 256;

/// Writes fields, given as a wire received them.
///
/// # Errors
/// `UNKNOWN_CONTEXT`, `INVALID_REQUEST`, `SESSION_LOCKED`, `VERSION_MISMATCH`,
/// or the service itself.
pub async fn write(api: &Api, write: &Write) -> Result<DefaultResponse, Error> {
    let Written { session_key, version, expires_at_ms } = api.logic.booking_set(write).await?;
    Ok(DefaultResponse {
        version: Some(version),
        expires_at: Some(timestamp(expires_at_ms)),
        session_key: Some(session_key),
        ..done()
    })
}

/// Reads a session with the types of its fields.
///
/// # Errors
/// `UNKNOWN_CONTEXT`, `INVALID_REQUEST`, `SESSION_NOT_FOUND`, or the service
/// itself.
pub async fn read(api: &Api, context: &str, session_key: &str) -> Result<Session, Error> {
    let request = idempotency::key();
    Ok(api.logic.booking_get(context, session_key, request.as_deref()).await?)
}

/// Writes fields by name.
///
/// # Errors
/// As [`write()`].
pub async fn set(api: &Api, request: v1::SetRequest) -> Result<DefaultResponse, Error> {
    // The limit is far above the fields of any context; more need not reach the rules.
    if request.fields.len() > FIELDS_MAX {
        let description = format!("are more than {FIELDS_MAX}");
        return Err(Error::invalid("fields", description));
    }
    let field = |(name, value): (String, Bytes)| logic::Field {
        name,
        value: logic::Value::Bytes(value.into()),
    };
    let mut fields: Vec<_> = request.fields.into_iter().map(field).collect();
    // A map has no order, and answers should not change from call to call.
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let message = Write {
        context: request.context,
        session_key: request.session_key,
        fields,
        condition: Condition { version: request.if_version, exists: None },
        lock_token: given(request.lock_token),
        idempotency_key: idempotency::key(),
        violations: Vec::new(),
    };
    write(api, &message).await
}

/// Reads the fields that were written, by name.
///
/// # Errors
/// As [`read`].
pub async fn get(api: &Api, request: v1::GetRequest) -> Result<v1::Session, Error> {
    let session = read(api, &request.context, &request.session_key).await?;
    let fields = session.fields.into_iter();
    Ok(v1::Session {
        context: request.context,
        session_key: request.session_key,
        fields: fields.filter_map(|field| Some((field.name, field.value?.into()))).collect(),
        version: Some(session.version),
        expires_at: session.expires_at_ms.map(timestamp),
    })
}

/// Deletes a session, whether or not it exists; with a version, only at that one.
///
/// # Errors
/// `UNKNOWN_CONTEXT`, `INVALID_REQUEST`, `SESSION_LOCKED`, `VERSION_MISMATCH`, or the
/// service itself.
pub async fn delete(api: &Api, request: v1::DeleteRequest) -> Result<DefaultResponse, Error> {
    let condition = Condition { version: request.if_version, exists: None };
    delete_if(api, request, condition).await
}

/// Deletes a session, whether or not it exists, when a condition holds.
///
/// # Errors
/// As [`delete`].
pub async fn delete_if(
    api: &Api,
    request: v1::DeleteRequest,
    condition: Condition,
) -> Result<DefaultResponse, Error> {
    let v1::DeleteRequest { context, session_key, if_version: _, lock_token } = request;
    let (lock_token, request) = (given(lock_token), idempotency::key());
    let (lock_token, request) = (lock_token.as_deref(), request.as_deref());
    api.logic.booking_delete(&context, &session_key, condition, lock_token, request).await?;
    Ok(done())
}

/// Whether the first read of a session of a context may be the last one.
pub fn is_one_time(api: &Api, context: &str) -> bool {
    let generation = api.logic.generation();
    let contexts = &generation.description().contexts;
    contexts.iter().any(|known| known.name == context && known.one_time_field.is_some())
}

/// Locks a session, whether or not it exists.
///
/// # Errors
/// `UNKNOWN_CONTEXT`, `INVALID_REQUEST`, `SESSION_LOCKED`, or the service
/// itself.
pub async fn lock(api: &Api, request: v1::LockRequest) -> Result<v1::LockReply, Error> {
    let v1::LockRequest { context, session_key, lock_token } = request;
    let (chosen, request) = (given(lock_token), idempotency::key());
    let (chosen, request) = (chosen.as_deref(), request.as_deref());
    let grant = api.logic.booking_lock(&context, &session_key, chosen, request).await?;
    Ok(v1::LockReply {
        lock_token: grant.lock_token,
        expires_at: Some(timestamp(grant.expires_at_ms)),
    })
}

/// Gives a lock back.
///
/// # Errors
/// `UNKNOWN_CONTEXT`, `INVALID_REQUEST`, `SESSION_LOCKED` when another caller
/// holds it, or the service itself.
pub async fn unlock(api: &Api, request: v1::UnlockRequest) -> Result<DefaultResponse, Error> {
    let v1::UnlockRequest { context, session_key, lock_token } = request;
    api.logic.booking_unlock(&context, &session_key, &lock_token).await?;
    Ok(done())
}

/// Answers when the store does.
///
/// # Errors
/// `STORE_UNAVAILABLE`.
pub async fn health_check(api: &Api, _: EmptyRequest) -> Result<DefaultResponse, Error> {
    api.health().await.map(|_| done())
}

/// Lists the contexts of the running component.
///
/// # Errors
/// None: the wires have refused a component without booking sessions.
pub async fn list_contexts(
    api: &Api,
    _: v1::ListContextsRequest,
) -> Result<v1::ListContextsReply, Error> {
    let generation = api.logic.generation();
    let contexts = generation.description().contexts.iter().map(|context| v1::Context {
        name: context.name.clone(),
        key_prefix: context.key_prefix.clone(),
        fields: context
            .fields
            .iter()
            .map(|field| v1::Field {
                name: field.name.clone(),
                r#type: type_name(field.kind).into(),
                max_bytes: field.max_bytes,
                stored_as: field.stored_as.clone(),
            })
            .collect(),
        ttl: Duration::from_millis(context.ttl_ms).try_into().ok(),
    });
    Ok(v1::ListContextsReply { contexts: contexts.collect() })
}

/// The reply of an operation without data.
pub fn done() -> DefaultResponse {
    DefaultResponse { code: "200".into(), message: "OK".into(), ..DefaultResponse::default() }
}

/// A type of field as the contract names it.
pub fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Document => "document",
        Kind::Text => "text",
        Kind::Boolean => "boolean",
        Kind::Number => "number",
    }
}
