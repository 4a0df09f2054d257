//! Settings of the store: the address of Redis, or the directory of the embedded store.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::early_exit::EarlyExit;
use super::given::{SecretText, given};
use super::secret::Secret;
use super::values::{self, IN_MEMORY};
use crate::store::redis::{Address, Locator};

/// The accepted forms of REDIS_URL.
const A_URL: &str = "redis://[user:password@]host[:port][/database], \
     redis-sentinel://[user:password@]host[:port],.../service[/database] or \
     redis-cluster://[user:password@]host[:port],..., with rediss instead of redis for TLS";

/// Redis, or the embedded store.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub struct Storage {
    /// Host of Redis; empty uses the embedded store.
    #[arg(long, env = "REDIS_HOST", default_value = "", global = true,
          hide_default_value = true, value_parser = given(values::host))]
    redis_host: String,

    /// Port of Redis.
    #[arg(long, env = "REDIS_PORT", default_value = "6379", global = true,
          value_parser = given(values::port))]
    redis_port: u16,

    /// Database of Redis.
    #[arg(long, env = "REDIS_DATABASE", default_value = "5", global = true,
          value_parser = given(values::database))]
    redis_database: u32,

    /// User of Redis.
    #[arg(long, env = "REDIS_USERNAME", default_value = "", global = true,
          hide_default_value = true, value_parser = given(super::given::text))]
    redis_username: String,

    /// Password of Redis.
    #[arg(long, env = "REDIS_PASSWORD", default_value = "", global = true,
          hide_default_value = true, hide_env_values = true, value_parser = SecretText)]
    redis_password: String,

    /// File with the password of Redis, read again at each new connection.
    #[arg(long, env = "REDIS_PASSWORD_FILE", default_value = "", global = true,
          hide_default_value = true, value_parser = given(super::given::text))]
    redis_password_file: String,

    /// redis://user:password@host:port/database, instead of the settings above (the default
    /// database is 0);
    /// redis-sentinel://host:port,host:port/service/database asks Sentinels for the server,
    /// redis-cluster://host:port,host:port is a Cluster. With rediss instead of redis, over TLS.
    #[arg(long, env = "REDIS_URL", default_value = "", global = true,
          hide_default_value = true, hide_env_values = true, value_parser = SecretText)]
    redis_url: String,

    /// File with the URL of Redis, read again at each new connection.
    #[arg(long, env = "REDIS_URL_FILE", default_value = "", global = true,
          hide_default_value = true, value_parser = given(super::given::text))]
    redis_url_file: String,

    /// How long a call waits for Redis.
    #[arg(long, env = "REDIS_TIMEOUT", default_value = "1s", global = true,
          value_parser = given(values::timeout))]
    pub redis_timeout: Duration,

    /// How many replicas must acknowledge closes, terminations, slots, locks and
    /// compare-and-set before they are answered; 0 waits for none. Not with the embedded
    /// store.
    #[arg(long, env = "REDIS_WAIT_REPLICAS", default_value = "0", global = true,
          value_parser = given(values::replicas))]
    pub redis_wait_replicas: u32,

    /// Accept a Redis that evicts keys when it is full.
    #[arg(long, env = "REDIS_ALLOW_EVICTION", default_value = "false", global = true,
          value_parser = given(values::boolean), num_args = 0..=1,
          default_missing_value = "true", require_equals = true)]
    pub redis_allow_eviction: bool,

    /// Directory of the embedded store; :memory: keeps nothing.
    #[arg(long, env = "DATA_DIR", default_value = "data", global = true,
          value_parser = given(values::not_empty))]
    pub data_dir: String,

    /// Memory for the data of the embedded store, events included: bytes, KiB, MiB or GiB, or
    /// off. Beyond it nothing is added; reads, renewals, closes and deletes still work. Not
    /// for Redis, which has maxmemory.
    #[arg(long, env = "MEMORY_MAX", default_value = "off", global = true,
          value_parser = given(values::memory_limit))]
    pub memory_max: values::MemoryLimit,
}

/// The store of a server.
#[derive(Clone, Debug)]
pub enum StoreChoice {
    /// Memory only.
    Memory,
    /// A directory.
    Embedded(PathBuf),
    /// Redis.
    Redis(Locator),
}

impl Storage {
    /// The store of this server.
    ///
    /// # Errors
    /// If REDIS_URL is not an address, the file of a secret cannot be used, or the embedded store
    /// is to wait for replicas.
    pub fn choice(&self) -> Result<StoreChoice, EarlyExit> {
        let password = self.password().read()?;
        let url = self.url().read()?;
        if url.is_empty() && self.redis_host.is_empty() {
            if self.redis_wait_replicas > 0 {
                let given = self.redis_wait_replicas.to_string();
                let expected = "0, as the embedded store has no replicas; name a Redis with REDIS_HOST or REDIS_URL";
                return Err(EarlyExit::of_value("REDIS_WAIT_REPLICAS", &given, expected));
            }
            return Ok(match self.data_dir.as_str() {
                IN_MEMORY => StoreChoice::Memory,
                directory => StoreChoice::Embedded(directory.into()),
            });
        }
        let address = self.address(&url, &password)?;
        let secret = if url.is_empty() { self.password() } else { self.url() };
        if !secret.is_in_file() {
            return Ok(StoreChoice::Redis(address.into()));
        }
        let storage = self.clone();
        let resolve = move || {
            let (url, password) = (storage.url().read()?, storage.password().read()?);
            storage.address(&url, &password)
        };
        Ok(StoreChoice::Redis(Locator::with_resolver(address, move || {
            resolve().map_err(|exit| exit.text)
        })))
    }

    /// The name of the store for people: the setting that names it, without secrets.
    pub fn name(&self) -> String {
        let url = self.url().read().unwrap_or_default();
        let setting = match (&*url, &*self.redis_host) {
            ("", "") => return format!("DATA_DIR {:?}", self.data_dir),
            ("", _) => "REDIS_HOST",
            _ => self.url().given_as(),
        };
        let address = self.address(&url, "").map_or_else(|_| String::new(), |it| it.to_string());
        format!("{setting} {address:?}")
    }

    /// The address of Redis.
    fn address(&self, url: &str, password: &str) -> Result<Address, EarlyExit> {
        if !url.is_empty() {
            let setting = self.url().given_as();
            return Address::from_url(url).map_err(|_| EarlyExit::of_secret(setting, A_URL));
        }
        let Self { redis_host, redis_port, redis_database, redis_username, .. } = self;
        Address::from_parts(redis_host, *redis_port, *redis_database, redis_username, password)
            .map_err(|_| EarlyExit::of_value("REDIS_HOST", redis_host, values::A_HOST))
    }

    fn password(&self) -> Secret<'_> {
        Secret::new("REDIS_PASSWORD", &self.redis_password, &self.redis_password_file)
    }

    fn url(&self) -> Secret<'_> {
        Secret::new("REDIS_URL", &self.redis_url, &self.redis_url_file)
    }
}
