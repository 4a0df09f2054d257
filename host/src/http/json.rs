//! JSON as the wire meets it: the members of a body as text, with duplicates
//! kept for the rules to refuse, and limits on nesting.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::error::{Error, Violation};

/// The deepest nesting of a JSON value.
pub const NESTING_MAX: usize = 128;
/// The most members of a body.
const MEMBERS_MAX: usize = 256;
/// The most characters of a name that an error repeats.
const NAME_CHARACTERS_MAX: usize = 64;

/// A member of an object: its name and its value's text.
pub type Member<'a> = (Cow<'a, str>, &'a RawValue);

/// The members of the JSON object in a body, in their order; an empty body has
/// none. A member that is nested too deep comes back as a violation instead.
///
/// # Errors
/// `INVALID_REQUEST` when the body is not a JSON object.
pub fn members(body: &[u8]) -> Result<(Vec<Member<'_>>, Vec<Violation>), Error> {
    if body.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let Members { mut members, too_many } = serde_json::from_slice(body).map_err(|error| {
        // The message does not repeat the body, which may have a secret.
        let what = match error.classify() {
            Category::Data => "expected a JSON object".into(),
            _ => error.to_string(),
        };
        Error::invalid("body", format!("is not a JSON object: {what}"))
    })?;
    if too_many {
        return Err(Error::invalid("body", format!("has more than {MEMBERS_MAX} members")));
    }
    let mut violations = Vec::new();
    members.retain(|(name, value)| {
        let nesting = nesting(value.get());
        if nesting > NESTING_MAX {
            let description =
                format!("is nested {nesting} deep, at most {NESTING_MAX} is accepted");
            violations.push(Violation { field: shown(name), description });
        }
        nesting <= NESTING_MAX
    });
    Ok((members, violations))
}

/// Whether bytes are one JSON value that can stand inside another.
pub fn is_json(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_ok_and(|text| {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
            // Most documents have too few brackets to be nested too deep.
            && (opening_brackets(bytes) <= NESTING_MAX || nesting(text) <= NESTING_MAX)
    })
}

/// How many bytes are `[` or `{`, in strings too. The two differ in one bit, and a
/// count that fits its byte lets the compiler look at many bytes at once.
fn opening_brackets(bytes: &[u8]) -> usize {
    let count =
        |bytes: &[u8]| bytes.iter().fold(0_u8, |count, byte| count + u8::from(byte | 0x20 == b'{'));
    bytes.chunks(u8::MAX.into()).map(|chunk| usize::from(count(chunk))).sum()
}

/// A name from a request as an error may repeat it: as it is when it is one that
/// a field could have, else short, quoted and escaped.
pub fn shown(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.is_empty() && name.len() <= NAME_CHARACTERS_MAX && name.bytes().all(plain) {
        return name.into();
    }
    let mut short: String = name.chars().take(NAME_CHARACTERS_MAX).collect();
    if short.len() < name.len() {
        short.push('\u{2026}');
    }
    format!("{short:?}")
}

/// How deep the arrays and objects of a valid JSON text are nested.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut rest = text.as_bytes();
    while let Some(at) =
        rest.iter().position(|byte| matches!(byte, b'"' | b'[' | b'{' | b']' | b'}'))
    {
        let found = rest[at];
        rest = &rest[at + 1..];
        match found {
            b'"' => rest = behind_string(rest),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            _ => depth = depth.saturating_sub(1),
        }
    }
    deepest
}

/// The text behind a string whose opening quote was already read.
fn behind_string(mut rest: &[u8]) -> &[u8] {
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        if rest[at] == b'"' {
            return &rest[at + 1..];
        }
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    &[]
}

struct Members<'a> {
    members: Vec<Member<'a>>,
    /// There were more, which were ignored.
    too_many: bool,
}

/// A name that borrows from the body unless it has escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                let mut too_many = false;
                while let Some((Name(name), value)) = map.next_entry()? {
                    too_many = members.len() == MEMBERS_MAX;
                    if too_many {
                        break;
                    }
                    members.push((name, value));
                }
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Members { members, too_many })
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;

        impl<'de> Visitor<'de> for Borrow {
            type Value = Name<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Name(Cow::Owned(name.into())))
            }
        }

        deserializer.deserialize_str(Borrow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_text_and_their_duplicates() {
        let body = br#" {"a": [1, 2.50], "b\u0031":"x","a":null} "#;
        let (members, violations) = members(body).expect("an object");
        let members: Vec<_> = members.iter().map(|(name, value)| (&**name, value.get())).collect();
        assert_eq!(members, [("a", "[1, 2.50]"), ("b1", "\"x\""), ("a", "null")]);
        assert!(violations.is_empty());
    }

    #[test]
    fn a_body_that_is_no_object_is_refused_with_the_position() {
        for (body, expected) in [
            (&b"[1]"[..], "expected a JSON object"),
            (br#"{"device_id" = "Android Phone"}"#, "expected `:` at line 1 column 14"),
            (b"{\"a\":1} x", "trailing characters"),
            (b"{\"a\":", "EOF"),
            (b"{\"a\":\"\xff\"}", "invalid unicode"),
            (b"\"a secret\"", "expected a JSON object"),
            (b"\"a secret of more than 256 members\"", "expected a JSON object"),
            (format!("{{{}\"a\":1}}", "\"a\":1,".repeat(256)).as_bytes(), "more than 256 members"),
        ] {
            let error = members(body).expect_err(expected);
            assert!(error.message.contains(expected), "{}", error.message);
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
    }

    #[test]
    fn a_value_that_is_nested_too_deep_is_a_violation() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
        let (members, violations) = members(deep.as_bytes()).expect("an object");
        assert!(members.is_empty());
        assert!(violations[0].description.contains("nested 10000 deep"));
    }

    #[test]
    fn nesting_does_not_count_brackets_in_strings() {
        for (text, expected) in
            [("1", 0), ("[]", 1), (r#"{"a":[{}]}"#, 3), (r#"["[[\"{{"]"#, 1), (r#"["\\",[]]"#, 2)]
        {
            assert_eq!(nesting(text), expected, "{text}");
        }
    }

    #[test]
    fn opening_brackets_are_counted_wherever_they_stand() {
        assert_eq!(opening_brackets("x[{]}\"{;[\u{5b}".repeat(300).as_bytes()), 5 * 300);
        assert_eq!(opening_brackets(&[b'['; 1000]), 1000);
    }

    #[test]
    fn only_whole_values_in_utf_8_are_json() {
        for (bytes, expected) in [
            (&b"{\"a\":1}"[..], true),
            (b"null", true),
            (b"", false),
            (b"\x08\x01", false),
            (b"\"\xff\"", false),
            (b"1 2", false),
        ] {
            assert_eq!(is_json(bytes), expected, "{bytes:?}");
        }
    }
}
