//! The running service: everything that `main` starts, and the order in which it ends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::admin::{self, Admin};
use crate::api::Api;
use crate::api::streams::Streams;
use crate::component_file::ComponentFile;
use crate::config::{self, PortSettings, Settings, StoreChoice};
use crate::events::{self, Feed};
use crate::http::browsers::Browsers;
use crate::logic::{self, Interface, Limits, Logic, Source};
use crate::network::limiter::Limiter;
use crate::network::listener::{self, Acceptor, Loads};
use crate::network::{self, Network};
use crate::services::SERVICES;
use crate::store::embedded::Embedded;
use crate::store::redis::Redis;
use crate::telemetry::Metrics;
use crate::telemetry::traces::Traces;
use crate::telemetry::waiting::Waiting;
use crate::workers::{self, Workers};
use crate::{grpc, http, probes, telemetry};
use session_store::clock::Clock;
use session_store::memory::Memory;
use session_store::{Store, Takes};

/// The most connections of users, if the system allows as many.
const CONNECTIONS_MAX: u64 = 16_384;
/// The most connections of operators.
const ADMIN_CONNECTIONS_MAX: usize = 32;
/// The log warns at the start if fewer connections are possible.
const CONNECTIONS_FEW: u64 = 1024;
/// The file handles kept for other uses than connections of users: for operators, the store's
/// files, and Redis.
const FILES_RESERVED: u64 = 128;
/// The drain time: how long requests in flight may take when the process stops.
const DRAIN: Duration = Duration::from_secs(10);
/// The time between two health checks of the store.
const HEALTH_INTERVAL: Duration = Duration::from_secs(1);
/// How often a Redis is checked for a policy that drops sessions.
const SUITABILITY_INTERVAL: Duration = Duration::from_secs(30);

