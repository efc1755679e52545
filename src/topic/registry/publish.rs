//! The way of a delta through its topic: it is judged, changes state and history, and goes to every shard with a
//! subscriber, all under the topic's lock. What it does to the state itself is in `state/change`.

use std::sync::Arc;

use super::super::deleted::Verdict;
use super::super::delta::{Delta, Kind};
use super::super::exchange::{Home, Incoming, PublishError, Published, SourceId};
use super::super::lifetime::over;
use super::super::merge::{ParseError, members_bytes, parse_object};
use super::super::passage::{Passage, log_published};
use super::super::payload::{Payload, PayloadError};
use super::super::state::{Topic, When};
use super::topics::{Topics, is_own};
use crate::clock::unix_ms;
use crate::config::{Class, OPS, PayloadForm};
use crate::limits::STATE_BYTES_MAX;
use crate::name::{TopicName, is_in_namespace};
use crate::position::Offset;
use crate::protocol::Encoding;

/// An entry that is taken in, without its payload.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    /// Time at its source, Unix ms.
    pub(super) ts: Option<u64>,
    pub(super) offset: Option<Offset>,
    pub(super) source: SourceId,
    pub(super) home: Option<Home>,
    pub(super) is_relayed: bool,
    pub(super) when: When,
    /// Its source is being loaded: subscribers hear of it when that is done.
    pub(super) silent: bool,
    /// It is from before what is read, and nothing but its position is known.
    pub(super) is_mark: bool,
}

/// The work that is left for when the topic is no longer locked.
#[derive(Default)]
struct Aftermath {
    has_ended: bool,
    traced: Option<(Arc<Delta>, Passage)>,
}

/// The topic is past this entry, or the entry does not count.
fn nothing_new(topic: &Topic) -> Published {
    Published { offset: topic.offset, epoch: topic.epoch.clone(), new: false }
}

impl Topics {
    /// Takes a delta in: state, history, and on to every shard with a subscriber.
    ///
    /// # Errors
    /// Why it was refused; the topic is as it was.
    pub fn publish(&self, incoming: Incoming<'_>) -> Result<Published, PublishError> {
        if incoming.kind == Kind::HistoryRemoval {
            return self.remove_history(incoming.topic, incoming.offset, incoming.source);
        }
        let (name, source, offset, at_ms) = (incoming.topic, incoming.source, incoming.offset, incoming.at_ms);
        let may_make_room = self.len() >= self.config.limits.topics && self.is_loading(source);
        let again = may_make_room.then(|| incoming.clone());
        let mut result = self.take_in(incoming, false);
        if let (Err(PublishError::TooManyTopics { .. }), Some(again), Some(at_ms)) = (&result, again, at_ms)
            && self.make_room(source, at_ms)
        {
            result = self.take_in(again, false);
        }
        match &result {
            Ok(published) if published.new => {
                self.metrics.deltas.inc();
            }
            Ok(_) => {
                self.metrics.deltas_duplicate.inc();
            }
            Err(error) => {
                self.metrics.refused_delta(error.label());
                if matches!(error, PublishError::TooManyTopics { .. } | PublishError::StateTotal { .. }) {
                    self.miss(name, source, offset, at_ms.unwrap_or_else(unix_ms));
                }
            }
        }
        result
    }

    /// With `is_mark` the entry is from before the position that is read from, and only its position is known.
    pub(super) fn take_in(&self, incoming: Incoming<'_>, is_mark: bool) -> Result<Published, PublishError> {
        let now_ms = unix_ms();
        let Incoming { topic: name, kind, ts, at_ms, payload, offset, source, home, is_relayed } = incoming;
        if source != self.local() && is_in_namespace(name, OPS) {
            return Err(PublishError::Reserved);
        }
        let when = When { at_ms: at_ms.unwrap_or(now_ms), now_ms };
        let silent = self.is_loading(source);
        let entry = Entry { kind, ts, offset, source, home, is_relayed, when, silent, is_mark };
        let mut aftermath = Aftermath::default();
        // A deletion makes no topic. What it ends in other sources, it ends whether there is room or not.
        let begins = kind != Kind::Deletion;
        let outcome = self
            .published(name, (source, when.at_ms), begins, |topic| self.apply(topic, &entry, payload, &mut aftermath));
        if aftermath.has_ended
            && let Ok(name) = TopicName::new(name)
        {
            self.remove_if(&name, |topic| topic.interest.is_empty() && !topic.known);
        }
        // Not while the topic is locked: writing a line takes longer than all the rest.
        if let Some((delta, passage)) = &aftermath.traced
            && let Some(trace) = &delta.trace
        {
            log_published(delta, trace, source.0, passage);
        }
        outcome
    }

