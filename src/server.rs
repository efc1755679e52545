//! Wiring: who is built from what, and the order in which they stop.

mod gauges;
mod supervised;
mod within;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::Router;
use mio::net::TcpListener;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::auth::{ApiKeys, Tokens, Users, Verifier};
use crate::backend::Backstage;
use crate::clock::unix_ms;
use crate::cluster::{Cluster, Reporter};
use crate::config::{Config, Scope};
use crate::http::{
    AddressRate, Addresses, Certificates, Entrance, Listener, State, adopt, bind, health_alone, operators, router,
};
use crate::hub::Hub;
use crate::limits::{
    HANDED_WAIT, HEALTH_CONNECTIONS_MAX, HTTP_CONNECTIONS_MAX, HTTP_OVERFLOW_MAX, HTTP_WAITING_MAX,
    LISTED_TOPICS_BURST_S, OPERATOR_CONNECTIONS_MAX,
};
use crate::memory::Ceilings;
use crate::metrics::Metrics;
use crate::source::nats::{Link, NatsAppender, NatsSource};
use crate::source::publish::{Appender, Publisher};
use crate::source::redis::{Appender as RedisAppender, Masters, RedisSource};
use crate::source::replay::ReplaySource;
use crate::source::simulator::Simulator;
use crate::source::{Feed, Source, SourceStatus};
use crate::systemd::{NAMES, Notifier, Sockets, Tell};
use crate::topic::{Incoming, Kind, Payload, SourceId, Topics};
use gauges::Gauges;

/// Time that publishes under way have to end once a drain begins.
const PUBLISH_GRACE: Duration = Duration::from_secs(2);

/// Time beyond the drain window after which a shard that has not ended is given up.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

/// Time that accepting has to end, where sockets are handed on to the next process.
const ACCEPT_GRACE: Duration = Duration::from_secs(1);

/// Time that requests of the shards have to be answered once the last of them has ended.
const DESK_GRACE: Duration = Duration::from_secs(1);

/// Time between two sweeps over the topics.
const TOPIC_SWEEP: Duration = Duration::from_secs(1);

/// Time that what comes after the shards and the desk takes at most, but for a manager's patience.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The topic of how nodes fare.
const OPS_TOPIC: &str = "ops:nodes";

/// NATS has one stream: it gives all offsets that this process does not.
const NATS: SourceId = SourceId(0);

/// How many sessions can be held, and why.
struct Capacity {
    sessions: usize,
    why: String,
}

