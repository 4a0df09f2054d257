//! The services of the public contract: which kind of session each one serves, and which
//! answers hold a secret. The build script reads this file too.

/// A service of the contract.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its full name in `proto/`.
    pub name: &'static str,
    /// The interface of the component that it needs.
    pub kind: &'static str,
    /// The module of the room `api` that has its operations.
    pub module: &'static str,
    /// Whether its clients expect JSON names in lowerCamelCase, as proto3 JSON has them, or as
    /// they stand in `proto/`.
    pub camel_case: bool,
}

/// All services.
pub const SERVICES: [Service; 7] = {
    const fn service(name: &'static str, kind: &'static str, module: &'static str) -> Service {
        Service { name, kind, module, camel_case: false }
    }
    const fn viewing(name: &'static str) -> Service {
        Service { name, kind: "viewing", module: "viewing", camel_case: true }
    }
    [
        viewing("com.example.sm.SM"),
        viewing("com.example.smdevice.Device"),
        service("session.booking.v1.Booking", "booking", "booking"),
        service("session.connections.v1.Connections", "connections", "connections"),
        service("session.events.v1.Events", "maintenance", "events"),
        service("session.users.v1.UserSessions", "users", "users"),
        service("sessionmanager.SessionManager", "booking", "booking"),
    ]
};

/// Operations whose answers hold a secret. They are never compressed: a caller who can add to
/// an answer and sees its length could guess the rest.
const SECRET: [&str; 13] = [
    "com.example.sm.SM/CreateSession",
    "com.example.smdevice.Device/CreateSessionWithDevice",
    "session.booking.v1.Booking/Lock",
    "session.connections.v1.Connections/Connect",
    "session.connections.v1.Connections/Register",
    "session.events.v1.Events/Subscribe",
    "session.users.v1.UserSessions/Create",
    "session.users.v1.UserSessions/Delete",
    "session.users.v1.UserSessions/DeleteAll",
    "session.users.v1.UserSessions/Get",
    "session.users.v1.UserSessions/List",
    "session.users.v1.UserSessions/ListById",
    "session.users.v1.UserSessions/Update",
];

impl Service {
    /// The service of this name.
    pub fn named(name: &str) -> Option<Self> {
        SERVICES.into_iter().find(|service| service.name == name)
    }
}

/// Whether the answer of `package.Service/Method` holds a secret.
pub fn is_secret(operation: &str) -> bool {
    SECRET.contains(&operation)
}
