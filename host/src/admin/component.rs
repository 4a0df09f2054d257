//! The component over the admin wire: what runs, swapping another in, going back.

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

/// Shows the running component, or swaps another in.
pub const PATH: &str = "/component";
/// What the path takes.
pub const METHODS: &str = "GET, HEAD, PUT, OPTIONS";
/// Goes back to the component before.
pub const ROLLBACK_PATH: &str = "/component/rollback";
/// What that path takes.
pub const ROLLBACK_METHODS: &str = "POST, OPTIONS";

/// Answers a request for one of the paths. `upload` has a permit when no component
/// is on its way.
///
/// # Errors
/// `INVALID_REQUEST`, or a body that does not come.
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
            // Who probes or goes back is not to wait behind components.
            let Ok(_turn) = upload.try_acquire() else {
                let message = "Another component is on its way; try again when it has passed.";
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
        _ => return Err(Error::invalid("query", "is neither force=true nor force=false")),
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

/// The answer to a component that a gate refuses; the gate stands beside the error too.
fn refused(refusal: &Refusal) -> Answer {
    let gate = refusal.gate.name();
    let mut error = Error::new(Reason::ComponentRefused, &*refusal.message);
    error.metadata.push(("gate".into(), gate.into()));
    answer::error_with(&error, "gate", gate)
}

/// Goes back; twice the same request goes back once when it says from where.
fn roll_back(logic: &Logic, query: &str) -> Result<Answer, Error> {
    let from = match query.strip_prefix("from=").map(str::parse) {
        None if query.is_empty() => None,
        Some(Ok(from)) => Some(from),
        _ => return Err(Error::invalid("query", "is not from= with the number of a generation")),
    };
    let message = match logic.roll_back(from) {
        Ok(generation) => return Ok(answer::json(report(logic, &generation, None).to_string())),
        Err(NoWayBack::Changed) => "Another generation runs by now.",
        Err(NoWayBack::First) => "There is no generation to go back to.",
    };
    Err(Error::new(Reason::RollbackRefused, message))
}

/// All there is to know about a generation, and how it came about.
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
    let mut report = json!({
        "generation": generation.number,
        "digest": generation.digest(),
        "source": generation.source().name(),
        "version": description.version,
        "size_bytes": generation.size(),
        "loaded_at": timestamp(generation.since).to_string(),
        "instances": { "live": live, "idle": idle },
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
