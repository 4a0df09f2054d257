//! Settings by flag and environment variable, valid and invalid.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::*;

fn read(arguments: &[&str]) -> Result<Settings, EarlyExit> {
    Settings::read(["session-manager"].iter().chain(arguments).map(Into::into))
        .map(|(_, settings)| settings)
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let settings = read(&[]).expect("defaults");
    let network = &settings.network;
    assert_eq!((network.grpc_port, network.rest_port, network.admin_port), (6027, 8027, 9027));
    assert_eq!(network.bind_address.to_string(), "127.0.0.1");
    let limits = settings.callers.limits(1, 1);
    assert_eq!(limits.body_memory, 128 << 20);
    assert_eq!((limits.age_max.as_secs(), limits.idle_max.as_secs()), (3600, 300));
    assert_eq!((limits.per_peer, settings.callers.probe_port()), (None, None));
    assert_eq!(settings.storage.memory_max.0, None);
    assert!(
        matches!(settings.storage.choice(), Ok(StoreChoice::Embedded(path)) if path.as_os_str() == "data")
    );
    assert_eq!(
        settings.for_component(),
        [
            ("session-ttl-ms".to_owned(), "900000".to_owned()),
            ("session-lock-ttl-ms".to_owned(), "3000".to_owned()),
            ("user-session-ttl-ms".to_owned(), "31536000000".to_owned()),
            ("user-session-idle-ms".to_owned(), "0".to_owned()),
            ("connection-ttl-ms".to_owned(), "1800000".to_owned()),
            ("connection-stale-ms".to_owned(), "90000".to_owned()),
            ("viewing-ttl-ms".to_owned(), "120000".to_owned()),
            ("viewing-max-sessions".to_owned(), "2".to_owned()),
            ("events-kept".to_owned(), "10000".to_owned()),
        ]
    );
}

#[test]
fn settings_are_accepted_before_and_after_the_command() {
    let port = |arguments: &[&str]| read(arguments).expect("accepted").network.rest_port;
    assert_eq!(port(&["--rest-port", "1"]), 1);
    assert_eq!(port(&["serve", "--rest-port", "1"]), 1);
    assert_eq!(port(&["--rest-port", "1", "serve"]), 1);
}

