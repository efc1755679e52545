//! Wiring: builds the parts, and stops them in order.

mod gauges;
mod supervised;
mod within;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::Router;
use mio::net::TcpListener;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::auth::{ApiKeys, Tokens, Users, Verifier};
use crate::backend::Backstage;
use crate::clock::unix_ms;
use crate::cluster::{Cluster, Reporter};
use crate::config::Config;
use crate::http::{
    AddressRate, Addresses, Api, Certificates, Clients, Core, InProgress, Listener, ListenerKind, Process, Readiness,
    State, adopt, bind, health_alone, operators, router,
};
use crate::hub::Hub;
use crate::limits::{
    HANDED_WAIT, HEALTH_CONNECTIONS_MAX, HTTP_CONNECTIONS_MAX, HTTP_OVERFLOW_MAX, HTTP_WAITING_MAX,
    LISTED_TOPICS_BURST_S, OPERATOR_CONNECTIONS_MAX,
};
use crate::memory::{self, ResolvedLimits};
use crate::metrics::Metrics;
#[cfg(feature = "nats")]
use crate::source::nats::{Link, NatsAppender, NatsSource};
use crate::source::publish::{Appender, Publisher};
use crate::source::redis::{Appender as RedisAppender, Masters, RedisSource};
#[cfg(feature = "replay")]
use crate::source::replay::ReplaySource;
use crate::source::simulator::Simulator;
use crate::source::{Feed, Source};
use crate::systemd::{NAMES, Notifier, Sockets, Tell};
use crate::topic::{Incoming, Kind, Payload, Topics};
use gauges::Gauges;
use supervised::Observed;

/// Time for running publishes to end once a drain begins.
const PUBLISH_GRACE: Duration = Duration::from_secs(2);

/// Time beyond the drain window after which a shard that has not ended is abandoned.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Time for accepting to end, if the sockets go to the next process.
const ACCEPT_GRACE: Duration = Duration::from_secs(1);

/// Time for the shards' requests to be answered once the last shard has ended.
const CONTROL_GRACE: Duration = Duration::from_secs(1);

/// Time between two sweeps over the topics.
const TOPIC_SWEEP: Duration = Duration::from_secs(1);

/// Longest time for the steps after the shards and the control plane, apart from the manager's
/// patience.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The topic of the nodes' health.
const OPS_TOPIC: &str = "ops:nodes";

/// NATS has one stream: it gives all offsets that this process does not.
#[cfg(feature = "nats")]
const NATS: crate::topic::SourceId = crate::topic::SourceId(0);

/// The number of sessions that fit, and why.
struct Capacity {
    sessions: usize,
    why: String,
}

