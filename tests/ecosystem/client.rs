//! Clients in other languages, generated from the published protos.

use std::process::Command;

use session_tests::host::Launch;
use session_tests::workspace;

use crate::python;

#[tokio::test]
async fn a_client_generated_for_python_runs_the_booking_flow() {
    let generated = tempfile::tempdir().unwrap();
    let out = generated.path().display().to_string();
    python::run(
        python::command()
            .args(["-m", "grpc_tools.protoc", "-I"])
            .arg(workspace().join("host/proto"))
            .arg(format!("--python_out={out}"))
            .arg(format!("--grpc_python_out={out}"))
            .arg("session-manager.proto"),
    )
    .unwrap();
    let host = Launch::in_memory().start();
    let path = format!("{}:{out}", python::packages().display());
    let mut booking = python::command();
    booking.env("PYTHONPATH", path).arg(python::program("booking.py")).arg(host.address("grpc"));
    assert_eq!(python::run(&mut booking).unwrap(), "done\n");
}

#[test]
fn code_for_go_and_java_is_generated_in_its_packages() {
    let generated = tempfile::tempdir().unwrap();
    let protos = workspace().join("host/proto");
    let files = [
        ("session-manager.proto", "session-manager.pb.go", "sessionmanager/SessionData.java"),
        (
            "session/booking/v1/booking.proto",
            "booking/v1/booking.pb.go",
            "session/booking/v1/LockReply.java",
        ),
        (
            "session/connections/v1/connections.proto",
            "connections/v1/connections.pb.go",
            "session/connections/v1/Presence.java",
        ),
        (
            "session/events/v1/events.proto",
            "events/v1/events.pb.go",
            "session/events/v1/SubscribeReply.java",
        ),
        (
            "session/users/v1/users.proto",
            "users/v1/users.pb.go",
            "session/users/v1/Attributes.java",
        ),
        ("sm.proto", "sm/sm.pb.go", "com/example/sm/SessionSetup.java"),
        ("smdevice.proto", "smdevice/smdevice.pb.go", "com/example/smdevice/DeviceInfo.java"),
    ];
    let out = generated.path().display();
    let mut protoc = Command::new("protoc");
    protoc.arg("-I").arg(&protos).arg(format!("--go_out={out}"));
    protoc.args(["--go_opt=module=sessionmanager"]).arg(format!("--java_out={out}"));
    let output = protoc
        .args(files.map(|(file, ..)| file))
        .output()
        .expect("install protoc-gen-go (Debian and Ubuntu: apt-get install protoc-gen-go protobuf-compiler)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (_, go, java) in files {
        for file in [generated.path().join("proto").join(go), generated.path().join(java)] {
            assert!(file.exists(), "{}", file.display());
        }
    }
}
