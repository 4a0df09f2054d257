//! Seeded losses of power and seeded damage: nothing is lost without a report, a loss of power
//! never prevents a start, and a repair leaves a directory that starts.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::disk::{Disk, Seed, copy, files};
use super::{NOW, State, change, open, set, settings, state, wait};
use crate::store::embedded::directory::SyncFile;
use crate::store::embedded::inspection::inspect_on_disk;
use crate::store::embedded::{Embedded, OpenError, Verdict, inspect, recovery, start};
use session_store::Store;
use session_store::clock::Clock;

/// A directory with a snapshot and several journals, as a kill leaves it, and its state after
/// each write.
struct Scene {
    /// After everything was synced.
    synced: tempfile::TempDir,
    /// After more was written and not synced.
    written: tempfile::TempDir,
    /// After that was synced too.
    later: tempfile::TempDir,
    /// After the store was closed.
    closed: tempfile::TempDir,
    states: Vec<State>,
    /// The number of synced writes.
    kept: usize,
}

fn scene(number: u64) -> Scene {
    let path = tempfile::tempdir().unwrap();
    let disk = Disk::quick();
    let (mut seed, mut states) = (Seed::new(number), vec![State::new()]);
    let mut store = open(path.path(), &disk, 3000).unwrap();
    let mut write = |store: &super::Embedded, count: usize| {
        for _ in 0..count {
            wait(store.execute(change(&mut seed))).unwrap();
            states.push(state(&store.inner.memory));
        }
    };
    write(&store, 80);
    for _ in 0..2 {
        drop(store);
        store = open(path.path(), &disk, u64::MAX).unwrap();
        write(&store, 20);
    }
    wait(store.flush()).unwrap();
    let synced = copy(path.path());
    let held = disk.hold();
    write(&store, 30);
    let written = copy(path.path());
    drop(held);
    wait(store.flush()).unwrap();
    let later = copy(path.path());
    drop(store);
    let closed = copy(path.path());
    let kept = states.len() - 1 - 30;
    Scene { synced, written, later, closed, states, kept }
}

/// The name of the current journal.
fn journal(path: &Path) -> String {
    let manifest = start::read_manifest(path).unwrap().unwrap();
    format!("journal-{}", manifest.number_max())
}

#[test]
fn after_a_loss_of_power_the_store_starts_and_lacks_only_the_last_unsynced_writes() {
    let mut lost = BTreeSet::new();
    for number in 0..4 {
        let scene = scene(number);
        let name = journal(scene.written.path());
        let read = |path: &Path| std::fs::read(path.join(&name)).unwrap();
        let (before, after) = (read(scene.synced.path()), read(scene.written.path()));
        assert!(after.len() > before.len());
        for round in 0..30 {
            let mut seed = Seed::new(1000 * number + round);
            let sector = if seed.below(2) == 0 { 512 } else { 4096 };
            let length = match seed.below(4) {
                0 => before.len() + seed.below((after.len() - before.len()) as u64) as usize,
                1 => before.len(),
                _ => after.len(),
            };
            let mut bytes = after[..length].to_vec();
            for start in (0..length).step_by(sector) {
                if seed.below(2) == 0 {
                    // The sector as it was: nothing where there was no file.
                    let (from, to) = (start.max(before.len()), length.min(start + sector));
                    bytes[from.min(to)..to].fill(0);
                }
            }
            let copy = copy(scene.written.path());
            std::fs::write(copy.path().join(&name), &bytes).unwrap();
            let report = report_of(copy.path());
            let store = open(copy.path(), &Disk::quick(), u64::MAX)
                .unwrap_or_else(|error| panic!("{number} {round}: {error}"));
            let found = state(&store.inner.memory);
            let kept = scene.states.iter().rposition(|state| *state == found);
            let kept = kept.unwrap_or_else(|| panic!("{number} {round}: not one of the states"));
            assert!(kept >= scene.kept, "{number} {round}");
            let is_whole = kept == scene.states.len() - 1;
            let ends_early = report == Report::NotClosed && bytes.len() < after.len();
            assert!(
                is_whole || report == Report::Cut || ends_early,
                "{number} {round}: without a report"
            );
            lost.insert(scene.states.len() - 1 - kept);
            // The store works on with what is left.
            wait(store.execute(set("k", "v"))).unwrap();
            let expected = state(&store.inner.memory);
            drop(store);
            let store = open(copy.path(), &Disk::quick(), u64::MAX).unwrap();
            assert_eq!(state(&store.inner.memory), expected);
        }
    }
    assert!(lost.len() > 5, "{lost:?}");
}

