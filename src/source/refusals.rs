//! Tells of one source's refused and suspicious entries: in its status, in metrics, and in the log.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::SourceStatus;
use super::namespaces::Namespaces;
pub(crate) use super::refusal::Head;
pub use super::refusal::{Reason, Record, Refusal, Told, suspicion};
use crate::clock::unix_ms;
use crate::config::Config;
use crate::limits::{REFUSAL_CHARS_SHOWN, REFUSAL_LINES_PER_MINUTE, REFUSAL_TOPICS_REMEMBERED};
use crate::metrics::{Metrics, SourceReason};
use crate::name::{is_in_namespace, namespace_of, shown};
use crate::rate::Rate;
use crate::topic::PublishError;

/// One line a minute for each topic and reason.
const OF_TOPIC: Rate = Rate::new(1, 60);

/// Lines for each reason. One costs what comes back in a minute at one unit a second.
const OF_REASON: Rate = Rate::new(REFUSAL_LINES_PER_MINUTE, 60 * REFUSAL_LINES_PER_MINUTE);

/// What a line costs of either.
const LINE: u64 = 60;

/// What was logged of a topic, and what was not.
#[derive(Debug, Default)]
struct Line {
    used_ns: u64,
    unsaid: u64,
}

/// Which lines are due. Its size is fixed, whatever comes.
#[derive(Debug, Default)]
struct Lines {
    hasher: RandomState,
    topics: HashMap<(Reason, u64), Line>,
    reasons: HashMap<Reason, Line>,
}

impl Lines {
    /// Whether a line is due, and how many like it were not said before.
    fn due(&mut self, reason: Reason, topic: Option<&str>, now_ns: u64) -> Option<u64> {
        let key = (reason, self.hasher.hash_one(topic));
        let of_reason = self.reasons.entry(reason).or_default();
        let has_room = |line: &Line| {
            let mut used_ns = line.used_ns;
            OF_REASON.spend(&mut used_ns, now_ns, LINE)
        };
        if !self.topics.contains_key(&key) && has_room(of_reason) && self.topics.len() >= REFUSAL_TOPICS_REMEMBERED {
            let reasons = &mut self.reasons;
            self.topics.retain(|(reason, _), line| {
                let is_over = Rate::is_unused(line.used_ns, now_ns);
                if is_over {
                    reasons.entry(*reason).or_default().unsaid += line.unsaid;
                }
                !is_over
            });
        }
        let of_reason = self.reasons.entry(reason).or_default();
        let is_full = self.topics.len() >= REFUSAL_TOPICS_REMEMBERED;
        let Some(of_topic) = (match self.topics.get_mut(&key) {
            Some(line) => Some(line),
            None if !is_full && has_room(of_reason) => Some(self.topics.entry(key).or_default()),
            None => None,
        }) else {
            of_reason.unsaid += 1;
            return None;
        };
        if !has_room(of_reason) || !OF_TOPIC.spend(&mut of_topic.used_ns, now_ns, LINE) {
            of_topic.unsaid += 1;
            return None;
        }
        OF_REASON.spend(&mut of_reason.used_ns, now_ns, LINE);
        Some(std::mem::take(&mut of_topic.unsaid) + std::mem::take(&mut of_reason.unsaid))
    }
}

/// Says of one source's entries why they were refused: in its status, in metrics, and in the log, though not each of them.
pub(super) struct Refusals {
    status: Arc<SourceStatus>,
    metrics: Arc<Metrics>,
    lines: Lines,
    started: Instant,
    counters: HashMap<Reason, Counter>,
    namespaces: Namespaces,
    /// The last that was looked at and is as it should be.
    good_namespace: String,
}

impl Refusals {
    pub(super) fn new(config: &Config, status: Arc<SourceStatus>, metrics: Arc<Metrics>) -> Self {
        Self {
            status,
            metrics,
            lines: Lines::default(),
            started: Instant::now(),
            counters: HashMap::new(),
            namespaces: Namespaces::new(config),
            good_namespace: String::new(),
        }
    }

    /// An entry is not taken.
    pub(super) fn refuse(&mut self, id: &dyn Display, refusal: &Refusal) {
        if !refusal.is_counted {
            self.metrics.refused_delta(refusal.reason.label());
        }
        self.status.skip();
        let source = crate::metrics::SourceLabel { source: self.status.name.clone() };
        self.metrics.source_skipped.get_or_create(&source).inc();
        self.tell(id, refusal, true);
    }

