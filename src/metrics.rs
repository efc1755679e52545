//! Every metric, its unit and its help, in one place.
//!
//! The control plane counts in [`Metrics`]. Each shard counts in a [`ShardStats`] of its own that it alone writes,
//! so that counting costs the data plane a plain store and no shared cache line.

mod classic;
mod reached;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::wire::close::CloseReason;

/// One label: why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub(crate) reason: &'static str,
}

/// One label: which source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// Its name.
    pub source: String,
}

/// Which source, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceReason {
    /// Its name.
    pub source: String,
    /// One of those in docs/redis.md.
    pub reason: &'static str,
}

/// One label: which key, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KeyLabel {
    key: String,
}

/// Upper bounds of the age histogram, in ms.
pub const AGE_BUCKETS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000];

/// Upper bounds of the histogram of ticks, in µs.
pub const TICK_BUCKETS_US: [u64; 13] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// A number that one thread writes and others read.
#[derive(Debug, Default)]
pub struct Stat(AtomicU64);

impl Stat {
    /// Adds, by the one writer.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts, by the one writer.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(n), Ordering::Relaxed);
    }

    /// Sets, by the one writer.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one shard counts.
#[derive(Debug, Default)]
#[repr(align(128))]
#[allow(missing_docs, reason = "the help texts in `SHARD_METRICS` say it")]
pub struct ShardStats {
    pub subscriptions: Stat,
    pub topics: Stat,
    pub ticks: Stat,
    pub tick_counts: [Stat; TICK_BUCKETS_US.len() + 1],
    pub busy_us: Stat,
    pub events: Stat,
    pub visits: Stat,
    pub visits_partial: Stat,
    pub deliveries: Stat,
    pub bytes: Stat,
    pub coalesced: Stat,
    pub conflated: Stat,
    pub snapshots: Stat,
    pub slow_sessions: Stat,
    pub io_uring: Stat,
    pub stretch_ms: Stat,
    pub backlog_bytes: Stat,
    pub backlog_relieved: Stat,
    pub incoming_relieved: Stat,
    pub asked_refused: Stat,
    pub hearing_held_up: Stat,
    pub outgoing_hurried: Stat,
    pub deltas_relieved: Stat,
    pub session_bytes: Stat,
    pub subscription_bytes: Stat,
    pub outgoing_bytes: Stat,
    /// The most events that were ever in its queue, which keeps the room for them.
    pub queue_high: Stat,
    pub commands: Stat,
    pub commands_refused: Stat,
    pub snapshots_refused: Stat,
    pub snapshots_refused_by_address: Stat,
    pub states_delayed: Stat,
    pub states_delayed_by_address: Stat,
    pub reading_held_up: Stat,
    pub inflating_held_up: Stat,
    pub memberships_dropped: Stat,
    pub memberships_delayed: Stat,
    pub membership_infos_left_out: Stat,
    pub announcements_withheld: Stat,
    pub pings: Stat,
    pub subscriptions_refused: Stat,
    pub closes: [Stat; CloseReason::ALL.len()],
    pub disconnects: Stat,
    pub shed: Stat,
    pub age_counts: [Stat; AGE_BUCKETS_MS.len() + 1],
    pub age_sum_ms: Stat,
}

impl ShardStats {
    /// Counts a close that the server began.
    pub fn close(&self, reason: CloseReason) {
        if let Some(at) = CloseReason::ALL.iter().position(|r| *r == reason)
            && let Some(stat) = self.closes.get(at)
        {
            stat.add(1);
        }
    }

    /// Closes that the server began for this reason.
    pub fn closes_for(&self, reason: CloseReason) -> u64 {
        let at = CloseReason::ALL.iter().position(|r| *r == reason);
        at.and_then(|at| self.closes.get(at)).map_or(0, Stat::get)
    }

