//! The component over the admin wire: shows it, swaps it and rolls it back.

use std::sync::Arc;

use http::Method;
use http::request::Parts;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::api::booking::type_name;
use crate::api::timestamp;
use crate::error::{Error, Reason};
use crate::http::answer::{self, Answer};
use crate::http::body::{self, Missing, RequestBody};
use crate::logic::{
    COMPONENT_BYTES_MAX, End, Gate, Generation, Logic, NoWayBack, Passed, Past, Refusal, Source,
    TOO_LARGE,
};

/// The path that shows the running component, or swaps another in.
pub const PATH: &str = "/component";
/// The methods of that path.
pub const METHODS: &str = "GET, HEAD, PUT, OPTIONS";
/// The path that rolls back to the component before.
pub const ROLLBACK_PATH: &str = "/component/rollback";
/// The methods of that path.
pub const ROLLBACK_METHODS: &str = "POST, OPTIONS";

/// Answers a request for one of the paths. `upload` has a permit if no component is being
/// uploaded.
///
/// # Errors
/// `INVALID_REQUEST`, or a body that does not arrive.
pub async fn handle(
    logic: &Arc<Logic>,
    upload: &Semaphore,
    head: &Parts,
    body: &mut RequestBody,
) -> Result<Answer, Error> {
    let query = head.uri.query().unwrap_or_default();
    match head.method {
        Method::POST => roll_back(logic, query),
        Method::PUT => {
            body::typed(head, &["application/wasm", "application/octet-stream"], true)?;
            // A second upload is refused instead of queued, so it cannot delay a roll back.
            let Ok(_permit) = upload.try_acquire() else {
                let message = "Another swap is in progress; try again when it has ended.";
                return Err(Error::new(Reason::SwapInProgress, message));
            };
            swap(logic, query, body).await
        }
        _ => Ok(answer::json(report(logic, &logic.generation(), None).to_string())),
    }
}

async fn swap(logic: &Arc<Logic>, query: &str, body: &mut RequestBody) -> Result<Answer, Error> {
    let force = match query {
        "" | "force=false" => false,
        "force=true" => true,
        _ => return Err(Error::invalid("query", "must be force=true or force=false")),
    };
    let component = match body.collect(COMPONENT_BYTES_MAX).await {
        Ok(component) => component,
        Err(Missing::TooLarge) => {
            let refusal = Refusal::new(Gate::Size, TOO_LARGE);
            logic.refused(Source::Upload, &refusal);
            return Ok(refused(&refusal));
        }
        Err(missing) => return Err(missing.error(COMPONENT_BYTES_MAX)),
    };
    Ok(match logic.swap(component, Source::Upload, force).await {
        Ok(swapped) => {
            let report = report(logic, &swapped.generation, Some(&swapped.passed));
            answer::json(report.to_string())
        }
        Err(refusal) => refused(&refusal),
    })
}

/// The reply to a component that a gate refuses. It names the gate beside the error.
fn refused(refusal: &Refusal) -> Answer {
    let gate = refusal.gate.name();
    let mut error = Error::new(Reason::ComponentRefused, &*refusal.message);
    error.metadata.push(("gate".into(), gate.into()));
    answer::error_with(&error, "gate", gate)
}

/// Rolls back. A repeated request rolls back once if it names the generation that it rolls back
/// from.
fn roll_back(logic: &Logic, query: &str) -> Result<Answer, Error> {
    let from = match query.strip_prefix("from=").map(str::parse) {
        None if query.is_empty() => None,
        Some(Ok(from)) => Some(from),
        _ => return Err(Error::invalid("query", "must be from= with the number of a generation")),
    };
    let message = match logic.roll_back(from) {
        Ok(generation) => return Ok(answer::json(report(logic, &generation, None).to_string())),
        Err(NoWayBack::Changed) => "Another generation runs by now.",
        Err(NoWayBack::First) => "There is no generation to roll back to.",
    };
    Err(Error::new(Reason::RollbackRefused, message))
}

/// The description of a generation, and of how it was made.
fn report(logic: &Logic, generation: &Generation, passed: Option<&Passed>) -> Value {
    let (live, idle) = generation.instances();
    let description = generation.description();
    let contexts = description.contexts.iter().map(|context| {
        let fields = context.fields.iter().map(|field| {
            json!({
                "name": field.name,
                "type": type_name(field.kind),
                "stored_as": field.stored_as,
                "max_bytes": field.max_bytes,
            })
        });
        json!({
            "name": context.name,
            "key_prefix": context.key_prefix,
            "ttl_ms": context.ttl_ms,
            "fields": fields.collect::<Vec<_>>(),
        })
    });
    let interfaces = generation.served().iter().map(|interface| interface.name());
    let mut report = json!({
        "generation": generation.number,
        "digest": generation.digest(),
        "source": generation.source().name(),
        "version": description.version,
        "size_bytes": generation.size(),
        "loaded_at": timestamp(generation.since).to_string(),
        "instances": { "live": live, "idle": idle },
        "interfaces": interfaces.collect::<Vec<_>>(),
        "contexts": contexts.collect::<Vec<_>>(),
        "history": logic.past().iter().map(past).collect::<Vec<_>>(),
        "quarantine": logic.quarantined(),
    });
    if let Some(Passed(gates)) = passed {
        let gates = gates.iter().map(|(gate, duration)| {
            json!({ "gate": gate.name(), "ms": duration.as_secs_f64() * 1000.0 })
        });
        report["gates"] = gates.collect();
    }
    report
}

fn past(past: &Past) -> Value {
    let mut entry = json!({
        "generation": past.number,
        "digest": past.digest,
        "source": past.source.name(),
        "version": past.version,
        "loaded_at": timestamp(past.since).to_string(),
        "live_instances": past.live_instances(),
    });
    if let Some((at, end)) = past.ended {
        entry["ended_at"] = timestamp(at).to_string().into();
        entry["ended"] = match end {
            End::Replaced => "replaced",
            End::RolledBack => "rolled back",
            End::Failed => "rolled back as its calls kept failing",
        }
        .into();
    }
    entry
}
