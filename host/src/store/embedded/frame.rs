//! The frame, the unit of journals and snapshots: a header with checksums, then rows. Works on
//! bytes and knows no file. Every frame carries the random identity of its directory, so a search
//! after damage never takes a user's data for a frame.

use bytes::BufMut;

use session_store::clock::Milliseconds;
use session_store::rows::{MalformedRow, Row};

/// How long a header is, in bytes.
pub const HEADER_BYTES: usize = 52;
/// The most memory that an empty frame keeps for the next rows.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Marks a removal, in the field of the value's length.
const REMOVED: u32 = u32::MAX;

/// Random bytes that identify a directory.
pub type Identity = [u8; 8];

/// The kind of file that a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Changes in the order of their arrival.
    Journal,
    /// The whole data at one time.
    Snapshot,
}

impl FileKind {
    /// The first part of the names of such files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Snapshot => "snapshot",
        }
    }

    /// The name of the file with a number.
    pub fn file(self, number: u32) -> String {
        format!("{}-{number}", self.name())
    }
}

/// The file that a frame belongs to. Its header is not accepted in any other file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The identity of the directory.
    pub identity: Identity,
    /// The kind of file.
    pub kind: FileKind,
    /// The number of the file.
    pub number: u32,
}

impl Origin {
    /// The name of the file.
    pub fn file(&self) -> String {
        self.kind.file(self.number)
    }
}

/// The purpose of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// The first frame of a file, without rows.
    Head,
    /// Rows.
    Rows,
    /// The last frame of a snapshot, without rows.
    End,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The purpose of the frame.
    pub kind: FrameKind,
    /// The length of its rows, in bytes.
    pub length: u32,
    /// The checksum of its rows.
    pub checksum: u32,
    /// Its number. The frames of a journal continue the numbers of the journal before.
    pub sequence: u64,
    /// The time at which it was written.
    pub milliseconds: Milliseconds,
    /// The last frame known to be synced when this one was written.
    pub synced: u64,
}

impl Header {
    /// Encodes the header of a file's frame.
    pub fn encode(&self, origin: &Origin) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(&origin.identity);
        out.put_u32(origin.number);
        out.put_u8(match origin.kind {
            FileKind::Journal => b'j',
            FileKind::Snapshot => b's',
        });
        out.put_u8(match self.kind {
            FrameKind::Head => 1,
            FrameKind::Rows => 2,
            FrameKind::End => 3,
        });
        out.put_u16(0);
        out.put_u32(self.length);
        out.put_u32(self.checksum);
        out.put_u64(self.sequence);
        out.put_u64(self.milliseconds);
        out.put_u64(self.synced);
        let checksum = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Decodes a header; `None` if the bytes are not a header of this file.
    pub fn decode(bytes: &[u8; HEADER_BYTES], origin: &Origin) -> Option<Self> {
        let (header, of) = Self::decode_any(bytes)?;
        (of == *origin).then_some(header)
    }

    /// Decodes a header of any file, and returns the file too.
    pub fn decode_any(bytes: &[u8; HEADER_BYTES]) -> Option<(Self, Origin)> {
        let checksum = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        if bytes[HEADER_BYTES - 4..] != checksum.to_be_bytes() {
            return None;
        }
        let word = |at: usize| bytes[at..].first_chunk().map(|it| u32::from_be_bytes(*it));
        let long = |at: usize| bytes[at..].first_chunk().map(|it| u64::from_be_bytes(*it));
        let kind = match bytes[13] {
            1 => FrameKind::Head,
            2 => FrameKind::Rows,
            3 => FrameKind::End,
            _ => return None,
        };
        let file = match bytes[12] {
            b'j' => FileKind::Journal,
            b's' => FileKind::Snapshot,
            _ => return None,
        };
        let origin = Origin { identity: *bytes.first_chunk()?, kind: file, number: word(8)? };
        let header = Self {
            kind,
            length: word(16)?,
            checksum: word(20)?,
            sequence: long(24)?,
            milliseconds: long(32)?,
            synced: long(40)?,
        };
        Some((header, origin))
    }
}

/// A frame that is being filled.
pub struct Frame {
    bytes: Vec<u8>,
    rows: u64,
}

impl Frame {
    /// A frame without rows.
    pub fn new() -> Self {
        Self { bytes: vec![0; HEADER_BYTES], rows: 0 }
    }

