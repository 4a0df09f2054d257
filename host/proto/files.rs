//! The files of the public contract, for everything that is generated from them.

pub const FILES: [&str; 7] = [
    "session-manager.proto",
    "session/booking/v1/booking.proto",
    "session/connections/v1/connections.proto",
    "session/events/v1/events.proto",
    "session/users/v1/users.proto",
    "sm.proto",
    "smdevice.proto",
];
