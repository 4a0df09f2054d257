//! The answers of an operation without a result: the statuses, each with its reasons in the
//! error table, and the body that they share.

use serde_json::{Map, Value, json};

use super::schemas::reference;
use crate::error::{Row, TABLE};
use crate::http::routes::{BodyRule, Route};

/// The statuses of any operation.
const ALWAYS: [u16; 6] = [400, 403, 421, 500, 503, 504];
/// The statuses of an operation that names a session.
const NAMED: [u16; 1] = [404];
/// The statuses of an operation that changes something.
const CHANGED: [u16; 2] = [409, 429];
/// The statuses of a change that depends on the session.
const CONDITIONAL: [u16; 1] = [412];
/// The statuses of an operation with a body.
const SENT: [u16; 2] = [413, 415];

/// Adds the failures of an operation to its responses.
pub fn add(responses: &mut Map<String, Value>, route: &Route) {
    let some = |statuses: &'static [u16], when: bool| if when { statuses } else { &[] };
    let changes = route.http_method != "GET";
    let sends = !matches!(route.body, BodyRule::Nothing);
    let statuses = [
        &ALWAYS[..],
        some(&NAMED, route.template.contains('{') || route.template == "/session"),
        some(&CHANGED, changes),
        some(&CONDITIONAL, route.has_conditions()),
        some(&SENT, sends),
    ];
    for status in statuses.concat() {
        responses.insert(status.to_string(), to(&name(status)));
    }
    responses.insert("default".into(), to("Error"));
}

/// The responses that operations refer to, by name.
pub fn responses() -> Map<String, Value> {
    let response = |description: String| {
        let schema = reference("Error");
        json!({ "description": description, "content": { "application/json": { "schema": schema } } })
    };
    let all = [&ALWAYS[..], &NAMED, &CHANGED, &CONDITIONAL, &SENT].concat();
    let mut responses = Map::new();
    for status in all {
        let rows = public_rows().filter(|row| row.http.as_u16() == status);
        let reasons = rows.map(|row| row.name).collect::<Vec<_>>().join(", ");
        responses.insert(name(status), response(reasons));
    }
    let any = "The request has no result; `details` say why.";
    responses.insert("Error".into(), response(any.into()));
    responses
}

/// The rows of the error table for operations, without those for the admin port alone.
fn public_rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().filter(|row| !row.reason.is_for_operators())
}

fn name(status: u16) -> String {
    format!("Error{status}")
}

fn to(response: &str) -> Value {
    json!({ "$ref": format!("#/components/responses/{response}") })
}

/// The body of every failure.
pub fn schema() -> Value {
    let mut reasons: Vec<&str> = public_rows().map(|row| row.name).collect();
    reasons.sort_unstable();
    json!({
        "type": "object",
        "required": ["code", "message", "details"],
        "properties": {
            "code": { "type": "integer", "description": "A code of google.rpc.Code." },
            "message": { "type": "string", "description": "One sentence for people." },
            "details": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["@type"],
                    "properties": {
                        "@type": { "type": "string" },
                        "reason": { "enum": reasons },
                        "domain": { "const": "session-manager" },
                        "metadata": {
                            "type": "object",
                            "additionalProperties": { "type": "string" },
                        },
                        "fieldViolations": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "properties": {
                                    "field": { "type": "string" },
                                    "description": { "type": "string" },
                                },
                            },
                        },
                        "retryDelay": { "type": "string" },
                    },
                },
            },
        },
    })
}