#[test]
fn a_bad_value_is_refused_in_one_line_that_names_it() {
    for (arguments, expected) in [
        (
            &["--grpc-port", "70000"][..],
            r#"invalid value "70000" for GRPC_PORT: expected a port from 0 to 65535"#,
        ),
        (
            &["--session-ttl", "soon"],
            r#"invalid value "soon" for SESSION_TTL: expected a duration from 1ms to 10 years, such as 15m or 1h30m"#,
        ),
        (
            &["--user-session-idle", "1d"],
            r#"invalid value "1d" for USER_SESSION_IDLE: expected a duration from 1ms to 10 years, such as 15m or 1h30m, or 0s for no limit"#,
        ),
        (
            &["--memory-max", "512MB"],
            r#"invalid value "512MB" for MEMORY_MAX: expected off, or at least 1 MiB in bytes, KiB, MiB or GiB, such as 512 MiB"#,
        ),
        (
            &["--body-memory", "1MiB"],
            r#"invalid value "1MiB" for BODY_MEMORY: expected a size from 32MiB to 1024GiB, such as 128MiB"#,
        ),
        (&["--log-format", "xml"], r#"invalid value "xml" for LOG_FORMAT: expected text or json"#),
        (
            &["--log-level", "loud"],
            r#"invalid value "loud" for LOG_LEVEL: expected off, error, warn, info, debug or trace"#,
        ),
        (
            &["--redis-url", "http://x"],
            "invalid value for REDIS_URL: expected redis://[user:password@]host[:port][/database], redis-sentinel://[user:password@]host[:port],.../service[/database] or redis-cluster://[user:password@]host[:port],..., with rediss instead of redis for TLS",
        ),
        (
            &["--connection-stale", "30s"],
            r#"invalid value "30s" for CONNECTION_STALE: expected at least twice CONNECTION_HEARTBEAT, 30s"#,
        ),
        (
            &["--connection-ttl", "1m"],
            r#"invalid value "90s" for CONNECTION_STALE: expected at most CONNECTION_TTL, 60s"#,
        ),
        (&["--colour", "red"], "unexpected argument '--colour' found; see --help"),
    ] {
        let exit = read(arguments).expect_err(expected);
        assert_eq!(exit.text, expected);
        assert_eq!(exit.code, EXIT_USAGE);
    }
}

#[test]
fn a_misspelt_command_flag_or_value_is_refused_with_a_suggestion() {
    for (arguments, expected) in [
        (&["srve"][..], r#"there is no command "srve"; did you mean serve?"#),
        (&["heath"], r#"there is no command "heath"; did you mean health?"#),
        (&["dance"], r#"there is no command "dance"; see --help"#),
        (
            &["--redis-prot", "1"],
            "unexpected argument '--redis-prot' found; did you mean --redis-port?",
        ),
        (&["top", "--onse"], "unexpected argument '--onse' found; did you mean --once?"),
        (
            &["--log-level", "WARNING"],
            r#"invalid value "WARNING" for LOG_LEVEL: expected off, error, warn, info, debug or trace; did you mean warn?"#,
        ),
        (
            &["--log-format", "jsno"],
            r#"invalid value "jsno" for LOG_FORMAT: expected text or json; did you mean json?"#,
        ),
        (
            &["--redis-allow-eviction=ture"],
            r#"invalid value "ture" for REDIS_ALLOW_EVICTION: expected true or false; did you mean true?"#,
        ),
        (
            &["--otel-traces-sampler", "parentbased_alwayson"],
            r#"invalid value "parentbased_alwayson" for OTEL_TRACES_SAMPLER: expected always_on, always_off or traceidratio, or one of them with the prefix parentbased_; did you mean always_on?"#,
        ),
        (
            &["completions", "bsh"],
            r#"invalid value "bsh" for SHELL: expected bash, elvish, fish, powershell or zsh; did you mean bash?"#,
        ),
    ] {
        let exit = read(arguments).expect_err(expected);
        assert_eq!((exit.text.as_str(), exit.code), (expected, EXIT_USAGE));
    }
}

#[test]
fn help_lists_every_setting_and_no_secret() {
    let exit = read(&["--help"]).expect_err("help");
    assert_eq!(exit.code, 0);
    for name in ["GRPC_PORT", "REDIS_PASSWORD", "DATA_DIR", "SESSION_LOCK_TTL"] {
        assert!(exit.text.contains(name), "{name}");
    }
}

/// Every setting: its flag, its name, its default, and whether it is a secret.
fn settings() -> Vec<(String, String, String, bool)> {
    let command = command_line::command();
    let settings = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?.to_str()?.to_owned();
        let default = argument
            .get_default_values()
            .first()
            .map_or("", |value| value.to_str().expect("defaults are written in ASCII"));
        let is_secret = secret::SECRETS.iter().any(|(secret, _)| *secret == name);
        Some((format!("--{}", argument.get_long()?), name, default.to_owned(), is_secret))
    });
    settings.collect()
}

#[test]
fn blanks_around_settings_are_dropped_and_quotes_refused_except_in_secrets() {
    let settings = settings();
    assert!(settings.len() > 40, "{settings:?}");
    for (flag, name, default, is_secret) in settings {
        if is_secret {
            continue;
        }
        let blanks = format!("{flag}= \t{default} \n");
        if default.is_empty() {
            let settings = read(&[&blanks]).expect(&blanks);
            assert!(format!("{settings:?}") == format!("{:?}", read(&[]).expect("defaults")));
        } else {
            read(&[&blanks]).expect(&blanks);
        }
        for (quoted, shown) in [(r#""30s""#, r#"'"30s"'"#), ("'30s'", r#""'30s'""#)] {
            let exit = read(&[&format!("{flag}={quoted}")]).expect_err(quoted);
            let expected = format!(
                "invalid value {shown} for {name}: expected a value without quotes, which \
                 docker's --env-file keeps; write {name}=30s"
            );
            assert_eq!((exit.text, exit.code), (expected, EXIT_USAGE));
        }
        let exit = read(&[&format!("{flag}=\"\"")]).expect_err("quotes");
        assert!(exit.text.ends_with(&format!("leave {name} out")), "{}", exit.text);
    }
    let password = r#"" a'b ""#;
    let settings = read(&[&format!("--redis-password={password}"), "--redis-host=h"]);
    let choice = settings.expect("accepted").storage.choice().expect("an address");
    assert!(matches!(choice, StoreChoice::Redis(_)), "{choice:?}");
}

#[test]
fn a_host_with_a_port_or_odd_characters_is_refused() {
    let read = |host: &str| read(&[&format!("--redis-host={host}")]).map(drop);
    for host in ["redis", "redis.internal", "10.0.0.1", "::1", "", " redis "] {
        read(host).expect(host);
    }
    for (host, expected) in [
        (
            "redis:6379",
            "expected a host name or an IP address without a port, which belongs in REDIS_PORT",
        ),
        ("[::1]:6379", "without a port, which belongs in REDIS_PORT"),
        ("redis://redis", "a URL belongs in REDIS_URL"),
        ("redis host", r#"invalid value "redis host" for REDIS_HOST: expected a host name"#),
        ("'", "expected a host name"),
        ("a,b", "expected a host name"),
        (":secret@redis", "invalid value for REDIS_HOST: expected a host name"),
    ] {
        let exit = read(host).expect_err(host);
        assert!(exit.text.contains(expected), "{}", exit.text);
    }
}

#[test]
fn values_that_are_not_utf_8_are_refused_by_name_and_secret_ones_are_not_shown() {
    for (flag, expected) in [
        ("--app-name=", "invalid value \"na\u{fffd}\" for APP_NAME: expected UTF-8"),
        ("--redis-password=", "invalid value for REDIS_PASSWORD: expected UTF-8"),
    ] {
        let argument = [flag.as_bytes(), b"na\xff"].concat();
        let arguments = ["session-manager".into(), OsString::from(OsStr::from_bytes(&argument))];
        let exit = Settings::read(arguments).expect_err(expected);
        assert_eq!((exit.text.as_str(), exit.code), (expected, EXIT_USAGE));
    }
}

#[test]
fn every_secret_has_a_file_and_is_not_given_twice() {
    let names: Vec<String> = settings().into_iter().map(|(_, name, ..)| name).collect();
    for (name, file_name) in secret::SECRETS {
        for wanted in [name, file_name] {
            assert!(names.iter().any(|known| known == wanted), "{wanted}");
        }
        let flag = |name: &str| format!("--{}", name.to_ascii_lowercase().replace('_', "-"));
        let both = [format!("{}=a", flag(name)), format!("{}=/f", flag(file_name))];
        let exit = read(&[&both[0], &both[1]]).expect_err("given twice");
        let expected = format!("{name} and {file_name} are both given: leave one of them out");
        assert_eq!((exit.text, exit.code), (expected, EXIT_USAGE));
    }
}

#[test]
fn a_secret_that_is_exposed_or_changed_by_how_it_is_given_causes_a_warning() {
    let settings = read(&["serve", "--redis-password=\"s\""]).expect("accepted");
    let [shown, quoted] = settings.warnings.as_slice() else { panic!("{:?}", settings.warnings) };
    assert!(shown.contains("--redis-password") && shown.contains("REDIS_PASSWORD_FILE"), "{shown}");
    assert!(quoted.contains("REDIS_PASSWORD is in quotes"), "{quoted}");
    assert_eq!(read(&["serve"]).expect("accepted").warnings, [""; 0]);
}

#[test]
fn a_port_that_cannot_be_opened_is_refused_by_its_setting() {
    use std::io::{Error, ErrorKind};
    let at = "10.1.2.3:80".parse().expect("an address");
    for (kind, names) in [
        (ErrorKind::AddrInUse, "GRPC_PORT 80 is taken on 10.1.2.3"),
        (ErrorKind::AddrNotAvailable, "BIND_ADDRESS 10.1.2.3 is not an address of this machine"),
        (
            ErrorKind::PermissionDenied,
            "GRPC_PORT 80 is not open to this user: set GRPC_PORT to a port from 1024",
        ),
        (ErrorKind::Other, "cannot listen on GRPC_PORT 80 of BIND_ADDRESS 10.1.2.3"),
    ] {
        let message = GRPC.refuse(at, &Error::from(kind));
        assert!(message.starts_with(names), "{message}");
    }
}

#[test]
fn a_store_is_named_by_its_setting_without_a_secret() {
    for (arguments, expected) in [
        (&["--data-dir", "sessions"][..], "DATA_DIR \"sessions\""),
        (&["--redis-host", "redis", "--redis-password", "s3cret"], "REDIS_HOST \"redis:6379\""),
        (&["--redis-url", "redis://u:s3cret@a:1/5"], "REDIS_URL \"a:1\""),
        (
            &["--redis-url", "redis-sentinel://u:s3cret@a,b:1/main/5"],
            "REDIS_URL \"a:26379,b:1/main\"",
        ),
        (&["--redis-url", "rediss-cluster://:s3cret@a,b:1"], "REDIS_URL \"a:6379,b:1\""),
    ] {
        assert_eq!(read(arguments).expect("accepted").storage.name(), expected);
    }
}