    /// Counts a turn of the shard's loop that took so long.
    pub fn tick(&self, took_us: u64) {
        let at = TICK_BUCKETS_US.partition_point(|bound| *bound < took_us);
        if let Some(stat) = self.tick_counts.get(at) {
            stat.add(1);
        }
        self.busy_us.add(took_us);
    }

    /// Counts `n` deliveries of this age.
    pub fn age(&self, age_ms: u64, n: u64) {
        let at = AGE_BUCKETS_MS.partition_point(|bound| *bound < age_ms);
        if let Some(stat) = self.age_counts.get(at) {
            stat.add(n);
        }
        self.age_sum_ms.add(age_ms.saturating_mul(n));
    }
}

type ShardMetric = (&'static str, &'static str, MetricType, fn(&ShardStats) -> u64);

const SHARD_METRICS: &[ShardMetric] = &[
    ("subscriptions", "Subscriptions held now", MetricType::Gauge, |s| s.subscriptions.get()),
    ("shard_topics", "Topics that a shard has subscribers of, summed over shards", MetricType::Gauge, |s| {
        s.topics.get()
    }),
    ("ticks", "Turns of the shards' loops", MetricType::Counter, |s| s.ticks.get()),
    ("tick_events", "Events taken from the shards' queues", MetricType::Counter, |s| s.events.get()),
    ("visits", "Writes to sockets", MetricType::Counter, |s| s.visits.get()),
    ("visits_partial", "Writes that a full socket cut short", MetricType::Counter, |s| s.visits_partial.get()),
    ("deliveries", "Deltas delivered to sessions", MetricType::Counter, |s| s.deliveries.get()),
    ("sent_bytes", "Bytes written to sockets", MetricType::Counter, |s| s.bytes.get()),
    ("coalesced", "Deliveries that shared a visit with an earlier one", MetricType::Counter, |s| s.coalesced.get()),
    ("conflated", "Deltas that were not delivered because a newer state was", MetricType::Counter, |s| {
        s.conflated.get()
    }),
    ("snapshots", "Snapshots delivered to sessions", MetricType::Counter, |s| s.snapshots.get()),
    ("shards_io_uring", "Shards that flush through io_uring; the others use epoll", MetricType::Gauge, |s| {
        s.io_uring.get()
    }),
    ("slow_sessions", "Sessions with a full socket, or at their ceiling of bytes/s, now", MetricType::Gauge, |s| {
        s.slow_sessions.get()
    }),
    ("backlog_bytes", "Bytes owed to sessions with a full socket", MetricType::Gauge, |s| s.backlog_bytes.get()),
    (
        "backlog_relieved",
        "Sessions closed as slow because all backlogs together reached limits.backlog_total_bytes",
        MetricType::Counter,
        |s| s.backlog_relieved.get(),
    ),
    (
        "incoming_relieved",
        "Sessions closed because the messages that are not whole reached limits.incoming_total_bytes",
        MetricType::Counter,
        |s| s.incoming_relieved.get(),
    ),
    (
        "asked_refused",
        "Commands refused because what sessions asked for and is under way reached limits.asked_total_bytes",
        MetricType::Counter,
        |s| s.asked_refused.get(),
    ),
    (
        "hearing_held_up",
        "Ticks in which a shard did not hear its clients because the control plane had too many of its requests to look at",
        MetricType::Counter,
        |s| s.hearing_held_up.get(),
    ),
    (
        "outgoing_hurried",
        "Times that what waited for a write was written at once because it reached a shard's part of limits.outgoing_total_bytes",
        MetricType::Counter,
        |s| s.outgoing_hurried.get(),
    ),
    (
        "deltas_relieved",
        "Topics whose deltas a shard no longer keeps for lagging subscriptions: limits.deltas_total_bytes was reached",
        MetricType::Counter,
        |s| s.deltas_relieved.get(),
    ),
    ("commands", "Commands of clients", MetricType::Counter, |s| s.commands.get()),
    ("commands_refused", "Commands answered with an error", MetricType::Counter, |s| s.commands_refused.get()),
    (
        "subscriptions_refused",
        "Subscribes refused because a limit was reached (limits.subscriptions, requests waiting)",
        MetricType::Counter,
        |s| s.subscriptions_refused.get(),
    ),
    (
        "snapshots_refused",
        "Snapshots, and subscribes to what a session has, refused because of limits.reply_bytes_per_second",
        MetricType::Counter,
        |s| s.snapshots_refused.get(),
    ),
    (
        "snapshots_refused_by_address",
        "Snapshots, and subscribes to what a session has, refused because of limits.reply_bytes_per_address",
        MetricType::Counter,
        |s| s.snapshots_refused_by_address.get(),
    ),
    (
        "states_delayed",
        "Times that a session waited for states or missed deltas because of limits.reply_bytes_per_second",
        MetricType::Counter,
        |s| s.states_delayed.get(),
    ),
    (
        "states_delayed_by_address",
        "Times that a session waited for states or missed deltas because of limits.reply_bytes_per_address",
        MetricType::Counter,
        |s| s.states_delayed_by_address.get(),
    ),
    (
        "reading_held_up",
        "Times that a session was not read on because half of limits.backlog_bytes was owed to it",
        MetricType::Counter,
        |s| s.reading_held_up.get(),
    ),
    (
        "inflating_held_up",
        "Times that a session was not read on because its messages inflated to too many bytes per second",
        MetricType::Counter,
        |s| s.inflating_held_up.get(),
    ),
    (
        "memberships_dropped",
        "Joins and leaves not told to subscribers because too many of one topic waited",
        MetricType::Counter,
        |s| s.memberships_dropped.get(),
    ),
    (
        "memberships_delayed",
        "Times that joins and leaves of a topic had to wait because of limits.membership_bytes_per_second",
        MetricType::Counter,
        |s| s.memberships_delayed.get(),
    ),
    (
        "membership_infos_left_out",
        "Joins and leaves told to a shard's subscribers without an info that is larger than they may show",
        MetricType::Counter,
        |s| s.membership_infos_left_out.get(),
    ),
    (
        "announcements_withheld",
        "Subscriptions whose begin and end others are not told of because their session makes too many",
        MetricType::Counter,
        |s| s.announcements_withheld.get(),
    ),
    ("pings", "Pings sent to quiet sessions", MetricType::Counter, |s| s.pings.get()),
    ("disconnects", "Sessions that ended without a close of ours", MetricType::Counter, |s| s.disconnects.get()),
    ("sessions_shed", "Sessions closed so that they go to other nodes (POST /admin/drain)", MetricType::Counter, |s| {
        s.shed.get()
    }),
];

