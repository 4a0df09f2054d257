//! Instructions of one warm call of the component, and of the same rule linked
//! natively, counted by valgrind: the same on a busy machine as on an idle one.
//! Each program is run twice, with few calls and with many; what the additional
//! calls took is theirs alone. Compiling the component takes a percent more or less
//! from run to run, so there have to be many.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark")]

mod canned;

use std::hint::black_box;
use std::process::Command;

use canned::{component, component_write, native, native_write};
use session_guest::policy::Policy;

const FEW: u64 = 1_000;
const MANY: u64 = 41_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [what, calls] = &arguments[..] {
        return run(what, calls.parse().unwrap());
    }
    println!("instructions of one call, 1 KB:");
    for what in ["component get", "native get", "component set", "native set"] {
        let each = (counted(what, MANY) - counted(what, FEW)) / (MANY - FEW);
        println!("{what:15} {each:>7}");
    }
}

/// Instructions of this program when it makes so many calls.
fn counted(what: &str, calls: u64) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args([what, &calls.to_string()])
        .output()
        .expect("install valgrind (Debian and Ubuntu: apt-get install valgrind)");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let count = text.lines().find_map(|line| line.split_once("Collected : "));
    count.and_then(|(_, count)| count.trim().parse().ok()).expect("callgrind tells the count")
}

fn run(what: &str, calls: u64) {
    if what.starts_with("component") {
        return calls_of_the_component(what, calls);
    }
    let native = native();
    let policy = Policy::read(&native);
    for _ in 0..calls {
        let key = black_box("a-session-key");
        match what {
            "native get" => {
                black_box(session_guest::booking::get(&native, "pre-order", key, None).unwrap());
            }
            _ => {
                let write = black_box(native_write());
                black_box(session_guest::booking::set(&native, &policy, write).unwrap());
            }
        }
    }
}

fn calls_of_the_component(what: &str, calls: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // Valgrind has address space for few.
    let logic = component(&runtime, 1);
    runtime.block_on(async {
        for _ in 0..calls {
            let key = black_box("a-session-key");
            match what {
                "component get" => {
                    black_box(logic.booking_get("pre-order", key, None).await.unwrap());
                }
                _ => {
                    let write = black_box(component_write());
                    black_box(logic.booking_set(&write).await.unwrap());
                }
            }
        }
    });
}
