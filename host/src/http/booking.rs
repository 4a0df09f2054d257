//! The flat JSON of booking sessions: the fields of a context stand beside the
//! members that every session has, a document as any JSON value. Field names
//! and types are the component's, so nothing here lists them.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::api::{Api, booking, given, idempotency};
use crate::error::{Error, Reason, Violation};
use crate::http::conditions;
use crate::http::instant;
use crate::http::json::{self, Member};
use crate::http::reply::string;
use crate::logic::{
    Condition, Field, Kind, Session, StoredField, Value, Violation as WireViolation, Write,
};
use crate::proto::session::booking::v1::DeleteRequest;
use crate::proto::sessionmanager::DefaultResponse;

/// Writes what a body says, when the condition in the headers holds; `session_key` is the
/// path's, when it has one.
///
/// # Errors
/// Those of [`booking::write`], or a body that is not a JSON object.
pub async fn set(
    api: &Api,
    context: &str,
    session_key: Option<&str>,
    headers: Option<Condition>,
    body: &[u8],
) -> Result<DefaultResponse, Error> {
    let mut write = write(context, session_key, body)?;
    write.condition = conditions::together(headers, write.condition)?;
    booking::write(api, &write).await.map_err(|error| conditions::failed(headers, error))
}

/// Deletes the session that a message names, when the condition in the headers holds.
///
/// # Errors
/// Those of [`booking::delete`].
pub async fn delete(
    api: &Api,
    headers: Option<Condition>,
    request: DeleteRequest,
) -> Result<DefaultResponse, Error> {
    let message = Condition { version: request.if_version, exists: None };
    let condition = conditions::together(headers, message)?;
    let deleted = booking::delete_if(api, request, condition).await;
    deleted.map_err(|error| conditions::failed(headers, error))
}

/// Reads a session: its version, and a JSON body.
///
/// # Errors
/// Those of [`booking::read`].
pub async fn get(api: &Api, context: &str, session_key: &str) -> Result<(u64, Vec<u8>), Error> {
    let session = booking::read(api, context, session_key).await?;
    let body = render(session_key, &session).map_err(|()| {
        Error::new(Reason::LogicFailed, "The component answered with a broken value.")
    })?;
    Ok((session.version, body))
}

fn write(context: &str, session_key: Option<&str>, body: &[u8]) -> Result<Write, Error> {
    let (members, nested) = json::members(body)?;
    let mut reader =
        Reader { violations: nested.into_iter().map(Into::into).collect(), seen: Vec::new() };
    let mut write = Write {
        context: context.into(),
        session_key: session_key.unwrap_or_default().into(),
        fields: Vec::with_capacity(members.len()),
        condition: Condition { version: None, exists: None },
        lock_token: None,
        idempotency_key: idempotency::key(),
        violations: Vec::new(),
    };
    for member in members {
        let name = match &*member.0 {
            "session_key" | "sessionKey" => "session_key",
            "if_version" | "ifVersion" => "if_version",
            "lock_token" | "lockToken" => "lock_token",
            // A body that was read and is sent back has them; they say nothing.
            "version" => "version",
            "expires_at" | "expiresAt" => "expires_at",
            _ => {
                let (name, value) = member;
                let value = Value::Json(value.get().into());
                write.fields.push(Field { name: name.into_owned(), value });
                continue;
            }
        };
        reader.once(name);
        match name {
            "session_key" => {
                let given = reader.text(name, &member).unwrap_or_default();
                if session_key.is_none_or(|key| key == given) {
                    write.session_key = given;
                } else {
                    reader.violations.push(violation(name, "differs from the path's"));
                }
            }
            "if_version" => write.condition.version = reader.number(name, &member),
            "lock_token" => {
                write.lock_token = reader.text(name, &member).and_then(given);
            }
            _ => {}
        }
    }
    write.violations = reader.violations;
    Ok(write)
}

