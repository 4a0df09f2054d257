//! Every key and key rule of the store. Booking keys are literal, so that the
//! data stays readable to programs that know only the key; what belongs to one
//! carries the whole key as its tag and so lives beside it in a cluster. What
//! belongs to an account or a device carries the tag of its partition, one of a
//! fixed number.

use crate::fault::violation;
use crate::faults::Violation;
use crate::schema::Context;

/// The field that counts the writes of a session. Fields of our own begin with
/// `_`, so readers of a hash can distinguish them from its data.
pub const VERSION_FIELD: &str = "_version";
/// The field of a lock that holds its token.
pub const TOKEN_FIELD: &str = "token";
/// How many characters a text that the caller chooses must have, so that no other caller has it.
const CHOSEN_CHARACTERS_MIN: usize = 16;
const CHOSEN_CHARACTERS_MAX: usize = 128;
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

/// The hash with the answer of an operation on a session that may be asked for again.
pub fn replay(session: &str, operation: &str, request: &str) -> String {
    ["SESSION_REPLAY:{", session, "}:", operation, ":", request].concat()
}

/// Checks a text that the caller chooses so that no other caller has it.
pub fn check_chosen(field: &str, chosen: &str, violations: &mut Vec<Violation>) {
    let is_visible = chosen.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_visible || !(CHOSEN_CHARACTERS_MIN..=CHOSEN_CHARACTERS_MAX).contains(&chosen.len()) {
        let description = format!(
            "must have {CHOSEN_CHARACTERS_MIN} to {CHOSEN_CHARACTERS_MAX} visible ASCII characters"
        );
        violations.push(violation(field, description));
    }
}

/// One of a fixed number of parts that subjects are spread over. All keys of a subject
/// carry its tag, and so may stand in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Partition(u8);

impl Partition {
    /// That of a user, an account or a device, by FNV-1a.
    pub fn of(subject: &str) -> Self {
        let hash = subject
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self(((hash ^ (hash >> 16)) % PARTITIONS) as u8)
    }

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS as u8).map(Self)
    }

    /// The one of this number, from 0.
    pub fn numbered(number: u32) -> Option<Self> {
        (number < PARTITIONS).then_some(Self(number as u8))
    }

    /// Its number.
    pub fn number(self) -> u32 {
        self.0.into()
    }

    /// The number of the next one.
    pub fn next(self) -> Option<u32> {
        Some(u32::from(self.0) + 1).filter(|next| *next < PARTITIONS)
    }

    /// The log of the events of its subjects.
    pub fn log(self) -> String {
        self.key("EVENTS", "")
    }

    /// The expiring set of its sessions of a kind, by when they are due.
    pub fn due(self, kind: &str) -> String {
        self.key("DUE", kind)
    }

    /// The hash of a connection of one of its users. Users may choose the same id one after the
    /// other, so the record of a chosen id has the user in its key; no id has a slash.
    pub fn connection(self, session_id: &str, user_id: &str) -> String {
        match is_made(session_id) {
            true => self.key("user_session", session_id),
            false => self.key("user_session", &[session_id, "/", user_id].concat()),
        }
    }

    /// The expiring set of a user's connections.
    pub fn connections(self, user_id: &str) -> String {
        self.key("CONNECTIONS", user_id)
    }

    /// The expiring set of its users' connections on a pod.
    pub fn pod(self, pod_id: &str) -> String {
        self.key("POD", pod_id)
    }

    /// The expiring set of the pods where its users have connections.
    pub fn pods(self) -> String {
        self.key("PODS", "")
    }

    /// The character that stands for it in ids.
    fn character(self) -> char {
        BASE64URL[usize::from(self.0)].into()
    }

    /// The one that a character of an id stands for.
    fn in_character(character: u8) -> Option<Self> {
        let index = BASE64URL.iter().position(|byte| *byte == character)?;
        Some(Self(index as u8))
    }

    fn tag(self) -> String {
        format!("{{p{:02}}}", self.0)
    }

    /// `<kind>:{pNN}`, with what it is the key of behind another colon.
    fn key(self, kind: &str, of: &str) -> String {
        let colon = if of.is_empty() { "" } else { ":" };
        format!("{kind}:{}{colon}{of}", self.tag())
    }
}

/// The hash that exists as long as the logs do.
pub const BASELINE: &str = "EVENTS:BORN";

/// The hash with the user who may have a connection of a chosen id now. It expires unless it is
/// renewed.
pub fn connection_lease(session_id: &str) -> String {
    Partition::of(session_id).key("CONNECTION_LEASE", session_id)
}

