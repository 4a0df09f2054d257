//! How long things live: the settings of the host, read once per instance.

use crate::imports::Imports;

/// The lifetimes that rules work with, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A booking session after its last write.
    pub session_ttl_ms: u64,
    /// A lock on a booking session.
    pub session_lock_ttl_ms: u64,
}

impl Policy {
    /// Reads the settings, with the documented default for an absent one.
    pub fn read(imports: &impl Imports) -> Self {
        let milliseconds = |name, default| {
            imports.setting(name).and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        Self {
            session_ttl_ms: milliseconds("session-ttl-ms", 15 * 60 * 1000),
            session_lock_ttl_ms: milliseconds("session-lock-ttl-ms", 3000),
        }
    }
}
