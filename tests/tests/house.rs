//! The house rules that a program can check: who may import whom, and what no
//! source may contain.

use session_tests::{modules, workspace};

/// Every Rust file below a directory, with its text.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![workspace().join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(workspace()).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(!found.is_empty(), "{directory}");
    found
}

#[test]
fn rooms_of_the_host_import_only_what_lies_behind_them() {
    let leaves = ["error", "network", "telemetry", "proto", "services", "workers"];
    let behind: &[(&str, &[&str])] = &[
        (
            "main",
            &[
                "booking_command",
                "check",
                "check_data",
                "config",
                "health",
                "logic",
                "privacy",
                "serve",
                "telemetry",
                "top",
            ],
        ),
        ("privacy", &[]),
        ("terminal", &[]),
        ("booking_command", &["config", "local"]),
        ("top", &["config", "local", "terminal"]),
        ("local", &[]),
        ("check", &["component_file", "config", "logic"]),
        ("check_data", &["config", "store"]),
        ("health", &["config", "local"]),
        ("component_file", &["logic"]),
        (
            "serve",
            &[
                "admin",
                "api",
                "component_file",
                "config",
                "events",
                "grpc",
                "http",
                "logic",
                "probes",
                "store",
            ],
        ),
        ("config", &["logic", "store"]),
        ("admin", &["api", "http", "logic", "probes"]),
        ("probes", &["api", "http"]),
        ("grpc", &["api", "logic"]),
        ("http", &["api", "logic"]),
        ("api", &["events", "logic"]),
        ("events", &["logic"]),
        ("logic", &[]),
        ("store", &[]),
        ("error", &[]),
        ("network", &[]),
        ("telemetry", &[]),
        ("proto", &[]),
        ("services", &[]),
        ("workers", &[]),
    ];
    for (module, used) in modules::read(&workspace().join("host/src")) {
        let here = module.first().map_or("main", String::as_str);
        let (_, allowed) = behind.iter().find(|(name, _)| *name == here).expect(here);
        for room in used.iter().filter_map(|used| used.first()) {
            let fine = room == here || leaves.contains(&&**room) || allowed.contains(&&**room);
            assert!(fine, "{} uses crate::{room}", module.join("::"));
        }
    }
}

#[test]
fn no_modules_use_one_another_in_a_circle() {
    for sources in ["client/src", "guest/src", "host/src", "store/src"] {
        let cycles = modules::cycles(&modules::read(&workspace().join(sources)));
        assert!(cycles.is_empty(), "{sources}: {cycles:?}");
    }
}

#[test]
fn each_library_has_one_room_that_knows_it() {
    for (library, home) in [
        ("wasmtime", "host/src/logic/"),
        ("wasmtime_wasi", "host/src/logic/"),
        ("wit_parser", "host/src/logic/"),
        ("wasmparser", "host/src/logic/"),
        ("redis::", "host/src/store/redis/"),
        ("fjall", "host/src/store/embedded/former"),
        ("prometheus", "host/src/telemetry"),
        ("opentelemetry::", "host/src/telemetry/traces"),
        ("opentelemetry_sdk", "host/src/telemetry/traces"),
        ("clap", "host/src/config"),
        ("tonic::transport", "host/src/grpc/"),
    ] {
        for (file, text) in sources("host/src") {
            let uses = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let own = format!("crate::store::{library}");
            let mut uses = uses.filter(|line| {
                line.contains(library) && !line.contains(&own) && !line.contains("\"")
            });
            let foreign = uses.next().filter(|_| !file.starts_with(home));
            assert_eq!(foreign, None, "{file} knows {library}");
        }
    }
    for (file, text) in sources("guest/src") {
        let knows = text.contains("wit_bindgen");
        assert!(!knows || file == "guest/src/lib.rs", "{file} knows wit-bindgen");
    }
}

#[test]
fn the_contract_of_stores_does_no_io() {
    // The tests of the contract run in a runtime.
    let code = |(file, _): &(String, String)| !file.starts_with("store/src/contract/");
    for (file, text) in sources("store/src").into_iter().filter(code) {
        for module in ["std::fs", "std::io", "std::net", "std::process", "tokio::", "tracing"] {
            assert!(!text.contains(module), "{file} knows {module}");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for directory in [
        "client/src",
        "guest/src",
        "host/src",
        "store/src",
        "tests/src",
        "tests/tests",
        "tests/schedules",
        "tests/ecosystem",
        "tests/guests",
    ] {
        for (file, text) in sources(directory) {
            assert!(text.starts_with("//!"), "{file} does not begin with its purpose");
        }
    }
}

#[test]
fn nothing_is_left_unfinished_or_silenced_without_a_reason() {
    for directory in ["client/src", "guest/src", "host/src", "store/src", "tests/src"] {
        for (file, text) in sources(directory) {
            for word in ["TODO", "FIXME", "unimplemented!", "todo!", "dbg!", "#[ignore"] {
                assert!(!text.contains(word), "{file} contains {word}");
            }
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let is_test = file.ends_with("/tests.rs")
                || file.contains("/tests/")
                || file.starts_with("store/src/contract/");
            assert!(is_test || !code.contains(".unwrap()"), "{file} unwraps");
        }
    }
}

/// Names like those of tests in a page: sentences with underscores, behind their modules.
fn named_tests(page: &str) -> Vec<String> {
    let quoted = page.split('`').skip(1).step_by(2);
    let names = quoted.filter_map(|text| text.rsplit_once("::").map(|(_, name)| name));
    let is_sentence = |name: &&str| {
        name.matches('_').count() > 2
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    names.filter(is_sentence).map(Into::into).collect()
}

#[test]
fn every_test_that_a_page_names_exists() {
    let mut code = String::new();
    for directory in ["client", "guest", "host", "store", "tests"] {
        code.extend(sources(directory).into_iter().map(|(_, text)| text));
    }
    let mut checked = 0;
    for page in std::fs::read_dir(workspace().join("docs")).unwrap() {
        let path = page.unwrap().path();
        if path.is_dir() {
            continue;
        }
        for name in named_tests(&std::fs::read_to_string(&path).unwrap()) {
            assert!(code.contains(&name), "{} names {name}", path.display());
            checked += 1;
        }
    }
    assert!(checked > 15, "{checked}");
}
