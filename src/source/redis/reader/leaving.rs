//! Topics that leave this stream, or come from another, while `nexus-push reshard` moves them.

use std::sync::Arc;
use std::time::Duration;

use ::redis::RedisResult;
use tokio::time::Instant;

use super::super::away::{Away, Cut, Handed, handed_on};
use super::super::id::EntryId;
use super::super::link::Link;
use super::source::RedisSource;
use super::waits::{Leaving, RELAY_WAIT, Residence, Wait};
use crate::config;
use crate::position::Offset;
use crate::source::Feed;
use crate::source::refusal::{Reason, Refusal};
use crate::topic::{Belongs, Goes, Home, Kind, Rule, SourceId};

/// Time between two looks at what waits, and at whether a run that has ended is done.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Time that reading waits for another stream to be read up to a cut, and time without such waits after one that was in vain.
const CUT_WAIT: Duration = Duration::from_secs(5);
const CUT_WAIT_AGAIN: Duration = Duration::from_secs(60);

/// Time between two looks at how far another stream has been read.
const CUT_LOOK_EVERY: Duration = Duration::from_millis(1);

/// The source of a stream, if it is read.
fn source_in(config: &config::Redis, stream: &str) -> Option<SourceId> {
    let at = config.all_streams().position(|known| known == stream)?;
    u16::try_from(at).ok().map(SourceId)
}

/// Whether it is time to look again.
fn is_time(looked_at: &mut Option<Instant>, every: Duration) -> bool {
    let is_time = looked_at.is_none_or(|at| at.elapsed() >= every);
    if is_time {
        *looked_at = Some(Instant::now());
    }
    is_time
}

impl RedisSource {
    /// For the command that moves topics.
    #[must_use]
    pub(in super::super) fn for_moving(mut self) -> Self {
        self.leaving.is_mover = true;
        self
    }

    /// Nothing is relayed any more.
    fn end_waits(&mut self, feed: &Feed) {
        let is_mover = self.leaving.is_mover;
        let waits = std::mem::replace(&mut self.leaving, Leaving { is_mover, ..Leaving::default() });
        waits.waiting.keys().for_each(|topic| feed.topics.end_wait(topic));
        if waits.others.is_some() {
            feed.topics.names_by(|_, _| true).iter().for_each(|(name, _)| feed.topics.end_wait(name.as_str()));
        }
    }

    fn source_of(&self, stream: &str) -> Option<SourceId> {
        source_in(&self.config, stream)
    }

    /// Topics leave the stream as is kept beside it. Returns the entry after which some may wait to be relayed.
    pub(super) async fn begin_leaving(&mut self, feed: &Feed) -> Option<EntryId> {
        self.tell_leaving(feed);
        let Some(away) = self.away.clone().filter(|away| !away.is_done) else {
            self.end_waits(feed);
            return None;
        };
        (self.leaving.watched, self.leaving.gave_up) = (Some(away.run.clone()), None);
        self.look_at_relays(&away, feed).await.or_else(|| away.cuts.first().copied())
    }

    /// Looks how far entries were relayed; returns the least, if it is known for all streams that topics go to.
    async fn look_at_relays(&self, away: &Away, feed: &Feed) -> Option<EntryId> {
        let mut least = None;
        for to in away.streams.iter().filter(|to| **to != self.keys.stream) {
            let id = handed_on(&self.masters, &self.keys.stream, to, &away.run).await.ok().flatten()?;
            if let Some(to) = self.source_of(to) {
                feed.topics.relayed(self.id, to, (id.ceiling(), id.ms));
            }
            least = Some(least.map_or(id, |least: EntryId| least.min(id)));
        }
        least
    }

    fn tell_leaving(&self, feed: &Feed) {
        let goes = self.away.clone().filter(|away| !away.is_done).map(|away| {
            let (own, config) = (self.id, self.config.clone());
            let goes = move |name: &str| {
                away.cut_of(name)?;
                source_in(&config, away.home(name)).filter(|to| *to != own)
            };
            Arc::new(goes) as Goes
        });
        feed.topics.set_leaving(self.id, goes);
        let goes_unread =
            self.away.as_ref().is_some_and(|away| away.streams.iter().any(|to| self.source_of(to).is_none()));
        let rule = self.away.clone().map(|away| {
            let (own, config) = (self.id, self.config.clone());
            let rule = move |name: &str| match source_in(&config, away.home(name)) {
                Some(to) if to != own => Belongs::In(to),
                // Until the cut it is here.
                None if away.cut_of(name).is_some() => Belongs::Unread,
                _ => Belongs::Here,
            };
            Arc::new(rule) as Rule
        });
        feed.topics.set_belonging(self.id, rule, goes_unread);
    }

    /// A delta has been read that was relayed.
    pub(super) fn note_relayed(&self, handed: &Handed, feed: &Feed) {
        if let Some(from) = self.source_of(&handed.from) {
            feed.topics.relayed(from, self.id, (handed.id.ceiling(), handed.id.ms));
        }
    }