/// Raises the descriptor limit as far as allowed, and derives the number of sessions.
fn capacity(config: &Config) -> anyhow::Result<Capacity> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A supervisor may forbid this; the limit then stays as it was.
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    let descriptors = usize::try_from(limit.current.unwrap_or(1 << 20)).unwrap_or(1 << 20);
    // These ports have slots of their own.
    let sealed = config.tls.as_ref().map_or(0, |_| HTTP_CONNECTIONS_MAX + HTTP_WAITING_MAX + HTTP_OVERFLOW_MAX);
    let operators = config.operator.listen.map_or(0, |_| 2 * OPERATOR_CONNECTIONS_MAX);
    let health = config.server.health_listen.map_or(0, |_| 2 * HEALTH_CONNECTIONS_MAX);
    let reserve = config.limits.fd_reserve + sealed + operators + health;
    if descriptors <= reserve {
        bail!(
            "the descriptor limit is {descriptors}, which leaves no room for sessions after the reserve of {reserve} (limits.fd_reserve, and the connections of the ports of tls, operator and health); raise `ulimit -n`"
        );
    }
    let room = descriptors - reserve;
    let configured = config.server.max_sessions;
    Ok(if configured > 0 && configured <= room {
        Capacity { sessions: configured, why: "server.max_sessions".into() }
    } else {
        Capacity { sessions: room, why: format!("descriptor limit {descriptors} less a reserve of {reserve}") }
    })
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Runs the server until a signal stops it, and returns once every session is closed. Publishing without a key over
/// more than loopback needs `insecure`.
///
/// # Errors
/// The part that could not be set up.
pub fn run(config: Config, insecure: bool) -> anyhow::Result<()> {
    // Before other threads exist.
    let (sockets, notifier) = (Sockets::from_environment(), Notifier::from_environment());
    let threads = match config.server.control_threads {
        0 => cores().min(4),
        n => n,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("control")
        .on_thread_park(crate::allocator::give_back)
        .enable_all()
        .build()
        .context("the control plane's threads cannot be started")?;
    let outcome = runtime.block_on(serve(config, insecure, sockets, notifier));
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

/// The sockets of one port.
struct ListenSockets {
    sockets: Vec<TcpListener>,
    /// The sockets were handed over: they outlive this process, and connections made while nothing
    /// accepts wait for the next process.
    handed: bool,
}

impl ListenSockets {
    /// The sockets handed over under this name, or a new one at this address.
    fn open(handed: &mut Sockets, name: &str, address: SocketAddr) -> anyhow::Result<Self> {
        let taken = handed.take(name).with_context(|| format!("the socket that was handed over as `{name}`"))?;
        if taken.is_empty() {
            let socket = bind(address).with_context(|| format!("cannot listen on {address}"))?;
            return Ok(Self { sockets: vec![socket], handed: false });
        }
        let adopted = taken.into_iter().map(adopt).collect::<Result<Vec<_>, _>>();
        let sockets = adopted.with_context(|| format!("the socket that was handed over as `{name}`"))?;
        for socket in &sockets {
            tracing::info!("{name}: {} was handed over by the service manager", socket.local_addr()?);
        }
        Ok(Self { sockets, handed: true })
    }

    /// The address of the first.
    fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.sockets.first().context("no socket")?.local_addr()?)
    }
}

/// The sockets of all ports.
struct Ports {
    public: ListenSockets,
    sealed: Option<(ListenSockets, Arc<Certificates>)>,
    private: Option<ListenSockets>,
    health: Option<ListenSockets>,
}

impl Ports {
    /// Opens what the configuration names, or takes what the service manager handed over.
    fn open(config: &Config, mut handed: Sockets, insecure: bool, metrics: &Arc<Metrics>) -> anyhow::Result<Self> {
        let public = ListenSockets::open(&mut handed, "http", config.server.listen)?;
        let sealed = match &config.tls {
            Some(options) => {
                let certificates = Arc::new(Certificates::load(options, metrics)?);
                Some((ListenSockets::open(&mut handed, "tls", options.listen)?, certificates))
            }
            None => None,
        };
        let private = match config.operator.listen {
            Some(at) => Some(ListenSockets::open(&mut handed, "operator", at).context("operator.listen")?),
            None => None,
        };
        let health = match config.server.health_listen {
            Some(at) => Some(ListenSockets { sockets: vec![bind(at).context("server.health_listen")?], handed: false }),
            None => None,
        };
        let ports = Self { public, sealed, private, health };
        if !insecure && config.publishes_openly() {
            ports.are_on_loopback()?;
        }
        if let [name, ..] = handed.left().as_slice() {
            bail!(
                "the service manager handed over a socket named `{name}`, which no port uses; names are {} (tls needs [tls], operator operator.listen): \
                 set FileDescriptorName= in its unit, or stop it",
                NAMES.join(", ")
            );
        }
        Ok(ports)
    }

    /// An error for a port on which strangers could publish.
    fn are_on_loopback(&self) -> anyhow::Result<()> {
        let sealed = self.sealed.as_ref().map(|(port, _)| port);
        for port in [Some(&self.public), sealed, self.private.as_ref()].into_iter().flatten() {
            for socket in &port.sockets {
                let address = socket.local_addr()?;
                if !address.ip().to_canonical().is_loopback() {
                    bail!(
                        "anyone who reaches {address} could publish: publish.open is set, as it is without a configuration. \
                         Give publishers a key (publish.key), listen on 127.0.0.1, or pass --insecure"
                    );
                }
            }
        }
        Ok(())
    }
}

