//! Settings as operators give them: environment files, secrets in files, passwords that change
//! while the server runs.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::json;
use session_tests::client::{Client, Wire};
use session_tests::host::{Launch, binary};
use session_tests::redis_server::RedisServer;
use session_tests::redis_topology::Cluster;
use session_tests::wait;

/// An environment file as it is often written: for a shell, which removes the quotes.
const ENVIRONMENT: &str = r#"# Application
APP_NAME=mybb-session-manager
GRPC_PORT=6027
REST_PORT=8027
LOG_LEVEL=info
LOG_DIRECTORY=

# Redis
REDIS_HOST=""
REDIS_PORT=6379
REDIS_DATABASE=5
REDIS_PASSWORD=""
SESSION_TTL=15m

# Elastic APM
ELASTIC_APM_CLOUD_PROVIDER=""
ELASTIC_APM_ENVIRONMENT=staging
ELASTIC_APM_SECRET_TOKEN=""
ELASTIC_APM_SERVER_TIMEOUT="30s"
ELASTIC_APM_SERVER_URL=http://127.0.0.1:1 
ELASTIC_APM_SERVICE_NAME=mybb-session-manager
"#;

#[tokio::test]
async fn an_environment_file_with_quotes_is_refused_with_the_correct_line() {
    // docker's --env-file takes everything after the first `=` as the value.
    let lines = ENVIRONMENT.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once('='));
    let mut settings: BTreeMap<&str, String> =
        pairs.map(|(name, value)| (name, value.to_owned())).collect();
    assert!(settings["ELASTIC_APM_SERVER_URL"].ends_with(' '));
    // The ports of the file are valid, but a test needs free ports.
    settings.extend([("GRPC_PORT", "0".to_owned()), ("REST_PORT", "0".to_owned())]);
    let launch = |settings: &BTreeMap<&str, String>| {
        settings.iter().fold(Launch::in_memory(), |launch, (name, value)| launch.set(name, value))
    };
    for (name, advice, instead) in [
        ("ELASTIC_APM_SERVER_TIMEOUT", "write ELASTIC_APM_SERVER_TIMEOUT=30s", "30s"),
        ("REDIS_HOST", "leave REDIS_HOST out", ""),
    ] {
        let output = launch(&settings).command().output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), complaint.lines().count()), (Some(64), 1), "{complaint}");
        // The server may report either of the settings first.
        let value = &settings[name];
        assert!(complaint.contains("without quotes"), "{complaint}");
        if complaint.contains(name) {
            assert!(complaint.contains(value) && complaint.contains(advice), "{complaint}");
        }
        settings.insert(name, instead.into());
    }
    let host = launch(&settings).start();
    for name in ["REDIS_PASSWORD", "ELASTIC_APM_SECRET_TOKEN"] {
        assert!(host.log().contains(&format!("{name} is in quotes")), "{}", host.log());
    }
    assert!(host.client(Wire::Rest).await.health().await.is_ok());
}

/// A mounted Secret of Kubernetes: its files are links into a directory that is itself a link. An
/// update replaces that link.
struct Mounted {
    directory: tempfile::TempDir,
    versions: u32,
}

impl Mounted {
    fn new(text: &str) -> Self {
        let mut mounted = Self { directory: tempfile::tempdir().unwrap(), versions: 0 };
        mounted.write(text);
        symlink("..data/secret", mounted.file()).unwrap();
        mounted
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("secret")
    }

    fn write(&mut self, text: &str) {
        self.versions += 1;
        let version = format!("..version-{}", self.versions);
        let at = |name: &str| self.directory.path().join(name);
        std::fs::create_dir(at(&version)).unwrap();
        let file = at(&version).join("secret");
        std::fs::write(&file, format!("{text}\n")).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
        symlink(&version, at("..data_next")).unwrap();
        std::fs::rename(at("..data_next"), at("..data")).unwrap();
    }
}

