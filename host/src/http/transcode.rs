//! Requests from JSON to protobuf, by their descriptors: proto3 JSON in both cases of names, every
//! violation collected, path and query parameters set in their fields.

use std::borrow::Cow;
use std::fmt::Display;

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use prost::Message;
use prost_reflect::{
    DeserializeOptions, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage,
    Value,
};

use crate::error::{Error, Violation};
use crate::http::json;

/// The most query parameters of one request.
const QUERY_PARAMETERS_MAX: usize = 32;

/// The field with the names of the fields to remove, of a message beside it.
const CLEAR: &str = "clear";

/// A request message in the making.
pub struct Request {
    message: DynamicMessage,
    seen: Vec<u32>,
    /// The fields that the path has set.
    in_path: Vec<FieldDescriptor>,
    violations: Vec<Violation>,
    /// The fields that a body has said are null.
    nulls: Vec<FieldDescriptor>,
}

impl Request {
    /// An empty message.
    pub fn new(descriptor: MessageDescriptor) -> Self {
        Self {
            message: DynamicMessage::new(descriptor),
            seen: Vec::new(),
            in_path: Vec::new(),
            violations: Vec::new(),
            nulls: Vec::new(),
        }
    }

    /// Sets a field from the path.
    pub fn path(&mut self, name: &str, value: &str) {
        self.scalar(name, value);
        self.in_path.extend(self.message.descriptor().get_field_by_name(name));
    }

    /// Sets a field from a header: instead of the given value, or only if none is given.
    pub fn header(&mut self, field: &FieldDescriptor, value: &str, instead: bool) {
        if instead {
            self.seen.retain(|seen| *seen != field.number());
        }
        if !self.seen.contains(&field.number()) {
            self.scalar(field.name(), value);
        }
    }

