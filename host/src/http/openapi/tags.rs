//! The headings of the document, in the order in which a page shows them.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// By the beginning of the service's name: its heading.
const SERVICES: [(&str, &str); 6] = [
    ("sessionmanager.", "Booking"),
    ("session.booking.", "Booking"),
    ("session.users.", "Logins"),
    ("com.example.", "Viewing"),
    ("session.connections.", "Connections"),
    ("session.events.", "Events"),
];

/// The headings, and what is below each.
const HEADINGS: [(&str, &str); 5] = [
    ("Booking", "Named documents that a flow writes step by step."),
    ("Logins", "Users who are logged in, on many devices each."),
    ("Viewing", "Slots of a home: a limit on the streams at the same time."),
    ("Connections", "Who is online, and on which pod."),
    ("Events", "What happens to sessions, as it happens."),
];

/// The heading of a service.
pub fn of(service: &str) -> &'static str {
    let known = SERVICES.iter().find(|(begins, _)| service.starts_with(begins));
    known.map_or("Other", |(_, heading)| heading)
}

/// The headings that are used.
pub fn all(used: &BTreeSet<&str>) -> Value {
    let used = HEADINGS.iter().filter(|(name, _)| used.contains(name));
    used.map(|(name, below)| json!({ "name": name, "description": below })).collect()
}
