//! The booking contexts and their fields: the one table that validation, key
//! derivation, storage and the catalog read. A new context or field is a new
//! row here and nothing else.

use crate::catalog::Kind;

/// The most bytes one document may have.
pub const DOCUMENT_BYTES_MAX: u32 = 1 << 20;
/// The most bytes one text may have.
pub const TEXT_BYTES_MAX: u32 = 4096;
/// The most bytes of the values of one session in all. A gRPC message with them then has at
/// most 4 MiB, the default limit of clients.
pub const SESSION_BYTES_MAX: u64 = (4 << 20) - (64 << 10);
/// The most bytes a boolean or number may have in text.
pub const SCALAR_BYTES_MAX: u32 = 64;

/// The names that JSON bodies use beside the fields, so no field may have one.
pub const RESERVED_NAMES: [&str; 5] =
    ["session_key", "version", "expires_at", "if_version", "lock_token"];

/// One field of a context.
#[derive(Debug)]
pub struct Field {
    /// Name on the wire, in snake_case.
    pub name: &'static str,
    /// Name in the stored hash.
    pub stored_as: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Most bytes that its value may have.
    pub bytes_max: u32,
}

/// One booking context.
#[derive(Debug)]
pub struct Context {
    /// Name on the wire.
    pub name: &'static str,
    /// The text before the session key in the keys of the store.
    pub key_prefix: &'static str,
    /// Its fields, in the order they are listed and answered.
    pub fields: &'static [Field],
    /// The stored name of the boolean that makes the first read the last one.
    pub one_time_field: Option<&'static str>,
}

impl Context {
    /// The index of the field with this name, given in snake_case or
    /// lowerCamelCase.
    pub fn field_index(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|field| names_match(field.name, name))
    }

    /// Whether a session that obeys the limit of each field can still be larger
    /// than [`SESSION_BYTES_MAX`].
    pub fn may_outgrow_session(&self) -> bool {
        let sum: u64 = self.fields.iter().map(|field| u64::from(field.bytes_max)).sum();
        sum > SESSION_BYTES_MAX
    }
}

/// Whether `given` is `name` itself or its lowerCamelCase form.
fn names_match(name: &str, given: &str) -> bool {
    if name == given {
        return true;
    }
    let mut given = given.bytes();
    let mut after_underscore = false;
    for byte in name.bytes() {
        if byte == b'_' {
            after_underscore = true;
            continue;
        }
        let expected = if after_underscore { byte.to_ascii_uppercase() } else { byte };
        after_underscore = false;
        if given.next() != Some(expected) {
            return false;
        }
    }
    given.next().is_none()
}

/// The context of this name.
pub fn context(name: &str) -> Option<&'static Context> {
    CONTEXTS.iter().find(|context| context.name == name)
}

const fn document(name: &'static str, stored_as: &'static str) -> Field {
    Field { name, stored_as, kind: Kind::Document, bytes_max: DOCUMENT_BYTES_MAX }
}

const fn text(name: &'static str, stored_as: &'static str) -> Field {
    Field { name, stored_as, kind: Kind::Text, bytes_max: TEXT_BYTES_MAX }
}

const fn boolean(name: &'static str, stored_as: &'static str) -> Field {
    Field { name, stored_as, kind: Kind::Boolean, bytes_max: SCALAR_BYTES_MAX }
}

const fn number(name: &'static str, stored_as: &'static str) -> Field {
    Field { name, stored_as, kind: Kind::Number, bytes_max: SCALAR_BYTES_MAX }
}