/// A running service.
pub struct Running {
    /// The name and the address of each port.
    pub addresses: Vec<(&'static str, std::net::SocketAddr)>,
    store: Arc<dyn Store>,
    stopping: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    /// Notifies the watcher of the component file, if there is one.
    reload: Option<Arc<Notify>>,
    tasks: JoinSet<Result<()>>,
    /// The admin wire, which answers until all other tasks have ended.
    admin: JoinSet<Result<()>>,
    stop_admin: watch::Sender<bool>,
    workers: Workers,
    /// Sends spans, if traces are on.
    traces: Option<Traces>,
}

/// Starts everything. Requests are answered once this returns.
///
/// # Errors
/// One sentence that names the obstacle; nothing is left running.
pub async fn start(settings: &Settings) -> Result<Running> {
    let network = &settings.network;
    let grpc = Port::bind(config::GRPC, network.bind_address, network.grpc_port)?;
    let rest = Port::bind(config::REST, network.bind_address, network.rest_port)?;
    let admin = Port::bind(config::ADMIN, network.admin_address, network.admin_port)?;
    let probe = settings.callers.probe_port();
    let probe = probe.map(|port| Port::bind(config::PROBE, network.bind_address, port));
    let probe = probe.transpose()?;
    let mut addresses = vec![("grpc", grpc.at), ("rest", rest.at), ("admin", admin.at)];
    addresses.extend(probe.as_ref().map(|probe| ("probe", probe.at)));

    // Redis and the collector may be reached over TLS. An error means that a provider is
    // installed already, which is fine.
    drop(rustls::crypto::ring::default_provider().install_default());
    let workers = Workers::start(workers::processors()).context("no threads to serve on")?;
    let mut tasks = JoinSet::new();
    let (stop, mut stopped) = watch::channel(false);
    let store = open_store(settings, &mut tasks, &stopped).await?;
    let metrics = Arc::new(Metrics::new());
    metrics.named(&settings.process.app_name);
    let export = settings.traces().map_err(|exit| anyhow!(exit.text))?;
    let traces = export.map(|export| Traces::start(export, &metrics)).transpose()?;
    let limits = Limits::of_process(settings.rules.logic_instances);
    let limits = limits.context("the path of this program is not known")?;
    let (file, component, source) = match settings.rules.component() {
        None => (None, Bytes::from_static(logic::BUILT_IN), Source::BuiltIn),
        Some(path) => {
            let opened = ComponentFile::open(path);
            let (file, bytes) = opened.with_context(|| format!("COMPONENT {}", path.display()))?;
            (Some(file), bytes, Source::File)
        }
    };
    let logic = Logic::start(
        component,
        source,
        Arc::clone(&store),
        settings.for_component(),
        limits,
        Arc::clone(&metrics),
    );
    let logic = logic.await.context("the component cannot be used")?;
    let reload = file.map(|file| {
        let reload = Arc::<Notify>::default();
        let watching = file.watch(Arc::clone(&logic), Arc::clone(&reload));
        background(&mut tasks, stopped.clone(), watching);
        reload
    });
    tracing::info!(store = store.name(), digest = logic.generation().digest(), "component loaded");
    let feed = Feed::new(Arc::clone(&store), Arc::clone(&logic), Arc::clone(&metrics));
    background(&mut tasks, stopped.clone(), Arc::clone(&feed).run());
    background(
        &mut tasks,
        stopped.clone(),
        events::sweep(Arc::clone(&logic), Arc::clone(&metrics)),
    );
    let following = events::follow(Arc::clone(&store), Arc::clone(&logic));
    background(&mut tasks, stopped.clone(), following);
    let counting = events::count(Arc::clone(&store), Arc::clone(&logic), Arc::clone(&metrics));
    background(&mut tasks, stopped.clone(), counting);
    let connections = connections_max();
    let heartbeat = settings.sessions.connection_heartbeat;
    let streams =
        Arc::new(Streams::new(settings.process.pod_id(), heartbeat, connections, stopped.clone()));
    let ending = Arc::clone(&streams);
    tasks.spawn(async move {
        ending.ended().await;
        Ok(())
    });
    let api = Api { logic, store: Arc::clone(&store), feed, streams };

    metrics.connections_max.set(i64::try_from(connections).unwrap_or(i64::MAX));
    let loads = (0..workers.count()).map(|_| AtomicUsize::new(0)).collect();
    let subscriptions = Streams::subscriptions_of(connections);
    let limits = settings.callers.limits(settings.rules.logic_instances, subscriptions);
    let operators = Network::new(network::Limits { per_peer: None, ..limits.clone() });
    let network = Network::new(limits);
    let (hosts, origins) = (settings.callers.allowed_hosts(), settings.callers.cors_origins());
    let wires = Wires {
        api,
        metrics,
        stopping: Arc::default(),
        limiter: Limiter::new(&network, connections),
        network,
        operators,
        rest_browsers: Browsers::new(hosts, origins, settings.network.bind_address),
        admin_browsers: Browsers::new(hosts, origins, settings.network.admin_address),
        loads,
    };
    let (health, _) = tonic_health::server::health_reporter();
    let mut waiting = Waiting::on(settings.storage.name());
    let mut status = report_health(&wires, &health, None, &mut waiting).await;
    let (grpc, rest, admin) = (grpc.listen()?, rest.listen()?, admin.listen()?);
    let probe = probe.map(Port::listen).transpose()?;
    wires.serve_users([grpc, rest], &workers, &health, &mut tasks, &stopped);
    let (stop_admin, admin_stopped) = watch::channel(false);
    let mut operators = JoinSet::new();
    wires.serve_operators(admin, &mut operators, admin_stopped.clone());
    if let Some(probe) = probe {
        let (api, stopping) = (wires.api.clone(), Arc::clone(&wires.stopping));
        let network = Arc::clone(&wires.operators);
        operators.spawn(probes::serve(probe, network, api, stopping, admin_stopped));
    }
    let stopping = Arc::clone(&wires.stopping);
    tasks.spawn(async move {
        while !*stopped.borrow() {
            status = report_health(&wires, &health, Some(status), &mut waiting).await;
            let pause = tokio::time::timeout(HEALTH_INTERVAL, stopped.changed());
            // Either the time has passed, or the service stops.
            drop(pause.await);
        }
        report_health(&wires, &health, Some(status), &mut waiting).await;
        // Watchers have received the last status. Their streams end when it is removed.
        let mut health = health;
        for service in services().map(|(name, _)| name) {
            health.clear_service_status(service).await;
        }
        Ok(())
    });
    Ok(Running {
        addresses,
        store,
        stopping,
        stop,
        reload,
        tasks,
        admin: operators,
        stop_admin,
        workers,
        traces,
    })
}

/// A bound port, which refuses connections until its service is ready.
struct Port {
    names: PortSettings,
    at: SocketAddr,
    socket: TcpSocket,
}

impl Port {
    fn bind(names: PortSettings, address: IpAddr, port: u16) -> Result<Self> {
        let at = SocketAddr::new(address, port);
        let refused = |error: io::Error| anyhow!(names.refuse(at, &error));
        let socket = listener::bind(at).map_err(refused)?;
        Ok(Self { names, at: socket.local_addr()?, socket })
    }