/// Raises the descriptor limit as far as allowed and says what it leaves for sessions.
fn capacity(config: &Config) -> anyhow::Result<Capacity> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Not allowed where a supervisor forbids it: then the limit stays as it was.
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    let descriptors = usize::try_from(limit.current.unwrap_or(1 << 20)).unwrap_or(1 << 20);
    // These ports have places of their own.
    let sealed = config.tls.as_ref().map_or(0, |_| HTTP_CONNECTIONS_MAX + HTTP_WAITING_MAX + HTTP_OVERFLOW_MAX);
    let operators = config.operator.listen.map_or(0, |_| 2 * OPERATOR_CONNECTIONS_MAX);
    let health = config.server.health_listen.map_or(0, |_| 2 * HEALTH_CONNECTIONS_MAX);
    let reserve = config.limits.fd_reserve + sealed + operators + health;
    if descriptors <= reserve {
        bail!(
            "the descriptor limit is {descriptors}, which leaves none beside the reserve of {reserve} (limits.fd_reserve, and what the ports of tls, operator and health may hold); raise `ulimit -n`"
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

/// Resident memory of this process, in bytes; 0 where the kernel does not tell.
pub fn rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Serves until it is told to stop. Returns once every session is closed. Only where that is said to be meant (`insecure`) may
/// anyone publish over more than loopback.
///
/// # Errors
/// What could not be set up.
pub fn run(config: Config, insecure: bool) -> anyhow::Result<()> {
    // Before there are other threads.
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

/// Where clients come in.
struct Door {
    sockets: Vec<TcpListener>,
    /// They were handed over: they outlive this process, and who comes while nobody accepts is served by the next.
    handed: bool,
}

impl Door {
    /// The sockets that were handed over under this name, or one of our own at this address.
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

    /// Of the first.
    fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.sockets.first().context("no socket")?.local_addr()?)
    }
}

async fn serve(mut config: Config, insecure: bool, mut handed: Sockets, notifier: Notifier) -> anyhow::Result<()> {
    let started = Instant::now();
    config.read_secrets()?;
    let ceilings = Ceilings::of(&config.limits);
    ceilings.put_into(&mut config.limits);
    let notifier = Arc::new(notifier);
    let config = Arc::new(config);
    let capacity = capacity(&config)?;
    let metrics = Arc::new(Metrics::default());
    let tokens = Arc::new(Tokens::load(&config.access, &metrics)?);
    let verifier =
        Verifier::start(tokens.clone(), &config.limits, metrics.clone(), cores(), tokio::runtime::Handle::current())
            .context("the threads that verify tokens cannot be started")?;
    let keys = ApiKeys::load(&config)?;
    let users = Users::new(config.limits.sessions_per_user);
    let shards = match config.server.shards {
        0 => cores(),
        n => n,
    };
    let node = Arc::<str>::from(crate::position::Epoch::random().as_str());
    let (hub, parked, desk) = Hub::new(shards, capacity.sessions, node.clone(), config.clone(), &metrics)
        .context("the shards cannot be set up")?;
    let partitions = config.source.redis.as_ref().map_or(1, |redis| redis.all_streams().count());
    let topics = Arc::new(Topics::new(config.clone(), partitions, hub.clone(), metrics.clone()));
    let feed = Feed::new(topics.clone(), hub.clone());

    let door = Door::open(&mut handed, "http", config.server.listen)?;
    let address = door.address()?;
    let sealed = match &config.tls {
        Some(options) => {
            let certificates = Arc::new(Certificates::load(options, &metrics)?);
            Some((Door::open(&mut handed, "tls", options.listen)?, certificates))
        }
        None => None,
    };
    let private = match config.operator.listen {
        Some(at) => Some(Door::open(&mut handed, "operator", at).context("operator.listen")?),
        None => None,
    };
    let healthy = match config.server.health_listen {
        Some(at) => Some(Door { sockets: vec![bind(at).context("server.health_listen")?], handed: false }),
        None => None,
    };
    if !insecure && config.publishes_openly() {
        for door in [Some(&door), sealed.as_ref().map(|(door, _)| door), private.as_ref()].into_iter().flatten() {
            for socket in &door.sockets {
                let address = socket.local_addr()?;
                if !address.ip().to_canonical().is_loopback() {
                    bail!(
                        "anyone who reaches {address} could publish: publish.open is set, as it is without a configuration. \
                         Give publishers a key (publish.key), listen on 127.0.0.1, or say --insecure if that is meant"
                    );
                }
            }
        }
    }
    if let [name, ..] = handed.left().as_slice() {
        bail!(
            "the service manager handed over a socket named `{name}`, which nothing here takes; names are {} (tls needs [tls], operator operator.listen): \
             set FileDescriptorName= in its unit, or stop it",
            NAMES.join(", ")
        );
    }

    let redis = match &config.source.redis {
        Some(redis) => Some((redis, Masters::new(redis).context("source.redis: an address cannot be read")?)),
        None => None,
    };
    let link = Link::default();
    let sources = sources(&config, redis.as_ref().map(|(_, masters)| masters), &link, &metrics)?;
    let statuses: Vec<Arc<SourceStatus>> = sources.iter().map(|s| s.status()).collect();
    let appender = match (&redis, &config.source.nats) {
        (Some((redis, masters)), _) => Some(Appender::Redis(Box::new(RedisAppender::new(
            (*redis).clone(),
            masters,
            topics.clone(),
            metrics.clone(),
        )))),
        (None, Some(nats)) => {
            Some(Appender::Nats(NatsAppender::new(nats, link, NATS, topics.clone(), metrics.clone())))
        }
        (None, None) => None,
    };
    let publisher = Arc::new(Publisher::new(&config, feed.clone(), appender, metrics.clone()));
    let cluster = Cluster::new(node, redis, topics.clone(), hub.clone(), metrics.clone());
    let backend = Backstage::new(publisher.clone(), cluster.clone(), &config.rpc, metrics.clone())?;
    let state = Arc::new_cyclic(|weak| {
        metrics.set_gauges(vec![Box::new(Gauges {
            hub: Arc::downgrade(&hub),
            topics: Arc::downgrade(&topics),
            sources: statuses.clone(),
            ready: weak.clone(),
            limits: config.limits.clone(),
        })]);
        State {
            registry: metrics.register(hub.stats()),
            topics: topics.clone(),
            hub: hub.clone(),
            publisher,
            cluster: cluster.clone(),
            keys,
            verifier: verifier.clone(),
            users: users.clone(),
            metrics: metrics.clone(),
            sources: statuses,
            addresses: Addresses::new(&config.limits),
            listings: AddressRate::new(config.limits.listed_topics_per_second, LISTED_TOPICS_BURST_S),
            loaded: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            publishing: AtomicUsize::new(0),
            started,
            base_rss_bytes: rss_bytes(),
            config: config.clone(),
        }
    });

    // Heard from before it is said that the server is there.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let threads = parked.start().context("the shards' threads cannot be started")?;
    tokio::spawn(async move { tokens.fetch().await });
    let desk = tokio::spawn(desk.run(topics.clone(), verifier, users, Arc::new(backend), metrics.clone()));
    let stop_sources = CancellationToken::new();
    for source in sources {
        tokio::spawn(source.run(feed.clone(), stop_sources.clone()));
    }
    let stop = CancellationToken::new();
    tokio::spawn(sweep(topics.clone(), stop.clone()));
    if let Some(memory) = ceilings.memory {
        tokio::spawn(within::keep(memory, state.base_rss_bytes, topics.clone(), metrics.clone(), stop.clone()));
    }
    tokio::spawn(cluster.clone().run(stop.clone()));
    tokio::spawn(report(state.clone(), feed, stop.clone()));
    let told = supervised::tell(notifier.clone(), state.clone(), desk.abort_handle(), stop.clone());
    tokio::spawn(told);
    let certificates = sealed.as_ref().map(|(_, certificates)| certificates.clone());
    tokio::spawn(supervised::reload(hangup, certificates, notifier.clone(), state.clone(), stop.clone()));
    if door.handed {
        // Who comes now waits in the kernel, which is better than to be told to come again.
        loaded(&state).await;
    }
    let routes = router(state.clone());
    let accept_handed = CancellationToken::new();
    let mut accepting = Vec::new();
    let mut accept = |door: Door, router: &Router, entrance: &Entrance| {
        let until = if door.handed { &accept_handed } else { &stop };
        let lobby = entrance.lobby(state.config.limits.connections_per_address);
        for socket in door.sockets {
            let (router, state, entrance, lobby) = (router.clone(), state.clone(), entrance.clone(), lobby.clone());
            let listener = Listener { socket, router, state, entrance, lobby };
            let thread = listener.start(until.clone()).context("connections cannot be accepted")?;
            if door.handed {
                accepting.push(thread);
            }
        }
        anyhow::Ok(())
    };
    accept(door, &routes, &Entrance::Plain)?;
    if let Some((door, certificates)) = sealed {
        tokio::spawn(certificates.clone().watch(stop.clone()));
        let address = door.address()?;
        accept(door, &routes, &Entrance::Sealed(certificates))?;
        tracing::info!("TLS on https://{address}; clients: wss://{address}/ws");
    }
    if let Some(door) = private {
        let address = door.address()?;
        accept(door, &operators(state.clone()), &Entrance::Operators)?;
        tracing::info!(
            "operators on http://{address}, and nowhere else: /metrics, /status, /ops, their commands of /api"
        );
    }
    if let Some(door) = healthy {
        let address = door.address()?;
        accept(door, &health_alone(state.clone()), &Entrance::Health)?;
        tracing::info!("health on http://{address}: /healthz, /readyz, nothing else");
    }
    announce(&config, address, shards, &capacity, &ceilings, &state);

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let window = config.server.drain_window;
    tracing::info!(
        sessions = hub.sessions(),
        ?window,
        "stopping: not ready any more, closing sessions; a second signal hurries"
    );
    let longest = ACCEPT_GRACE + PUBLISH_GRACE + window + DRAIN_GRACE + DESK_GRACE + STOP_GRACE;
    notifier.tell(&[Tell::Stopping, Tell::ExtendTimeout(longest)]);
    // First of all, so that nobody is refused here whom the next process would take.
    accept_handed.cancel();
    let ended = tokio::task::spawn_blocking(move || accepting.into_iter().for_each(|thread| drop(thread.join())));
    let _ = tokio::time::timeout(ACCEPT_GRACE, ended).await;
    state.draining.store(true, Ordering::SeqCst);
    let grace = Instant::now() + PUBLISH_GRACE;
    while state.publishing.load(Ordering::SeqCst) > 0 && Instant::now() < grace {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    hub.drain(window);
    let joined = tokio::task::spawn_blocking(move || join(threads));
    let limit = tokio::time::sleep(window + DRAIN_GRACE);
    tokio::pin!(joined, limit);
    let mut hurried = false;
    loop {
        tokio::select! {
            _ = &mut joined => break,
            () = &mut limit => {
                tracing::error!("shards did not end in time");
                break;
            }
            _ = terminate.recv(), if !hurried => hurried = true,
            _ = interrupt.recv(), if !hurried => hurried = true,
        }
        if hurried {
            tracing::info!("hurrying");
            hub.hurry();
        }
    }
    stop_sources.cancel();
    // Who was subscribed here no longer is: that has to be written before this node is gone.
    let _ = tokio::time::timeout(DESK_GRACE, desk).await;
    cluster.bye().await;
    stop.cancel();
    tracing::info!("stopped");
    Ok(())
}

/// Waits until the sources are loaded, for a while.
async fn loaded(state: &State) {
    let until = Instant::now() + HANDED_WAIT;
    while !state.is_loaded() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a shard ended by a panic");
        }
    }
}

