//! A client in another language, generated from the protos as they are published.

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