/// Reads the members that are not fields, and collects what is wrong with them.
struct Reader {
    violations: Vec<WireViolation>,
    seen: Vec<&'static str>,
}

impl Reader {
    fn once(&mut self, name: &'static str) {
        if self.seen.contains(&name) {
            self.violations.push(violation(name, "is given more than once"));
        }
        self.seen.push(name);
    }

    fn text(&mut self, name: &str, (_, value): &Member<'_>) -> Option<String> {
        self.value(name, value, "must be a JSON string")
    }

    /// A 64-bit number, which JSON also writes as a string.
    fn number(&mut self, name: &str, (_, value): &Member<'_>) -> Option<u64> {
        let text = value.get();
        let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
        if text == "null" {
            return None;
        }
        let number = inner.parse().ok();
        if number.is_none() {
            self.violations.push(violation(name, "must be an integer from 0 to 2^64 - 1"));
        }
        number
    }

    fn value<'a, T: serde::Deserialize<'a>>(
        &mut self,
        name: &str,
        value: &'a RawValue,
        expected: &str,
    ) -> Option<T> {
        serde_json::from_str::<Option<T>>(value.get()).unwrap_or_else(|_| {
            self.violations.push(violation(name, expected));
            None
        })
    }
}

fn violation(field: &str, description: impl Into<String>) -> WireViolation {
    WireViolation { field: field.into(), description: description.into() }
}

/// A session as JSON, documents embedded as the values they are. A component may
/// answer anything; what would break the JSON around it is an error.
fn render(session_key: &str, session: &Session) -> Result<Vec<u8>, ()> {
    let documents = session.fields.iter().filter_map(|field| field.value.as_ref());
    let size: usize = documents.map(Vec::len).sum();
    let mut out = Vec::with_capacity(size + 64 * session.fields.len() + 512);
    out.extend_from_slice(b"{\"session_key\":");
    string(&mut out, session_key);
    for StoredField { name, kind, value } in &session.fields {
        out.push(b',');
        string(&mut out, name);
        out.push(b':');
        match (kind, value) {
            (Kind::Document, Some(document)) => embed(&mut out, document),
            // A document that was never written is not among the fields.
            (Kind::Document, None) => out.extend_from_slice(b"null"),
            (Kind::Text, value) => {
                let text = value.as_deref().unwrap_or_default();
                string(&mut out, &String::from_utf8_lossy(text));
            }
            (Kind::Boolean, value) => {
                let yes = value.as_deref() == Some(b"1");
                out.extend_from_slice(if yes { b"true" } else { b"false" });
            }
            (Kind::Number, None) => out.push(b'0'),
            (Kind::Number, Some(number)) => {
                serde_json::from_slice::<f64>(number).map_err(drop)?;
                out.extend_from_slice(number);
            }
        }
    }
    out.extend_from_slice(b",\"version\":\"");
    out.extend_from_slice(itoa::Buffer::new().format(session.version).as_bytes());
    out.push(b'"');
    if let Some(at) = session.expires_at_ms {
        out.extend_from_slice(b",\"expires_at\":\"");
        instant::write(&mut out, at);
        out.push(b'"');
    }
    out.extend_from_slice(b"}\n");
    Ok(out)
}

/// A document as the JSON value it is, or its bytes in base64.
fn embed(out: &mut Vec<u8>, document: &[u8]) {
    if json::is_json(document) && !stands_for_bytes(document) {
        out.extend_from_slice(document);
    } else {
        out.extend_from_slice(b"{\"$bytes\":\"");
        out.extend_from_slice(STANDARD.encode(document).as_bytes());
        out.extend_from_slice(b"\"}");
    }
}

/// Whether a JSON document would be taken for bytes when it is written back.
fn stands_for_bytes(document: &[u8]) -> bool {
    let opening = document.trim_ascii_start().strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    opening.is_some_and(|rest| rest.starts_with(b"\"$bytes\""))
        && serde_json::from_slice::<BTreeMap<String, &RawValue>>(document).is_ok_and(|object| {
            object.len() == 1 && object.values().all(|value| value.get().starts_with('"'))
        })
}