    fn listen(self) -> Result<TcpListener> {
        let Self { names, at, socket } = self;
        listener::listen(socket).map_err(|error| anyhow!(names.refuse(at, &error)))
    }
}

/// Runs background work until the service stops.
fn background(
    tasks: &mut JoinSet<Result<()>>,
    mut stopped: watch::Receiver<bool>,
    work: impl Future<Output = ()> + Send + 'static,
) {
    tasks.spawn(async move {
        tokio::select! {
            () = work => {}
            // An error means that the sender is gone, which is a stop too.
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
        Ok(())
    });
}

/// Accepts connections until the service stops.
fn accept(acceptor: Acceptor, tasks: &mut JoinSet<Result<()>>, mut stopped: watch::Receiver<bool>) {
    tasks.spawn(async move {
        // An error means that the sender is gone, which is a stop too.
        acceptor.run(async { drop(stopped.wait_for(|stopped| *stopped).await) }).await;
        Ok(())
    });
}

/// The state that all wires share.
struct Wires {
    api: Api,
    metrics: Arc<Metrics>,
    stopping: Arc<AtomicBool>,
    network: Arc<Network>,
    /// The connections of operators, with limits of their own.
    operators: Arc<Network>,
    /// Admits the connections of users.
    limiter: Arc<Limiter>,
    rest_browsers: Browsers,
    admin_browsers: Browsers,
    /// The number of connections of each worker.
    loads: Loads,
}

impl Wires {
    /// Serves users on all workers.
    fn serve_users(
        &self,
        [grpc, rest]: [TcpListener; 2],
        workers: &Workers,
        health: &HealthReporter,
        tasks: &mut JoinSet<Result<()>>,
        stopped: &watch::Receiver<bool>,
    ) {
        let (grpc, connections) = listener::spread(grpc, Arc::clone(&self.limiter), &self.loads);
        let mut serving = workers.spawn_on_each(connections, |connections| {
            let (api, metrics) = (self.api.clone(), Arc::clone(&self.metrics));
            grpc::serve(connections, api, metrics, health.clone())
        });
        let (rest, connections) = listener::spread(rest, Arc::clone(&self.limiter), &self.loads);
        serving.extend(workers.spawn_on_each(connections, |connections| {
            let (api, browsers) = (self.api.clone(), self.rest_browsers.clone());
            http::serve(connections, api, browsers, Arc::clone(&self.metrics))
        }));
        for worker in serving {
            tasks.spawn(async { worker.await? });
        }
        for acceptor in [grpc, rest] {
            accept(acceptor, tasks, stopped.clone());
        }
    }

    /// Serves operators and probes. They have their own permits, so they get through when users
    /// have taken all. Their connections stay on this thread, so they are answered when all
    /// workers are busy.
    fn serve_operators(
        &self,
        admin: TcpListener,
        tasks: &mut JoinSet<Result<()>>,
        stopped: watch::Receiver<bool>,
    ) {
        let limiter = Limiter::evicting_uploads(&self.operators, ADMIN_CONNECTIONS_MAX);
        let alone: Loads = Arc::new([AtomicUsize::new(0)]);
        let (admin, connections) = listener::spread(admin, limiter, &alone);
        for connections in connections {
            let wire = Admin {
                api: self.api.clone(),
                metrics: Arc::clone(&self.metrics),
                stopping: Arc::clone(&self.stopping),
                upload: Arc::new(Semaphore::new(1)),
                network: Arc::clone(&self.network),
                limiter: Arc::clone(&self.limiter),
                browsers: self.admin_browsers.clone(),
            };
            tasks.spawn(async {
                admin::serve(connections, wire).await;
                Ok(())
            });
        }
        accept(admin, tasks, stopped);
    }
}

impl Running {
    /// Completes when a part of the service has failed.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            let ended = tokio::select! {
                Some(ended) = self.tasks.join_next() => ended,
                Some(ended) = self.admin.join_next() => ended,
                else => return anyhow!("every part of the service has ended"),
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(error) => return error.into(),
            }
        }
    }

    /// Swaps in the content of the component file, as if it had changed.
    pub fn reload(&self) {
        match &self.reload {
            Some(reload) => reload.notify_one(),
            None => tracing::warn!("there is no COMPONENT file to load again"),
        }
    }

    /// Stops: turns readiness off, accepts no more connections, answers the requests in flight and
    /// then those of operators, and flushes the store.
    ///
    /// # Errors
    /// If the store cannot be flushed.
    pub async fn stop(mut self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        self.stop.send_replace(true);
        let ending = async {
            while self.tasks.join_next().await.is_some() {}
            self.stop_admin.send_replace(true);
            while self.admin.join_next().await.is_some() {}
        };
        if tokio::time::timeout(DRAIN, ending).await.is_err() {
            let after_ms = telemetry::milliseconds(DRAIN);
            tracing::warn!(after_ms, "connections that did not end were cut off");
        }
        self.tasks.shutdown().await;
        self.admin.shutdown().await;
        drop(self.workers);
        self.store.flush().await.context("the store was not flushed")?;
        if let Some(traces) = self.traces {
            // It waits for a thread.
            tokio::task::spawn_blocking(move || traces.stop()).await?;
        }
        Ok(())
    }
}

