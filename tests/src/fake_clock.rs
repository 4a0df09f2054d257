//! A clock that is wrong, or runs faster, for one process, by preloading libfaketime.

use std::path::Path;

/// The environment of a process whose clock is off by an offset, such as `+5m`, or runs faster,
/// such as `+0 x60`. This includes the monotonic clock, unless `only_time_of_day`.
///
/// # Panics
/// When libfaketime is not installed (`tests/run` installs it).
pub fn environment(faked: &str, only_time_of_day: bool) -> [(String, String); 3] {
    let monotonic = if only_time_of_day { "1" } else { "0" };
    [
        ("LD_PRELOAD".into(), library()),
        ("FAKETIME".into(), faked.into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), monotonic.into()),
    ]
}

/// The same for a clock whose time of day is off by the offset in a file, such as `+5s`, as soon
/// as the file is written.
///
/// # Panics
/// As [`environment`].
pub fn stepping(file: &Path) -> [(String, String); 4] {
    [
        ("LD_PRELOAD".into(), library()),
        ("FAKETIME_TIMESTAMP_FILE".into(), file.display().to_string()),
        ("FAKETIME_NO_CACHE".into(), "1".into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into()),
    ]
}

fn library() -> String {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]
        .map(|directory| Path::new(directory).join("faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|library| library.exists())
        .expect("install faketime (Debian and Ubuntu: apt-get install faketime)");
    library.display().to_string()
}
