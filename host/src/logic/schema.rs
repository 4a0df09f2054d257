//! What a component says of itself: whether it makes sense, and whether the
//! sessions of the running component could still be read by it.

use std::collections::HashSet;

use crate::logic::bindings::exports::session::manager::catalog::{Context, Description, Kind};

/// The most contexts of a component, and the most fields of a context.
const CONTEXTS_MAX: usize = 256;
const FIELDS_MAX: usize = 256;
/// The most characters of a name.
const NAME_CHARACTERS_MAX: usize = 64;
/// The most bytes that a field may have.
const FIELD_BYTES_MAX: u32 = 4 << 20;

/// Whether a description can be served.
///
/// # Errors
/// Everything that cannot, by context and field.
pub fn makes_sense(description: &Description) -> Result<(), String> {
    let mut breaches = Vec::new();
    if !is_version(&description.version) {
        breaches.push(format!(
            "its version {:?} is not of the form 1.2.3",
            short(&description.version)
        ));
    }
    let contexts = &description.contexts;
    if contexts.len() > CONTEXTS_MAX {
        breaches
            .push(format!("it has {} contexts, at most {CONTEXTS_MAX} are served", contexts.len()));
    }
    for (index, context) in contexts.iter().take(CONTEXTS_MAX).enumerate() {
        breaches.extend(context_breaches(context));
        for other in &contexts[..index] {
            if other.name == context.name {
                breaches.push(format!("two contexts are named {:?}", short(&context.name)));
            }
            let (one, two) = (&other.key_prefix, &context.key_prefix);
            if one.starts_with(two.as_str()) || two.starts_with(one.as_str()) {
                breaches.push(format!(
                    "the key prefixes of {:?} and {:?} are not apart",
                    short(&other.name),
                    short(&context.name)
                ));
            }
        }
    }
    if breaches.is_empty() { Ok(()) } else { Err(breaches.join("; ")) }
}

fn context_breaches(context: &Context) -> Vec<String> {
    let mut breaches = Vec::new();
    let name = short(&context.name);
    if !is_name(&context.name, b'-') {
        breaches.push(format!(
            "the context {name:?} is not named in 1 to {NAME_CHARACTERS_MAX} lower-case letters, \
             digits and hyphens"
        ));
    }
    if !is_key(&context.key_prefix) {
        breaches.push(format!(
            "the key prefix of {name:?} is not 1 to {NAME_CHARACTERS_MAX} visible ASCII \
             characters without braces"
        ));
    }
    if context.ttl_ms == 0 {
        breaches.push(format!("the sessions of {name:?} live for no time"));
    }
    if context.fields.is_empty() || context.fields.len() > FIELDS_MAX {
        breaches.push(format!(
            "{name:?} has {} fields, 1 to {FIELDS_MAX} are served",
            context.fields.len()
        ));
    }
    let mut names = HashSet::new();
    let mut stored = HashSet::new();
    for field in context.fields.iter().take(FIELDS_MAX) {
        let what = format!("the field {:?} of {name:?}", short(&field.name));
        if !is_name(&field.name, b'_') {
            breaches.push(format!(
                "{what} is not named in 1 to {NAME_CHARACTERS_MAX} lower-case letters, digits \
                 and underscores"
            ));
        }
        if RESERVED.contains(&field.name.as_str()) {
            breaches.push(format!("{what} has a name that requests and replies use themselves"));
        }
        if !names.insert(field.name.replace('_', "")) {
            breaches.push(format!("{what} has the name of another"));
        }
        if !is_key(&field.stored_as) || field.stored_as.starts_with('_') {
            breaches.push(format!(
                "{what} is not stored as 1 to {NAME_CHARACTERS_MAX} visible ASCII characters that \
                 begin without an underscore"
            ));
        }
        if !stored.insert(&field.stored_as) {
            breaches.push(format!("{what} is stored where another is"));
        }
        if field.max_bytes == 0 || field.max_bytes > FIELD_BYTES_MAX {
            breaches.push(format!(
                "{what} takes {} bytes, not 1 to {FIELD_BYTES_MAX}",
                field.max_bytes
            ));
        }
    }
    breaches
}

/// Names that stand beside fields in a body.
const RESERVED: [&str; 5] = ["session_key", "version", "expires_at", "if_version", "lock_token"];

/// What the sessions of `running` have that `candidate` would not find: each is a
/// sentence that names the context and the field.
pub fn lost(running: &Description, candidate: &Description) -> Vec<String> {
    let mut lost = Vec::new();
    for before in &running.contexts {
        let name = &before.name;
        let Some(after) = candidate.contexts.iter().find(|context| context.name == *name) else {
            lost.push(format!("the context {name} is gone"));
            continue;
        };
        if after.key_prefix != before.key_prefix {
            lost.push(format!("the context {name} has another key prefix"));
        }
        for field in &before.fields {
            let (name, field_name) = (&before.name, &field.name);
            let Some(after) = after.fields.iter().find(|after| after.name == *field_name) else {
                lost.push(format!("the field {field_name} of the context {name} is gone"));
                continue;
            };
            if after.stored_as != field.stored_as {
                lost.push(format!(
                    "the field {field_name} of the context {name} is stored elsewhere"
                ));
            }
            if after.kind != field.kind {
                lost.push(format!(
                    "the field {field_name} of the context {name} is {} and was {}",
                    kind(after.kind),
                    kind(field.kind)
                ));
            }
        }
    }
    lost
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Document => "a document",
        Kind::Text => "text",
        Kind::Boolean => "a boolean",
        Kind::Number => "a number",
    }
}

