//! The operations of the document: for each binding of an operation of the contract its
//! parameters, its body, its answers and an example.

use prost_reflect::FieldDescriptor;
use serde_json::{Map, Value, json};

use super::comments::{comment, method_comment, summary};
use super::schemas::{Schemas, identifier, scalar, session_key};
use super::{examples, failures, tags};
use crate::http::routes::{Action, BodyRule, Route};
use crate::logic::Context;

/// Describes a binding, of a context if it is one of each.
pub fn operation(
    schemas: &mut Schemas,
    route: &Route,
    context: Option<&Context>,
    id: &str,
) -> Value {
    let comment = method_comment(route);
    let mut operation = json!({
        "operationId": id,
        "tags": [tags::of(route.method.parent_service().full_name())],
        "summary": summary(&comment),
        "description": comment,
        "parameters": parameters(schemas, route),
        "responses": responses(schemas, route, context),
    });
    if let Some((schema, required)) = body(schemas, route, context) {
        let mut content = json!({ "schema": schema });
        if let Some(example) = examples::body(route, context) {
            content["example"] = example;
        }
        operation["requestBody"] =
            json!({ "required": required, "content": { "application/json": content } });
    }
    operation
}

fn parameters(schemas: &mut Schemas, route: &Route) -> Vec<Value> {
    let (mut in_path, mut in_query) = (Vec::new(), Vec::new());
    for field in route.method.input().fields() {
        let name = field.name();
        let in_template = format!("{{{name}}}");
        if name != "context" && route.template.contains(&in_template) {
            let schema = match name {
                "session_key" => session_key(),
                "account_id" | "device_id" | "pod_id" | "user_id" => identifier(),
                _ => scalar(&field),
            };
            in_path.push(parameter(route, &field, "path", true, &schema));
        } else if matches!(route.body, BodyRule::Nothing) && !route.template.contains(&in_template)
        {
            let schema = schemas.field(&field, route.camel_case);
            let required = route.required.contains(&field);
            in_query.push(parameter(route, &field, "query", required, &schema));
        }
    }
    if matches!(route.action, Action::Stream { .. }) {
        in_path.push(json!({
            "name": "Last-Event-ID",
            "in": "header",
            "description": "The id of the event that was seen last.",
            "schema": { "type": "string" },
        }));
    }
    if route.has_conditions() {
        in_path.push(condition(
            "If-Match",
            "The version that the session has to have, as `ETag` said, or `*` for any.",
            r#"^(\*|"[0-9]+")$"#,
        ));
        in_path.push(condition("If-None-Match", "`*`: there must be no session.", r"^\*$"));
    }
    if has_replays(route) {
        in_path.push(condition(
            "Idempotency-Key",
            "Names the request: for ten seconds the same key gets the same answer, for a write \
             with if_version, an if-match that names a version, or if-none-match, a delete with \
             any condition, a lock, and the one read of a session that has only one.",
            "^[!-~]{16,128}$",
        ));
    }
    in_path.extend(in_query);
    in_path
}

/// Whether a caller may repeat a request with its idempotency key.
fn has_replays(route: &Route) -> bool {
    matches!(route.action, Action::SetFlat | Action::GetFlat | Action::DeleteFlat)
        || route.method.full_name() == "session.booking.v1.Booking.Lock"
}

fn condition(name: &str, description: &str, pattern: &str) -> Value {
    json!({
        "name": name,
        "in": "header",
        "description": description,
        "schema": { "type": "string", "pattern": pattern },
    })
}

fn parameter(
    route: &Route,
    field: &FieldDescriptor,
    location: &str,
    required: bool,
    schema: &Value,
) -> Value {
    let mut parameter = json!({
        "name": field.name(),
        "in": location,
        "required": required,
        "description": comment(field),
        "schema": schema,
    });
    if let Some(example) = examples::parameter(route, field) {
        parameter["example"] = example;
    }
    parameter
}

fn responses(schemas: &mut Schemas, route: &Route, context: Option<&Context>) -> Value {
    let reply = match (&route.action, context) {
        (Action::GetFlat, Some(context)) => schemas.session(context),
        _ => schemas.reply(route),
    };
    let content = match route.action {
        // Each event has the name of a member of this, and the member for data.
        Action::Stream { .. } => json!({ "text/event-stream": { "schema": reply } }),
        _ => json!({ "application/json": { "schema": reply } }),
    };
    let mut responses = Map::new();
    let mut headers = json!({ "x-request-id": { "schema": { "type": "string" } } });
    if matches!(route.action, Action::SetFlat | Action::GetFlat) {
        let description = "The version of the session, for `If-Match`.";
        headers["ETag"] = json!({ "description": description, "schema": { "type": "string" } });
    }
    let answered = json!({ "description": "Done.", "headers": headers, "content": content });
    responses.insert("200".into(), answered);
    failures::add(&mut responses, route);
    responses.into()
}

/// The schema of the body, if there is one, and whether it has to be there.
fn body(schemas: &mut Schemas, route: &Route, context: Option<&Context>) -> Option<(Value, bool)> {
    match (&route.body, &route.action, context) {
        (BodyRule::Nothing, ..) => None,
        (_, Action::SetFlat, Some(context)) => Some((schemas.write(context), true)),
        (BodyRule::Field(field), ..) => {
            let required = route.required.contains(field);
            Some((schemas.given(field, route.camel_case), required))
        }
        (BodyRule::Whole, ..) => Some(schemas.body(route)),
    }
}

/// `<Service>_<Method>`, and a suffix that distinguishes one binding of it from the others.
pub fn id(route: &Route, context: Option<&Context>) -> String {
    let service = route.method.parent_service();
    let verb = match (&route.action, route.http_method.as_str()) {
        (Action::SetFlat, "POST") => "Create",
        _ => route.method.name(),
    };
    let id = format!("{}_{verb}", service.name());
    match (context, &route.response_body) {
        (Some(context), _) => format!("{id}_{}", context.name),
        (None, Some(only)) => format!("{id}_{}", only.name()),
        (None, None) => id,
    }
}
