//! The schemas of the document: messages of the contract in proto3 JSON, and the sessions of
//! each context of the running component, by its fields.

use std::collections::BTreeMap;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::comment;
use crate::http::routes::Route;
use crate::logic::{Context, Kind as FieldKind};

/// The schemas that others refer to, by name.
#[derive(Default)]
pub struct Schemas(BTreeMap<String, Value>);

impl Schemas {
    /// All of them.
    pub fn into_inner(self) -> BTreeMap<String, Value> {
        self.0
    }

    /// The answer to a read of a context.
    pub fn session(&mut self, context: &Context) -> Value {
        let mut properties = fields(context);
        properties.insert("session_key".into(), session_key());
        properties.insert("version".into(), uint64("The number of writes."));
        properties.insert("expires_at".into(), date_time("When the session ends."));
        let schema = json!({
            "type": "object",
            "required": ["session_key", "version"],
            "properties": properties,
            "additionalProperties": false,
        });
        self.named(format!("{}.Session", context.name), schema)
    }

    /// The body of a write of a context.
    pub fn write(&mut self, context: &Context) -> Value {
        let mut properties = fields(context);
        let mut key = session_key();
        key["minLength"] = json!(0);
        key["pattern"] = json!(format!("^{KEY_CHARACTERS}*$"));
        properties.insert("session_key".into(), key);
        properties.insert(
            "if_version".into(),
            uint64(
                "Write only at this version; 0 means that the session has none, or is not there.",
            ),
        );
        properties.insert(
            "lock_token".into(),
            json!({ "type": "string", "description": "The token of the lock that the caller holds." }),
        );
        for (name, description) in
            [("version", "Ignored; replies have it."), ("expires_at", "Ignored; replies have it.")]
        {
            properties.insert(name.into(), json!({ "readOnly": true, "description": description }));
        }
        properties.values_mut().for_each(may_be_null);
        let schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        self.named(format!("{}.Write", context.name), schema)
    }

    /// The answer of an operation.
    pub fn reply(&mut self, route: &Route) -> Value {
        match &route.response_body {
            None => self.message(&route.method.output(), route.camel_case),
            Some(field) => self.field(field, route.camel_case),
        }
    }

    /// The body of an operation, with all fields that are not in the path, and whether it is
    /// required: an empty body is an empty object.
    pub fn body(&mut self, route: &Route) -> (Value, bool) {
        let request = route.method.input();
        let in_path =
            |field: &FieldDescriptor| route.template.contains(&format!("{{{}}}", field.name()));
        let fields = request.fields().filter(|field| !in_path(field));
        let (mut schema, required) = self.members(fields, &route.required, route.camel_case);
        let needed = !required.is_empty();
        schema["required"] = json!(required);
        (schema, needed)
    }

    /// The schema of an object that is given in a request, and the names of the members that
    /// have to be there; the others may be null.
    fn members(
        &mut self,
        fields: impl Iterator<Item = FieldDescriptor>,
        required: &[FieldDescriptor],
        camel_case: bool,
    ) -> (Value, Vec<String>) {
        let (mut properties, mut names) = (Map::new(), Vec::new());
        for field in fields {
            let name = name(&field, camel_case).to_owned();
            let mut schema = self.given(&field, camel_case);
            if required.contains(&field) {
                names.push(name.clone());
            } else {
                may_be_null(&mut schema);
            }
            properties.insert(name, schema);
        }
        let schema = json!({
            "type": "object",
            "properties": properties,
            "additionalProperties": false,
        });
        (schema, names)
    }

    /// The schema of a field that is given in a request.
    pub fn given(&mut self, field: &FieldDescriptor, camel_case: bool) -> Value {
        let mut schema = match (field.name(), field.kind()) {
            ("account_id" | "pod_id", _) => identifier(),
            // Of a login it may be empty.
            ("device_id", _) if camel_case => identifier(),
            (_, Kind::Message(inner)) if is_ours(&inner) => {
                self.members(inner.fields(), &[], camel_case).0
            }
            _ => self.field(field, camel_case),
        };
        describe(&mut schema, field);
        schema
    }

    /// The schema of a field.
    pub fn field(&mut self, field: &FieldDescriptor, camel_case: bool) -> Value {
        let one = match field.kind() {
            Kind::Message(entry) if field.is_map() => {
                let value = self.field(&entry.map_entry_value_field(), camel_case);
                return json!({ "type": "object", "additionalProperties": value });
            }
            Kind::Message(inner) => self.message(&inner, camel_case),
            _ => scalar(field),
        };
        if field.is_list() { json!({ "type": "array", "items": one }) } else { one }
    }