/// The number of files that the process may open, less those it needs itself. The limit is first
/// raised as far as the system allows.
fn connections_max() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let files = current.unwrap_or(u64::MAX);
    let connections = files.saturating_sub(FILES_RESERVED).clamp(16, CONNECTIONS_MAX);
    if connections < CONNECTIONS_FEW {
        tracing::warn!(
            files,
            connections,
            "the system lets the process have few files open, so few connections fit: raise the \
             limit (ulimit -n, LimitNOFILE)"
        );
    }
    usize::try_from(connections).unwrap_or(usize::MAX)
}

async fn open_store(
    settings: &Settings,
    tasks: &mut JoinSet<Result<()>>,
    stopped: &watch::Receiver<bool>,
) -> Result<Arc<dyn Store>> {
    let choice = settings.storage.choice().map_err(|exit| anyhow!(exit.text))?;
    Ok(match choice {
        StoreChoice::Memory => Memory::swept(Clock::System, settings.storage.memory_max.0),
        StoreChoice::Embedded(directory) => {
            let bytes_max = settings.storage.memory_max.0;
            let opening = tokio::task::spawn_blocking(move || {
                Embedded::limited(&directory, Clock::System, bytes_max)
            });
            let opened = opening.await.context("the store did not open")?;
            Arc::new(opened.with_context(|| format!("DATA_DIR {}", settings.storage.data_dir))?)
        }
        StoreChoice::Redis(locator) => {
            let redis = Redis::new(locator, settings.storage.redis_timeout)?;
            let redis = Arc::new(redis.waiting_for(settings.storage.redis_wait_replicas));
            match redis.short_of_replicas().await {
                Ok(short) => short.iter().for_each(|(redis, replicas)| {
                    tracing::warn!(
                        redis,
                        replicas,
                        wanted = settings.storage.redis_wait_replicas,
                        "REDIS_WAIT_REPLICAS is more than the replicas that Redis has: it answers \
                         nothing that waits for them (closes, terminations, slots, locks, \
                         conditional writes, deletes, single reads) until it has more"
                    );
                }),
                Err(error) => tracing::warn!(%error, "the replicas of Redis are not known yet"),
            }
            if !settings.storage.redis_allow_eviction {
                match redis.unsuitable().await {
                    Ok(None) => {}
                    Ok(Some(unsuitable)) => bail!("{unsuitable}"),
                    Err(error) => tracing::warn!(%error, "not ready yet"),
                }
                tasks.spawn(refuse_unsuitable(Arc::clone(&redis), stopped.clone()));
            }
            redis
        }
    })
}