/// Every second. A walk over a million topics takes a good part of one: it has a thread of its own, of which it uses a fifth.
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

/// Says once in a while how this node fares: to the other nodes, and on its own topic how all of them do.
async fn report(state: Arc<State>, feed: Feed, stop: CancellationToken) {
    let every = state.config.ops.interval;
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
        let mut report = state.report();
        reporter.fill(&mut report, &state.hub.stats());
        state.cluster.report(report);
        let patch = state.cluster.nodes.patch().to_string();
        let Ok(payload) = Payload::new(patch.into(), state.config.limits.delta_bytes) else { continue };
        let (kind, ts, source) = (Kind::Delta, Some(unix_ms()), state.topics.local());
        let incoming = Incoming { topic: OPS_TOPIC, kind, ts, at_ms: None, payload, offset: None, source, home: None };
        if let Err(error) = feed.publish(incoming).await {
            tracing::debug!(%error, "the report was not taken");
        }
    }
}

fn sources(
    config: &Config,
    masters: Option<&Masters>,
    link: &Link,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Vec<Box<dyn Source>>> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if let (Some(redis), Some(masters)) = (&config.source.redis, masters) {
        for partition in 0..redis.all_streams().count() {
            let partition = u16::try_from(partition).context("source.redis.streams: too many")?;
            sources.push(Box::new(RedisSource::new(config, redis, masters.clone(), partition, metrics.clone())));
        }
    }
    if let Some(nats) = &config.source.nats {
        sources.push(Box::new(NatsSource::new(config, nats, link.clone(), NATS, metrics.clone())));
    }
    if let Some(simulator) = &config.source.simulator {
        sources.push(Box::new(Simulator::new(simulator.clone())));
    }
    if let Some(replay) = &config.source.replay {
        sources.push(Box::new(ReplaySource::new(replay.clone())));
    }
    Ok(sources)
}

