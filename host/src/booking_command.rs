//! `session-manager get`, `set` and `delete`: one booking session of the process with the same
//! settings, over REST.

use anyhow::{Context, Result, bail};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Map, Value};

use crate::config::{Settings, Subject};
use crate::local;

/// The characters that must be encoded in a segment of a path.
const RESERVED: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'/').add(b'<').add(b'>').add(b'?');

/// Reads a session and prints it.
///
/// # Errors
/// If the process does not answer.
pub fn get(settings: &Settings, subject: &Subject) -> Result<bool> {
    ask(settings, "GET", subject, "")
}

/// Writes fields of a session, each as `name=value`, where the value is JSON, or text that does
/// not begin like JSON.
///
/// # Errors
/// If a field has another form, and nothing was sent; or if the process does not answer, and the
/// result is unknown.
pub fn set(settings: &Settings, subject: &Subject, fields: &[String]) -> Result<bool> {
    let mut body = Map::new();
    for field in fields {
        let Some((name, value)) = field.split_once('=') else {
            bail!("{field:?} is not name=value");
        };
        let value = value_of(name, value)?;
        if body.insert(name.into(), value).is_some() {
            bail!("{name:?} is given twice");
        }
    }
    ask(settings, "PUT", subject, &Value::Object(body).to_string())
}

/// The value of a field. A value that begins like a JSON object, array or string must be one:
/// otherwise a typing error would be stored as text, and found only by a later reader.
fn value_of(name: &str, value: &str) -> Result<Value> {
    match serde_json::from_str(value) {
        Ok(value) => Ok(value),
        Err(error) if value.trim_start().starts_with(['{', '[', '"']) => bail!(
            "the value of {name} begins like JSON but is not valid: {error}; nothing was sent. \
             Write text that begins like this as a JSON string"
        ),
        Err(_) => Ok(Value::from(value)),
    }
}

/// Deletes a session.
///
/// # Errors
/// If the process does not answer.
pub fn delete(settings: &Settings, subject: &Subject) -> Result<bool> {
    ask(settings, "DELETE", subject, "")
}

#[allow(clippy::print_stdout, reason = "this is what was asked for")]
fn ask(settings: &Settings, method: &str, subject: &Subject, body: &str) -> Result<bool> {
    let segment = |text| utf8_percent_encode(text, RESERVED);
    let Subject { context, session_key } = subject;
    let path = format!("/v1/{}/sessions/{}", segment(context), segment(session_key));
    let (address, port) = (settings.network.bind_address, settings.network.rest_port);
    let answer = local::ask(address, port, method, &path, body);
    let answer = answer.with_context(|| format!("{address}:{port} does not answer"))?;
    if answer.is_success() {
        println!("{}", answer.body);
        return Ok(true);
    }
    let refused: Option<Value> = serde_json::from_str(&answer.body).ok();
    let message = refused.as_ref().and_then(|refused| refused["message"].as_str());
    eprintln!("session-manager: {}", message.unwrap_or("it was refused without a reason"));
    Ok(false)
}
