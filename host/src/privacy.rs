//! What the process does before anything else so that what is in its memory and its files
//! stays its user's own: sessions, tokens and keys are in both.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, setrlimit, umask};

/// Lets files be made for the user alone, and no core dump be made at all. A system that does
/// not let us has told its operator; the process serves all the same.
pub fn keep() {
    umask(Mode::RWXG | Mode::RWXO);
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Lowering a limit is always allowed.
    let _ = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        // Without it a handler of core dumps that is a program gets one whatever the limit, and
        // another process of the user may read our memory.
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}
