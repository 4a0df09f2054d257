//! Directories of a release before the journal, made with the library of that release.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fjall::PersistMode;

use super::*;
use crate::store::embedded::directory::{numbered, sync_file};
use crate::store::embedded::{DiskSettings, Embedded, inspection};
use session_store::Store;
use session_store::rows::Changes;
use session_store::transaction::{Entry, Operation, Txn};

const NOW: u64 = 1_800_000_000_000;

/// A directory of an earlier release with a number of sessions.
fn former(sessions: usize) -> tempfile::TempDir {
    let path = tempfile::tempdir().unwrap();
    let database = Database::builder(path.path()).worker_threads(1).open().unwrap();
    let keyspace = database.keyspace("rows", KeyspaceCreateOptions::default).unwrap();
    let mut changes = Changes::new(true);
    for n in 0..sessions {
        let key = format!("booking:{n}");
        changes.put_field(&key, "f", &"value".into());
        changes.put_deadline(&key, Some(NOW + 1000));
    }
    let mut batch = database.batch();
    for row in changes.into_rows() {
        batch.insert(&keyspace, row.key, &row.value.unwrap()[..]);
    }
    batch.commit().unwrap();
    database.persist(PersistMode::SyncAll).unwrap();
    path
}

fn open(path: &Path, sync: SyncFile) -> Result<Embedded, OpenError> {
    let settings =
        DiskSettings { sync, journal_bytes_max: u64::MAX, unsynced_span_max: Duration::MAX };
    Embedded::on_disk(path, Clock::manual(NOW), None, settings)
}

fn sessions(store: &Embedded) -> u64 {
    store.inner.memory.keys(&["booking:".into()]).keys
}

#[test]
fn a_directory_is_converted_once_and_the_earlier_release_still_starts_on_its_files() {
    let path = former(300);
    assert_eq!(sessions(&open(path.path(), sync_file()).unwrap()), 300);
    assert_eq!(sessions(&open(path.path(), sync_file()).unwrap()), 300);
    let there = |name: &str| path.path().join(name).exists();
    assert!(there("manifest") && !there(TABLES) && there(KEPT_DIRECTORY));
    let Err(error) = Database::builder(path.path()).open() else { panic!("it would be empty") };
    let text = of(&error, path.path()).to_string();
    assert!(text.starts_with("`version` was written by another program, or by a newer"), "{text}");
    let kept = path.path().join(KEPT_DIRECTORY);
    let database = Database::builder(kept).open().unwrap();
    let keyspace = database.keyspace("rows", KeyspaceCreateOptions::default).unwrap();
    assert_eq!(keyspace.iter().count(), 600);
}

#[test]
fn an_interrupted_conversion_continues_at_the_next_start() {
    for fails_at in 0.. {
        let path = former(20);
        let count = Arc::new(AtomicUsize::new(0));
        let sync: SyncFile = Arc::new(move |_| match count.fetch_add(1, Ordering::Relaxed) {
            n if n == fails_at => Err(std::io::Error::from_raw_os_error(5)),
            _ => Ok(()),
        });
        let opened = open(path.path(), sync);
        let is_done = opened.is_ok();
        drop(opened);
        assert_eq!(sessions(&open(path.path(), sync_file()).unwrap()), 20, "{fails_at}");
        assert!(!path.path().join(TABLES).exists(), "{fails_at}");
        let snapshots = numbered(path.path());
        let snapshots = snapshots.iter().filter(|(kind, _)| *kind == FileKind::Snapshot);
        assert_eq!(snapshots.count(), 1, "{fails_at}");
        if is_done && fails_at > 12 {
            return;
        }
    }
}

#[test]
fn errors_of_the_library_become_sentences() {
    let directory = Path::new("/nowhere");
    for (kind, expected) in [
        (ErrorKind::StorageFull, "the disk has no room for its files (no storage space)"),
        (ErrorKind::PermissionDenied, "the process may not read and write the directory"),
        (ErrorKind::NotFound, "`keyspaces` is missing"),
        (ErrorKind::TimedOut, "the system refused to open it: timed out"),
    ] {
        for error in [
            fjall::Error::Io(kind.into()),
            fjall::Error::Storage(std::io::Error::from(kind).into()),
        ] {
            let text = of(&error, directory).to_string();
            assert!(text.starts_with(expected), "{text}");
        }
    }
    let short = || std::io::Error::from(ErrorKind::UnexpectedEof);
    let text = |error| of(&error, directory).to_string();
    assert!(text(fjall::Error::Io(short())).starts_with("the journal is damaged"));
    let table = text(fjall::Error::Storage(short().into()));
    assert!(table.starts_with("a file below `keyspaces` is damaged"), "{table}");
    assert_eq!(of(&fjall::Error::Locked, directory).to_string(), OpenError::InUse.to_string());
}

