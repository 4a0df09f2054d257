//! Messages of the contract as JSON.

use prost_reflect::prost_types::Timestamp;
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, SerializeOptions, Value};
use serde_json::{Map, Value as Json, json};

use crate::secrets;

/// A 64-bit number in proto3 JSON.
pub fn number(value: &Json) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

/// An instant in proto3 JSON, in seconds and nanoseconds.
///
/// # Panics
/// When it is not an instant.
pub fn instant(value: &Json) -> (i64, i32) {
    let instant: Timestamp = value.as_str().expect("text").parse().expect("an instant");
    (instant.seconds, instant.nanos)
}

/// How a reply is written as JSON.
#[derive(Clone, Copy, PartialEq)]
pub enum Style {
    /// Names in lowerCamelCase, unset fields with their default.
    Whole,
    /// Names as they are declared, unset fields with their default.
    AsDeclared,
    /// Names in lowerCamelCase, without unset fields, as most programs print it.
    Brief,
}

impl Style {
    pub(super) fn write(self, message: &DynamicMessage) -> Json {
        let options = SerializeOptions::new()
            .skip_default_fields(self == Self::Brief)
            .use_proto_field_name(self == Self::AsDeclared);
        let json = message.serialize_with_options(serde_json::value::Serializer, &options);
        json.expect("a message is JSON")
    }
}

/// Sets a field of a context's message from JSON.
pub(super) fn set_field(message: &mut DynamicMessage, name: &str, value: &Json) {
    let field = message.descriptor().get_field_by_name(name).unwrap_or_else(|| panic!("{name}"));
    let value = match field.kind() {
        Kind::Bytes => Value::Bytes(value.to_string().into()),
        Kind::String => Value::String(value.as_str().expect("text").into()),
        Kind::Bool => Value::Bool(value.as_bool().expect("a boolean")),
        Kind::Double => Value::F64(value.as_f64().expect("a number")),
        kind => panic!("{name} is {kind:?}"),
    };
    message.set_field(&field, value);
}

/// A message as the flat JSON that REST replies with: documents as JSON values, unset scalars
/// with their default.
pub(super) fn to_json(message: &DynamicMessage) -> Json {
    let mut json = Map::new();
    for field in message.descriptor().fields() {
        let ours = matches!(field.name(), "if_version" | "lock_token" | "expires_at" | "version");
        let document = field.kind() == Kind::Bytes;
        if (ours || document) && !message.has_field(&field) {
            continue;
        }
        let value = match message.get_field(&field).as_ref() {
            Value::Bytes(bytes) => serde_json::from_slice(bytes).expect("a test writes JSON"),
            Value::String(text) => json!(text),
            Value::Bool(boolean) => json!(boolean),
            Value::F64(number) => json!(number),
            Value::U64(number) => json!(number.to_string()),
            _ => continue,
        };
        json.insert(field.name().into(), value);
    }
    let json = Json::Object(json);
    secrets::remember(&json);
    json
}
