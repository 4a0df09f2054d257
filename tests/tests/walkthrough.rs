//! `docs/authoring.md`, followed word for word.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;
use session_tests::guest::take_dependencies;
use session_tests::host::{Host, Launch, binary};
use session_tests::{target_directory, workspace};

/// The fenced blocks of a page: the language and the text.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let fences = page.split("\n```").skip(1).step_by(2);
    fences.map(|block| block.split_once('\n').unwrap()).collect()
}

/// A copy of the repository as one who has cloned it has.
fn clone() -> PathBuf {
    let clone = target_directory().join("walkthrough");
    let tracked = [
        "Cargo.lock",
        "Cargo.toml",
        "client",
        "guest",
        "host",
        "store",
        "tests",
        "wit",
        "rust-toolchain.toml",
    ];
    std::fs::create_dir_all(&clone).unwrap();
    for path in tracked {
        // An earlier copy may have files that the repository has no more.
        if clone.join(path).is_dir() {
            std::fs::remove_dir_all(clone.join(path)).unwrap();
        }
        let status = Command::new("cp")
            .args(["--recursive", "--no-target-directory"])
            .arg(workspace().join(path))
            .arg(clone.join(path))
            .status();
        assert!(status.unwrap().success(), "{path} was not copied");
    }
    take_dependencies(&clone.join("target"));
    clone
}

/// Runs a command of the page against a server of the test.
fn run(command: &str, host: &Host, clone: &Path) -> String {
    let command = command
        .replace("localhost:8027", host.address("rest"))
        .replace("localhost:9027", host.address("admin"))
        .replace("target/release/session-manager", binary().to_str().unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", &command]).current_dir(clone);
    let output = shell.env_remove("CARGO_TARGET_DIR").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}\n{text}\n{errors}");
    text
}

fn patch(diff: &str, clone: &Path) {
    let mut patch = Command::new("patch")
        .args(["--strip=1", "--no-backup-if-mismatch", "--silent"])
        .current_dir(clone)
        .stdin(Stdio::piped())
        .spawn()
        .expect("install patch (Debian and Ubuntu: apt-get install patch)");
    std::io::Write::write_all(&mut patch.stdin.take().unwrap(), format!("{diff}\n").as_bytes())
        .unwrap();
    assert!(patch.wait().unwrap().success(), "does not apply:\n{diff}");
}

/// Whether everything that the page shows is in the answer.
fn shows(answer: &Json, shown: &Json) -> bool {
    match (answer, shown) {
        (Json::Object(answer), Json::Object(shown)) => shown
            .iter()
            .all(|(name, shown)| answer.get(name).is_some_and(|answer| shows(answer, shown))),
        (Json::Array(answer), Json::Array(shown)) => {
            answer.len() == shown.len() && answer.iter().zip(shown).all(|(a, s)| shows(a, s))
        }
        _ => answer == shown,
    }
}

/// A report without how long things took.
fn untimed(report: &str) -> Vec<String> {
    let untimed = |line: &str| match line.split_once(" in ") {
        Some((what, time)) if time.ends_with(" ms") => what.into(),
        _ => line.into(),
    };
    report.trim().lines().map(untimed).collect()
}

#[tokio::test]
async fn a_reader_of_the_page_changes_a_rule_and_adds_a_context() {
    let page = std::fs::read_to_string(workspace().join("docs/authoring.md")).unwrap();
    let host = Launch::in_memory().start();
    let clone = clone();
    let mut answer = String::new();
    let blocks = blocks(&page);
    assert!(blocks.len() > 12, "{}", blocks.len());
    for (language, text) in blocks {
        match language {
            "diff" => patch(text, &clone),
            "sh" => answer = run(text, &host, &clone),
            "text" => assert_eq!(untimed(&answer), untimed(text)),
            "json" => {
                let (given, shown) = (serde_json::from_str(&answer), serde_json::from_str(text));
                let (given, shown): (Json, Json) = (given.expect(&answer), shown.expect(text));
                assert!(shows(&given, &shown), "{text} is not what comes: {answer}");
            }
            other => panic!("a block of {other}"),
        }
    }
}
