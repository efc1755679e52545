//! What clients ask for, and why it may be refused.

use bytes::Bytes;

use crate::limits::{
    BYTES_PER_SECOND_MIN, FLUSH_INTERVAL_MAX, RATE_STEPS, REASON_BYTES_MAX, REFUSED_NAME_BYTES_MAX,
    REFUSED_REASONS_MAX, TOPIC_NAME_BYTES_MAX,
};
use crate::name::TopicName;
use crate::position::Position;

/// The client's name for a command, echoed in its reply: a number or a short string, kept as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandId(pub(super) Option<compact_str::CompactString>);

/// One topic of a subscribe.
#[derive(Debug, Clone, PartialEq)]
pub struct SubscribeItem {
    /// Topic.
    pub topic: TopicName,
    /// Where the last connection ended. An empty epoch is any.
    pub since: Option<Position>,
    /// What only `centrifuge` has.
    pub options: Option<Box<SubscribeOptions>>,
}

impl SubscribeItem {
    /// Bytes of memory beside its own.
    pub fn boxed_bytes(&self) -> usize {
        // With the counts of a name that is shared, and of an epoch.
        let counts = 2 * size_of::<usize>();
        let epoch = self.since.as_ref().map_or(0, |since| counts + since.epoch.as_str().len());
        let token = self.options.as_ref().and_then(|options| options.token.as_ref()).map_or(0, String::len);
        let options = self.options.as_ref().map_or(0, |_| size_of::<SubscribeOptions>());
        counts + self.topic.as_str().len() + epoch + options + token
    }
}

/// What a Centrifuge client may ask for with a subscribe.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubscribeOptions {
    /// A subscription token (JWT).
    pub token: Option<String>,
    /// It wants to recover later.
    pub recoverable: bool,
    /// It wants to be told if its position is lost.
    pub positioned: bool,
    /// It wants to know who comes and goes.
    pub join_leave: bool,
    /// It can apply Fossil deltas.
    pub fossil: bool,
    /// It wants an error in place of a subscription that could not be recovered.
    pub reject_unrecovered: bool,
}

/// What any subscriber may ask for beside topics.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SubscribeTerms {
    /// Deliveries a second at most, each topic.
    pub max_rate: Option<f64>,
    /// Deltas of history wanted first (`stream` topics).
    pub history: u32,
}

impl SubscribeTerms {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// If the rate is none.
    pub fn new(max_rate: Option<f64>, history: u32) -> Result<Self, Refusal> {
        match max_rate {
            Some(rate) if !(rate.is_finite() && rate >= RATE_STEPS[0]) => {
                Err(Refusal::new(400, format!("max_rate is {rate}, the least is {}", RATE_STEPS[0])))
            }
            _ => Ok(Self { max_rate, history }),
        }
    }
}

/// How a client wants its session to be served. What is `None` stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionWishes {
    /// Deliveries may wait so long after the last visit for others to come with them, ms; 0 is as the namespaces say.
    pub flush_interval_ms: Option<u16>,
    /// Ceiling on what is sent, bytes/s; 0 is none.
    pub bytes_per_second: Option<u32>,
    /// Several deliveries in one message: in `plain` a list. Centrifuge always has it.
    pub batch: Option<bool>,
}

impl SessionWishes {
    /// Checks what was asked for.
    ///
    /// # Errors
    /// If a value is out of bounds.
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

/// Which part of a topic's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryQuery {
    /// Deltas at most; 0 asks for the position alone.
    pub limit: usize,
    /// Only those after this (or before it, in reverse).
    pub since: Option<Position>,
    /// Newest first.
    pub reverse: bool,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "`id` is echoed, `topic` is the topic, and the rest is named as in the protocols")]
