//! The table of all metrics: name, kind, help, labels, and where the value comes from. `/metrics`,
//! the totals of `/status` and docs/metrics.md are made from it; so a new metric is a row here, and
//! the place where it is counted.

use std::sync::Arc;

use prometheus_client::encoding::EncodeMetric;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::counts::Metrics;
use super::labels::{
    HttpTimeout, KeySetFetch, ProxyHeaderFault, PublishRefusal, SubscribeAhead, TokenRefusal, UpgradeRefusal,
};
use super::reached::limits_reached;
use super::stats::{AGE_BUCKETS_MS, ShardStats, Stat, TICK_BUCKETS_US};
use crate::wire::close::CloseReason;

/// A label of a metric.
#[derive(Debug)]
pub(super) struct Label {
    pub(super) name: &'static str,
    /// Its possible values; empty if the configuration, or another page, names them.
    #[cfg_attr(not(test), expect(dead_code, reason = "docs/metrics.md is made from it"))]
    pub(super) values: &'static [&'static str],
}

impl Label {
    const fn of(name: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, values }
    }

    const fn free(name: &'static str) -> Self {
        Self { name, values: &[] }
    }
}

const REASON: &[Label] = &[Label::free("reason")];
const SOURCE: &[Label] = &[Label::free("source")];
const SOURCE_AND_REASON: &[Label] = &[Label::free("source"), Label::free("reason")];
const NAMESPACE: &[Label] = &[Label::free("namespace")];

/// Values of one label, each with its count.
type Family = fn(&Metrics, &[Arc<ShardStats>]) -> Vec<(&'static str, u64)>;

/// Where a metric's value comes from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Read {
    /// The sum over all shards.
    Shards(fn(&ShardStats) -> u64),
    /// A time: the shards' units per second, and the sum over all shards in these units.
    ShardTimes(f64, fn(&ShardStats) -> u64),
    /// Buckets over all shards.
    Histogram {
        bounds: &'static [u64],
        /// Units of the bounds and the sum per second.
        second: f64,
        counts: fn(&ShardStats) -> &[Stat],
        sum: fn(&ShardStats) -> u64,
    },
    /// A count of the control plane.
    ControlPlane(fn(&Metrics) -> &dyn EncodeMetric),
    /// Computed on request, by the metric's only label.
    Family(Family),
    /// A [`GaugeSource`](super::GaugeSource) reads it on request.
    Sampled,
}

/// A metric.
#[derive(Debug)]
pub(super) struct Metric {
    /// Without `nexus_push_`, and without the `_total` of a counter.
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
    pub(super) labels: &'static [Label],
    pub(super) read: Read,
    /// Whether `/status` has the total of all shards under the same name.
    pub(super) in_status: bool,
}

impl Metric {
    const fn new(name: &'static str, kind: MetricType, help: &'static str) -> Self {
        Self { name, kind, help, labels: &[], read: Read::Sampled, in_status: false }
    }

    const fn labels(mut self, labels: &'static [Label]) -> Self {
        self.labels = labels;
        self
    }

    const fn read(mut self, read: Read) -> Self {
        self.read = read;
        self
    }

    const fn in_status(mut self) -> Self {
        self.in_status = true;
        self
    }

    /// The name without its unit, and the unit.
    pub(super) fn unit(&self) -> (&'static str, Option<Unit>) {
        let unit = |suffix, unit: Unit| self.name.strip_suffix(suffix).map(|name| (name, Some(unit)));
        unit("_seconds", Unit::Seconds).or_else(|| unit("_bytes", Unit::Bytes)).unwrap_or((self.name, None))
    }
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric::new(name, MetricType::Counter, help)
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric::new(name, MetricType::Gauge, help)
}

const fn histogram(name: &'static str, help: &'static str) -> Metric {
    Metric::new(name, MetricType::Histogram, help)
}

/// Metrics about one subject.
#[derive(Debug)]
pub(super) struct Section {
    #[cfg_attr(not(test), expect(dead_code, reason = "docs/metrics.md is made from it"))]
    pub(super) title: &'static str,
    pub(super) metrics: &'static [Metric],
}

