//! What lies in `deploy/`: it names only what the server has, and other programs read it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value as Json, json};
use session_tests::admin::Admin;
use session_tests::client::Wire;
use session_tests::host::{Launch, binary};
use session_tests::redis_server::RedisServer;
use session_tests::wait;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(path)
}

/// The names of metrics in a text, without what a histogram appends to its own.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = |word: &&str| word.starts_with("session_manager_") || word.starts_with("process_");
    let base = |word: &str| {
        let suffixes = ["_bucket", "_sum", "_count"];
        let cut = suffixes.iter().find_map(|suffix| word.strip_suffix(suffix));
        cut.unwrap_or(word).to_owned()
    };
    words.filter(ours).map(base).collect()
}

#[tokio::test]
async fn alerts_and_dashboard_name_metrics_that_there_are() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    client.set("pre-order", "k", json!({ "fleet_list_request": 1 })).await.unwrap();
    let there = wait::until("the first sweep has counted", async || {
        let text = Admin::of(&host).metrics().await;
        text.contains("session_manager_sessions{").then(|| metrics_in(&text))
    })
    .await;
    // One that counts what has not happened yet is there with its first event.
    let later = "session_manager_component_rollbacks_total";
    let expressions = |json: &Json| {
        let panels = json["panels"].as_array().unwrap().iter();
        let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
        targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let dashboard = std::fs::read_to_string(deploy("grafana/session-manager.json")).unwrap();
    let dashboard = expressions(&dashboard.parse().unwrap()).join("\n");
    let rules = std::fs::read_to_string(deploy("prometheus/rules.yaml")).unwrap();
    for text in [rules, dashboard] {
        let named = metrics_in(&text);
        assert!(named.len() >= 6, "{named:?}");
        let missing = named.iter().filter(|name| !there.contains(*name) && *name != later);
        assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
    }
}

#[tokio::test]
async fn promtool_finds_nothing_wrong() {
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

#[tokio::test]
async fn the_binary_probes_itself() {
    let mut redis = RedisServer::start().await;
    let host = Launch::redis(&redis).start();
    let probe = |port: &str| {
        let mut command = Command::new(binary());
        let output = command.arg("health").env_clear().env("ADMIN_PORT", port).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (_, port) = host.address("admin").rsplit_once(':').unwrap();
    assert_eq!(probe(port), (Some(0), "ready\n".into()));
    redis.kill().await;
    wait::until("it is not ready", async || {
        (probe(port) == (Some(1), "not ready\n".into())).then_some(())
    })
    .await;
    // Where nobody listens.
    assert_eq!(probe("1"), (Some(1), String::new()));
}
