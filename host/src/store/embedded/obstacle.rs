//! Why a store on disk cannot be opened, in sentences for operators: what is wrong, with which
//! file below DATA_DIR, and what to do.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::store::embedded::names::{LOCK_FILE, MANIFEST_FILE, TABLES, VERSION_FILE, VERSION_TEXT};
use session_store::clock::Milliseconds;
use session_store::rows::MalformedRow;

/// The advice when a file is damaged or missing.
const REPAIR: &str = "nothing was changed: put a copy of the whole directory in its place, or run \
     `session-manager check-data`, which lists what is readable, and rebuilds the directory from \
     that with `--repair`";

/// The advice when one of the old files is missing.
pub const ADVICE: &str =
    "put a copy of the whole directory in its place, or begin with an empty one";

/// Why a directory cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("it is in use by another process; give every process a DATA_DIR of its own")]
    InUse,
    /// It is a file, or below one.
    #[error("it is a file, or lies below one; name a directory, which is made when it is absent")]
    NotADirectory,
    /// The process has no permission to use it.
    #[error(
        "the process may not read and write {0}; give its user the directory with all that is in it"
    )]
    Denied(String),
    /// The disk has no room.
    #[error(
        "the disk has no room for its files ({0}); make room: plan for four times what lives in it"
    )]
    NoRoom(String),
    /// A file is missing.
    #[error("{0} is missing; {1}")]
    Missing(String, &'static str),
    /// A file is not what was written.
    #[error(
        "{0} is damaged; put a copy of the whole directory in its place, or begin with an \
         empty one, without what was in it"
    )]
    Damaged(String),
    /// A file is not what was written, from an offset on.
    #[error("{file} is damaged at byte {offset}: {what}; {REPAIR}")]
    DamagedAt {
        /// The file.
        file: String,
        /// The offset, in bytes.
        offset: u64,
        /// What is wrong, in words.
        what: &'static str,
    },
    /// Its files are of a release before the journal.
    #[error("it holds the files of an earlier release, which the next start converts")]
    Former,
    /// Its files have another format version.
    #[error(
        "`version` says that its files have format {0}; this program reads its own format, and \
         converts format 3: start the program that wrote them, or begin with an empty directory"
    )]
    Version(String),
    /// Its files are of another program.
    #[error(
        "{0} was written by another program, or by a newer version of this one; name another \
         directory, or start the version that wrote it"
    )]
    Foreign(String),
    /// The system refused something else.
    #[error("the system refused to open it: {0}")]
    System(String),
}

impl OpenError {
    /// The meaning of an error of the system for the store in a directory.
    pub fn of_system(error: &std::io::Error, directory: &Path) -> Self {
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::Denied(denied(directory))
            }
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::NoRoom(words(error))
            }
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists if !directory.is_dir() => {
                Self::NotADirectory
            }
            // A directory exists although the link to it does not.
            ErrorKind::AlreadyExists => missing(directory),
            ErrorKind::NotFound => missing(directory),
            _ => Self::System(words(error)),
        }
    }

    /// The same for one of its files.
    pub fn of_file(error: &std::io::Error, directory: &Path, file: &str) -> Self {
        match Self::of_system(error, directory) {
            Self::System(words) => Self::System(format!("`{file}`: {words}")),
            Self::Missing(..) => Self::Missing(format!("`{file}`"), REPAIR),
            other => other,
        }
    }

    /// The manifest is missing.
    pub fn no_manifest() -> Self {
        Self::Missing(format!("`{MANIFEST_FILE}`"), REPAIR)
    }

    /// The error that `version` calls for; `None` if the files are of this release, or of the last
    /// one before the journal.
    pub fn of_version(directory: &Path) -> Option<Self> {
        let version = std::fs::read(directory.join(VERSION_FILE)).ok()?;
        match &version[..] {
            bytes if bytes == VERSION_TEXT.as_bytes() => None,
            b"FJL\x03" => None,
            [b'F', b'J', b'L', version] => Some(Self::Version(version.to_string())),
            _ => Some(Self::Foreign(format!("`{VERSION_FILE}`"))),
        }
    }

    /// A row that no version of this store wrote.
    pub fn of_row(MalformedRow: &MalformedRow) -> Self {
        Self::Foreign("its content".into())
    }
}

