//! The level of the log over the admin wire: what it is, and another one from now on.

use http::{Method, Request};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing_subscriber::filter::LevelFilter;

use crate::error::{Error, Reason};
use crate::http::answer::{self, Answer};
use crate::http::body;
use crate::telemetry;

/// Shows the level, or changes it.
pub const PATH: &str = "/log-level";
/// The most bytes of a request.
const BODY_BYTES_MAX: usize = 1024;

/// A level.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Level {
    level: String,
}

/// Answers a request for the path.
pub async fn handle(request: Request<Incoming>) -> Answer {
    match *request.method() {
        Method::GET => shown(telemetry::log_level()),
        Method::PUT => match wanted(request).await {
            Ok(level) => {
                let before = telemetry::log_level();
                telemetry::set_log_level(level);
                tracing::warn!(%before, %level, "the level of the log was changed");
                shown(telemetry::log_level())
            }
            Err(error) => answer::error(&error),
        },
        _ => {
            let error = Error::new(Reason::MethodNotAllowed, "The path takes GET, PUT only.");
            answer::method_not_allowed(&error, "GET, PUT")
        }
    }
}

fn shown(level: LevelFilter) -> Answer {
    answer::json(json!(Level { level: level.to_string() }).to_string())
}

async fn wanted(request: Request<Incoming>) -> Result<LevelFilter, Error> {
    let expected = || {
        let expected = "must be {\"level\": \"…\"} with off, error, warn, info, debug or trace";
        Error::invalid("body", expected)
    };
    let body = body::collect(request.into_body(), BODY_BYTES_MAX).await.map_err(|_| expected())?;
    let Level { level } = serde_json::from_slice(&body).map_err(|_| expected())?;
    telemetry::level(&level).ok_or_else(expected)
}
