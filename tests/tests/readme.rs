//! What the README and the pages of `docs/` print, run as it stands there.

use std::process::Command;
use std::time::Duration;

use prost_reflect::prost_types::Timestamp;
use serde_json::Value as Json;
use session_tests::client::{GrpcClient, Style};
use session_tests::host::{Host, Launch};
use session_tests::process::Process;
use session_tests::redis_server::RedisServer;
use session_tests::{wait, workspace};
use tempfile::NamedTempFile;

/// A page, and those of its sections whose commands run one after the other on one server.
struct Page {
    path: &'static str,
    sections: &'static [&'static str],
}

const README: Page = Page { path: "README.md", sections: &["Try it"] };
const BOOKING: Page =
    Page { path: "docs/booking.md", sections: &["Write and read a session", "Use gRPC"] };
const BOOKING_ON_REDIS: Page = Page {
    path: "docs/booking.md",
    sections: &["Write and read a session", "Use gRPC", "Look into Redis"],
};
const LOGINS: Page =
    Page { path: "docs/logins.md", sections: &["Keep users logged in on many devices"] };
const CONNECTIONS: Page = Page { path: "docs/connections.md", sections: &["See who is online"] };
const VIEWING: Page = Page { path: "docs/viewing.md", sections: &["Limit the streams of a home"] };
/// Every page that a test below follows.
const PAGES: [Page; 6] = [README, BOOKING, BOOKING_ON_REDIS, LOGINS, CONNECTIONS, VIEWING];

fn read(path: &str) -> String {
    std::fs::read_to_string(workspace().join(path)).expect(path)
}

/// The text of a section of a page.
fn section(path: &str, title: &str) -> String {
    let page = read(path);
    let (_, behind) = page.split_once(&format!("\n## {title}\n")).expect(title);
    behind.split("\n## ").next().unwrap().into()
}

/// The commands of a section of a page, each with what it is said to print.
fn commands(path: &str, title: &str) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    for block in section(path, title).split("```console\n").skip(1) {
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
    assert!(!commands.is_empty(), "{path}, {title}: no commands");
    commands
}

/// The commands of all sections of a page.
fn commands_of(page: &Page) -> Vec<(String, String)> {
    page.sections.iter().flat_map(|title| commands(page.path, title)).collect()
}

async fn run(command: &str, host: &Host, redis: Option<&RedisServer>, grpc: &GrpcClient) -> String {
    if let Some(call) = command.strip_prefix("grpcurl -plaintext -d '") {
        // What grpcurl does with it, without grpcurl.
        let (request, method) = call.split_once("' localhost:6027 ").expect(command);
        let request = serde_json::from_str(request).expect(command);
        return grpc.json_in(method, request, Style::Brief).await.expect(command).to_string();
    }
    let command = match command.strip_prefix("redis-cli ") {
        Some(arguments) => {
            let port = redis.expect("a page that runs on Redis").port;
            // On a terminal it prints like this by itself.
            format!("redis-cli --no-raw -p {port} {arguments}")
        }
        None => command.replace("localhost:8027", host.address("rest")),
    };
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

async fn follow(page: &Page, host: &Host, redis: Option<&RedisServer>) {
    let grpc = GrpcClient::connect(host.address("grpc")).await;
    let commands = commands_of(page);
    assert!(commands.len() > 5, "{}: {}", page.path, commands.len());
    // Ids that are printed, and what they are this time.
    let mut known: Vec<(String, String)> = Vec::new();
    let renamed = |text: &str, known: &[(String, String)]| {
        known.iter().fold(text.to_owned(), |text, (printed, real)| {
            text.replace(printed, real).replace(&printed[..6], &real[..6])
        })
    };
    for (command, printed) in commands {
        let output = run(&renamed(&command, &known), host, redis, &grpc).await;
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

/// Follows a page with commands that run in shells of their own, until the others are done.
/// `localhost:8028` is another host on the same store. The page shows each such command once
/// by itself, to be started, and once with all that it has printed in the end.
async fn follow_shells(page: &Page, hosts: [&Host; 2]) {
    let on = |command: &str| {
        let command = command.replace("localhost:8027", hosts[0].address("rest"));
        // On a busy machine it takes a little longer until an expiry is found.
        let command = command.replace("sleep 12", "sleep 14");
        command.replace("localhost:8028", hosts[1].address("rest"))
    };
    let (streams, others): (Vec<_>, Vec<_>) =
        commands_of(page).into_iter().partition(|(command, _)| command.starts_with("curl -sN "));
    assert!(streams.len() > 1 && others.len() > 4, "{}", page.path);
    let text = read(page.path);
    let so_far = |output: &NamedTempFile| std::fs::read_to_string(output.path()).unwrap();
    let mut shells = Vec::new();
    for (command, printed) in streams {
        let started = format!("```sh\n{command}\n```");
        assert!(text.contains(&started), "{}: {command} is not started", page.path);
        let output = NamedTempFile::new().unwrap();
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("exec {}", on(&command))]).stdout(output.reopen().unwrap());
        let shell = Process::start(&mut shell);
        wait::until("it prints", async || so_far(&output).contains("\n\n").then_some(())).await;
        shells.push((command, printed, shell, output));
    }
    for (command, printed) in others {
        let output = Command::new("bash").args(["-c", &on(&command)]).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        assert_eq!(timeless(&output), timeless(&printed), "{command}");
    }
    for (_, printed, _, output) in &shells {
        let all = events(printed).len();
        let is_whole = async || (events(&so_far(output)).len() >= all).then_some(());
        wait::until("all is printed", is_whole).await;
    }
    // And no more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (command, printed, _shell, output) in shells {
        assert_eq!(events(&so_far(&output)), events(&printed), "{command}");
    }
}

