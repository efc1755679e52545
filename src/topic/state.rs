//! One topic: its state, history, offset and who is interested.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::account::{Account, INDEX_BYTES, Levels, MEMBER_BYTES, PLACE_BYTES, VALUE_STEP_BYTES};
use super::delta::{Delta, Keep, Kind, Place, Snapshot, SnapshotData};
use super::exchange::{Attachment, PublishError, Replay, ShardId, Slot, SourceId};
use super::history::History;
use super::lifetime::over;
use super::merge::{self, Members};
use super::payload::Payload;
use super::strays::{Stray, Strays};
use super::trace::Trace;
use crate::accounts::allocated;
use crate::config::{ChannelSyntax, Class, Namespace, OPS, PayloadForm};
use crate::limits::{RECOVERY_BYTES, STATE_BYTES_MAX};
use crate::name::TopicName;
use crate::position::{Epoch, Offset, Position};
use crate::protocol::{Encoding, HistoryDelta, HistoryPage, HistoryQuery, Known, Refusal, base64_json};

/// When a delta was taken in, Unix ms.
#[derive(Debug, Clone, Copy)]
pub(super) struct When {
    /// By its source.
    pub(super) at_ms: u64,
    /// Here.
    pub(super) now_ms: u64,
}

/// How far a `stream` topic had come by what was saved of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct StreamMark {
    pub(super) offset: Offset,
    pub(super) ts: Option<u64>,
    /// When its source took the newest delta in, Unix ms.
    pub(super) at_ms: u64,
    /// Offset of the move that had brought it to its source; 0 if none had.
    pub(super) moved_at: Offset,
    /// It may have come further.
    pub(super) incomplete: bool,
    /// It was not saved as known after the hole that this node has missed: it is saved again.
    pub(super) is_unnamed: bool,
}

/// A shard with subscribers of the topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interest {
    pub(super) shard: ShardId,
    /// The shard's own index of the topic, so that the data plane never hashes a name.
    pub(super) slot: Slot,
    /// Encodings in use there, one bit each.
    pub(super) encodings: u8,
}

/// Where a topic begins of which nothing is known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floor {
    /// Offsets up to here may have been given to deltas that are not known here.
    pub offset: Offset,
    /// Every delta after this offset will be known: less than the former only where the source still holds all that it
    /// ever had.
    pub kept_after: Offset,
}

impl From<Offset> for Floor {
    fn from(offset: Offset) -> Self {
        Self { offset, kept_after: offset }
    }
}

#[derive(Debug)]
enum State {
    /// The history is the state.
    Stream,
    Latest(Option<Keep<Delta>>),
    Merge {
        members: Members,
        /// Bytes of its JSON text.
        bytes: usize,
        /// Members, those of inner objects too.
        count: usize,
    },
    /// A `merge` topic's, as text: nobody has asked for it or changed it for long.
    Prepared(Bytes),
}

impl State {
    fn empty(class: Class) -> Self {
        match class {
            Class::Stream => Self::Stream,
            Class::Latest => Self::Latest(None),
            Class::Merge => Self::Merge { members: Members::new(), bytes: 2, count: 0 },
        }
    }

    /// Bytes that it takes of memory.
    fn weight(&self) -> usize {
        match self {
            Self::Stream | Self::Latest(None) => 0,
            Self::Latest(Some(delta)) => value_weight(delta.payload.bytes().len()),
            Self::Merge { bytes, count, .. } => bytes + count * MEMBER_BYTES,
            Self::Prepared(text) => allocated(text.len()),
        }
    }
}

/// Bytes of memory that a value of so many bytes takes.
fn value_weight(bytes: usize) -> usize {
    (size_of::<Delta>() + bytes).next_multiple_of(VALUE_STEP_BYTES)
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) options: Arc<Namespace>,
    pub(super) source: SourceId,
    pub(super) epoch: Epoch,
    pub(super) offset: Offset,
    /// Whether it is published: a delta has come in this epoch, and the topic has not ended since.
    pub(super) known: bool,
    /// Whether deltas that changed the state may be missing in it; of a topic that is not published here, whether it may be
    /// all the same.
    pub(super) incomplete: bool,
    /// Offset of the [`Kind::Move`] that brought it to its source; 0 if none did. What comes from another source is refused then.
    pub(super) moved_at: Offset,
    /// Where a life of it has ended by its age, or may have.
    ended_at: Option<Offset>,
    /// Whether another source has entries of it, too, from before what is known.
    pub(super) is_elsewhere: bool,
    /// Entries of other sources that are newer than the snapshot that the state of a `merge` topic rests on.
    pub(super) strays: Strays,
    /// Whether deltas wait for the topic's move to another source.
    pub(super) waits: bool,
    /// It is in doubt for nothing but that the source in which it belongs may have had it: that is not loaded yet.
    pub(super) awaits_home: bool,
    /// Its source is being loaded: what it is made of until then claims nothing.
    loads: bool,
    /// Offset of the snapshot that the state rests on; 0 where it was made of deltas alone.
    pub(super) base: Offset,
    ts: Option<u64>,
    /// When the source took the last delta in or, before one, when this was made, Unix ms.
    pub(super) active_ms: u64,
    pub(super) stale: bool,
    /// Changed since it was last saved outside.
    pub(super) unsaved: bool,
    /// Deltas of a `stream` topic were left out since its subscribers were told where it is.
    pub(super) left_out: bool,
    state: State,
    history: History,
    /// Data of the last delta as subscribers hold it, where the namespace has delta compression.
    before: Option<Bytes>,
    pub(super) interest: Vec<Interest>,
    /// Of the current offset, once somebody asked.
    snapshot: Option<Keep<Snapshot>>,
    pub(super) account: Account,
    /// Who had it made by a subscribe; `None` where that was a publisher.
    pub(super) maker: Option<u64>,
}

