//! The calls of the component about viewing sessions.

use crate::logic::call::call;
use crate::logic::{Failure, Home, Logic, Slot};

#[cfg(not(feature = "native-rules"))]
impl Logic {
    /// Takes a slot of a home.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.create`.
    pub async fn viewing_create(&self, setup: &super::Setup) -> Result<Slot, Failure> {
        call!(self, session_manager_viewing.call_create(setup))?.map_err(Failure::Fault)
    }

    /// Keeps a slot for another lifetime.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.heartbeat`.
    pub async fn viewing_heartbeat(
        &self,
        account_id: &str,
        session_id: &str,
    ) -> Result<Slot, Failure> {
        call!(self, session_manager_viewing.call_heartbeat(account_id, session_id))?
            .map_err(Failure::Fault)
    }
}

impl Logic {
    /// Takes a slot of the home that a device belongs to.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.create-for-device`.
    pub async fn viewing_create_for_device(
        &self,
        device_id: &str,
        replace: &[String],
    ) -> Result<Slot, Failure> {
        call!(self, session_manager_viewing.call_create_for_device(device_id, replace))?
            .map_err(Failure::Fault)
    }

    /// Gives a slot back.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.tear-down`.
    pub async fn viewing_tear_down(
        &self,
        account_id: &str,
        session_id: &str,
    ) -> Result<(), Failure> {
        call!(self, session_manager_viewing.call_tear_down(account_id, session_id))?
            .map_err(Failure::Fault)
    }

    /// Allows a home so many sessions.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.set-max`.
    pub async fn viewing_set_max(&self, account_id: &str, max: i32) -> Result<(), Failure> {
        call!(self, session_manager_viewing.call_set_max(account_id, max))?.map_err(Failure::Fault)
    }

    /// Shows a home.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.get-home`.
    pub async fn viewing_home(&self, account_id: &str) -> Result<Home, Failure> {
        call!(self, session_manager_viewing.call_get_home(account_id))?.map_err(Failure::Fault)
    }

    /// Gives a device to an account.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.register-device`.
    pub async fn viewing_register_device(
        &self,
        device_id: &str,
        account_id: &str,
    ) -> Result<(), Failure> {
        call!(self, session_manager_viewing.call_register_device(device_id, account_id))?
            .map_err(Failure::Fault)
    }

    /// Takes a device from its account.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.forget-device`.
    pub async fn viewing_forget_device(&self, device_id: &str) -> Result<(), Failure> {
        call!(self, session_manager_viewing.call_forget_device(device_id))?.map_err(Failure::Fault)
    }

    /// The account of a device.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `viewing.get-device`.
    pub async fn viewing_device(&self, device_id: &str) -> Result<String, Failure> {
        call!(self, session_manager_viewing.call_get_device(device_id))?.map_err(Failure::Fault)
    }
}
