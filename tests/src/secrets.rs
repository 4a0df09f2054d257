//! What a server must not log: the ids and tokens that clients of the tests have sent or
//! received. When a server ends, the harness searches its log for them.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value as Json;

/// Members that hold an id or a token.
const MEMBERS: [&str; 8] = [
    "session_id",
    "sessionId",
    "session_key",
    "sessionKey",
    "lock_token",
    "access_token",
    "refresh_token",
    "auth_code",
];
/// A shorter text is not a secret: a log may contain it for another reason.
const LENGTH_MIN: usize = 12;

static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Remembers the ids and tokens of a message.
pub fn remember(message: &Json) {
    match message {
        Json::Array(items) => items.iter().for_each(remember),
        Json::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if MEMBERS.contains(&name.as_str()) => remember_text(text),
                    _ => remember(value),
                }
            }
        }
        _ => {}
    }
}

/// Remembers an id or a token.
pub fn remember_text(text: &str) {
    if text.len() >= LENGTH_MIN {
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(text.into());
    }
}

/// The first characters of a secret that a log contains, if it contains one.
pub fn found_in(log: &str) -> Option<String> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|secret| log.contains(secret.as_str()))?;
    Some(found.chars().take(6).collect())
}
