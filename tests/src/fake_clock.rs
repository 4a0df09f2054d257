//! A clock that is wrong, or runs faster, for one process: libfaketime before all others.

use std::path::Path;

/// What the environment of a process has to have so that its clock is off by so much, such
/// as `+5m`, or runs faster, as `+0 x60`; what it measures durations by, too, unless
/// `only_time_of_day`.
///
/// # Panics
/// When libfaketime is not installed (`tests/run` installs it).
pub fn environment(faked: &str, only_time_of_day: bool) -> [(String, String); 3] {
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"]
        .map(|directory| Path::new(directory).join("faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|library| library.exists())
        .expect("install faketime (Debian and Ubuntu: apt-get install faketime)");
    let monotonic = if only_time_of_day { "1" } else { "0" };
    [
        ("LD_PRELOAD".into(), library.display().to_string()),
        ("FAKETIME".into(), faked.into()),
        ("FAKETIME_DONT_FAKE_MONOTONIC".into(), monotonic.into()),
    ]
}
