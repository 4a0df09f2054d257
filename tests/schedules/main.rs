//! Runs fault schedules and prints one table; `tests/faults` starts it. The exit code is 1 when a
//! promise of a schedule is broken, when a caller waited for an answer longer than promised, or
//! when a schedule cannot run.

#![allow(clippy::print_stdout, missing_docs, reason = "a command")]

use std::process::ExitCode;
use std::time::Duration;

use session_tests::faults::{SCHEDULES, Schedule, heading};
use session_tests::history::Judge;

/// The number of violations of each judge to print. The table has the total.
const SHOWN: usize = 2;

fn main() -> ExitCode {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let mut time = Duration::from_secs(10);
    let mut chosen = Vec::new();
    for argument in &arguments {
        match (argument.as_str(), argument.parse(), Schedule::named(argument)) {
            ("list", ..) => {
                for Schedule { name, does, .. } in SCHEDULES {
                    println!("{name:26} {does}");
                }
                return ExitCode::SUCCESS;
            }
            (_, Ok(seconds), _) => time = Duration::from_secs(seconds),
            (_, _, Some(schedule)) => chosen.push(schedule),
            (other, ..) => {
                println!("there is no schedule {other}; `tests/faults list` prints all schedules");
                return ExitCode::from(64);
            }
        }
    }
    if chosen.is_empty() {
        chosen = SCHEDULES.to_vec();
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    println!("{}", heading());
    let mut broken = false;
    for schedule in chosen {
        match runtime.block_on(schedule.run(time)) {
            Err(why) => {
                println!("{:26} not run: {why}", schedule.name);
                broken = true;
            }
            Ok(row) => {
                println!("{row}");
                for judge in Judge::ALL {
                    let violations = row.judgement.violations.iter();
                    let of_judge = violations.filter(|violation| violation.judge == judge);
                    for violation in of_judge.take(SHOWN) {
                        println!("  {violation}");
                    }
                }
                broken |= row.broken().next().is_some() || row.is_too_late();
            }
        }
    }
    if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
