//! What is in the way of a store on disk, in sentences for the people who run it: what is
//! wrong, with which file below DATA_DIR, and what to do. The library that keeps the files
//! names types and error numbers only.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::store::rows::MalformedRow;

/// The file that shows which program and version the others are of.
const VERSION_FILE: &str = "version";
/// The file that the process which uses the directory holds.
const LOCK_FILE: &str = "lock";
/// The directory of what was moved out of the journal.
const TABLES: &str = "keyspaces";
/// How the files of the journal end.
const JOURNAL_EXTENSION: &str = "jnl";

/// Why a directory cannot be opened as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("it is in use by another process; give every process a DATA_DIR of its own")]
    InUse,
    /// It is a file, or below one.
    #[error("it is a file, or lies below one; name a directory, which is made when it is absent")]
    NotADirectory,
    /// The process may not use it.
    #[error(
        "the process may not read and write {0}; give its user the directory with all that is in it"
    )]
    Denied(String),
    /// The disk has no room.
    #[error(
        "the disk has no room for its files ({0}); make room: it takes 70 MB when it is empty, \
         and plan for four times what lives in it"
    )]
    NoRoom(String),
    /// A file of it is gone.
    #[error("{0} is missing; {1}")]
    Missing(String, &'static str),
    /// A file is not what was written.
    #[error(
        "{0} is damaged; put a copy of the whole directory in its place, or begin with an \
         empty one, without what was in it"
    )]
    Damaged(String),
    /// Its files are of another version.
    #[error(
        "`version` says that its files have format {0}, and this program reads format 3; start \
         the program that wrote them, or begin with an empty directory"
    )]
    Version(String),
    /// Its files are of another program.
    #[error(
        "{0} was not written by this program, or by a newer version of it; name another \
         directory, or start the version that wrote it"
    )]
    Foreign(String),
    /// The system refused something else.
    #[error("the system refused to open it: {0}")]
    System(String),
}

impl OpenError {
    /// What an error of the library means, of the store in a directory.
    pub fn of(error: &fjall::Error, directory: &Path) -> Self {
        use fjall::Error as Library;
        match error {
            Library::Locked => Self::InUse,
            Library::Io(error) => Self::of_system(error, directory),
            Library::Storage(error) => match system(error) {
                // It looked for a place that there is not.
                Some(error) if is_damage(error) || error.kind() == ErrorKind::InvalidInput => {
                    Self::Damaged(in_tables())
                }
                Some(error) => Self::of_system(error, directory),
                None => Self::Damaged(in_tables()),
            },
            Library::InvalidVersion(Some(version)) => Self::Version(version.to_string()),
            Library::InvalidVersion(None) => Self::Foreign(format!("`{VERSION_FILE}`")),
            Library::Unrecoverable => Self::Damaged(in_tables()),
            _ => Self::Damaged(journal(directory)),
        }
    }

    /// What an error of the system means, of the store in a directory.
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
            // A folder of it is there when what leads to it is not.
            ErrorKind::AlreadyExists => missing(directory),
            _ if is_damage(error) => Self::Damaged(journal(directory)),
            ErrorKind::NotFound => missing(directory),
            _ => Self::System(words(error)),
        }
    }

    /// A row that no version of this store wrote.
    pub fn of_row(MalformedRow: &MalformedRow) -> Self {
        Self::Foreign("what it holds".into())
    }
}

/// What a running store says when the disk refuses something.
pub fn refusal(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) => words(error),
        fjall::Error::Storage(error) => match system(error) {
            Some(error) => words(error),
            None => "its files are damaged".into(),
        },
        fjall::Error::Poisoned => "a write before it failed".into(),
        _ => "its files are damaged".into(),
    }
}

/// What the system said, if that is what an error of the library is.
fn system<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    error.source()?.downcast_ref()
}

/// Whether a file is shorter than what was written, or something else.
fn is_damage(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::InvalidData)
}

/// The words of the system, such as `No space left on device`.
fn words(error: &std::io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn missing(directory: &Path) -> OpenError {
    let exists = |name: &str| directory.join(name).exists();
    if exists(VERSION_FILE) && !exists(LOCK_FILE) {
        let advice = "when no other process uses the directory, make it again: an empty file";
        return OpenError::Missing(format!("`{LOCK_FILE}`"), advice);
    }
    let advice = "put a copy of the whole directory in its place, or begin with an empty one";
    let file = if exists(TABLES) { in_tables() } else { format!("`{TABLES}`") };
    OpenError::Missing(file, advice)
}

/// One of many small files, which the library does not name.
fn in_tables() -> String {
    format!("a file below `{TABLES}`")
}

/// The files of the journal, which cannot be told apart from outside.
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
fn files(directory: &Path) -> Vec<PathBuf> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_is_a_sentence_with_advice() {
        let directory = Path::new("/nowhere");
        for (kind, expected) in [
            (ErrorKind::StorageFull, "the disk has no room for its files (no storage space)"),
            (ErrorKind::QuotaExceeded, "the disk has no room for its files (quota exceeded)"),
            (ErrorKind::ReadOnlyFilesystem, "the process may not read and write the directory"),
            (ErrorKind::PermissionDenied, "the process may not read and write the directory"),
            (ErrorKind::NotADirectory, "it is a file, or lies below one"),
            (ErrorKind::NotFound, "`keyspaces` is missing"),
            (ErrorKind::TimedOut, "the system refused to open it: timed out"),
        ] {
            for error in [
                fjall::Error::Io(kind.into()),
                fjall::Error::Storage(std::io::Error::from(kind).into()),
            ] {
                let text = OpenError::of(&error, directory).to_string();
                assert!(text.starts_with(expected), "{text}");
                assert!(!text.contains("Error") && !text.contains("Kind"), "{text}");
            }
        }
        let short = || std::io::Error::from(ErrorKind::UnexpectedEof);
        let of = |error| OpenError::of(&error, directory).to_string();
        assert!(of(fjall::Error::Io(short())).starts_with("the journal is damaged"));
        let table = of(fjall::Error::Storage(short().into()));
        assert!(table.starts_with("a file below `keyspaces` is damaged"), "{table}");
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(words(&full), "No space left on device");
        assert_eq!(refusal(&fjall::Error::Io(full)), "No space left on device");
        assert_eq!(refusal(&fjall::Error::Poisoned), "a write before it failed");
    }
}
