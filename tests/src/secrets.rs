//! What a server must not log: ids and tokens that clients of the tests have sent or got.
//! Every log of every server is searched for them when it ends.

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
/// A short text is no secret, and may be in a log for another reason.
const LENGTH_MIN: usize = 12;

static KNOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Notes the ids and tokens of a message.
pub fn note(message: &Json) {
    match message {
        Json::Array(items) => items.iter().for_each(note),
        Json::Object(members) => {
            for (name, value) in members {
                match value.as_str() {
                    Some(text) if MEMBERS.contains(&name.as_str()) => note_text(text),
                    _ => note(value),
                }
            }
        }
        _ => {}
    }
}

/// Notes an id or a token.
pub fn note_text(text: &str) {
    if text.len() >= LENGTH_MIN {
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).insert(text.into());
    }
}

/// The beginning of a secret that is in a log, if one is.
pub fn found_in(log: &str) -> Option<String> {
    let known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let found = known.iter().find(|secret| log.contains(secret.as_str()))?;
    Some(found.chars().take(6).collect())
}
