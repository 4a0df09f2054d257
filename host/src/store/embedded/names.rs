//! The names of what is in the directory of a store.

/// The file that is locked by the process that uses the directory.
pub const LOCK_FILE: &str = "lock";
/// The file that names the others.
pub const MANIFEST_FILE: &str = "manifest";
/// The file that records how far the journal is synced.
pub const SYNCED_FILE: &str = "synced";
/// The file that names the program and the format version of the others.
pub const VERSION_FILE: &str = "version";
/// Its content. A release before the journal takes it for another program's.
pub const VERSION_TEXT: &str = "session-manager data 1\n";
/// The directory that keeps the old files.
pub const KEPT_DIRECTORY: &str = "before-conversion";
/// The prefix of the directories in which a repair keeps the old files.
pub const KEPT_PREFIX: &str = "before-repair-";
/// The old directory of tables, which hold what has left the journal.
pub const TABLES: &str = "keyspaces";
