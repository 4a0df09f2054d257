//! The files in `deploy/`, checked with foreign programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use session_tests::admin::Admin;
use session_tests::client::Wire;
use session_tests::host::{Launch, binary};
use session_tests::workspace;

use crate::python;

fn deploy(path: &str) -> PathBuf {
    workspace().join("deploy").join(path)
}

#[tokio::test]
async fn manifests_are_valid_and_name_existing_settings() {
    let help = Command::new(binary()).arg("--help").env_clear().output().unwrap().stdout;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, &help).unwrap();
    let check = |directory: &Path| {
        let mut command = python::command();
        command.arg(python::program("manifests.py")).arg(directory).arg(file.path());
        python::run(&mut command)
    };
    assert_eq!(check(&deploy("kubernetes")), Ok("done\n".into()));
    // The program does find errors.
    for (file, before, after, expected) in [
        (
            "deployment.yaml",
            "readOnlyRootFilesystem: true",
            "readOnlyRootFilesystem: false",
            "readOnlyRootFilesystem",
        ),
        ("deployment.yaml", "defaultMode: 0440", "defaultMode: 0444", "open to others"),
        (
            "deployment.yaml",
            "secretName: session-manager",
            "secretName: session-manager\n            optional: true",
            "is optional",
        ),
        (
            "networkpolicy.yaml",
            "        - podSelector: {}\n",
            "        - namespaceSelector: {}\n",
            "lets in who labels itself",
        ),
    ] {
        let copy = tempfile::tempdir().unwrap();
        let copied =
            Command::new("cp").arg("-r").arg(deploy("kubernetes")).arg(copy.path()).status();
        assert!(copied.unwrap().success());
        let changed = copy.path().join("kubernetes").join(file);
        let text = std::fs::read_to_string(&changed).unwrap();
        assert!(text.contains(before), "{file} has no {before}");
        std::fs::write(&changed, text.replace(before, after)).unwrap();
        let complaint = check(&copy.path().join("kubernetes")).unwrap_err();
        assert!(complaint.contains(expected), "{complaint}");
    }
}

#[tokio::test]
async fn promtool_accepts_the_rules() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Grpc).await;
    client.set("pre-order", "k", json!({ "fleet_list_request": 1 })).await.unwrap();
    let checked = Command::new("promtool")
        .args(["check", "rules"])
        .arg(deploy("prometheus/rules.yaml"))
        .output()
        .expect("install prometheus (Debian and Ubuntu: apt-get install prometheus)");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    let text = Admin::of(&host).metrics().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
    let checked = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(file.reopen().unwrap())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success() && said.trim().is_empty(), "{said}");
}
