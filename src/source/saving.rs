//! Rules of saving that hold for every source: when a node saves, when it leaves that to others, when it saves everything
//! again, and what a save says of states that the node does not know.

use std::fmt::Display;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Feed;
use crate::name::TopicName;
use crate::position::Epoch;
use crate::topic::{Lifetime, SavedHole, SourceId};

/// Least time between two saves, however short the stream.
pub(super) const EVERY_LEAST: Duration = Duration::from_secs(1);

/// Rounds without a save by any node, after which a node saves whose states may lack deltas.
const ROUNDS_UNSAVED: u32 = 3;

/// Incomplete states that are looked for among the saved ones in one round.
const COMPLETED_AT_ONCE: usize = 500;

/// Saves the states of one source, in rounds.
pub(super) trait Saves: Send {
    /// Why a round failed.
    type Error: Display;

    /// Time between two looks at how long the next round is waited for.
    const LOOK_EVERY: Duration;

    /// Time between two rounds.
    fn wait(&self) -> Duration;

    /// Looks at what changes that time.
    fn look(&mut self) -> impl Future<Output = ()> + Send;

    /// Saves, if this node is to.
    fn round(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Saves the states of `stream` again and again. A round that has begun when it is stopped comes to its end.
pub(super) async fn run<S: Saves>(mut saver: S, stream: &str, stop: &CancellationToken) {
    loop {
        let began = Instant::now();
        loop {
            let left = saver.wait().saturating_sub(began.elapsed());
            if left.is_zero() {
                break;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(left.min(S::LOOK_EVERY)) => {}
            }
            // The stream may have come to reach back less far than it did.
            if began.elapsed() < saver.wait() {
                saver.look().await;
            }
        }
        if let Err(error) = saver.round().await {
            tracing::warn!(stream, %error, "topic states could not be saved");
        }
    }
}

/// Time between two saves: shorter where the stream does not reach back far.
pub(super) fn interval(every: Duration, reach: Option<Duration>) -> Duration {
    reach.map_or(every, |reach| every.min((reach / 4).max(EVERY_LEAST)))
}

/// What a saver knows from earlier rounds. `P` is a position in the stream.
#[derive(Debug, Default)]
pub(super) struct Rounds<P> {
    /// The position that was found saved.
    found: P,
    /// For how many rounds it has been the same, though this node has read on.
    unsaved: u32,
    /// Whether some states may lack deltas.
    is_incomplete: bool,
    /// Whether this node missed deltas, so that it may not know all topics.
    has_missed: bool,
    /// Whether states are saved, and the node that saved them had missed deltas.
    others_missed: Option<bool>,
    /// The position that this node saved last, and of which epoch.
    finished: Option<(Epoch, P)>,
    /// The highest saved position that was seen, and of which epoch.
    seen: Option<(Epoch, P)>,
    /// Up to when topics had ended on any node in the round before, Unix ms of the stream's clock.
    expired_ms: Option<u64>,
    /// The same when states were last saved again because other nodes had ended topics that this one keeps.
    resaved_ms: u64,
    /// Whether other nodes have ended topics that this one keeps.
    lives_longer: bool,
    /// Incomplete topics that were looked for already.
    skip: usize,
}

impl<P: Copy + Ord + Default> Rounds<P> {
    /// Another round begins: this node has read up to `read`, and states are saved up to `saved`. With `others_missed`, the
    /// node that saved them had missed deltas; `None` if none are saved.
    pub(super) fn begin(&mut self, saved: P, read: P, others_missed: Option<bool>) {
        // Where nothing came since, no node has anything to save.
        let is_overdue = saved == self.found && read > saved;
        (self.found, self.unsaved) = (saved, if is_overdue { self.unsaved + 1 } else { 0 });
        (self.others_missed, self.is_incomplete) = (others_missed, false);
    }

    /// Topics have ended for want of deltas on any node up to `expired_ms`, Unix ms of the stream's clock. This node began
    /// with saved states up to `restored`, if with any.
    pub(super) fn look_at_ends(&mut self, feed: &Feed, source: SourceId, expired_ms: u64, restored: P) {
        // Topics that have ended by now on this node too are removed by the next round.
        let before_ms = self.expired_ms.replace(expired_ms);
        if before_ms.is_none() && restored == P::default() {
            // Everything that is known is to be saved anyway.
            self.resaved_ms = expired_ms;
        }
        let before_ms = before_ms.unwrap_or(0);
        self.lives_longer = before_ms > feed.topics.expired_ms(source) && before_ms > self.resaved_ms;
    }

    /// Incomplete topics to look for among the saved states. Those that cannot be made whole do not keep others from it.
    pub(super) fn incomplete(&mut self, feed: &Feed, source: SourceId) -> Vec<TopicName> {
        self.is_incomplete = feed.topics.incomplete(source) > 0;
        if !self.is_incomplete {
            return Vec::new();
        }
        let names = feed.topics.incomplete_names(source, self.skip, COMPLETED_AT_ONCE);
        self.skip = if names.len() < COMPLETED_AT_ONCE { 0 } else { self.skip + COMPLETED_AT_ONCE };
        names
    }

    /// Whether no other node has saved for so long that this one does, whatever it lacks.
    pub(super) fn is_overdue(&self) -> bool {
        self.unsaved >= ROUNDS_UNSAVED
    }

    /// Whether this node leaves saving to others: of several nodes, one that missed nothing saves.
    pub(super) fn gives_way(&mut self, feed: &Feed, source: SourceId) -> bool {
        self.has_missed = feed.topics.missed(source).is_some();
        let others_know_more = self.has_missed && self.others_missed == Some(false);
        (self.is_incomplete || others_know_more) && !self.is_overdue()
    }

    /// This node saves now. Marks all states unsaved if others have saved less than it knows.
    pub(super) fn save_again(&mut self, feed: &Feed, source: SourceId, (stream, epoch): (&str, &Epoch)) {
        let is_own = self.finished.as_ref().is_some_and(|(known, upto)| known == epoch && *upto == self.found);
        if self.others_missed == Some(true) && !self.has_missed && !is_own {
            // That node wrote what it knew over what this one had saved.
            feed.topics.mark_all_unsaved(source);
        } else if self.lives_longer {
            tracing::warn!(
                stream,
                "other nodes end topics that this one keeps: all are saved again; give all nodes the same expire_after"
            );
            self.resaved_ms = self.expired_ms.unwrap_or(0);
            feed.topics.mark_all_unsaved(source);
        }
    }

    /// Whether what was saved is gone: the position that was found is before one that this node has seen, or with which it
    /// began (`restored`). A failover may have lost it though it lost no entry, or an older copy was put back.
    pub(super) fn is_lost(&mut self, epoch: &Epoch, found: P, restored: P) -> bool {
        let before = match &self.seen {
            Some((known, seen)) if known == epoch => restored.max(*seen),
            _ => restored,
        };
        self.seen = Some((epoch.clone(), before.max(found)));
        found < before
    }

    /// All states are to be saved again: nothing that was seen counts any more.
    pub(super) fn forget_seen(&mut self, epoch: &Epoch) {
        self.seen = Some((epoch.clone(), P::default()));
    }

    /// This node has saved up to there.
    pub(super) fn finish(&mut self, epoch: Epoch, upto: P) {
        self.seen = Some((epoch.clone(), upto));
        self.finished = Some((epoch, upto));
    }
}

/// What a node that missed deltas says of saved states that it does not know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub(super) enum Hole {
    /// Nothing: an older node.
    #[default]
    Unsaid,
    /// It knows all, and marks those that are out of date.
    None,
    /// It knows those that name this hole.
    Named(Epoch),
}

impl Hole {
    pub(super) fn of(name: Option<&Epoch>) -> Self {
        name.map_or(Self::None, |name| Self::Named(name.clone()))
    }

