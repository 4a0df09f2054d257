//! Every key and key rule of the store. Booking keys are literal, so that the
//! data stays readable to programs that know only the key; what belongs to one
//! carries the whole key as its tag and so lives beside it in a cluster. What
//! belongs to an account or a device carries the tag of its partition, one of a
//! fixed number.

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

/// The keys of a home, all in the partition of its account.
pub struct Home {
    /// The hash of what is known of the home itself.
    pub home: String,
    /// The expiring set of the sessions that hold a slot.
    pub slots: String,
    sessions: String,
    account_id: String,
}

impl Home {
    /// The keys of the home of this account.
    pub fn of(account_id: &str) -> Self {
        let tag = tag(account_id);
        Self {
            home: format!("VIEWING_HOME:{tag}:{account_id}"),
            slots: format!("VIEWING_SLOTS:{tag}:{account_id}"),
            sessions: format!("VIEWING_SESSION:{tag}:"),
            account_id: account_id.into(),
        }
    }

    /// The hash of a session. The session's id comes first: it has one length, so
    /// that no two pairs of account and session share a key.
    pub fn session(&self, session_id: &str) -> String {
        format!("{}{session_id}:{}", self.sessions, self.account_id)
    }
}

/// The hash of a device.
pub fn device(device_id: &str) -> String {
    format!("VIEWING_DEVICE:{}:{device_id}", tag(device_id))
}

/// How many partitions there are; a change loses everything that has a tag.
const PARTITIONS: u32 = 64;

/// The tag of the partition that a subject belongs to, by FNV-1a.
fn tag(subject: &str) -> String {
    let hash = subject
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{{p{:02}}}", (hash ^ (hash >> 16)) % PARTITIONS)
}

/// The most bytes that the id of an account or a device may have.
pub const ID_BYTES_MAX: usize = 256;

/// What is wrong with the id of an account or a device, or `None`.
pub fn id_violation(id: &str) -> Option<String> {
    if id.is_empty() {
        return Some("must not be empty".into());
    }
    if id.len() > ID_BYTES_MAX {
        return Some(format!("has {} bytes, at most {ID_BYTES_MAX} are accepted", id.len()));
    }
    let control = id.chars().find(|character| character.is_control())?;
    Some(format!("contains the control character {control:?}"))
}

/// Whether a text is a UUID in its canonical form.
pub fn is_uuid(text: &str) -> bool {
    let dash = |place| matches!(place, 8 | 13 | 18 | 23);
    let fits = |(place, byte): (usize, u8)| match byte {
        b'-' => dash(place),
        b'0'..=b'9' | b'a'..=b'f' => !dash(place),
        _ => false,
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
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
    fn what_belongs_to_a_home_shares_its_partition_and_no_key() {
        let home = Home::of("My{Home}");
        let tag = "{p08}";
        for key in [&home.home, &home.slots, &home.session("s")] {
            assert_eq!(key.split(':').nth(1), Some(tag), "{key}");
        }
        assert_ne!(home.session("s"), Home::of("Other").session("s"));
        let mut tags: Vec<_> = (0..10_000).map(|n| super::tag(&format!("account-{n}"))).collect();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), PARTITIONS as usize);
    }

    #[test]
    fn ids_are_any_text_without_control_characters() {
        for accepted in ["MyHome", "Android Phone", "{p00}", "\u{e9}", "a/b?c#d"] {
            assert_eq!(id_violation(accepted), None, "{accepted}");
        }
        for (refused, why) in [("", "empty"), ("a\nb", "'\\n'"), (&"x".repeat(257), "257 bytes")] {
            assert!(id_violation(refused).expect(refused).contains(why), "{refused:?}");
        }
    }

    #[test]
    fn a_uuid_is_canonical() {
        assert!(is_uuid("1b387cfb-aabe-4b94-ae7e-0f31fc6f909b"));
        for other in
            ["", "1B387CFB-AABE-4B94-AE7E-0F31FC6F909B", "1b387cfbaabe4b94ae7e0f31fc6f909b----"]
        {
            assert!(!is_uuid(other), "{other}");
        }
    }

    #[test]
    fn a_lock_lives_in_the_slot_of_its_session() {
        assert_eq!(lock("SESSION_RESCHEDULE:abc"), "SESSION_LOCK:{SESSION_RESCHEDULE:abc}");
    }
}
