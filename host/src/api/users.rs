//! Users' sessions.

use std::collections::BTreeMap;

use crate::api::{Api, timestamp};
use crate::error::Error;
use crate::logic::users::{Attributes, Session};
use crate::proto::session::users::v1;

/// The most attributes that an update may say to take back; there are fewer.
const CLEARED_MAX: usize = 64;
/// How many sessions are asked for at a time when all are wanted.
const PAGE_SIZE: i32 = 1000;

/// Begins a session.
///
/// # Errors
/// `INVALID_REQUEST`, `SESSION_LIMIT_REACHED`, or the service itself.
pub async fn create(api: &Api, request: v1::CreateRequest) -> Result<v1::CreateReply, Error> {
    let attributes = attributes(request.session_attributes.unwrap_or_default())?;
    Ok(v1::CreateReply { session_id: api.logic.users_create(&attributes).await? })
}

/// Reads a session.
///
/// # Errors
/// `SESSION_NOT_FOUND`, or the service itself.
pub async fn get(api: &Api, request: v1::GetRequest) -> Result<v1::Session, Error> {
    Ok(session(api.logic.users_get(&request.session_id).await?))
}

/// Lists sessions of a user, the newest first.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn list(api: &Api, request: v1::ListRequest) -> Result<v1::ListReply, Error> {
    let v1::ListRequest { user_id, page_size, page_token } = request;
    let page = api.logic.users_list(&user_id, page_size, &page_token).await?;
    let sessions = page.sessions.into_iter().map(|overview| v1::ListedSession {
        device_id: overview.device_id,
        session_id: overview.session_id,
        created_at: Some(timestamp(overview.created_at_ms)),
        last_seen_at: Some(timestamp(overview.last_seen_at_ms)),
    });
    Ok(v1::ListReply {
        sessions: sessions.collect(),
        next_page_token: page.next_page_token,
        user_id,
    })
}

/// All sessions of a user, by their ids.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn list_by_id(
    api: &Api,
    request: v1::ListByIdRequest,
) -> Result<v1::ListByIdReply, Error> {
    let mut sessions = BTreeMap::new();
    let mut page_token = String::new();
    loop {
        let page = api.logic.users_list(&request.user_id, PAGE_SIZE, &page_token).await?;
        sessions.extend(page.sessions.into_iter().map(|overview| {
            let dated = v1::DatedSession {
                device_id: overview.device_id,
                create_date: Some(timestamp(overview.created_at_ms)),
                update_date: Some(timestamp(overview.updated_at_ms)),
            };
            (overview.session_id, dated)
        }));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(v1::ListByIdReply { sessions });
        }
    }
}

/// Changes a session, and takes back what `clear` names.
///
/// # Errors
/// `INVALID_REQUEST`, `SESSION_NOT_FOUND`, `SESSION_EXISTS` when it is another user's,
/// or the service itself.
pub async fn update(api: &Api, request: v1::UpdateRequest) -> Result<v1::UpdateReply, Error> {
    let v1::UpdateRequest { session_id, session_attributes, mut clear } = request;
    if clear.len() > CLEARED_MAX {
        return Err(Error::invalid("clear", format!("names more than {CLEARED_MAX} attributes")));
    }
    for name in clear.iter_mut().filter(|name| *name == "exiration_time") {
        *name = "expiration_time".into();
    }
    let mut given = session_attributes.unwrap_or_default();
    let changed = attributes(given.clone())?;
    let updated = api.logic.users_update(&session_id, &changed, &clear).await?;
    taken_back(&clear, &mut given);
    Ok(v1::UpdateReply { session: Some(session(updated)), session_attributes: Some(given) })
}

/// Sets the removed attributes in a reply to their value now: an empty text. A time is none.
fn taken_back(clear: &[String], given: &mut v1::Attributes) {
    let v1::Attributes { device_id, auth_code, access_token, refresh_token, user_email, .. } =
        given;
    for (name, text) in [
        ("device_id", device_id),
        ("auth_code", auth_code),
        ("access_token", access_token),
        ("refresh_token", refresh_token),
        ("user_email", user_email),
    ] {
        if clear.iter().any(|cleared| cleared == name) {
            *text = Some(String::new());
        }
    }
}

/// Closes a session.
///
/// # Errors
/// `SESSION_NOT_FOUND`, or the service itself.
pub async fn delete(api: &Api, request: v1::DeleteRequest) -> Result<v1::DeleteReply, Error> {
    api.logic.users_close(&request.session_id).await?;
    Ok(v1::DeleteReply { session_id: request.session_id })
}

/// Closes all sessions of a user, or all but one.
///
/// # Errors
/// `INVALID_REQUEST`, `SESSION_NOT_FOUND` when the one to keep is not one of the
/// user's, or the service itself.
pub async fn delete_all(
    api: &Api,
    request: v1::DeleteAllRequest,
) -> Result<v1::DeleteAllReply, Error> {
    let v1::DeleteAllRequest { user_id, keep } = request;
    let closed = api.logic.users_close_all(&user_id, keep.as_deref()).await?;
    Ok(v1::DeleteAllReply { user_id, closed })
}

fn attributes(given: v1::Attributes) -> Result<Attributes, Error> {
    #[allow(deprecated, reason = "callers use it")]
    let other_spelling = given.exiration_time;
    if given.expiration_time.is_some() && other_spelling.is_some() {
        return Err(Error::invalid("exiration_time", "is expiration_time, which is given too"));
    }
    Ok(Attributes {
        user_id: given.user_id,
        device_id: given.device_id,
        auth_code: given.auth_code,
        access_token: given.access_token,
        refresh_token: given.refresh_token,
        expiration_time: given.expiration_time.or(other_spelling),
        user_email: given.user_email,
    })
}

/// A session in the form of the contract: an attribute that was never given is empty.
fn session(session: Session) -> v1::Session {
    let Session { attributes, created_at_ms, updated_at_ms, expires_at_ms } = session;
    v1::Session {
        user_id: attributes.user_id.unwrap_or_default(),
        device_id: attributes.device_id.unwrap_or_default(),
        auth_code: attributes.auth_code.unwrap_or_default(),
        access_token: attributes.access_token.unwrap_or_default(),
        refresh_token: attributes.refresh_token.unwrap_or_default(),
        expiration_time: attributes.expiration_time.unwrap_or_default(),
        user_email: attributes.user_email.unwrap_or_default(),
        created_at: Some(timestamp(created_at_ms)),
        updated_at: Some(timestamp(updated_at_ms)),
        expires_at: Some(timestamp(expires_at_ms)),
    }
}
