//! A client in another language, generated from the protos as they are published.

use std::path::{Path, PathBuf};
use std::process::Command;

use session_tests::host::Launch;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn python(path: &str) -> Command {
    let mut python = Command::new("python3");
    python.env("PYTHONPATH", path);
    python
}

/// Runs a program to its end and returns what it has printed.
fn run(command: &mut Command) -> String {
    let output = command.output().expect("install python3");
    let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{errors}");
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_client_generated_for_python_runs_the_booking_flow() {
    let packages = workspace().join("target/python").display().to_string();
    let generated = tempfile::tempdir().unwrap();
    let out = generated.path().display().to_string();
    run(python(&packages)
        .args(["-m", "grpc_tools.protoc", "-I"])
        .arg(workspace().join("host/proto"))
        .arg(format!("--python_out={out}"))
        .arg(format!("--grpc_python_out={out}"))
        .arg("session-manager.proto"));
    let host = Launch::in_memory().start();
    let path = format!("{packages}:{out}");
    let program = workspace().join("tests/python/booking.py");
    assert_eq!(run(python(&path).arg(program).arg(host.address("grpc"))), "done\n");
}
