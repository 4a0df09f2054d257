//! The level of the log over the admin wire: shows it and changes it.

use http::Method;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::error::Error;
use crate::http::answer::{self, Answer};
use crate::http::body::{self, RequestBody};
use crate::telemetry;

/// The path, which shows or changes the level.
pub const PATH: &str = "/log-level";
/// The methods of the path.
pub const METHODS: &str = "GET, HEAD, PUT, OPTIONS";
/// The largest body of a request.
const BODY_BYTES_MAX: usize = 1024;

/// The JSON form of a level.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

/// Answers a request for the path.
///
/// # Errors
/// `INVALID_REQUEST`, or a body that does not arrive.
pub async fn handle(head: &Parts, body: &mut RequestBody) -> Result<Answer, Error> {
    if head.method != Method::PUT {
        return Ok(shown(telemetry::log_level()));
    }
    let level = requested(head, body).await?;
    let before = telemetry::log_level();
    telemetry::set_log_level(level);
    tracing::warn!(%before, %level, "the level of the log was changed");
    Ok(shown(telemetry::log_level()))
}

fn shown(level: LevelFilter) -> Answer {
    answer::json(json!(Level { level: level.to_string() }).to_string())
}

async fn requested(head: &Parts, body: &mut RequestBody) -> Result<LevelFilter, Error> {
    body::typed(head, &["application/json"], true)?;
    let expected = || {
        let expected = "must be {\"level\": \"…\"} with off, error, warn, info, debug or trace";
        Error::invalid("body", expected)
    };
    let body = body.collect(BODY_BYTES_MAX).await;
    let body = body.map_err(|missing| missing.error(BODY_BYTES_MAX))?;
    let Level { level } = serde_json::from_slice(&body).map_err(|_| expected())?;
    telemetry::level(&level).ok_or_else(expected)
}
