//! A child process, which is killed when its owner is dropped.

use std::process::{Child, Command, ExitStatus, Stdio};

/// A running child, killed when dropped.
pub struct Process(Child);

impl Process {
    /// Starts a program without input.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(command: &mut Command) -> Self {
        Self::start_on(command, Stdio::null())
    }

    /// Starts a program that reads from `input`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_on(command: &mut Command, input: impl Into<Stdio>) -> Self {
        let child = command.stdin(input).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?} does not start: {error}")))
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The child.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends a signal by its name, such as `TERM`.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} failed");
    }

    /// Waits until the child has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        crate::wait::until("the process ends", async || self.0.try_wait().ok().flatten()).await
    }
}

/// Resident memory of a process in bytes: now (`VmRSS`) or at its peak (`VmHWM`).
///
/// # Panics
/// When the process has ended.
pub fn memory(process: u32, which: &str) -> u64 {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(path).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(which)).expect("a known name");
    let kib = line.trim_start_matches(':').split_whitespace().next();
    kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

impl Drop for Process {
    fn drop(&mut self) {
        // Killing a child that has already ended fails, which does not matter.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
