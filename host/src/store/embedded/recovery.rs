//! Reads a whole directory and judges it: whole, cut by a loss of power, or damaged. An unreadable
//! frame was lost with the power only if no record says that it was synced; anything else is
//! damage. Never writes.

use std::io;
use std::path::Path;

use crate::store::embedded::directory;
use crate::store::embedded::frame::{
    FileKind, FrameKind, HEADER_BYTES, Header, Origin, TakeRow, each_row,
};
use crate::store::embedded::manifest::{Ended, JournalEntry, Manifest, SnapshotEntry};
use crate::store::embedded::mark::{self, StoredMarks};
use crate::store::embedded::names::{MANIFEST_FILE, SYNCED_FILE};
use crate::store::embedded::obstacle::OpenError;
use crate::store::embedded::reader::{NextFrame, Reader, Tally};
use session_store::clock::Milliseconds;

const MISSING: &str = "it is missing";
const ENDS_EARLY: &str = "it is shorter than recorded";
const NOT_NEXT: &str = "frames are missing before this frame";

/// A part that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The file.
    pub file: String,
    /// Its offset, in bytes.
    pub offset: u64,
    /// How many bytes of all files are unused because of it.
    pub bytes: u64,
    /// What is wrong, in words.
    pub what: &'static str,
    /// What can still be read of them.
    pub tally: Tally,
}

impl Loss {
    /// The error for a loss.
    pub fn error(&self) -> OpenError {
        let Loss { file, offset, what, .. } = self;
        OpenError::DamagedAt { file: format!("`{file}`"), offset: *offset, what }
    }
}

/// The content of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTally {
    /// Its name.
    pub file: String,
    /// Its length, in bytes.
    pub bytes: u64,
    /// What was read of it.
    pub tally: Tally,
}

/// The content of a directory.
pub struct Reading {
    /// The last frame of the state that was read.
    pub sequence: u64,
    /// The end of that state: the last journal with a part of it, and the offset.
    pub end: Option<(String, u64)>,
    /// The time of its last frame.
    pub last_at: Option<Milliseconds>,
    /// The journals, each with its end.
    pub journals: Vec<JournalEntry>,
    /// The content of each file.
    pub files: Vec<FileTally>,
    /// The last writes that were not synced, and are lost.
    pub cut: Option<Loss>,
    /// What was synced, and is not what was written.
    pub damages: Vec<Loss>,
    /// How far the journal was synced.
    pub marks: StoredMarks,
}

impl Reading {
    /// Whether the process before ended in order, and everything is there.
    pub fn is_closed(&self) -> bool {
        self.marks.mark().is_some_and(|mark| mark.closed && mark.sequence == self.sequence)
    }
}

/// Reads every file of a manifest, and passes the rows to `take`: those of the snapshot, then
/// those of the journals up to the first loss.
///
/// # Errors
/// If the system refuses, or rows are of another program. Damage is part of the result.
pub fn read(
    directory: &Path,
    manifest: &Manifest,
    take: &mut TakeRow<'_>,
) -> Result<Reading, OpenError> {
    let refused = |error: io::Error| OpenError::of_system(&error, directory);
    let marks = mark::read(directory, manifest.identity).map_err(refused)?;
    let mark = marks.mark().unwrap_or_default();
    let covers = manifest.snapshot.map_or(0, |snapshot| snapshot.covers);
    let mut state = Recovery {
        directory,
        manifest,
        take,
        synced: covers.max(mark.sequence).max(manifest.after),
        lost: None,
        reading: Reading {
            sequence: manifest.after,
            end: None,
            last_at: None,
            journals: Vec::new(),
            files: Vec::new(),
            cut: None,
            damages: Vec::new(),
            marks,
        },
    };
    let what = match marks {
        StoredMarks::Both(_) | StoredMarks::One(_) => None,
        StoredMarks::Missing => Some(MISSING),
        StoredMarks::Damaged => Some("it is not what was written"),
    };
    if let Some(what) = what {
        state.damage(SYNCED_FILE.into(), 0, 0, what);
    }
    if let Some(snapshot) = manifest.snapshot {
        state.snapshot(snapshot)?;
    }
    for journal in &manifest.journals {
        state.journal(*journal)?;
    }
    state.unnamed()?;
    Ok(state.finish())
}

