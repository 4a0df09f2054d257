//! `session-manager`: reads the settings, starts, announces its ports, waits, and stops.

use std::io::Write;
use std::process::ExitCode;

use session_manager::config::{Command, EarlyExit, Settings};
use session_manager::{
    booking_command, check, check_data, config, health, logic, privacy, telemetry, top,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The system's allocator took a fifth of the time of a small request; see
/// `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    privacy::keep();
    let (command, settings) = match Settings::read(std::env::args_os()) {
        Ok(read) => read,
        Err(exit) => return print_exit(&exit),
    };
    let done = match command {
        Command::Serve => {
            let process = &settings.process;
            let directory = process.log_directory();
            match telemetry::start_log(process.log_level, process.log_format, directory) {
                // Dropping it writes the rest of the log.
                Ok(_log) => run(&settings).map(|()| true),
                Err(error) => return print_exit(&process.no_log_directory(&error)),
            }
        }
        Command::Check { file, force } => check::run(&file, force, &settings),
        Command::CheckData { repair } => return ExitCode::from(check_data::run(repair, &settings)),
        Command::CompileInput { processor_seconds } => {
            return match logic::compile_input(processor_seconds) {
                Ok(()) => ExitCode::SUCCESS,
                // Another process makes a sentence of it.
                Err(error) => {
                    eprintln!("{error:#}");
                    ExitCode::FAILURE
                }
            };
        }
        Command::Health => health::run(&settings),
        Command::Get(subject) => booking_command::get(&settings, &subject),
        Command::Set { subject, fields } => booking_command::set(&settings, &subject, &fields),
        Command::Delete(subject) => booking_command::delete(&settings, &subject),
        Command::Top { once } => top::run(&settings, once),
        Command::Completions { shell } => {
            print(&config::completions(shell));
            Ok(true)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("session-manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints to standard output. A reader that has closed it wants no more.
fn print(bytes: &[u8]) {
    drop(std::io::stdout().write_all(bytes));
}

/// Prints help to standard output, and errors to standard error.
fn print_exit(exit: &EarlyExit) -> ExitCode {
    if exit.code == 0 {
        print(exit.text.as_bytes());
    } else {
        eprintln!("session-manager: {}", exit.text);
    }
    ExitCode::from(u8::try_from(exit.code).unwrap_or(u8::MAX))
}

/// Waits on this thread; the workers serve requests on theirs.
fn run(settings: &Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ran = runtime.block_on(serve(settings));
    // A disk that does not answer must not keep the process from ending.
    runtime.shutdown_background();
    ran
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;

    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    let mut running = tokio::select! {
        started = session_manager::serve::start(settings) => started?,
        () = either(&mut interrupt, &mut terminate) => {
            tracing::info!("stopped before it was ready");
            return Ok(());
        }
    };
    announce(&running.addresses);
    tracing::info!(app = settings.process.app_name, "serving");

    let failure = loop {
        tokio::select! {
            () = either(&mut interrupt, &mut terminate) => break None,
            failure = running.failed() => break Some(failure),
            _ = hangup.recv() => running.reload(),
        }
    };
    tracing::info!("stopping");
    tokio::select! {
        stopped = running.stop() => stopped?,
        () = either(&mut interrupt, &mut terminate) => anyhow::bail!("stopped at once, as asked twice"),
    }
    tracing::info!("stopped");
    failure.map_or(Ok(()), Err)
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Prints one line for each port, for people and for programs that start this one.
#[allow(clippy::print_stdout, reason = "this is what standard output is for")]
fn announce(addresses: &[(&str, std::net::SocketAddr)]) {
    for (name, address) in addresses {
        println!("listening {name} {address}");
    }
}
