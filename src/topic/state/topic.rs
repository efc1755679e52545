//! One topic: its state and flags, its source, and the shards that are interested in it.

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

/// The saved position of a `stream` topic.
#[derive(Debug, Clone, Copy)]
pub(in crate::topic) struct StreamMark {
    pub(in crate::topic) offset: Offset,
    pub(in crate::topic) ts: Option<u64>,
    /// When its source took the newest delta in, Unix ms.
    pub(in crate::topic) at_ms: u64,
    /// Offset of the move that had brought it to its source; 0 if none had.
    pub(in crate::topic) moved_at: Offset,
    /// There may have been later entries.
    pub(in crate::topic) incomplete: bool,
    /// It was saved without the name of the hole that this node knows of: it is to be saved again.
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

/// The position from which a topic begins that is not known yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Floor {
    /// Offsets up to here may have been given to deltas that are not known here.
    pub offset: Offset,
    /// Every delta after this offset will be known. Less than `offset` only if the source still has everything that it
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
    /// Whether the state may lack deltas; for a topic that is not published here, whether it may exist all the same.
    pub(in crate::topic) incomplete: bool,
    /// Offset of the `move` that brought it to its source; 0 if none did. Entries of other sources are refused then.
    pub(in crate::topic) moved_at: Offset,
    /// The offset at which it has expired, or may have.
    pub(super) ended_at: Option<Offset>,
    /// Whether another source has older entries of it, too.
    pub(in crate::topic) is_elsewhere: bool,
    /// Entries of other sources that are newer than the snapshot that the state of a `merge` topic rests on.
    pub(in crate::topic) strays: Strays,
    /// Whether deltas wait for the topic's move to another source.
    pub(in crate::topic) waits: bool,
    /// It is incomplete only because its home, which is not loaded yet, may have older entries of it.
    pub(in crate::topic) awaits_home: bool,
    /// Its source is being loaded: until then its state is not claimed to be whole.
    pub(super) loads: bool,
    /// Offset of the snapshot that the state rests on; 0 if it was made of deltas alone.
    pub(in crate::topic) base: Offset,
    pub(super) ts: Option<u64>,
    /// When the source took the last delta in or, before one, when this was made, Unix ms.
    pub(in crate::topic) active_ms: u64,
    pub(in crate::topic) stale: bool,
    /// Changed since it was last saved outside.
    pub(in crate::topic) unsaved: bool,
    /// Deltas of a `stream` topic were left out since its subscribers were last told its position.
    pub(in crate::topic) left_out: bool,
    pub(super) value: Value,
    pub(super) history: History,
    /// Data of the last delta that subscribers have, where the namespace has delta compression.
    pub(super) before: Option<Bytes>,
    pub(in crate::topic) interest: Vec<Interest>,
    /// The snapshot at the current offset, once it was asked for.
    pub(super) snapshot: Option<Keep<Snapshot>>,
    pub(in crate::topic) account: Account,
    /// The client that had it made by a subscribe; `None` for a publisher.
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

    /// Forgets everything except the interested shards.
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

    /// It may have expired, without an entry: a client that left before has its state at the present offset.
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

    /// Puts back a `stream` topic at its saved position, which its source's entries no longer show. No history reaches
    /// across `floor`; with `incomplete`, there may have been later entries.
    pub(in crate::topic) fn restore_stream(&mut self, mark: &StreamMark, floor: Offset, incomplete: bool) {
        self.begin_empty(floor.max(mark.offset), mark.at_ms);
        (self.ts, self.incomplete) = (mark.ts, incomplete || mark.incomplete);
        // A topic that is in doubt here was saved as whole.
        self.unsaved = incomplete && !mark.incomplete || mark.is_unnamed;
        self.settle();
    }

    /// Its newest entry, for a topic that is in another source.
    pub(in crate::topic) fn as_stray(&self) -> Stray {
        Stray { source: self.source, offset: self.offset, at_ms: self.active_ms, is_deletion: false }
    }

    /// Whether entries of other sources are refused.
    pub(in crate::topic) fn is_moved(&self) -> bool {
        self.moved_at > Offset::ZERO
    }

    /// Whether it has expired by `at_ms`, by its source's clock.
    pub(in crate::topic) fn is_over(&self, at_ms: u64, grace: bool) -> bool {
        self.known && over(&self.options, self.active_ms, at_ms, grace)
    }

    /// Subscribers will be sent the state: the next delta must not be encoded as a difference to the one before.
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
