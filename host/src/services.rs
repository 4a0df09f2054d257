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

/// Operations whose answers hold no secret, or a beginning that several have. Only these may be
/// compressed: a caller who can add to an answer and sees its length could guess a secret in it.
const WITHOUT_SECRET: [&str; 23] = [
    "com.example.sm.SM/GetHome",
    "com.example.sm.SM/HeartBeat",
    "com.example.sm.SM/SetMaxSession",
    "com.example.sm.SM/TearDown",
    "com.example.smdevice.Device/CreateDevice",
    "com.example.smdevice.Device/DeleteDevice",
    "com.example.smdevice.Device/GetDevice",
    "session.booking.v1.Booking/Delete",
    "session.booking.v1.Booking/Get",
    "session.booking.v1.Booking/ListContexts",
    "session.booking.v1.Booking/Set",
    "session.booking.v1.Booking/Unlock",
    "session.connections.v1.Connections/Close",
    "session.connections.v1.Connections/Drain",
    "session.connections.v1.Connections/Get",
    "session.connections.v1.Connections/GetPresence",
    "session.connections.v1.Connections/GetStats",
    "session.connections.v1.Connections/Heartbeat",
    "session.connections.v1.Connections/HeartbeatPod",
    "session.connections.v1.Connections/ListByPod",
    "session.connections.v1.Connections/ListByUser",
    "session.connections.v1.Connections/Terminate",
    "sessionmanager.SessionManager/",
];

impl Service {
    /// The interface of the component that `package.Service/Method` needs; none for the health of
    /// the service, which needs no component.
    pub fn needed(&self, operation: &str) -> Option<&'static str> {
        (operation != "sessionmanager.SessionManager/HealthCheck").then_some(self.kind)
    }

    /// The service of this name.
    pub fn named(name: &str) -> Option<Self> {
        SERVICES.into_iter().find(|service| service.name == name)
    }
}

/// Whether the answer of `package.Service/Method` may hold a secret.
pub fn is_secret(operation: &str) -> bool {
    !WITHOUT_SECRET.iter().any(|known| match known.strip_suffix('/') {
        Some(_) => operation.starts_with(known),
        None => operation == *known,
    })
}
