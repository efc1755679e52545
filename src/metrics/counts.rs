//! What the control plane counts.

use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::labels::{
    HttpTimeout, KeySetFetch, ProxyHeaderFault, PublishRefusal, SubscribeAhead, TokenRefusal, UpgradeRefusal,
};
use super::sampled::GaugeSource;

/// One label: the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Reason {
    pub(crate) reason: &'static str,
}

/// One label: the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    /// Its name.
    pub source: String,
}

/// Two labels: the source and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceReason {
    /// Its name.
    pub source: String,
    /// One of those in docs/redis.md.
    pub reason: &'static str,
}

/// One label: the name of the key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KeyLabel {
    key: String,
}

/// The counts of the control plane.
#[derive(Debug, Default)]
#[allow(missing_docs, reason = "see the help texts in `table`")]
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
    pub misplaced_marks_forgotten: Counter,
    pub moved_deltas_skipped: Counter,
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
    pub http_evicted: Counter,
    pub http_address_refused: Counter,
    pub http_idle_closed: Counter,
    pub health_answered_without_slot: Counter,
    pub hosts_refused: Counter,
    pub key_waits_refused: Counter,
    pub tls_waits: Counter,
    pub http_malformed: Counter,
    pub http_timeouts: Family<Reason, Counter>,
    pub answers_refused: Counter,
    pub memory_ceilings_lowered: Counter,
    pub snapshots_delayed: Counter,
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
    pub requests_unanswered: Counter,
    pub replies_refused_by_address: Counter,
    pub cluster_dropped: Counter,
    pub(super) gauges: OnceLock<Vec<Box<dyn GaugeSource>>>,
}

impl Metrics {
    /// Counts a refused delta.
    pub fn refused_delta(&self, reason: &'static str) {
        self.deltas_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a refused token.
    pub fn refused_token(&self, reason: TokenRefusal) {
        self.tokens_refused.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// Counts a fetch of the key set.
    pub fn fetched_key_set(&self, outcome: KeySetFetch) {
        self.key_set_fetches.get_or_create(&Reason { reason: outcome.label() }).inc();
    }

    /// Counts a subscribe whose client's offset was ahead of this node.
    pub fn subscribe_was_ahead(&self, reason: SubscribeAhead) {
        self.subscribes_ahead.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// Counts a refused upgrade.
    pub fn refused_upgrade(&self, reason: UpgradeRefusal) {
        self.upgrades_refused.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// Counts an HTTP connection that timed out.
    pub fn timed_out_http(&self, reason: HttpTimeout) {
        self.http_timeouts.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// Counts a refused publish request.
    pub fn refused_publish(&self, reason: PublishRefusal) {
        self.publish_refused.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// Counts a delta that the publish API took with a warning.
    pub fn publish_warned(&self, reason: &'static str) {
        self.publish_warned.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a request with this key.
    pub fn used_key(&self, name: &str) {
        self.api_key_requests.get_or_create_owned(&KeyLabel { key: name.to_owned() }).inc();
    }

    /// Counts a proxy's connection closed because of its first bytes.
    pub fn refused_proxy_header(&self, reason: ProxyHeaderFault) {
        self.proxy_headers_refused.get_or_create(&Reason { reason: reason.label() }).inc();
    }

    /// Sets the sources of gauges, once.
    pub fn set_gauges(&self, gauges: Vec<Box<dyn GaugeSource>>) {
        let _ = self.gauges.set(gauges);
    }
}