/// A time: how many of it the shards count in are a second.
type ShardTime = (&'static str, &'static str, MetricType, f64, fn(&ShardStats) -> u64);

const SHARD_TIMES: &[ShardTime] = &[
    ("busy_seconds", "Time that shards spent inside ticks", MetricType::Counter, 1e6, |s| s.busy_us.get()),
    (
        "stretch_seconds",
        "Time that busy shards let sessions wait for more, summed over shards",
        MetricType::Gauge,
        1e3,
        |s| s.stretch_ms.get(),
    ),
];

/// What the control plane counts.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "the help texts in `register` say it")]
pub struct Metrics {
    pub deltas: Counter,
    pub deltas_duplicate: Counter,
    pub deltas_refused: Family<Reason, Counter>,
    pub topics_refused: Counter,
    pub topics_expired: Counter,
    pub topics_moved: Counter,
    pub topics_misplaced: Counter,
    pub deletions_forgotten: Counter,
    pub ends_forgotten: Counter,
    pub strays_left: Counter,
    pub deltas_left: Counter,
    pub history_evicted: Counter,
    pub state_refused: Counter,
    pub upgrades: Counter,
    pub upgrades_refused: Family<Reason, Counter>,
    pub listings_refused: Counter,
    pub publish_requests: Counter,
    pub publish_refused: Family<Reason, Counter>,
    pub publish_warned: Family<Reason, Counter>,
    pub publish_repeated: Counter,
    pub idempotency_forgotten: Counter,
    pub api_key_requests: Family<KeyLabel, Counter>,
    pub operator_refused: Counter,
    pub proxy_headers_refused: Family<Reason, Counter>,
    pub handshake_timeouts: Counter,
    pub http_refused: Counter,
    pub http_gave_way: Counter,
    pub http_address_refused: Counter,
    pub http_idle_closed: Counter,
    pub health_answered_aside: Counter,
    pub hosts_refused: Counter,
    pub key_waits_refused: Counter,
    pub tls_held_back: Counter,
    pub http_malformed: Counter,
    pub http_timeouts: Family<Reason, Counter>,
    pub answers_refused: Counter,
    /// Times that ceilings came down because too much was resident.
    pub memory_squeezed: Counter,
    /// States for sessions that waited for room on their way.
    pub snapshots_put_off: Counter,
    pub requests_refused: Counter,
    pub unpublished_refused: Counter,
    pub queue_full: Counter,
    pub subscribes_waiting: Gauge,
    pub subscribes_ahead: Family<Reason, Counter>,
    pub tokens_refused: Family<Reason, Counter>,
    pub key_set_fetches: Family<Reason, Counter>,
    pub tls_handshakes: Counter,
    pub tls_handshakes_failed: Counter,
    pub tls_reloads: Counter,
    pub tls_reloads_failed: Counter,
    pub tls_certificate_ends: Gauge,
    pub source_errors: Family<SourceLabel, Counter>,
    pub source_skipped: Family<SourceLabel, Counter>,
    pub source_missed: Family<SourceLabel, Counter>,
    pub source_refused: Family<SourceReason, Counter>,
    pub source_suspicious: Family<SourceReason, Counter>,
    pub refused_copied: Counter,
    pub refused_copies_dropped: Counter,
    pub epoch_changes: Family<SourceLabel, Counter>,
    pub client_publishes: Counter,
    pub replies_refused: Counter,
    pub answers_died: Counter,
    pub replies_refused_by_address: Counter,
    pub cluster_dropped: Counter,
    gauges: OnceLock<Vec<Box<dyn GaugeSource>>>,
}