    /// Takes a cut in.
    pub(super) fn cut(&mut self, cut: Result<Cut, Refusal>, id: EntryId, feed: &Feed) {
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
        if self.status.is_loaded() {
            self.leaving.watched = Some(cut.run.clone());
        }
        Away::take_in(&mut self.away, cut, id);
        self.tell_leaving(feed);
    }

    /// What moves between streams make of an entry of a topic. One look, for it is asked of each entry.
    pub(super) fn residence_of(
        &mut self,
        topic: &str,
        kind: Kind,
        (id, offset): (EntryId, Offset),
        feed: &Feed,
    ) -> Residence {
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
        self.metrics.moved_deltas_skipped.inc();
        let is_watched = self.leaving.watched.as_ref() == Some(&away.run);
        // A move that is relayed looks like one of the command's, of which nodes do not see that anything was relayed.
        if let Some(to) = self.source_of(away.home(topic)).filter(|_| is_watched && kind != Kind::Move) {
            feed.topics.left(self.id, to, offset);
            if !self.leaving.is_mover && !feed.topics.has_relayed(self.id, to, offset) {
                self.leaving.wait(topic, offset);
            }
        } else if !self.leaving.is_mover && feed.topics.place_in(self.id, topic).0 {
            self.leaving.wait(topic, offset);
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
    pub(super) async fn look_for_moves(&mut self, link: &mut Link, feed: &Feed) -> RedisResult<()> {
        if self.away.as_ref().is_none_or(|away| away.is_done) || !is_time(&mut self.leaving.looked_at, LOOK_EVERY) {
            return Ok(());
        }
        let Some(away) = self.away.clone() else { return Ok(()) };
        if away.end.is_some() {
            let kept = Away::read(link, &self.keys).await?;
            if kept.is_none_or(|kept| kept.run != away.run || kept.is_done) {
                self.away = Some(Away { is_done: true, ..away });
                self.tell_leaving(feed);
                self.end_waits(feed);
                return Ok(());
            }
        }
        // What was relayed before this node began to read says nothing else.
        if self.leaving.is_due() && is_time(&mut self.leaving.relays_looked_at, RELAY_WAIT) {
            self.look_at_relays(&away, feed).await;
        }
        self.tell_waiting(&away, feed);
        Ok(())
    }

    fn tell_waiting(&mut self, away: &Away, feed: &Feed) {
        let (id, topics, leaving) = (self.id, &feed.topics, &mut self.leaving);
        let has_relayed =
            |to: &str, upto| source_in(&self.config, to).is_some_and(|to| topics.has_relayed(id, to, upto));
        let mut told = 0;
        leaving.waiting.retain(|topic, wait| {
            let home = away.home(topic);
            if !topics.place_in(id, topic).0 && has_relayed(home, wait.first) {
                topics.end_wait(topic);
                let waits = !has_relayed(home, wait.upto);
                *wait = Wait::new(wait.upto);
                return waits;
            }
            if wait.is_told && !topics.waits_for_relay(topic) {
                // It has come where it goes, and begins to wait there.
                (wait.is_told, wait.since) = (false, Instant::now());
            } else if !wait.is_told && wait.is_due() {
                topics.wait_for_relay(topic);
                (wait.is_told, told) = (true, told + 1);
            }
            true
        });
        let is_watched = leaving.watched.as_ref() == Some(&away.run);
        if let Some(wait) = &mut leaving.others {
            let own = &self.keys.stream;
            let have_come = |upto| is_watched && away.streams.iter().all(|to| to == own || has_relayed(to, upto));
            let have_come = (have_come(wait.first), have_come(wait.upto));
            if have_come.0 && wait.is_told || !have_come.0 && !wait.is_told && wait.is_due() {
                let leaves = |name: &str| away.home(name) != own && away.cut_of(name).is_some();
                for (name, _) in topics.names_by(|name, _| leaves(name) && !leaving.waiting.contains_key(name)) {
                    if have_come.0 {
                        topics.end_wait(name.as_str())
                    } else {
                        topics.wait_for_relay(name.as_str())
                    }
                    told += usize::from(!have_come.0);
                }
                wait.is_told = true;
            }
            match have_come {
                (_, true) => leaving.others = None,
                (true, false) => *wait = Wait::new(wait.upto),
                (false, false) => {}
            }
        }
        if told > 0 {
            tracing::warn!(
                stream = self.keys.stream,
                topics = told,
                "deltas of topics that have left wait in this stream: their states are incomplete until `nexus-push reshard` is run"
            );
        }
    }

    /// Waits until the stream that a topic comes from has been read up to the cut, so that its subscribers miss nothing.
    pub(super) async fn wait_for_cut(&mut self, handed: &Handed, feed: &Feed) {
        let Some(from) = self.source_of(&handed.from) else { return };
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