    /// The word that [`Hole::word`] gave.
    pub(super) fn read(word: &str) -> Self {
        match word {
            "" => Self::Unsaid,
            "-" => Self::None,
            name => Self::Named(Epoch::from_text(name)),
        }
    }

    /// As it is saved.
    pub(super) fn word(&self) -> &str {
        match self {
            Self::Unsaid => "",
            Self::None => "-",
            Self::Named(name) => name.as_str(),
        }
    }

    /// Which saved states may be out of date, where the node that saved may have missed deltas up to `until_ms`.
    pub(super) fn outdates(self, until_ms: u64) -> Option<SavedHole> {
        match self {
            Self::None => None,
            Self::Unsaid => Some(SavedHole { until_ms, name: None }),
            Self::Named(name) => Some(SavedHole { until_ms, name: Some(name) }),
        }
    }
}

impl From<String> for Hole {
    fn from(word: String) -> Self {
        Self::read(&word)
    }
}

impl From<Hole> for String {
    fn from(hole: Hole) -> Self {
        hole.word().to_owned()
    }
}

/// How long topics live, in a word.
pub(super) fn lifetimes_text(all: &[Lifetime]) -> String {
    let one = |of: &Lifetime| format!("{:x}={}={}", of.namespace, of.expire_ms, of.ended_ms);
    all.iter().map(one).collect::<Vec<_>>().join(",")
}

/// What [`lifetimes_text`] wrote.
pub(super) fn read_lifetimes(text: &str) -> Vec<Lifetime> {
    let one = |text: &str| {
        let (namespace, rest) = text.split_once('=')?;
        let (expire, ended) = rest.split_once('=')?;
        let namespace = u64::from_str_radix(namespace, 16).ok()?;
        Some(Lifetime { namespace, expire_ms: expire.parse().ok()?, ended_ms: ended.parse().ok()? })
    };
    text.split(',').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_and_lifetimes_are_read_as_they_were_saved() {
        for hole in [Hole::Unsaid, Hole::None, Hole::Named(Epoch::from_text("h"))] {
            assert_eq!(Hole::read(hole.word()), hole);
        }
        assert_eq!(Hole::None.outdates(5), None);
        assert_eq!(Hole::Unsaid.outdates(5), Some(SavedHole { until_ms: 5, name: None }));
        let all = [1, u64::MAX].map(|namespace| Lifetime { namespace, expire_ms: 2, ended_ms: 3 });
        assert_eq!(read_lifetimes(&lifetimes_text(&all)), all);
        assert_eq!(read_lifetimes(""), []);
    }

    #[test]
    fn saves_come_sooner_where_the_stream_is_short() {
        let every = Duration::from_secs(30);
        for (reach_s, expected_s) in [(None, 30), (Some(400), 30), (Some(40), 10), (Some(1), 1)] {
            assert_eq!(interval(every, reach_s.map(Duration::from_secs)).as_secs(), expected_s);
        }
    }
}
