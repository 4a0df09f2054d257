//! Keeps the memory and the files of the process private to its user, before anything else runs:
//! both contain sessions, tokens and keys.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};

/// Makes files readable by the user only, and turns core dumps off. Where the system refuses that,
/// the process serves anyway.
pub fn keep() {
    umask(Mode::RWXG | Mode::RWXO);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit is always allowed.
    let _ = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Otherwise a program that handles core dumps gets one whatever the limit, and another
        // process of the user may read our memory.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