/// All contexts.
pub static CONTEXTS: &[Context] = &[
    Context {
        name: "pre-order",
        key_prefix: "SESSION_PRE_ORDER:",
        fields: &[
            document("fleet_list_request", "FLEET_LIST_REQUEST"),
            document("fleet_list_response", "FLEET_LIST_RESPONSE"),
            document("strikethrough_promo_response", "STRIKETHROUGH_PROMO_RESPONSE"),
        ],
        one_time_field: None,
    },
    Context {
        name: "ez-pay",
        key_prefix: "SESSION_PRE_ORDER_EZ_PAY:",
        fields: &[
            document("request", "ValidateEZPayRequest"),
            document("response", "ValidateEZPayResponse"),
            document("vehicle_info_bbd_response", "BBDVehicleInfoResponse"),
        ],
        one_time_field: None,
    },
    Context {
        name: "cititrans",
        key_prefix: "SESSION_PRE_ORDER_CITITRANS:",
        fields: &[
            document("request", "SCHEDULE_LIST_REQUEST"),
            document("response", "SCHEDULE_LIST_RESPONSE"),
            document("session_data", "SESSION_DATA"),
        ],
        one_time_field: None,
    },
    Context {
        name: "reschedule",
        key_prefix: "SESSION_RESCHEDULE:",
        fields: &[
            boolean("delete_after_get", "DELETE_AFTER_GET"),
            text("pickup_time", "PICKUP_TIME"),
            boolean("is_price_changed", "IS_PRICE_CHANGED"),
            number("fixed", "FIXED"),
            number("estimated_high", "ESTIMATED_HIGH"),
            number("estimated_low", "ESTIMATED_LOW"),
            boolean("is_promo_valid", "IS_PROMO_VALID"),
            text("promo_code", "PROMO_CODE"),
            document("localized_message", "LOCALIZED_MESSAGE"),
            text("product_type", "PRODUCT_TYPE"),
            text("order_id", "ORDER_ID"),
            number("fixed_base", "FIXED_BASE"),
        ],
        one_time_field: Some("DELETE_AFTER_GET"),
    },
    Context {
        name: "rent-revamp",
        key_prefix: "SESSION_RENT_REVAMP:",
        fields: &[
            document("dynamic_fleet_list_request", "DYNAMIC_FLEET_LIST_REQUEST"),
            document("dynamic_fleet_list_response", "DYNAMIC_FLEET_LIST_RESPONSE"),
            text("fleet_id", "FLEET_ID"),
            document("selected_fleet", "SELECTED_FLEET"),
            document("recalculate_rent_price_request", "RECALCULATE_RENT_PRICE_REQUEST"),
            document("recalculate_rent_price_response", "RECALCULATE_RENT_PRICE_RESPONSE"),
            document("upsell_fleet_response", "UPSELL_FLEET_RESPONSE"),
            document("validate_prebook_request", "VALIDATE_PREBOOK_REQUEST"),
            document("validate_prebook_response", "VALIDATE_PREBOOK_RESPONSE"),
            document("rent_order_confirmation_request", "RENT_ORDER_CONFIRMATION_REQUEST"),
            document("rent_order_confirmation_response", "RENT_ORDER_CONFIRMATION_RESPONSE"),
            document("contact_information", "CONTACT_INFORMATION"),
            document("passenger_information", "PASSENGER_INFORMATION"),
            document("selected_pickup", "SELECTED_PICKUP"),
            document("selected_dropoff", "SELECTED_DROPOFF"),
        ],
        one_time_field: None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_in_snake_case_and_in_camel_case_only() {
        for (name, given, expected) in [
            ("fleet_id", "fleet_id", true),
            ("fleet_id", "fleetId", true),
            ("fleet_id", "fleetid", false),
            ("fleet_id", "FleetId", false),
            ("fleet_id", "fleetIdx", false),
            ("fleet_id", "fleet", false),
            ("request", "request", true),
            ("request", "", false),
        ] {
            assert_eq!(names_match(name, given), expected, "{name} against {given}");
        }
    }

    #[test]
    fn no_name_is_used_twice_or_reserved() {
        for context in CONTEXTS {
            for (index, field) in context.fields.iter().enumerate() {
                assert!(!RESERVED_NAMES.contains(&field.name), "{}", field.name);
                assert!(!field.stored_as.starts_with('_'), "{}", field.stored_as);
                for other in &context.fields[index + 1..] {
                    assert_ne!(field.name, other.name, "{}", context.name);
                    assert_ne!(field.stored_as, other.stored_as, "{}", context.name);
                }
            }
        }
    }

    #[test]
    fn only_the_rental_flow_can_outgrow_a_session() {
        let outgrowing: Vec<_> =
            CONTEXTS.iter().filter(|c| c.may_outgrow_session()).map(|c| c.name).collect();
        assert_eq!(outgrowing, ["rent-revamp"]);
    }
}
