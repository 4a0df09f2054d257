//! Every key and key rule of the store. Booking keys are literal, so that the
//! data stays readable to programs that know only the key; what belongs to one
//! carries the whole key as its tag and so lives beside it in a cluster.

use crate::schema::Context;

/// The field that counts the writes of a session. Fields of our own begin with
/// `_`, so readers of a hash can tell them from its data.
pub const VERSION_FIELD: &str = "_version";
/// The field of a lock that holds its token.
pub const TOKEN_FIELD: &str = "token";
/// The most characters a session key may have.
pub const SESSION_KEY_CHARACTERS_MAX: usize = 256;

const FORBIDDEN: [u8; 5] = *b"{}/?#";

/// The hash of a session.
pub fn session(context: &Context, session_key: &str) -> String {
    [context.key_prefix, session_key].concat()
}

/// The hash of the lock on a session.
pub fn lock(session: &str) -> String {
    ["SESSION_LOCK:{", session, "}"].concat()
}

/// What is wrong with a session key, or `None`.
pub fn session_key_violation(session_key: &str) -> Option<String> {
    if session_key.is_empty() {
        return Some("must not be empty".into());
    }
    if session_key.len() > SESSION_KEY_CHARACTERS_MAX {
        return Some(format!(
            "has {} characters, at most {SESSION_KEY_CHARACTERS_MAX} are accepted",
            session_key.chars().count()
        ));
    }
    let wrong = session_key.chars().find(|&character| {
        !character.is_ascii_graphic() || FORBIDDEN.contains(&(character as u8))
    })?;
    Some(format!(
        "contains {wrong:?}; visible ASCII characters are accepted, except space and {{ }} / ? #"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_key_is_visible_ascii_without_separators() {
        let long = "k".repeat(256);
        for accepted in ["a", "AZaz09-_=.:~!", long.as_str()] {
            assert_eq!(session_key_violation(accepted), None, "{accepted}");
        }
        let too_long = "k".repeat(300);
        for (refused, why) in [
            ("", "empty"),
            ("a b", "' '"),
            ("a{b", "'{'"),
            ("a}b", "'}'"),
            ("a/b", "'/'"),
            ("a?b", "'?'"),
            ("a#b", "'#'"),
            ("a\nb", "'\\n'"),
            ("a\u{7f}b", "'\\u{7f}'"),
            ("schl\u{fc}ssel", "'\u{fc}'"),
            (too_long.as_str(), "300 characters"),
        ] {
            let violation = session_key_violation(refused).expect(refused);
            assert!(violation.contains(why), "{refused:?}: {violation}");
        }
    }

    #[test]
    fn a_lock_lives_in_the_slot_of_its_session() {
        assert_eq!(lock("SESSION_RESCHEDULE:abc"), "SESSION_LOCK:{SESSION_RESCHEDULE:abc}");
    }
}