impl Topic {
    pub(super) fn new(
        name: TopicName,
        options: Arc<Namespace>,
        source: SourceId,
        epoch: Epoch,
        floor: Floor,
        now_ms: u64,
        account: Account,
    ) -> Self {
        Self {
            account,
            maker: None,
            state: State::empty(options.class),
            history: History::from_floor(floor.kept_after),
            name,
            options,
            source,
            epoch,
            offset: floor.offset,
            known: false,
            incomplete: false,
            moved_at: Offset::ZERO,
            ended_at: None,
            is_elsewhere: false,
            strays: Strays::default(),
            waits: false,
            awaits_home: false,
            loads: false,
            base: Offset::ZERO,
            ts: None,
            active_ms: now_ms,
            stale: false,
            unsaved: false,
            left_out: false,
            before: None,
            interest: Vec::new(),
            snapshot: None,
        }
    }

    /// Brings the topic's account up to date. Whatever changes what it holds ends with this.
    pub(super) fn settle(&mut self) {
        let (history, state) = self.weights(self.history.weight());
        self.account.settle(history, state);
    }

    fn weights(&self, history: usize) -> (usize, usize) {
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.weight());
        let interest = self.interest.capacity() * size_of::<Interest>();
        let name = allocated(2 * size_of::<usize>() + self.name.as_str().len());
        let index = if self.known { self.index_bytes() } else { 0 };
        let place = allocated(size_of::<Self>()) + PLACE_BYTES + index + name + allocated(interest);
        (history + snapshot, place + self.state.weight() + self.strays.weight())
    }

    /// Bytes of its places in the index of names: its own, and one under each user who may have it.
    fn index_bytes(&self) -> usize {
        let users = match self.options.allow_user_limited_channels {
            true => ChannelSyntax::Centrifugo.kind(self.name.as_str()).users().count(),
            false => 0,
        };
        INDEX_BYTES * (1 + users)
    }

    /// What the account must say.
    #[cfg(test)]
    pub(super) fn true_weights(&self) -> (usize, usize) {
        let (history, state) = self.weights(self.history.true_weight());
        let counted = match &self.state {
            State::Merge { members, bytes, count } => {
                (merge::members_bytes(members) - bytes) + (merge::count_members(members) - count) * MEMBER_BYTES
            }
            _ => 0,
        };
        (history, state + counted)
    }

    /// After a delta, whose frames were made since: `before` is the offset before it. Returns how many deltas had to go
    /// before their time, because all topics together keep too much.
    pub(super) fn settle_delta(&mut self, before: Offset) -> usize {
        let had = self.account.history();
        self.history.weigh(before);
        self.settle();
        let allowance = self.account.sums().allowance(had, self.account.history());
        if self.account.history() > allowance { self.shrink_history(allowance) } else { 0 }
    }

    /// Lets go of what can be had again, the oldest first, until it takes no more than this, as far as that
    /// [may go](super::account::Sums::may_go). Returns how many deltas went.
    pub(super) fn shrink_history(&mut self, bytes: usize) -> usize {
        if self.account.history() <= bytes {
            return 0;
        }
        self.snapshot = None;
        let bytes = bytes.max(self.history.weight().saturating_sub(self.account.sums().may_go()));
        let gone = self.history.shrink_to(bytes);
        self.settle();
        gone
    }

    /// Counts the topic among those that have as much history.
    pub(super) fn add_level(&self, levels: &mut Levels) {
        levels.add(self.account.history());
    }

    /// Whether a state may grow from `before` to `now` bytes of memory: not while all states together are too large.
    fn may_grow(&self, before: usize, now: usize) -> Result<(), PublishError> {
        let sums = self.account.sums();
        if now > before && sums.is_overfull() && self.name.namespace() != Some(OPS) {
            return Err(PublishError::StateTotal { max: sums.state_max() });
        }
        Ok(())
    }

    /// Forgets everything but who is interested.
    pub(super) fn reset(&mut self, source: SourceId, epoch: Epoch, floor: Floor) {
        self.source = source;
        self.epoch = epoch;
        self.clear(floor);
    }

    /// Ends at `offset`: no state, no history.
    pub(super) fn end(&mut self, offset: Offset) {
        self.clear(offset.into());
    }

    /// Ends it at the offset of its last delta.
    pub(super) fn end_by_age(&mut self) {
        self.clear(self.offset.into());
        if self.options.class.conflatable() {
            self.may_have_ended();
        }
    }

    /// Without an entry: whoever left before that holds its state at the offset at which it is now.
    pub(super) fn may_have_ended(&mut self) {
        self.ended_at = Some(self.offset);
    }

    fn clear(&mut self, floor: Floor) {
        self.state = State::empty(self.options.class);
        self.history = History::from_floor(floor.kept_after);
        self.offset = floor.offset;
        self.known = false;
        (self.incomplete, self.awaits_home) = (false, false);
        (self.moved_at, self.is_elsewhere) = (Offset::ZERO, false);
        self.strays = Strays::default();
        (self.waits, self.left_out) = (false, false);
        self.base = Offset::ZERO;
        self.ts = None;
        self.before = None;
        self.snapshot = None;
        self.settle();
    }

    /// Goes on in another source with the state that it has. Positions from before are not comparable.
    pub(super) fn go_on_in(&mut self, source: SourceId, epoch: Epoch, floor: Floor) {
        self.source = source;
        self.epoch = epoch;
        self.moved_at = Offset::ZERO;
        (self.waits, self.awaits_home) = (false, false);
        self.offset = floor.offset;
        self.history = History::from_floor(floor.kept_after);
        self.before = None;
        self.snapshot = None;
        self.settle();
    }

    /// A `stream` topic is published from `offset` on, and nothing of it is kept.
    pub(super) fn begin_empty(&mut self, offset: Offset, at_ms: u64) {
        self.clear(offset.into());
        (self.known, self.active_ms) = (true, at_ms);
        self.settle();
    }

    /// A `stream` topic had come as far as this mark, and what its source still holds does not say so. No history reaches
    /// across `floor`; where `incomplete`, it may have come further.
    pub(super) fn restore_stream(&mut self, mark: &StreamMark, floor: Offset, incomplete: bool) {
        self.begin_empty(floor.max(mark.offset), mark.at_ms);
        (self.ts, self.incomplete) = (mark.ts, incomplete || mark.incomplete);
        // What is in doubt here was saved as whole.
        self.unsaved = incomplete && !mark.incomplete || mark.is_unnamed;
        self.settle();
    }

    /// Where it belongs is loaded: with `is_first` nothing of it was there, so that it began here. Tells whether it is whole now.
    pub(super) fn be_first(&mut self, is_first: bool) -> bool {
        let is_whole = std::mem::take(&mut self.awaits_home) && is_first && self.known && self.incomplete;
        if is_whole {
            (self.incomplete, self.unsaved, self.snapshot) = (false, true, None);
            self.settle();
        }
        is_whole
    }

    /// Deltas wait for the topic's move from now on; tells whether that is new.
    pub(super) fn wait(&mut self) -> bool {
        self.options.class.conflatable() && self.lack()
    }

    /// Deltas of the topic do not come here any more; tells whether that is new.
    pub(super) fn lack(&mut self) -> bool {
        let is_new = self.known && !self.waits;
        if is_new {
            (self.waits, self.snapshot) = (true, None);
            self.settle();
        }
        is_new
    }

    /// The deltas that waited have come; tells whether it was said that they wait.
    pub(super) fn end_wait(&mut self) -> bool {
        let waited = std::mem::take(&mut self.waits);
        if waited {
            self.snapshot = None;
            self.settle();
        }
        waited
    }

    /// Whether the state may lack deltas from now on; tells whether that is new.
    pub(super) fn doubt(&mut self) -> bool {
        self.awaits_home = false;
        let is_new = self.known && !self.incomplete;
        if is_new {
            (self.incomplete, self.unsaved) = (true, true);
            self.snapshot = None;
            self.settle();
        }
        is_new
    }

    /// Says of a topic that is not published here whether it may be all the same.
    pub(super) fn may_exist(&mut self, incomplete: bool) {
        if !self.known && self.incomplete != incomplete {
            self.incomplete = incomplete;
            self.snapshot = None;
            self.settle();
        }
    }

    /// A delta of a topic that is not published here found no room; of a `stream` topic at this offset. Tells whether
    /// it is new that the topic may exist.
    pub(super) fn leave_out(&mut self, offset: Option<Offset>) -> bool {
        let is_new = !self.incomplete;
        self.may_exist(true);
        if let Some(offset) = offset {
            self.lose_history(offset);
            self.left_out |= !is_new;
        }
        is_new
    }

    /// What is kept up to `after` does not join up with what comes.
    pub(super) fn lose_history(&mut self, after: Offset) {
        let is_passed = self.offset < after;
        if is_passed && (!self.known || self.options.class == Class::Stream) {
            // The next delta is the first after this, as far as anybody here can tell. There may have been others.
            (self.offset, self.incomplete) = (after, self.incomplete || self.known);
        }
        self.history.lose(after.max(self.offset));
        (self.before, self.snapshot) = (None, None);
        self.settle();
    }

    /// Its newest entry, as it is told where the topic is in another source.
    pub(super) fn as_stray(&self) -> Stray {
        Stray { source: self.source, offset: self.offset, at_ms: self.active_ms, is_deletion: false }
    }

    /// Whether what comes from another source is refused.
    pub(super) fn is_moved(&self) -> bool {
        self.moved_at > Offset::ZERO
    }

    /// Whether it has ended by `at_ms`, by the time of its source.
    pub(super) fn is_over(&self, at_ms: u64, grace: bool) -> bool {
        self.known && over(&self.options, self.active_ms, at_ms, grace)
    }

    /// Gives back what can be made again, for nobody has wanted it for long.
    pub(super) fn park(&mut self) {
        let holds_more = matches!(self.state, State::Merge { .. }) || self.snapshot.is_some() || self.before.is_some();
        if !holds_more {
            return;
        }
        if let State::Merge { members, bytes, .. } = &self.state
            && allocated(*bytes) < self.state.weight()
        {
            let mut text = Vec::with_capacity(*bytes);
            merge::write_members(members, &mut text);
            self.state = State::Prepared(text.into());
        }
        self.snapshot = None;
        self.before = None;
        self.settle();
    }

    /// The opposite, for a change.
    fn unpark(&mut self) -> Result<(), PublishError> {
        if let State::Prepared(text) = &self.state {
            let members = merge::parse_object(std::str::from_utf8(text).unwrap_or_default())?;
            let (bytes, count) = (merge::members_bytes(&members), merge::count_members(&members));
            self.state = State::Merge { members, bytes, count };
            self.settle();
        }
        Ok(())
    }

    /// Whether a delta would be taken in; nothing changes.
    /// With `fresh`, what it has now has ended.
    pub(super) fn admits(&self, kind: Kind, payload: &Payload, fresh: bool) -> Result<(), PublishError> {
        let payload = payload.clone().for_form(self.options.payload)?;
        match (self.options.class, kind) {
            (Class::Stream, Kind::Snapshot) => Err(PublishError::StreamSnapshot),
            (Class::Merge, Kind::Delta | Kind::Snapshot | Kind::Move) => {
                let members = merge::parse_object(payload.as_str())?;
                let bytes = merge::members_bytes(&members);
                let had = match &self.state {
                    State::Merge { bytes, .. } if kind == Kind::Delta && !fresh => *bytes,
                    State::Prepared(text) if kind == Kind::Delta && !fresh => text.len(),
                    _ => 0,
                };
                if had + bytes > STATE_BYTES_MAX {
                    return Err(PublishError::StateTooLarge { bytes: had + bytes });
                }
                self.may_grow(0, bytes)
            }
            _ => Ok(()),
        }
    }

    /// Subscribers will be sent the state: the next delta is not to be said by the one before.
    pub(super) fn break_chain(&mut self) {
        self.before = None;
    }

    /// Makes these the whole state of a `merge` topic. Returns its bytes.
    fn replace_members(&mut self, members: Members) -> Result<usize, PublishError> {
        let (bytes, count) = (merge::members_bytes(&members), merge::count_members(&members));
        if bytes > STATE_BYTES_MAX {
            return Err(PublishError::StateTooLarge { bytes });
        }
        let whole = State::Merge { members, bytes, count };
        self.may_grow(self.state.weight(), whole.weight())?;
        self.state = whole;
        Ok(bytes)
    }

    /// What a delta does to the state, but for the value of a `latest` topic. Returns the state's bytes (`merge`).
    fn change(&mut self, kind: Kind, payload: &Payload) -> Result<usize, PublishError> {
        match (&self.state, kind) {
            (State::Stream, Kind::Snapshot) => return Err(PublishError::StreamSnapshot),
            (State::Stream, _) | (_, Kind::HistoryRemoval | Kind::Deletion) => {}
            (State::Latest(_), _) => self.may_grow(self.state.weight(), value_weight(payload.bytes().len()))?,
            (State::Merge { .. } | State::Prepared(_), Kind::Snapshot | Kind::Move) => {
                return self.replace_members(merge::parse_object(payload.as_str())?);
            }
            (State::Prepared(_), Kind::Delta) => {
                self.unpark()?;
                return self.change(kind, payload);
            }
            (State::Merge { members, bytes, count }, Kind::Delta) => {
                let patch = merge::parse_object(payload.as_str())?;
                if bytes + payload.bytes().len() > STATE_BYTES_MAX || self.account.sums().is_overfull() {
                    // It may be too much; what makes the state smaller never is.
                    let growth = merge::growth(members, &patch);
                    let grown = bytes.saturating_add_signed(growth.bytes);
                    if grown > STATE_BYTES_MAX && growth.bytes > 0 {
                        return Err(PublishError::StateTooLarge { bytes: grown });
                    }
                    let grown = grown + count.saturating_add_signed(growth.members) * MEMBER_BYTES;
                    self.may_grow(self.state.weight(), grown)?;
                }
                if let State::Merge { members, bytes, count } = &mut self.state {
                    let growth = merge::apply(members, patch);
                    *bytes = bytes.saturating_add_signed(growth.bytes);
                    *count = count.saturating_add_signed(growth.members);
                    return Ok(*bytes);
                }
            }
        }
        Ok(0)
    }

    /// Takes a delta in and returns it as it is to be delivered. The account is settled when its frames are made:
    /// [`Topic::settle_delta`].
    pub(super) fn publish(
        &mut self,
        kind: Kind,
        ts: Option<u64>,
        payload: Payload,
        offset: Offset,
        when: When,
        trace: Option<Box<Trace>>,
    ) -> Result<Arc<Delta>, PublishError> {
        let payload = payload.for_form(self.options.payload)?;
        let state_bytes = self.change(kind, &payload)?;
        let When { at_ms, now_ms } = when;
        let before = match self.options.has_fossil() {
            true => self.before.replace(payload.bytes().clone()),
            false => None,
        };
        let place = Place {
            topic: self.name.clone(),
            offset,
            // Nothing of this topic lies between the two.
            prev: if self.known { self.offset } else { self.history.floor() },
            epoch: self.epoch.clone(),
            taken_ms: now_ms,
            state_bytes,
            before,
            trace,
        };
        let kept = Delta::new(kind, ts, payload, place);
        let delta = Arc::clone(&kept);
        if let State::Latest(last) = &mut self.state {
            *last = Some(Keep::new(delta.clone()));
        }
        self.history.push(kept, &self.options);
        match (self.options.class, kind) {
            (Class::Merge, Kind::Delta) => {}
            // A value is whole in itself, as a snapshot is.
            _ => (self.incomplete, self.base) = (false, offset),
        }
        self.offset = offset;
        self.known = true;
        (self.unsaved, self.left_out) = (true, false);
        self.ts = ts;
        self.active_ms = at_ms;
        self.snapshot = None;
        Ok(delta)
    }

    /// Puts back a state that was saved outside. It rests on a snapshot at `base`, if that is known.
    pub(super) fn restore(
        &mut self,
        (offset, base): (Offset, Option<Offset>),
        ts: Option<u64>,
        payload: Payload,
        when: When,
    ) -> Result<(), PublishError> {
        let kind = match self.options.class {
            Class::Stream => return Err(PublishError::StreamSnapshot),
            Class::Latest => Kind::Delta,
            Class::Merge => Kind::Snapshot,
        };
        // What lies between the saved state and what the source still holds is not known here.
        let floor = self.offset.max(offset);
        self.publish(kind, ts, payload, offset, when, None)?;
        (self.base, self.is_elsewhere) = (base.unwrap_or_default(), self.is_elsewhere || base.is_some());
        self.awaits_home = false;
        self.history = History::from_floor(floor);
        self.before = None;
        self.unsaved = false;
        self.settle();
        Ok(())
    }

    /// Whether nothing is known of its state but that it is incomplete.
    pub(super) fn is_bare(&self) -> bool {
        self.known && self.incomplete && matches!(&self.state, State::Merge { count: 0, .. })
    }

    /// Takes a state for its own that it had once.
    pub(super) fn adopt(&mut self, payload: &Payload) -> Result<(), PublishError> {
        self.replace_members(merge::parse_object(payload.as_str())?)?;
        self.snapshot = None;
        self.settle();
        Ok(())
    }

    /// Makes an incomplete state whole: the state as it was at `offset`, and the deltas kept since. `false` if some of these
    /// are not kept, or the state is of a later time than everything up to `reached`, which has been read.
    pub(super) fn complete(
        &mut self,
        (offset, base, reached): (Offset, Option<Offset>, Offset),
        (ts, at_ms): (Option<u64>, Option<u64>),
        payload: Payload,
    ) -> Result<bool, PublishError> {
        if !self.known || !self.incomplete || offset > reached {
            return Ok(false);
        }
        let base = base.unwrap_or_default();
        // Who saved it may not have read what another source has of the topic.
        if self.strays.newest().is_some_and(|stray| stray.at() > (base, self.source)) {
            return Ok(false);
        }
        let since: Vec<Arc<Delta>> = match self.history.since(offset) {
            // The newest delta lay in what was not read, and none came since.
            _ if offset > self.offset => Vec::new(),
            Some(since) => since.cloned().collect(),
            None => return Ok(false),
        };
        match self.options.class {
            Class::Stream => return Ok(false),
            Class::Latest if since.is_empty() => {
                let payload = payload.for_form(self.options.payload)?;
                self.may_grow(self.state.weight(), value_weight(payload.bytes().len()))?;
                let place = Place {
                    topic: self.name.clone(),
                    offset: offset.max(self.offset),
                    prev: self.history.floor(),
                    epoch: self.epoch.clone(),
                    taken_ms: self.active_ms,
                    state_bytes: 0,
                    before: None,
                    trace: None,
                };
                self.state = State::Latest(Some(Delta::new(Kind::Delta, self.ts, payload, place)));
            }
            Class::Latest => return Ok(false),
            Class::Merge => {
                let mut members = merge::parse_object(payload.as_str())?;
                for delta in since {
                    let patch = merge::parse_object(delta.payload.as_str())?;
                    if delta.kind == Kind::Delta {
                        merge::apply(&mut members, patch);
                    } else {
                        members = patch;
                    }
                }
                self.replace_members(members)?;
            }
        }
        if offset > self.offset {
            // Its age is that of the delta that was missed.
            (self.offset, self.ts, self.active_ms) = (offset, ts, at_ms.unwrap_or(self.active_ms));
            self.history = History::from_floor(offset);
        }
        (self.incomplete, self.base, self.before, self.snapshot) = (false, base, None, None);
        self.unsaved = true;
        self.settle();
        Ok(true)
    }

    /// The whole state now; made once for each offset.
    pub(super) fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(made) = &self.snapshot {
            return Arc::clone(made);
        }
        let made = self.snapshot_once();
        self.snapshot = Some(Keep::new(made.clone()));
        self.settle();
        if self.account.sums().history() > self.account.sums().history_max() {
            // It can be made again: not kept where there is no room.
            self.snapshot = None;
            self.settle();
        }
        made
    }

    /// The same for one who alone will want it: not kept if it is made for that.
    fn snapshot_once(&self) -> Arc<Snapshot> {
        match &self.snapshot {
            Some(made) => Arc::clone(made),
            None => self.make_snapshot(self.may_lack()),
        }
    }

    /// The same as it is to be saved: what waits elsewhere is no part of it.
    pub(super) fn snapshot_to_save(&self) -> Arc<Snapshot> {
        match self.options.class {
            // Its deltas are in its source. That it is there, and how far it has come, may outlive them.
            Class::Stream => self.snapshot_of(Bytes::from_static(b"[]"), PayloadForm::Json, self.incomplete),
            // One that was made before may not tell what it rests on.
            _ if self.waits || self.is_elsewhere => self.make_snapshot(self.incomplete),
            _ => self.snapshot_once(),
        }
    }

    fn make_snapshot(&self, incomplete: bool) -> Arc<Snapshot> {
        let null = Bytes::from_static(b"null");
        let mut form = PayloadForm::Json;
        let data = match &self.state {
            State::Latest(last) => {
                form = self.options.payload;
                let nothing = if form == PayloadForm::Bytes { Bytes::new() } else { null };
                last.as_ref().filter(|_| self.known).map_or(nothing, |d| d.payload.bytes().clone())
            }
            _ if !self.known => null,
            State::Prepared(text) => text.clone(),
            State::Merge { members, bytes, .. } => {
                let mut out = Vec::with_capacity(*bytes);
                merge::write_members(members, &mut out);
                Bytes::from(out)
            }
            State::Stream => {
                let mut out = vec![b'['];
                for (i, delta) in self.history.last(usize::MAX).enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    let _ = write!(out, "{{\"offset\":{}", delta.offset);
                    if let Some(ts) = delta.ts {
                        let _ = write!(out, ",\"ts\":{ts}");
                    }
                    if delta.payload.form() == PayloadForm::Bytes {
                        out.extend_from_slice(b",\"encoding\":\"base64\",\"data\":");
                        out.append(&mut base64_json(delta.payload.bytes()));
                    } else {
                        out.extend_from_slice(b",\"data\":");
                        out.extend_from_slice(delta.payload.bytes());
                    }
                    out.push(b'}');
                }
                out.push(b']');
                Bytes::from(out)
            }
        };
        self.snapshot_of(data, form, incomplete)
    }

    fn snapshot_of(&self, data: Bytes, form: PayloadForm, incomplete: bool) -> Arc<Snapshot> {
        let known = match (self.known, incomplete) {
            (false, false) => Known::Nothing,
            (false, true) => Known::Unknown,
            (true, true) => Known::Incomplete,
            (true, false) => Known::Whole,
        };
        let (at, moved_at) = ((self.offset, self.told_epoch(incomplete)), self.moved_at);
        let is_based = self.is_elsewhere && known == Known::Whole && self.options.class == Class::Merge;
        let base = if is_based { self.base } else { Offset::ZERO };
        let data = SnapshotData { data, form, known, at_ms: self.active_ms, moved_at, base };
        let made = Snapshot::new(self.name.clone(), at, self.ts, data);
        made.count();
        Arc::new(made)
    }

    /// What a new subscriber gets: what it missed since the position it names, or the state (DESIGN section 4).
    pub(super) fn attach(
        &mut self,
        encoding: Encoding,
        since: Option<&Position>,
        history: u32,
        bytes_max: usize,
    ) -> Attachment {
        // Who has nothing yet may not know the epoch.
        let same = |p: &Position| p.epoch == self.epoch || (p.epoch.as_str().is_empty() && p.offset == Offset::ZERO);
        // What others have of it has no order among what the client holds either.
        let comparable = since.filter(|p| same(p) && p.offset <= self.offset && self.strays.is_empty());
        if self.options.class == Class::Stream {
            let joins = comparable.filter(|p| self.ended_at != Some(p.offset));
            let recovered = joins.and_then(|p| self.replay(encoding, p.offset, bytes_max));
            let wanted = if since.is_some() { 0 } else { history as usize };
            let missed = match &recovered {
                Some(_) => recovered.clone(),
                None => self.history.before_last(wanted).and_then(|from| self.replay(encoding, from, bytes_max)),
            };
            return self.attachment(recovered.is_some(), missed.unwrap_or(Replay::nothing(self.offset)));
        }
        if let Some((after, frames)) = comparable.and_then(|p| Some((p.offset, self.missed(encoding, p.offset)?))) {
            return self.attachment(true, Replay { after, frames, ..Replay::nothing(self.offset) });
        }
        if !self.known && !self.incomplete && since.is_none() {
            return self.attachment(false, Replay::nothing(self.offset));
        }
        let (after, frames) = (Offset::ZERO, vec![self.snapshot().frame(encoding)]);
        // Of what may lack deltas it cannot be said that nothing is missing.
        let recovered = since.is_some() && !self.may_lack();
        self.attachment(recovered, Replay { after, frames, ..Replay::nothing(self.offset) })
    }

    fn attachment(&self, recovered: bool, missed: Replay) -> Attachment {
        let stale_since_ms = self.stale.then_some(self.active_ms);
        // Deltas since a whole state give a whole state, whatever this node's own lacks.
        let epoch = if recovered { self.epoch.clone() } else { self.told_epoch(self.may_lack()) };
        Attachment { offset: self.offset, epoch, recovered, missed, stale_since_ms }
    }

    /// Whether deltas may be missing in the state, or wait elsewhere, or are about to be read.
    fn may_lack(&self) -> bool {
        self.incomplete || self.waits || self.loads
    }

    /// Its source is being loaded from now on, or is loaded. `false` if it was said before.
    pub(super) fn set_loads(&mut self, loads: bool) -> bool {
        let is_new = self.loads != loads;
        if is_new {
            (self.loads, self.snapshot) = (loads, None);
            self.settle();
        }
        is_new
    }

    /// The epoch of the state, as it is told.
    fn told_epoch(&self, incomplete: bool) -> Epoch {
        let is_in_doubt = incomplete && self.options.class.conflatable();
        if is_in_doubt { self.epoch.in_doubt() } else { self.epoch.clone() }
    }

    /// The next deltas after `after`, one or as many as have `bytes_max`; `None` if some are gone.
    pub(super) fn replay(&mut self, encoding: Encoding, after: Offset, bytes_max: usize) -> Option<Replay> {
        let mut replay = Replay { after, upto: after, ..Replay::nothing(after) };
        let mut bytes = 0;
        for delta in self.history.since(after)? {
            // The first goes to a session that does not hold the one before it.
            let frame = delta.frame(if replay.frames.is_empty() { encoding.whole() } else { encoding });
            bytes += frame.len();
            if bytes > bytes_max && !replay.frames.is_empty() {
                replay.complete = false;
                break;
            }
            replay.upto = delta.offset;
            replay.frames.push(frame);
        }
        if replay.complete {
            // Positions between the last delta and one that is only the topic's floor are the same place.
            replay.upto = self.offset;
        }
        self.history.weigh(after);
        self.settle();
        Some(replay)
    }

    /// Frames of what came after `offset`, if that is the shortest way to say it.
    fn missed(&mut self, encoding: Encoding, offset: Offset) -> Option<Vec<Bytes>> {
        if self.ended_at == Some(offset) {
            return None;
        }
        // A client whose last delta never was here had it from a master that is gone: its state may be made of it.
        if offset != self.offset && !self.history.had(offset) {
            return None;
        }
        let missed: Vec<Arc<Delta>> = self.history.since(offset)?.cloned().collect();
        let shorter = match (&self.state, missed.as_slice()) {
            (_, []) => true,
            // One value is as good as many.
            (State::Latest(_), many) => many.len() == 1,
            (State::Merge { bytes, .. }, many) => {
                let patches: usize = many.iter().map(|d| d.payload.bytes().len()).sum();
                patches <= *bytes
            }
            (State::Prepared(text), many) => {
                let patches: usize = many.iter().map(|d| d.payload.bytes().len()).sum();
                patches <= text.len()
            }
            (State::Stream, _) => false,
        };
        if !shorter {
            return None;
        }
        let encodings = std::iter::once(encoding.whole()).chain(std::iter::repeat(encoding));
        let frames = missed.iter().zip(encodings).map(|(d, encoding)| d.frame(encoding)).collect();
        self.history.weigh(offset);
        self.settle();
        Some(frames)
    }

    /// Some of the kept deltas. An answer is bounded in bytes too: what does not fit is asked for again, from there on.
    pub(super) fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, Refusal> {
        let mut publications = Vec::new();
        if query.limit > 0 {
            let since = query.since.as_ref();
            let gone = || Refusal::new(416, "the history does not reach back there, or the epoch is another");
            if since.is_some_and(|p| !p.epoch.as_str().is_empty() && !p.epoch.is_comparable(&self.epoch)) {
                return Err(gone());
            }
            let deltas: Vec<&Arc<Delta>> = match (since, query.reverse) {
                (None, _) => self.history.last(usize::MAX).collect(),
                (Some(p), false) => self.history.since(p.offset).ok_or_else(gone)?.collect(),
                (Some(p), true) => self.history.last(usize::MAX).filter(|d| d.offset < p.offset).collect(),
            };
            let ordered: &mut dyn Iterator<Item = &Arc<Delta>> =
                if query.reverse { &mut deltas.into_iter().rev() } else { &mut deltas.into_iter() };
            let mut bytes = 0;
            for delta in ordered.take(query.limit) {
                if bytes > RECOVERY_BYTES {
                    break;
                }
                bytes += delta.payload.bytes().len();
                publications.push(HistoryDelta {
                    offset: delta.offset,
                    ts: delta.ts,
                    data: delta.payload.bytes().clone(),
                    form: delta.payload.form(),
                    snapshot: delta.kind == Kind::Snapshot,
                });
            }
        }
        Ok(HistoryPage { offset: self.offset, epoch: self.epoch.clone(), publications })
    }

    /// Adds an encoding of a shard to those that get deltas.
    pub(super) fn add_interest(&mut self, shard: ShardId, slot: Slot, encoding: Encoding) {
        match self.interest.iter_mut().find(|i| i.shard == shard && i.slot == slot) {
            Some(interest) => interest.encodings |= encoding.bit(),
            None => {
                self.interest.reserve_exact(1);
                self.interest.push(Interest { shard, slot, encodings: encoding.bit() });
                self.settle();
            }
        }
    }

    /// Ends a shard's interest.
    pub(super) fn remove_interest(&mut self, shard: ShardId, slot: Slot) {
        self.interest.retain(|i| !(i.shard == shard && i.slot == slot));
        self.interest.shrink_to_fit();
        self.settle();
    }

    /// Removes the history before `offset`; the state and the position stay.
    pub(super) fn remove_history(&mut self, offset: Offset) {
        if self.history.remove_before(offset) > 0 && self.options.class == Class::Stream {
            self.snapshot = None;
        }
        self.settle();
    }

    /// Lets go of history that is too old.
    pub(super) fn expire_history(&mut self, now_ms: u64) {
        if self.account.sums().may_go() == 0 {
            return;
        }
        let before = self.history.len();
        self.history.expire(now_ms, &self.options);
        if self.history.len() != before && self.options.class == Class::Stream {
            self.snapshot = None;
        }
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: When = When { at_ms: 0, now_ms: 0 };

    fn topic(class: Class) -> Topic {
        let options = Namespace { class, history_size: 3, ..Namespace::default() };
        let name = TopicName::new("t:x").unwrap();
        let account = Account::new(Arc::new(super::super::account::Sums::new(
            &crate::memory::ResolvedLimits::configured(&crate::config::Limits::default()),
        )));
        Topic::new(name, Arc::new(options), SourceId(0), Epoch::from_text("e"), Floor::default(), 0, account)
    }

    fn publish(topic: &mut Topic, json: &str) -> Arc<Delta> {
        let payload = Payload::new(Bytes::copy_from_slice(json.as_bytes()), 1000).unwrap();
        topic.publish(Kind::Delta, None, payload, topic.offset.next(), AT, None).unwrap()
    }

    fn since(offset: u64, epoch: &str) -> Option<Position> {
        Some(Position { offset: Offset::new(offset).unwrap(), epoch: Epoch::from_text(epoch) })
    }

    fn seen(attachment: &Attachment) -> (bool, Vec<String>) {
        let text = |b: &Bytes| {
            let text = String::from_utf8_lossy(&b[2..]).into_owned();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            format!("{}@{}", value["type"].as_str().unwrap().chars().next().unwrap(), value["offset"])
        };
        (attachment.recovered, attachment.missed.frames.iter().map(text).collect())
    }

    /// (class, what the client names, recovered, frames): five deltas were published, the last three are kept.
    #[test]
    fn recovery() {
        use Class::{Latest, Merge, Stream};
        let table: &[(Class, Option<Position>, bool, &[&str])] = &[
            (Stream, None, false, &[]),
            (Stream, since(5, "e"), true, &[]),
            (Stream, since(3, "e"), true, &["d@4", "d@5"]),
            (Stream, since(2, "e"), true, &["d@3", "d@4", "d@5"]),
            (Stream, since(1, "e"), false, &[]),
            (Stream, since(3, "other"), false, &[]),
            (Stream, since(9, "e"), false, &[]),
            (Latest, None, false, &["s@5"]),
            (Latest, since(5, "e"), true, &[]),
            (Latest, since(4, "e"), true, &["d@5"]),
            (Latest, since(3, "e"), true, &["s@5"]),
            (Latest, since(1, "e"), true, &["s@5"]),
            (Latest, since(5, "other"), true, &["s@5"]),
            (Merge, None, false, &["s@5"]),
            (Merge, since(4, "e"), true, &["d@5"]),
            (Merge, since(1, "e"), true, &["s@5"]),
            (Merge, since(9, "e"), true, &["s@5"]),
        ];
        for (class, position, recovered, frames) in table {
            let mut topic = topic(*class);
            for n in 1..=5 {
                publish(&mut topic, &format!("{{\"n{}\":{n}}}", n % 4));
            }
            let attachment = topic.attach(Encoding::Plain, position.as_ref(), 0, RECOVERY_BYTES);
            let expected = (*recovered, frames.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
            assert_eq!(seen(&attachment), expected, "{class:?} since {position:?}");
            assert_eq!(attachment.offset.get(), 5);
        }
    }

    /// A client that left before a topic ended is not told that nothing has happened.
    #[test]
    fn recovery_after_the_end() {
        for class in [Class::Latest, Class::Merge] {
            let mut topic = topic(class);
            publish(&mut topic, r#"{"a":1}"#);
            topic.end_by_age();
            let attachment = topic.attach(Encoding::Plain, since(1, "e").as_ref(), 0, RECOVERY_BYTES);
            assert_eq!(seen(&attachment), (true, vec!["s@1".to_owned()]), "{class:?}");
            assert_eq!(topic.snapshot().data, "null");
        }
    }

    #[test]
    fn a_stream_gives_history_when_asked() {
        let mut topic = topic(Class::Stream);
        for n in 1..=5 {
            publish(&mut topic, &n.to_string());
        }
        assert_eq!(seen(&topic.attach(Encoding::Plain, None, 2, RECOVERY_BYTES)).1, ["d@4", "d@5"]);
        assert_eq!(seen(&topic.attach(Encoding::Plain, None, 99, RECOVERY_BYTES)).1.len(), 3);
        assert_eq!(topic.snapshot().data, r#"[{"offset":3,"data":3},{"offset":4,"data":4},{"offset":5,"data":5}]"#);
    }

    #[test]
    fn history_is_bounded_by_bytes_and_age() {
        let options = Namespace { history_bytes: 10, ..Namespace::default() };
        let mut history = History::from_floor(Offset::ZERO);
        let mut topic = topic(Class::Stream);
        for _ in 0..4 {
            history.push(Keep::new(publish(&mut topic, "12345")), &options);
        }
        assert_eq!(history.len(), 2);
        assert!(history.since(Offset::new(1).unwrap()).is_none());
        assert_eq!(history.since(Offset::new(2).unwrap()).unwrap().count(), 2);
        history.expire(301_000, &options);
        assert_eq!(history.len(), 0);
        assert!(history.since(Offset::new(3).unwrap()).is_none());
        assert_eq!(history.since(Offset::new(4).unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn a_merge_topic_takes_objects_alone_and_a_stream_no_snapshot() {
        let json = |text: &'static str| Payload::new(Bytes::from_static(text.as_bytes()), 100).unwrap();
        let one = Offset::new(1).unwrap();
        let mut merge = topic(Class::Merge);
        assert!(merge.publish(Kind::Delta, None, json("[1]"), one, AT, None).is_err());
        assert_eq!(merge.offset, Offset::ZERO, "a refused delta leaves no trace");
        merge.publish(Kind::Delta, None, json(r#"{"a":1,"b":2}"#), one, AT, None).unwrap();
        merge.publish(Kind::Snapshot, None, json(r#"{"c":3}"#), one.next(), AT, None).unwrap();
        assert_eq!(merge.snapshot().data, r#"{"c":3}"#);
        assert!(topic(Class::Stream).publish(Kind::Snapshot, None, json("1"), one, AT, None).is_err());
    }
}
