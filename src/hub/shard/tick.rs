//! The tick of a shard: read sockets, take events, fan out, write.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::Events;

use super::command::{auth, backend_request, sub_refresh};
use super::shard::Shard;
use crate::hub::event::Event;
use crate::limits;

/// Largest number of sockets that one poll reports.
const POLL_EVENTS: usize = 4_096;

/// Pause of a busy shard after a tick in which clients sent something.
const CROWD_GAP: Duration = Duration::from_micros(500);

impl Shard {
    /// Runs ticks until the shard is drained.
    pub(in crate::hub) fn run(mut self) {
        let mut events = Events::with_capacity(POLL_EVENTS);
        loop {
            if self.input.was_busy && self.egress.load.flush_delay_ms() > 0 {
                // Clients send at about the same time: waiting for more of them costs less than a wake-up for each.
                std::thread::sleep(CROWD_GAP);
            }
            let timeout = self.rest();
            self.turn(&mut events, timeout);
            if self.drain.is_some() && self.sessions.is_empty() {
                return;
            }
        }
    }

    /// Advances the clock in a test.
    #[cfg(test)]
    pub(in crate::hub) fn pass(&mut self, time: Duration) {
        self.clock.pass(time);
    }

    /// Waits at most `timeout` for something to do, and does it.
    pub(in crate::hub) fn turn(&mut self, events: &mut Events, timeout: Duration) {
        if let Err(error) = self.poll.poll(events, Some(timeout))
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            tracing::error!(shard = self.id.0, %error, "poll failed");
        }
        self.queue.awake();
        let began = Instant::now();
        self.tick(events);
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.stats.ticks.add(1);
        self.stats.tick(took_us);
        self.egress.load.ticked(self.clock.elapsed(), took_us);
        self.stats.flush_delay_ms.set(u64::from(self.egress.load.flush_delay_ms()));
    }

    fn tick(&mut self, events: &Events) {
        self.begin_tick();
        self.read_sockets(events);
        self.take_events();
        self.send_memberships();
        self.deliver();
        self.sweep();
        self.end_sessions();
        self.flush();
        self.requests.flush();
        self.end_tick();
    }

    fn begin_tick(&mut self) {
        self.clock.tick();
        self.egress.begin_tick(self.clock.now_ms, self.clock.unix_ms);
        self.fanout.begin_tick(self.clock.now_ms);
        self.heartbeat_ms.store(self.clock.unix_ms, Ordering::Relaxed);
    }

    /// Takes events out of the queue, up to the limits of a tick.
    fn take_events(&mut self) {
        self.stats.queue_high.set(self.stats.queue_high.get().max(self.queue.depth() as u64));
        self.fanout.set_overloaded(self.queue.depth() > limits::QUEUE_HIGH_WATER / 16);
        (self.taken, self.taken_bytes) = (0, 0);
        while self.taken < limits::TICK_EVENTS_MAX
            && (self.taken == 0 || self.taken_bytes.max(self.egress.outbox.frame_bytes()) <= self.outgoing_max)
            && let Some(event) = self.queue.take()
        {
            self.taken += 1;
            self.handle(event);
        }
        self.stats.events.add(self.taken as u64);
        self.was_busy = self.taken > 0;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Open(session) => self.open(*session),
            Event::Delta { slot, delta } => {
                self.taken_bytes += delta.payload.bytes().len();
                self.delta(slot, &delta);
            }
            Event::Reset { slot, snapshot } => self.reset(slot, &snapshot),
            Event::Stale { slot, since_ms } => self.stale(slot, since_ms),
            Event::Attached { ask, result } => self.attached(ask, result),
            Event::Snapshot { ask, snapshot } => self.snapshot_came(ask, &snapshot.snapshot),
            Event::Replayed { ask, replay } => self.replayed(ask, replay),
            Event::Unanswered { ask, topic } => self.unanswered(ask, &topic),
            Event::Detached { slot } => {
                self.memberships.forget(slot);
                self.fanout.topics.free(slot);
            }
            Event::Membership { slot, change } => self.membership(slot, &change),
            Event::Authenticated { session, id, purpose, result } => auth::reply(self, session, id, purpose, result),
            Event::SubRefreshed { session, id, slot, result } => sub_refresh::reply(self, session, &id, slot, result),
            Event::Answered { session, reply } => backend_request::reply(self, session, reply),
            Event::Order(order) => self.obey(&order.0, &order.1),
            Event::CountSubscribers { fits, max, counts } => {
                // The requester may have given up.
                let _ = counts.try_send(self.fanout.topics.subscriber_counts(&*fits, max));
            }
            Event::Drain { window } => self.begin_drain(window),
            Event::Rebalance { share, window } => self.begin_rebalance(share, window),
            Event::Hurry => self.hurry(),
        }
    }

    fn end_tick(&mut self) {
        self.egress.end_tick();
        if !self.fanout.trace.is_empty() {
            let outbox = &self.egress.outbox;
            let waiting = |chunk| outbox.get(chunk).filter(|_| outbox.is_linked(chunk));
            self.fanout.trace.end_tick(self.clock.now_ms, waiting);
        }
        self.fanout.end_tick(self.limits.deltas_total_bytes);
        self.requests.end_tick();
        self.input.end_tick();
        self.stats.topics.set(self.fanout.topics.topics() as u64);
        self.stats.outgoing_bytes.set(self.egress.outbox.bytes() as u64);
        self.stats.session_bytes.set((self.sessions.bytes() + self.sweep.outside_bytes()) as u64);
        let subscriptions = self.fanout.topics.bytes() + self.memberships.bytes();
        let asked = self.requests.bytes() + self.allowances.bytes();
        self.stats.subscription_bytes.set((subscriptions + asked) as u64);
    }

    /// How long the shard may rest, as announced to its queue.
    fn rest(&self) -> Duration {
        let sleep = self.sleep_time();
        // A shard parks after work; it sleeps after a park in which nothing came.
        let park = if self.was_busy { self.egress.load.park() } else { Duration::ZERO };
        let may_rest = !sleep.is_zero() && if park.is_zero() { self.queue.sleep() } else { self.queue.park() };
        match may_rest {
            false => Duration::ZERO,
            true if park.is_zero() => sleep,
            true => sleep.min(park),
        }
    }

    fn sleep_time(&self) -> Duration {
        if self.again {
            return Duration::ZERO;
        }
        if !self.input.readable.is_empty() || self.requests.are_waiting() {
            // A full control plane is tried again soon, without spinning.
            let at_once = !self.requests.are_waiting() && !self.requests.is_control_behind();
            return if at_once { Duration::ZERO } else { Duration::from_millis(1) };
        }
        let now_ms = self.clock.elapsed_ms();
        // Without sessions, one tick per second is enough for the heartbeat.
        let idle = self.sessions.is_empty();
        let sweep_ms = if idle && self.drain.is_none() { now_ms + 1_000 } else { self.sweep.next_ms() };
        let due_ms = self.fanout.next_ms().unwrap_or(u64::MAX);
        let timer_ms = self.egress.next_timer_ms().unwrap_or(u64::MAX);
        let timer_ms = timer_ms.min(self.memberships.next_ms().unwrap_or(u64::MAX));
        Duration::from_millis(sweep_ms.min(due_ms).min(timer_ms).saturating_sub(now_ms))
    }
}
