//! The mark: the last frame of the journal that is synced, in a file beside it. With it a start
//! tells damage from the effect of a loss of power. Two copies are written in turn, so that one is
//! always whole. A mark may name an earlier frame than the last one on the disk, never a later
//! one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::BufMut;

use crate::store::embedded::directory::Directory;
use crate::store::embedded::frame::Identity;
use crate::store::embedded::names::SYNCED_FILE;
use session_store::clock::Milliseconds;

/// The length of a mark, in bytes.
const MARK_BYTES: usize = 40;
/// The offsets of the two copies: on different pages, so that a torn write damages only one.
const OFFSETS: [u64; 2] = [0, 4096];

/// How far the journal is synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The last synced frame.
    pub sequence: u64,
    /// The time of the sync.
    pub milliseconds: Milliseconds,
    /// The process ended in order, and no frame follows.
    pub closed: bool,
}

/// The file of the marks.
pub struct Marks {
    file: File,
    identity: Identity,
    written: u64,
}

impl Marks {
    /// Makes the file with a mark, and replaces an old one.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn create(directory: &Directory, identity: Identity, mark: Mark) -> io::Result<Self> {
        let mut bytes = vec![0; usize::try_from(OFFSETS[1]).expect("it is small") + MARK_BYTES];
        for (offset, number) in [(0, 1), (bytes.len() - MARK_BYTES, 2)] {
            bytes[offset..offset + MARK_BYTES].copy_from_slice(&encode(identity, number, mark));
        }
        let file = directory.replace(SYNCED_FILE, &bytes)?;
        Ok(Self { file, identity, written: 2 })
    }

    /// Overwrites the older of the two copies. The caller must sync the file.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn write(&mut self, mark: Mark) -> io::Result<&File> {
        self.written += 1;
        let offset = OFFSETS[usize::from(self.written.is_multiple_of(2))];
        self.file.write_all_at(&encode(self.identity, self.written, mark), offset)?;
        Ok(&self.file)
    }
}

/// The content of the file of the marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredMarks {
    /// Both copies are whole; this is the later one.
    Both(Mark),
    /// One copy is whole, after a loss of power or damage.
    One(Mark),
    /// The file is missing.
    Missing,
    /// No copy is whole.
    Damaged,
}

impl StoredMarks {
    /// The mark, if there is one.
    pub fn mark(self) -> Option<Mark> {
        match self {
            Self::Both(mark) | Self::One(mark) => Some(mark),
            Self::Missing | Self::Damaged => None,
        }
    }
}

/// Reads the marks of a directory.
///
/// # Errors
/// What the system refuses.
pub fn read(directory: &Path, identity: Identity) -> io::Result<StoredMarks> {
    let bytes = match std::fs::read(directory.join(SYNCED_FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(StoredMarks::Missing),
        Err(error) => return Err(error),
    };
    Ok(match both(&bytes).map(|written| written.filter(|it| it.identity == identity)) {
        [Some(one), Some(other)] => {
            StoredMarks::Both(if one.number > other.number { one.mark } else { other.mark })
        }
        [Some(StoredMark { mark, .. }), None] | [None, Some(StoredMark { mark, .. })] => {
            StoredMarks::One(mark)
        }
        [None, None] => StoredMarks::Damaged,
    })
}

/// Whether a store of any identity has synced a frame here.
pub fn is_of_a_frame(directory: &Path) -> bool {
    let bytes = std::fs::read(directory.join(SYNCED_FILE)).unwrap_or_default();
    both(&bytes).into_iter().flatten().any(|written| written.mark.sequence > 0)
}

/// The two copies in a file, as far as they are whole.
fn both(bytes: &[u8]) -> [Option<StoredMark>; 2] {
    OFFSETS.map(|offset| decode(bytes.get(usize::try_from(offset).ok()?..)?.first_chunk()?))
}

fn encode(identity: Identity, number: u64, mark: Mark) -> [u8; MARK_BYTES] {
    let mut bytes = [0; MARK_BYTES];
    let mut out = &mut bytes[..];
    out.put_slice(&identity);
    out.put_u64(number);
    out.put_u64(mark.sequence);
    out.put_u64(mark.milliseconds);
    out.put_u32(u32::from(mark.closed));
    let checksum = crc32fast::hash(&bytes[..MARK_BYTES - 4]);
    bytes[MARK_BYTES - 4..].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

/// A copy as it is on the disk.
struct StoredMark {
    identity: Identity,
    /// The higher one is the later one.
    number: u64,
    mark: Mark,
}

fn decode(bytes: &[u8; MARK_BYTES]) -> Option<StoredMark> {
    let checksum = crc32fast::hash(&bytes[..MARK_BYTES - 4]);
    if bytes[MARK_BYTES - 4..] != checksum.to_be_bytes() {
        return None;
    }
    let long = |at: usize| bytes[at..].first_chunk().map(|it| u64::from_be_bytes(*it));
    let mark = Mark { sequence: long(16)?, milliseconds: long(24)?, closed: bytes[35] == 1 };
    Some(StoredMark { identity: *bytes.first_chunk()?, number: long(8)?, mark })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::directory::sync_file;

    #[test]
    fn the_later_mark_counts_and_one_damaged_mark_leaves_the_other() {
        let path = tempfile::tempdir().unwrap();
        let directory = Directory::lock(path.path(), sync_file()).unwrap();
        let identity = *b"identity";
        let mark = |sequence| Mark { sequence, milliseconds: 1, closed: sequence == 9 };
        assert_eq!(read(path.path(), identity).unwrap(), StoredMarks::Missing);
        let mut marks = Marks::create(&directory, identity, mark(4)).unwrap();
        assert_eq!(read(path.path(), identity).unwrap(), StoredMarks::Both(mark(4)));
        for sequence in [5, 6, 9] {
            marks.write(mark(sequence)).unwrap();
            assert_eq!(read(path.path(), identity).unwrap(), StoredMarks::Both(mark(sequence)));
        }
        let file = path.path().join(SYNCED_FILE);
        let whole = std::fs::read(&file).unwrap();
        for offset in OFFSETS {
            assert!(is_of_a_frame(path.path()));
            for bit in 0..MARK_BYTES * 8 {
                let mut bytes = whole.clone();
                bytes[offset as usize + bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&file, bytes).unwrap();
                let found = read(path.path(), identity).unwrap();
                assert!(matches!(found, StoredMarks::One(_)), "{offset} {bit}: {found:?}");
            }
        }
        std::fs::write(&file, vec![0; whole.len()]).unwrap();
        assert_eq!(read(path.path(), identity).unwrap(), StoredMarks::Damaged);
        assert!(!is_of_a_frame(path.path()));
        std::fs::write(&file, &whole).unwrap();
        assert_eq!(read(path.path(), *b"another1").unwrap(), StoredMarks::Damaged);
        drop(Marks::create(&directory, identity, mark(0)).unwrap());
        assert!(!is_of_a_frame(path.path()), "a start that was cut off leaves such marks");
    }
}