/// The message of the system, such as `No space left on device`.
pub fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// Times as text, such as `2026-11-25T18:58:52.766Z to 2026-11-25T18:58:53.001Z`.
pub fn span(span: Option<(Milliseconds, Milliseconds)>) -> String {
    let text = |at: Milliseconds| {
        let seconds = i64::try_from(at / 1000).unwrap_or(i64::MAX);
        let nanos = i32::try_from(at % 1000 * 1_000_000).unwrap_or_default();
        prost_types::Timestamp { seconds, nanos }.to_string()
    };
    match span {
        None => "an unknown time".into(),
        Some((from, to)) if from == to => text(from),
        Some((from, to)) => format!("{} to {}", text(from), text(to)),
    }
}

fn missing(directory: &Path) -> OpenError {
    let exists = |name: &str| directory.join(name).exists();
    if (exists(VERSION_FILE) || exists(MANIFEST_FILE)) && !exists(LOCK_FILE) {
        let advice = "when no other process uses the directory, make it again: an empty file";
        return OpenError::Missing(format!("`{LOCK_FILE}`"), advice);
    }
    missing_of_former(directory)
}

/// The first file that the process may not read or write, else the directory.
fn denied(directory: &Path) -> String {
    let is_denied = |path: &PathBuf| {
        let opened = OpenOptions::new().read(true).write(true).open(directory.join(path));
        opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    let mut files = files(directory);
    files.sort_unstable();
    match files.iter().find(|path| is_denied(path)) {
        Some(path) => format!("`{}`", path.display()),
        None => "the directory".into(),
    }
}

/// The files below a directory, by their paths from there.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(inside) = directories.pop() {
        let entries = std::fs::read_dir(directory.join(&inside)).into_iter().flatten().flatten();
        for entry in entries {
            let path = inside.join(entry.file_name());
            match entry.file_type() {
                Ok(type_) if type_.is_dir() => directories.push(path),
                Ok(type_) if type_.is_file() => files.push(path),
                _ => {}
            }
        }
    }
    files
}

/// The error for a missing file; the library does not report which one it is.
pub fn missing_of_former(directory: &Path) -> OpenError {
    let has_tables = directory.join(TABLES).exists();
    let file = if has_tables { in_tables() } else { format!("`{TABLES}`") };
    OpenError::Missing(file, ADVICE)
}

/// The name of any file of the tables.
pub fn in_tables() -> String {
    format!("a file below `{TABLES}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_system_become_sentences_with_advice() {
        let directory = Path::new("/nowhere");
        for (kind, expected) in [
            (ErrorKind::StorageFull, "the disk has no room for its files (no storage space)"),
            (ErrorKind::QuotaExceeded, "the disk has no room for its files (quota exceeded)"),
            (ErrorKind::ReadOnlyFilesystem, "the process may not read and write the directory"),
            (ErrorKind::PermissionDenied, "the process may not read and write the directory"),
            (ErrorKind::NotADirectory, "it is a file, or lies below one"),
            (ErrorKind::TimedOut, "the system refused to open it: timed out"),
        ] {
            let text = OpenError::of_system(&kind.into(), directory).to_string();
            assert!(text.starts_with(expected), "{text}");
            assert!(!text.contains("Error") && !text.contains("Kind"), "{text}");
        }
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(words(&full), "No space left on device");
        let error = std::io::Error::from_raw_os_error(5);
        let text = OpenError::of_file(&error, directory, "journal-3").to_string();
        assert_eq!(text, "the system refused to open it: `journal-3`: Input/output error");
    }

    #[test]
    fn times_are_readable() {
        let at = 1_800_000_000_250;
        assert_eq!(span(Some((at, at))), "2027-01-15T08:00:00.250Z");
        let both = "2027-01-15T08:00:00.250Z to 2027-01-15T08:00:01.250Z";
        assert_eq!(span(Some((at, at + 1000))), both);
        assert_eq!(span(None), "an unknown time");
    }
}
