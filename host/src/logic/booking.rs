//! The calls of the component about booking sessions.

use crate::logic::call::call;
use crate::logic::{Condition, Failure, LockGrant, Logic, Session, Write, Written};

impl Logic {
    /// Writes fields of a booking session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `booking.set`.
    pub async fn booking_set(&self, write: &Write) -> Result<Written, Failure> {
        call!(self, session_manager_booking.call_set(write))?.map_err(Failure::Fault)
    }

    /// Reads a booking session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `booking.get`.
    pub async fn booking_get(
        &self,
        context: &str,
        session_key: &str,
        idempotency_key: Option<&str>,
    ) -> Result<Session, Failure> {
        call!(self, session_manager_booking.call_get(context, session_key, idempotency_key))?
            .map_err(Failure::Fault)
    }

    /// Deletes a booking session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `booking.delete`.
    pub async fn booking_delete(
        &self,
        context: &str,
        session_key: &str,
        condition: Condition,
        lock_token: Option<&str>,
        idempotency_key: Option<&str>,
    ) -> Result<(), Failure> {
        let deleted = call!(
            self,
            session_manager_booking.call_delete(
                context,
                session_key,
                condition,
                lock_token,
                idempotency_key
            )
        );
        deleted?.map_err(Failure::Fault)
    }

    /// Locks a booking session.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `booking.lock`.
    pub async fn booking_lock(
        &self,
        context: &str,
        session_key: &str,
        chosen: Option<&str>,
        idempotency_key: Option<&str>,
    ) -> Result<LockGrant, Failure> {
        let locked = call!(
            self,
            session_manager_booking.call_lock(context, session_key, chosen, idempotency_key)
        );
        locked?.map_err(Failure::Fault)
    }

    /// Gives the lock of a booking session back.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `booking.unlock`.
    pub async fn booking_unlock(
        &self,
        context: &str,
        session_key: &str,
        lock_token: &str,
    ) -> Result<(), Failure> {
        call!(self, session_manager_booking.call_unlock(context, session_key, lock_token))?
            .map_err(Failure::Fault)
    }
}
