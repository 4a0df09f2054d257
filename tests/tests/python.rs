//! A client in another language, generated from the protos as they are published.

use std::process::Command;

use session_tests::host::Launch;
use session_tests::{python, workspace};

/// Runs a program to its end and returns what it has printed.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("install python3");
    let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{errors}");
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_client_generated_for_python_runs_the_booking_flow() {
    let generated = tempfile::tempdir().unwrap();
    let out = generated.path().display().to_string();
    run(python::command()
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(workspace().join("host/proto"))
        .arg(format!("--python_out={out}"))
        .arg(format!("--grpc_python_out={out}"))
        .arg("session-manager.proto"));
    let host = Launch::in_memory().start();
    let path = format!("{}:{out}", python::packages().display());
    let program = workspace().join("tests/python/booking.py");
    let mut booking = python::command();
    booking.env("PYTHONPATH", path).arg(program).arg(host.address("grpc"));
    assert_eq!(run(&mut booking), "done\n");
}
