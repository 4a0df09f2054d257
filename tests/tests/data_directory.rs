//! A start on an unusable DATA_DIR prints one sentence: what is wrong, with which file, and what
//! to do. `check-data` reports the damage and repairs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::Launch;

/// A directory that contains a session, and that no process uses.
async fn stopped_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Launch::embedded(directory.path()).start();
    let client = host.client(Wire::Rest).await;
    client.set("pre-order", "kept", json!({ "fleet_list_request": 7 })).await.unwrap();
    drop(client);
    host.signal("TERM");
    host.ended().await;
    directory
}

/// The one line that a failed start prints, without the text up to the name of the setting.
fn refused(mut command: Command) -> String {
    command.env("LOG_LEVEL", "off");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let line = text.strip_prefix("session-manager: DATA_DIR ").unwrap_or_else(|| panic!("{text}"));
    assert_eq!(line.lines().count(), 1, "{text}");
    for word in ["Error", "Io(", "Os {", "kind:", "Some(", "panicked"] {
        assert!(!line.contains(word), "{text}");
    }
    line.trim_end().to_owned()
}

fn refused_at(directory: &Path) -> String {
    let line = refused(Launch::embedded(directory).command());
    let rest = line.strip_prefix(&format!("{}: ", directory.display()));
    rest.unwrap_or_else(|| panic!("{line}")).to_owned()
}

#[tokio::test]
async fn a_file_instead_of_the_directory_is_refused_with_the_reason() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_owned(), file.path().join("data")] {
        let line = refused_at(&path);
        assert!(line.starts_with("it is a file, or lies below one; name a directory"), "{line}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_written_is_refused_with_the_missing_permission() {
    // The system allows no process to create files there.
    let line = refused_at(Path::new("/sys/kernel/session-manager"));
    assert!(
        line.starts_with("the process may not read and write the directory")
            || line.starts_with("the system refused to open it: "),
        "{line}"
    );
    let directory = stopped_directory().await;
    let manifest = directory.path().join("manifest");
    fs::set_permissions(&manifest, fs::Permissions::from_mode(0o0)).unwrap();
    // root may read the file in spite of its mode.
    if fs::read(&manifest).is_err() {
        let line = refused_at(directory.path());
        assert!(line.starts_with("the process may not read and write `manifest`"), "{line}");
    }
}

#[tokio::test]
async fn a_directory_in_use_by_another_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _host = Launch::embedded(directory.path()).start();
    let line = refused_at(directory.path());
    assert_eq!(line, "it is in use by another process; give every process a DATA_DIR of its own");
}

#[tokio::test]
async fn files_of_another_version_or_program_are_refused() {
    let directory = stopped_directory().await;
    let version = directory.path().join("version");
    fs::write(&version, b"FJL\x02").unwrap();
    let line = refused_at(directory.path());
    assert!(
        line.starts_with("`version` says that its files have format 2; this program"),
        "{line}"
    );
    fs::write(&version, b"12.3\n").unwrap();
    let line = refused_at(directory.path());
    assert!(line.starts_with("`version` was written by another program"), "{line}");
}

#[tokio::test]
async fn a_missing_lock_file_is_refused_with_the_remedy() {
    let directory = stopped_directory().await;
    fs::remove_file(directory.path().join("lock")).unwrap();
    let line = refused_at(directory.path());
    assert!(line.starts_with("`lock` is missing; when no other process uses"), "{line}");
    // The remedy works.
    fs::write(directory.path().join("lock"), "").unwrap();
    let host = Launch::embedded(directory.path()).start();
    let kept = host.client(Wire::Rest).await.get("pre-order", "kept").await.unwrap();
    assert_eq!(kept["fleet_list_request"], 7);
}

