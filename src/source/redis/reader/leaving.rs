//! Topics that leave this stream, or come from another, while `nexus-push reshard` moves them.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::super::away::{Away, Cut, Handed};
use super::super::id::EntryId;
use super::RedisSource;
use crate::limits::MOVES_WAITING_MAX;
use crate::position::Offset;
use crate::source::Feed;
use crate::source::refusals::{Reason, Refusal};
use crate::topic::{Home, SourceId};

/// Time for which a topic's deltas may wait for its move before its state is told as incomplete.
const MOVE_WAIT: Duration = Duration::from_secs(5);

/// Time that reading waits for another stream to be read up to a cut, and time without such waits after one that was in vain.
const CUT_WAIT: Duration = Duration::from_secs(5);
const CUT_WAIT_AGAIN: Duration = Duration::from_secs(60);

/// Time between two looks at how far another stream has been read.
const CUT_LOOK_EVERY: Duration = Duration::from_millis(1);

/// What is not as it should be while topics move.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Topics that have left and are not yet where they go, and since when deltas of them wait there.
    waiting: HashMap<String, Instant>,
    /// Since when deltas wait of topics that are too many to remember.
    others_wait: Option<Instant>,
    /// When another stream was waited for in vain.
    gave_up: Option<Instant>,
    /// States are taken from here to be moved: what waits is the caller's own affair.
    is_mover: bool,
}

/// Where an entry's topic is, by the moves that are known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Residence {
    /// Here. It belongs here, if `nexus-push reshard` has settled that before the entry.
    Here(Option<Home>),
    /// Here still, though it is to leave.
    ToLeave,
    /// Where it went: the entry is passed over, as it comes in the topic's new stream.
    Left,
    /// The entry comes after the end of the moves, so that the command does not hand it on. Only the stream decides that: all
    /// nodes refuse such an entry, whether or not they know the topic.
    Late,
}

impl Leaving {
    /// A delta of a topic has come that is to come where the topic goes.
    fn wait(&mut self, topic: &str) {
        if self.waiting.contains_key(topic) {
            return;
        }
        if self.waiting.len() < MOVES_WAITING_MAX {
            self.waiting.insert(topic.to_owned(), Instant::now());
        } else {
            self.others_wait.get_or_insert_with(Instant::now);
        }
    }
}

impl RedisSource {
    /// For the command that moves topics.
    #[must_use]
    pub(in super::super) fn for_moving(mut self) -> Self {
        self.leaving.is_mover = true;
        self
    }

    pub(super) fn forget_leaving(&mut self) {
        self.leaving = Leaving { is_mover: self.leaving.is_mover, ..Leaving::default() };
    }

    /// Takes a cut in.
    pub(super) fn cut(&mut self, cut: Result<Cut, Refusal>, id: EntryId) {
        let cut = match cut {
            Ok(cut) => cut,
            Err(refusal) => return self.refuse(id, refusal),
        };
        // A load passes marks of runs that later ones have undone.
        let is_past = !self.status.is_loaded() && self.away.as_ref().is_some_and(|away| away.is_done);
        if !is_past && self.away.as_ref().is_none_or(|away| away.run != cut.run) {
            tracing::info!(stream = self.keys.stream, to = ?cut.streams, "topics move to other streams");
            let unread: Vec<&String> =
                cut.streams.iter().filter(|to| self.config.all_streams().all(|s| s != *to)).collect();
            if !unread.is_empty() {
                tracing::error!(
                    stream = self.keys.stream,
                    ?unread,
                    "topics move to streams that this node does not read: add them to source.redis.read_also and start it again"
                );
            }
        }
        Away::take_in(&mut self.away, cut, id);
    }