pub enum Command {
    /// Start deliveries. `items` have valid names; the others are in `refused`, and the one reply names them.
    Subscribe { id: CommandId, items: Vec<SubscribeItem>, refused: Refused, terms: SubscribeTerms },
    /// End deliveries.
    Unsubscribe { id: CommandId, topics: Vec<TopicName>, refused: Refused },
    /// Change the rate of subscriptions that are live; without one, to what the namespace says.
    Rate { id: CommandId, topics: Vec<TopicName>, refused: Refused, max_rate: Option<f64> },
    /// Change how the session is served.
    Session { id: CommandId, wishes: SessionWishes },
    /// Send the state now.
    Snapshot { id: CommandId, topics: Vec<TopicName>, refused: Refused },
    /// Prove who the client is, or prolong it.
    Auth { id: CommandId, token: String },
    /// Round trip.
    Ping { id: CommandId },
    /// The first of a Centrifuge session: who the client is, and what it recovers of what the server subscribed it to.
    Connect { id: CommandId, token: Option<String>, items: Vec<SubscribeItem> },
    /// Hand in a delta.
    Publish { id: CommandId, topic: TopicName, data: Bytes },
    /// Some of a topic's past.
    History { id: CommandId, topic: TopicName, query: HistoryQuery },
    /// Who is subscribed, or only how many.
    Presence { id: CommandId, topic: TopicName, stats: bool },
    /// Prolong the session.
    Refresh { id: CommandId, token: String },
    /// Prolong a subscription.
    SubRefresh { id: CommandId, topic: TopicName, token: String },
    /// Call something behind this server.
    Rpc { id: CommandId, method: String, data: Bytes },
    /// A message that wants no answer.
    Send,
    /// The answer to a ping of the server.
    Pong,
}

/// Why something was refused; with the topic where it is about one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// In the manner of HTTP: 400 malformed, 401 no token, 403 not allowed, 404 unknown command, 409 already subscribed,
    /// 416 position gone, 429 over a limit, [`Refusal::TOKEN_EXPIRED`], [`Refusal::UNKNOWN_TOPIC`], 501 not available, 503 try again; from 1000 on
    /// a backend's own.
    pub code: u16,
    /// For people.
    pub reason: String,
    /// The topic, as sent.
    pub topic: Option<String>,
    /// What its cause is called, and what to do: where a delta is at fault.
    pub advice: Option<Box<Advice>>,
}

/// What a publisher can do about a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// As metrics, logs and `/status` call the cause.
    pub label: &'static str,
    /// What to do.
    pub remedy: String,
}

impl Refusal {
    /// A token that was good: `plain` clients are told 401, the others to get a new one.
    pub const TOKEN_EXPIRED: u16 = 498;

    /// A topic that there cannot be: `plain` clients are told 404, the others 102 "unknown channel".
    pub const UNKNOWN_TOPIC: u16 = 494;

    /// A refusal that is about no topic.
    pub fn new(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), topic: None, advice: None }
    }

    /// The same, with its cause and what to do.
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

/// The topics of one command that were refused: the reason of each kind, and as many names as fit. What it holds is
/// bounded ([`REFUSED_REASONS_MAX`], [`REFUSED_NAME_BYTES_MAX`]), however long the command was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refused {
    first: Option<Refusal>,
    groups: Vec<RefusedGroup>,
    count: usize,
    name_bytes: usize,
}

/// Topics that were refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedGroup {
    /// As in [`Refusal`].
    pub code: u16,
    /// For people.
    pub reason: String,
    /// The first of the topics, as sent, each cut to the length that a name may have.
    pub topics: Vec<String>,
    /// How many more there are that are not in `topics`.
    pub more: usize,
}

impl Refused {
    /// Adds one topic of the command.
    pub fn add(&mut self, refusal: Refusal) {
        self.count += 1;
        let topic = clipped(refusal.topic.as_deref().unwrap_or_default(), TOPIC_NAME_BYTES_MAX);
        let fits = self.name_bytes + topic.len() <= REFUSED_NAME_BYTES_MAX;
        let known = self.groups.iter().position(|g| g.code == refusal.code && g.reason == refusal.reason);
        // Reasons past the bound are told with the last one that there was room for.
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

    /// How many topics were refused.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// The beginning of `text`, at most so many bytes of it, cut between characters.
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
    /// A subscribe that the server itself began.
    ServerSubscribe,
    Unknown,
}

/// A command that could not be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct BadCommand {
    /// Echoed if it could be read.
    pub id: CommandId,
    /// Which command it was, if that could be read.
    pub op: Op,
    /// What was wrong.
    pub refusal: Refusal,
    /// There is nothing to answer: the session must be closed.
    pub fatal: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However many topics a command names and whatever they are, what its refusals take is bounded and none is lost.
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