    /// A delta that topics did not take. Returns why, for its copy.
    pub(super) fn refuse_publish(
        &mut self,
        id: &dyn Display,
        topic: &str,
        error: &PublishError,
        head: &Head,
    ) -> Refusal {
        let refusal = self.namespaces.refusal(error, topic, head);
        self.refuse(id, &refusal);
        refusal
    }

    /// An entry is taken, though something about it is wrong.
    pub(super) fn suspect(&mut self, id: &dyn Display, refusal: &Refusal) {
        self.tell(id, refusal, false);
    }

    /// Looks at the namespace of a topic that is taken: one that is not configured, and nearly is, is a slip.
    pub(super) fn look_at_namespace(&mut self, id: &dyn Display, topic: &str) {
        // As a rule the next delta is of the same namespace.
        if is_in_namespace(topic, &self.good_namespace) {
            return;
        }
        match self.namespaces.near(topic) {
            Some(refusal) => self.suspect(id, &refusal),
            None => {
                self.good_namespace.clear();
                self.good_namespace.push_str(namespace_of(topic).unwrap_or_default());
            }
        }
    }

    fn tell(&mut self, id: &dyn Display, refusal: &Refusal, is_refused: bool) {
        let (reason, label) = (refusal.reason, refusal.reason.label());
        let counter = self.counters.entry(reason).or_insert_with(|| {
            let family = if is_refused { &self.metrics.source_refused } else { &self.metrics.source_suspicious };
            family.get_or_create(&SourceReason { source: self.status.name.clone(), reason: label }).clone()
        });
        counter.inc();
        let topic = refusal.topic.as_ref().map(|topic| shown(topic.as_bytes(), REFUSAL_CHARS_SHOWN));
        let now_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if let Some(unsaid) = self.lines.due(reason, refusal.topic.as_deref(), now_ns) {
            let Refusal { text, remedy, .. } = refusal;
            let more =
                if unsaid > 0 { format!(" (and {unsaid} more since the last such line)") } else { String::new() };
            let what = if is_refused { "was refused:" } else { "was taken, but" };
            let source = &self.status.name;
            tracing::warn!(source, topic, %id, reason = label, remedy, "an entry {what} {text}{more}");
        }
        let told = |count| Told {
            count,
            at_ms: unix_ms(),
            topic,
            id: id.to_string(),
            text: refusal.text.clone(),
            remedy: refusal.remedy.clone(),
        };
        self.status.tell(is_refused, |record| {
            let place = record.reasons.entry(label).or_default();
            *place = told(place.count + 1);
            record.last = Some(label);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE_NS: u64 = 60_000_000_000;

    #[test]
    fn a_topic_and_reason_have_one_line_a_minute_and_the_next_says_how_many_there_were() {
        let mut lines = Lines::default();
        assert_eq!(lines.due(Reason::NotJson, Some("a"), 0), Some(0));
        for n in 0..812 {
            assert_eq!(lines.due(Reason::NotJson, Some("a"), n), None);
        }
        assert_eq!(lines.due(Reason::NotJson, Some("b"), 1), Some(0), "another topic has a line of its own");
        assert_eq!(lines.due(Reason::Kind, Some("a"), 1), Some(0), "and another reason");
        assert_eq!(lines.due(Reason::Kind, None, 1), Some(0), "and no topic");
        assert_eq!(lines.due(Reason::NotJson, Some("a"), MINUTE_NS - 1), None);
        assert_eq!(lines.due(Reason::NotJson, Some("a"), MINUTE_NS), Some(813));
        assert_eq!(lines.due(Reason::NotJson, Some("a"), 3 * MINUTE_NS), Some(0));
    }

    #[test]
    fn a_flood_of_topics_makes_few_lines_in_bounded_memory_and_nothing_is_left_uncounted() {
        let mut lines = Lines::default();
        let (mut said, mut more) = (0, 0);
        for minute in 0..200u64 {
            for n in 0..1_000u64 {
                let reason = Reason::ALL[(n % 3) as usize];
                let topic = format!("t{}", minute * 1_000 + n);
                if let Some(unsaid) = lines.due(reason, Some(&topic), minute * MINUTE_NS + n * 60_000_000) {
                    said += 1;
                    more += unsaid;
                }
            }
        }
        assert!(said <= 201 * 3 * REFUSAL_LINES_PER_MINUTE, "{said}");
        assert!(said >= 200 * 3 * (REFUSAL_LINES_PER_MINUTE - 1), "{said}");
        assert!(lines.topics.len() <= REFUSAL_TOPICS_REMEMBERED);
        let waiting = lines.topics.values().chain(lines.reasons.values()).map(|line| line.unsaid).sum::<u64>();
        assert_eq!(said + more + waiting, 200_000);
    }
}
