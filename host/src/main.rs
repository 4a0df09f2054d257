//! `session-manager`: read the settings, start, announce, wait, stop.

use std::process::ExitCode;

use session_manager::config::{Command, Refusal, Settings};
use session_manager::{booking_command, check, health, telemetry, top};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A fifth of a small request was spent in the system's allocator; see
/// `docs/performance.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let (command, settings) = match Settings::read(std::env::args_os()) {
        Ok(read) => read,
        Err(refusal) => return tell(&refusal),
    };
    let done = match command {
        Command::Serve => {
            let directory = settings.log_directory();
            match telemetry::start_log(settings.log_level, settings.log_format, directory) {
                // What is left of the log is written when this is dropped.
                Ok(_log) => run(&settings).map(|()| true),
                Err(error) => return tell(&settings.no_log_directory(&error)),
            }
        }
        Command::Check { file } => check::run(&file, &settings),
        Command::Health => health::run(&settings),
        Command::Get(subject) => booking_command::get(&settings, &subject),
        Command::Set { subject, fields } => booking_command::set(&settings, &subject, &fields),
        Command::Delete(subject) => booking_command::delete(&settings, &subject),
        Command::Top { once } => top::run(&settings, once),
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

/// Prints help to the one stream and complaints to the other.
#[allow(clippy::print_stdout, reason = "help is what was asked for")]
fn tell(refusal: &Refusal) -> ExitCode {
    if refusal.code == 0 {
        print!("{}", refusal.text);
    } else {
        eprintln!("session-manager: {}", refusal.text);
    }
    ExitCode::from(u8::try_from(refusal.code).unwrap_or(u8::MAX))
}

/// Requests are served by threads of their own; this one waits.
fn run(settings: &Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ran = runtime.block_on(serve(settings));
    // A disk that does not answer does not keep the process.
    runtime.shutdown_background();
    ran
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;

    let mut running = session_manager::serve::start(settings).await?;
    announce(&running.addresses);
    tracing::info!(app = settings.app_name, "serving");

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

/// One line for each port, for people and for programs that start this one.
#[allow(clippy::print_stdout, reason = "this is what standard output is for")]
fn announce(addresses: &[(&str, std::net::SocketAddr)]) {
    for (name, address) in addresses {
        println!("listening {name} {address}");
    }
}