    /// The schema of a message in proto3 JSON.
    fn message(&mut self, message: &MessageDescriptor, camel_case: bool) -> Value {
        match message.full_name() {
            "google.protobuf.Timestamp" => return date_time(""),
            // The one there is has texts.
            "google.protobuf.ListValue" => {
                return json!({ "type": "array", "items": { "type": "string" } });
            }
            "google.protobuf.Duration" => {
                return json!({ "type": "string", "pattern": r"^-?[0-9]+(\.[0-9]+)?s$" });
            }
            _ => {}
        }
        if !self.0.contains_key(message.full_name()) {
            let mut properties = Map::new();
            for field in message.fields() {
                let mut schema = self.field(&field, camel_case);
                describe(&mut schema, &field);
                properties.insert(name(&field, camel_case).into(), schema);
            }
            let schema = json!({
                "type": "object",
                "properties": properties,
                "additionalProperties": false,
            });
            self.0.insert(message.full_name().into(), schema);
        }
        reference(message.full_name())
    }

    /// Keeps a schema under a name; returns what refers to it.
    pub fn named(&mut self, name: String, schema: Value) -> Value {
        let reference = reference(&name);
        self.0.insert(name, schema);
        reference
    }
}

/// The pattern of the id of an account, a user, a device or a pod: no control characters.
const IDENTIFIER: &str = r"^[^\u0000-\u001f\u007f-\u009f]+$";
/// The characters of a session key, as a class of a regular expression.
const KEY_CHARACTERS: &str = r#"[!"$-.0->@-z|~]"#;

/// Whether a message is one of the contract's own, and no well-known one.
fn is_ours(message: &MessageDescriptor) -> bool {
    !message.full_name().starts_with("google.protobuf.")
}

/// Adds what the contract says of a field.
fn describe(schema: &mut Value, field: &FieldDescriptor) {
    if schema.get("$ref").is_none() {
        schema["description"] = json!(comment(field));
    }
    let options = field.field_descriptor_proto().options.as_ref();
    if options.is_some_and(|options| options.deprecated()) {
        schema["deprecated"] = json!(true);
    }
}

/// A member that need not be given may be null instead, as proto3 JSON has it.
fn may_be_null(schema: &mut Value) {
    match &mut schema["type"] {
        // It may be anything.
        Value::Null => drop(schema.as_object_mut().map(|schema| schema.remove("type"))),
        Value::Array(types) => types.push(json!("null")),
        one => *one = json!([one.take(), "null"]),
    }
}

/// How a field is called in JSON.
pub fn name(field: &FieldDescriptor, camel_case: bool) -> &str {
    if camel_case { field.json_name() } else { field.name() }
}

/// The id of an account or a device.
pub fn identifier() -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 256, "pattern": IDENTIFIER })
}

/// The key of a booking session.
pub fn session_key() -> Value {
    json!({
        "type": "string",
        "minLength": 1,
        "maxLength": 256,
        "pattern": format!("^{KEY_CHARACTERS}+$"),
        "description": "1 to 256 visible ASCII characters, none of { } / ? #.",
    })
}

fn fields(context: &Context) -> Map<String, Value> {
    let schema = |kind| match kind {
        FieldKind::Document => json!({
            "description":
                "Any JSON value; bytes that are not JSON as {\"$bytes\": \"<base64>\"}.",
        }),
        FieldKind::Text => json!({ "type": "string" }),
        FieldKind::Boolean => json!({ "type": "boolean" }),
        FieldKind::Number => json!({ "type": "number" }),
    };
    context.fields.iter().map(|field| (field.name.clone(), schema(field.kind))).collect()
}

/// The schema of a field that is no message, in proto3 JSON.
pub fn scalar(field: &FieldDescriptor) -> Value {
    match field.kind() {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Double | Kind::Float => json!({ "type": "number" }),
        Kind::Uint64 | Kind::Fixed64 => uint64(""),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({
            "type": ["string", "integer"],
            "format": "int64",
            "pattern": "^-?[0-9]{1,19}$",
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            json!({ "type": "integer", "format": "int32" })
        }
        Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0 }),
        Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
        _ => json!({ "type": "string" }),
    }
}

/// A 64-bit number, which proto3 JSON writes as a string and reads as either.
fn uint64(description: &str) -> Value {
    json!({
        "type": ["string", "integer"],
        "format": "uint64",
        "pattern": "^[0-9]{1,20}$",
        "minimum": 0,
        "description": description,
    })
}

fn date_time(description: &str) -> Value {
    json!({ "type": "string", "format": "date-time", "description": description })
}

/// A reference to a schema.
pub fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}
