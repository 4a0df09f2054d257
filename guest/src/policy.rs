//! How long things live: the settings of the host, read once per instance.

use crate::imports::Imports;

/// The lifetimes that rules work with, in milliseconds, and their limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A booking session after its last write.
    pub session_ttl_ms: u64,
    /// A lock on a booking session.
    pub session_lock_ttl_ms: u64,
    /// A user's session after its beginning.
    pub user_session_ttl_ms: u64,
    /// A user's session after its last use; 0 when that does not matter.
    pub user_session_idle_ms: u64,
    /// A viewing session after its last heartbeat.
    pub viewing_ttl_ms: u64,
    /// Viewing sessions of a home that was given no number of its own.
    pub viewing_max_sessions: u32,
}

impl Policy {
    /// What holds for a setting that is absent.
    pub const DEFAULTS: Self = Self {
        session_ttl_ms: 15 * 60 * 1000,
        session_lock_ttl_ms: 3000,
        user_session_ttl_ms: 365 * 24 * 3600 * 1000,
        user_session_idle_ms: 0,
        viewing_ttl_ms: 120 * 1000,
        viewing_max_sessions: 2,
    };

    /// Reads the settings.
    pub fn read(imports: &impl Imports) -> Self {
        let number = |name| imports.setting(name).and_then(|text| text.parse::<u64>().ok());
        let defaults = Self::DEFAULTS;
        let max_sessions = number("viewing-max-sessions").and_then(|max| max.try_into().ok());
        Self {
            session_ttl_ms: number("session-ttl-ms").unwrap_or(defaults.session_ttl_ms),
            session_lock_ttl_ms: number("session-lock-ttl-ms")
                .unwrap_or(defaults.session_lock_ttl_ms),
            user_session_ttl_ms: number("user-session-ttl-ms")
                .unwrap_or(defaults.user_session_ttl_ms),
            user_session_idle_ms: number("user-session-idle-ms")
                .unwrap_or(defaults.user_session_idle_ms),
            viewing_ttl_ms: number("viewing-ttl-ms").unwrap_or(defaults.viewing_ttl_ms),
            viewing_max_sessions: max_sessions.unwrap_or(defaults.viewing_max_sessions),
        }
    }
}