/// The signals that stop the server.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A running server, and what stops it.
struct Running {
    state: Arc<State>,
    hub: Arc<Hub>,
    cluster: Arc<Cluster>,
    readiness: Arc<Readiness>,
    notifier: Arc<Notifier>,
    shards: Vec<JoinHandle<()>>,
    control: tokio::task::JoinHandle<()>,
    stop_sources: CancellationToken,
    /// Ends everything but the sources and the sockets that were handed over.
    stop: CancellationToken,
}

async fn serve(mut config: Config, insecure: bool, handed: Sockets, notifier: Notifier) -> anyhow::Result<()> {
    let started = Instant::now();
    config.read_secrets()?;
    let config = Arc::new(config);
    let limits = Arc::new(ResolvedLimits::of(&config.limits));
    let capacity = capacity(&config)?;
    let metrics = Arc::new(Metrics::default());
    let tokens = Arc::new(Tokens::load(&config.access, &metrics)?);
    let runtime = tokio::runtime::Handle::current();
    let verifier = Verifier::start(tokens.clone(), &config.limits, metrics.clone(), cores(), runtime)
        .context("the threads that verify tokens cannot be started")?;
    let keys = ApiKeys::load(&config)?;
    let users = Users::new(config.limits.sessions_per_user);
    let shards = match config.server.shards {
        0 => cores(),
        n => n,
    };
    let node = Arc::<str>::from(crate::position::Epoch::random().as_str());
    let (hub, prepared, control) = Hub::new(shards, capacity.sessions, node.clone(), config.clone(), &limits, &metrics)
        .context("the shards cannot be set up")?;
    let partitions = config.source.redis.as_ref().map_or(1, |redis| redis.all_streams().count());
    let topics = Arc::new(Topics::within(config.clone(), &limits, partitions, hub.clone(), metrics.clone()));
    let feed = Feed::new(topics.clone(), hub.clone());
    let ports = Ports::open(&config, handed, insecure, &metrics)?;
    let address = ports.public.address()?;

    let redis = match &config.source.redis {
        Some(redis) => Some((redis, Masters::new(redis).context("source.redis: an address is invalid")?)),
        None => None,
    };
    let (from_nats, into_nats) = nats(&config, &topics, &metrics).unzip();
    let sources = sources(&config, redis.as_ref().map(|(_, masters)| masters), from_nats, &metrics)?;
    let appender = match &redis {
        Some((redis, masters)) => {
            let (redis, topics) = ((*redis).clone(), topics.clone());
            Some(Appender::Redis(Box::new(RedisAppender::new(redis, masters, topics, metrics.clone()))))
        }
        None => into_nats,
    };
    let publisher = Arc::new(Publisher::new(&config, feed.clone(), appender, metrics.clone()));
    let cluster = Cluster::new(node, redis, topics.clone(), hub.clone(), metrics.clone());
    let backend = Backstage::new(publisher.clone(), cluster.clone(), &config.rpc, metrics.clone())?;
    let readiness = Arc::new(Readiness::new(sources.iter().map(|source| source.status()).collect()));
    metrics.set_gauges(vec![Box::new(Gauges {
        hub: Arc::downgrade(&hub),
        topics: Arc::downgrade(&topics),
        verifier: Arc::downgrade(&verifier),
        readiness: readiness.clone(),
        limits: limits.clone(),
    })]);
    let core = Core {
        config: config.clone(),
        limits: limits.clone(),
        topics: topics.clone(),
        hub: hub.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
    };
    let clients = Clients {
        verifier: verifier.clone(),
        users: users.clone(),
        addresses: Addresses::new(&config.limits),
        listings: AddressRate::new(config.limits.listed_topics_per_second, LISTED_TOPICS_BURST_S),
    };
    let api = Api { publisher, keys, cluster: cluster.clone(), in_progress: InProgress::default() };
    let registry = crate::metrics::registry(metrics.clone(), hub.stats());
    let process = Process { registry, started, base_rss_bytes: memory::rss_bytes() };
    let base_rss_bytes = process.base_rss_bytes;
    let state = Arc::new(State::new(core, clients, api, process));

    // Installed before the server announces itself.
    let mut signals = Signals::install()?;
    let hangup = signal(SignalKind::hangup())?;
    let threads = prepared.start().context("the shards' threads cannot be started")?;
    tokio::spawn(async move { tokens.fetch().await });
    let control = tokio::spawn(control.run(topics.clone(), verifier, users, Arc::new(backend), metrics.clone()));
    let (stop, stop_sources) = (CancellationToken::new(), CancellationToken::new());
    for source in sources {
        tokio::spawn(source.run(feed.clone(), stop_sources.clone()));
    }
    tokio::spawn(sweep(topics.clone(), stop.clone()));
    if let Some(memory) = limits.memory {
        tokio::spawn(within::keep(memory, base_rss_bytes, topics.clone(), metrics.clone(), stop.clone()));
    }
    tokio::spawn(cluster.clone().run(stop.clone()));
    let reports = HealthReports {
        config: config.clone(),
        state: state.clone(),
        hub: hub.clone(),
        topics: topics.clone(),
        cluster: cluster.clone(),
        feed,
    };
    tokio::spawn(reports.run(stop.clone()));
    let notifier = Arc::new(notifier);
    let node = Observed { hub: hub.clone(), topics, readiness: readiness.clone() };
    tokio::spawn(supervised::tell(notifier.clone(), node, control.abort_handle(), stop.clone()));
    let certificates = ports.sealed.as_ref().map(|(_, certificates)| certificates.clone());
    let reload = supervised::reload(hangup, certificates, notifier.clone(), readiness.clone(), stop.clone());
    tokio::spawn(reload);
    if ports.public.handed {
        // Connections made now wait in the kernel, which is better than a refusal.
        let _ = tokio::time::timeout(HANDED_WAIT, readiness.until_loaded()).await;
    }
    let accept_handed = CancellationToken::new();
    let accepting = accept(ports, &state, config.limits.connections_per_address, &accept_handed, &stop)?;
    announce(&config, address, shards, &capacity, &limits, state.publish_keys());

    signals.next().await;
    let running = Running { state, hub, cluster, readiness, notifier, shards: threads, control, stop_sources, stop };
    // First of all, so that no client is refused that the next process would serve.
    running.announce_stop(config.server.drain_window);
    accept_handed.cancel();
    let ended = tokio::task::spawn_blocking(move || accepting.into_iter().for_each(|thread| drop(thread.join())));
    let _ = tokio::time::timeout(ACCEPT_GRACE, ended).await;
    running.stop(config.server.drain_window, &mut signals).await;
    Ok(())
}