#[test]
fn a_torn_mark_leaves_the_one_before() {
    let scene = scene(9);
    let read = |path: &Path| std::fs::read(path.join("synced")).unwrap();
    let (before, after) = (read(scene.written.path()), read(scene.later.path()));
    assert_ne!(before, after);
    for cut in 0..before.len() / 8 {
        let copy = copy(scene.later.path());
        let torn = [&after[..cut * 8], &before[cut * 8..]].concat();
        std::fs::write(copy.path().join("synced"), torn).unwrap();
        if cut % 32 < 8 {
            let store = open(copy.path(), &Disk::quick(), u64::MAX).unwrap();
            assert_eq!(Some(&state(&store.inner.memory)), scene.states.last());
        }
    }
}

/// Damages one file, and returns its name.
fn damage(path: &Path, seed: &mut Seed) -> String {
    let files = files(path);
    let (name, mut bytes) = files[seed.below(files.len() as u64) as usize].clone();
    let file = path.join(&name);
    let at = seed.below(bytes.len() as u64) as usize;
    match seed.below(6) {
        0 => std::fs::remove_file(file).unwrap(),
        1 => std::fs::write(file, &bytes[..at]).unwrap(),
        2 | 3 => {
            let size = if seed.below(2) == 0 { 512 } else { 4096 };
            let start = at / size * size;
            let end = bytes.len().min(start + size);
            bytes[start..end].fill(0);
            std::fs::write(file, bytes).unwrap();
        }
        _ => {
            bytes[at] ^= 1 << seed.below(8);
            std::fs::write(file, bytes).unwrap();
        }
    }
    name
}

#[test]
fn damage_is_refused_or_reported_and_a_repair_leaves_what_is_whole() {
    let scenes = [scene(20), scene(21)];
    let (mut refused, mut cut) = (0, 0);
    for number in 0..300 {
        let mut seed = Seed::new(5000 + number);
        let scene = &scenes[number as usize % 2];
        let is_closed = number >= 240;
        let copy = copy(if is_closed { scene.closed.path() } else { scene.written.path() });
        let original = files(copy.path());
        let name = damage(copy.path(), &mut seed);
        let damaged = files(copy.path());
        let state_of = |store: &super::Embedded| {
            let found = state(&store.inner.memory);
            scene.states.iter().rposition(|state| *state == found)
        };
        let report = report_of(copy.path());
        match open(copy.path(), &Disk::quick(), u64::MAX) {
            Ok(store) => {
                let kept = state_of(&store);
                let kept = kept.unwrap_or_else(|| panic!("{number} {name}: not one of the states"));
                assert!(kept >= scene.kept, "{number} {name}");
                // A journal that ends between two frames shows only that the
                // process was not stopped cleanly.
                let is_whole = kept == scene.states.len() - 1;
                let is_reported =
                    report == Report::Cut || report == Report::NotClosed && !is_closed;
                assert!(is_whole || is_reported, "{number} {name}: without a report");
                let is_cut_between = |(file, bytes): &(String, Vec<u8>)| {
                    damaged.iter().any(|(other, left)| other == file && left.len() < bytes.len())
                };
                if !is_whole && report == Report::NotClosed {
                    assert!(
                        original.iter().any(is_cut_between),
                        "{number} {name}: without a report"
                    );
                }
                cut += usize::from(report == Report::Cut);
            }
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                let names_one =
                    original.iter().any(|(name, _)| text.contains(&format!("`{name}`")));
                assert!(names_one, "{number} {name}: {text}");
                assert_eq!(files(copy.path()), damaged, "{number} {name}: nothing is changed");
                if number % 3 == 0 {
                    repair(copy.path(), &name, &damaged, |store| {
                        let kept = state_of(store);
                        // A damaged snapshot loses rows between others.
                        assert!(kept.is_some() || name.starts_with("snapshot"), "{number} {name}");
                    });
                }
            }
        }
    }
    assert!(refused > 100 && cut > 2, "{refused} {cut}");
}

