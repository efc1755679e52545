//! One topic: what is known of it, where it is, and which shards are interested in it.

use std::sync::Arc;

use bytes::Bytes;

use super::super::account::Account;
use super::super::delta::{Keep, Snapshot};
use super::super::exchange::{ShardId, Slot, SourceId};
use super::super::history::History;
use super::super::lifetime::over;
use super::super::strays::{Stray, Strays};
use super::value::Value;
use crate::config::Namespace;
use crate::name::TopicName;
use crate::position::{Epoch, Offset};
use crate::protocol::Encoding;

/// When a delta was taken in, Unix ms.
#[derive(Debug, Clone, Copy)]
pub(in crate::topic) struct When {
    /// By its source.
    pub(in crate::topic) at_ms: u64,
    /// Here.
    pub(in crate::topic) now_ms: u64,
}

/// How far a `stream` topic had come by what was saved of it.
#[derive(Debug, Clone, Copy)]
pub(in crate::topic) struct StreamMark {
    pub(in crate::topic) offset: Offset,
    pub(in crate::topic) ts: Option<u64>,
    /// When its source took the newest delta in, Unix ms.
    pub(in crate::topic) at_ms: u64,
    /// Offset of the move that had brought it to its source; 0 if none had.
    pub(in crate::topic) moved_at: Offset,
    /// It may have come further.
    pub(in crate::topic) incomplete: bool,
    /// It was not saved as known after the hole that this node has missed: it is saved again.
    pub(in crate::topic) is_unnamed: bool,
}

/// A shard with subscribers of the topic.
#[derive(Debug, Clone, Copy)]
pub(in crate::topic) struct Interest {
    pub(in crate::topic) shard: ShardId,
    /// The shard's own index of the topic, so that the data plane never hashes a name.
    pub(in crate::topic) slot: Slot,
    /// Encodings in use there, one bit each.
    pub(in crate::topic) encodings: u8,
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

/// A topic, as its map keeps it.
#[derive(Debug)]
pub(in crate::topic) struct Topic {
    pub(in crate::topic) name: TopicName,
    pub(in crate::topic) options: Arc<Namespace>,
    pub(in crate::topic) source: SourceId,
    pub(in crate::topic) epoch: Epoch,
    pub(in crate::topic) offset: Offset,
    /// Whether it is published: a delta has come in this epoch, and the topic has not ended since.
    pub(in crate::topic) known: bool,
    /// Whether deltas that changed the state may be missing in it; of a topic that is not published here, whether it may be
    /// all the same.
    pub(in crate::topic) incomplete: bool,
    /// Offset of the [`Kind::Move`] that brought it to its source; 0 if none did. What comes from another source is refused then.
    pub(in crate::topic) moved_at: Offset,
    /// Where a life of it has ended by its age, or may have.
    pub(super) ended_at: Option<Offset>,
    /// Whether another source has entries of it, too, from before what is known.
    pub(in crate::topic) is_elsewhere: bool,
    /// Entries of other sources that are newer than the snapshot that the state of a `merge` topic rests on.
    pub(in crate::topic) strays: Strays,
    /// Whether deltas wait for the topic's move to another source.
    pub(in crate::topic) waits: bool,
    /// It is in doubt for nothing but that the source in which it belongs may have had it: that is not loaded yet.
    pub(in crate::topic) awaits_home: bool,
    /// Its source is being loaded: what it is made of until then claims nothing.
    pub(super) loads: bool,
    /// Offset of the snapshot that the state rests on; 0 where it was made of deltas alone.
    pub(in crate::topic) base: Offset,
    pub(super) ts: Option<u64>,
    /// When the source took the last delta in or, before one, when this was made, Unix ms.
    pub(in crate::topic) active_ms: u64,
    pub(in crate::topic) stale: bool,
    /// Changed since it was last saved outside.
    pub(in crate::topic) unsaved: bool,
    /// Deltas of a `stream` topic were left out since its subscribers were told where it is.
    pub(in crate::topic) left_out: bool,
    pub(super) value: Value,
    pub(super) history: History,
    /// Data of the last delta as subscribers hold it, where the namespace has delta compression.
    pub(super) before: Option<Bytes>,
    pub(in crate::topic) interest: Vec<Interest>,
    /// Of the current offset, once somebody asked.
    pub(super) snapshot: Option<Keep<Snapshot>>,
    pub(in crate::topic) account: Account,
    /// Who had it made by a subscribe; `None` where that was a publisher.
    pub(in crate::topic) maker: Option<u64>,
}

impl Topic {
    pub(in crate::topic) fn new(
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
            value: Value::empty(options.class),
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

    /// Forgets everything but who is interested.
    pub(in crate::topic) fn reset(&mut self, source: SourceId, epoch: Epoch, floor: Floor) {
        self.source = source;
        self.epoch = epoch;
        self.clear(floor);
    }

    /// Ends at `offset`: no state, no history.
    pub(in crate::topic) fn end(&mut self, offset: Offset) {
        self.clear(offset.into());
    }

    /// Ends it at the offset of its last delta.
    pub(in crate::topic) fn end_by_age(&mut self) {
        self.clear(self.offset.into());
        if self.options.class.conflatable() {
            self.may_have_ended();
        }
    }

    /// Without an entry: whoever left before that holds its state at the offset at which it is now.
    pub(in crate::topic) fn may_have_ended(&mut self) {
        self.ended_at = Some(self.offset);
    }

    fn clear(&mut self, floor: Floor) {
        self.value = Value::empty(self.options.class);
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
    pub(in crate::topic) fn go_on_in(&mut self, source: SourceId, epoch: Epoch, floor: Floor) {
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
    pub(in crate::topic) fn begin_empty(&mut self, offset: Offset, at_ms: u64) {
        self.clear(offset.into());
        (self.known, self.active_ms) = (true, at_ms);
        self.settle();
    }

    /// A `stream` topic had come as far as this mark, and what its source still holds does not say so. No history reaches
    /// across `floor`; where `incomplete`, it may have come further.
    pub(in crate::topic) fn restore_stream(&mut self, mark: &StreamMark, floor: Offset, incomplete: bool) {
        self.begin_empty(floor.max(mark.offset), mark.at_ms);
        (self.ts, self.incomplete) = (mark.ts, incomplete || mark.incomplete);
        // What is in doubt here was saved as whole.
        self.unsaved = incomplete && !mark.incomplete || mark.is_unnamed;
        self.settle();
    }

    /// Its newest entry, as it is told where the topic is in another source.
    pub(in crate::topic) fn as_stray(&self) -> Stray {
        Stray { source: self.source, offset: self.offset, at_ms: self.active_ms, is_deletion: false }
    }

    /// Whether what comes from another source is refused.
    pub(in crate::topic) fn is_moved(&self) -> bool {
        self.moved_at > Offset::ZERO
    }

    /// Whether it has ended by `at_ms`, by the time of its source.
    pub(in crate::topic) fn is_over(&self, at_ms: u64, grace: bool) -> bool {
        self.known && over(&self.options, self.active_ms, at_ms, grace)
    }

    /// Subscribers will be sent the state: the next delta is not to be said by the one before.
    pub(in crate::topic) fn break_chain(&mut self) {
        self.before = None;
    }

    /// Adds an encoding of a shard to those that get deltas.
    pub(in crate::topic) fn add_interest(&mut self, shard: ShardId, slot: Slot, encoding: Encoding) {
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
    pub(in crate::topic) fn remove_interest(&mut self, shard: ShardId, slot: Slot) {
        self.interest.retain(|i| !(i.shard == shard && i.slot == slot));
        self.interest.shrink_to_fit();
        self.settle();
    }
}
