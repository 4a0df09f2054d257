//! The harness of the tests: real processes on free ports, ended with the test,
//! and clients that speak both wires like users do.

pub mod admin;
pub mod certificate;
pub mod client;
pub mod collector;
pub mod fake_clock;
pub mod faults;
pub mod faulty_proxy;
pub mod guest;
pub mod history;
pub mod host;
pub mod machine;
pub mod mixed_load;
pub mod modules;
pub mod process;
pub mod raw;
pub mod redis_server;
pub mod redis_topology;
pub mod secrets;
pub mod wait;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The root of the workspace.
///
/// # Panics
/// Never: the tests lie in it.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the workspace").into()
}

/// The directory that cargo builds in, wherever `CARGO_TARGET_DIR` puts it.
///
/// # Panics
/// When the test was moved out of it.
pub fn target_directory() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors().nth(3).expect("tests lie in TARGET/PROFILE/deps").into()
}

/// How much a test does: `every_run` is enough to find what usually breaks and takes
/// seconds, `long` finds what shows in the long run only. `tests/long` asks for the latter.
pub fn size<T>(every_run: T, long: T) -> T {
    if std::env::var_os("SESSION_TESTS_LONG").is_some() { long } else { every_run }
}

/// A client for HTTP, without a proxy and without certificates to trust. The library wants
/// to know what would encrypt all the same.
///
/// # Panics
/// Never: there is nothing to configure wrongly.
pub fn http() -> reqwest::Client {
    client().build().expect("a client")
}

/// The same client, which gives its requests an idempotency key.
///
/// # Panics
/// When the key is no header.
pub fn http_with_key(key: &str) -> reqwest::Client {
    let value = key.parse().expect("a header");
    let headers = [(http::HeaderName::from_static("idempotency-key"), value)];
    client().default_headers(headers.into_iter().collect()).build().expect("a client")
}

/// The same client, from an address of this machine.
///
/// # Panics
/// Never: there is nothing to configure wrongly.
pub fn http_from(address: IpAddr) -> reqwest::Client {
    client().local_address(address).build().expect("a client")
}

fn client() -> reqwest::ClientBuilder {
    // The first one in the process has its way; all are the same.
    drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    // The server ends a connection that lies idle for 30 s, and a request that is on its way
    // just then has no answer.
    client.pool_idle_timeout(Duration::from_secs(5))
}

/// What a server answers to a GET.
///
/// # Panics
/// When it does not answer.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Response {
    http().get(url).send().await.expect("an answer")
}