/// What a start reports about losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Report {
    Nothing,
    /// The process was not stopped cleanly.
    NotClosed,
    /// The last writes are lost.
    Cut,
}

fn report_of(path: &Path) -> Report {
    let Ok(Some(manifest)) = start::read_manifest(path) else { return Report::Nothing };
    let reading = recovery::read(path, &manifest, &mut |_, _| Ok(())).unwrap();
    match (&reading.cut, reading.is_closed()) {
        (Some(cut), false) => {
            assert!(cut.bytes > 0, "{cut:?}");
            Report::Cut
        }
        (None, false) => Report::NotClosed,
        (_, true) => Report::Nothing,
    }
}

fn repair(
    path: &Path,
    name: &str,
    damaged: &[(String, Vec<u8>)],
    check: impl Fn(&super::Embedded),
) {
    let clock = Clock::manual(NOW);
    let mut out = Vec::new();
    let before = inspect(path, false, &clock, &mut out);
    assert!(matches!(before, Ok(Verdict::Damaged)), "{name}: {before:?}");
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains(&format!("DAMAGED: `{name}`")), "{name}: {text}");
    assert_eq!(files(path), damaged, "an inspection changes nothing");
    let repaired = inspect(path, true, &clock, &mut Vec::new());
    assert!(matches!(repaired, Ok(Verdict::Repaired)), "{name}: {repaired:?}");
    assert_eq!(files(&path.join(format!("before-repair-{NOW}"))), damaged, "all is kept");
    assert!(matches!(inspect(path, false, &clock, &mut Vec::new()), Ok(Verdict::Sound)));
    check(&open(path, &Disk::quick(), u64::MAX).unwrap());
}

#[test]
fn a_directory_in_use_or_without_a_store_is_not_inspected() {
    let path = tempfile::tempdir().unwrap();
    let clock = Clock::manual(NOW);
    let inspected = |path: &Path| inspect(path, true, &clock, &mut Vec::new());
    assert!(matches!(inspected(path.path()), Err(OpenError::Missing(..))));
    assert!(matches!(inspected(&path.path().join("absent")), Err(OpenError::Missing(..))));
    assert!(!path.path().join("absent").exists());
    let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
    assert!(matches!(inspected(path.path()), Err(OpenError::InUse)));
    drop(store);
    assert!(matches!(inspected(path.path()), Ok(Verdict::Sound)));
}

#[test]
fn a_journal_cut_at_the_end_of_a_synced_frame_is_refused_and_closed_ones_are_whole() {
    let path = tempfile::tempdir().unwrap();
    let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
    wait(store.execute(set("a", "1"))).unwrap();
    let file = path.path().join(journal(path.path()));
    let first = std::fs::metadata(&file).unwrap().len();
    wait(store.execute(set("b", "1"))).unwrap();
    drop(store);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..first as usize]).unwrap();
    let error = open(path.path(), &Disk::quick(), u64::MAX).err().unwrap().to_string();
    let name = journal(path.path());
    assert!(
        error.starts_with(&format!(
            "`{name}` is damaged at byte {first}: it is shorter than recorded"
        )),
        "{error}"
    );
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(report_of(path.path()), Report::Nothing, "it was closed");
}

#[test]
fn a_mark_alone_shows_that_there_was_a_store() {
    let path = tempfile::tempdir().unwrap();
    let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
    wait(store.execute(set("a", "1"))).unwrap();
    drop(store);
    for (name, _) in files(path.path()).iter().filter(|(name, _)| name != "synced") {
        std::fs::remove_file(path.path().join(name)).unwrap();
    }
    let error = open(path.path(), &Disk::quick(), u64::MAX).err().unwrap().to_string();
    assert!(error.starts_with("`manifest` is missing; nothing was changed"), "{error}");
    let inspected = inspect(path.path(), true, &Clock::manual(NOW), &mut Vec::new());
    let error = inspected.unwrap_err().to_string();
    assert!(error.starts_with("`manifest` is missing; and there is nothing to rebuild"), "{error}");
    // A directory that a repair has kept also shows that there was a store.
    std::fs::remove_file(path.path().join("synced")).unwrap();
    std::fs::create_dir(path.path().join("before-repair-1")).unwrap();
    assert!(open(path.path(), &Disk::quick(), u64::MAX).is_err());
}

