//! The harness of the tests: real processes on free ports, which end with the test, and
//! clients that use both wires as callers do.

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
/// Never: the tests are inside it.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests are in the workspace").into()
}

/// The directory that cargo builds in; `CARGO_TARGET_DIR` may set it.
///
/// # Panics
/// When the test binary was moved out of it.
pub fn target_directory() -> PathBuf {
    let test = std::env::current_exe().expect("the test has a path");
    test.ancestors().nth(3).expect("tests are in TARGET/PROFILE/deps").into()
}

/// How much a test does. `every_run` takes seconds and finds what usually breaks. `long` finds
/// what shows only after many rounds; `tests/long` selects it.
pub fn size<T>(every_run: T, long: T) -> T {
    if std::env::var_os("SESSION_TESTS_LONG").is_some() { long } else { every_run }
}

/// An HTTP client without a proxy and without trusted certificates.
///
/// # Panics
/// Never: the configuration is constant.
pub fn http() -> reqwest::Client {
    client().build().expect("a client")
}

/// The same client; every request carries this idempotency key.
///
/// # Panics
/// When the key is not a valid header value.
pub fn http_with_key(key: &str) -> reqwest::Client {
    let value = key.parse().expect("a header value");
    let headers = [(http::HeaderName::from_static("idempotency-key"), value)];
    client().default_headers(headers.into_iter().collect()).build().expect("a client")
}

/// The same client, which connects from an address of this machine.
///
/// # Panics
/// Never: the configuration is constant.
pub fn http_from(address: IpAddr) -> reqwest::Client {
    client().local_address(address).build().expect("a client")
}

fn client() -> reqwest::ClientBuilder {
    // reqwest needs a TLS provider even for plain HTTP. A second installation fails, which does
    // not matter: all are the same.
    drop(tokio_rustls::rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
    // The server closes a connection that is idle for 30 s. A request sent at that moment gets
    // no answer, so the client closes idle connections earlier.
    client.pool_idle_timeout(Duration::from_secs(5))
}

/// The answer of a server to a GET.
///
/// # Panics
/// When it does not answer.
pub async fn get(url: impl reqwest::IntoUrl) -> reqwest::Response {
    http().get(url).send().await.expect("an answer")
}
