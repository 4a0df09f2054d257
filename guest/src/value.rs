//! Values of fields between their wire encoding and their stored bytes. A
//! document is stored as it came; text in UTF-8; a boolean as `1` or `0`; a
//! number in decimal. Other programs may have written a stored value, so a
//! read accepts more than a write.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::booking_types::Value;
use crate::catalog::Kind;
use crate::keys::control_violation;
use crate::schema::{DOCUMENT_BYTES_MAX, Field};

/// The member that marks a JSON object as bytes that are not JSON.
const BYTES_MEMBER: &str = "$bytes";

/// The most bytes of a document in base64, with room for what surrounds it.
const ENCODED_BYTES_MAX: usize = DOCUMENT_BYTES_MAX as usize / 3 * 4 + 4096;

/// Standard base64 with or without padding, as proto3 JSON accepts it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes to store for a value; `None` for a JSON null that stands for "not
/// given".
///
/// # Errors
/// A description of what is wrong and what is accepted.
pub fn to_stored(field: &Field, value: Value) -> Result<Option<Vec<u8>>, String> {
    let stored = match (field.kind, value) {
        (Kind::Document, Value::Bytes(bytes)) => bytes,
        (Kind::Document, Value::Json(text)) => document_from_json(text)?,
        (_, Value::Json(text)) if text == b"null" => return Ok(None),
        (Kind::Text, value) => {
            let text = match value {
                Value::Bytes(bytes) => {
                    String::from_utf8(bytes).map_err(|_| "must be UTF-8 text".to_string())?
                }
                Value::Json(text) => serde_json::from_slice(&text)
                    .map_err(|_| "must be a JSON string".to_string())?,
            };
            // Other programs show these texts, and a line break or an escape could forge lines.
            if let Some(violation) = control_violation(&text) {
                return Err(violation);
            }
            text.into_bytes()
        }
        (Kind::Boolean, value) => {
            let stored = match &value {
                Value::Bytes(text) => boolean(text),
                // JSON has true and false: it does not accept 1 and 0.
                Value::Json(text) => boolean(text).filter(|_| text.len() > 1),
            };
            stored.ok_or_else(|| "must be a boolean: true or false".to_string())?.to_vec()
        }
        (Kind::Number, Value::Bytes(text) | Value::Json(text)) => number(text)?,
    };
    let bytes_max = field.bytes_max as usize;
    if stored.len() > bytes_max {
        return Err(format!("has {} bytes, at most {bytes_max} are accepted", stored.len()));
    }
    Ok(Some(stored))
}

/// The stored bytes as a reply carries them: canonical scalars, documents as
/// they are; `None` when another program wrote a value that the type cannot hold.
pub fn from_stored(kind: Kind, stored: Vec<u8>) -> Option<Vec<u8>> {
    match kind {
        Kind::Document => Some(stored),
        Kind::Text => Some(match String::from_utf8_lossy(&stored) {
            Cow::Borrowed(_) => stored,
            Cow::Owned(text) => text.into_bytes(),
        }),
        Kind::Boolean if TRUE.contains(&&*stored) => Some(TRUE[0].to_vec()),
        Kind::Boolean => FALSE.contains(&&*stored).then(|| FALSE[0].to_vec()),
        Kind::Number => number(stored).ok(),
    }
}

/// The stored texts that mean true: the one that we write first, then those of other
/// programs.
pub const TRUE: [&[u8]; 6] = [b"1", b"true", b"TRUE", b"True", b"t", b"T"];
/// The stored texts that mean false.
const FALSE: [&[u8]; 6] = [b"0", b"false", b"FALSE", b"False", b"f", b"F"];

/// A boolean as it is stored, from the texts that a request may have.
fn boolean(text: &[u8]) -> Option<&'static [u8]> {
    match text {
        b"1" | b"true" => Some(TRUE[0]),
        b"0" | b"false" => Some(FALSE[0]),
        _ => None,
    }
}

/// A finite number as JSON writes it; the quotes that proto3 JSON allows around
/// one are taken off.
fn number(text: Vec<u8>) -> Result<Vec<u8>, String> {
    let refused = || "must be a finite number".to_string();
    let inner = text.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(&text);
    let value: f64 = serde_json::from_slice(inner).map_err(|_| refused())?;
    if !value.is_finite() {
        return Err(refused());
    }
    let trimmed = inner.trim_ascii();
    Ok(if trimmed.len() == text.len() { text } else { trimmed.to_vec() })
}