/// A disk that refuses the sync with the number `refused`, and no other.
fn refusing(refused: usize) -> SyncFile {
    let count = Arc::new(AtomicUsize::new(0));
    Arc::new(move |_: &File| match count.fetch_add(1, Ordering::Relaxed) {
        count if count == refused => Err(std::io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    })
}

#[test]
fn a_start_and_a_repair_on_a_full_disk_leave_no_file_behind() {
    let names = |path: &Path| {
        let names = std::fs::read_dir(path).unwrap().flatten().map(|entry| entry.file_name());
        names.collect::<BTreeSet<_>>()
    };
    let clock = || Clock::manual(NOW);
    let used = tempfile::tempdir().unwrap();
    let store = open(used.path(), &Disk::quick(), u64::MAX).unwrap();
    wait(store.execute(set("a", "1"))).unwrap();
    drop(store);
    let damaged = copy(used.path());
    std::fs::write(damaged.path().join("manifest"), "nonsense").unwrap();
    let (mut starts, mut repairs) = (0, 0);
    for refused in 0..12 {
        for whole in [copy(used.path()), tempfile::tempdir().unwrap()] {
            let before = names(whole.path());
            let settings = settings(refusing(refused), u64::MAX);
            if let Err(error) = Embedded::on_disk(whole.path(), clock(), None, settings) {
                starts += 1;
                assert!(matches!(error, OpenError::NoRoom(_)), "{error}");
                let left = names(whole.path());
                let more = left.difference(&before).filter(|name| name.to_str() != Some("lock"));
                let more: Vec<_> = more.filter(|name| name.to_str() != Some("synced")).collect();
                let is_published = more.iter().any(|name| name.to_str() == Some("manifest"));
                assert!(more.is_empty() || is_published, "{refused}: {more:?}");
            }
            drop(open(whole.path(), &Disk::quick(), u64::MAX).unwrap());
        }
        let path = copy(damaged.path());
        let before = (names(path.path()), files(path.path()));
        let sync = refusing(refused);
        if inspect_on_disk(path.path(), true, &clock(), sync, &mut Vec::new()).is_err() {
            let is_published = start::read_manifest(path.path()).is_ok();
            repairs += usize::from(!is_published);
            let after = (names(path.path()), files(path.path()));
            assert!(is_published || after == before, "{refused}: {:?}", after.0);
        }
    }
    assert!(starts > 4 && repairs > 2, "{starts} {repairs}");
}

#[test]
fn foreign_files_stay_and_are_named_if_they_prevent_a_start() {
    let path = tempfile::tempdir().unwrap();
    let others = ["journal-009", "journal-4294967295", "journal-+7", "snapshot-99999999999"];
    for name in others {
        std::fs::write(path.path().join(name), "of another program").unwrap();
    }
    drop(open(path.path(), &Disk::quick(), u64::MAX).unwrap());
    drop(open(path.path(), &Disk::quick(), u64::MAX).unwrap());
    assert!(others.iter().all(|name| path.path().join(name).exists()));
    // A copy under the highest number that could be ours.
    std::fs::write(path.path().join("journal-2147483647"), "a copy").unwrap();
    for number in 0..6 {
        let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
        if number % 3 < 2 {
            wait(store.execute(set("a", "1"))).unwrap();
        }
    }
    assert!(start::read_manifest(path.path()).unwrap().unwrap().number_max() < 20);
    std::fs::create_dir(path.path().join("manifest.new")).unwrap();
    let error = open(path.path(), &Disk::quick(), u64::MAX).err().unwrap().to_string();
    assert_eq!(error, "the system refused to open it: `manifest.new`: Is a directory");
}

#[test]
fn bytes_after_the_end_of_a_closed_journal_are_not_reported_as_lost() {
    let path = tempfile::tempdir().unwrap();
    let store = open(path.path(), &Disk::quick(), u64::MAX).unwrap();
    wait(store.execute(set("a", "1"))).unwrap();
    drop(store);
    let journal = path.path().join(journal(path.path()));
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.extend(b"of another program");
    std::fs::write(&journal, bytes).unwrap();
    let mut out = Vec::new();
    let verdict = inspect(path.path(), false, &Clock::manual(NOW), &mut out);
    assert!(matches!(verdict, Ok(Verdict::Sound)), "{verdict:?}");
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("behind the end: `journal-1` at byte"), "{out}");
}