/// Accepts on all ports. Returns the threads that accept from sockets that were handed over, until
/// `accept_handed`; the others accept until `stop`.
fn accept(
    ports: Ports,
    state: &Arc<State>,
    connections_per_address: usize,
    accept_handed: &CancellationToken,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let Ports { public, sealed, private, health } = ports;
    let routes = router(state.clone());
    let mut accepting = Vec::new();
    let mut accept = |port: ListenSockets, router: &Router, kind: &ListenerKind| {
        let until = if port.handed { accept_handed } else { stop };
        let limiter = kind.limiter(connections_per_address);
        for socket in port.sockets {
            let (router, state, kind, limiter) = (router.clone(), state.clone(), kind.clone(), limiter.clone());
            let listener = Listener { socket, router, state, kind, limiter };
            let thread = listener.start(until.clone()).context("connections cannot be accepted")?;
            if port.handed {
                accepting.push(thread);
            }
        }
        anyhow::Ok(())
    };
    accept(public, &routes, &ListenerKind::Plain)?;
    if let Some((port, certificates)) = sealed {
        tokio::spawn(certificates.clone().watch(stop.clone()));
        let address = port.address()?;
        accept(port, &routes, &ListenerKind::Sealed(certificates))?;
        tracing::info!("TLS on https://{address}; clients: wss://{address}/ws");
    }
    if let Some(port) = private {
        let address = port.address()?;
        accept(port, &operators(state.clone()), &ListenerKind::Operators)?;
        tracing::info!(
            "operators on http://{address}, and nowhere else: /metrics, /status, /ops, their commands of /api"
        );
    }
    if let Some(port) = health {
        let address = port.address()?;
        accept(port, &health_alone(state.clone()), &ListenerKind::Health)?;
        tracing::info!("health on http://{address}: /healthz, /readyz, nothing else");
    }
    Ok(accepting)
}

