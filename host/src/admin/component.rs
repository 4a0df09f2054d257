//! The component over the admin wire: what runs, swapping another in, going back.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::api::booking::type_name;
use crate::api::timestamp;
use crate::error::{Error, Reason};
use crate::http::answer::{self, Answer};
use crate::http::body::{self, Missing};
use crate::logic::{
    COMPONENT_BYTES_MAX, End, Gate, Generation, Logic, NoWayBack, Passed, Past, Refusal, Source,
    TOO_LARGE,
};

/// Shows the running component, or swaps another in.
pub const PATH: &str = "/component";
/// Goes back to the component before.
pub const ROLLBACK_PATH: &str = "/component/rollback";

/// Answers a request for one of the paths. `upload` has a permit when no component
/// is on its way.
pub async fn handle(logic: &Arc<Logic>, upload: &Semaphore, request: Request<Incoming>) -> Answer {
    let rollback = request.uri().path() == ROLLBACK_PATH;
    match *request.method() {
        Method::POST if rollback => {
            let rolled_back = roll_back(logic, request.uri().query().unwrap_or_default());
            rolled_back.unwrap_or_else(|error| answer::error(&error))
        }
        Method::GET if !rollback => {
            answer::json(report(logic, &logic.generation(), None).to_string())
        }
        Method::PUT if !rollback => {
            // Who probes or goes back is not to wait behind components.
            let Ok(_turn) = upload.try_acquire() else {
                let message = "Another component is on its way; try again when it has passed.";
                return answer::error(&Error::new(Reason::Overloaded, message));
            };
            swap(logic, request).await.unwrap_or_else(|error| answer::error(&error))
        }
        _ => {
            let allowed = if rollback { "POST" } else { "GET, PUT" };
            let message = format!("The path takes {allowed} only.");
            let error = Error::new(Reason::MethodNotAllowed, message);
            answer::method_not_allowed(&error, allowed)
        }
    }
}

async fn swap(logic: &Arc<Logic>, request: Request<Incoming>) -> Result<Answer, Error> {
    let force = match request.uri().query().unwrap_or_default() {
        "" | "force=false" => false,
        "force=true" => true,
        _ => return Err(Error::invalid("query", "is neither force=true nor force=false")),
    };
    let component = match body::collect(request.into_body(), COMPONENT_BYTES_MAX).await {
        Ok(component) => component,
        Err(Missing::TooLarge) => {
            let refusal = Refusal::new(Gate::Size, TOO_LARGE);
            logic.refused(Source::Upload, &refusal);
            return Ok(refused(&refusal));
        }
        Err(Missing::Broken) => return Err(Error::invalid("body", "does not arrive whole")),
        Err(Missing::Late) => return Err(Error::invalid("body", "does not arrive in time")),
    };
    Ok(match logic.swap(component, Source::Upload, force).await {
        Ok(swapped) => {
            let report = report(logic, &swapped.generation, Some(&swapped.passed));
            answer::json(report.to_string())
        }
        Err(refusal) => refused(&refusal),
    })
}

fn refused(refusal: &Refusal) -> Answer {
    let body = json!({ "gate": refusal.gate.name(), "message": refusal.message });
    answer::with_status(StatusCode::UNPROCESSABLE_ENTITY, body.to_string())
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
    let body = json!({ "message": message });
    Ok(answer::with_status(StatusCode::CONFLICT, body.to_string()))
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
