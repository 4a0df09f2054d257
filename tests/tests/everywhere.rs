//! Scenarios that hold over both wires and on every store.

use session_tests::client::{Client, Wire};
use session_tests::host::{Host, Launch};
use session_tests::redis_server::RedisServer;

/// A server on one of the stores, and a user over one of the wires.
pub struct Setting {
    pub host: Host,
    pub client: Client,
    pub redis: Option<RedisServer>,
    _directory: tempfile::TempDir,
}

/// A store.
#[derive(Clone, Copy)]
pub enum On {
    Memory,
    Embedded,
    Redis,
}

/// Starts the server and connects the user of a scenario.
pub async fn setting(on: On, wire: Wire, settings: &[(&str, &str)]) -> Setting {
    let directory = tempfile::tempdir().unwrap();
    let redis = match on {
        On::Redis => Some(RedisServer::start().await),
        On::Memory | On::Embedded => None,
    };
    let launch = match (on, &redis) {
        (On::Memory, _) => Launch::in_memory(),
        (On::Embedded, _) => Launch::embedded(directory.path()),
        (On::Redis, redis) => Launch::redis(redis.as_ref().unwrap()),
    };
    let launch = settings.iter().fold(launch, |launch, (name, value)| launch.set(name, value));
    let host = launch.start();
    let client = host.client(wire).await;
    Setting { host, client, redis, _directory: directory }
}

/// Makes a test of each scenario for each wire and store.
macro_rules! everywhere {
    ($($scenario:ident $settings:expr),+ $(,)?) => {
        everywhere!(@ rest_on_memory Rest Memory $($scenario $settings),+);
        everywhere!(@ grpc_on_memory Grpc Memory $($scenario $settings),+);
        everywhere!(@ rest_on_embedded Rest Embedded $($scenario $settings),+);
        everywhere!(@ grpc_on_embedded Grpc Embedded $($scenario $settings),+);
        everywhere!(@ rest_on_redis Rest Redis $($scenario $settings),+);
        everywhere!(@ grpc_on_redis Grpc Redis $($scenario $settings),+);
    };
    (@ $module:ident $wire:ident $on:ident $($scenario:ident $settings:expr),+) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $scenario() {
                    use $crate::everywhere::{On, setting};
                    let settings: &[(&str, &str)] = &$settings;
                    let wire = session_tests::client::Wire::$wire;
                    let setting = setting(On::$on, wire, settings);
                    super::$scenario(setting.await).await;
                }
            )+
        }
    };
}

pub(crate) use everywhere;
