//! Commands of clients, and reasons to refuse them.

use std::fmt;

use bytes::Bytes;

use crate::limits::{
    BYTES_PER_SECOND_MIN, FLUSH_INTERVAL_MAX, RATE_STEPS, REASON_BYTES_MAX, REFUSED_NAME_BYTES_MAX,
    REFUSED_REASONS_MAX, TOPIC_NAME_BYTES_MAX,
};
use crate::name::TopicName;
use crate::position::Position;

/// The client's id for a command, which its reply repeats: a number or a short string, kept as
/// JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandId(pub(super) Option<compact_str::CompactString>);

/// One topic of a subscribe.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscribeItem {
    /// Topic.
    pub topic: TopicName,
    /// Position at the end of the last connection. An empty epoch matches any.
    pub since: Option<Position>,
    /// Options of `centrifuge` alone.
    pub options: Option<Box<SubscribeOptions>>,
}

impl SubscribeItem {
    /// Bytes of memory that it points to.
    pub fn boxed_bytes(&self) -> usize {
        // Includes the counters of a shared name and of an epoch.
        let counts = 2 * size_of::<usize>();
        let epoch = self.since.as_ref().map_or(0, |since| counts + since.epoch.as_str().len());
        let token = self.options.as_ref().and_then(|options| options.token.as_ref()).map_or(0, String::len);
        let options = self.options.as_ref().map_or(0, |_| size_of::<SubscribeOptions>());
        counts + self.topic.as_str().len() + epoch + options + token
    }
}

/// Options of a Centrifuge subscribe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// A subscription token (JWT).
    pub token: Option<String>,
    /// The client wants to recover later.
    pub recoverable: bool,
    /// The client wants to know if its position is lost.
    pub positioned: bool,
    /// The client wants joins and leaves.
    pub join_leave: bool,
    /// The client can apply Fossil deltas.
    pub fossil: bool,
    /// The client wants an error if the subscription cannot be recovered.
    pub reject_unrecovered: bool,
}

/// Options of a subscribe in any dialect.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SubscribeTerms {
    /// Most deliveries per second on each topic.
    pub max_rate: Option<f64>,
    /// Number of past deltas to send first (`stream` topics).
    pub history: u32,
}

impl SubscribeTerms {
    /// Checks the options.
    ///
    /// # Errors
    /// The rate is invalid.
    pub fn new(max_rate: Option<f64>, history: u32) -> Result<Self, Refusal> {
        match max_rate {
            Some(rate) if !(rate.is_finite() && rate >= RATE_STEPS[0]) => {
                Err(Refusal::new(400, format!("max_rate is {rate}, the least is {}", RATE_STEPS[0])))
            }
            _ => Ok(Self { max_rate, history }),
        }
    }
}

/// A client's settings for its session. `None` leaves a setting unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionWishes {
    /// Time after a write for which deliveries may wait to share the next one, ms; 0 means the
    /// namespaces' own.
    pub flush_interval_ms: Option<u16>,
    /// Limit on sent bytes/s; 0 means no limit.
    pub bytes_per_second: Option<u32>,
    /// Several deliveries in one message; in `plain` as a list. Centrifuge always does this.
    pub batch: Option<bool>,
}

impl SessionWishes {
    /// Checks the settings.
    ///
    /// # Errors
    /// A value is out of bounds.
    pub fn check(self) -> Result<Self, Refusal> {
        let longest = FLUSH_INTERVAL_MAX.as_millis();
        if let Some(ms) = self.flush_interval_ms.filter(|ms| u128::from(*ms) > longest) {
            return Err(Refusal::new(400, format!("flush_interval_ms is {ms}, the most is {longest}")));
        }
        if let Some(rate) = self.bytes_per_second.filter(|rate| (1..BYTES_PER_SECOND_MIN).contains(rate)) {
            let reason =
                format!("bytes_per_second is {rate}, the least is {BYTES_PER_SECOND_MIN} (or 0 for no ceiling)");
            return Err(Refusal::new(400, reason));
        }
        Ok(self)
    }
}