    /// Applies an entry to its topic, which is locked.
    fn apply(
        &self,
        topic: &mut Topic,
        entry: &Entry,
        payload: Payload,
        aftermath: &mut Aftermath,
    ) -> Result<Published, PublishError> {
        let &Entry { kind, source, home, is_relayed, when, silent, .. } = entry;
        let was_known = topic.known;
        // Where another source's offsets begin means nothing here.
        let floor = if topic.source == source { topic.offset } else { Offset::ZERO };
        if let Some(offset) = entry.offset.filter(|_| entry.is_mark && !topic.known) {
            topic.offset = floor.min(offset.previous());
        }
        let comes = kind == Kind::Move && topic.source != source;
        let moved_at = match self.judge(topic, kind, source, entry.offset, home) {
            Verdict::Counts(moved_at) => moved_at,
            Verdict::Past => return Ok(nothing_new(topic)),
            Verdict::WrongSource => return Err(PublishError::WrongPartition),
        };
        let is_back = self.settle_source(topic, entry, &payload)?;
        if entry.offset.is_some_and(|offset| offset <= topic.offset) {
            return Ok(nothing_new(topic));
        }
        let offset = entry.offset.unwrap_or_else(|| topic.offset.next());
        let is_over = self.is_over(topic, when.at_ms, false);
        if is_over {
            topic.admits(kind, &payload, true)?;
            // The topic's next life is where the topic was moved to.
            let moved_at = topic.moved_at;
            self.end_by_age(topic, silent);
            topic.moved_at = moved_at;
        }
        match (kind, topic.options.class) {
            (Kind::Deletion, _) => {
                aftermath.has_ended = was_known;
                return Ok(self.apply_deletion(topic, entry, offset, floor, was_known));
            }
            (Kind::Move, Class::Stream) => return Ok(self.apply_stream_move(topic, entry, offset)),
            _ => {}
        }
        let (before, known) = (topic.offset, topic.known);
        let tells_state = comes || topic.left_out;
        let (kind, moves) = if kind == Kind::Move { (Kind::Snapshot, true) } else { (kind, false) };
        // A delta that was relayed late makes no topic older than a later one has made it.
        let at_ms = if is_relayed && known { when.at_ms.max(topic.active_ms) } else { when.at_ms };
        let when = When { at_ms, ..when };
        // During a load nothing goes to subscribers.
        let trace = if silent { None } else { self.sampler.pick(&topic.name, offset) };
        let delta = topic.publish(kind, entry.ts, payload, offset, when, trace).inspect_err(|error| {
            if matches!(error, PublishError::StateTotal { .. }) {
                self.metrics.state_refused.inc();
            }
        })?;
        if moves {
            self.move_here(topic, offset);
        }
        if kind == Kind::Snapshot {
            self.release_strays(topic);
        }
        if !known {
            let moved_at = moved_at.max(home.map_or(Offset::ZERO, |home| home.since));
            topic.moved_at = topic.moved_at.max(moved_at);
            self.begin_life(topic, entry, kind == Kind::Delta && !is_over, is_back);
        }
        let applied_us = delta.trace.as_ref().map(|trace| trace.us());
        // During a load no subscriber is told that the topic is fresh again: the next sweep tells them.
        let back = !silent && !moves && !is_relayed && std::mem::take(&mut topic.stale);
        if is_relayed && !silent {
            self.update_staleness(topic, self.source(source).map_or(when.now_ms, |s| s.progress.now_ms(when.now_ms)));
        }
        let lacks = !topic.incomplete && self.may_lack_newer(topic, when.at_ms) && topic.doubt();
        if lacks {
            topic.awaits_home = self.is_home_unread(topic);
        }
        if !silent {
            self.deliver(topic, &delta, tells_state, lacks, back);
            if !known && topic.incomplete && !lacks {
                self.tell_state(topic);
            }
        }
        self.evicted(topic.settle_delta(before));
        // A backfill may bring what has ended long ago.
        if !silent && over(&topic.options, when.at_ms, when.now_ms, true) {
            let read_ms = self.source(source).map_or(0, |state| state.progress.read_ms()).min(when.now_ms);
            aftermath.has_ended |= !topic.incomplete && self.end_if_over(topic, read_ms, false);
        }
        if let (Some(trace), Some(applied_us)) = (&delta.trace, applied_us) {
            let encodings = topic.interest.iter().fold(0, |all, interest| all | interest.encodings).count_ones();
            let (queued_us, shards) = (trace.us(), topic.interest.len());
            aftermath.traced = Some((delta.clone(), Passage { applied_us, queued_us, shards, encodings }));
        }
        Ok(Published { offset, epoch: topic.epoch.clone(), new: true })
    }

    /// Makes the entry's source the topic's, if it may be. Returns whether the topic has come back to this source
    /// without a state, so that its old state here has ended.
    fn settle_source(&self, topic: &mut Topic, entry: &Entry, payload: &Payload) -> Result<bool, PublishError> {
        let &Entry { kind, offset, source, home, when, silent, .. } = entry;
        if topic.source != source {
            // It was moved to where it was, and has come back by another move.
            let moved_at = topic.moved_at;
            let back = home.filter(|home| topic.is_moved() && home.since > moved_at);
            if back.is_some() {
                topic.moved_at = Offset::ZERO;
            }
            let changed = self.change_source(topic, kind, payload, (offset, when.at_ms), source, silent);
            if let Some(home) = back {
                topic.moved_at = if changed.is_ok() { home.since } else { moved_at };
            }
            return changed.map(|()| false);
        }
        let Some(home) = home.filter(|_| topic.known) else { return Ok(false) };
        // The state here is from before the topic left; with a state it would have come back by a move.
        let is_back = home.is_back && topic.offset < home.since && kind != Kind::Move;
        if is_back {
            topic.admits(kind, payload, true)?;
            self.end_by_age(topic, silent);
        }
        topic.moved_at = topic.moved_at.max(home.since);
        Ok(is_back)
    }

