//! Reads the frames of a file in turn, and searches for frames after an offset that cannot be
//! read. Never writes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem;

use crate::store::embedded::frame::{FrameKind, HEADER_BYTES, Header, Origin, each_row};
use session_store::clock::Milliseconds;
use session_store::rows;

/// How many bytes a search reads at once.
const SEARCH_BYTES: usize = 1 << 20;

/// What stands where the next frame should begin.
pub enum NextFrame {
    /// A frame.
    Frame(Header),
    /// The end of the file.
    End,
    /// Something else, in words.
    Bad(&'static str),
}

/// A file of frames.
pub struct Reader {
    file: File,
    origin: Origin,
    length: u64,
    offset: u64,
    rows: Vec<u8>,
}

impl Reader {
    /// Opens a file of a directory.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open(directory: &Path, origin: Origin) -> io::Result<Self> {
        let file = File::open(directory.join(origin.file()))?;
        let length = file.metadata()?.len();
        Ok(Self { file, origin, length, offset: 0, rows: Vec::new() })
    }

    /// How long the file is.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The offset of the next frame.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Moves to another offset.
    pub fn go_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// The rows of the last frame read.
    pub fn rows(&self) -> &[u8] {
        &self.rows
    }

    /// Reads the frame at the current offset, and moves past it.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn next(&mut self) -> io::Result<NextFrame> {
        if self.offset >= self.length {
            return Ok(NextFrame::End);
        }
        if self.length - self.offset < HEADER_BYTES as u64 {
            return Ok(NextFrame::Bad("it ends within the header of a frame"));
        }
        let mut header = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut header, self.offset)?;
        let Some(header) = Header::decode(&header, &self.origin) else {
            return Ok(NextFrame::Bad("the checksum of a frame header does not match"));
        };
        let start = self.offset + HEADER_BYTES as u64;
        if self.length - start < u64::from(header.length) {
            return Ok(NextFrame::Bad("it ends within a frame"));
        }
        self.rows.resize(header.length as usize, 0);
        self.file.read_exact_at(&mut self.rows, start)?;
        if crc32fast::hash(&self.rows) != header.checksum {
            return Ok(NextFrame::Bad("the checksum of a frame does not match"));
        }
        self.offset = start + u64::from(header.length);
        Ok(NextFrame::Frame(header))
    }

    /// The next offset, at or after `from`, with a whole header.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn find(&self, from: u64) -> io::Result<Option<(u64, Header)>> {
        let finder = memmem::Finder::new(&self.origin.identity);
        let mut bytes = vec![0; SEARCH_BYTES];
        let mut start = from;
        while self.length.saturating_sub(start) >= HEADER_BYTES as u64 {
            let left = usize::try_from(self.length - start).unwrap_or(usize::MAX);
            let bytes = &mut bytes[..SEARCH_BYTES.min(left)];
            self.file.read_exact_at(bytes, start)?;
            for at in finder.find_iter(bytes) {
                let rest = &bytes[at..];
                let header = rest.first_chunk().and_then(|it| Header::decode(it, &self.origin));
                if let Some(header) = header {
                    return Ok(Some((start + at as u64, header)));
                }
            }
            // A header may lie across the end of the bytes read.
            start += (bytes.len() - (HEADER_BYTES - 1)) as u64;
        }
        Ok(None)
    }
}

/// What can be read of some frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of readable frames with rows.
    pub frames: u64,
    /// The number of readable rows.
    pub rows: u64,
    /// The rows by the kind of their keys.
    pub kinds: BTreeMap<String, u64>,
    /// The times of the first and the last frame, including frames whose rows are unreadable.
    pub span: Option<(Milliseconds, Milliseconds)>,
    /// The last frame that one of them reports as synced.
    pub synced: u64,
}

impl Tally {
    /// Counts a frame with a whole header.
    pub fn header(&mut self, header: &Header) {
        if header.kind != FrameKind::Rows {
            return;
        }
        self.synced = self.synced.max(header.synced);
        let at = header.milliseconds;
        let (from, to) = self.span.unwrap_or((at, at));
        self.span = Some((from.min(at), to.max(at)));
    }

    /// Counts a frame with its rows.
    pub fn frame(&mut self, header: &Header) {
        self.header(header);
        self.frames += u64::from(header.kind == FrameKind::Rows);
    }

    /// Counts a row.
    pub fn row(&mut self, key: &[u8]) {
        self.rows += 1;
        let kind = rows::kind(key);
        match self.kinds.get_mut(kind) {
            Some(count) => *count += 1,
            None => drop(self.kinds.insert(kind.to_owned(), 1)),
        }
    }

    /// Counts what can be read of a file from an offset on.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn rest(&mut self, reader: &mut Reader, from: u64) -> io::Result<()> {
        let mut at = from;
        while let Some((found, header)) = reader.find(at)? {
            self.header(&header);
            reader.go_to(found);
            at = match reader.next()? {
                NextFrame::Frame(header) => {
                    self.frame(&header);
                    // Malformed rows do not matter for a count.
                    let counted = each_row(reader.rows(), &mut |key, _| {
                        self.row(key);
                        Ok(())
                    });
                    drop(counted);
                    reader.offset()
                }
                NextFrame::End | NextFrame::Bad(_) => found + 1,
            };
        }
        Ok(())
    }
}