/// A name from a component that may not make sense, fit to be repeated.
fn short(name: &str) -> String {
    name.chars().take(NAME_CHARACTERS_MAX).collect()
}

fn is_name(name: &str, joint: u8) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == joint;
    (1..=NAME_CHARACTERS_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && name.as_bytes()[0].is_ascii_lowercase()
}

fn is_key(text: &str) -> bool {
    (1..=NAME_CHARACTERS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}'))
}

fn is_version(version: &str) -> bool {
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<_> = core.split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    version.len() <= NAME_CHARACTERS_MAX
        && version.bytes().all(|byte| byte.is_ascii_graphic())
        && parts.len() == 3
        && parts.iter().all(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::FieldDescription;

    fn field(name: &str, kind: Kind) -> FieldDescription {
        let stored_as = name.to_uppercase();
        FieldDescription { name: name.into(), stored_as, kind, max_bytes: 1024 }
    }

    fn context(name: &str, fields: Vec<FieldDescription>) -> Context {
        let key_prefix = format!("SESSION_{}:", name.to_uppercase());
        Context { name: name.into(), key_prefix, fields, ttl_ms: 900_000, one_time_field: None }
    }

    fn description() -> Description {
        let contexts = vec![
            context("flights", vec![field("offer", Kind::Document), field("seats", Kind::Number)]),
            context("hotels", vec![field("paid", Kind::Boolean)]),
        ];
        Description { version: "1.2.3".into(), contexts }
    }

    /// A change to a description, and the breach that is reported for it.
    type Case<T> = (fn(&mut Description), T);

    #[test]
    fn a_breach_of_a_description_names_the_context_and_field() {
        assert_eq!(makes_sense(&description()), Ok(()));
        let cases: [Case<&str>; 15] = [
            (|d| d.version = "new".into(), "its version \"new\" is not of the form"),
            (
                |d| d.contexts[0].name = "Flights\n".into(),
                r#"the context "Flights\n" is not named"#,
            ),
            (|d| d.contexts[0].name = "x".repeat(65), "is not named in 1 to 64"),
            (|d| d.contexts[1].name = "flights".into(), "two contexts are named \"flights\""),
            (|d| d.contexts[1].key_prefix = "SESSION_".into(), "\"hotels\" are not apart"),
            (|d| d.contexts[1].key_prefix = "{x}:".into(), "the key prefix of \"hotels\""),
            (|d| d.contexts[1].ttl_ms = 0, "\"hotels\" live for no time"),
            (|d| d.contexts[1].fields.clear(), "\"hotels\" has 0 fields"),
            (
                |d| d.contexts[1].fields[0].name = "pa id".into(),
                "the field \"pa id\" of \"hotels\"",
            ),
            (|d| d.contexts[1].fields[0].name = "version".into(), "use themselves"),
            (|d| d.contexts[0].fields[1].name = "of_fer".into(), "has the name of another"),
            (|d| d.contexts[0].fields[1].stored_as = "OFFER".into(), "is stored where another is"),
            (|d| d.contexts[1].fields[0].stored_as = "_version".into(), "without an underscore"),
            (|d| d.contexts[1].fields[0].max_bytes = 0, "takes 0 bytes"),
            (
                |d| d.contexts = vec![d.contexts[0].clone(); 300],
                "it has 300 contexts, at most 256 are served",
            ),
        ];
        for (change, expected) in cases {
            let mut changed = description();
            change(&mut changed);
            let breaches = makes_sense(&changed).expect_err(expected);
            assert!(breaches.contains(expected), "{expected}: {breaches}");
        }
    }

    #[test]
    fn data_that_stored_sessions_would_lose_is_reported_by_name() {
        let running = description();
        assert!(lost(&running, &running).is_empty());
        let cases: [Case<&[&str]>; 6] = [
            (|d| drop(d.contexts.remove(1)), &["the context hotels is gone"]),
            (
                |d| drop(d.contexts[0].fields.remove(0)),
                &["the field offer of the context flights is gone"],
            ),
            (
                |d| d.contexts[1].key_prefix = "H:".into(),
                &["the context hotels has another key prefix"],
            ),
            (
                |d| d.contexts[0].fields[1].stored_as = "S".into(),
                &["the field seats of the context flights is stored elsewhere"],
            ),
            (
                |d| d.contexts[0].fields[1].kind = Kind::Text,
                &["the field seats of the context flights is text and was a number"],
            ),
            (
                |d| {
                    d.contexts.push(context("cars", vec![field("plate", Kind::Text)]));
                    d.contexts[0].fields.push(field("meal", Kind::Text));
                    d.contexts[0].ttl_ms = 1;
                },
                &[],
            ),
        ];
        for (change, expected) in cases {
            let mut changed = description();
            change(&mut changed);
            assert_eq!(lost(&running, &changed), expected);
        }
    }
}