impl From<Violation> for WireViolation {
    fn from(violation: Violation) -> Self {
        Self { field: violation.field, description: violation.description }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, kind: Kind, value: Option<&[u8]>) -> StoredField {
        StoredField { name: name.into(), kind, value: value.map(Into::into) }
    }

    #[test]
    fn a_session_is_rendered_flat_with_its_documents_embedded() {
        let session = Session {
            fields: vec![
                field("json", Kind::Document, Some(b"{\"a\": [1.50]}")),
                field("raw", Kind::Document, Some(b"\x08\xff")),
                field("empty", Kind::Document, Some(b"")),
                field("like", Kind::Document, Some(b"{\"$bytes\":\"AA==\"}")),
                field("unlike", Kind::Document, Some(b"{\"$bytes\":1}")),
                field("text", Kind::Text, Some(b"a\"b")),
                field("no_text", Kind::Text, None),
                field("yes", Kind::Boolean, Some(b"1")),
                field("no", Kind::Boolean, None),
                field("price", Kind::Number, Some(b"12.50")),
                field("no_price", Kind::Number, None),
            ],
            version: 7,
            expires_at_ms: Some(1_700_000_000_123),
        };
        let expected = concat!(
            r#"{"session_key":"k","json":{"a": [1.50]},"raw":{"$bytes":"CP8="},"#,
            r#""empty":{"$bytes":""},"like":{"$bytes":"eyIkYnl0ZXMiOiJBQT09In0="},"#,
            r#""unlike":{"$bytes":1},"text":"a\"b","no_text":"","yes":true,"no":false,"#,
            r#""price":12.50,"no_price":0,"version":"7","#,
            r#""expires_at":"2023-11-14T22:13:20.123Z"}"#,
            "\n"
        );
        let rendered = render("k", &session).expect("JSON");
        assert_eq!(String::from_utf8_lossy(&rendered), expected);
        assert!(json::is_json(&rendered));
    }

    #[test]
    fn values_from_a_component_do_not_break_the_json_around_them() {
        let session = |fields| Session { fields, version: u64::MAX, expires_at_ms: Some(u64::MAX) };
        let odd = vec![
            field("a\"b\n", Kind::Text, Some(b"\xff\0")),
            field("bool", Kind::Boolean, Some(b"perhaps")),
            field("json", Kind::Document, Some(b"}")),
        ];
        let rendered = render("k", &session(odd)).expect("JSON");
        assert!(json::is_json(&rendered), "{}", String::from_utf8_lossy(&rendered));
        for number in [&b"1,\"x\":2"[..], b"", b"NaN", b"1e999", b"\"1\""] {
            let fields = vec![field("n", Kind::Number, Some(number))];
            assert_eq!(render("k", &session(fields)), Err(()), "{number:?}");
        }
    }

    #[test]
    fn a_body_gives_fields_and_conditions_in_both_cases() {
        let body = br#"{"fleetListRequest":{"a":1},"ifVersion":"3","lock_token":"t","version":9}"#;
        let write = write("pre-order", Some("k"), body).expect("a write");
        assert_eq!((write.session_key.as_str(), write.condition.version), ("k", Some(3)));
        assert_eq!(write.lock_token.as_deref(), Some("t"));
        assert_eq!(write.fields.len(), 1);
        assert_eq!(write.fields[0].name, "fleetListRequest");
        assert!(write.violations.is_empty());
    }

    #[test]
    fn every_violation_of_the_body_is_reported() {
        let body = br#"{"session_key":"other","if_version":-1,"lock_token":5,"lockToken":"t"}"#;
        let write = write("pre-order", Some("k"), body).expect("a write");
        let fields: Vec<_> = write.violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["session_key", "if_version", "lock_token", "lock_token"]);
    }
}
