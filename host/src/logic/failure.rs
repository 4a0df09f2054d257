//! Why a call of the component has no reply.

use crate::logic::bindings::session::manager::faults::Fault;
use crate::logic::exports::Interface;

/// Why a call has no answer.
#[derive(Debug)]
pub enum Failure {
    /// A rule refused.
    Fault(Fault),
    /// The component does not export the interface.
    NotServed(Interface),
    /// Too many calls at the same time.
    Overloaded,
    /// The component computed for too long.
    TimedOut,
    /// The component trapped.
    Trapped,
}

impl Failure {
    /// Its name in traces.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fault(_) => "fault",
            Self::NotServed(_) => "not_served",
            Self::Overloaded => "overloaded",
            Self::TimedOut => "timed_out",
            Self::Trapped => "trapped",
        }
    }
}