/// Ends the service if its Redis is unsuitable: one that was not reachable at the start, or one
/// that has replaced another.
async fn refuse_unsuitable(redis: Arc<Redis>, mut stopped: watch::Receiver<bool>) -> Result<()> {
    loop {
        let pause = match redis.unsuitable().await {
            Ok(None) => SUITABILITY_INTERVAL,
            Ok(Some(unsuitable)) => bail!("{unsuitable}"),
            Err(_) => HEALTH_INTERVAL,
        };
        let stopped = stopped.wait_for(|stopped| *stopped);
        if tokio::time::timeout(pause, stopped).await.is_ok() {
            return Ok(());
        }
    }
}

/// The services that gRPC health reports, and the kind that each needs. The empty name stands
/// for the whole server.
fn services() -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let services = SERVICES.iter().map(|service| (service.name, Some(service.kind)));
    std::iter::once(("", None)).chain(services)
}

/// What gRPC health reports of a service: nothing of one that the component does not serve.
type Reported = Vec<Option<ServingStatus>>;

/// Reports the health of the store to gRPC health, the metrics and the log. Returns the last
/// report to gRPC health, which publishes changes only.
async fn report_health(
    wires: &Wires,
    health: &HealthReporter,
    before: Option<Reported>,
    waiting: &mut Waiting,
) -> Reported {
    let Wires { api, metrics, stopping, .. } = wires;
    let up = api.health().await;
    let was_up = metrics.store_up.get() == 1;
    metrics.store_up.set(i64::from(up.is_ok()));
    let takes_writes = matches!(up, Ok(Takes::All));
    if let Ok(Takes::ReadsOnly) = up
        && metrics.store_writable.get() == 1
    {
        tracing::warn!("the store takes no writes: its disk may be full");
    }
    metrics.store_nodes(&api.store.nodes());
    metrics.store_writable.set(i64::from(takes_writes));
    match &up {
        Ok(_) if !was_up => tracing::info!(store = api.store.name(), "the store answers"),
        Err(error) if was_up => tracing::warn!(%error, "the store does not answer"),
        _ => {}
    }
    match &up {
        Ok(_) => waiting.succeeded(),
        Err(error) => {
            let why = api.store.obstacle().unwrap_or_else(|| error.message.clone());
            drop(waiting.failed(Instant::now(), &why));
        }
    }
    let serving = up.is_ok() && !stopping.load(Ordering::Relaxed);
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    let generation = api.logic.generation();
    let is_served = |kind: Option<&str>| {
        kind.and_then(Interface::named).is_none_or(|kind| generation.serves(kind))
    };
    let now: Reported = services().map(|(_, kind)| is_served(kind).then_some(status)).collect();
    let mut health = health.clone();
    for (index, (service, _)) in services().enumerate() {
        let before = before.as_ref().and_then(|before| before[index]);
        match now[index] {
            now if now == before => {}
            Some(now) => health.set_service_status(service, now).await,
            None => health.clear_service_status(service).await,
        }
    }
    now
}