impl Running {
    /// Logs that the server stops, and notifies the service manager.
    fn announce_stop(&self, window: Duration) {
        tracing::info!(
            sessions = self.hub.sessions(),
            ?window,
            "stopping: no longer ready, closing sessions; a second signal speeds this up"
        );
        let longest = ACCEPT_GRACE + PUBLISH_GRACE + window + DRAIN_GRACE + CONTROL_GRACE + STOP_GRACE;
        self.notifier.tell(&[Tell::Stopping, Tell::ExtendTimeout(longest)]);
    }

    /// Closes all sessions, and then ends the parts in the order in which they depend on each other.
    async fn stop(self, window: Duration, signals: &mut Signals) {
        self.readiness.drain();
        let _ = tokio::time::timeout(PUBLISH_GRACE, self.state.in_progress().none()).await;
        self.hub.drain(window);
        let shards = self.shards;
        let joined = tokio::task::spawn_blocking(move || join(shards));
        let limit = tokio::time::sleep(window + DRAIN_GRACE);
        tokio::pin!(joined, limit);
        let mut hurried = false;
        loop {
            tokio::select! {
                _ = &mut joined => break,
                () = &mut limit => {
                    tracing::error!("shards did not end within server.drain_window; stopping without them");
                    break;
                }
                () = signals.next(), if !hurried => hurried = true,
            }
            if hurried {
                tracing::info!("second signal: closing all sessions now");
                self.hub.hurry();
            }
        }
        self.stop_sources.cancel();
        // The ends of this node's subscriptions have to be written before the node is gone.
        let _ = tokio::time::timeout(CONTROL_GRACE, self.control).await;
        self.cluster.leave().await;
        self.stop.cancel();
        tracing::info!("stopped");
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a shard's thread panicked (a fault in this server)");
        }
    }
}

/// Every second. A walk over a million topics takes a good part of one, so it has a thread of its
/// own, which it uses for a fifth of the time.
async fn sweep(topics: Arc<Topics>, stop: CancellationToken) {
    let mut rest = TOPIC_SWEEP;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
        let (topics, begun) = (topics.clone(), tokio::time::Instant::now());
        let _ = tokio::task::spawn_blocking(move || topics.sweep()).await;
        rest = TOPIC_SWEEP.max(begun.elapsed() * 4);
    }
}

/// Reports this node's health at intervals: to the other nodes, and all nodes' on a topic of its
/// own.
struct HealthReports {
    config: Arc<Config>,
    state: Arc<State>,
    hub: Arc<Hub>,
    topics: Arc<Topics>,
    cluster: Arc<Cluster>,
    feed: Feed,
}

impl HealthReports {
    async fn run(self, stop: CancellationToken) {
        let every = self.config.ops.interval;
        if every.is_zero() {
            return;
        }
        let mut reporter = Reporter::new();
        let mut clock = tokio::time::interval(every);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            let mut report = self.state.report();
            reporter.fill(&mut report, &self.hub.stats());
            self.cluster.report(report);
            let patch = self.cluster.nodes.patch().to_string();
            let Ok(payload) = Payload::new(patch.into(), self.config.limits.delta_bytes) else { continue };
            let (kind, ts, source) = (Kind::Delta, Some(unix_ms()), self.topics.local());
            let incoming = Incoming {
                topic: OPS_TOPIC,
                kind,
                ts,
                at_ms: None,
                payload,
                offset: None,
                source,
                home: None,
                is_relayed: false,
            };
            if let Err(error) = self.feed.publish(incoming).await {
                tracing::debug!(%error, "the report was refused");
            }
        }
    }
}

/// The source of NATS and its appender, which share a connection.
#[cfg(feature = "nats")]
fn nats(config: &Config, topics: &Arc<Topics>, metrics: &Arc<Metrics>) -> Option<(Box<dyn Source>, Appender)> {
    let nats = config.source.nats.as_ref()?;
    let link = Link::default();
    let source = NatsSource::new(config, nats, link.clone(), NATS, metrics.clone());
    let appender = NatsAppender::new(nats, link, NATS, topics.clone(), metrics.clone());
    Some((Box::new(source), Appender::Nats(appender)))
}