/// The requested part of a topic's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Most deltas; 0 asks for the position alone.
    pub limit: usize,
    /// Only deltas after this position, or before it in reverse.
    pub since: Option<Position>,
    /// Newest first.
    pub reverse: bool,
}

/// A command of a client.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "`id` is echoed, `topic` is the topic, and the rest is named as in the protocols")]
pub enum Command {
    /// Starts deliveries. `items` have valid names; `refused` has the others, which the same reply
    /// names.
    Subscribe { id: CommandId, items: Vec<SubscribeItem>, refused: Refused, terms: SubscribeTerms },
    /// Ends deliveries.
    Unsubscribe { id: CommandId, topics: Vec<TopicName>, refused: Refused },
    /// Changes the rate of live subscriptions; without a rate, to the namespace's.
    Rate { id: CommandId, topics: Vec<TopicName>, refused: Refused, max_rate: Option<f64> },
    /// Changes the session's settings.
    Session { id: CommandId, wishes: SessionWishes },
    /// Sends the state now.
    Snapshot { id: CommandId, topics: Vec<TopicName>, refused: Refused },
    /// Shows a token: the first one, or a newer one.
    Auth { id: CommandId, token: String },
    /// Measures a round trip.
    Ping { id: CommandId },
    /// The first command of a Centrifuge session: its token, and positions in the topics that the
    /// server subscribes it to.
    Connect { id: CommandId, token: Option<String>, items: Vec<SubscribeItem> },
    /// Publishes a delta.
    Publish { id: CommandId, topic: TopicName, data: Bytes },
    /// Reads a part of a topic's history.
    History { id: CommandId, topic: TopicName, query: HistoryQuery },
    /// Reads the list of subscribers, or only their number.
    Presence { id: CommandId, topic: TopicName, stats: bool },
    /// Shows a newer token for the session.
    Refresh { id: CommandId, token: String },
    /// Shows a newer token for a subscription.
    SubRefresh { id: CommandId, topic: TopicName, token: String },
    /// Calls the endpoint behind this server.
    Rpc { id: CommandId, method: String, data: Bytes },
    /// A message that needs no answer.
    Send,
    /// The answer to a ping of the server.
    Pong,
}

/// Why a command was refused, with its topic if it is about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Like an HTTP status: 400 malformed, 401 no token, 403 not allowed, 404 unknown command, 409
    /// already subscribed, 416 position gone, 429 over a limit, [`Refusal::TOKEN_EXPIRED`],
    /// [`Refusal::UNKNOWN_TOPIC`], 501 not available, 503 try again. Codes from 1000 on are a
    /// backend's own.
    pub code: u16,
    /// For people.
    pub reason: String,
    /// The topic, as sent.
    pub topic: Option<String>,
    /// The cause's name and the remedy, if a delta is at fault.
    pub advice: Option<Box<Advice>>,
}

/// Advice to a publisher about a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// The cause's name in metrics, logs and `/status`.
    pub label: &'static str,
    /// The remedy.
    pub remedy: String,
}

impl Refusal {
    /// A token that has expired. `plain` clients get 401, the others are told to get a new one.
    pub const TOKEN_EXPIRED: u16 = 498;

    /// A topic that cannot exist. `plain` clients get 404, the others 102 "unknown channel".
    pub const UNKNOWN_TOPIC: u16 = 494;

    /// A refusal without a topic.
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), topic: None, advice: None }
    }

    /// The same, with its cause and the remedy.
    #[must_use]
    pub fn advising(mut self, label: &'static str, remedy: impl Into<String>) -> Self {
        self.advice = Some(Box::new(Advice { label, remedy: remedy.into() }));
        self
    }

    /// The same, about `topic`.
    #[must_use]
    pub fn about(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }
}

/// The refused topics of one command, by reason. Its size is limited ([`REFUSED_REASONS_MAX`],
/// [`REFUSED_NAME_BYTES_MAX`]), however long the command is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    first: Option<Refusal>,
    groups: Vec<RefusedGroup>,
    count: usize,
    name_bytes: usize,
}

