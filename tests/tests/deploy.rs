//! The files in `deploy/` name only settings and metrics that the server has.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value as Json, json};
use session_tests::admin::Admin;
use session_tests::client::Wire;
use session_tests::host::{Launch, binary};
use session_tests::redis_server::RedisServer;
use session_tests::{wait, workspace};

fn deploy(path: &str) -> PathBuf {
    workspace().join("deploy").join(path)
}

/// The names of metrics in a text, without the suffixes of histograms.
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
async fn alerts_and_dashboard_name_existing_metrics() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    client.set("pre-order", "k", json!({ "fleet_list_request": 1 })).await.unwrap();
    let redis = RedisServer::start().await;
    let on_redis = Launch::redis(&redis).start();
    let of_redis = wait::until("the store was called", async || {
        let text = Admin::of(&on_redis).metrics().await;
        text.contains("session_manager_store_node_up{").then(|| metrics_in(&text))
    })
    .await;
    let mut there = wait::until("the first sweep has counted sessions", async || {
        let text = Admin::of(&host).metrics().await;
        text.contains("session_manager_sessions{kind=\"user\"}").then(|| metrics_in(&text))
    })
    .await;
    there.extend(of_redis);
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
        let missing = named.iter().filter(|name| !there.contains(*name));
        assert_eq!(missing.collect::<Vec<_>>(), [""; 0]);
    }
}

#[tokio::test]
async fn live_sessions_are_counted_by_kind() {
    let redis = RedisServer::start().await;
    for launch in [Launch::in_memory(), Launch::redis(&redis)] {
        let host = launch.start();
        let client = host.client(Wire::Rest).await;
        for (number, context) in ["pre-order", "ez-pay", "pre-order"].iter().enumerate() {
            let fields = match *context {
                "ez-pay" => json!({ "request": 1 }),
                _ => json!({ "fleet_list_request": 1 }),
            };
            client.set(context, &format!("k{number}"), fields).await.unwrap();
        }
        // A lock does not count as a session.
        client.lock("pre-order", "k2").await.unwrap();
        let login = json!({ "session_attributes": { "user_id": "alice" } });
        client.users("Create", login.clone()).await.unwrap();
        client.users("Create", login).await.unwrap();
        let register = json!({ "user_id": "alice", "pod_id": "pod" });
        client.connections("Register", register).await.unwrap();
        let slot = json!({ "accountId": "home", "deviceId": "tv" });
        client.viewing("CreateSession", slot).await.unwrap();
        let counted = async |expected: [(&str, u32); 4]| {
            wait::until("all sessions are counted", async || {
                let text = Admin::of(&host).metrics().await;
                let is_shown = |(kind, count): &(&str, u32)| {
                    text.contains(&format!("session_manager_sessions{{kind=\"{kind}\"}} {count}\n"))
                };
                expected.iter().all(is_shown).then_some(())
            })
            .await;
        };
        counted([("booking", 3), ("user", 2), ("connection", 1), ("viewing", 1)]).await;
        client.delete("pre-order", "k0").await.unwrap();
        client.users("DeleteAll", json!({ "user_id": "alice" })).await.unwrap();
        counted([("booking", 2), ("user", 0), ("connection", 1), ("viewing", 1)]).await;
    }
}

#[test]
fn the_page_for_operators_lists_every_setting_metric_and_error() {
    let read = |path: &str| std::fs::read_to_string(workspace().join(path)).unwrap();
    let page = read("docs/operations.md");
    let help = Command::new(binary()).arg("--help").env_clear().output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let settings = help.split("[env: ").skip(1).map(|rest| rest.split(['=', ']']).next().unwrap());
    let settings: BTreeSet<&str> = settings.collect();
    assert!(settings.len() > 30, "{settings:?}");
    for setting in settings {
        assert!(page.contains(&format!("`{setting}`")), "{setting} is missing");
    }
    let source = read("host/src/telemetry/metrics.rs");
    let source = source.split("#[cfg(test)]").next().unwrap();
    let ours = |text: &str| {
        let mut names = metrics_in(text);
        names.retain(|name| name.starts_with("session_manager_"));
        names
    };
    assert_eq!(ours(&page), ours(source));
    for row in session_manager::error::TABLE {
        assert!(page.contains(row.name), "{} is missing", row.name);
    }
}

#[tokio::test]
async fn the_health_command_probes_a_server() {
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
    wait::until("the server is not ready", async || {
        (probe(port) == (Some(1), "not ready\n".into())).then_some(())
    })
    .await;
    // No server listens on this port.
    assert_eq!(probe("1"), (Some(1), String::new()));
}

#[test]
fn manifests_require_the_password_and_admit_no_pod_by_its_own_label() {
    let read = |path: &str| std::fs::read_to_string(deploy(path)).unwrap();
    let deployment = read("kubernetes/deployment.yaml");
    for part in ["REDIS_PASSWORD_FILE", "secretName: session-manager", "defaultMode: 0440"] {
        assert!(deployment.contains(part), "{part}");
    }
    let volumes = deployment.split("\n      volumes:\n").nth(1).expect("the Secret is mounted");
    assert!(!volumes.contains("optional") && !deployment.contains("secretRef"), "{deployment}");
    for policy in ["kubernetes/networkpolicy.yaml", "kubernetes/embedded/networkpolicy.yaml"] {
        let policy = read(policy);
        let ingress = policy.split("ingress:").nth(1).expect("a rule for ingress");
        let ingress = ingress.split("egress:").next().unwrap();
        assert!(ingress.contains("session-manager/client"), "{ingress}");
        // A rule for all namespaces would admit any pod that carries the label.
        assert!(!ingress.contains("namespaceSelector: {}"), "{ingress}");
    }
}
