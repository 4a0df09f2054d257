//! What the README prints, run as it stands there.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use prost_reflect::prost_types::Timestamp;
use serde_json::Value as Json;
use session_tests::client::{GrpcClient, Style};
use session_tests::host::{Host, Launch};
use session_tests::process::Process;
use session_tests::redis_server::RedisServer;
use session_tests::wait;
use tempfile::NamedTempFile;

/// The commands of a section, each with what it is said to print.
fn commands(section: &str) -> Vec<(String, String)> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let (_, behind) = text.split_once(&format!("\n## {section}\n")).expect(section);
    let section = behind.split("\n## ").next().unwrap();
    let mut commands: Vec<(String, String)> = Vec::new();
    for block in section.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push((command.into(), String::new())),
                None => {
                    let printed = &mut commands.last_mut().expect("a command").1;
                    printed.push_str(line);
                    printed.push('\n');
                }
            }
        }
    }
    commands
}

async fn run(command: &str, host: &Host, grpc: &GrpcClient) -> String {
    if let Some(call) = command.strip_prefix("grpcurl -plaintext -d '") {
        // What grpcurl does with it, without grpcurl.
        let (request, method) = call.split_once("' localhost:6027 ").expect(command);
        let request = serde_json::from_str(request).expect(command);
        return grpc.json_in(method, request, Style::Brief).await.expect(command).to_string();
    }
    let command = command.replace("localhost:8027", host.address("rest"));
    let output = Command::new("bash").args(["-c", &command]).output().unwrap();
    assert!(output.status.success(), "{command}");
    String::from_utf8(output.stdout).unwrap()
}

/// The ids of sessions in a text, in their order: UUIDs, and 64 characters of
/// base64url.
fn ids(text: &str) -> Vec<String> {
    let base64url = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let words = text.split(|c| !base64url(c));
    let is_id = |word: &&str| word.len() == 64 || uuid::Uuid::parse_str(word).is_ok();
    words.filter(is_id).map(Into::into).collect()
}

/// A text without its instants; JSON over several lines counts as if on one.
fn timeless(text: &str) -> String {
    let text = match serde_json::from_str::<Json>(text) {
        Ok(json) if text.trim().contains('\n') => json.to_string(),
        _ => text.trim().into(),
    };
    let instant = |part: &str| part.parse::<Timestamp>().is_ok();
    let parts = text.split('"').map(|part| if instant(part) { "INSTANT" } else { part });
    let text = parts.collect::<Vec<_>>().join("\"");
    let mut timeless = String::new();
    for part in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_digit());
        let rest = &part[digits.len()..];
        let instant = matches!(digits.len(), 10 | 13);
        timeless.push_str(if instant { "INSTANT" } else { digits });
        timeless.push_str(rest);
    }
    timeless
}

async fn follow(section: &str, host: &Host) {
    let grpc = GrpcClient::connect(host.address("grpc")).await;
    let commands = commands(section);
    assert!(commands.len() > 10, "{}", commands.len());
    // Ids that are printed, and what they are this time.
    let mut known: Vec<(String, String)> = Vec::new();
    let renamed = |text: &str, known: &[(String, String)]| {
        known.iter().fold(text.to_owned(), |text, (printed, real)| {
            text.replace(printed, real).replace(&printed[..6], &real[..6])
        })
    };
    for (command, printed) in commands {
        let output = run(&renamed(&command, &known), host, &grpc).await;
        for (printed, real) in ids(&printed).into_iter().zip(ids(&output)) {
            if !known.iter().any(|(known, _)| *known == printed) {
                known.push((printed, real));
            }
        }
        assert_eq!(timeless(&output), timeless(&renamed(&printed, &known)), "{command}");
    }
}

/// Events without what differs from time to time: how many heartbeats came.
fn events(text: &str) -> Vec<String> {
    let mut events: Vec<String> = text.trim().split("\n\n").map(timeless).collect();
    events.dedup_by(|event, before| event == before && event.starts_with("event: heartbeat"));
    events
}

/// Follows a section with commands that go on in shells of their own, until the others
/// are done. `localhost:8028` is another host on the same store.
async fn follow_shells(section: &str, hosts: [&Host; 2]) {
    let on = |command: &str| {
        let command = command.replace("localhost:8027", hosts[0].address("rest"));
        // On a busy machine it takes a little longer until an expiry is found.
        let command = command.replace("sleep 12", "sleep 14");
        command.replace("localhost:8028", hosts[1].address("rest"))
    };
    let commands = commands(section);
    let (going_on, others): (Vec<_>, Vec<_>) =
        commands.into_iter().partition(|(command, _)| command.starts_with("curl -sN "));
    assert!(going_on.len() > 1 && others.len() > 4, "{section}");
    let told = |output: &NamedTempFile| std::fs::read_to_string(output.path()).unwrap();
    let mut shells = Vec::new();
    for (command, printed) in going_on {
        let output = NamedTempFile::new().unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("exec {}", on(&command))]).stdout(output.reopen().unwrap());
        let shell = Process::start(&mut shell);
        wait::until("it is there", async || told(&output).contains("\n\n").then_some(())).await;
        shells.push((command, printed, shell, output));
    }
    for (command, printed) in others {
        let output = Command::new("bash").args(["-c", &on(&command)]).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert_eq!(timeless(&output), timeless(&printed), "{command}");
    }
    for (_, printed, _, output) in &shells {
        let all = events(printed).len();
        wait::until("all is told", async || (events(&told(output)).len() >= all).then_some(()))
            .await;
    }
    // And no more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (command, printed, _shell, output) in shells {
        assert_eq!(events(&told(&output)), events(&printed), "{command}");
    }
}

const CONNECTIONS: &str = "See who is online";

/// Lifetimes as the section sets them.
fn brief(launch: Launch, pod: &str) -> Host {
    let launch = launch.set("CONNECTION_HEARTBEAT", "2s").set("CONNECTION_STALE", "6s");
    launch.set("POD_ID", pod).start()
}

#[tokio::test]
async fn users_are_online_as_printed_on_the_embedded_store() {
    let directory = tempfile::tempdir().unwrap();
    let host = brief(Launch::embedded(directory.path()), "pod-a");
    follow_shells(CONNECTIONS, [&host, &host]).await;
}

#[tokio::test]
async fn users_are_online_as_printed_on_two_hosts_and_redis() {
    let redis = RedisServer::start().await;
    let a = brief(Launch::redis(&redis), "pod-a");
    let b = brief(Launch::redis(&redis), "pod-b");
    follow_shells(CONNECTIONS, [&a, &b]).await;
}

const USERS: &str = "Keep users logged in on many devices";

#[tokio::test]
async fn users_log_in_as_printed_on_the_embedded_store() {
    let directory = tempfile::tempdir().unwrap();
    follow(USERS, &Launch::embedded(directory.path()).start()).await;
}

#[tokio::test]
async fn users_log_in_as_printed_on_redis() {
    let redis = RedisServer::start().await;
    follow(USERS, &Launch::redis(&redis).start()).await;
}

const VIEWING: &str = "Limit the streams of a home";

#[tokio::test]
async fn streams_are_limited_as_printed_on_the_embedded_store() {
    let directory = tempfile::tempdir().unwrap();
    follow(VIEWING, &Launch::embedded(directory.path()).start()).await;
}

#[tokio::test]
async fn streams_are_limited_as_printed_on_redis() {
    let redis = RedisServer::start().await;
    follow(VIEWING, &Launch::redis(&redis).start()).await;
}
