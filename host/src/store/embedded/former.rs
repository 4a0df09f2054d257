//! The files of releases before the journal, which the fjall library wrote. They are read once and
//! then moved to a directory of their own, where such a release can still be started. Only this
//! file knows fjall. The old files are the store until the manifest exists; from then on the new
//! ones are.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use fjall::{Database, KeyspaceCreateOptions};

use crate::store::embedded::directory::{self, Directory, SyncFile, numbered};
use crate::store::embedded::frame::FileKind;
use crate::store::embedded::manifest::SnapshotEntry;
use crate::store::embedded::names::{KEPT_DIRECTORY, TABLES};
use crate::store::embedded::names::{LOCK_FILE, MANIFEST_FILE, VERSION_FILE, VERSION_TEXT};
use crate::store::embedded::obstacle::{ADVICE, OpenError, files, in_tables};
use crate::store::embedded::{snapshot, start};
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::restore;

/// The content of the old version file.
const FORMER_VERSION: &[u8] = b"FJL\x03";
/// The table that lists the others.
const CATALOG: &str = "0";
/// The file of a table that lists its files.
const CURRENT: &str = "current";
/// The extension of the old journal files.
const JOURNAL_EXTENSION: &str = "jnl";
/// The number of the snapshot that a conversion makes.
const SNAPSHOT_NUMBER: u32 = 1;
/// Rows are read once, so they need no larger cache.
const CACHE_BYTES: u64 = 4 << 20;

/// Whether a directory is of a release before the journal, or of another program. If this release
/// has written rows here, the manifest is what is missing, whatever `version` says.
pub fn is_present(directory: &Path) -> bool {
    let version = std::fs::read(directory.join(VERSION_FILE));
    let is_former = version.is_ok_and(|version| version != VERSION_TEXT.as_bytes());
    is_former
        && !directory.join(MANIFEST_FILE).exists()
        && !numbered(directory).into_iter().any(|(kind, number)| {
            let is_of_conversion = kind == FileKind::Snapshot
                && number == SNAPSHOT_NUMBER
                && missing_file(directory).is_none();
            !is_of_conversion && start::has_rows(directory, kind, number)
        })
}

/// The old file that is missing, if one is. The library would make it again, empty, and delete
/// the files that it does not list.
fn missing_file(directory: &Path) -> Option<String> {
    let tables = directory.join(TABLES);
    if !tables.exists() {
        return Some(format!("`{TABLES}`"));
    }
    let named = std::fs::read_dir(&tables).into_iter().flatten().flatten();
    let named = named.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name());
    let mut all = named.chain([CATALOG.into()]);
    if let Some(name) = all.find(|name| !tables.join(name).join(CURRENT).exists()) {
        return Some(format!("`{TABLES}/{}/{CURRENT}`", name.to_string_lossy()));
    }
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|it| it == JOURNAL_EXTENSION);
    let has_journal = files(directory).iter().any(is_journal);
    (!has_journal).then(|| format!("its journal, a file `*.{JOURNAL_EXTENSION}`,"))
}

/// Converts the old files to a snapshot. Does nothing if there are none.
///
/// # Errors
/// If they are in use, damaged or of another program, or the disk refuses a write.
pub fn convert(path: &Path, clock: &Clock, sync: &SyncFile) -> Result<(), OpenError> {
    if !is_present(path) {
        return Ok(());
    }
    let version = OpenError::of_version(path);
    if let Some(file) = missing_file(path).filter(|_| version.is_none()) {
        return Err(OpenError::Missing(file, ADVICE));
    }
    // While the library has it open, no other process can use the directory.
    let opened = |error: fjall::Error| of(&error, path);
    let database = Database::builder(path).cache_size(CACHE_BYTES).worker_threads(1);
    let database = database.open().map_err(opened)?;
    let keyspace = database.keyspace("rows", KeyspaceCreateOptions::default).map_err(opened)?;
    let memory = Memory::new(clock.clone());
    let mut count: u64 = 0;
    for guard in keyspace.iter() {
        let (key, value) = guard.into_inner().map_err(opened)?;
        restore::row(&memory, &key, Some(&value)).map_err(|row| OpenError::of_row(&row))?;
        count += 1;
    }
    let refused = |error: std::io::Error| OpenError::of_system(&error, path);
    let directory = Directory::held(path, SyncFile::clone(sync));
    let mut manifest = start::new_manifest()?;
    // An interrupted conversion may have left files.
    start::remove_unnamed(&directory, &manifest).map_err(refused)?;
    let origin = manifest.origin(FileKind::Snapshot, SNAPSHOT_NUMBER);
    let never = AtomicBool::new(false);
    let length = snapshot::write(&directory, &memory, origin, clock, &never).map_err(refused)?;
    let length = length.unwrap_or_default();
    manifest.snapshot = Some(SnapshotEntry { number: origin.number, length, covers: 0 });
    keep_version(&directory).map_err(refused)?;
    start::begin(&directory, manifest, 0, clock, true).map_err(refused)?;
    tracing::info!(
        rows = count,
        kept = KEPT_DIRECTORY,
        "the data of an earlier release is converted; its files are kept"
    );
    Ok(())
}

