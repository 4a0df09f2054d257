//! Settings of sessions: their lifetimes and their limits. All of them reach the rules.

use std::time::Duration;

use clap::Args;

use super::early_exit::EarlyExit;
use super::given::given;
use super::values;

/// Lifetimes and limits.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Sessions")]
pub struct Sessions {
    /// Lifetime of a booking session after its last write.
    #[arg(long, env = "SESSION_TTL", default_value = "15m", global = true,
          value_parser = given(values::lifetime))]
    pub session_ttl: Duration,

    /// Lifetime of a lock on a booking session.
    #[arg(long, env = "SESSION_LOCK_TTL", default_value = "3s", global = true,
          value_parser = given(values::lifetime))]
    pub session_lock_ttl: Duration,

    /// Lifetime of a user's session, even if it is used.
    #[arg(long, env = "USER_SESSION_TTL", default_value = "8760h", global = true,
          value_parser = given(values::lifetime))]
    pub user_session_ttl: Duration,

    /// Lifetime of a user's session without use; 0s for no limit.
    #[arg(long, env = "USER_SESSION_IDLE", default_value = "0s", global = true,
          value_parser = given(values::idle))]
    pub user_session_idle: Duration,

    /// How long the record of a connection is kept after its last heartbeat.
    #[arg(long, env = "CONNECTION_TTL", default_value = "30m", global = true,
          value_parser = given(values::lifetime))]
    pub connection_ttl: Duration,

    /// Interval of the heartbeats of connections that this process holds.
    #[arg(long, env = "CONNECTION_HEARTBEAT", default_value = "30s", global = true,
          value_parser = given(values::interval))]
    pub connection_heartbeat: Duration,

    /// Lifetime of a connection after its last heartbeat: at least twice
    /// CONNECTION_HEARTBEAT, at most CONNECTION_TTL.
    #[arg(long, env = "CONNECTION_STALE", default_value = "90s", global = true,
          value_parser = given(values::lifetime))]
    pub connection_stale: Duration,

    /// Lifetime of a viewing session after its last heartbeat.
    #[arg(long, env = "VIEWING_TTL", default_value = "120s", global = true,
          value_parser = given(values::lifetime))]
    pub viewing_ttl: Duration,

    /// Most viewing sessions at a time of a home without a limit of its own.
    #[arg(long, env = "VIEWING_MAX_SESSIONS", default_value = "2", global = true,
          value_parser = given(values::max_sessions))]
    pub viewing_max_sessions: u32,

    /// About how many events each of the 64 logs keeps.
    #[arg(long, env = "EVENTS_KEPT", default_value = "10000", global = true,
          value_parser = given(values::events_kept))]
    pub events_kept: u32,
}

impl Sessions {
    /// Checks that heartbeats come in time, and that a connection ends before its record does.
    pub(super) fn check(&self) -> Result<(), EarlyExit> {
        let Self { connection_heartbeat, connection_stale, connection_ttl, .. } = self;
        let expected = if connection_heartbeat.saturating_mul(2) > *connection_stale {
            format!("at least twice CONNECTION_HEARTBEAT, {connection_heartbeat:?}")
        } else if connection_stale > connection_ttl {
            format!("at most CONNECTION_TTL, {connection_ttl:?}")
        } else {
            return Ok(());
        };
        Err(EarlyExit::of_value("CONNECTION_STALE", &format!("{connection_stale:?}"), &expected))
    }

    /// The settings of the component, as the world's documentation lists them.
    pub(super) fn for_component(&self) -> Vec<(String, String)> {
        let milliseconds =
            |name: &str, duration: Duration| (name.to_owned(), duration.as_millis().to_string());
        vec![
            milliseconds("session-ttl-ms", self.session_ttl),
            milliseconds("session-lock-ttl-ms", self.session_lock_ttl),
            milliseconds("user-session-ttl-ms", self.user_session_ttl),
            milliseconds("user-session-idle-ms", self.user_session_idle),
            milliseconds("connection-ttl-ms", self.connection_ttl),
            milliseconds("connection-stale-ms", self.connection_stale),
            milliseconds("viewing-ttl-ms", self.viewing_ttl),
            ("viewing-max-sessions".into(), self.viewing_max_sessions.to_string()),
            ("events-kept".into(), self.events_kept.to_string()),
        ]
    }
}
