//! The attributes of a login: which are accepted, and how they are stored. The user never
//! changes. All others may be given and removed at any time.

use crate::fault::{field_name, violation};
use crate::faults::Violation;
use crate::keys::{check_id, check_text};
use crate::store::Entry;
use crate::transaction::entry;
use crate::users_types::Attributes;

/// The most bytes of a code.
pub const CODE_BYTES_MAX: usize = 4096;
/// The most bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;
/// The most bytes of an address.
pub const EMAIL_BYTES_MAX: usize = 320;

/// The user of the session.
pub const USER_FIELD: &str = "user_id";
/// The device.
pub const DEVICE_FIELD: &str = "device_id";
/// The code of the authorization server.
pub const CODE_FIELD: &str = "auth_code";
/// The access token.
pub const ACCESS_FIELD: &str = "access_token";
/// The refresh token.
pub const REFRESH_FIELD: &str = "refresh_token";
/// When the access token expires.
pub const EXPIRATION_FIELD: &str = "expiration_time";
/// The user's address.
pub const EMAIL_FIELD: &str = "user_email";

/// When it began.
pub const CREATED_FIELD: &str = "_created";
/// When it was changed last.
pub const UPDATED_FIELD: &str = "_updated";
/// When it was last used, as far as that was written.
pub const SEEN_FIELD: &str = "_seen";
/// When it ends, however often it is used.
pub const ENDS_FIELD: &str = "_ends";

/// The attributes that may be removed.
const MAY_GO: [&str; 6] =
    [DEVICE_FIELD, CODE_FIELD, ACCESS_FIELD, REFRESH_FIELD, EXPIRATION_FIELD, EMAIL_FIELD];

/// The attributes that are given, as they are stored.
pub fn entries(attributes: &Attributes) -> Vec<Entry> {
    let Attributes {
        user_id,
        device_id,
        auth_code,
        access_token,
        refresh_token,
        expiration_time,
        user_email,
    } = attributes;
    let expiration_time = expiration_time.map(|seconds| seconds.to_string());
    let texts = [
        (USER_FIELD, user_id),
        (DEVICE_FIELD, device_id),
        (CODE_FIELD, auth_code),
        (ACCESS_FIELD, access_token),
        (REFRESH_FIELD, refresh_token),
        (EXPIRATION_FIELD, &expiration_time),
        (EMAIL_FIELD, user_email),
    ];
    let given = texts.into_iter().filter_map(|(field, text)| Some(entry(field, text.as_ref()?)));
    given.collect()
}

/// The violations of attributes other than the user's id.
pub fn check(attributes: &Attributes, violations: &mut Vec<Violation>) {
    // A device that is taken away again is empty.
    if let Some(device_id) = attributes.device_id.as_deref().filter(|id| !id.is_empty()) {
        check_id(DEVICE_FIELD, device_id, violations);
    }
    for (field, text, bytes_max) in [
        (CODE_FIELD, &attributes.auth_code, CODE_BYTES_MAX),
        (ACCESS_FIELD, &attributes.access_token, TOKEN_BYTES_MAX),
        (REFRESH_FIELD, &attributes.refresh_token, TOKEN_BYTES_MAX),
        (EMAIL_FIELD, &attributes.user_email, EMAIL_BYTES_MAX),
    ] {
        check_text(field, text.as_deref().unwrap_or_default(), bytes_max, violations);
    }
}

/// Adds to the `changed` entries those that remove attributes. Every release reads an empty
/// text as an attribute that was never given, and an empty time as no time.
pub fn take_back(clear: &[String], changed: &mut Vec<Entry>, violations: &mut Vec<Violation>) {
    let given: Vec<String> = changed.iter().map(|entry| entry.field.clone()).collect();
    for name in clear {
        if name == USER_FIELD {
            violations.push(violation(USER_FIELD, "cannot be taken back: it never changes"));
        } else if !MAY_GO.contains(&&**name) {
            let description =
                format!("names {}, which is no attribute of a session", field_name(name));
            violations.push(violation("clear", description));
        } else if given.contains(name) {
            violations.push(violation(name, "is given and taken back; do one of both"));
        } else if !changed.iter().any(|entry| entry.field == *name) {
            changed.push(entry(name, ""));
        }
    }
}