struct Recovery<'a> {
    directory: &'a Path,
    manifest: &'a Manifest,
    take: &'a mut TakeRow<'a>,
    /// The last frame known to be synced.
    synced: u64,
    /// What is lost of the journals, and whether it was certainly synced.
    lost: Option<(Loss, bool)>,
    reading: Reading,
}

impl Recovery<'_> {
    fn damage(&mut self, file: String, offset: u64, bytes: u64, what: &'static str) {
        let loss = Loss { file, offset, bytes, what, tally: Tally::default() };
        self.reading.damages.push(loss);
    }

    fn refused(&self, error: &io::Error, file: &str) -> OpenError {
        OpenError::of_file(error, self.directory, file)
    }

    /// Opens a file; `None` if it is missing.
    fn open(&self, origin: Origin) -> Result<Option<Reader>, OpenError> {
        match Reader::open(self.directory, origin) {
            Ok(reader) => Ok(Some(reader)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.refused(&error, &origin.file())),
        }
    }

    fn apply(
        &mut self,
        reader: &Reader,
        header: &Header,
        tally: &mut Tally,
    ) -> Result<(), OpenError> {
        tally.frame(header);
        let taken = each_row(reader.rows(), &mut |key, value| {
            tally.row(key);
            (self.take)(key, value)
        });
        taken.map(drop).map_err(|row| OpenError::of_row(&row))
    }

    /// Reads a snapshot, and leaves out what cannot be read.
    fn snapshot(&mut self, entry: SnapshotEntry) -> Result<(), OpenError> {
        let origin = self.manifest.origin(FileKind::Snapshot, entry.number);
        let file = origin.file();
        let Some(mut reader) = self.open(origin)? else {
            self.damage(file, 0, entry.length, MISSING);
            return Ok(());
        };
        let (mut tally, mut next, mut has_ended) = (Tally::default(), 0, false);
        while !has_ended {
            let offset = reader.offset();
            let step = reader.next().map_err(|error| self.refused(&error, &file))?;
            let what = match step {
                NextFrame::Frame(header) if header.sequence == next => {
                    self.apply(&reader, &header, &mut tally)?;
                    self.reading.last_at = Some(header.milliseconds);
                    next += 1;
                    has_ended = header.kind == FrameKind::End;
                    continue;
                }
                NextFrame::Frame(_) => NOT_NEXT,
                NextFrame::End => ENDS_EARLY,
                NextFrame::Bad(what) => what,
            };
            let found = reader.find(offset + 1).map_err(|error| self.refused(&error, &file))?;
            let end = found.map_or(entry.length.max(reader.length()), |(at, _)| at);
            self.damage(file.clone(), offset, end - offset, what);
            let Some((at, header)) = found else { break };
            reader.go_to(at);
            next = header.sequence;
        }
        if has_ended && reader.offset() != entry.length {
            self.damage(file.clone(), reader.offset(), 0, "it is not as long as it was written");
        }
        self.reading.files.push(FileTally { file, bytes: reader.length(), tally });
        Ok(())
    }

    /// Reads a journal up to its end or a loss. After a loss it only counts.
    fn journal(&mut self, entry: JournalEntry) -> Result<(), OpenError> {
        let origin = self.manifest.origin(FileKind::Journal, entry.number);
        let file = origin.file();
        let Some(mut reader) = self.open(origin)? else {
            let bytes = entry.ended.map_or(0, |ended| ended.offset);
            let tally = Tally::default();
            let loss = Loss { file, offset: 0, bytes, what: MISSING, tally };
            self.lost.get_or_insert((loss, true));
            return Ok(());
        };
        let length = entry.ended.map_or(reader.length(), |ended| ended.offset);
        let mut tally = Tally::default();
        if self.lost.is_none() {
            self.frames(entry, &mut reader, &mut tally)?;
        } else if let Some((loss, _)) = &mut self.lost {
            let counted = loss.tally.rest(&mut reader, 0);
            loss.bytes += length;
            counted.map_err(|error| self.refused(&error, &file))?;
            // The file stays until the next snapshot, but none of it is used.
            let ended = Ended { offset: HEADER_BYTES as u64, sequence: self.reading.sequence };
            let entry = JournalEntry { number: entry.number, ended: Some(ended) };
            self.reading.journals.push(entry);
        }
        self.synced = self.synced.max(tally.synced);
        self.reading.files.push(FileTally { file, bytes: reader.length(), tally });
        Ok(())
    }

    fn frames(
        &mut self,
        entry: JournalEntry,
        reader: &mut Reader,
        tally: &mut Tally,
    ) -> Result<(), OpenError> {
        let file = self.manifest.origin(FileKind::Journal, entry.number).file();
        let mut is_head = true;
        let (offset, what) = loop {
            let offset = reader.offset();
            match entry.ended {
                Some(ended) if ended.offset == offset => {
                    if ended.sequence == self.reading.sequence {
                        self.ended(entry.number, file, offset);
                        return Ok(());
                    }
                    break (offset, NOT_NEXT);
                }
                _ => {}
            }
            let step = reader.next().map_err(|error| self.refused(&error, &file))?;
            match step {
                NextFrame::Frame(header) if is_head && header.kind == FrameKind::Head => {
                    is_head = false;
                }
                NextFrame::Frame(header)
                    if !is_head && header.sequence == self.reading.sequence + 1 =>
                {
                    self.apply(reader, &header, tally)?;
                    self.reading.sequence = header.sequence;
                    self.reading.last_at = Some(header.milliseconds);
                }
                NextFrame::Frame(_) => break (offset, NOT_NEXT),
                NextFrame::End if entry.ended.is_none() && !is_head => {
                    self.ended(entry.number, file, offset);
                    return Ok(());
                }
                NextFrame::End => break (offset, ENDS_EARLY),
                NextFrame::Bad(what) => break (offset, what),
            }
        };
        let mut rest = Tally::default();
        rest.rest(reader, offset).map_err(|error| self.refused(&error, &file))?;
        let end = entry.ended.map_or(reader.length(), |ended| ended.offset);
        let bytes = end.max(reader.length()).saturating_sub(offset);
        // A head, and the end of a closed journal, are synced before the manifest names them.
        let is_damage = is_head || entry.ended.is_some();
        self.lost =
            Some((Loss { file: file.clone(), offset, bytes, what, tally: rest }, is_damage));
        if !is_head {
            self.ended(entry.number, file, offset);
        }
        Ok(())
    }

    fn ended(&mut self, number: u32, file: String, offset: u64) {
        let ended = Some(Ended { offset, sequence: self.reading.sequence });
        self.reading.journals.push(JournalEntry { number, ended });
        self.reading.end = Some((file, offset));
    }

    /// Finds journals with rows that the manifest does not name: then the manifest is an older one.
    fn unnamed(&mut self) -> Result<(), OpenError> {
        let last = self.manifest.number_max();
        for (kind, number) in directory::numbered(self.directory) {
            if kind != FileKind::Journal || number <= last {
                continue;
            }
            let origin = self.manifest.origin(kind, number);
            let refused = |error: io::Error| self.refused(&error, &origin.file());
            let mut reader = Reader::open(self.directory, origin).map_err(refused)?;
            let mut tally = Tally::default();
            tally.rest(&mut reader, 0).map_err(refused)?;
            if tally.rows > 0 {
                let what = "it does not name a journal that holds something";
                let bytes = reader.length();
                let loss = Loss { file: MANIFEST_FILE.into(), offset: 0, bytes, what, tally };
                self.reading.damages.push(loss);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Reading {
        let next = self.reading.sequence + 1;
        match self.lost.take() {
            Some((loss, is_damage)) => {
                let synced = self.synced.max(loss.tally.synced);
                match is_damage || next <= synced {
                    true => self.reading.damages.push(loss),
                    false => self.reading.cut = Some(loss),
                }
            }
            None if next <= self.synced => {
                let last = self.manifest.journals.last().map_or(0, |journal| journal.number);
                let file = self.manifest.origin(FileKind::Journal, last).file();
                let (file, offset) = self.reading.end.clone().unwrap_or((file, 0));
                self.damage(file, offset, 0, ENDS_EARLY);
            }
            None => {}
        }
        self.reading
    }
}
