//! The values of settings, by flag or environment variable. Blanks around a value are dropped. A
//! value in quotes is refused, as tools differ in whether they remove quotes. Every setting except
//! a secret is read through here; a secret is kept byte for byte.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Error};

/// Reads a setting with `read`. It gets the text without surrounding blanks, and returns what is
/// accepted if it refuses.
pub fn given<T>(read: fn(&str) -> Result<T, String>) -> Given<T> {
    Given(read)
}

/// Any text.
///
/// # Errors
/// Never.
#[allow(clippy::unnecessary_wraps, reason = "it stands where others refuse")]
pub fn text(text: &str) -> Result<String, String> {
    Ok(text.into())
}

/// A parser of settings that are not secrets.
#[derive(Debug)]
pub struct Given<T>(fn(&str) -> Result<T, String>);

impl<T> Clone for Given<T> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Given<T> {
    type Value = T;

    fn parse_ref(
        &self,
        _: &clap::Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, Error> {
        let name = name_of(argument);
        let read = match value.to_str() {
            Some(text) => unquoted(&name, text.trim()).and_then(self.0),
            None => Err("expected UTF-8".into()),
        };
        read.map_err(|expected| {
            let text = refused(&name, &value.to_string_lossy(), &expected);
            Error::raw(ErrorKind::ValueValidation, text)
        })
    }
}

/// A parser of secrets: any text, which no message shows.
#[derive(Clone, Debug)]
pub struct SecretText;

impl TypedValueParser for SecretText {
    type Value = String;

    fn parse_ref(
        &self,
        _: &clap::Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, Error> {
        let refused = || {
            let text = format!("invalid value for {}: expected UTF-8", name_of(argument));
            Error::raw(ErrorKind::ValueValidation, text)
        };
        value.to_str().map(Into::into).ok_or_else(refused)
    }
}

/// The line that refuses a value. A value that may contain a password is not shown.
pub fn refused(name: &str, value: &str, expected: &str) -> String {
    if value.contains(['@', '?']) {
        return format!("invalid value for {name}: {expected}");
    }
    // The usual form would show a quote with a backslash that the value does not have.
    let plain = value.contains('"') && !value.contains(['\'', '\\']);
    let shown = match plain && !value.chars().any(char::is_control) {
        true => format!("'{value}'"),
        false => format!("{value:?}"),
    };
    format!("invalid value {shown} for {name}: {expected}")
}

/// Whether a text is enclosed in quotes.
pub fn is_quoted(text: &str) -> bool {
    let inside = |quote| text.strip_prefix(quote).is_some_and(|rest| rest.ends_with(quote));
    inside('"') || inside('\'')
}

fn unquoted<'a>(name: &str, text: &'a str) -> Result<&'a str, String> {
    if !is_quoted(text) {
        return Ok(text);
    }
    let instead = match &text[1..text.len() - 1] {
        "" => format!("leave {name} out"),
        inside => format!("write {name}={inside}"),
    };
    Err(format!("expected a value without quotes, which docker's --env-file keeps; {instead}"))
}

/// The name of a setting.
fn name_of(argument: Option<&Arg>) -> String {
    let name = argument.and_then(Arg::get_env).map(OsStr::to_string_lossy);
    name.unwrap_or_default().into_owned()
}