/// Runs `check-data`; returns its exit code and everything it prints.
fn checked(directory: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Launch::embedded(directory).command();
    let output = command.arg("check-data").args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_flipped_byte_in_the_journal_prevents_the_start_until_a_repair_that_keeps_the_files() {
    let directory = stopped_directory().await;
    let launch = Launch::embedded(directory.path());
    let mut host = launch.start();
    let client = host.client(Wire::Rest).await;
    client.set("pre-order", "later", json!({ "fleet_list_request": 8 })).await.unwrap();
    host.signal("KILL");
    host.ended().await;
    assert_eq!(checked(directory.path(), &[]).0, Some(0));

    let journal = directory.path().join("journal-1");
    let mut bytes = fs::read(&journal).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&journal, &bytes).unwrap();
    let line = refused_at(directory.path());
    let offset =
        line.strip_prefix("`journal-1` is damaged at byte ").unwrap_or_else(|| panic!("{line}"));
    let offset: usize = offset.split(':').next().unwrap().parse().unwrap();
    assert!(offset <= middle, "{line}");
    assert!(line.contains("`session-manager check-data`") && line.contains("`--repair`"), "{line}");
    assert_eq!(fs::read(&journal).unwrap(), bytes, "the file is unchanged");

    let (code, text) = checked(directory.path(), &[]);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        &format!("DAMAGED: `journal-1` at byte {offset}: "),
        "a repair leaves out ",
        "still readable of them: frames 1, rows ",
        "what is whole ends at ",
        "`session-manager check-data --repair`",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (code, text) = checked(directory.path(), &["--repair"]);
    assert_eq!(code, Some(0), "{text}");
    let kept = text.rsplit('`').nth(1).unwrap();
    assert_eq!(fs::read(directory.path().join(kept).join("journal-1")).unwrap(), bytes);
    let host = launch.start();
    assert!(host.client(Wire::Rest).await.health().await.is_ok());
    let (code, text) = checked(directory.path(), &["--repair"]);
    assert_eq!((code, text.contains("in use by another process")), (Some(2), true), "{text}");
}

#[tokio::test]
async fn a_torn_end_of_the_journal_is_discarded_and_logged() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(directory.path());
    let mut host = launch.start();
    let client = host.client(Wire::Rest).await;
    client.set("pre-order", "kept", json!({ "fleet_list_request": 7 })).await.unwrap();
    host.signal("KILL");
    host.ended().await;
    // The beginning of a frame, as a loss of power leaves it.
    let journal = directory.path().join("journal-1");
    let whole = fs::read(&journal).unwrap();
    fs::write(&journal, [&whole[..], &whole[..40]].concat()).unwrap();
    let (code, text) = checked(directory.path(), &[]);
    assert_eq!(code, Some(0), "{text}");
    let torn = format!("not synced: `journal-1` at byte {}: ", whole.len());
    assert!(text.contains(&torn), "{text}");
    let host = launch.start();
    let log = host.log();
    let line = log.lines().find(|line| line.contains("was not on the disk, and is lost"));
    let line = line.unwrap_or_else(|| panic!("{log}"));
    for part in ["WARN", "journal-1", &whole.len().to_string(), "bytes=40"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let kept = host.client(Wire::Rest).await.get("pre-order", "kept").await.unwrap();
    assert_eq!(kept["fleet_list_request"], 7);
}

#[tokio::test]
async fn a_missing_file_prevents_the_start() {
    for name in ["manifest", "journal-1", "synced"] {
        let directory = stopped_directory().await;
        fs::remove_file(directory.path().join(name)).unwrap();
        let line = refused_at(directory.path());
        assert!(line.starts_with(&format!("`{name}` is ")) && line.contains("missing"), "{line}");
        assert_eq!(checked(directory.path(), &[]).0, Some(1), "{name}");
        assert_eq!(checked(directory.path(), &["--repair"]).0, Some(0), "{name}");
        let host = Launch::embedded(directory.path()).start();
        let kept = host.client(Wire::Rest).await.get("pre-order", "kept").await;
        assert_eq!(kept.is_ok(), name != "journal-1", "{name}");
    }
}

#[tokio::test]
async fn check_data_needs_an_existing_data_directory() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path(), &directory.path().join("absent"), Path::new(":memory:")] {
        let (code, text) = checked(path, &[]);
        assert_eq!((code, text.lines().count()), (Some(2), 1), "{text}");
        assert!(text.starts_with("session-manager: DATA_DIR "), "{text}");
    }
}

#[tokio::test]
async fn a_full_disk_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(directory.path());
    // No file may grow. The signal that reports this is ignored.
    let mut command = Command::new("/bin/sh");
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\"";
    command.arg("-c").arg(limited).arg(session_tests::host::binary()).env_clear();
    for (name, value) in launch.command().get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let line = refused(command);
    let expected = "the disk has no room for its files (`journal-1`: File too large); make";
    assert!(line.contains(expected), "{line}");
    assert!(!directory.path().join("journal-1").exists());
}
