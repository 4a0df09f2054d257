//! Examples of requests: they are answered as they stand, one after the other, by a server that
//! has nothing yet. What the service makes itself, such as the id of a login, has no example: it
//! comes from the answer of the operation that makes it, as links of the document say.

use prost_reflect::{FieldDescriptor, Kind};
use serde_json::{Map, Value, json};

use super::schemas::name;
use crate::http::routes::{Action, BodyRule, Route};
use crate::logic::{Context, Kind as FieldKind};

/// By the beginning of the operation's name and the field: its value in examples.
const VALUES: [(&str, &str, &str); 9] = [
    ("session.booking.", "session_key", "flow-1"),
    ("session.users.", "user_id", "alice"),
    ("session.users.", "device_id", "phone"),
    ("session.connections.", "user_id", "alice"),
    ("session.connections.", "session_id", "web-1"),
    ("session.connections.", "pod_id", "gateway-1"),
    ("com.example.", "account_id", "home-1"),
    ("com.example.", "device_id", "tv-1"),
    ("com.example.", "max_nb_of_session", "4"),
];

/// By the beginning of the operation's name and the field: which operation makes the value,
/// and where it is in its answer.
const MADE: [(&str, &str, &str, &str); 3] = [
    ("session.users.", "session_id", "UserSessions_Create", "/session_id"),
    ("com.example.sm.", "session_id", "SM_CreateSession", "/sessionId"),
    ("session.booking.", "lock_token", "Booking_Lock", "/lock_token"),
];

/// The optional fields that the bodies of examples have.
const SHOWN: [&str; 5] =
    ["device_id", "session_attributes", "max_nb_of_session", "account_id", "session_id"];

/// A value that another operation makes.
pub struct Made {
    /// The operation that makes it.
    pub by: String,
    /// Where it is in that one's answer, as a JSON pointer.
    pub pointer: &'static str,
    /// The name of the parameter, or of the member of the body, that takes it.
    pub taken_by: String,
    /// Whether it is in the body.
    pub in_body: bool,
}

/// The example of a parameter; `None` when the service makes its value, or it is left out.
pub fn parameter(route: &Route, field: &FieldDescriptor) -> Option<Value> {
    let required = route.required.contains(field);
    let in_path = route.template.contains(&format!("{{{}}}", field.name()));
    let value = value(route, field);
    value.filter(|_| (required || in_path) && made(route, field).is_none())
}

/// The values of a request that other operations make, under the names of `context`.
pub fn all_made(route: &Route, context: Option<&Context>) -> Vec<Made> {
    let request = route.method.input();
    let fields = request.fields();
    let made = fields.filter_map(|field| {
        let (by, pointer) = made(route, &field)?;
        let in_path = route.template.contains(&format!("{{{}}}", field.name()));
        let in_body = !in_path && matches!(route.body, BodyRule::Whole);
        let by = context.map_or_else(|| by.into(), |context| format!("{by}_{}", context.name));
        let taken_by = if in_body { name(&field, route.camel_case) } else { field.name() };
        Some(Made { by, pointer, taken_by: taken_by.into(), in_body })
    });
    made.collect()
}

/// The example of a body.
pub fn body(route: &Route, context: Option<&Context>) -> Option<Value> {
    match (&route.body, &route.action, context) {
        (BodyRule::Nothing, ..) => None,
        (_, Action::SetFlat, Some(context)) => Some(write(context)),
        (BodyRule::Field(field), ..) => message(route, field),
        (BodyRule::Whole, ..) => {
            let in_path =
                |field: &FieldDescriptor| route.template.contains(&format!("{{{}}}", field.name()));
            let request = route.method.input();
            Some(members(route, request.fields().filter(|field| !in_path(field))))
        }
    }
}

/// A write of the field that shows most.
fn write(context: &Context) -> Value {
    let of = |kind: FieldKind| context.fields.iter().find(move |field| field.kind == kind);
    let field = of(FieldKind::Document).or_else(|| of(FieldKind::Text));
    let field = field.or_else(|| context.fields.first());
    let value = |kind: FieldKind| match kind {
        FieldKind::Document => json!({ "area": "Jakarta" }),
        FieldKind::Text => json!("some text"),
        FieldKind::Boolean => json!(true),
        FieldKind::Number => json!(1),
    };
    let member = field.map(|field| (field.name.clone(), value(field.kind)));
    Value::Object(member.into_iter().collect())
}

fn message(route: &Route, field: &FieldDescriptor) -> Option<Value> {
    match field.kind() {
        Kind::Message(inner) => Some(members(route, inner.fields())),
        _ => None,
    }
}

fn members(route: &Route, fields: impl Iterator<Item = FieldDescriptor>) -> Value {
    let mut members = Map::new();
    let is_update = route.method.name() == "Update";
    for field in fields {
        // An update names what it changes.
        let kept = is_update && field.name() == "user_id";
        let shown = route.required.contains(&field) || SHOWN.contains(&field.name());
        let begins = route.method.name() == "Create" && field.name() == "user_id";
        if kept || !(shown || begins) {
            continue;
        }
        let value = match made(route, &field) {
            // It has to be taken from an answer.
            Some(_) => Some(json!("")),
            None => value(route, &field).or_else(|| message(route, &field)),
        };
        if let Some(value) = value {
            members.insert(name(&field, route.camel_case).into(), value);
        }
    }
    Value::Object(members)
}

fn value(route: &Route, field: &FieldDescriptor) -> Option<Value> {
    let known = VALUES.iter().find(|(operation, name, _)| {
        route.operation.starts_with(operation) && *name == field.name()
    });
    let (.., value) = known?;
    Some(match field.kind() {
        Kind::Int32 => json!(value.parse::<i32>().ok()?),
        _ => json!(value),
    })
}

/// Which operation makes the value of a field, and where.
fn made(route: &Route, field: &FieldDescriptor) -> Option<(&'static str, &'static str)> {
    let found = MADE.iter().find(|(operation, name, ..)| {
        route.operation.starts_with(operation) && *name == field.name()
    });
    // A write may be made without a lock, and a lock without a token of the caller's choice.
    let optional =
        matches!(route.action, Action::SetFlat) || matches!(route.method.name(), "Delete" | "Lock");
    let found = found.filter(|(_, name, ..)| *name != "lock_token" || !optional);
    found.map(|(_, _, by, pointer)| (*by, *pointer))
}
