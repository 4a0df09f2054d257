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
    /// A user's session after its last use; 0 when there is no idle limit.
    pub user_session_idle_ms: u64,
    /// The record of a connection after its last heartbeat.
    pub connection_ttl_ms: u64,
    /// A connection after its last heartbeat; at most as long as its record.
    pub connection_stale_ms: u64,
    /// A viewing session after its last heartbeat.
    pub viewing_ttl_ms: u64,
    /// The most viewing sessions of a home without a limit of its own.
    pub viewing_max_sessions: u32,
    /// How many events each log keeps.
    pub events_kept: u32,
}

impl Policy {
    /// The values of settings that are absent.
    pub const DEFAULTS: Self = Self {
        session_ttl_ms: 15 * 60 * 1000,
        session_lock_ttl_ms: 3000,
        user_session_ttl_ms: 365 * 24 * 3600 * 1000,
        user_session_idle_ms: 0,
        connection_ttl_ms: 30 * 60 * 1000,
        connection_stale_ms: 90 * 1000,
        viewing_ttl_ms: 120 * 1000,
        viewing_max_sessions: 2,
        events_kept: 10_000,
    };

    /// Reads the settings.
    pub fn read(imports: &impl Imports) -> Self {
        let number = |name| imports.setting(name).and_then(|text| text.parse::<u64>().ok());
        let defaults = Self::DEFAULTS;
        let small = |name| number(name).and_then(|number| u32::try_from(number).ok());
        Self {
            session_ttl_ms: number("session-ttl-ms").unwrap_or(defaults.session_ttl_ms),
            session_lock_ttl_ms: number("session-lock-ttl-ms")
                .unwrap_or(defaults.session_lock_ttl_ms),
            user_session_ttl_ms: number("user-session-ttl-ms")
                .unwrap_or(defaults.user_session_ttl_ms),
            user_session_idle_ms: number("user-session-idle-ms")
                .unwrap_or(defaults.user_session_idle_ms),
            connection_ttl_ms: number("connection-ttl-ms").unwrap_or(defaults.connection_ttl_ms),
            connection_stale_ms: number("connection-stale-ms")
                .unwrap_or(defaults.connection_stale_ms),
            viewing_ttl_ms: number("viewing-ttl-ms").unwrap_or(defaults.viewing_ttl_ms),
            viewing_max_sessions: small("viewing-max-sessions")
                .unwrap_or(defaults.viewing_max_sessions),
            events_kept: small("events-kept").unwrap_or(defaults.events_kept),
        }
    }
}