/// Something that is read when metrics are.
pub trait GaugeSource: std::fmt::Debug + Send + Sync {
    /// Calls `put` with a name, a help text, labels and a value, as often as it likes.
    fn gauges(&self, put: &mut dyn FnMut(&'static str, &'static str, Vec<(&'static str, String)>, Reading));
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reading {
    /// A number that only grows.
    Total(u64),
    /// A number now.
    Whole(i64),
    /// A number with a fraction.
    Real(f64),
}

impl Reading {
    fn kind(self) -> MetricType {
        match self {
            Self::Total(_) => MetricType::Counter,
            Self::Whole(_) | Self::Real(_) => MetricType::Gauge,
        }
    }

    fn encode(self, encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        match self {
            Self::Total(n) => ConstCounter::new(n).encode(encoder),
            Self::Whole(n) => ConstGauge::new(n).encode(encoder),
            Self::Real(n) => ConstGauge::new(n).encode(encoder),
        }
    }
}

impl Metrics {
    /// Counts a refused delta.
    pub fn refused_delta(&self, reason: &'static str) {
        self.deltas_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a refused token.
    pub fn refused_token(&self, reason: &'static str) {
        self.tokens_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a fetch of the key set.
    pub fn fetched_key_set(&self, outcome: &'static str) {
        self.key_set_fetches.get_or_create(&Reason { reason: outcome }).inc();
    }

    /// Counts a subscribe whose client held more than this node had read.
    pub fn subscribe_was_ahead(&self, reason: &'static str) {
        self.subscribes_ahead.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a refused upgrade.
    pub fn refused_upgrade(&self, reason: &'static str) {
        self.upgrades_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts an HTTP connection whose client was too slow.
    pub fn timed_out_http(&self, reason: &'static str) {
        self.http_timeouts.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a refused publish request.
    pub fn refused_publish(&self, reason: &'static str) {
        self.publish_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a delta that the publish API took with a warning.
    pub fn publish_warned(&self, reason: &'static str) {
        self.publish_warned.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a request with a key.
    pub fn used_key(&self, name: &str) {
        self.api_key_requests.get_or_create_owned(&KeyLabel { key: name.to_owned() }).inc();
    }

    /// Counts a proxy's connection that was closed for what it began with.
    pub fn refused_proxy_header(&self, reason: &'static str) {
        self.proxy_headers_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Names what is to be asked for gauges; once.
    pub fn set_gauges(&self, gauges: Vec<Box<dyn GaugeSource>>) {
        let _ = self.gauges.set(gauges);
    }

    /// A registry of everything.
    pub fn register(self: &Arc<Self>, shards: Vec<Arc<ShardStats>>) -> Registry {
        let mut r = Registry::with_prefix("nexus_push");
        r.register("deltas", "Deltas taken in", self.deltas.clone());
        r.register("deltas_duplicate", "Deltas already known, ignored", self.deltas_duplicate.clone());
        r.register("deltas_refused", "Deltas refused, by reason", self.deltas_refused.clone());
        r.register("topics_refused", "Topics refused because limits.topics was reached", self.topics_refused.clone());
        r.register(
            "state_refused",
            "Topics, and deltas that make a state larger, refused because limits.state_total_bytes was reached",
            self.state_refused.clone(),
        );
        r.register(
            "topics_expired",
            "Topics that ended: deleted, or without a delta for longer than expire_after",
            self.topics_expired.clone(),
        );
        r.register(
            "topics_misplaced",
            "Topics published in another partition than the one that they belong in (`nexus-push partition`)",
            self.topics_misplaced.clone(),
        );
        r.register(
            "deletions_forgotten",
            "Deletions of topics that were forgotten before all partitions had been read up to them, because there were too many",
            self.deletions_forgotten.clone(),
        );
        r.register(
            "ends_forgotten",
            "Topics that ended and whose saved states this node will not remove, because there were too many; it saves no states any more",
            self.ends_forgotten.clone(),
        );
        r.register(
            "strays_left",
            "Entries of topics in another partition that count no more, and whose marks this node will not remove, because there were too many",
            self.strays_left.clone(),
        );
        r.register(
            "deltas_left",
            "Deltas passed over in a stream that their topic leaves: `nexus-push reshard` appends them to the topic's new stream",
            self.deltas_left.clone(),
        );
        r.register(
            "topics_moved",
            "Times that a topic was published in another partition than before",
            self.topics_moved.clone(),
        );
        r.register(
            "history_evicted",
            "Kept deltas let go of because the history of all topics together reached limits.history_total_bytes",
            self.history_evicted.clone(),
        );
        r.register("upgrades", "Sockets handed to shards", self.upgrades.clone());
        r.register("upgrades_refused", "Upgrades refused, by reason", self.upgrades_refused.clone());
        r.register(
            "listings_refused",
            "Requests to GET /api/topics refused because their address listed too many topics",
            self.listings_refused.clone(),
        );
        r.register("publish_requests", "Requests to the publish API", self.publish_requests.clone());
        r.register("publish_refused", "Publish requests refused, by reason", self.publish_refused.clone());
        r.register(
            "publish_warned",
            "Deltas that the publish API took and whose publishers it warned, by reason",
            self.publish_warned.clone(),
        );
        r.register(
            "publish_repeated",
            "Publishes answered with the result of an earlier one that had the same idempotency key",
            self.publish_repeated.clone(),
        );
        r.register(
            "idempotency_forgotten",
            "Results of publishes with an idempotency key forgotten before their time because there were too many",
            self.idempotency_forgotten.clone(),
        );
        r.register(
            "api_key_requests",
            "Requests to the publish and operators' API, by the name of their key",
            self.api_key_requests.clone(),
        );
        r.register(
            "operator_refused",
            "Requests for /metrics, /status and /admin without a key that operates, where one is wanted",
            self.operator_refused.clone(),
        );
        r.register(
            "proxy_headers_refused",
            "Connections of trusted proxies closed for lack of a good PROXY header, by reason",
            self.proxy_headers_refused.clone(),
        );
        r.register(
            "handshake_timeouts",
            "Connections closed before their request was whole",
            self.handshake_timeouts.clone(),
        );
        r.register(
            "http_refused",
            "HTTP connections, over TLS too, refused because as many were open as are served and wait",
            self.http_refused.clone(),
        );
        r.register(
            "http_gave_way",
            "HTTP connections closed after an answer, rather than kept open, because others waited to be served",
            self.http_gave_way.clone(),
        );
        r.register(
            "http_address_refused",
            "HTTP connections and requests refused because their address held limits.connections_per_address or more",
            self.http_address_refused.clone(),
        );
        r.register(
            "http_idle_closed",
            "HTTP connections closed after limits.keep_alive_timeout without a request",
            self.http_idle_closed.clone(),
        );
        r.register(
            "health_answered_aside",
            "Requests for /healthz and /readyz answered although all places for HTTP connections were taken",
            self.health_answered_aside.clone(),
        );
        r.register(
            "hosts_refused",
            "HTTP requests, upgrades too, refused because their Host is no name of this server (server.hosts)",
            self.hosts_refused.clone(),
        );
        r.register(
            "key_waits_refused",
            "Requests refused because as many waited for the key set to be fetched (access.jwks) as may",
            self.key_waits_refused.clone(),
        );
        r.register(
            "tls_held_back",
            "TLS connections that were kept waiting, with all that came after them, because as many were open as are served",
            self.tls_held_back.clone(),
        );
        r.register(
            "http_malformed",
            "HTTP requests refused because they are malformed, too long, or can be read in two ways",
            self.http_malformed.clone(),
        );
        r.register(
            "http_timeouts",
            "HTTP connections closed because a body did not come or an answer was not taken in time",
            self.http_timeouts.clone(),
        );
        r.register(
            "answers_refused",
            "HTTP answers replaced by 503 because clients do not take those before (limits.answers_total_bytes)",
            self.answers_refused.clone(),
        );
        r.register(
            "memory_squeezed",
            "Times that ceilings on what can be let go of came down because too much was resident (limits.memory)",
            self.memory_squeezed.clone(),
        );
        r.register(
            "snapshots_put_off",
            "States for sessions that waited at the desk until others had reached them (limits.snapshots_total_bytes)",
            self.snapshots_put_off.clone(),
        );
        r.register(
            "requests_refused",
            "HTTP requests answered 503 because the bodies of all requests reached limits.requests_total_bytes",
            self.requests_refused.clone(),
        );
        r.register(
            "unpublished_refused",
            "Subscribes refused because limits.unpublished_topics, or its caller's share of it, was reached",
            self.unpublished_refused.clone(),
        );
        r.register(
            "queue_full",
            "Times that a publisher found a shard's queue full and waited",
            self.queue_full.clone(),
        );
        r.register(
            "subscribes_waiting",
            "Subscribes that wait, now, for this node to read as far as their client has",
            self.subscribes_waiting.clone(),
        );
        r.register(
            "subscribes_ahead",
            "Subscribes whose client had more than this node: it caught up, it did not in time, or too many waited already",
            self.subscribes_ahead.clone(),
        );
        r.register("tls_handshakes", "TLS handshakes made", self.tls_handshakes.clone());
        r.register("tls_handshakes_failed", "TLS handshakes that failed", self.tls_handshakes_failed.clone());
        r.register("tls_reloads", "Times that changed certificates were read", self.tls_reloads.clone());
        r.register(
            "tls_reloads_failed",
            "Times that changed certificates could not be read",
            self.tls_reloads_failed.clone(),
        );
        r.register(
            "tls_certificate_end_timestamp_seconds",
            "When the certificate ends, Unix s; 0 without TLS",
            self.tls_certificate_ends.clone(),
        );
        r.register("tokens_refused", "Tokens refused, by reason", self.tokens_refused.clone());
        r.register(
            "key_set_fetches",
            "Fetches of access.jwks by outcome: replaced, failed, no_keys (the last two change nothing)",
            self.key_set_fetches.clone(),
        );
        r.register("source_errors", "Failures of a source, each followed by a retry", self.source_errors.clone());
        r.register(
            "source_skipped",
            "Entries of a source that were refused, whatever the reason",
            self.source_skipped.clone(),
        );
        r.register(
            "source_missed",
            "Times that entries of a source were gone before this node had read them; it loaded again",
            self.source_missed.clone(),
        );
        r.register(
            "source_refused",
            "Entries of a source that were refused, by reason (docs/redis.md)",
            self.source_refused.clone(),
        );
        r.register(
            "source_suspicious",
            "Entries of a source that were taken though something about them is wrong, by reason (docs/redis.md)",
            self.source_suspicious.clone(),
        );
        r.register(
            "refused_copied",
            "Refused entries that this node copied for their publishers (source.redis.refused)",
            self.refused_copied.clone(),
        );
        r.register(
            "refused_copies_dropped",
            "Copies of refused entries that were not written: too many waited, or Redis took none",
            self.refused_copies_dropped.clone(),
        );
        r.register(
            "epoch_changes",
            "Times that offsets of a source stopped being comparable",
            self.epoch_changes.clone(),
        );
        r.register(
            "replies_refused",
            "History, presence, calls and states over REST refused because of limits.reply_bytes_per_second",
            self.replies_refused.clone(),
        );
        r.register(
            "answers_died",
            "Requests of sessions that a fault in this server left without an answer; they were told to try again",
            self.answers_died.clone(),
        );
        r.register(
            "replies_refused_by_address",
            "History, presence, calls and states over REST refused because of limits.reply_bytes_per_address",
            self.replies_refused_by_address.clone(),
        );
        r.register("client_publishes", "Deltas that clients published over sockets", self.client_publishes.clone());
        r.register(
            "cluster_dropped",
            "Things that were not said to other nodes because too many waited",
            self.cluster_dropped.clone(),
        );
        r.register_collector(Box::new(ShardCollector { shards, metrics: self.clone() }));
        r
    }
}

#[derive(Debug)]
struct ShardCollector {
    shards: Vec<Arc<ShardStats>>,
    metrics: Arc<Metrics>,
}

impl Collector for ShardCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, kind, read) in SHARD_METRICS {
            let sum: u64 = self.shards.iter().map(|s| read(s)).sum();
            put(&mut encoder, name, help, *kind, sum)?;
        }
        for (name, help, kind, second, read) in SHARD_TIMES {
            #[allow(clippy::cast_precision_loss, reason = "2^53 µs are 285 years")]
            let sum = self.shards.iter().map(|s| read(s)).sum::<u64>() as f64 / second;
            let metric = encoder.encode_descriptor(name, help, None, *kind)?;
            match kind {
                MetricType::Counter => ConstCounter::new(sum).encode(metric)?,
                _ => ConstGauge::new(sum).encode(metric)?,
            }
        }
        let mut reached = encoder.encode_descriptor(
            "limits_reached",
            "Times that a limit was reached, by its key; docs/limits.md says what happens then",
            None,
            MetricType::Counter,
        )?;
        for (limit, times) in reached::limits_reached(&self.metrics, &self.shards) {
            ConstCounter::new(times).encode(reached.encode_family(&[("limit", limit)])?)?;
        }

        let mut closes = encoder.encode_descriptor(
            "closes",
            "Sessions closed by the server, by reason",
            None,
            MetricType::Counter,
        )?;
        for (i, reason) in CloseReason::ALL.iter().enumerate() {
            let sum: u64 = self.shards.iter().filter_map(|s| s.closes.get(i)).map(Stat::get).sum();
            ConstCounter::new(sum).encode(closes.encode_family(&[("reason", reason.reason())])?)?;
        }
        let mut ages = encoder.encode_descriptor(
            "delivery_age",
            "Age of a delta when it was written to a socket, from the source's own time where it gives one",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let (buckets, total) = self.buckets(&AGE_BUCKETS_MS, 1e3, |s| &s.age_counts);
        let sum = self.shards.iter().map(|s| s.age_sum_ms.get()).sum::<u64>() as f64 / 1e3;
        ages.encode_histogram::<[(&str, &str); 0]>(sum, total, &buckets, None)?;
        let mut ticks = encoder.encode_descriptor(
            "tick",
            "Time of one turn of a shard's loop, in which it is not asleep",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        let (buckets, total) = self.buckets(&TICK_BUCKETS_US, 1e6, |s| &s.tick_counts);
        let sum = self.shards.iter().map(|s| s.busy_us.get()).sum::<u64>() as f64 / 1e6;
        ticks.encode_histogram::<[(&str, &str); 0]>(sum, total, &buckets, None)?;

        let mut result = Ok(());
        for source in self.metrics.gauges.get().into_iter().flatten() {
            let mut groups = Gauges::new();
            source.gauges(&mut |name, help, labels, value| {
                groups.entry(name).or_insert((help, Vec::new())).1.push((labels, value))
            });
            for (name, (help, values)) in groups {
                result = result.and_then(|()| {
                    let kind = values.first().map_or(MetricType::Gauge, |(_, value)| value.kind());
                    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
                    for (labels, value) in values {
                        if labels.is_empty() {
                            return value.encode(family);
                        }
                        let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (*k, v.as_str())).collect();
                        value.encode(family.encode_family(&labels)?)?;
                    }
                    Ok(())
                });
            }
        }
        result
    }
}

impl ShardCollector {
    /// A histogram's buckets over all shards, with bounds of which so many are a second, and the count of all.
    #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
    fn buckets(&self, bounds: &[u64], second: f64, of: fn(&ShardStats) -> &[Stat]) -> (Vec<(f64, u64)>, u64) {
        let counts = |i: usize| self.shards.iter().filter_map(|s| of(s).get(i)).map(Stat::get).sum::<u64>();
        let bounds = bounds.iter().map(|bound| *bound as f64 / second).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.enumerate().map(|(i, bound)| (bound, counts(i))).collect();
        let total = buckets.iter().map(|(_, n)| n).sum();
        (buckets, total)
    }
}

type Labels = Vec<(&'static str, String)>;

/// Help text and values of each name.
type Gauges = BTreeMap<&'static str, (&'static str, Vec<(Labels, Reading)>)>;

fn put(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let metric = encoder.encode_descriptor(name, help, None, kind)?;
    match kind {
        MetricType::Counter => ConstCounter::new(value).encode(metric),
        _ => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(metric),
    }
}

/// The text that `GET /metrics` answers to who does not ask for OpenMetrics.
pub fn classic_text(registry: &Registry) -> String {
    classic::from_open_metrics(&text(registry))
}

/// The text that `GET /metrics` answers, as OpenMetrics.
pub fn text(registry: &Registry) -> String {
    let mut out = String::new();
    if encode(&mut out, registry).is_err() {
        out.push_str("# encoding failed\n");
    }
    out
}
