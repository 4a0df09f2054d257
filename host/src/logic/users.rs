//! The calls of the component about users' sessions.

pub use crate::logic::bindings::exports::session::manager::users::{
    Attributes, Overview, Page, Session,
};
use crate::logic::call::call;
use crate::logic::{Failure, Logic};

impl Logic {
    /// Begins a session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `users.create`.
    pub async fn users_create(&self, attributes: &Attributes) -> Result<String, Failure> {
        call!(self, session_manager_users.call_create(attributes))?.map_err(Failure::Fault)
    }

    /// Reads a session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `users.get`.
    pub async fn users_get(&self, session_id: &str) -> Result<Session, Failure> {
        call!(self, session_manager_users.call_get(session_id))?.map_err(Failure::Fault)
    }

    /// Lists sessions of a user.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `users.list`.
    pub async fn users_list(
        &self,
        user_id: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<Page, Failure> {
        call!(self, session_manager_users.call_list(user_id, page_size, page_token))?
            .map_err(Failure::Fault)
    }

    /// Changes a session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `users.update`.
    pub async fn users_update(
        &self,
        session_id: &str,
        attributes: &Attributes,
        clear: &[String],
    ) -> Result<Session, Failure> {
        call!(self, session_manager_users.call_update(session_id, attributes, clear))?
            .map_err(Failure::Fault)
    }

    /// Closes a session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `users.close`.
    pub async fn users_close(&self, session_id: &str) -> Result<(), Failure> {
        call!(self, session_manager_users.call_close(session_id))?.map_err(Failure::Fault)
    }

    /// Closes all sessions of a user, or all but one.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `users.close-all`.
    pub async fn users_close_all(&self, user_id: &str, keep: Option<&str>) -> Result<u32, Failure> {
        call!(self, session_manager_users.call_close_all(user_id, keep))?.map_err(Failure::Fault)
    }
}
