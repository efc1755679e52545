//! Conflation: one frame in place of many, which takes a subscriber from one cursor of a topic to another.

use std::collections::HashMap;

use bytes::Bytes;

use super::topics::TopicEntry;
use crate::config::Class;
use crate::hub::cursor::Cursor;
use crate::position::Offset;
use crate::protocol::{Delivery, Encoding};
use crate::topic::{Delta, Kind, Slot, merge};

/// What takes a subscriber from one cursor to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Conflated {
    /// The cursors are equal.
    Nothing,
    /// This frame, in place of so many deltas.
    Frame(Bytes, u64),
    /// The topic's state is needed: no patch expresses the difference, the deltas are gone, or the state is shorter.
    Snapshot,
}

/// The frames made in this tick: all subscribers at one cursor share one.
pub(super) struct Conflations {
    made: HashMap<(Slot, Encoding, Offset, Offset), Conflated>,
    bytes: usize,
    /// Limit on the bytes of frames that are kept within a tick.
    max: usize,
}

/// Upper limit on those bytes, for any configuration.
const MADE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Their share of the limit on kept deltas is one in this many.
const MADE_PART: usize = 8;

impl Conflations {
    /// `deltas_max` is the limit on the kept deltas of all shards, in bytes.
    pub(super) fn new(deltas_max: Option<usize>) -> Self {
        let max = deltas_max.map_or(MADE_BYTES_MAX, |max| MADE_BYTES_MAX.min(max / MADE_PART));
        Self { made: HashMap::new(), bytes: 0, max }
    }

    /// What takes a subscriber of `topic` from `from` to `to`.
    pub(super) fn between(
        &mut self,
        slot: Slot,
        topic: &TopicEntry,
        encoding: Encoding,
        from: Cursor,
        to: Cursor,
    ) -> Conflated {
        if from == Cursor::NOWHERE {
            return Conflated::Snapshot;
        }
        if from.seq >= to.seq {
            return Conflated::Nothing;
        }
        let encoding = encoding.whole();
        let key = (slot, encoding, from.offset, to.offset);
        if let Some(made) = self.made.get(&key) {
            return made.clone();
        }
        if self.bytes > self.max {
            self.clear();
        }
        let made = conflate(topic, encoding, from, to);
        if let Conflated::Frame(bytes, _) = &made {
            self.bytes += bytes.len();
        }
        self.made.insert(key, made.clone());
        made
    }

    pub(super) fn clear(&mut self) {
        self.made.clear();
        self.made.shrink_to(1_024);
        self.bytes = 0;
    }
}

fn conflate(topic: &TopicEntry, encoding: Encoding, from: Cursor, to: Cursor) -> Conflated {
    let count = to.seq - from.seq;
    let begin = topic.recent.partition_point(|d| d.offset <= from.offset);
    let end = topic.recent.partition_point(|d| d.offset <= to.offset);
    let missed = topic.recent.range(begin..end.max(begin));
    let Some(last) = missed.clone().last().filter(|last| last.offset == to.offset) else { return Conflated::Snapshot };
    if count == 1 {
        return Conflated::Frame(last.frame(encoding), 1);
    }
    let form = last.payload.form();
    let frame = |data: &[u8]| {
        let delivery =
            Delivery { topic: &topic.name, offset: to.offset, prev: from.offset, count, ts: last.ts, data, form };
        Conflated::Frame(encoding.delivery(&delivery, None), count)
    };
    match topic.class {
        // Deltas of a stream are never replaced.
        Class::Stream => Conflated::Snapshot,
        Class::Latest => frame(last.payload.bytes()),
        Class::Merge => {
            if missed.len() as u64 != count {
                return Conflated::Snapshot;
            }
            match composed(missed.map(|d| &**d)) {
                Some(patch) if patch.len() <= last.state_bytes => frame(&patch),
                _ => Conflated::Snapshot,
            }
        }
    }
}

/// The one patch that is equivalent to all of these deltas, if there is one.
fn composed<'a>(mut deltas: impl Iterator<Item = &'a Delta>) -> Option<Vec<u8>> {
    let patch = |d: &Delta| (d.kind == Kind::Delta).then(|| merge::parse_object(d.payload.as_str()).ok()).flatten();
    let mut whole = patch(deltas.next()?)?;
    for delta in deltas {
        if !merge::compose(&mut whole, &patch(delta)?) {
            return None;
        }
    }
    let mut out = Vec::new();
    merge::write_members(&whole, &mut out);
    Some(out)
}
