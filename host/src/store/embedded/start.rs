//! Opens a directory: judges what is there, logs what is lost, and begins a new journal. Every
//! start has its own journal, so no file is ever cut or overwritten. What was there stays as it
//! was until a snapshot replaces it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use crate::store::embedded::directory::{Directory, numbered};
use crate::store::embedded::frame::{FileKind, Frame, FrameKind, HEADER_BYTES, Header, Origin};
use crate::store::embedded::manifest::{JournalEntry, Manifest, Unreadable};
use crate::store::embedded::mark::{self, Mark, Marks, StoredMarks};
use crate::store::embedded::names::{KEPT_DIRECTORY, KEPT_PREFIX};
use crate::store::embedded::names::{MANIFEST_FILE, SYNCED_FILE, VERSION_FILE, VERSION_TEXT};
use crate::store::embedded::obstacle::{OpenError, span};
use crate::store::embedded::recovery::{self, Reading};
use crate::store::embedded::writer::Journal;
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::restore;

/// What a store starts with.
pub struct Started {
    /// The files that make it up.
    pub manifest: Manifest,
    /// The journal for its changes.
    pub journal: Journal,
    /// The file that records how far they are synced.
    pub marks: Marks,
    /// The last frame.
    pub sequence: u64,
    /// The length of the journals before this one, in bytes.
    pub journal_bytes: u64,
}

/// Reads a directory into memory, and begins a journal.
///
/// # Errors
/// If something is damaged, or the directory cannot be used; then nothing has changed.
pub fn open(directory: &Directory, memory: &Memory, clock: &Clock) -> Result<Started, OpenError> {
    let refused = |error: io::Error| OpenError::of_system(&error, directory.path());
    let Some(manifest) = read_manifest(directory.path())? else {
        let manifest = new_manifest()?;
        return begin(directory, manifest, 0, clock, false).map_err(refused);
    };
    if let Some(obstacle) = OpenError::of_version(directory.path()) {
        return Err(obstacle);
    }
    let restore = &mut |key: &[u8], value: Option<&[u8]>| restore::row(memory, key, value);
    let reading = recovery::read(directory.path(), &manifest, restore)?;
    if let Some(loss) = reading.damages.first() {
        return Err(loss.error());
    }
    report(&reading);
    let manifest = continued(directory, &manifest, &reading).map_err(refused)?;
    begin(directory, manifest, reading.sequence, clock, false).map_err(refused)
}

/// The manifest of a directory; `None` if the directory is new.
///
/// # Errors
/// If it is missing or damaged.
pub fn read_manifest(directory: &Path) -> Result<Option<Manifest>, OpenError> {
    let bytes = match std::fs::read(directory.join(MANIFEST_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return if is_used(directory) { Err(OpenError::no_manifest()) } else { Ok(None) };
        }
        Err(error) => return Err(OpenError::of_file(&error, directory, MANIFEST_FILE)),
    };
    match Manifest::decode(&bytes) {
        Ok(manifest) => Ok(Some(manifest)),
        Err(Unreadable::Damaged) => Err(OpenError::DamagedAt {
            file: format!("`{MANIFEST_FILE}`"),
            offset: 0,
            what: "its checksum does not match",
        }),
        Err(Unreadable::Newer) => Err(OpenError::Foreign(format!("`{MANIFEST_FILE}`"))),
    }
}

/// Whether the directory ever had a manifest. An interrupted first start leaves journals without
/// rows, and marks of no frame.
fn is_used(directory: &Path) -> bool {
    let is_kept = |name: OsString| {
        let name = name.to_string_lossy();
        name == KEPT_DIRECTORY || name.starts_with(KEPT_PREFIX)
    };
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    directory.join(VERSION_FILE).exists()
        || numbered(directory).into_iter().any(|(kind, number)| has_rows(directory, kind, number))
        || mark::is_of_a_frame(directory)
        || names.map(|entry| entry.file_name()).any(is_kept)
}

/// Whether anything was written to a journal or snapshot.
pub fn has_rows(directory: &Path, kind: FileKind, number: u32) -> bool {
    std::fs::metadata(directory.join(kind.file(number)))
        .is_ok_and(|it| it.len() > HEADER_BYTES as u64)
}

/// The manifest of an empty store.
///
/// # Errors
/// If the system has no random numbers.
pub fn new_manifest() -> Result<Manifest, OpenError> {
    let mut identity = [0; 8];
    getrandom::fill(&mut identity).map_err(|error| OpenError::System(error.to_string()))?;
    Ok(Manifest { identity, after: 0, snapshot: None, journals: Vec::new() })
}