/// The hash with the user who had a connection of a chosen id last.
pub fn connection_owner(session_id: &str) -> String {
    Partition::of(session_id).key("CONNECTION_OWNER", session_id)
}

/// Begins an id of a connection that the service has made.
const MADE: char = '~';
/// How long such an id is; all but the first two characters are random.
const CONNECTION_CHARACTERS: usize = 32;

/// An id for a connection of a user of this partition.
pub fn connection_id(partition: Partition, token: impl FnOnce(u32) -> String) -> String {
    let mut id = String::with_capacity(CONNECTION_CHARACTERS);
    id.push(MADE);
    id.push(partition.character());
    id + &token(CONNECTION_CHARACTERS as u32 - 2)
}

/// Whether an id of a connection looks like one that the service has made.
pub fn is_made(session_id: &str) -> bool {
    session_id.starts_with(MADE)
}

/// The partition that an id names that the service has made; `None` for another.
pub fn partition_of_made(session_id: &str) -> Option<Partition> {
    let rest = session_id.strip_prefix(MADE)?;
    let fits = session_id.len() == CONNECTION_CHARACTERS && rest.bytes().all(is_base64url);
    fits.then(|| Partition::in_character(rest.as_bytes()[0])).flatten()
}

/// The keys of a home, all in the partition of its account.
pub struct Home {
    /// The partition of the account.
    pub partition: Partition,
    /// The hash of the home itself.
    pub home: String,
    /// The expiring set of the sessions that hold a slot.
    pub slots: String,
    account_id: String,
}

impl Home {
    /// The keys of the home of this account.
    pub fn of(account_id: &str) -> Self {
        let partition = Partition::of(account_id);
        Self {
            partition,
            home: partition.key("VIEWING_HOME", account_id),
            slots: partition.key("VIEWING_SLOTS", account_id),
            account_id: account_id.into(),
        }
    }

    /// The hash of a session. The session's id comes first: it has one length, so
    /// that no two pairs of account and session share a key.
    pub fn session(&self, session_id: &str) -> String {
        format!("VIEWING_SESSION:{}:{session_id}:{}", self.partition.tag(), self.account_id)
    }
}

/// The hash of a device.
pub fn device(device_id: &str) -> String {
    Partition::of(device_id).key("VIEWING_DEVICE", device_id)
}

/// The keys of a user's sessions, all in the partition of the user.
pub struct User {
    /// The expiring set of the sessions' ids.
    pub sessions: String,
    /// The expiring set of the same ids in the order that they began in.
    pub order: String,
    /// The partition of the user.
    pub partition: Partition,
}

impl User {
    /// The keys of the sessions of this user.
    pub fn of(user_id: &str) -> Self {
        let partition = Partition::of(user_id);
        Self {
            sessions: partition.key("USER_SESSIONS", user_id),
            order: partition.key("USER_SESSIONS_ORDER", user_id),
            partition,
        }
    }

    /// An id for a session of the user: what finds its partition, and unguessable
    /// characters.
    pub fn session_id(&self, token: impl FnOnce(u32) -> String) -> String {
        let mut id = String::with_capacity(USER_SESSION_CHARACTERS);
        id.push(self.partition.character());
        id + &token(USER_SESSION_CHARACTERS as u32 - 1)
    }

    /// Whether a session of this id could be one of the user's.
    pub fn holds(&self, session_id: &str) -> bool {
        session_id.starts_with(self.partition.character())
    }

    /// The hash of a session of the user.
    pub fn session(&self, session_id: &str) -> String {
        user_session_in(self.partition, session_id)
    }
}

/// The hash of a user's session, or `None` for what is no id of one.
pub fn user_session(session_id: &str) -> Option<String> {
    if session_id.len() != USER_SESSION_CHARACTERS || !session_id.bytes().all(is_base64url) {
        return None;
    }
    Some(user_session_in(Partition::in_character(session_id.as_bytes()[0])?, session_id))
}

/// The id of the session whose hash this is.
pub fn session_of(record: &str) -> &str {
    record.rsplit(':').next().unwrap_or_default()
}

fn user_session_in(partition: Partition, session_id: &str) -> String {
    format!("USER_SESSION:{}:{session_id}", partition.tag())
}

/// Whether a character is one of base64url.
pub fn is_base64url(byte: u8) -> bool {
    BASE64URL.contains(&byte)
}

/// The alphabet of base64url, which has a character for each partition.
const BASE64URL: &[u8; PARTITIONS as usize] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The length of the id of a user's session; all but the first character are random.
const USER_SESSION_CHARACTERS: usize = 64;

