//! `session-manager check-data`: reports what the files of the embedded store hold, for an operator
//! whose server refused to start.

use std::path::Path;

use crate::config::{IN_MEMORY, Settings};
use crate::store::embedded::{Verdict, inspect};
use session_store::clock::Clock;

/// The exit code for a directory that a server starts on.
const SOUND: u8 = 0;
/// The exit code for a directory that a server refuses.
const DAMAGED: u8 = 1;
/// The exit code if there is nothing to inspect, or a server uses the directory.
const UNUSABLE: u8 = 2;

/// Prints what DATA_DIR holds, repairs it if `repair` is set, and returns the exit code.
pub fn run(repair: bool, settings: &Settings) -> u8 {
    let name = &settings.storage.data_dir;
    if name == IN_MEMORY {
        eprintln!("session-manager: DATA_DIR {name}: it has no files");
        return UNUSABLE;
    }
    let mut out = std::io::stdout().lock();
    match inspect(Path::new(name), repair, &Clock::System, &mut out) {
        Ok(Verdict::Sound | Verdict::Repaired) => SOUND,
        Ok(Verdict::Damaged) => DAMAGED,
        Err(error) => {
            eprintln!("session-manager: DATA_DIR {name}: {error}");
            UNUSABLE
        }
    }
}