/// All metrics, in the order in which they are shown.
pub(super) fn metrics() -> impl Iterator<Item = &'static Metric> {
    SECTIONS.iter().flat_map(|section| section.metrics)
}

fn closes(_: &Metrics, shards: &[Arc<ShardStats>]) -> Vec<(&'static str, u64)> {
    let closed = |reason| shards.iter().map(|shard| shard.closes_for(reason)).sum();
    CloseReason::ALL.iter().map(|reason| (reason.label(), closed(*reason))).collect()
}

#[rustfmt::skip]
pub(super) const SECTIONS: &[Section] = &[
    Section { title: "Sessions", metrics: &[
        gauge("sessions", "Current sessions").read(Read::Sampled),
        gauge("sessions_max", "Most sessions that this node accepts").read(Read::Sampled),
        gauge("sessions_tokenless", "Current sessions without a token").read(Read::Sampled),
        gauge("subscriptions", "Current subscriptions").read(Read::Shards(|s| s.subscriptions.get())).in_status(),
        counter("upgrades", "Sockets handed to a shard").read(Read::ControlPlane(|m| &m.upgrades)),
        counter("upgrades_refused", "Upgrades refused, by reason").labels(&[Label::of("reason", UpgradeRefusal::LABELS)]).read(Read::ControlPlane(|m| &m.upgrades_refused)),
        counter("closes", "Sessions closed by the server, by reason").labels(&[Label::of("reason", &CloseReason::LABELS)]).read(Read::Family(closes)),
        counter("disconnects", "Sessions that ended without a close by the server").read(Read::Shards(|s| s.disconnects.get())),
        gauge("slow_sessions", "Sessions now with a full socket, or at their limit of bytes per second").read(Read::Shards(|s| s.slow_sessions.get())),
        counter("pings", "Pings sent to quiet sessions").read(Read::Shards(|s| s.pings.get())),
        gauge("sessions_rebalancing", "Sessions still to be closed by POST /admin/drain").read(Read::Sampled),
        counter("sessions_rebalanced", "Sessions closed so that they go to other nodes (POST /admin/drain)").read(Read::Shards(|s| s.sessions_rebalanced.get())),
    ]},
    Section { title: "Deliveries and writes", metrics: &[
        counter("deliveries", "Deltas delivered to sessions").read(Read::Shards(|s| s.deliveries.get())).in_status(),
        histogram("delivery_age_seconds", "Age of a delta when it was written to a socket, from the source's own time if it gives one").read(Read::Histogram { bounds: &AGE_BUCKETS_MS, second: 1e3, counts: |s| &s.age_counts, sum: |s| s.age_sum_ms.get() }),
        counter("snapshots", "Snapshots delivered to sessions").read(Read::Shards(|s| s.snapshots.get())),
        counter("conflated", "Deltas not delivered because a newer state was delivered instead").read(Read::Shards(|s| s.conflated.get())).in_status(),
        counter("coalesced", "Deliveries that shared a write with an earlier one").read(Read::Shards(|s| s.coalesced.get())),
        counter("writes", "Writes to sockets").read(Read::Shards(|s| s.writes.get())).in_status(),
        counter("writes_partial", "Writes that a full socket cut short").read(Read::Shards(|s| s.writes_partial.get())),
        counter("writes_early", "Times that waiting frames were written early because they reached a shard's part of limits.outgoing_total_bytes").read(Read::Shards(|s| s.writes_early.get())),
        counter("sent_bytes", "Bytes written to sockets").read(Read::Shards(|s| s.bytes.get())).in_status(),
    ]},
    Section { title: "Shards", metrics: &[
        gauge("shards", "Shard threads").read(Read::Sampled),
        gauge("shards_io_uring", "Shards that write through io_uring; the others use epoll").read(Read::Shards(|s| s.io_uring.get())),
        gauge("shard_topics", "Topics with subscribers on a shard, summed over shards").read(Read::Shards(|s| s.topics.get())),
        counter("ticks", "Ticks of all shards").read(Read::Shards(|s| s.ticks.get())),
        histogram("tick_seconds", "Length of a tick, without sleep").read(Read::Histogram { bounds: &TICK_BUCKETS_US, second: 1e6, counts: |s| &s.tick_counts, sum: |s| s.busy_us.get() }),
        counter("tick_events", "Events taken from the shards' queues").read(Read::Shards(|s| s.events.get())),
        counter("busy_seconds", "Time that shards spent in ticks").read(Read::ShardTimes(1e6, |s| s.busy_us.get())),
        gauge("flush_delay_seconds", "Adaptive flush delay, summed over the shards").read(Read::ShardTimes(1e3, |s| s.flush_delay_ms.get())),
        gauge("queue_depth", "Events waiting in the longest shard queue").read(Read::Sampled),
        counter("queue_full", "Times that a publisher found a shard's queue full and waited").read(Read::ControlPlane(|m| &m.queue_full)),
    ]},
    Section { title: "Topics", metrics: &[
        counter("deltas", "Deltas accepted").read(Read::ControlPlane(|m| &m.deltas)),
        counter("deltas_duplicate", "Deltas already known, ignored").read(Read::ControlPlane(|m| &m.deltas_duplicate)),
        counter("deltas_refused", "Refused deltas, by reason (docs/redis.md)").labels(REASON).read(Read::ControlPlane(|m| &m.deltas_refused)),
        gauge("topics", "Current published topics").read(Read::Sampled),
        gauge("topics_incomplete", "Topics whose states may lack deltas").read(Read::Sampled),
        counter("topics_refused", "Topics refused because limits.topics was reached").read(Read::ControlPlane(|m| &m.topics_refused)),
        counter("topics_expired", "Topics that were deleted or had no delta for longer than expire_after").read(Read::ControlPlane(|m| &m.topics_expired)),
        counter("topics_moved", "Times that a topic was published in another partition than before").read(Read::ControlPlane(|m| &m.topics_moved)),
        counter("topics_misplaced", "Topics published in another partition than their own (`nexus-push partition`)").read(Read::ControlPlane(|m| &m.topics_misplaced)),
        gauge("unpublished_topics", "Current topics that only subscribers named (limits.unpublished_topics)").read(Read::Sampled),
        counter("unpublished_refused", "Subscribes refused because limits.unpublished_topics, or its caller's share of it, was reached").read(Read::ControlPlane(|m| &m.unpublished_refused)),
        counter("deletions_forgotten", "Topic deletions forgotten before all partitions had been read up to them, because there were too many").read(Read::ControlPlane(|m| &m.deletions_forgotten)),
        counter("ends_forgotten", "Ended topics whose saved states this node cannot remove because there were too many; it no longer saves states").read(Read::ControlPlane(|m| &m.ends_forgotten)),
        counter("misplaced_marks_forgotten", "Entries in the wrong stream whose marks this node cannot remove because there were too many").read(Read::ControlPlane(|m| &m.misplaced_marks_forgotten)),
        counter("moved_deltas_skipped", "Deltas skipped in the old stream of a topic that moves; `nexus-push reshard` appends them to the new one").read(Read::ControlPlane(|m| &m.moved_deltas_skipped)),
        gauge("namespace_topics", "Topics of a namespace that have a state").labels(NAMESPACE).read(Read::Sampled),
        gauge("namespace_stale_topics", "Topics of a namespace without a delta for longer than its stale_after").labels(NAMESPACE).read(Read::Sampled),
        gauge("namespace_last_delta_timestamp_seconds", "Time of a namespace's last delta, in Unix seconds").labels(NAMESPACE).read(Read::Sampled),
    ]},
    Section { title: "Commands of clients", metrics: &[
        counter("commands", "Commands of clients").read(Read::Shards(|s| s.commands.get())),
        counter("commands_refused", "Commands answered with an error").read(Read::Shards(|s| s.commands_refused.get())),
        counter("subscriptions_refused", "Subscribes refused because a limit was reached (limits.subscriptions, requests waiting)").read(Read::Shards(|s| s.subscriptions_refused.get())),
        counter("pending_requests_refused", "Commands refused because pending requests together reached limits.asked_total_bytes").read(Read::Shards(|s| s.pending_requests_refused.get())),
        gauge("subscribes_waiting", "Subscribes that now wait for this node to read up to their client's offset").read(Read::ControlPlane(|m| &m.subscribes_waiting)),
        counter("subscribes_ahead", "Subscribes whose client's offset was ahead of this node, by outcome").labels(&[Label::of("reason", SubscribeAhead::LABELS)]).read(Read::ControlPlane(|m| &m.subscribes_ahead)),
        counter("snapshots_refused", "Snapshots and repeated subscribes refused because of limits.reply_bytes_per_second").read(Read::Shards(|s| s.snapshots_refused.get())),
        counter("snapshots_refused_by_address", "Snapshots and repeated subscribes refused because of limits.reply_bytes_per_address").read(Read::Shards(|s| s.snapshots_refused_by_address.get())),
        counter("states_delayed", "Times that a session waited for states or missed deltas because of limits.reply_bytes_per_second").read(Read::Shards(|s| s.states_delayed.get())),
        counter("states_delayed_by_address", "Times that a session waited for states or missed deltas because of limits.reply_bytes_per_address").read(Read::Shards(|s| s.states_delayed_by_address.get())),
        counter("snapshots_delayed", "States for sessions that waited because limits.snapshots_total_bytes was reached").read(Read::ControlPlane(|m| &m.snapshots_delayed)),
        counter("replies_refused", "History, presence, calls and states over REST refused because of limits.reply_bytes_per_second").read(Read::ControlPlane(|m| &m.replies_refused)),
        counter("replies_refused_by_address", "History, presence, calls and states over REST refused because of limits.reply_bytes_per_address").read(Read::ControlPlane(|m| &m.replies_refused_by_address)),
        counter("requests_unanswered", "Requests of sessions that a fault in this server left without an answer; the clients were asked to retry").read(Read::ControlPlane(|m| &m.requests_unanswered)),
        counter("client_publishes", "Deltas that clients published over sockets").read(Read::ControlPlane(|m| &m.client_publishes)),
        counter("reads_paused_backlog", "Times that a session's socket was not read because its backlog was half of limits.backlog_bytes").read(Read::Shards(|s| s.reads_paused_backlog.get())),
        counter("reads_paused_inflate", "Times that a session's socket was not read because its messages inflated to too many bytes per second").read(Read::Shards(|s| s.reads_paused_inflate.get())),
        counter("reads_paused_control", "Ticks in which a shard did not read its sockets because too many of its requests waited for the control plane").read(Read::Shards(|s| s.reads_paused_control.get())),
        counter("memberships_dropped", "Joins and leaves not sent to subscribers because too many of one topic waited").read(Read::Shards(|s| s.memberships_dropped.get())),
        counter("memberships_delayed", "Times that joins and leaves of a topic waited because of limits.membership_bytes_per_second").read(Read::Shards(|s| s.memberships_delayed.get())),
        counter("membership_infos_omitted", "Joins and leaves sent without their info because it exceeded the limit").read(Read::Shards(|s| s.membership_infos_omitted.get())),
        counter("announcements_withheld", "Subscriptions whose join and leave are not announced because their session makes too many").read(Read::Shards(|s| s.announcements_withheld.get())),
    ]},
    Section { title: "Sources", metrics: &[
        gauge("source_connected", "Whether the source is connected: 1 or 0").labels(SOURCE).read(Read::Sampled),
        gauge("source_lag_seconds", "Time by which this node is behind the source").labels(SOURCE).read(Read::Sampled),
        gauge("source_reach_seconds", "Age of the oldest entry of a source whose older entries were removed").labels(SOURCE).read(Read::Sampled),
        counter("source_deltas", "Deltas read from the source").labels(SOURCE).read(Read::Sampled),
        counter("source_errors", "Failures of a source, each followed by a retry").labels(SOURCE).read(Read::ControlPlane(|m| &m.source_errors)),
        counter("source_skipped", "Entries of a source that were refused, for any reason").labels(SOURCE).read(Read::ControlPlane(|m| &m.source_skipped)),
        counter("source_missed", "Times that entries of a source were gone before this node had read them, so that it loaded again").labels(SOURCE).read(Read::ControlPlane(|m| &m.source_missed)),
        counter("source_refused", "Refused entries of a source, by reason (docs/redis.md)").labels(SOURCE_AND_REASON).read(Read::ControlPlane(|m| &m.source_refused)),
        counter("source_suspicious", "Entries of a source that were accepted with a fault, by reason (docs/redis.md)").labels(SOURCE_AND_REASON).read(Read::ControlPlane(|m| &m.source_suspicious)),
        counter("refused_copied", "Refused entries that this node copied for their publishers (source.redis.refused)").read(Read::ControlPlane(|m| &m.refused_copied)),
        counter("refused_copies_dropped", "Copies of refused entries that were not written: too many waited, or Redis took none").read(Read::ControlPlane(|m| &m.refused_copies_dropped)),
        counter("epoch_changes", "Times that the offsets of a source stopped being comparable").labels(SOURCE).read(Read::ControlPlane(|m| &m.epoch_changes)),
    ]},
    Section { title: "HTTP and TLS", metrics: &[
        counter("http_refused", "HTTP and TLS connections refused because all slots and waiting places were taken").read(Read::ControlPlane(|m| &m.http_refused)),
        counter("http_evicted", "HTTP connections closed after an answer, instead of kept open, because others waited to be served").read(Read::ControlPlane(|m| &m.http_evicted)),
        counter("http_address_refused", "HTTP connections and requests refused because their address had limits.connections_per_address or more").read(Read::ControlPlane(|m| &m.http_address_refused)),
        counter("http_idle_closed", "HTTP connections closed after limits.keep_alive_timeout without a request").read(Read::ControlPlane(|m| &m.http_idle_closed)),
        counter("http_malformed", "HTTP requests refused because they are malformed, too long or ambiguous").read(Read::ControlPlane(|m| &m.http_malformed)),
        counter("http_timeouts", "HTTP connections closed because a body did not arrive, or an answer was not taken, in time").labels(&[Label::of("reason", HttpTimeout::LABELS)]).read(Read::ControlPlane(|m| &m.http_timeouts)),
        counter("handshake_timeouts", "Connections closed because their request was incomplete in time").read(Read::ControlPlane(|m| &m.handshake_timeouts)),
        counter("requests_refused", "HTTP requests answered 503 because the bodies of all requests reached limits.requests_total_bytes").read(Read::ControlPlane(|m| &m.requests_refused)),
        counter("answers_refused", "HTTP answers replaced by 503 because untaken answers reached limits.answers_total_bytes").read(Read::ControlPlane(|m| &m.answers_refused)),
        counter("health_answered_without_slot", "Requests for /healthz and /readyz answered while all slots of HTTP connections were taken").read(Read::ControlPlane(|m| &m.health_answered_without_slot)),
        counter("hosts_refused", "HTTP requests and upgrades refused because their Host is not a name of this server (server.hosts)").read(Read::ControlPlane(|m| &m.hosts_refused)),
        counter("operator_refused", "Requests for /metrics, /status and /admin refused for lack of an operator's key").read(Read::ControlPlane(|m| &m.operator_refused)),
        counter("proxy_headers_refused", "Connections of trusted proxies closed for lack of a valid PROXY header, by reason").labels(&[Label::of("reason", ProxyHeaderFault::LABELS)]).read(Read::ControlPlane(|m| &m.proxy_headers_refused)),
        counter("listings_refused", "Requests to GET /api/topics refused because their address listed too many topics").read(Read::ControlPlane(|m| &m.listings_refused)),
        counter("tls_waits", "TLS connections that waited in the kernel, with all later ones, because all slots were taken").read(Read::ControlPlane(|m| &m.tls_waits)),
        counter("tls_handshakes", "TLS handshakes completed").read(Read::ControlPlane(|m| &m.tls_handshakes)),
        counter("tls_handshakes_failed", "TLS handshakes that failed").read(Read::ControlPlane(|m| &m.tls_handshakes_failed)),
        counter("tls_reloads", "Reloads of changed certificates").read(Read::ControlPlane(|m| &m.tls_reloads)),
        counter("tls_reloads_failed", "Failed reloads of changed certificates").read(Read::ControlPlane(|m| &m.tls_reloads_failed)),
        gauge("tls_certificate_end_timestamp_seconds", "Time at which the certificate expires, in Unix seconds; 0 without TLS").read(Read::ControlPlane(|m| &m.tls_certificate_ends)),
    ]},
    Section { title: "Publish API", metrics: &[
        counter("publish_requests", "Requests to the publish API").read(Read::ControlPlane(|m| &m.publish_requests)),
        counter("publish_refused", "Publish requests refused, by reason").labels(&[Label::of("reason", PublishRefusal::LABELS)]).read(Read::ControlPlane(|m| &m.publish_refused)),
        counter("publish_warned", "Deltas that the publish API accepted with a warning, by reason (docs/redis.md)").labels(REASON).read(Read::ControlPlane(|m| &m.publish_warned)),
        counter("publish_repeated", "Publishes answered with the result of an earlier one that had the same idempotency key").read(Read::ControlPlane(|m| &m.publish_repeated)),
        counter("idempotency_forgotten", "Results of publishes with an idempotency key forgotten before their time because there were too many").read(Read::ControlPlane(|m| &m.idempotency_forgotten)),
        counter("api_key_requests", "Requests to the publish and operators' API, by the name of their key").labels(&[Label::free("key")]).read(Read::ControlPlane(|m| &m.api_key_requests)),
    ]},
    Section { title: "Tokens", metrics: &[
        gauge("tokens_waiting", "Tokens that wait to be verified").read(Read::Sampled),
        counter("tokens_refused", "Tokens refused, by reason").labels(&[Label::of("reason", TokenRefusal::LABELS)]).read(Read::ControlPlane(|m| &m.tokens_refused)),
        counter("key_set_fetches", "Fetches of access.jwks, by outcome").labels(&[Label::of("reason", KeySetFetch::LABELS)]).read(Read::ControlPlane(|m| &m.key_set_fetches)),
        counter("key_waits_refused", "Requests refused because too many waited for a fetch of the key set (access.jwks)").read(Read::ControlPlane(|m| &m.key_waits_refused)),
    ]},
    Section { title: "Memory and limits", metrics: &[
        gauge("resident_memory_bytes", "Resident memory of the process").read(Read::Sampled),
        gauge("memory_bytes", "Memory in use, by account (docs/limits.md)").labels(&[Label::free("account")]).read(Read::Sampled),
        gauge("memory_limit_bytes", "Ceiling on an account of memory_bytes; 0 is none").labels(&[Label::free("account")]).read(Read::Sampled),
        gauge("memory_ceilings_ratio", "Share of the memory ceilings that limits.memory leaves in force; 1 is all").read(Read::Sampled),
        counter("memory_ceilings_lowered", "Times that memory ceilings were lowered because too much memory was resident (limits.memory)").read(Read::ControlPlane(|m| &m.memory_ceilings_lowered)),
        gauge("backlog_bytes", "Bytes of backlog of sessions with a full socket").read(Read::Shards(|s| s.backlog_bytes.get())).in_status(),
        gauge("backlog_limit_bytes", "Ceiling on backlog_bytes (limits.backlog_total_bytes); 0 is none").read(Read::Sampled),
        counter("backlog_evictions", "Sessions closed as slow because all backlogs together reached limits.backlog_total_bytes").read(Read::Shards(|s| s.backlog_evictions.get())),
        counter("incoming_evictions", "Sessions closed because incomplete messages together reached limits.incoming_total_bytes").read(Read::Shards(|s| s.incoming_evictions.get())),
        counter("recent_deltas_evicted", "Topics whose deltas a shard no longer keeps for lagging subscriptions because limits.deltas_total_bytes was reached").read(Read::Shards(|s| s.recent_deltas_evicted.get())),
        gauge("history_bytes", "Memory of the history and cached snapshots of all topics").read(Read::Sampled),
        gauge("history_limit_bytes", "Ceiling on history_bytes (limits.history_total_bytes); 0 is none").read(Read::Sampled),
        counter("history_evicted", "Kept deltas removed because the history of all topics together reached limits.history_total_bytes").read(Read::ControlPlane(|m| &m.history_evicted)),
        gauge("state_bytes", "Memory of the states of all topics").read(Read::Sampled),
        gauge("state_limit_bytes", "Ceiling on state_bytes (limits.state_total_bytes); 0 is none").read(Read::Sampled),
        counter("state_refused", "Topics, and deltas that make a state larger, refused because limits.state_total_bytes was reached").read(Read::ControlPlane(|m| &m.state_refused)),
        counter("limits_reached", "Times that a limit was reached, by its key (docs/limits.md)").labels(&[Label::free("limit")]).read(Read::Family(limits_reached)),
    ]},
    Section { title: "The node", metrics: &[
        gauge("ready", "Whether clients should connect to this node: 1 or 0").read(Read::Sampled),
        counter("cluster_dropped", "Cluster messages dropped because the queue was full").read(Read::ControlPlane(|m| &m.cluster_dropped)),
    ]},];

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "docs/metrics.md";
    const BEGIN: &str = "<!-- From here on the page is made from src/metrics/table.rs. -->\n";

    /// How a metric's samples are named.
    fn shown(metric: &Metric) -> String {
        let suffix = if matches!(metric.kind, MetricType::Counter) { "_total" } else { "" };
        let labels: Vec<&str> = metric.labels.iter().map(|label| label.name).collect();
        match labels.is_empty() {
            true => format!("{}{suffix}", metric.name),
            false => format!("{}{suffix}{{{}}}", metric.name, labels.join(",")),
        }
    }

    fn wrapped(text: &str) -> String {
        let (mut out, mut column) = (String::new(), 0);
        for word in text.split(' ') {
            let fits = column > 0 && column + 1 + word.len() <= 100;
            out.push_str(if column == 0 {
                ""
            } else if fits {
                " "
            } else {
                "\n"
            });
            column = if fits { column + 1 + word.len() } else { word.len() };
            out.push_str(word);
        }
        out
    }

    fn page() -> String {
        let mut page = String::new();
        for section in SECTIONS {
            page.push_str(&format!("\n## {}\n\n| metric | kind | meaning |\n|---|---|---|\n", section.title));
            for metric in section.metrics {
                page.push_str(&format!("| `{}` | {} | {} |\n", shown(metric), metric.kind.as_str(), metric.help));
            }
            for metric in section.metrics {
                for label in metric.labels.iter().filter(|label| !label.values.is_empty()) {
                    let values = label.values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
                    let line = format!("The label `{}` of `{}`: {values}.", label.name, metric.name);
                    page.push_str(&format!("\n{}\n", wrapped(&line)));
                }
            }
        }
        page
    }

    /// With `UPDATE_PAGES=1` the test writes the page instead.
    #[test]
    fn the_page_of_metrics_is_the_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
        let text = std::fs::read_to_string(&path).unwrap();
        let (intro, table) = text.split_once(BEGIN).unwrap();
        if std::env::var_os("UPDATE_PAGES").is_some() {
            std::fs::write(&path, format!("{intro}{BEGIN}{}", page())).unwrap();
            return;
        }
        assert_eq!(table, page(), "{PAGE} differs from the table: UPDATE_PAGES=1 cargo test the_page_of_metrics");
    }

    #[test]
    fn names_are_unique_identifiers_in_base_units_and_helps_are_one_line() {
        let mut names = std::collections::BTreeSet::new();
        for metric in metrics() {
            let name = metric.name;
            assert!(names.insert(name), "{name} twice");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert!(!["_total", "_ms", "_us", "_milliseconds"].iter().any(|end| name.ends_with(end)), "{name}");
            assert!(metric.help.starts_with(|c: char| c.is_ascii_uppercase()), "{name}: {}", metric.help);
            assert!(!metric.help.ends_with('.') && !metric.help.contains(['\n', '|']), "{name}: {}", metric.help);
            assert_eq!(matches!(metric.read, Read::Histogram { .. }), matches!(metric.kind, MetricType::Histogram));
            assert!(!metric.in_status || matches!(metric.read, Read::Shards(_)), "{name}");
            if matches!(metric.read, Read::Family(_)) {
                assert_eq!(metric.labels.len(), 1, "{name}");
            }
        }
    }
}
