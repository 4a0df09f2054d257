//! The manifest: names the snapshot and the journals that make up the store, and the end of each
//! closed journal. It is text with a checksum, and is always replaced as a whole. A file that it
//! does not name is not part of the store.

use std::fmt::Write;

use crate::store::embedded::frame::{FileKind, Identity, Origin};

/// Its first line, up to the version.
const TITLE: &str = "session-manager data ";
/// The version that this program reads and writes.
const VERSION: &str = "1";

/// The snapshot that the journals continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Its number.
    pub number: u32,
    /// Its length in bytes.
    pub length: u64,
    /// The snapshot may contain changes of journal frames up to this one. If such a frame is
    /// lost, the snapshot shows a state that the store never had.
    pub covers: u64,
}

/// A journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    /// Its number.
    pub number: u32,
    /// Its end, if nothing is added to it any more.
    pub ended: Option<Ended>,
}

/// The end of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The end of its last frame, in bytes. Bytes after it are not part of the journal.
    pub offset: u64,
    /// Its last frame, or the last one before it if it has none.
    pub sequence: u64,
}

/// The files that make up a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The identity in every frame of the directory.
    pub identity: Identity,
    /// The last frame before the first journal.
    pub after: u64,
    /// The snapshot that the journals continue, if there is one.
    pub snapshot: Option<SnapshotEntry>,
    /// The journals, oldest first.
    pub journals: Vec<JournalEntry>,
}

/// Why the text is not a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is not what was written.
    Damaged,
    /// A newer version wrote it.
    Newer,
}

impl Manifest {
    /// The file with a number.
    pub fn origin(&self, kind: FileKind, number: u32) -> Origin {
        Origin { identity: self.identity, kind, number }
    }

    /// Whether a file is part of it.
    pub fn names(&self, origin: Origin) -> bool {
        let Origin { identity, kind, number } = origin;
        identity == self.identity
            && match kind {
                FileKind::Journal => self.journals.iter().any(|it| it.number == number),
                FileKind::Snapshot => self.snapshot.is_some_and(|it| it.number == number),
            }
    }

    /// The highest number of its files.
    pub fn number_max(&self) -> u32 {
        let journals = self.journals.iter().map(|journal| journal.number);
        journals.chain(self.snapshot.map(|it| it.number)).max().unwrap_or(0)
    }

    /// Encodes it as text.
    pub fn encode(&self) -> String {
        let mut text = format!("{TITLE}{VERSION}\n");
        let identity = u64::from_be_bytes(self.identity);
        let mut line = |line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("text takes everything");
            text.push('\n');
        };
        line(format_args!("identity {identity:016x}"));
        line(format_args!("after {}", self.after));
        if let Some(SnapshotEntry { number, length, covers }) = self.snapshot {
            line(format_args!("snapshot {number} length {length} covers {covers}"));
        }
        for JournalEntry { number, ended } in &self.journals {
            match ended {
                Some(Ended { offset, sequence }) => {
                    line(format_args!("journal {number} ended {offset} sequence {sequence}"));
                }
                None => line(format_args!("journal {number}")),
            }
        }
        let checksum = crc32fast::hash(text.as_bytes());
        text + &format!("checksum {checksum:08x}\n")
    }

    /// Decodes it.
    ///
    /// # Errors
    /// If it is damaged, or a newer version wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        let damaged = Unreadable::Damaged;
        let text = str::from_utf8(bytes).map_err(|_| damaged)?;
        let at = text.rfind("checksum ").ok_or(damaged)?;
        let checksum = format!("checksum {:08x}\n", crc32fast::hash(&bytes[..at]));
        if text[at..] != checksum {
            return Err(damaged);
        }
        let mut lines = text[..at].lines();
        let version = lines.next().and_then(|line| line.strip_prefix(TITLE)).ok_or(damaged)?;
        if version != VERSION {
            return Err(Unreadable::Newer);
        }
        let mut manifest =
            Self { identity: [0; 8], after: 0, snapshot: None, journals: Vec::new() };
        for line in lines {
            manifest.take(&line.split(' ').collect::<Vec<_>>()).ok_or(damaged)?;
        }
        Ok(manifest)
    }

    fn take(&mut self, words: &[&str]) -> Option<()> {
        match words {
            ["identity", identity] => {
                self.identity = u64::from_str_radix(identity, 16).ok()?.to_be_bytes();
            }
            ["after", after] => self.after = after.parse().ok()?,
            ["snapshot", number, "length", length, "covers", covers] => {
                self.snapshot = Some(SnapshotEntry {
                    number: number.parse().ok()?,
                    length: length.parse().ok()?,
                    covers: covers.parse().ok()?,
                });
            }
            ["journal", number, rest @ ..] => {
                let ended = match rest {
                    [] => None,
                    ["ended", offset, "sequence", sequence] => {
                        let (offset, sequence) = (offset.parse().ok()?, sequence.parse().ok()?);
                        Some(Ended { offset, sequence })
                    }
                    _ => return None,
                };
                self.journals.push(JournalEntry { number: number.parse().ok()?, ended });
            }
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let ended = Some(Ended { offset: 5000, sequence: 950 });
        Manifest {
            identity: *b"identity",
            after: 900,
            snapshot: Some(SnapshotEntry { number: 8, length: 12_345, covers: 920 }),
            journals: vec![
                JournalEntry { number: 8, ended },
                JournalEntry { number: 9, ended: None },
            ],
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let none = Manifest { snapshot: None, journals: Vec::new(), ..manifest() };
        for manifest in [manifest(), none] {
            assert_eq!(Manifest::decode(manifest.encode().as_bytes()), Ok(manifest));
        }
        assert_eq!(manifest().number_max(), 9);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_detected() {
        let text = manifest().encode();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Manifest::decode(&bytes), Err(Unreadable::Damaged), "{bit}");
        }
        for length in 0..text.len() {
            assert_eq!(Manifest::decode(&text.as_bytes()[..length]), Err(Unreadable::Damaged));
        }
    }

    #[test]
    fn a_newer_version_is_not_damage() {
        let text = format!("{TITLE}2\nsomething else\n");
        let text = format!("{text}checksum {:08x}\n", crc32fast::hash(text.as_bytes()));
        assert_eq!(Manifest::decode(text.as_bytes()), Err(Unreadable::Newer));
    }
}
