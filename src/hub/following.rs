//! Followed deltas ([`Trace`]) on their way through a shard: what is counted of them, and logged.
//! While there is none, nothing here is looked at but whether there is one.

use std::sync::Arc;

use bytes::Bytes;

use super::flush::Sent;
use super::outbox::{Chain, Outbox};
use super::shard::Shard;
use crate::topic::{Delta, ShardId, Slot, Trace};

/// Time after which nobody waits for the last visit, in ms.
const PATIENCE_MS: u64 = 10_000;

/// The deltas that are followed now.
#[derive(Default)]
pub(super) struct Following {
    deltas: Vec<Followed>,
}

struct Followed {
    delta: Arc<Delta>,
    slot: Slot,
    seq: u64,
    until_ms: u64,
    /// It was said who gets it.
    fanned_out: bool,
    subscribers: usize,
    /// Behind, by a full socket mostly: brought on later.
    held: usize,
    /// In lanes with a rate: it goes, or what stands for it, when the lane is due.
    throttled: usize,
    /// Those lanes, as long as they were not.
    due: Vec<u32>,
    /// What carries it, as long as somebody waits for that.
    pieces: Vec<(u32, Bytes)>,
    /// Sessions that such a piece was linked to.
    receivers: usize,
    /// Of those, the ones that get a newer state in its place.
    conflated: usize,
    visits: usize,
    cut_short: usize,
    first_us: u64,
    last_us: u64,
}

/// Deltas that one frame, or run of frames, delivers: those after `from`, up to `upto`.
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) upto: u64,
    /// As one frame that stands for all of them.
    pub(super) conflated: bool,
}

impl Following {
    pub(super) fn is_empty(&self) -> bool {
        self.deltas.is_empty()
    }

    /// A piece that carries some of a topic's deltas was linked to `receivers` sessions.
    pub(super) fn linked(&mut self, slot: Slot, span: &Span, piece: u32, bytes: &Bytes, receivers: usize) {
        let carried = |f: &&mut Followed| f.slot == slot && span.from < f.seq && f.seq <= span.upto;
        for followed in self.deltas.iter_mut().filter(carried) {
            followed.pieces.push((piece, bytes.clone()));
            followed.receivers += receivers;
            if span.conflated && followed.seq < span.upto {
                followed.conflated += receivers;
            }
        }
    }

    /// A lane with a rate is where its topic is.
    pub(super) fn lane_delivered(&mut self, lane: u32) {
        for followed in &mut self.deltas {
            followed.due.retain(|due| *due != lane);
        }
    }

    /// A visit was made with what is in `chain`.
    pub(super) fn visited(&mut self, outbox: &Outbox, chain: Chain, sent: Sent) {
        if sent == Sent::Gone {
            return;
        }
        for number in outbox.numbers(chain) {
            let Some(piece) = outbox.get(number) else { continue };
            for followed in &mut self.deltas {
                if !followed.pieces.iter().any(|(at, bytes)| *at == number && same(bytes, &piece.bytes)) {
                    continue;
                }
                let Some(trace) = &followed.delta.trace else { continue };
                followed.last_us = trace.us();
                if followed.visits == 0 {
                    followed.first_us = followed.last_us;
                }
                followed.visits += 1;
                followed.cut_short += usize::from(sent != Sent::All);
            }
        }
    }
}

/// Whether it is the very same run of bytes: pieces' numbers are used again.
fn same(a: &Bytes, b: &Bytes) -> bool {
    a.as_ptr() == b.as_ptr() && a.len() == b.len()
}

impl Followed {
    fn fanned_out(&self, shard: ShardId, trace: &Trace) {
        tracing::info!(
            target: "nexus_push::trace",
            %trace,
            topic = self.delta.topic.as_str(),
            offset = self.delta.offset.get(),
            us = trace.us(),
            shard = shard.0,
            subscribers = self.subscribers,
            receivers = self.receivers,
            held = self.held,
            throttled = self.throttled,
            "trace: fanned out"
        );
    }

    fn flushed(&self, shard: ShardId, trace: &Trace) {
        tracing::info!(
            target: "nexus_push::trace",
            %trace,
            topic = self.delta.topic.as_str(),
            offset = self.delta.offset.get(),
            us = trace.us(),
            shard = shard.0,
            first_write_us = self.first_us,
            last_write_us = self.last_us,
            visits = self.visits,
            cut_short = self.cut_short,
            conflated = self.conflated,
            withheld = self.receivers.saturating_sub(self.visits),
            "trace: flushed"
        );
    }
}

impl Shard {
    /// A followed delta came out of the queue; it is its topic's `seq`th here.
    pub(super) fn follow_delta(&mut self, slot: Slot, delta: &Arc<Delta>, seq: u64) {
        let (Some(trace), Some((topic, lanes))) = (&delta.trace, self.subscribers.topic_and_lanes(slot)) else {
            return;
        };
        let us = trace.us();
        let (mut subscribers, mut held, mut throttled, mut due) = (0, 0, 0, Vec::new());
        for id in &topic.lanes {
            let Some(lane) = lanes.get(*id as usize) else { continue };
            subscribers += lane.len();
            if lane.interval_ms > 0 {
                throttled += lane.len();
                due.push(*id);
            } else {
                held += lane.held().count();
            }
        }
        tracing::info!(
            target: "nexus_push::trace",
            %trace,
            topic = delta.topic.as_str(),
            offset = delta.offset.get(),
            us,
            shard = self.id.0,
            tick = self.stats.ticks.get(),
            tick_events = self.taken,
            "trace: tick"
        );
        self.following.deltas.push(Followed {
            delta: delta.clone(),
            slot,
            seq,
            until_ms: self.now_ms + PATIENCE_MS,
            fanned_out: false,
            subscribers,
            held,
            throttled,
            due,
            pieces: Vec::new(),
            receivers: 0,
            conflated: 0,
            visits: 0,
            cut_short: 0,
            first_us: 0,
            last_us: 0,
        });
    }

    /// What the tick brought is linked to those who get it.
    pub(super) fn fanned_out(&mut self) {
        for followed in self.following.deltas.iter_mut().filter(|f| !f.fanned_out) {
            followed.fanned_out = true;
            if let Some(trace) = &followed.delta.trace {
                followed.fanned_out(self.id, trace);
            }
        }
    }

    /// At the end of a tick: deltas that nobody waits for any more are done.
    pub(super) fn unfollow(&mut self) {
        let (outbox, now_ms, id) = (&self.outbox, self.now_ms, self.id);
        self.following.deltas.retain_mut(|followed| {
            let waited_for = |(number, bytes): &(u32, Bytes)| {
                outbox.is_linked(*number) && outbox.get(*number).is_some_and(|piece| same(&piece.bytes, bytes))
            };
            followed.pieces.retain(waited_for);
            let done = followed.pieces.is_empty() && followed.due.is_empty();
            if !done && now_ms < followed.until_ms {
                return true;
            }
            if let Some(trace) = &followed.delta.trace {
                followed.flushed(id, trace);
            }
            false
        });
    }
}