/// Moves the old files of a converted directory to their own directory, if any are left.
///
/// # Errors
/// What the system refuses.
pub fn move_old_files(directory: &Directory) -> Result<(), OpenError> {
    let refused = |error: std::io::Error| OpenError::of_system(&error, directory.path());
    if !directory.path().join(MANIFEST_FILE).exists() {
        return Ok(());
    }
    let names = std::fs::read_dir(directory.path()).map_err(refused)?;
    let old: Vec<_> = names
        .flatten()
        .map(|entry| entry.file_name())
        .filter(|name| {
            let is_journal = Path::new(name).extension().is_some_and(|it| it == JOURNAL_EXTENSION);
            name == TABLES || is_journal
        })
        .collect();
    keep_version(directory).map_err(refused)?;
    if old.is_empty() {
        return Ok(());
    }
    let kept = directory.path().join(KEPT_DIRECTORY);
    let moved = || -> std::io::Result<()> {
        make_kept(directory)?;
        for name in old {
            std::fs::rename(directory.path().join(&name), kept.join(&name))?;
        }
        // An earlier release needs a lock file to start.
        drop(std::fs::OpenOptions::new().create(true).append(true).open(kept.join(LOCK_FILE))?);
        directory::sync_names(&kept)?;
        directory.sync_names()
    };
    moved().map_err(refused)
}

fn make_kept(directory: &Directory) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory.path().join(KEPT_DIRECTORY))
}

/// Copies the old version file to the others, if it still exists.
fn keep_version(directory: &Directory) -> std::io::Result<()> {
    let version = match std::fs::read(directory.path().join(VERSION_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        version => version?,
    };
    if version != FORMER_VERSION {
        return Ok(());
    }
    make_kept(directory)?;
    let kept = directory.path().join(KEPT_DIRECTORY);
    std::fs::write(kept.join(VERSION_FILE), version)?;
    directory::sync_names(&kept)
}

/// The meaning of an error of the library for the store in a directory.
fn of(error: &fjall::Error, directory: &Path) -> OpenError {
    use fjall::Error as Library;
    match error {
        Library::Locked => OpenError::InUse,
        Library::Io(error) if is_damage(error) => OpenError::Damaged(journal(directory)),
        Library::Io(error) => OpenError::of_system(error, directory),
        Library::Storage(error) => match system(error) {
            // The library seeks to offsets read from its files; a damaged one may be impossible.
            Some(error) if is_damage(error) || error.kind() == ErrorKind::InvalidInput => {
                OpenError::Damaged(in_tables())
            }
            Some(error) => OpenError::of_system(error, directory),
            None => OpenError::Damaged(in_tables()),
        },
        Library::InvalidVersion(Some(version)) => OpenError::Version(version.to_string()),
        Library::InvalidVersion(None) => OpenError::Foreign(format!("`{VERSION_FILE}`")),
        Library::Unrecoverable => OpenError::Damaged(in_tables()),
        _ => OpenError::Damaged(journal(directory)),
    }
}

/// The error of the system inside an error of the library, if there is one.
fn system<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    error.source()?.downcast_ref()
}

/// Whether a file is shorter than written, or has other content.
fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
}

/// The names of the old journal files; the library does not report which one is damaged.
fn journal(directory: &Path) -> String {
    let mut names: Vec<String> = files(directory)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == JOURNAL_EXTENSION))
        .map(|path| format!("`{}`", path.display()))
        .collect();
    names.sort_unstable();
    match &names[..] {
        [] => "the journal".into(),
        [only] => format!("the journal {only}"),
        several => format!("one of the journals {}", several.join(", ")),
    }
}

#[cfg(test)]
mod tests;
