//! Starts on a DATA_DIR that cannot be used: one sentence that says what is wrong, with which
//! file, and what to do.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use session_tests::client::Wire;
use session_tests::host::Launch;

/// A directory with a session in it, and nobody who uses it.
async fn used() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut host = Launch::embedded(directory.path()).start();
    let client = host.client(Wire::Rest).await;
    client.set("pre-order", "kept", json!({ "fleet_list_request": 7 })).await.unwrap();
    drop(client);
    host.signal("TERM");
    host.ended().await;
    directory
}

/// The one line that a start ends with, without what is before the name of the setting.
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
async fn a_file_in_the_place_of_the_directory_is_named_as_such() {
    let file = tempfile::NamedTempFile::new().unwrap();
    for path in [file.path().to_owned(), file.path().join("data")] {
        let line = refused_at(&path);
        assert!(line.starts_with("it is a file, or lies below one; name a directory"), "{line}");
    }
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_or_written_says_what_the_process_may_not() {
    // The system lets nobody make anything there.
    let line = refused_at(Path::new("/sys/kernel/session-manager"));
    assert!(
        line.starts_with("the process may not read and write the directory")
            || line.starts_with("the system refused to open it: "),
        "{line}"
    );
    let directory = used().await;
    fs::set_permissions(directory.path().join("version"), fs::Permissions::from_mode(0o0)).unwrap();
    // The administrator may read it all the same.
    if fs::read(directory.path().join("version")).is_err() {
        let line = refused_at(directory.path());
        assert!(line.starts_with("the process may not read and write `version`"), "{line}");
    }
}

#[tokio::test]
async fn a_directory_in_use_is_left_to_its_process() {
    let directory = tempfile::tempdir().unwrap();
    let _host = Launch::embedded(directory.path()).start();
    let line = refused_at(directory.path());
    assert_eq!(line, "it is in use by another process; give every process a DATA_DIR of its own");
}

#[tokio::test]
async fn files_of_another_version_or_program_are_not_read() {
    let directory = used().await;
    let version = directory.path().join("version");
    fs::write(&version, b"FJL\x02").unwrap();
    let line = refused_at(directory.path());
    assert!(line.starts_with("`version` says that its files have format 2, and this"), "{line}");
    fs::write(&version, b"12.3\n").unwrap();
    let line = refused_at(directory.path());
    assert!(line.starts_with("`version` was not written by this program"), "{line}");
}

#[tokio::test]
async fn a_missing_lock_file_is_told_with_what_to_do() {
    let directory = used().await;
    fs::remove_file(directory.path().join("lock")).unwrap();
    let line = refused_at(directory.path());
    assert!(line.starts_with("`lock` is missing; when no other process uses"), "{line}");
    // What it says helps.
    fs::write(directory.path().join("lock"), "").unwrap();
    let host = Launch::embedded(directory.path()).start();
    let kept = host.client(Wire::Rest).await.get("pre-order", "kept").await.unwrap();
    assert_eq!(kept["fleet_list_request"], 7);
}

#[tokio::test]
async fn a_damaged_file_is_named() {
    let tables = used().await;
    let table = tables.path().join("keyspaces/0");
    for entry in fs::read_dir(&table).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v')) {
            fs::write(&path, "nonsense").unwrap();
        }
    }
    let line = refused_at(tables.path());
    let advice = "put a copy of the whole directory in its place, or begin with an empty one";
    let damaged = format!("a file below `keyspaces` is damaged; {advice}");
    assert!(line.starts_with(&damaged), "{line}");
    fs::write(table.join("current"), "nonsense").unwrap();
    let line = refused_at(tables.path());
    assert_eq!(line, format!("a file below `keyspaces` is missing; {advice}"));

    let journals = used().await;
    let journal = fs::read_dir(journals.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // In the middle of what was written; what is behind it stays.
    bytes[written / 2] ^= 0xff;
    fs::write(&journal, bytes).unwrap();
    let name = journal.file_name().unwrap().to_string_lossy().into_owned();
    let line = refused_at(journals.path());
    assert!(line.starts_with(&format!("the journal `{name}` is damaged; put a copy")), "{line}");
}

#[tokio::test]
async fn a_disk_without_room_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let launch = Launch::embedded(directory.path());
    // No file may grow; the signal of that is not heard.
    let mut command = Command::new("/bin/sh");
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\"";
    command.arg("-c").arg(limited).arg(session_tests::host::binary()).env_clear();
    for (name, value) in launch.command().get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    let line = refused(command);
    assert!(line.contains("the disk has no room for its files (File too large); make"), "{line}");
}
