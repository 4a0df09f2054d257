//! Viewing sessions: homes and devices.

use crate::api::Api;
use crate::error::Error;
use crate::logic::{Setup, Slot};
use crate::proto::com::example::sm::{
    GetHomeInfo, HeartBeatSession, Home, MaxSession, Session, SessionResponse, SessionSetup,
    TearDownSession,
};
use crate::proto::com::example::smdevice::{
    CreateDeviceParam, DeleteDeviceParam, DeviceInfo, GetDeviceInfo, SessionSetupWithDevice,
};

/// Takes a session of a home.
///
/// # Errors
/// `INVALID_REQUEST`, `SESSION_LIMIT_REACHED`, or the service itself.
pub async fn create_session(api: &Api, request: SessionSetup) -> Result<SessionResponse, Error> {
    let SessionSetup { account_id, device_id, replace } = request;
    let setup = Setup { account_id, device_id, replace };
    Ok(granted(api.logic.viewing_create(&setup).await?))
}

/// Takes a session of the home that a device belongs to.
///
/// # Errors
/// `DEVICE_NOT_REGISTERED`, and as [`create_session`].
pub async fn create_session_with_device(
    api: &Api,
    request: SessionSetupWithDevice,
) -> Result<SessionResponse, Error> {
    let SessionSetupWithDevice { device_id, replace } = request;
    Ok(granted(api.logic.viewing_create_for_device(&device_id, &replace).await?))
}

/// Keeps a session for another lifetime.
///
/// # Errors
/// `INVALID_REQUEST`, `SESSION_NOT_FOUND`, `SESSION_EXPIRED`, `SESSION_TERMINATED`, or
/// the service itself.
pub async fn heart_beat(api: &Api, request: HeartBeatSession) -> Result<SessionResponse, Error> {
    let HeartBeatSession { account_id, session_id } = request;
    Ok(granted(api.logic.viewing_heartbeat(&account_id, &session_id).await?))
}

/// Gives a session back, whether or not it is held.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn tear_down(api: &Api, request: TearDownSession) -> Result<(), Error> {
    Ok(api.logic.viewing_tear_down(&request.account_id, &request.session_id).await?)
}

/// Sets how many sessions a home may have.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn set_max_session(api: &Api, request: MaxSession) -> Result<(), Error> {
    Ok(api.logic.viewing_set_max(&request.account_id, request.max_nb_of_session).await?)
}

/// Shows a home.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn get_home(api: &Api, request: GetHomeInfo) -> Result<Home, Error> {
    let home = api.logic.viewing_home(&request.account_id).await?;
    let sessions = home.sessions.into_iter().map(|viewer| Session {
        device_id: viewer.device_id,
        session_id: viewer.session_id,
        expiration: seconds(viewer.expires_at_ms),
    });
    Ok(Home {
        sessions: sessions.collect(),
        nb_active_sessions: i32::try_from(home.max_sessions).unwrap_or(i32::MAX),
    })
}

/// Gives a device to an account.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn create_device(api: &Api, request: CreateDeviceParam) -> Result<(), Error> {
    Ok(api.logic.viewing_register_device(&request.device_id, &request.account_id).await?)
}

/// Takes a device from its account, whether or not it has one.
///
/// # Errors
/// `INVALID_REQUEST`, or the service itself.
pub async fn delete_device(api: &Api, request: DeleteDeviceParam) -> Result<(), Error> {
    Ok(api.logic.viewing_forget_device(&request.device_id).await?)
}

/// The account of a device.
///
/// # Errors
/// `INVALID_REQUEST`, `DEVICE_NOT_REGISTERED`, or the service itself.
pub async fn get_device(api: &Api, request: GetDeviceInfo) -> Result<DeviceInfo, Error> {
    let account_id = api.logic.viewing_device(&request.device_id).await?;
    Ok(DeviceInfo { account_id })
}

fn granted(slot: Slot) -> SessionResponse {
    SessionResponse {
        account_id: slot.account_id,
        session_id: slot.session_id,
        expiration: seconds(slot.expires_at_ms),
    }
}

/// Whole seconds, of which none is promised that is not there.
fn seconds(milliseconds: u64) -> i64 {
    i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX)
}
