//! `[namespace.NAME]`: how topics are delivered and kept, and which clients may use them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::form::PayloadForm;
use crate::limits;

/// Deliveries to a subscriber that is lagging or throttled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Every delta in order.
    Stream,
    /// The newest value only.
    Latest,
    /// One merge patch instead of many, or the whole object.
    Merge,
}

impl Class {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Latest => "latest",
            Self::Merge => "merge",
        }
    }

    /// Whether newer state may replace deltas of this class.
    pub fn conflatable(self) -> bool {
        self != Self::Stream
    }
}

/// `[namespace.NAME]` and `[default]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// Delivery class.
    pub class: Class,
    /// Content of deltas. `bytes` is not possible with `merge`.
    pub payload: PayloadForm,
    /// Most deliveries per second and subscriber; the first change is sent at once. Not for
    /// `stream`.
    pub max_rate: Option<f64>,
    /// A session that was written to less than this time ago waits, so that its next write carries
    /// more. Other sessions get deltas at once.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// Subscribers are told when a topic has had no delta for this time.
    #[serde(with = "humantime_serde")]
    pub stale_after: Option<Duration>,
    /// A topic ends when it has had no delta for this time, by the source's clock. 0 means never.
    #[serde(with = "humantime_serde")]
    pub expire_after: Duration,
    /// Number of deltas kept for recovery.
    pub history_size: usize,
    /// Age at which a kept delta is removed.
    #[serde(with = "humantime_serde")]
    pub history_ttl: Duration,
    /// Bytes of payload kept for recovery.
    pub history_bytes: usize,
    /// Whether clients without a token may subscribe (if `access.anonymous` admits them).
    #[serde(alias = "anonymous")]
    pub allow_subscribe_for_anonymous: bool,
    /// Whether any client with a token may subscribe, whatever topics its token names.
    pub allow_subscribe_for_client: bool,
    /// Whether the users listed after the `#` of a topic's name may subscribe to it, whatever
    /// topics their tokens name.
    pub allow_user_limited_channels: bool,
    /// Subscribers may publish over a socket.
    pub allow_publish_for_subscriber: bool,
    /// Any client with a token may.
    pub allow_publish_for_client: bool,
    /// Any client may.
    pub allow_publish_for_anonymous: bool,
    /// Subscribers may read history over a socket.
    pub allow_history_for_subscriber: bool,
    /// Any client with a token may.
    pub allow_history_for_client: bool,
    /// Any client may.
    pub allow_history_for_anonymous: bool,
    /// Keep a list of subscribers.
    pub presence: bool,
    /// Subscribers may read that list.
    pub allow_presence_for_subscriber: bool,
    /// Any client with a token may.
    pub allow_presence_for_client: bool,
    /// Any client may.
    pub allow_presence_for_anonymous: bool,
    /// Announce joins and leaves to subscribers that ask for them and may read presence.
    pub join_leave: bool,
    /// Announce them to every Centrifuge subscriber.
    pub force_push_join_leave: bool,
    /// Every Centrifuge subscriber can recover; otherwise only those that ask for it.
    pub force_recovery: bool,
    /// Every Centrifuge subscriber is told that its position is checked; otherwise only those that
    /// ask for it.
    pub force_positioning: bool,
    /// Kinds of delta compression that subscribers may ask for.
    pub allowed_delta_types: Vec<DeltaType>,
}

/// The namespace of the server's own topics.
pub const OPS: &str = "ops";

impl Namespace {
    pub(super) fn ops(open: bool) -> Self {
        Self { class: Class::Merge, history_size: 2, allow_subscribe_for_anonymous: open, ..Self::default() }
    }
}

/// A kind of delta compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeltaType {
    /// Fossil SCM's format.
    Fossil,
}

/// An action of a client on a topic, other than subscribing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Publish a delta.
    Publish,
    /// Read the history.
    History,
    /// Read the list of subscribers.
    Presence,
}

impl Namespace {
    /// Whether subscribers may ask for Fossil deltas.
    pub fn has_fossil(&self) -> bool {
        self.allowed_delta_types.contains(&DeltaType::Fossil)
    }

    /// Whether the list of subscribers is needed.
    pub fn counts_members(&self) -> bool {
        self.presence || self.join_leave
    }

    /// Whether a client may act: with a token or without, subscribed to the topic or not.
    pub fn allows(&self, action: Action, with_token: bool, subscribed: bool) -> bool {
        let (subscriber, client, anonymous) = match action {
            Action::Publish => {
                (self.allow_publish_for_subscriber, self.allow_publish_for_client, self.allow_publish_for_anonymous)
            }
            Action::History => {
                (self.allow_history_for_subscriber, self.allow_history_for_client, self.allow_history_for_anonymous)
            }
            Action::Presence => {
                (self.allow_presence_for_subscriber, self.allow_presence_for_client, self.allow_presence_for_anonymous)
            }
        };
        (subscriber && subscribed) || (client && with_token) || anonymous
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self {
            class: Class::Stream,
            payload: PayloadForm::Json,
            max_rate: None,
            flush_interval: Duration::ZERO,
            stale_after: None,
            expire_after: limits::EXPIRE_AFTER,
            history_size: limits::HISTORY_DELTAS,
            history_ttl: limits::HISTORY_TTL,
            history_bytes: limits::HISTORY_BYTES,
            allow_subscribe_for_anonymous: true,
            allow_subscribe_for_client: false,
            allow_user_limited_channels: false,
            allow_publish_for_subscriber: false,
            allow_publish_for_client: false,
            allow_publish_for_anonymous: false,
            allow_history_for_subscriber: true,
            allow_history_for_client: false,
            allow_history_for_anonymous: false,
            presence: false,
            allow_presence_for_subscriber: false,
            allow_presence_for_client: false,
            allow_presence_for_anonymous: false,
            join_leave: false,
            force_push_join_leave: false,
            force_recovery: true,
            force_positioning: true,
            allowed_delta_types: Vec::new(),
        }
    }
}