/// Says in a few lines what runs here.
fn announce(
    config: &Config,
    address: SocketAddr,
    shards: usize,
    capacity: &Capacity,
    ceilings: &Ceilings,
    state: &State,
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
            "NOBODY may subscribe: access.anonymous is off and there is neither access.keys nor access.jwks".into()
        }
    });
    open.push(match config.access.origins.as_slice() {
        list if list.iter().any(|o| o == "*") => "pages of any Origin".into(),
        [] => "pages of this server only".into(),
        list => format!("pages of {}", list.join(", ")),
    });
    open.push(match (config.publish.open, state.keys.count(Scope::Publish)) {
        (true, _) => "anyone may PUBLISH, no key needed".into(),
        (false, 0) => "publish API off (no key)".into(),
        (false, n) => format!("publishing needs one of {n} keys"),
    });
    let reach = if address.ip().is_loopback() { "this machine only" } else { "the network" };
    tracing::info!(
        "nexus-push {} listens on http://{address} ({reach}); clients: ws://{address}/ws (plain), ws://{address}/connection/websocket (Centrifuge)",
        env!("CARGO_PKG_VERSION")
    );
    tracing::info!("holds up to {} sessions ({}) in {shards} shards", capacity.sessions, capacity.why);
    tracing::info!("memory: {ceilings}");
    tracing::info!("deltas from {}", from.join(" and "));
    tracing::info!("open: {}", open.join("; "));
    if config.trace.sample > 0.0 {
        tracing::info!("trace: {} % of the deltas are followed through the log", config.trace.sample * 100.0);
    }
    if config.debug.echo {
        tracing::warn!("debug.echo is on: /debug/echo, and upgrades of /, send back whatever anyone sends");
    }
    if config.publish.open && !address.ip().is_loopback() {
        tracing::warn!("INSECURE: anyone who reaches {address} may publish");
    }
}
