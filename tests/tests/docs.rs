//! The contract for people and programs: the page in a real browser, the document before
//! an independent validator and a fuzzer.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value as Json, json};
use session_tests::client::Wire;
use session_tests::host::Launch;
use session_tests::process::Process;
use session_tests::python;

/// What has no end, and what a fuzzer therefore leaves out.
const STREAMS: &str = "^/(v1/connect|v1/events|api/sse/connect)$";

/// Runs a module of Python to its end; what it says when it is not content.
fn module(arguments: &[&str]) -> Result<(), String> {
    // What it leaves behind goes with the directory.
    let directory = tempfile::tempdir().unwrap();
    let mut command = python::command();
    command.arg("-m").args(arguments).current_dir(&directory);
    let output = command.output().expect("install python3");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout) + &text(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// A browser without a window, and what drives it.
struct Browser {
    client: Client,
    _driver: Process,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start() -> Self {
        let mut driver = Command::new("chromedriver");
        driver.arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = Process::start(&mut driver);
        let mut lines = BufReader::new(driver.child().stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("chromedriver names its port").unwrap();
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        let profile = tempfile::tempdir().unwrap();
        let profile_argument = format!("--user-data-dir={}", profile.path().display());
        let mut arguments = vec![
            "--headless",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1200,1600",
            &profile_argument,
        ];
        // Chromium does not start its sandbox for the user who needs none.
        if rustix::process::getuid().is_root() {
            arguments.push("--no-sandbox");
        }
        let Json::Object(capabilities) = json!({ "goog:chromeOptions": { "args": arguments } })
        else {
            unreachable!("it is an object");
        };
        let client = ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).to_owned();
        let client = client.connect(&format!("http://127.0.0.1:{port}")).await.unwrap();
        Self { client, _driver: driver, _profile: profile }
    }

    async fn click(&self, css: &str) {
        let found = self.client.wait().for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}")).click().await.unwrap();
    }

    async fn text(&self, css: &str) -> String {
        let found = self.client.wait().for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}")).text().await.unwrap()
    }
}

#[tokio::test]
async fn a_request_sent_from_the_page_gets_its_answer() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    let request = json!({ "user_id": "alice", "pod_id": "pod" });
    client.connections("Register", request).await.unwrap();
    let browser = Browser::start().await;
    browser.client.goto(&host.url("rest", "/docs")).await.unwrap();
    assert_eq!(browser.text("h1.title, h2.title").await.lines().next(), Some("Session Manager"));
    let operation = "div[id$='Connections_GetPresence']";
    let within = |css: &str| format!("{operation} {css}");
    browser.click(&within(".opblock-summary-control")).await;
    browser.click(&within(".try-out__btn")).await;
    let parameter = within("input[placeholder='user_id']");
    let parameter = browser.client.wait().for_element(Locator::Css(&parameter)).await.unwrap();
    parameter.send_keys("alice").await.unwrap();
    browser.click(&within(".execute")).await;
    let answer = within(".live-responses-table .response .response-col_description pre");
    let answer: Json = browser.text(&answer).await.parse().unwrap();
    assert_eq!(answer, json!({ "online": true, "connections": 1 }));
    let status = within(".live-responses-table .response .response-col_status");
    assert!(browser.text(&status).await.starts_with("200"));
    // It came whole from this server: nothing that its policy forbids was asked for.
    let asked = "return performance.getEntriesByType('resource').map(entry => entry.name)";
    let asked = browser.client.execute(asked, vec![]).await.unwrap();
    let asked: Vec<&str> =
        asked.as_array().unwrap().iter().map(|url| url.as_str().unwrap()).collect();
    let ours = host.url("rest", "/");
    assert!(asked.len() >= 4 && asked.iter().all(|url| url.starts_with(&ours)), "{asked:?}");
    browser.client.clone().close().await.unwrap();
}

#[tokio::test]
async fn the_document_is_valid_by_the_specification() {
    let host = Launch::in_memory().start();
    let text = reqwest::get(host.url("rest", "/openapi.json")).await.unwrap().text().await.unwrap();
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
async fn whatever_the_document_allows_or_forbids_is_answered_as_it_says() {
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
        // What a run has found, the next one finds too.
        "--seed",
        "1",
        "--no-color",
    ]);
    assert_eq!(fuzzed, Ok(()));
}