/// None: a configuration that names NATS is refused.
#[cfg(not(feature = "nats"))]
fn nats(_: &Config, _: &Arc<Topics>, _: &Arc<Metrics>) -> Option<(Box<dyn Source>, Appender)> {
    None
}

fn sources(
    config: &Config,
    masters: Option<&Masters>,
    nats: Option<Box<dyn Source>>,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Vec<Box<dyn Source>>> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if let (Some(redis), Some(masters)) = (&config.source.redis, masters) {
        for partition in 0..redis.all_streams().count() {
            let partition = u16::try_from(partition).context("source.redis.streams: more than 65536")?;
            sources.push(Box::new(RedisSource::new(config, redis, masters.clone(), partition, metrics.clone())));
        }
    }
    sources.extend(nats);
    if let Some(simulator) = &config.source.simulator {
        sources.push(Box::new(Simulator::new(simulator.clone())));
    }
    #[cfg(feature = "replay")]
    if let Some(replay) = &config.source.replay {
        sources.push(Box::new(ReplaySource::new(replay.clone())));
    }
    Ok(sources)
}

/// Logs a summary of the running server.
fn announce(
    config: &Config,
    address: SocketAddr,
    shards: usize,
    capacity: &Capacity,
    limits: &ResolvedLimits,
    publish_keys: usize,
) {
    let mut from: Vec<String> = Vec::new();
    if let Some(redis) = &config.source.redis {
        from.push(format!(
            "Redis {} ({})",
            redis.described(),
            redis.all_streams().map(String::as_str).collect::<Vec<_>>().join(", ")
        ));
    }
    if let Some(nats) = &config.source.nats {
        from.push(format!("NATS {} (stream {})", nats.servers(), nats.stream));
    }
    if let Some(simulator) = &config.source.simulator {
        from.push(format!(
            "a SIMULATION of {} instruments, {} deltas/s (not a market)",
            simulator.instruments, simulator.rate
        ));
    }
    if let Some(replay) = &config.source.replay {
        from.push(format!("a replay of {} files at {}×", replay.files.len(), replay.speed));
    }
    if from.is_empty() {
        from.push("the publish API alone".into());
    }
    let mut open: Vec<String> = Vec::new();
    open.push(match (config.access.anonymous, config.access.keys.is_empty() && config.access.jwks.is_none()) {
        (true, _) => "anyone may subscribe, no token needed".into(),
        (false, false) => "subscribing needs a token".into(),
        (false, true) => {
            "NO CLIENT may subscribe: access.anonymous is off, and neither access.keys nor access.jwks is set".into()
        }
    });
    open.push(match config.access.origins.as_slice() {
        list if list.iter().any(|o| o == "*") => "pages of any Origin".into(),
        [] => "pages of this server only".into(),
        list => format!("pages of {}", list.join(", ")),
    });
    open.push(match (config.publish.open, publish_keys) {
        (true, _) => "anyone may PUBLISH, no key needed".into(),
        (false, 0) => "publish API off (no key)".into(),
        (false, n) => format!("publishing needs one of {n} keys"),
    });
    let reach = if address.ip().is_loopback() { "this machine only" } else { "the network" };
    tracing::info!(
        "nexus-push {} listens on http://{address} ({reach}); clients: ws://{address}/ws (plain), ws://{address}/connection/websocket (Centrifuge)",
        env!("CARGO_PKG_VERSION")
    );
    tracing::info!("room for {} sessions ({}) in {shards} shards", capacity.sessions, capacity.why);
    tracing::info!("memory: {limits}");
    tracing::info!("deltas from {}", from.join(" and "));
    tracing::info!("open: {}", open.join("; "));
    if config.trace.sample > 0.0 {
        tracing::info!("trace: {} % of the deltas are traced in the log", config.trace.sample * 100.0);
    }
    if config.debug.echo {
        tracing::warn!("debug.echo is on: /debug/echo, and upgrades of /, send every message back to its sender");
    }
    if config.publish.open && !address.ip().is_loopback() {
        tracing::warn!("INSECURE: anyone who reaches {address} may publish");
    }
}
