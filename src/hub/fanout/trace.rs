//! Traced deltas ([`Trace`]) on their way through a shard: what is counted and logged for them. With no trace active,
//! each call here costs one emptiness check.

use std::sync::Arc;

use bytes::Bytes;

use super::groups::Group;
use super::receivers::Receivers;
use crate::hub::chunk::Chunk;
use crate::hub::index::{ChunkId, GroupId};
use crate::topic::{Delta, ShardId, Slot, Trace};

/// How long the last write of a delta is awaited, in ms.
const PATIENCE_MS: u64 = 10_000;

/// The deltas that a shard traces now.
pub(in crate::hub) struct Traces {
    shard: ShardId,
    deltas: Vec<Traced>,
}

struct Traced {
    delta: Arc<Delta>,
    slot: Slot,
    seq: u64,
    until_ms: u64,
    /// Its fan-out was logged.
    fanned_out: bool,
    subscribers: usize,
    /// Number of subscriptions that lagged; they catch up later.
    lagging: usize,
    /// Number of members of groups with a rate; they get the delta, or one that replaces it, when the group is due.
    throttled: usize,
    /// The groups with a rate that have not delivered since.
    due: Vec<GroupId>,
    /// The chunks that contain it, while they wait for a write.
    chunks: Vec<(ChunkId, Bytes)>,
    /// Number of sessions that share such a chunk.
    receivers: usize,
    /// Number of those that get a newer state in its place.
    conflated: usize,
    writes: usize,
    cut_short: usize,
    first_us: u64,
    last_us: u64,
}

/// The deltas that a chunk delivers: those after `from`, up to `upto`.
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) upto: u64,
    /// One frame replaces all of them.
    pub(super) conflated: bool,
}

impl Traces {
    pub(super) fn new(shard: ShardId) -> Self {
        Self { shard, deltas: Vec::new() }
    }

    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// A traced delta was taken from the queue: the shard's `event`th event in `tick`, and its topic's `seq`th delta
    /// here.
    pub(super) fn begin<'a>(
        &mut self,
        slot: Slot,
        delta: &Arc<Delta>,
        seq: u64,
        groups: impl Iterator<Item = (GroupId, &'a Group)>,
        (tick, event): (u64, usize),
        now_ms: u64,
    ) {
        let Some(trace) = &delta.trace else { return };
        let us = trace.us();
        let (mut subscribers, mut lagging, mut throttled, mut due) = (0, 0, 0, Vec::new());
        for (id, group) in groups {
            subscribers += group.len();
            if group.interval_ms > 0 {
                throttled += group.len();
                due.push(id);
            } else {
                lagging += group.lagging().count();
            }
        }
        tracing::info!(
            target: "nexus_push::trace",
            %trace,
            topic = delta.topic.as_str(),
            offset = delta.offset.get(),
            us,
            shard = self.shard.0,
            tick,
            tick_events = event,
            "trace: tick"
        );
        self.deltas.push(Traced {
            delta: delta.clone(),
            slot,
            seq,
            until_ms: now_ms + PATIENCE_MS,
            fanned_out: false,
            subscribers,
            lagging,
            throttled,
            due,
            chunks: Vec::new(),
            receivers: 0,
            conflated: 0,
            writes: 0,
            cut_short: 0,
            first_us: 0,
            last_us: 0,
        });
    }

    /// Shares a chunk with some of a topic's deltas among the members of a group, and records it.
    pub(super) fn share(&mut self, slot: Slot, span: &Span, chunk: Chunk, group: &Group, to: &mut impl Receivers) {
        if self.deltas.is_empty() {
            to.share(chunk, group.receivers());
            return;
        }
        let bytes = chunk.bytes.clone();
        let number = to.share(chunk, group.receivers());
        let receivers = group.receivers().count();
        let carried = |t: &&mut Traced| t.slot == slot && span.from < t.seq && t.seq <= span.upto;
        for traced in self.deltas.iter_mut().filter(carried) {
            traced.chunks.push((number, bytes.clone()));
            traced.receivers += receivers;
            if span.conflated && traced.seq < span.upto {
                traced.conflated += receivers;
            }
        }
    }

    /// A group with a rate is level with its topic.
    pub(super) fn group_delivered(&mut self, group: GroupId) {
        for traced in &mut self.deltas {
            traced.due.retain(|due| *due != group);
        }
    }

    /// The tick's chunks are in the send queues.
    pub(super) fn fanned_out(&mut self) {
        for traced in self.deltas.iter_mut().filter(|t| !t.fanned_out) {
            traced.fanned_out = true;
            if let Some(trace) = &traced.delta.trace {
                traced.log_fanned_out(self.shard, trace);
            }
        }
    }

    /// A write was made of these chunks. `all`: the socket took all of it.
    pub(in crate::hub) fn written<'a>(&mut self, chunks: impl Iterator<Item = (ChunkId, &'a Chunk)>, all: bool) {
        for (number, chunk) in chunks {
            for traced in &mut self.deltas {
                if !traced.chunks.iter().any(|(at, bytes)| *at == number && same(bytes, &chunk.bytes)) {
                    continue;
                }
                let Some(trace) = &traced.delta.trace else { continue };
                traced.last_us = trace.us();
                if traced.writes == 0 {
                    traced.first_us = traced.last_us;
                }
                traced.writes += 1;
                traced.cut_short += usize::from(!all);
            }
        }
    }

    /// At the end of a tick: finishes deltas whose last write was made. `waiting` finds a chunk that waits for a write.
    pub(in crate::hub) fn end_tick<'a>(&mut self, now_ms: u64, waiting: impl Fn(ChunkId) -> Option<&'a Chunk>) {
        let shard = self.shard;
        self.deltas.retain_mut(|traced| {
            traced.chunks.retain(|(number, bytes)| waiting(*number).is_some_and(|chunk| same(&chunk.bytes, bytes)));
            let done = traced.chunks.is_empty() && traced.due.is_empty();
            if !done && now_ms < traced.until_ms {
                return true;
            }
            if let Some(trace) = &traced.delta.trace {
                traced.log_flushed(shard, trace);
            }
            false
        });
    }
}

/// Whether these are the same bytes in memory: ids of chunks are reused.
fn same(a: &Bytes, b: &Bytes) -> bool {
    a.as_ptr() == b.as_ptr() && a.len() == b.len()
}

impl Traced {
    fn log_fanned_out(&self, shard: ShardId, trace: &Trace) {
        tracing::info!(
            target: "nexus_push::trace",
            %trace,
            topic = self.delta.topic.as_str(),
            offset = self.delta.offset.get(),
            us = trace.us(),
            shard = shard.0,
            subscribers = self.subscribers,
            receivers = self.receivers,
            lagging = self.lagging,
            throttled = self.throttled,
            "trace: fanned out"
        );
    }

    fn log_flushed(&self, shard: ShardId, trace: &Trace) {
        tracing::info!(
            target: "nexus_push::trace",
            %trace,
            topic = self.delta.topic.as_str(),
            offset = self.delta.offset.get(),
            us = trace.us(),
            shard = shard.0,
            first_write_us = self.first_us,
            last_write_us = self.last_us,
            writes = self.writes,
            cut_short = self.cut_short,
            conflated = self.conflated,
            withheld = self.receivers.saturating_sub(self.writes),
            "trace: flushed"
        );
    }
}