/// How many partitions there are; a change loses everything that has a tag.
const PARTITIONS: u32 = 64;

/// The most bytes that the id of an account, a user or a device may have.
pub const ID_BYTES_MAX: usize = 256;

/// Checks the id of an account, a user, a device or a pod.
pub fn check_id(field: &str, id: &str, violations: &mut Vec<Violation>) {
    violations.extend(id_violation(id).map(|description| violation(field, description)));
}

/// The violation of an id of an account, a user or a device, or `None`.
fn id_violation(id: &str) -> Option<String> {
    if id.is_empty() {
        return Some("must not be empty".into());
    }
    text_violation(id, ID_BYTES_MAX)
}

/// Checks a text that people read.
pub fn check_text(field: &str, text: &str, bytes_max: usize, violations: &mut Vec<Violation>) {
    let description = text_violation(text, bytes_max);
    violations.extend(description.map(|description| violation(field, description)));
}

/// The violation of a text that people read, or `None`.
fn text_violation(text: &str, bytes_max: usize) -> Option<String> {
    if text.len() > bytes_max {
        return Some(format!("has {} bytes, at most {bytes_max} are accepted", text.len()));
    }
    control_violation(text)
}

/// Which control character a text has, and where, or `None`.
pub fn control_violation(text: &str) -> Option<String> {
    let mut characters = text.chars().enumerate();
    let (index, control) = characters.find(|(_, character)| character.is_control())?;
    let position = index + 1;
    Some(format!("contains the control character {control:?} at character {position}"))
}

/// Whether a text is a UUID in its canonical form.
pub fn is_uuid(text: &str) -> bool {
    let dash = |index| matches!(index, 8 | 13 | 18 | 23);
    let fits = |(index, byte): (usize, u8)| match byte {
        b'-' => dash(index),
        b'0'..=b'9' | b'a'..=b'f' => !dash(index),
        _ => false,
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

/// Checks a session key.
pub fn check_session_key(field: &str, session_key: &str, violations: &mut Vec<Violation>) {
    let description = session_key_violation(session_key);
    violations.extend(description.map(|description| violation(field, description)));
}

/// The violation of a session key, or `None`.
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
    fn the_keys_of_a_home_share_its_partition_and_differ() {
        let home = Home::of("My{Home}");
        let tag = "{p08}";
        for key in [&home.home, &home.slots, &home.session("s")] {
            assert_eq!(key.split(':').nth(1), Some(tag), "{key}");
        }
        assert_ne!(home.session("s"), Home::of("Other").session("s"));
        let mut tags: Vec<_> =
            (0..10_000).map(|n| Partition::of(&format!("account-{n}"))).collect();
        tags.sort();
        tags.dedup();
        assert_eq!(tags.len(), PARTITIONS as usize);
    }

    #[test]
    fn the_id_of_a_session_finds_it_and_the_set_of_its_user() {
        let user = User::of("user007");
        let id = user.session_id(|length| "x".repeat(length as usize));
        assert_eq!(id.len(), 64);
        assert!(user.holds(&id));
        let record = user_session(&id).expect("an id");
        assert_eq!(record, user.session(&id));
        assert_eq!(session_of(&record), id);
        assert_eq!(record.split(':').nth(1), user.sessions.split(':').nth(1));
        for other in ["", "x", &"x".repeat(65), &"=".repeat(64), &"\u{e9}".repeat(32)] {
            assert_eq!(user_session(other), None, "{other}");
        }
    }

    #[test]
    fn an_id_of_a_connection_names_its_partition_or_is_looked_up() {
        let partition = Partition::of("u");
        let made = connection_id(partition, |length| "x".repeat(length as usize));
        assert_eq!((made.len(), partition_of_made(&made)), (32, Some(partition)));
        for other in ["", "x", "~", "~\u{e9}", &"~".repeat(32), &made[..31], &made[1..]] {
            assert_eq!(partition_of_made(other), None, "{other}");
        }
        let partition = Partition::of("My{Home}");
        assert_eq!(partition.connection("a:b", "u/v"), "user_session:{p08}:a:b/u/v");
        assert_eq!(partition.connection("~Iab", "u"), "user_session:{p08}:~Iab");
        assert_eq!(Partition::all().count(), PARTITIONS as usize);
        assert_eq!(
            Partition::all().find_map(|p| p.next().is_none().then(|| p.log())).as_deref(),
            Some("EVENTS:{p63}")
        );
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