#[test]
fn damage_of_the_old_files_is_named_and_they_stay() {
    let refused = |path: &Path| {
        let error = open(path, sync_file()).err().expect("it is damaged");
        assert!(path.join(TABLES).exists() && !path.join(MANIFEST_FILE).exists());
        error.to_string()
    };
    let tables = former(10);
    let table = tables.path().join("keyspaces/0");
    for entry in std::fs::read_dir(&table).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('v')) {
            std::fs::write(&path, "nonsense").unwrap();
        }
    }
    let advice = "put a copy of the whole directory in its place, or begin with an empty one";
    let text = refused(tables.path());
    assert!(text.starts_with(&format!("a file below `keyspaces` is damaged; {advice}")), "{text}");
    std::fs::write(table.join("current"), "nonsense").unwrap();
    assert_eq!(refused(tables.path()), format!("a file below `keyspaces` is missing; {advice}"));

    let journals = former(10);
    let journal = files(journals.path())
        .into_iter()
        .find(|path| path.extension().is_some_and(|extension| extension == "jnl"))
        .unwrap();
    let mut bytes = std::fs::read(journals.path().join(&journal)).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2] ^= 0xff;
    std::fs::write(journals.path().join(&journal), bytes).unwrap();
    let text = refused(journals.path());
    let expected = format!("the journal `{}` is damaged; put a copy", journal.display());
    assert!(text.starts_with(&expected), "{text}");

    let locked = former(10);
    std::fs::remove_file(locked.path().join("lock")).unwrap();
    let text = refused(locked.path());
    assert!(text.starts_with("`lock` is missing; when no other process uses"), "{text}");
}

/// What remains if the new files lose their manifest, or the old files are removed.
#[test]
fn no_row_is_lost_if_only_the_version_is_of_an_earlier_release() {
    let written = tempfile::tempdir().unwrap();
    drop(restored(written.path()));
    std::fs::write(written.path().join(VERSION_FILE), FORMER_VERSION).unwrap();
    std::fs::remove_file(written.path().join(MANIFEST_FILE)).unwrap();
    refused_and_kept(written.path(), "`manifest` is missing; nothing was changed");
    // Nor is it converted when the files of the earlier release are beside it.
    let old = former(10);
    for name in [TABLES, "0.jnl"] {
        std::fs::rename(old.path().join(name), written.path().join(name)).unwrap();
    }
    refused_and_kept(written.path(), "`manifest` is missing; nothing was changed");
    std::fs::remove_dir_all(written.path().join(TABLES)).unwrap();
    let clock = Clock::manual(NOW);
    let repaired = inspection::inspect(written.path(), true, &clock, &mut Vec::new());
    assert!(matches!(repaired, Ok(inspection::Verdict::Repaired)), "{repaired:?}");
    assert_eq!(sessions(&open(written.path(), sync_file()).unwrap()), 1);
}

#[test]
fn missing_old_files_are_not_made_again() {
    for (name, expected) in [
        (TABLES, "`keyspaces` is missing"),
        ("keyspaces/0", "`keyspaces/0/current` is missing"),
        ("keyspaces/1/current", "`keyspaces/1/current` is missing"),
        ("0.jnl", "its journal, a file `*.jnl`, is missing"),
    ] {
        let path = former(10);
        std::fs::rename(path.path().join(name), path.path().join("elsewhere")).unwrap();
        refused_and_kept(path.path(), expected);
    }
}

/// A store with one session.
fn restored(path: &Path) -> Embedded {
    let store = open(path, sync_file()).unwrap();
    let entries = vec![Entry { field: "f".into(), value: "value".into() }];
    let set = Operation::HashSet { key: "booking:1".into(), entries, ttl: Some(1000) };
    let txn = Txn { success: vec![set], ..Txn::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.execute(txn)).unwrap();
    store
}

fn refused_and_kept(path: &Path, expected: &str) {
    let listed = || {
        let mut files = files(path);
        files.sort_unstable();
        files
    };
    let before = listed();
    let error = open(path, sync_file()).err().expect("something is missing").to_string();
    assert!(error.starts_with(expected), "{error}");
    assert_eq!(listed(), before);
}