/// Lifetimes as the page sets them.
fn brief(launch: Launch, pod: &str) -> Host {
    let launch = launch.set("CONNECTION_HEARTBEAT", "2s").set("CONNECTION_STALE", "6s");
    launch.set("POD_ID", pod).start()
}

#[tokio::test]
async fn users_are_online_as_printed_on_the_embedded_store() {
    let directory = tempfile::tempdir().unwrap();
    let host = brief(Launch::embedded(directory.path()), "pod-a");
    follow_shells(&CONNECTIONS, [&host, &host]).await;
}

#[tokio::test]
async fn users_are_online_as_printed_on_two_hosts_and_redis() {
    let redis = RedisServer::start().await;
    let a = brief(Launch::redis(&redis), "pod-a");
    let b = brief(Launch::redis(&redis), "pod-b");
    follow_shells(&CONNECTIONS, [&a, &b]).await;
}

async fn follow_on_the_embedded_store(page: &Page) {
    let directory = tempfile::tempdir().unwrap();
    follow(page, &Launch::embedded(directory.path()).start(), None).await;
}

async fn follow_on_redis(page: &Page) {
    let redis = RedisServer::start().await;
    follow(page, &Launch::redis(&redis).start(), Some(&redis)).await;
}

#[tokio::test]
async fn the_readme_runs_as_printed_on_the_embedded_store() {
    follow_on_the_embedded_store(&README).await;
}

#[tokio::test]
async fn the_readme_runs_as_printed_on_redis() {
    follow_on_redis(&README).await;
}

#[tokio::test]
async fn flows_are_booked_as_printed_on_the_embedded_store() {
    follow_on_the_embedded_store(&BOOKING).await;
}

#[tokio::test]
async fn flows_are_booked_as_printed_on_redis() {
    follow_on_redis(&BOOKING_ON_REDIS).await;
}

#[tokio::test]
async fn users_log_in_as_printed_on_the_embedded_store() {
    follow_on_the_embedded_store(&LOGINS).await;
}

#[tokio::test]
async fn users_log_in_as_printed_on_redis() {
    follow_on_redis(&LOGINS).await;
}

#[tokio::test]
async fn streams_are_limited_as_printed_on_the_embedded_store() {
    follow_on_the_embedded_store(&VIEWING).await;
}

#[tokio::test]
async fn streams_are_limited_as_printed_on_redis() {
    follow_on_redis(&VIEWING).await;
}

#[test]
fn every_transcript_of_the_pages_is_run() {
    let docs = std::fs::read_dir(workspace().join("docs")).unwrap();
    let names = docs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let pages = names.filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}"));
    for path in pages.chain(["README.md".to_owned()]) {
        for part in read(&path).split("\n## ") {
            let title = part.lines().next().unwrap_or_default();
            let asks = ["curl", "grpcurl", "redis-cli"].map(|program| format!("\n$ {program} "));
            let is_transcript = asks.iter().any(|ask| part.contains(ask));
            let is_run =
                PAGES.iter().any(|page| page.path == path && page.sections.contains(&title));
            assert!(is_run || !is_transcript, "{path}, {title}: no test runs its commands");
        }
    }
}

#[test]
fn the_readme_changes_a_rule_as_the_walkthrough_does() {
    let walkthrough = read("docs/authoring.md");
    let text = section("README.md", "Change a rule while it runs");
    let blocks: Vec<&str> = text.split("\n```").skip(1).step_by(2).collect();
    assert!(blocks.len() > 3, "{blocks:?}");
    for line in blocks.iter().flat_map(|block| block.lines().skip(1)) {
        assert!(walkthrough.contains(line), "docs/authoring.md does not have {line}");
    }
}