    fn apply_deletion(
        &self,
        topic: &mut Topic,
        entry: &Entry,
        offset: Offset,
        floor: Offset,
        was_known: bool,
    ) -> Published {
        let &Entry { source, when, silent, .. } = entry;
        self.note_deletion(topic, source, offset, when.at_ms);
        if was_known {
            self.end(topic, offset, silent);
        } else {
            topic.offset = floor.max(topic.offset);
        }
        if let Some(source) = self.source(source) {
            source.gaps.delete(&topic.name, when.at_ms);
            source.forget_mark(&topic.name, offset);
        }
        self.set_may_exist_at_home(topic);
        Published { offset, epoch: topic.epoch.clone(), new: was_known }
    }

    fn apply_stream_move(&self, topic: &mut Topic, entry: &Entry, offset: Offset) -> Published {
        topic.begin_empty(offset, entry.when.at_ms);
        self.move_here(topic, offset);
        topic.unsaved = true;
        self.list(topic);
        // Clients may still expect it where it came from.
        if !entry.silent {
            self.tell_state(topic);
        }
        Published { offset, epoch: topic.epoch.clone(), new: true }
    }

    /// Hands a delta to every shard with a subscriber. Clients take a value or a snapshot for whole: if its state may
    /// lack deltas (`lacks`), or clients could not apply it (`tells_state`), they get the state instead. `back`: they
    /// were told that the topic was stale, and it no longer is.
    fn deliver(&self, topic: &mut Topic, delta: &Arc<Delta>, tells_state: bool, lacks: bool, back: bool) {
        if tells_state || lacks {
            if back && lacks {
                self.each_interest(topic, |shard, slot| self.outlet.stale(shard, slot, &topic.name, None));
            }
            self.tell_state(topic);
            return;
        }
        for interest in &topic.interest {
            for encoding in Encoding::ALL.into_iter().filter(|e| interest.encodings & e.bit() != 0) {
                delta.encode(encoding);
            }
            if back {
                self.outlet.stale(interest.shard, interest.slot, &topic.name, None);
            }
            self.outlet.delta(interest.shard, interest.slot, delta);
        }
    }

    /// Removes a topic's history before `offset`; all of it if the source gives no offsets. A source that is not the
    /// topic's own changes nothing: its offsets are others.
    fn remove_history(&self, name: &str, offset: Option<Offset>, source: SourceId) -> Result<Published, PublishError> {
        let nothing = || Published { offset: Offset::ZERO, epoch: self.epoch(source), new: false };
        let Some(mut topic) = self.map.get_mut(name).filter(|topic| topic.source == source || offset.is_none()) else {
            return Ok(nothing());
        };
        let before = offset.unwrap_or_else(|| topic.offset.next());
        topic.remove_history(before);
        Ok(Published { offset: topic.offset, epoch: topic.epoch.clone(), new: false })
    }

    /// Checks whether a delta would be taken in, as far as that does not depend on the topic's state.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, topic: &str, kind: Kind, payload: &Payload) -> Result<(), PublishError> {
        let result = TopicName::new(topic).map_err(PublishError::from).and_then(|name| {
            let options = self.config.namespace(name.namespace());
            match options.class {
                _ if is_own(&name) => Err(PublishError::Reserved),
                _ if !self.config.knows_namespace(name.namespace()) => Err(PublishError::UnknownNamespace),
                // The data of a deletion does not matter.
                _ if matches!(kind, Kind::HistoryRemoval | Kind::Deletion) => Ok(()),
                _ if payload.form() == PayloadForm::Bytes && options.payload == PayloadForm::Json => {
                    Err(PayloadError::NotForBytes.into())
                }
                Class::Stream if kind == Kind::Snapshot => Err(PublishError::StreamSnapshot),
                Class::Merge if !payload.is_object() => Err(PublishError::Patch(ParseError::NotObject)),
                // Readers refuse names with half a surrogate, which the check for JSON lets pass. Such names have
                // escapes.
                Class::Merge if payload.bytes().len() > STATE_BYTES_MAX || payload.bytes().contains(&b'\\') => {
                    let bytes = members_bytes(&parse_object(payload.as_str())?);
                    if bytes > STATE_BYTES_MAX { Err(PublishError::StateTooLarge { bytes }) } else { Ok(()) }
                }
                _ => Ok(()),
            }
        });
        if let Err(error) = &result {
            self.metrics.refused_delta(error.label());
        }
        result
    }
}
