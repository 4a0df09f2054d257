//! Conditions in the headers of a request (RFC 9110, section 13). On a write they are obeyed or
//! refused, so that a write changes only the version that its sender has seen, by its `ETag`. On
//! a read they are ignored: no read is answered 304.

use http::header::{ETAG, IF_MATCH, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::error::{Error, Reason};
use crate::http::answer::Answer;
use crate::logic::Condition;

/// No session reaches this version, so the condition never holds.
const NO_VERSION: u64 = u64::MAX;

/// The condition in the headers of a request that changes a session with versions.
///
/// # Errors
/// `INVALID_REQUEST` when it is not a condition that the service supports.
pub fn read(headers: &HeaderMap) -> Result<Option<Condition>, Error> {
    refuse(headers, &[IF_UNMODIFIED_SINCE, IF_RANGE])?;
    let tag = |name: &HeaderName| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|value| value.as_bytes().trim_ascii())),
            (_, Some(_)) => Err(Error::invalid(name.as_str(), "is given more than once")),
        }
    };
    let (matching, none_matching) = (tag(&IF_MATCH)?, tag(&IF_NONE_MATCH)?);
    match (matching, none_matching) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            Err(Error::invalid(IF_MATCH.as_str(), "is given together with if-none-match"))
        }
        (None, Some(b"*")) => Ok(Some(Condition { version: None, exists: Some(false) })),
        (None, Some(_)) => Err(Error::invalid(IF_NONE_MATCH.as_str(), "must be *")),
        (Some(b"*"), None) => Ok(Some(Condition { version: None, exists: Some(true) })),
        (Some(tag), None) => {
            let version = version(tag)?;
            Ok(Some(Condition { version: Some(version), exists: Some(true) }))
        }
    }
}

/// The version that a tag names. A tag that no session ever had matches nothing.
fn version(tag: &[u8]) -> Result<u64, Error> {
    // A weak tag never matches where the strong comparison is asked for.
    let opaque = tag.strip_prefix(b"W/").unwrap_or(tag);
    let inner = opaque.strip_prefix(b"\"").and_then(|tag| tag.strip_suffix(b"\""));
    let inner = inner.filter(|inner| !inner.contains(&b'"'));
    let Some(inner) = inner else {
        return Err(Error::invalid(IF_MATCH.as_str(), "must be * or one version, such as \"3\""));
    };
    let version = str::from_utf8(inner).ok().and_then(|inner| inner.parse().ok());
    let own = version.filter(|version: &u64| version.to_string().as_bytes() == inner);
    Ok(own.filter(|_| opaque.len() == tag.len()).unwrap_or(NO_VERSION))
}

/// Refuses conditions on a route whose sessions have no versions. If they were ignored, a write
/// could overwrite a change that its sender has not seen.
///
/// # Errors
/// `INVALID_REQUEST`.
pub fn refuse_all(method: &Method, headers: &HeaderMap) -> Result<(), Error> {
    if method.is_safe() {
        return Ok(());
    }
    refuse(headers, &[IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE])
}

fn refuse(headers: &HeaderMap, names: &[HeaderName]) -> Result<(), Error> {
    match names.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(name.as_str(), "is not a condition of this request")),
    }
}

/// The condition in the headers and in the message together.
///
/// # Errors
/// `INVALID_REQUEST` when both have one.
pub fn together(headers: Option<Condition>, message: Condition) -> Result<Condition, Error> {
    match (headers, message.version) {
        (None, _) => Ok(message),
        (Some(condition), None) => Ok(condition),
        (Some(_), Some(_)) => {
            Err(Error::invalid("if_version", "is given together with a condition in the headers"))
        }
    }
}

/// The error of a request whose condition does not hold. For a condition in the headers it has
/// the status of HTTP.
pub fn failed(headers: Option<Condition>, mut error: Error) -> Error {
    if headers.is_some() && error.reason == Reason::VersionMismatch {
        error.reason = Reason::PreconditionFailed;
    }
    error
}

/// Adds the version of a session to an answer.
pub fn tag(answer: &mut Answer, version: u64) {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(version).as_bytes();
    // In quotes; a version has 20 digits at most.
    let mut text = [b'"'; 22];
    text[1..=digits.len()].copy_from_slice(digits);
    if let Ok(tag) = HeaderValue::from_bytes(&text[..digits.len() + 2]) {
        answer.headers_mut().insert(ETAG, tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(headers: &[(&'static str, &'static str)]) -> Result<Option<Condition>, Error> {
        let pairs = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        read(&pairs.collect())
    }

    #[test]
    fn a_condition_is_a_version_or_whether_there_is_anything() {
        for (headers, version, exists) in [
            (&[("if-match", "\"3\"")][..], Some(3), Some(true)),
            (&[("if-match", "\"0\"")], Some(0), Some(true)),
            (&[("if-match", "*")], None, Some(true)),
            (&[("if-none-match", "*")], None, Some(false)),
            (&[("if-match", "W/\"3\"")], Some(NO_VERSION), Some(true)),
            (&[("if-match", "\"03\"")], Some(NO_VERSION), Some(true)),
            (&[("if-match", "\"abc\"")], Some(NO_VERSION), Some(true)),
        ] {
            let condition = given(headers).expect("accepted").expect("a condition");
            assert_eq!((condition.version, condition.exists), (version, exists), "{headers:?}");
        }
        assert!(given(&[]).expect("accepted").is_none());
        for wrong in [
            &[("if-match", "3")][..],
            &[("if-match", "\"1\", \"2\"")],
            &[("if-match", "\"1\""), ("if-match", "\"2\"")],
            &[("if-match", "*"), ("if-none-match", "*")],
            &[("if-none-match", "\"1\"")],
            &[("if-unmodified-since", "Sat, 29 Oct 1994 19:43:31 GMT")],
        ] {
            let error = given(wrong).expect_err("refused");
            assert_eq!(error.reason, Reason::InvalidRequest, "{wrong:?}");
        }
    }

    #[test]
    fn the_condition_is_in_the_headers_or_in_the_message() {
        let message = |version| Condition { version, exists: None };
        let header = Some(Condition { version: Some(1), exists: Some(true) });
        assert!(together(header, message(Some(1))).is_err());
        assert_eq!(together(None, message(Some(2))).expect("accepted").version, Some(2));
        assert_eq!(together(header, message(None)).expect("accepted").version, Some(1));
    }
}