/// A document from JSON: the text itself, or the bytes of `{"$bytes": "…"}`.
fn document_from_json(text: Vec<u8>) -> Result<Vec<u8>, String> {
    let opening = text.strip_prefix(b"{").map(<[u8]>::trim_ascii_start);
    if !opening.is_some_and(|rest| rest.starts_with(b"\"$bytes\"")) {
        return Ok(text);
    }
    // It is larger than the largest document in base64: the check of the size refuses it.
    if text.len() > ENCODED_BYTES_MAX {
        return Ok(text);
    }
    let Ok(object) = serde_json::from_slice::<BTreeMap<String, &RawValue>>(&text) else {
        return Ok(text);
    };
    let (1, Some(value)) = (object.len(), object.get(BYTES_MEMBER)) else { return Ok(text) };
    let Ok(encoded) = serde_json::from_str::<String>(value.get()) else { return Ok(text) };
    BASE64.decode(encoded).map_err(|_| "has a \"$bytes\" that is not standard base64".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(kind: Kind) -> Field {
        Field { name: "f", stored_as: "F", kind, bytes_max: 16 }
    }

    fn json(text: &str) -> Value {
        Value::Json(text.as_bytes().to_vec())
    }

    fn bytes(text: &[u8]) -> Value {
        Value::Bytes(text.to_vec())
    }

    #[test]
    fn a_value_is_stored_by_its_kind() {
        for (kind, value, expected) in [
            (Kind::Document, json("[1, 2]"), &b"[1, 2]"[..]),
            (Kind::Document, json("null"), b"null"),
            (Kind::Document, bytes(b"\x08\xff"), b"\x08\xff"),
            (Kind::Document, bytes(b""), b""),
            (Kind::Document, json("{ \"$bytes\": \"CP8=\"}"), b"\x08\xff"),
            (Kind::Document, json("{\"$bytes\":\"CP8\"}"), b"\x08\xff"),
            (Kind::Document, json("{\"$bytes\":1}"), b"{\"$bytes\":1}"),
            (Kind::Text, json("\"a\\u00e9 b\""), "a\u{e9} b".as_bytes()),
            (Kind::Text, bytes(b"plain"), b"plain"),
            (Kind::Boolean, json("true"), b"1"),
            (Kind::Boolean, bytes(b"false"), b"0"),
            (Kind::Boolean, bytes(b"1"), b"1"),
            (Kind::Number, json("12.50"), b"12.50"),
            (Kind::Number, json("\"-3e2\""), b"-3e2"),
            (Kind::Number, bytes(b"0"), b"0"),
        ] {
            let stored = to_stored(&field(kind), value);
            assert_eq!(stored, Ok(Some(expected.to_vec())), "{kind:?}");
        }
    }

    #[test]
    fn null_leaves_a_scalar_unwritten() {
        for kind in [Kind::Text, Kind::Boolean, Kind::Number] {
            assert_eq!(to_stored(&field(kind), json("null")), Ok(None), "{kind:?}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_or_size_is_described() {
        for (kind, value, expected) in [
            (Kind::Document, bytes(&[0; 17]), "17 bytes, at most 16"),
            (Kind::Document, json("{\"$bytes\":\"*\"}"), "base64"),
            (Kind::Text, json("7"), "JSON string"),
            (Kind::Text, bytes(b"\xff"), "UTF-8"),
            (Kind::Text, json("\"seventeen letters\""), "17 bytes"),
            (Kind::Text, json("\"a\\r\\nb\""), "control character '\\r' at character 2"),
            (Kind::Text, bytes(b"a\0"), "control character '\\0' at character 2"),
            (Kind::Text, bytes(b"\xc2\x85"), "control character '\\u{85}' at character 1"),
            (Kind::Boolean, json("\"yes\""), "true or false"),
            (Kind::Boolean, json("1"), "true or false"),
            (Kind::Number, json("\"abc\""), "finite number"),
            (Kind::Number, bytes(b"NaN"), "finite number"),
            (Kind::Number, bytes(b"1e999"), "finite number"),
            (Kind::Number, json("{}"), "finite number"),
        ] {
            let error = to_stored(&field(kind), value).expect_err(expected);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn values_of_other_programs_are_read_as_far_as_their_type_allows() {
        for (stored, expected) in [
            ("1", Some("1")),
            ("true", Some("1")),
            ("TRUE", Some("1")),
            ("t", Some("1")),
            ("0", Some("0")),
            ("False", Some("0")),
            ("f", Some("0")),
            ("maybe", None),
            ("tRUE", None),
            ("", None),
        ] {
            let read = from_stored(Kind::Boolean, stored.as_bytes().to_vec());
            assert_eq!(read.as_deref(), expected.map(str::as_bytes), "{stored}");
        }
        assert_eq!(from_stored(Kind::Number, b"12".to_vec()), Some(b"12".to_vec()));
        assert_eq!(from_stored(Kind::Number, b"many".to_vec()), None);
        assert_eq!(from_stored(Kind::Text, b"\xff".to_vec()), Some("\u{fffd}".as_bytes().to_vec()));
    }
}
