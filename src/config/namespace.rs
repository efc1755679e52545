//! `[namespace.NAME]`: how topics are delivered and kept, and who may do what with them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::form::PayloadForm;
use crate::limits;

/// What a subscriber who falls behind, or is throttled, gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Every delta in order.
    Stream,
    /// The newest value only.
    Latest,
    /// One merge patch in place of many, or the whole object.
    Merge,
}

impl Class {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Latest => "latest",
            Self::Merge => "merge",
        }
    }

    /// Whether deltas of this class may be replaced by newer state.
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
    /// What deltas are made of. `bytes` is not for `merge`.
    pub payload: PayloadForm,
    /// Deliveries a second and subscriber at most; the first change goes at once. Not for `stream`.
    pub max_rate: Option<f64>,
    /// A session that was visited less than this ago waits for its deltas, so that one visit carries more of them; one that
    /// was not gets them at once.
    #[serde(with = "humantime_serde")]
    pub flush_interval: Duration,
    /// Subscribers are told when a topic has had no delta for this long.
    #[serde(with = "humantime_serde")]
    pub stale_after: Option<Duration>,
    /// A topic ends when it has had no delta for this long, by the time of the source. 0 is never.
    #[serde(with = "humantime_serde")]
    pub expire_after: Duration,
    /// Deltas kept for recovery.
    pub history_size: usize,
    /// Age past which a kept delta goes.
    #[serde(with = "humantime_serde")]
    pub history_ttl: Duration,
    /// Bytes of payload kept for recovery.
    pub history_bytes: usize,
    /// Whether clients without a token may subscribe (where `access.anonymous` lets them in at all).
    #[serde(alias = "anonymous")]
    pub allow_subscribe_for_anonymous: bool,
    /// Whether any client with a token may subscribe, whatever topics its token names.
    pub allow_subscribe_for_client: bool,
    /// Whether the users named behind the `#` of a topic's name may subscribe to it, whatever topics their tokens name.
    pub allow_user_limited_channels: bool,
    /// Who may publish over a socket.
    pub allow_publish_for_subscriber: bool,
    /// Any client with a token.
    pub allow_publish_for_client: bool,
    /// Any client at all.
    pub allow_publish_for_anonymous: bool,
    /// Who may read history over a socket.
    pub allow_history_for_subscriber: bool,
    /// Any client with a token.
    pub allow_history_for_client: bool,
    /// Any client at all.
    pub allow_history_for_anonymous: bool,
    /// Keep account of who is subscribed.
    pub presence: bool,
    /// Who may read that.
    pub allow_presence_for_subscriber: bool,
    /// Any client with a token.
    pub allow_presence_for_client: bool,
    /// Any client at all.
    pub allow_presence_for_anonymous: bool,
    /// Announce who comes and goes, to those who ask for it and may read presence.
    pub join_leave: bool,
    /// Announce it to every Centrifuge subscriber.
    pub force_push_join_leave: bool,
    /// Every Centrifuge subscriber can recover; without it, only who asks for it.
    pub force_recovery: bool,
    /// Every Centrifuge subscriber is told that its position is watched over; without it, only who asks for it.
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

/// Something that a client does with a topic, beside subscribing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Hand in a delta.
    Publish,
    /// Read its past.
    History,
    /// Read who is subscribed.
    Presence,
}

impl Namespace {
    /// Whether subscribers may ask for Fossil deltas.
    pub fn has_fossil(&self) -> bool {
        self.allowed_delta_types.contains(&DeltaType::Fossil)
    }

    /// Whether it has to be known who is subscribed.
    pub fn counts_members(&self) -> bool {
        self.presence || self.join_leave
    }

    /// Whether a client may do something: one with a token or without, subscribed to the topic or not.
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