/// Sends a command to a Redis server as its administrator.
async fn ask(server: &RedisServer, password: &str, command: &[&str]) {
    let user = if password.is_empty() { String::new() } else { format!(":{password}@") };
    let client = redis::Client::open(format!("redis://{user}127.0.0.1:{}", server.port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut asked = redis::cmd(command[0]);
    asked.arg(&command[1..]);
    let _: redis::Value = asked.query_async(&mut connection).await.unwrap();
}

async fn write(client: &Client) -> Result<(), String> {
    let written = client.set("ez-pay", "k", json!({ "request": 1 })).await;
    written.map(drop).map_err(|refusal| refusal.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_is_used_without_a_restart() {
    let server = RedisServer::with(&["--requirepass", "first-word"]).await;
    let mut secret = Mounted::new("first-word");
    let file = secret.file().display().to_string();
    let host = Launch::redis(&server).set("REDIS_PASSWORD_FILE", &file).start();
    let client = host.client(Wire::Rest).await;
    write(&client).await.unwrap();
    // Open connections are not affected.
    ask(&server, "first-word", &["CONFIG", "SET", "requirepass", "second-word"]).await;
    write(&client).await.unwrap();
    // New connections need the new password, which the server does not have yet.
    ask(&server, "second-word", &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no"]).await;
    wait::until("the old password is refused", async || {
        (write(&client).await == Err("STORE_UNAVAILABLE".into())).then_some(())
    })
    .await;
    wait::until("the log names the server that cannot be reached", async || {
        let server = format!("127.0.0.1:{}", server.port);
        let log = host.log();
        let mut lines = log.lines().filter(|line| line.contains("Redis cannot be reached"));
        lines.any(|line| line.contains(&server)).then_some(())
    })
    .await;
    secret.write("second-word");
    wait::until("the new password is used", async || write(&client).await.ok()).await;
    assert!(!host.log().contains("-word"), "{}", host.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_url_is_used_without_a_restart() {
    let server = RedisServer::start().await;
    let user = ["ACL", "SETUSER", "session", "resetpass", "on", "~*", "&*", "+@all"];
    ask(&server, "", &[&user[..], &[">first-word"]].concat()).await;
    let url = |word: &str| format!("redis://session:{word}@127.0.0.1:{}/5", server.port);
    let mut secret = Mounted::new(&url("first-word"));
    let file = secret.file().display().to_string();
    let launch = Launch::redis(&server).set("REDIS_URL_FILE", &file);
    let host = launch.start();
    let client = host.client(Wire::Grpc).await;
    write(&client).await.unwrap();
    ask(&server, "", &[&user[..], &[">second-word"]].concat()).await;
    secret.write(&url("second-word"));
    ask(&server, "", &["CLIENT", "KILL", "USER", "session"]).await;
    wait::until("the new password is used", async || write(&client).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_password_of_a_cluster_is_used_without_a_restart() {
    let cluster = Cluster::start().await;
    let user = ["ACL", "SETUSER", "session", "resetpass", "on", "~*", "&*", "+@all"];
    for server in &cluster.servers {
        ask(server, "", &[&user[..], &[">first-word"]].concat()).await;
    }
    let url = |word: &str| cluster.url().replace("://", &format!("://session:{word}@"));
    let mut secret = Mounted::new(&url("first-word"));
    let file = secret.file().display().to_string();
    let launch = Launch::redis_at("").set("REDIS_URL_FILE", &file);
    let host = launch.start();
    let client = host.client(Wire::Rest).await;
    write(&client).await.unwrap();
    for server in &cluster.servers {
        ask(server, "", &[&user[..], &[">second-word"]].concat()).await;
    }
    secret.write(&url("second-word"));
    for server in &cluster.servers {
        ask(server, "", &["CLIENT", "KILL", "USER", "session"]).await;
    }
    wait::until("all nodes are written to", async || {
        for number in 0..20 {
            let key = format!("k{number}");
            client.set("ez-pay", &key, json!({ "request": 1 })).await.ok()?;
        }
        Some(())
    })
    .await;
}

#[test]
fn an_unsafe_secret_file_prevents_the_start_with_the_remedy() {
    let secret = Mounted::new("a-secret-word");
    let file = secret.file();
    let path = file.display().to_string();
    let refused = |launch: &Launch| {
        let output = launch.command().output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), complaint.lines().count()), (Some(64), 1), "{complaint}");
        assert!(!complaint.contains("secret-word"), "{complaint}");
        complaint
    };
    let with = |name: &str| Launch::in_memory().set(name, &path);
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    for name in [
        "REDIS_PASSWORD_FILE",
        "REDIS_URL_FILE",
        "ELASTIC_APM_SECRET_TOKEN_FILE",
        "OTEL_EXPORTER_OTLP_HEADERS_FILE",
    ] {
        let complaint = refused(&with(name));
        let chmod = format!("chmod 0640 {path}");
        for part in [name, &path, "0644", &chmod] {
            assert!(complaint.contains(part), "{complaint}");
        }
    }
    std::fs::set_permissions(&file, Permissions::from_mode(0o440)).unwrap();
    let twice = with("REDIS_PASSWORD_FILE").set("REDIS_PASSWORD", "another-secret-word");
    let complaint = refused(&twice);
    assert!(complaint.contains("REDIS_PASSWORD and REDIS_PASSWORD_FILE"), "{complaint}");
    let missing = Launch::in_memory().set("REDIS_PASSWORD_FILE", "/nowhere/at-all");
    assert!(refused(&missing).contains("/nowhere/at-all"));
}

#[tokio::test]
async fn a_secret_in_the_arguments_is_logged_as_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("with-a-flag");
    script(
        &program,
        &format!("exec '{}' --redis-password=a-secret-word \"$@\"", binary().display()),
    );
    let host = Launch::in_memory().program(&program).start();
    let log = host.log();
    let warning = log.lines().find(|line| line.contains("WARN")).expect("a warning");
    assert!(
        warning.contains("--redis-password") && warning.contains("REDIS_PASSWORD_FILE"),
        "{log}"
    );
    assert!(!log.contains("secret-word"), "{log}");
}

fn script(path: &Path, command: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{command}\n")).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}
