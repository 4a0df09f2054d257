//! The contract as others generate code from it: each file names the packages of that code, and
//! the names never change.

use session_tests::workspace;

/// The package of each file in Go and in Java, and its outer class in Java. Programs import them,
/// so none may ever change.
const PACKAGES: [(&str, &str, &str, &str); 7] = [
    (
        "session-manager.proto",
        "sessionmanager/proto;sessionmanager",
        "sessionmanager",
        "SessionManagerProto",
    ),
    (
        "session/booking/v1/booking.proto",
        "sessionmanager/proto/booking/v1;bookingv1",
        "session.booking.v1",
        "BookingProto",
    ),
    (
        "session/connections/v1/connections.proto",
        "sessionmanager/proto/connections/v1;connectionsv1",
        "session.connections.v1",
        "ConnectionsProto",
    ),
    (
        "session/events/v1/events.proto",
        "sessionmanager/proto/events/v1;eventsv1",
        "session.events.v1",
        "EventsProto",
    ),
    (
        "session/users/v1/users.proto",
        "sessionmanager/proto/users/v1;usersv1",
        "session.users.v1",
        "UsersProto",
    ),
    ("sm.proto", "sessionmanager/proto/sm;sm", "com.example.sm", "SmProto"),
    (
        "smdevice.proto",
        "sessionmanager/proto/smdevice;smdevice",
        "com.example.smdevice",
        "SmdeviceProto",
    ),
];

#[test]
fn every_file_of_the_contract_names_the_packages_of_generated_code() {
    let directory = workspace().join("host/proto");
    let mut files = Vec::new();
    let mut directories = vec![directory.clone()];
    while let Some(from) = directories.pop() {
        for entry in std::fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&directory).unwrap().display().to_string();
            if path.is_dir() {
                directories.push(path);
            } else if name.ends_with(".proto") && !name.starts_with("google/") {
                files.push(name);
            }
        }
    }
    files.sort();
    let mut known: Vec<&str> = PACKAGES.iter().map(|(file, ..)| *file).collect();
    known.sort_unstable();
    assert_eq!(files, known);
    for (file, go, java, outer) in PACKAGES {
        let text = std::fs::read_to_string(directory.join(file)).unwrap();
        for option in [
            format!("option go_package = \"{go}\";"),
            "option java_multiple_files = true;".into(),
            format!("option java_outer_classname = \"{outer}\";"),
            format!("option java_package = \"{java}\";"),
        ] {
            assert!(text.lines().any(|line| line == option), "{file}: {option}");
        }
    }
}
