//! `check-data`: reports what a directory holds, what cannot be read and what a repair would leave
//! out, and repairs. A repair makes a new snapshot of what is whole, up to the first loss in the
//! journals. It deletes nothing, but moves the old files to a directory of their own.

use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::store::embedded::directory::{self, Directory, SyncFile, numbered, sync_file};
use crate::store::embedded::frame::{FileKind, FrameKind, HEADER_BYTES, Header, Identity, Origin};
use crate::store::embedded::manifest::{Ended, JournalEntry, Manifest, SnapshotEntry};
use crate::store::embedded::names::KEPT_PREFIX;
use crate::store::embedded::names::{MANIFEST_FILE, SYNCED_FILE, VERSION_FILE};
use crate::store::embedded::obstacle::{OpenError, span};
use crate::store::embedded::reader::{NextFrame, Reader, Tally};
use crate::store::embedded::recovery::{self, Loss, Reading};
use crate::store::embedded::{former, snapshot, start};
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::restore;

/// The state of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A server starts on it.
    Sound,
    /// A server refuses to start on it.
    Damaged,
    /// It was damaged and is repaired.
    Repaired,
}

/// Inspects a directory that no server uses, repairs it if it is damaged and `repair` is set, and
/// writes a report.
///
/// # Errors
/// If it cannot be inspected; then nothing has changed.
pub fn inspect(
    path: &Path,
    repair: bool,
    clock: &Clock,
    out: &mut dyn Write,
) -> Result<Verdict, OpenError> {
    inspect_on_disk(path, repair, clock, sync_file(), out)
}

/// The same, with a given function to sync files.
pub fn inspect_on_disk(
    path: &Path,
    repair: bool,
    clock: &Clock,
    sync: SyncFile,
    out: &mut dyn Write,
) -> Result<Verdict, OpenError> {
    if !path.is_dir() {
        let advice = "name the DATA_DIR of a server";
        return Err(OpenError::Missing("the directory".into(), advice));
    }
    if former::is_present(path) {
        return Err(OpenError::of_version(path).unwrap_or(OpenError::Former));
    }
    let directory = match repair {
        true => Directory::lock(path, sync)?,
        false => Directory::lock_to_read(path, sync)?,
    };
    let (manifest, mut losses) = manifest_of(path)?;
    if let Some(OpenError::Version(_) | OpenError::Foreign(_)) = OpenError::of_version(path) {
        losses.push(loss(VERSION_FILE, 0, "it is not what was written"));
    }
    let memory = Memory::new(clock.clone());
    let restore = &mut |key: &[u8], value: Option<&[u8]>| match repair {
        true => restore::row(&memory, key, value),
        false => Ok(()),
    };
    let mut reading = recovery::read(path, &manifest, restore)?;
    reading.damages.splice(..0, losses);
    let refused = |error: io::Error| OpenError::of_system(&error, path);
    describe(&reading, out).map_err(refused)?;
    if reading.damages.is_empty() {
        writeln!(out, "sound").map_err(refused)?;
        return Ok(Verdict::Sound);
    }
    if !repair {
        let advice = "`session-manager check-data --repair` makes a directory of what is whole, \
                      and keeps the files as they are beside it";
        writeln!(out, "damaged: {advice}").map_err(refused)?;
        return Ok(Verdict::Damaged);
    }
    let kept = rebuild(&directory, &manifest, &memory, clock).map_err(refused)?;
    writeln!(out, "repaired: the files as they were are in `{kept}`").map_err(refused)?;
    Ok(Verdict::Repaired)
}

fn loss(file: &str, bytes: u64, what: &'static str) -> Loss {
    Loss { file: file.into(), offset: 0, bytes, what, tally: Tally::default() }
}

/// The manifest of a directory. A missing or damaged one is rebuilt from the other files.
fn manifest_of(path: &Path) -> Result<(Manifest, Vec<Loss>), OpenError> {
    let what = match start::read_manifest(path) {
        Ok(Some(manifest)) => return Ok((manifest, Vec::new())),
        Ok(None) => {
            let advice = "a server has never used the directory, or nothing is left in it";
            return Err(OpenError::Missing(format!("`{MANIFEST_FILE}`"), advice));
        }
        Err(OpenError::DamagedAt { what, .. }) => what,
        Err(OpenError::Missing(..)) => "it is missing",
        Err(error) => return Err(error),
    };
    let manifest = manifest_from_files(path).map_err(|error| OpenError::of_system(&error, path))?;
    let advice = "and there is nothing to rebuild it from: put a copy of the whole directory in \
                  its place, or begin with an empty one";
    let missing = || OpenError::Missing(format!("`{MANIFEST_FILE}`"), advice);
    let manifest = manifest.ok_or_else(missing)?;
    Ok((manifest, vec![loss(MANIFEST_FILE, 0, what)]))
}