/// Logs what is lost, and what may be.
fn report(reading: &Reading) {
    if let Some(cut) = reading.cut.as_ref().filter(|_| reading.is_closed()) {
        tracing::warn!(
            file = cut.file,
            offset = cut.offset,
            bytes = cut.bytes,
            "there are bytes behind the end of the journal that no server wrote; nothing is lost"
        );
    } else if let Some(cut) = &reading.cut {
        tracing::warn!(
            file = cut.file,
            offset = cut.offset,
            bytes = cut.bytes,
            frames = cut.tally.frames,
            rows = cut.tally.rows,
            written = span(cut.tally.span),
            last_kept = span(reading.last_at.map(|at| (at, at))),
            reason = cut.what,
            "what was written last was not on the disk, and is lost"
        );
    } else if !reading.is_closed() {
        let (file, offset) = reading.end.clone().unwrap_or_default();
        tracing::warn!(
            file,
            offset,
            last_kept = span(reading.last_at.map(|at| (at, at))),
            "the process before was not stopped cleanly: everything in its files is there; if the \
             power failed, later writes are lost"
        );
    }
    if let StoredMarks::One(_) = reading.marks {
        tracing::warn!(file = SYNCED_FILE, "one of two marks cannot be read, the other is used");
    }
}

/// The manifest with the end of each journal, which is synced by then.
fn continued(
    directory: &Directory,
    manifest: &Manifest,
    reading: &Reading,
) -> io::Result<Manifest> {
    let mut journals = Vec::new();
    for entry in &reading.journals {
        let name = manifest.origin(FileKind::Journal, entry.number).file();
        let file = File::open(directory.path().join(name))?;
        (directory.sync_file())(&file)?;
        // An empty journal is not needed.
        if file.metadata()?.len() > HEADER_BYTES as u64 {
            journals.push(*entry);
        }
    }
    Ok(Manifest { journals, ..manifest.clone() })
}

/// Begins a journal after those of a manifest, and publishes the manifest. With `closed` no
/// process writes to it before another start.
///
/// # Errors
/// What the system refuses; then the former manifest still holds.
pub fn begin(
    directory: &Directory,
    mut manifest: Manifest,
    sequence: u64,
    clock: &Clock,
    closed: bool,
) -> io::Result<Started> {
    let number = directory.free_number(manifest.number_max());
    let origin = manifest.origin(FileKind::Journal, number);
    let file = create_journal(directory, origin, clock)?;
    let ended = manifest.journals.iter().filter_map(|journal| journal.ended);
    let journal_bytes = ended.map(|ended| ended.offset).sum();
    manifest.journals.push(JournalEntry { number, ended: None });
    let mark = Mark { sequence, milliseconds: clock.now(), closed };
    let published = Marks::create(directory, manifest.identity, mark).and_then(|marks| {
        directory.replace(MANIFEST_FILE, manifest.encode().as_bytes())?;
        Ok(marks)
    });
    let marks = published.inspect_err(|_| _ = withdraw(directory, origin))?;
    write_version(directory)?;
    remove_unnamed(directory, &manifest)?;
    let journal = Journal::new(file, origin);
    Ok(Started { manifest, journal, marks, sequence, journal_bytes })
}

/// Makes an empty journal that survives a loss of power.
///
/// # Errors
/// What the system refuses; then there is no journal.
pub fn create_journal(directory: &Directory, origin: Origin, clock: &Clock) -> io::Result<File> {
    let name = origin.file();
    let mut file = directory.create(&name)?;
    let milliseconds = clock.now();
    let kind = FrameKind::Head;
    let head = Header { kind, length: 0, checksum: 0, sequence: 0, milliseconds, synced: 0 };
    let written = file.write_all(Frame::new().finish(head, &origin));
    let synced = written.and_then(|()| (directory.sync_file())(&file));
    let named = synced.and_then(|()| directory.sync_names());
    named.map_err(|error| directory.given_up(&name, &error))?;
    Ok(file)
}

/// Removes a file that was made for a manifest, if that manifest was not published; returns
/// whether it was not. If the manifest on the disk cannot be read, the file stays.
pub fn withdraw(directory: &Directory, origin: Origin) -> bool {
    let is_published = match std::fs::read(directory.path().join(MANIFEST_FILE)) {
        Ok(bytes) => Manifest::decode(&bytes).is_ok_and(|manifest| manifest.names(origin)),
        Err(error) => error.kind() != ErrorKind::NotFound,
    };
    if !is_published {
        // Removing may be what fails.
        drop(directory.remove(&origin.file()));
    }
    !is_published
}

/// Makes releases before the journal refuse the files.
fn write_version(directory: &Directory) -> io::Result<()> {
    let there = std::fs::read(directory.path().join(VERSION_FILE)).unwrap_or_default();
    if there == VERSION_TEXT.as_bytes() {
        return Ok(());
    }
    directory.replace(VERSION_FILE, VERSION_TEXT.as_bytes()).map(drop)
}

/// Removes the journals and snapshots that a manifest does not name.
///
/// # Errors
/// What the system refuses.
pub fn remove_unnamed(directory: &Directory, manifest: &Manifest) -> io::Result<()> {
    for (kind, number) in directory.numbered() {
        let origin = manifest.origin(kind, number);
        if !manifest.names(origin) {
            directory.remove(&origin.file())?;
        }
    }
    Ok(())
}
