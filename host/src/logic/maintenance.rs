//! The calls of the component that no request asks for.

pub use crate::logic::bindings::exports::session::manager::maintenance::{LogCatalog, Swept};
use crate::logic::call::call;
use crate::logic::{Failure, Logic};

impl Logic {
    /// Which logs of events there are.
    ///
    /// # Errors
    /// See [`Failure`]; there are no faults.
    pub async fn describe_logs(&self) -> Result<LogCatalog, Failure> {
        call!(self, session_manager_maintenance.call_describe_logs())
    }

    /// Tells of sessions that have ended by themselves, in the log of this number.
    ///
    /// # Errors
    /// See [`Failure`]; the faults are those of `maintenance.sweep`.
    pub async fn sweep(&self, log: u32) -> Result<Swept, Failure> {
        call!(self, session_manager_maintenance.call_sweep(log))?.map_err(Failure::Fault)
    }
}