    /// What moves between streams make of an entry of a topic. One look, for it is asked of each entry.
    pub(super) fn residence_of(&mut self, topic: &str, id: EntryId, offset: Offset, feed: &Feed) -> Residence {
        let Some(away) = &self.away else { return Residence::Here(None) };
        if away.home(topic) == self.keys.stream {
            let since = away.begin().and_then(|begin| begin.offset().ok()).filter(|since| *since < offset);
            let home = |since| Home { since, is_back: away.was_elsewhere(&self.keys.stream, topic) };
            return Residence::Here(since.map(home));
        }
        if away.has_ended_before(id) {
            return Residence::Late;
        }
        if !away.is_cut_before(topic, id) {
            // From before it left, read after where it went.
            return if feed.topics.is_moved_from(self.id, topic) { Residence::Left } else { Residence::ToLeave };
        }
        self.metrics.deltas_left.inc();
        if !self.leaving.is_mover && feed.topics.place_in(self.id, topic).0 {
            self.leaving.wait(topic);
        }
        Residence::Left
    }

    pub(super) fn refuse_late(&mut self, id: EntryId, topic: &str) {
        let home = self.away.as_ref().map_or("", |away| away.home(topic));
        let told = format!("`nexus-push reshard` has moved its topics to the stream `{home}`");
        let refusal = Refusal::new(Reason::WrongPartition, told, "give its publisher the new list of streams");
        self.refuse(id, refusal.counted(topic));
    }

    /// Looks at topics that have left: where deltas wait for too long, the state is not whole any more.
    pub(super) fn look_for_moves(&mut self, feed: &Feed) {
        if self.leaving.waiting.is_empty() && self.leaving.others_wait.is_none() {
            return;
        }
        let (id, before) = (self.id, self.leaving.waiting.len());
        let mut told = 0;
        if self.leaving.others_wait.is_some_and(|since| since.elapsed() >= MOVE_WAIT) {
            self.leaving.others_wait = None;
            let last = self.progress().last;
            let (away, stream) = (self.away.as_ref(), self.keys.stream.as_str());
            let waits = |name: &str| away.is_some_and(|away| away.covers(stream, name, last));
            for (name, _) in feed.topics.names_by(|name, source| source == id && waits(name)) {
                feed.topics.wait_for_move(id, name.as_str());
                told += 1;
            }
        }
        self.leaving.waiting.retain(|topic, since| {
            let is_here = feed.topics.place_in(id, topic).0;
            if is_here && since.elapsed() >= MOVE_WAIT {
                feed.topics.wait_for_move(id, topic);
                told += 1;
            }
            is_here && since.elapsed() < MOVE_WAIT
        });
        if told > 0 {
            tracing::warn!(
                stream = self.keys.stream,
                topics = told,
                of = before,
                "topics have left and are not where they go: their states are incomplete until `nexus-push reshard` is run again"
            );
        }
    }

    /// Waits until the stream that a topic comes from has been read up to the cut, so that its subscribers miss nothing.
    pub(super) async fn wait_for_cut(&mut self, handed: &Handed, feed: &Feed) {
        let Some(from) = self.config.all_streams().position(|stream| *stream == handed.from) else { return };
        let Ok(from) = u16::try_from(from).map(SourceId) else { return };
        let cut = handed.id.ceiling();
        if !self.status.is_loaded() || self.leaving.gave_up.is_some_and(|when| when.elapsed() < CUT_WAIT_AGAIN) {
            return;
        }
        let until = Instant::now() + CUT_WAIT;
        while feed.topics.reached(from) < cut {
            if Instant::now() > until {
                self.leaving.gave_up = Some(Instant::now());
                tracing::warn!(
                    stream = self.keys.stream,
                    from = handed.from,
                    cut = %handed.id,
                    "the stream that topics come from is not read that far: subscribers get their states, and not what came before"
                );
                return;
            }
            tokio::time::sleep(CUT_LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_that_wait_are_bounded_and_the_others_are_known_to_wait() {
        let mut leaving = Leaving::default();
        (0..MOVES_WAITING_MAX).for_each(|n| leaving.wait(&format!("t:{n}")));
        assert!(leaving.others_wait.is_none());
        leaving.wait("t:0");
        assert!(leaving.others_wait.is_none(), "it is one of them");
        leaving.wait("other:a");
        let since = leaving.others_wait;
        leaving.wait("other:b");
        assert!(since.is_some() && leaving.others_wait == since, "since the first of them");
        assert_eq!(leaving.waiting.len(), MOVES_WAITING_MAX);
    }
}