fn describe(reading: &Reading, out: &mut dyn Write) -> io::Result<()> {
    for file in &reading.files {
        writeln!(out, "`{}`: {} bytes, {}", file.file, file.bytes, contents(&file.tally))?;
    }
    for loss in &reading.damages {
        writeln!(out, "DAMAGED: `{}` at byte {}: {}", loss.file, loss.offset, loss.what)?;
        left_out(loss, "a repair leaves out", out)?;
    }
    if let Some(cut) = &reading.cut {
        let what = if reading.is_closed() { "behind the end" } else { "not synced" };
        writeln!(out, "{what}: `{}` at byte {}: {}", cut.file, cut.offset, cut.what)?;
        left_out(cut, "a start leaves out", out)?;
    }
    if !reading.damages.is_empty() || reading.cut.is_some() {
        let last = span(reading.last_at.map(|at| (at, at)));
        writeln!(out, "what is whole ends at {last}")?;
    }
    Ok(())
}

fn left_out(loss: &Loss, does: &str, out: &mut dyn Write) -> io::Result<()> {
    let Loss { bytes, tally, .. } = loss;
    let written = span(tally.span);
    match tally.frames {
        0 => writeln!(out, "  {does} {bytes} bytes, none of it readable, written {written}"),
        _ => writeln!(out, "  {does} {bytes} bytes; still readable of them: {}", contents(tally)),
    }
}

/// A summary such as `frames 2, rows 7 (user 4, booking 3), written 2026-…`.
fn contents(tally: &Tally) -> String {
    let kinds: Vec<String> =
        tally.kinds.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let Tally { frames, rows, .. } = tally;
    format!("frames {frames}, rows {rows}{kinds}, written {}", span(tally.span))
}

/// Replaces the files of the directory by what is in memory. Returns the name of the directory
/// that keeps the old ones.
fn rebuild(
    directory: &Directory,
    manifest: &Manifest,
    memory: &Memory,
    clock: &Clock,
) -> io::Result<String> {
    let old = directory.numbered();
    let number = directory.free_number(manifest.number_max());
    // With another identity, frames of the old files are not accepted in the new ones.
    let mut new = start::new_manifest().map_err(io::Error::other)?;
    let origin = new.origin(FileKind::Snapshot, number);
    let never = AtomicBool::new(false);
    let length = snapshot::write(directory, memory, origin, clock, &never)?.unwrap_or_default();
    let kept = format!("{KEPT_PREFIX}{}", clock.now());
    let names = [MANIFEST_FILE, SYNCED_FILE, VERSION_FILE].map(str::to_owned);
    let numbered = old.iter().map(|(kind, number)| kind.file(*number));
    let names = names.into_iter().chain(numbered);
    let to = directory.path().join(&kept);
    let begun = keep(directory.path(), &to, names).and_then(|()| {
        directory.sync_names()?;
        new.snapshot = Some(SnapshotEntry { number, length, covers: 0 });
        start::begin(directory, new, 0, clock, true)
    });
    if let Err(error) = begun {
        if start::withdraw(directory, origin) {
            put_back(&to, directory.path());
        }
        return Err(error);
    }
    Ok(kept)
}

/// Links files into another directory, so that they stay when their first name is replaced.
fn keep(path: &Path, kept: &Path, names: impl Iterator<Item = String>) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o700).create(kept)?;
    for name in names {
        let (from, to) = (path.join(&name), kept.join(&name));
        if !from.exists() {
            continue;
        }
        // Not every file system has hard links.
        if std::fs::hard_link(&from, &to).is_err() {
            std::fs::copy(&from, &to)?;
            std::fs::File::open(&to)?.sync_all()?;
        }
    }
    directory::sync_names(kept)
}