/// Topics that were refused for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedGroup {
    /// See [`Refusal::code`].
    pub code: u16,
    /// For people.
    pub reason: String,
    /// The first topics, as sent, each cut to the longest valid length.
    pub topics: Vec<String>,
    /// Number of further topics.
    pub more: usize,
}

impl Refused {
    /// Adds one topic of the command.
    pub fn add(&mut self, refusal: Refusal) {
        self.count += 1;
        let topic = clipped(refusal.topic.as_deref().unwrap_or_default(), TOPIC_NAME_BYTES_MAX);
        let fits = self.name_bytes + topic.len() <= REFUSED_NAME_BYTES_MAX;
        let known = self.groups.iter().position(|g| g.code == refusal.code && g.reason == refusal.reason);
        // Reasons above the limit are counted with the last reason.
        let full = self.groups.len() >= REFUSED_REASONS_MAX;
        let at = known.or_else(|| full.then(|| self.groups.len().saturating_sub(1)));
        match at.and_then(|at| self.groups.get_mut(at)) {
            Some(group) if fits && known.is_some() => {
                group.topics.push(topic.to_owned());
                self.name_bytes += topic.len();
            }
            Some(group) => group.more += 1,
            None => {
                let reason = clipped(&refusal.reason, REASON_BYTES_MAX).to_owned();
                let topics = if fits { vec![topic.to_owned()] } else { Vec::new() };
                self.name_bytes += if fits { topic.len() } else { 0 };
                let more = usize::from(!fits);
                self.groups.push(RefusedGroup { code: refusal.code, reason, topics, more });
            }
        }
        if self.first.is_none() {
            let reason = clipped(&refusal.reason, REASON_BYTES_MAX).to_owned();
            let topic = refusal.topic.as_deref().map(|topic| clipped(topic, TOPIC_NAME_BYTES_MAX).to_owned());
            self.first = Some(Refusal { code: refusal.code, reason, topic, advice: None });
        }
    }

    /// The first refusal, if there is one.
    pub fn first(&self) -> Option<&Refusal> {
        self.first.as_ref()
    }

    /// All of them, by reason.
    pub fn groups(&self) -> &[RefusedGroup] {
        &self.groups
    }

    /// Number of refused topics.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether no topic was refused.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The text of a parser's error, cut to a limited length, because it may repeat input.
pub(super) fn bounded(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    clipped(&text, REASON_BYTES_MAX).to_owned()
}

/// The first bytes of `text`, at most `bytes_max`, cut between characters.
pub(super) fn clipped(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or_default()
}

/// Names of commands, for replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Command`")]
pub enum Op {
    Subscribe,
    Unsubscribe,
    Rate,
    Session,
    Snapshot,
    Auth,
    Ping,
    Connect,
    Publish,
    History,
    Presence,
    PresenceStats,
    Refresh,
    SubRefresh,
    Rpc,
    /// A subscribe that the server began.
    ServerSubscribe,
    Unknown,
}

/// A command that could not be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct BadCommand {
    /// Repeated in the answer, if it could be read.
    pub id: CommandId,
    /// The command's name, if it could be read.
    pub op: Op,
    /// The fault.
    pub refusal: Refusal,
    /// The session must be closed without an answer.
    pub fatal: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However many topics a command names, and whatever they are, its refusals take bounded
        /// memory, and none is lost.
        #[test]
        fn refusals_are_bounded_and_all_are_counted(topics in prop::collection::vec((".{0,400}", 0u8..20), 1..60)) {
            let mut refused = Refused::default();
            for (topic, reason) in &topics {
                refused.add(Refusal::new(400, format!("reason {reason}")).about(topic.clone()));
            }
            prop_assert_eq!(refused.len(), topics.len());
            let told: usize = refused.groups().iter().map(|g| g.topics.len() + g.more).sum();
            prop_assert_eq!(told, topics.len());
            let names: usize = refused.groups().iter().flat_map(|g| &g.topics).map(String::len).sum();
            prop_assert!(names <= REFUSED_NAME_BYTES_MAX && refused.groups().len() <= REFUSED_REASONS_MAX);
            let first = refused.first().unwrap();
            prop_assert!(topics[0].0.starts_with(first.topic.as_deref().unwrap()));
        }
    }
}