    /// Adds a row.
    pub fn push(&mut self, row: &Row) {
        let length = |length: usize| u32::try_from(length).expect("a value is far below 4 GiB");
        self.bytes.put_u32(length(row.key.len()));
        self.bytes.put_u32(row.value.as_ref().map_or(REMOVED, |value| length(value.len())));
        self.bytes.put_slice(&row.key);
        if let Some(value) = &row.value {
            self.bytes.put_slice(value);
        }
        self.rows += 1;
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The length of its rows, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len() - HEADER_BYTES
    }

    /// Writes the header before the rows, with their length and checksum, and returns the frame.
    pub fn finish(&mut self, header: Header, origin: &Origin) -> &[u8] {
        let rows = &self.bytes[HEADER_BYTES..];
        let length = u32::try_from(rows.len()).expect("a group is far below 4 GiB");
        let header = Header { length, checksum: crc32fast::hash(rows), ..header };
        self.bytes[..HEADER_BYTES].copy_from_slice(&header.encode(origin));
        &self.bytes
    }

    /// Removes the rows.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER_BYTES);
        // One large group must not hold its memory for ever.
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.rows = 0;
    }
}

/// Receives the rows of frames: the key, and the value or `None` for a removal.
pub type TakeRow<'a> = dyn FnMut(&[u8], Option<&[u8]>) -> Result<(), MalformedRow> + 'a;

/// Passes on the rows of a frame, and returns their number.
///
/// # Errors
/// If no version of this store wrote them.
pub fn each_row(mut bytes: &[u8], take: &mut TakeRow<'_>) -> Result<u64, MalformedRow> {
    let mut rows = 0;
    while !bytes.is_empty() {
        let (lengths, rest) = bytes.split_first_chunk::<8>().ok_or(MalformedRow)?;
        let [key, value] = [0, 4].map(|at| {
            u32::from_be_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]])
        });
        let (key, rest) = rest.split_at_checked(key as usize).ok_or(MalformedRow)?;
        let (value, rest) = match value {
            REMOVED => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(length as usize).ok_or(MalformedRow)?;
                (Some(value), rest)
            }
        };
        take(key, value)?;
        bytes = rest;
        rows += 1;
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: Origin = Origin { identity: *b"identity", kind: FileKind::Journal, number: 7 };

    fn header(sequence: u64) -> Header {
        let (milliseconds, synced) = (1_800_000_000_000, sequence - 1);
        Header { kind: FrameKind::Rows, length: 0, checksum: 0, sequence, milliseconds, synced }
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let rows = [
            Row { key: b"one".into(), value: Some("value".into()) },
            Row { key: b"empty".into(), value: Some("".into()) },
            Row { key: b"gone".into(), value: None },
        ];
        let mut frame = Frame::new();
        rows.iter().for_each(|row| frame.push(row));
        let bytes = frame.finish(header(9), &ORIGIN).to_vec();
        let (start, payload) = bytes.split_first_chunk().unwrap();
        let read = Header::decode(start, &ORIGIN).unwrap();
        assert_eq!((read.sequence, read.synced, read.length as usize), (9, 8, payload.len()));
        assert_eq!(read.checksum, crc32fast::hash(payload));
        let mut found = Vec::new();
        let count = each_row(payload, &mut |key, value| {
            found.push((key.to_vec(), value.map(<[u8]>::to_vec)));
            Ok(())
        });
        assert_eq!(count.unwrap(), 3);
        let expected = rows.map(|row| (row.key, row.value.map(|value| value.to_vec())));
        assert_eq!(found, expected);
        frame.clear();
        assert!(frame.is_empty());
    }

    #[test]
    fn a_header_with_any_bit_flipped_or_of_another_file_is_none() {
        let bytes = header(3).encode(&ORIGIN);
        assert!(Header::decode(&bytes, &ORIGIN).is_some());
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped, &ORIGIN), None, "{bit}");
        }
        assert_eq!(Header::decode(&[0; HEADER_BYTES], &ORIGIN), None);
        for other in [
            Origin { number: 8, ..ORIGIN },
            Origin { kind: FileKind::Snapshot, ..ORIGIN },
            Origin { identity: [0; 8], ..ORIGIN },
        ] {
            assert_eq!(Header::decode(&bytes, &other), None);
        }
    }

    #[test]
    fn rows_that_end_early_are_malformed() {
        let mut frame = Frame::new();
        frame.push(&Row { key: b"key".into(), value: Some("value".into()) });
        let bytes = frame.finish(header(1), &ORIGIN)[HEADER_BYTES..].to_vec();
        for length in 1..bytes.len() {
            assert!(each_row(&bytes[..length], &mut |_, _| Ok(())).is_err(), "{length}");
        }
    }
}