    /// Sets fields from the query string.
    pub fn query(&mut self, query: &str) {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        for (index, pair) in pairs.enumerate() {
            if index == QUERY_PARAMETERS_MAX {
                self.violate("query", format!("has over {QUERY_PARAMETERS_MAX} parameters"));
                return;
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| {
                let spaced = text.replace('+', " ");
                percent_decode_str(&spaced).decode_utf8().map(Cow::into_owned)
            };
            match (decode(name), decode(value)) {
                (Ok(name), Ok(value)) => self.scalar(&name, &value),
                _ => self.violate(&json::shown(name), "is not UTF-8"),
            }
        }
    }

    /// Sets fields from the members of a JSON body.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when the body is not a JSON object at all.
    pub fn body(&mut self, body: &[u8]) -> Result<(), Error> {
        let (members, nested) = json::members(body)?;
        self.violations.extend(nested);
        for (name, value) in members {
            // Clients that send whole messages repeat what is in the path.
            let repeated = self.in_path.iter().any(|field| {
                (*field.name() == *name || *field.json_name() == *name)
                    && serde_json::from_str::<&str>(value.get()).ok()
                        == self.message.get_field(field).as_str()
            });
            // A null says that there is none.
            let null = Some(value.get()).filter(|value| *value == "null");
            if let Some(field) = null.and_then(|_| self.field(&name)) {
                self.nulls.push(field);
                continue;
            }
            if repeated {
                continue;
            }
            let Some(field) = self.take_field(&name, false) else { continue };
            if is_ours(&field) {
                if self.body_of(&field, value.get().as_bytes()).is_err() {
                    self.violate(field.name(), "has a wrong value: expected an object");
                }
                continue;
            }
            self.set(&field, value.get());
        }
        Ok(())
    }

    /// Sets a field that is a message from a JSON body that has its members.
    ///
    /// # Errors
    /// `INVALID_REQUEST` when the body is not a JSON object at all.
    pub fn body_of(&mut self, field: &FieldDescriptor, body: &[u8]) -> Result<(), Error> {
        let Kind::Message(descriptor) = field.kind() else {
            return Err(Error::invalid(field.name(), "is not a message"));
        };
        let mut inner = Self::new(descriptor);
        inner.body(body)?;
        self.seen.push(field.number());
        self.message.set_field(field, Value::Message(inner.message));
        self.violations.extend(inner.violations);
        self.clear(&inner.nulls);
        Ok(())
    }

    /// Removes the fields of a message that are null in it, if the request has a list for that.
    fn clear(&mut self, nulls: &[FieldDescriptor]) {
        let Some(list) = self.message.descriptor().get_field_by_name(CLEAR) else { return };
        if nulls.is_empty() {
            return;
        }
        if let Value::List(names) = self.message.get_field_mut(&list) {
            names.extend(nulls.iter().map(|field| Value::String(field.name().into())));
        }
    }

    /// Requires that a field was given, with any value.
    pub fn require(&mut self, field: &FieldDescriptor) {
        if !self.seen.contains(&field.number()) {
            self.violate(field.name(), "must be given");
        }
    }

    /// The message's bytes, without the fields that are wrong, and every violation that was
    /// found.
    pub fn finish(self) -> (Bytes, Vec<Violation>) {
        (self.message.encode_to_vec().into(), self.violations)
    }

    fn violate(&mut self, field: &str, description: impl Into<String>) {
        self.violations.push(Violation { field: field.into(), description: description.into() });
    }

    /// The field of this name, unless it does not exist or was set before; the items
    /// of a list `may_repeat` its name.
    fn take_field(&mut self, name: &str, may_repeat: bool) -> Option<FieldDescriptor> {
        let Some(field) = self.field(name) else {
            self.violate(&json::shown(name), "is not a field of this request");
            return None;
        };
        if self.seen.contains(&field.number()) && !(may_repeat && field.is_list()) {
            self.violate(field.name(), "is given more than once");
            return None;
        }
        self.seen.push(field.number());
        Some(field)
    }

    /// The field of this name in either case.
    fn field(&self, name: &str) -> Option<FieldDescriptor> {
        let descriptor = self.message.descriptor();
        let by_name = descriptor.get_field_by_name(name);
        by_name.or_else(|| descriptor.get_field_by_json_name(name))
    }

    /// Sets a field, or adds one item to a list, from text that is not JSON.
    fn scalar(&mut self, name: &str, value: &str) {
        let Some(field) = self.take_field(name, true) else { return };
        let quoted = !matches!(field.kind(), Kind::Bool);
        let text = if quoted { serde_json::Value::from(value).to_string() } else { value.into() };
        self.set(&field, &if field.is_list() { format!("[{text}]") } else { text });
    }

    /// Sets a field from the text of its JSON value, by way of a message that
    /// has nothing else.
    fn set(&mut self, field: &FieldDescriptor, value: &str) {
        let alone = format!("{{\"{}\":{value}}}", field.name());
        let mut deserializer = serde_json::Deserializer::from_str(&alone);
        let options = DeserializeOptions::new().deny_unknown_fields(true);
        let descriptor = self.message.descriptor();
        match DynamicMessage::deserialize_with_options(descriptor, &mut deserializer, &options) {
            Ok(parsed) => {
                let value = parsed.get_field(field).into_owned();
                match (value, self.message.get_field_mut(field)) {
                    (Value::List(more), Value::List(list)) => {
                        list.extend(more);
                    }
                    (value, target) => *target = value,
                }
            }
            // The message does not repeat the value, which may be a secret.
            Err(_) => {
                let expected = format!("has a wrong value: expected {}", expected(field));
                self.violate(field.name(), expected);
            }
        }
    }
}

/// Whether a field is one message of our own, not one that JSON writes in a way of its
/// own.
fn is_ours(field: &FieldDescriptor) -> bool {
    let Kind::Message(message) = field.kind() else { return false };
    !field.is_list() && !field.is_map() && message.package_name() != "google.protobuf"
}

/// The JSON value that a field accepts, in words.
fn expected(field: &FieldDescriptor) -> String {
    let one = match field.kind() {
        _ if field.is_map() => "object".into(),
        Kind::Bool => "boolean".into(),
        Kind::Double | Kind::Float => "number".into(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => integer(i32::MIN, i32::MAX),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => integer(i64::MIN, i64::MAX),
        Kind::Uint32 | Kind::Fixed32 => integer(u32::MIN, u32::MAX),
        Kind::Uint64 | Kind::Fixed64 => integer(u64::MIN, u64::MAX),
        Kind::String => "string".into(),
        Kind::Bytes => "string in base64".into(),
        Kind::Enum(_) => "name of the enumeration".into(),
        Kind::Message(message) if message.full_name() == "google.protobuf.ListValue" => {
            "array".into()
        }
        Kind::Message(_) => "object".into(),
    };
    match (field.is_list(), &one[..1]) {
        (true, _) => format!("an array, each item: {one}"),
        (false, "a" | "i" | "o") => format!("an {one}"),
        (false, _) => format!("a {one}"),
    }
}

fn integer(least: impl Display, most: impl Display) -> String {
    format!("integer from {least} to {most}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::DESCRIPTORS;
    use crate::proto::com::example::sm::SessionSetup;
    use crate::proto::session::booking::v1::DeleteRequest;
    use crate::proto::session::users::v1::UpdateRequest;
    use prost_reflect::DescriptorPool;

    fn descriptor(name: &str) -> MessageDescriptor {
        let pool = DescriptorPool::decode(DESCRIPTORS).expect("descriptors");
        pool.get_message_by_name(name).expect(name)
    }

    fn delete() -> Request {
        Request::new(descriptor("session.booking.v1.DeleteRequest"))
    }

    #[test]
    fn a_request_is_put_together_from_path_query_and_body() {
        let mut request = delete();
        request.path("context", "pre-order");
        request.query("lock_token=a%2Fb+c&if_version=3");
        request.body(br#"{"sessionKey": "k"}"#).expect("an object");
        let (message, violations) = request.finish();
        assert_eq!(violations, []);
        let message = DeleteRequest::decode(message).expect("decodes");
        let expected = DeleteRequest {
            context: "pre-order".into(),
            session_key: "k".into(),
            if_version: Some(3),
            lock_token: "a/b c".into(),
        };
        assert_eq!(message, expected);
    }

    #[test]
    fn what_the_path_says_may_be_repeated_and_a_null_says_nothing() {
        let mut request = delete();
        request.path("context", "pre-order");
        request.body(br#"{"context":"pre-order","lockToken":null}"#).expect("an object");
        assert_eq!(request.finish().1, []);
        let mut request = delete();
        request.path("context", "pre-order");
        request.body(br#"{"context":"ez-pay"}"#).expect("an object");
        let type_ = descriptor("session.booking.v1.DeleteRequest");
        request.require(&type_.get_field_by_name("lock_token").expect("a field"));
        let (_, violations) = request.finish();
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["context", "lock_token"]);
    }

    #[test]
    fn a_null_takes_a_field_of_a_message_back_where_the_request_can_say_so() {
        let type_ = descriptor("session.users.v1.UpdateRequest");
        let attributes = type_.get_field_by_name("session_attributes").expect("a field");
        let inner = r#"{"accessToken":null,"device_id":"d","user_email":null}"#;
        let mut alone = Request::new(type_.clone());
        alone.path("session_id", "s");
        alone.body_of(&attributes, inner.as_bytes()).expect("an object");
        let mut whole = Request::new(type_);
        let body =
            format!(r#"{{"clear":["auth_code"],"session_attributes":{inner},"session_id":"s"}}"#);
        whole.body(body.as_bytes()).expect("an object");
        for (request, expected) in [
            (alone, &["access_token", "user_email"][..]),
            (whole, &["auth_code", "access_token", "user_email"]),
        ] {
            let (message, violations) = request.finish();
            assert_eq!(violations, []);
            let message = UpdateRequest::decode(message).expect("decodes");
            assert_eq!(message.clear, expected);
            let attributes = message.session_attributes.expect("attributes");
            assert_eq!(
                (attributes.device_id.as_deref(), attributes.access_token),
                (Some("d"), None)
            );
        }
        // A login begins without what is null.
        let mut create = Request::new(descriptor("session.users.v1.CreateRequest"));
        let body = br#"{"session_attributes":{"user_id":"u","device_id":null}}"#;
        create.body(body).expect("an object");
        assert_eq!(create.finish().1, []);
    }

    #[test]
    fn every_violation_is_reported() {
        let mut request = delete();
        request.path("context", "pre-order");
        request.query("colour=red");
        request
            .body(br#"{"context":"x","lock_token":5,"lock_token":"t","size":1}"#)
            .expect("object");
        let (message, violations) = request.finish();
        let fields: Vec<_> = violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["colour", "context", "lock_token", "lock_token", "size"]);
        assert!(violations[2].description.contains("expected a string"), "{violations:?}");
        // The valid fields are set, so that the rules can check them.
        let message = DeleteRequest::decode(message).expect("decodes");
        assert_eq!(message.context, "pre-order");
    }

    #[test]
    fn a_list_is_an_array_in_a_body_and_repeated_in_a_query() {
        let setup = || Request::new(descriptor("com.example.sm.SessionSetup"));
        let mut request = setup();
        request.query("replace=a&replace=b");
        let message = SessionSetup::decode(request.finish().0).expect("decodes");
        assert_eq!(message.replace, ["a", "b"]);
        for body in [r#"{"replace":"a"}"#, r#"{"replace":["a"],"replace":["b"]}"#] {
            let mut request = setup();
            request.body(body.as_bytes()).expect("an object");
            let (_, violations) = request.finish();
            assert_eq!(violations.len(), 1, "{body}");
            assert_eq!(violations[0].field, "replace", "{body}");
        }
    }

    #[test]
    fn a_violation_says_what_is_expected_with_its_bounds() {
        let violations = |message: &str, body: &str| {
            let mut request = Request::new(descriptor(message));
            request.body(body.as_bytes()).expect("an object");
            let (_, violations) = request.finish();
            violations.into_iter().map(|v| v.description).collect::<Vec<_>>().join("; ")
        };
        let of = "has a wrong value: expected ";
        let integer = "an integer from -2147483648 to 2147483647";
        for body in [r#"{"maxNbOfSession":2147483648}"#, r#"{"maxNbOfSession":"two"}"#] {
            assert_eq!(violations("com.example.sm.MaxSession", body), format!("{of}{integer}"));
        }
        let list = format!("{of}an array, each item: string");
        assert_eq!(violations("com.example.sm.SessionSetup", r#"{"replace":[5]}"#), list);
    }
}
