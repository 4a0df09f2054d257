//! The command line: what each command does with a running server, and what it prints when its
//! arguments are wrong.

use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use session_tests::client::Wire;
use session_tests::host::{Host, Launch, binary};
use session_tests::process::Process;
use session_tests::wait;

/// Runs a command of the binary against a server; returns its exit code, standard output and
/// standard error.
fn command(host: &Host, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(binary());
    command.args(arguments).env_clear();
    for (setting, port) in [("REST_PORT", "rest"), ("ADMIN_PORT", "admin")] {
        command.env(setting, host.address(port).rsplit_once(':').unwrap().1);
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_binary_reads_writes_and_deletes_a_session() {
    let host = Launch::in_memory().start();
    let key = "50%:odd~key";
    let (code, _, complaint) = command(&host, &["get", "pre-order", key]);
    assert_eq!((code, complaint.contains("no such session")), (Some(1), true), "{complaint}");
    let fields = ["fleet_list_request={\"area\": 1}", "fleet_list_response=plain text"];
    let (code, text, _) = command(&host, &[&["set", "pre-order", key][..], &fields].concat());
    assert_eq!(code, Some(0), "{text}");
    let (code, text, _) = command(&host, &["get", "pre-order", key]);
    let session: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(code, Some(0));
    assert_eq!(session["session_key"], key);
    assert_eq!(session["fleet_list_request"], serde_json::json!({ "area": 1 }));
    assert_eq!(session["fleet_list_response"], "plain text");
    for (arguments, expected) in [
        (&["set", "pre-order", key, "colour=red"][..], "colour"),
        (&["set", "pre-order", key, "red"], "\"red\" is not name=value"),
        (&["set", "pre-order", key, "a=1", "a=2"], "\"a\" is given twice"),
        (&["set", "pre-order", key, "fleet_list_request={area: 2}"], "line 1 column 2"),
        (&["get", "nothing", key], "context"),
    ] {
        let (code, _, complaint) = command(&host, arguments);
        assert!(code == Some(1) && complaint.contains(expected), "{arguments:?}: {complaint}");
    }
    let (code, _, complaint) = command(&host, &["set", "pre-order", key]);
    assert!(code == Some(64) && complaint.contains("<NAME=VALUE>"), "{complaint}");
    assert_eq!(command(&host, &["delete", "pre-order", key]).0, Some(0));
    assert_eq!(command(&host, &["get", "pre-order", key]).0, Some(1));
    let (code, text, _) = command(&host, &["top", "--once"]);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("generation 1   instances ") && text.contains("store up"), "{text}");
}

#[tokio::test]
async fn a_value_that_begins_like_json_but_is_invalid_is_not_sent() {
    let host = Launch::in_memory().start();
    let client = host.client(Wire::Rest).await;
    for (value, position) in [
        ("{area: Jakarta}", "line 1 column 2"),
        ("[1, 2", "line 1 column 5"),
        ("\"half a string", "line 1 column 14"),
        (" {\"area\": }", "line 1 column 11"),
        ("{\"a\": 1} and more", "line 1 column 10"),
    ] {
        let field = format!("fleet_list_request={value}");
        let (code, text, complaint) = command(&host, &["set", "pre-order", "k", &field]);
        assert_eq!((code, text.as_str()), (Some(1), ""), "{value}");
        for part in ["fleet_list_request", position, "nothing was sent"] {
            assert!(complaint.contains(part), "{value}: {complaint}");
        }
        assert_eq!(client.get("pre-order", "k").await.unwrap_err().reason, "SESSION_NOT_FOUND");
    }
    for (value, stored) in [("\"{area}\"", "{area}"), ("plain {text}", "plain {text}"), ("", "")] {
        let field = format!("fleet_list_request={value}");
        assert_eq!(command(&host, &["set", "pre-order", "k", &field]).0, Some(0), "{value}");
        let session = client.get("pre-order", "k").await.unwrap();
        assert_eq!(session["fleet_list_request"], stored);
    }
}

/// Runs the binary without a server; returns its exit code and everything it prints.
fn alone(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(arguments).env_clear().output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

#[test]
fn each_command_has_its_own_short_help() {
    for (command, own, other) in [
        ("check", "--force", "REDIS_HOST"),
        ("top", "--once", "REST_PORT"),
        ("get", "<KEY>", "ADMIN_PORT"),
    ] {
        let (code, help) = alone(&[command, "--help"]);
        assert_eq!(code, Some(0));
        assert!(help.lines().count() < 45 && help.contains(own) && !help.contains(other), "{help}");
    }
}

#[test]
fn a_misspelt_command_or_flag_gets_a_suggestion() {
    for (arguments, meant) in [
        (&["chekc", "x.wasm"][..], "did you mean check?"),
        (&["serve", "--grpc-prot", "1"], "did you mean --grpc-port?"),
        (&["serve", "--log-format", "jso"], "did you mean json?"),
    ] {
        let (code, complaint) = alone(arguments);
        assert_eq!((code, complaint.lines().count()), (Some(64), 1), "{complaint}");
        assert!(complaint.contains(meant), "{complaint}");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    for (shell, part) in [
        ("bash", "complete -F _session__manager"),
        ("elvish", "edit:completion"),
        ("fish", "complete -c session-manager"),
        ("powershell", "Register-ArgumentCompleter"),
        ("zsh", "#compdef session-manager"),
    ] {
        let (code, script) = alone(&["completions", shell]);
        assert_eq!(code, Some(0), "{script}");
        for part in [part, "rest-port", "check"] {
            assert!(script.contains(part), "{shell}: {part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q_and_ctrl_c_end_top_and_restore_the_terminal() {
    let host = Launch::in_memory().start();
    for key in [b"q", b"\x03"] {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let keyboard = std::fs::File::options().read(true).write(true).open(&name).unwrap();
        let before = tcgetattr(&keyboard).unwrap().local_modes;
        assert!(before.contains(LocalModes::ICANON | LocalModes::ECHO));
        let mut top = Command::new(binary());
        top.arg("top").env_clear().stdout(Stdio::null());
        top.env("ADMIN_PORT", host.address("admin").rsplit_once(':').unwrap().1);
        let mut process = Process::start_on(&mut top, keyboard.try_clone().unwrap());
        let modes = || tcgetattr(&keyboard).unwrap().local_modes;
        wait::until("the terminal is in raw mode", async || {
            (!modes().intersects(LocalModes::ICANON | LocalModes::ECHO)).then_some(())
        })
        .await;
        rustix::io::write(&screen, b"x").unwrap();
        rustix::io::write(&screen, key).unwrap();
        assert_eq!(process.ended().await.code(), Some(0), "{key:?}");
        assert_eq!(modes(), before);
    }
}