/// Undoes [`keep`], as far as the system allows.
fn put_back(kept: &Path, path: &Path) {
    let mut names = std::fs::read_dir(kept).into_iter().flatten().flatten();
    let is_back =
        names.all(|entry| std::fs::rename(entry.path(), path.join(entry.file_name())).is_ok());
    if is_back {
        // Renaming a hard link to the same file does nothing, so some names are left here.
        drop(std::fs::remove_dir_all(kept));
    }
}

/// Rebuilds the manifest from the other files; `None` if none of them can be read.
fn manifest_from_files(path: &Path) -> io::Result<Option<Manifest>> {
    let files = numbered(path);
    let Some(identity) = identity(path, &files)? else { return Ok(None) };
    let mut manifest = Manifest { identity, after: 0, snapshot: None, journals: Vec::new() };
    for (_, number) in files.iter().filter(|(kind, _)| *kind == FileKind::Snapshot) {
        let origin = manifest.origin(FileKind::Snapshot, *number);
        let mut reader = Reader::open(path, origin)?;
        let (_, is_whole) = last_frame(&mut reader, u64::MAX)?;
        if is_whole || manifest.snapshot.is_none() {
            let (number, length) = (*number, reader.length());
            manifest.snapshot = Some(SnapshotEntry { number, length, covers: 0 });
        }
    }
    let from = manifest.snapshot.map_or(0, |snapshot| snapshot.number);
    let journals: Vec<Origin> = files
        .iter()
        .filter(|(kind, number)| *kind == FileKind::Journal && *number >= from)
        .map(|(kind, number)| manifest.origin(*kind, *number))
        .collect();
    let first = |origin: &Origin| first_sequence(path, *origin);
    let firsts: Vec<Option<u64>> = journals.iter().map(first).collect::<io::Result<_>>()?;
    manifest.after = firsts.iter().flatten().next().map_or(0, |first| first - 1);
    let mut sequence = manifest.after;
    for (index, origin) in journals.iter().enumerate() {
        let mut reader = Reader::open(path, *origin)?;
        let next = firsts[index + 1..].iter().flatten().next().copied();
        let (last, _) = last_frame(&mut reader, next.unwrap_or(u64::MAX))?;
        sequence = last.unwrap_or(sequence);
        // The next journal continues where this one was cut.
        let offset = reader.offset().max(HEADER_BYTES as u64);
        let ended = (next == Some(sequence + 1)).then_some(Ended { offset, sequence });
        manifest.journals.push(JournalEntry { number: origin.number, ended });
    }
    Ok(Some(manifest))
}

/// The identity in the first header of most files.
fn identity(path: &Path, files: &[(FileKind, u32)]) -> io::Result<Option<Identity>> {
    let mut found: Vec<(Identity, usize)> = Vec::new();
    for (kind, number) in files {
        let bytes = std::fs::File::open(path.join(kind.file(*number))).and_then(|file| {
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut io::Read::take(file, HEADER_BYTES as u64), &mut bytes)?;
            Ok(bytes)
        })?;
        let Some((_, origin)) = bytes.first_chunk().and_then(Header::decode_any) else { continue };
        match found.iter_mut().find(|(identity, _)| *identity == origin.identity) {
            Some((_, count)) => *count += 1,
            None => found.push((origin.identity, 1)),
        }
    }
    Ok(found.into_iter().max_by_key(|(_, count)| *count).map(|(identity, _)| identity))
}

/// The number of the first frame with rows.
fn first_sequence(path: &Path, origin: Origin) -> io::Result<Option<u64>> {
    let mut reader = Reader::open(path, origin)?;
    while let NextFrame::Frame(header) = reader.next()? {
        if header.kind == FrameKind::Rows {
            return Ok(Some(header.sequence));
        }
    }
    Ok(None)
}

/// Reads up to the first unreadable frame, or to the frame `before`, and stays there. Returns the
/// number of the last frame with rows, and whether the end of a snapshot was reached.
fn last_frame(reader: &mut Reader, before: u64) -> io::Result<(Option<u64>, bool)> {
    let mut last = None;
    loop {
        let offset = reader.offset();
        let NextFrame::Frame(header) = reader.next()? else { return Ok((last, false)) };
        match header.kind {
            FrameKind::Head => {}
            FrameKind::Rows if header.sequence >= before => {
                reader.go_to(offset);
                return Ok((last, false));
            }
            FrameKind::Rows => last = Some(header.sequence),
            FrameKind::End => return Ok((last, true)),
        }
    }
}
