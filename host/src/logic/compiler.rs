//! Compiling a component where it can do no harm: in a process of its own, which is ended
//! when it has taken too much processor time, and is the first to go when memory is short.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, kill_process, set_parent_process_death_signal, setrlimit,
};

use crate::logic::component::{self, Artifact};

/// The command of this program that compiles what comes in.
pub const COMMAND: &str = "compile-input";
/// A compiler that is kept from computing is given up after this many times the processor
/// time that it may take.
const WAITED_FACTOR: u32 = 5;
/// The most bytes of what comes out.
const ARTIFACT_BYTES_MAX: u64 = 512 << 20;
/// The most bytes of what the compiler says is wrong.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// Where components are compiled.
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// In this process: for components that we were built with.
    #[default]
    Here,
    /// By this program, in a process of its own.
    Apart(PathBuf),
}

impl Compiler {
    /// A process of the program that runs.
    ///
    /// # Errors
    /// When the system does not say which program runs.
    pub fn apart() -> std::io::Result<Self> {
        // This name leads to the program that runs, also when its file was replaced.
        if cfg!(target_os = "linux") {
            return Ok(Self::Apart("/proc/self/exe".into()));
        }
        std::env::current_exe().map(Self::Apart)
    }

    /// Compiles a component. Takes up to minutes: never call it on a thread that serves.
    ///
    /// # Errors
    /// When it does not compile, or takes more processor time than it may.
    pub fn compile(
        &self,
        bytes: &[u8],
        processor_time: Duration,
        parallel: bool,
    ) -> Result<Artifact, String> {
        match self {
            Self::Here => component::compile(bytes, parallel),
            Self::Apart(program) => apart(program, bytes, processor_time),
        }
    }
}

fn apart(program: &PathBuf, bytes: &[u8], processor_time: Duration) -> Result<Artifact, String> {
    let failed = |error: std::io::Error| format!("the compiler cannot be started: {error}");
    let mut command = Command::new(program);
    command.arg(COMMAND).arg(processor_time.as_secs().max(1).to_string());
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let (mut input, output, complaint) =
        match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
            (Some(input), Some(output), Some(complaint)) => (input, output, complaint),
            _ => return Err("the compiler cannot be spoken to".into()),
        };
    let patience = processor_time.saturating_mul(WAITED_FACTOR);
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (written, artifact, complaint) = std::thread::scope(|scope| {
        let (ended, awaited) = mpsc::channel::<()>();
        // It is not waited for before this ends, so the number is still its own.
        scope.spawn(move || {
            let is_late = awaited.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            if let Some(process) = process.filter(|_| is_late) {
                // It may have ended just now.
                let _: Result<(), Errno> = kill_process(process, Signal::KILL);
            }
        });
        let complaint = scope.spawn(|| {
            let mut text = String::new();
            // Output that is not text has no message.
            drop(complaint.take(COMPLAINT_BYTES_MAX).read_to_string(&mut text));
            text
        });
        let artifact = scope.spawn(|| {
            let mut artifact = Vec::new();
            output.take(ARTIFACT_BYTES_MAX).read_to_end(&mut artifact).map(|_| artifact)
        });
        let written = input.write_all(bytes);
        drop(input);
        let made = (written, artifact.join(), complaint.join());
        drop(ended);
        made
    });
    let ended = child.wait().map_err(failed)?;
    if ended.success() && written.is_ok() {
        let artifact = artifact.ok().and_then(Result::ok);
        let artifact = artifact.and_then(|artifact| Artifact::read(&artifact));
        return artifact.ok_or_else(|| "what the compiler made of it is not whole".into());
    }
    let complaint = complaint.unwrap_or_default();
    Err(match complaint.trim() {
        "" => format!(
            "it was not compiled within {} s of processor time and the memory there is",
            processor_time.as_secs()
        ),
        complaint => complaint.into(),
    })
}

/// Compiles the component from standard input, in at most this many seconds of processor
/// time, and writes the result to standard output: the work of the separate process.
///
/// # Errors
/// Why it does not compile.
pub fn compile_input(processor_seconds: u64) -> anyhow::Result<()> {
    // The caller may be gone before the answer.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = Some(processor_seconds);
    setrlimit(Resource::Cpu, Rlimit { current: limit, maximum: limit })?;
    // Sessions are worth more than a compilation. Not every system lets a process say so.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    let artifact = component::compile(&bytes, false).map_err(anyhow::Error::msg)?;
    artifact.write(&mut std::io::stdout().lock())?;
    Ok(())
}
