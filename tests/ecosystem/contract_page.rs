//! The contract for people and programs: the page in a real browser, and the OpenAPI document
//! with an independent validator and a fuzzer.

use serde_json::{Value as Json, json};
use session_tests::client::Wire;
use session_tests::host::Launch;

use crate::python;

/// The paths of streams, which the fuzzer skips because they never end.
const STREAMS: &str = "^/(v1/connect|v1/events|api/sse/connect)$";

/// Runs a module of Python; the error is what it prints when it fails.
fn module(arguments: &[&str]) -> Result<(), String> {
    // The directory is deleted afterwards, with the files that the module leaves.
    let directory = tempfile::tempdir().unwrap();
    let mut command = python::command();
    command.arg("-m").args(arguments).current_dir(&directory);
    python::run(&mut command).map(drop)
}

#[tokio::test]
async fn a_request_from_the_page_is_answered() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let request = json!({ "user_id": "alice", "pod_id": "pod" });
    client.connections("Register", request).await.unwrap();
    let mut browser = python::command();
    browser.arg(python::program("docs_page.py")).arg(host.url("rest", ""));
    assert_eq!(python::run(&mut browser).unwrap(), "done\n");
}

#[tokio::test]
async fn a_page_of_another_origin_changes_and_reads_nothing() {
    let host = Launch::in_memory().start();
    let mut browser = python::command();
    browser.arg(python::program("foreign_page.py"));
    browser.args([host.url("rest", ""), host.url("admin", "")]);
    assert_eq!(python::run(&mut browser).unwrap(), "done\n");
}

#[tokio::test]
async fn the_document_is_valid_openapi() {
    let host = Launch::in_memory().start();
    let text = session_tests::get(host.url("rest", "/openapi.json")).await.text().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let file = directory.path().join("openapi.json");
        std::fs::write(&file, text).unwrap();
        module(&["openapi_spec_validator", file.to_str().unwrap()])
    };
    assert_eq!(check(&text), Ok(()));
    let mut document: Json = text.parse().unwrap();
    document["paths"]["/health"]["get"]["responses"] = json!("none");
    check(&document.to_string()).expect_err("it does check");
}

#[tokio::test]
async fn generated_requests_are_answered_as_the_document_says() {
    let host = Launch::in_memory().start();
    let document = host.url("rest", "/openapi.json");
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_headers_conformance,response_schema_conformance,unsupported_method,\
                  negative_data_rejection";
    let fuzzed = module(&[
        "schemathesis.cli",
        "run",
        &document,
        "--exclude-path-regex",
        STREAMS,
        "--checks",
        checks,
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        "15",
        // A fixed seed, so that a failure can be repeated.
        "--seed",
        "1",
        "--no-color",
    ]);
    assert_eq!(fuzzed, Ok(()));
}
