//! What the shard does at certain times: it sweeps its sessions, drains, and rebalances.

use std::time::Duration;

use super::shard::Shard;
use crate::hub::clock::clock32;
use crate::hub::index::SessionIndex;
use crate::hub::lifecycle::{HURRY_MS, PacedClose, Rebalance, Share, Verdict, is_past, millis};
use crate::hub::stage::Stage;
use crate::limits::SHED_RETRY_MS_MAX;
use crate::protocol::Notice;
use crate::wire::close::CloseReason;

impl Shard {
    /// Checks the next slice of the sessions if it is due.
    pub(super) fn sweep(&mut self) {
        let (places, is_empty) = (self.sessions.places(), self.sessions.is_empty());
        let Some(slice) = self.sweep.begin(places, is_empty, self.clock.now_ms) else { return };
        for _ in 0..slice {
            let (at, begins) = self.sweep.next_place(places);
            if begins {
                self.forget_paid_back();
            }
            let index = SessionIndex::new(at);
            self.sweep.count(self.sessions.get(index).map_or(0, |session| session.boxed_bytes()));
            self.check(index);
            if self.sweep.ends(places) {
                self.give_back_memory();
            }
        }
        if is_empty {
            self.sweep.nothing();
            self.forget_paid_back();
            self.give_back_memory();
        }
        self.relieve_incoming();
        if self.rebalance.is_some() {
            self.rebalance_some();
        }
        if self.drain.is_some() {
            self.drain_some();
        }
    }

    /// All sessions were checked: frees unused memory.
    fn give_back_memory(&mut self) {
        self.fanout.topics.shrink();
        self.requests.shrink();
        self.pending.shrink();
        self.sessions.shrink();
        crate::allocator::give_back();
    }

    fn forget_paid_back(&mut self) {
        self.input.sweep(self.clock.now_ns());
        self.allowances.sweep();
    }

    /// Checks one session's time-outs.
    fn check(&mut self, index: SessionIndex) {
        let (now_ms, unix_ms) = (self.clock.now_ms, self.clock.unix_ms);
        let Some(session) = self.sessions.get(index) else { return };
        match self.timeouts.judge(session, now_ms, unix_ms) {
            Verdict::Leave => return,
            Verdict::Drop => return self.drop_session(index),
            Verdict::Close(reason) => return self.close(index, reason),
            Verdict::Keep => {}
        }
        self.expire_subscriptions(index, self.timeouts.expired_until_s(unix_ms));
        let Some(session) = self.sessions.get_mut(index) else { return };
        if self.timeouts.must_ping(session, index, now_ms) {
            let ping = session.output.dialect.ping();
            self.send(index, ping);
            self.stats.pings.add(1);
        }
    }

    /// Notifies every client, and begins to close all sessions over `window`.
    pub(super) fn begin_drain(&mut self, window: Duration) {
        if self.drain.is_some() {
            return;
        }
        // The drain includes the sessions that were to move to other nodes.
        self.rebalance = None;
        let window_ms = millis(window);
        let waiting = self.sessions.ids(|session| session.is_live());
        for id in &waiting {
            let retry_after_ms = rand::random_range(0..=window_ms.max(1_000));
            if let Some(session) = self.sessions.by_id(*id) {
                let notice = session.output.dialect.notice(Notice::Closing { retry_after_ms });
                self.send(id.index, notice);
            }
        }
        self.drain = Some(PacedClose::new(self.clock.now_ms, window, waiting));
        self.sweep.hurry(self.clock.now_ms);
    }

    fn drain_some(&mut self) {
        let now_ms = self.clock.now_ms;
        let Some(drain) = &mut self.drain else { return };
        for id in drain.due(now_ms) {
            if self.sessions.by_id(id).is_some() {
                self.close(id.index, CloseReason::ServiceRestart);
            }
        }
        // Includes sessions that the sweep would only reach within a second.
        let is_late = |stage: Stage, close_by_ms: u32| stage == Stage::Closing && is_past(close_by_ms, now_ms);
        for id in self.sessions.ids(|session| is_late(session.output.stage, session.output.close_by_ms)) {
            self.drop_session(id.index);
        }
    }

    /// Ends the drain now.
    pub(super) fn hurry(&mut self) {
        self.begin_drain(Duration::ZERO);
        if let Some(drain) = &mut self.drain {
            drain.hurry();
        }
        self.drain_some();
        let until_ms = clock32(self.clock.now_ms + HURRY_MS);
        for (_, session) in self.sessions.iter_mut() {
            let by_ms = &mut session.output.close_by_ms;
            if session.output.stage == Stage::Closing && is_past(until_ms, u64::from(*by_ms)) {
                *by_ms = until_ms;
            }
        }
        self.sweep.hurry(self.clock.now_ms);
    }

    /// Begins to close `share` of the sessions over `window`, so that their clients reconnect to other nodes.
    pub(super) fn begin_rebalance(&mut self, share: Share, window: Duration) {
        if self.drain.is_some() {
            return;
        }
        let open = self.sessions.ids(|session| session.output.stage == Stage::Open);
        self.rebalance = Some(Rebalance::new(share, window, &open, self.clock.now_ms));
        self.sweep.hurry(self.clock.now_ms);
    }

    /// Closes the sessions that are due, and tells each how long to wait before it reconnects.
    fn rebalance_some(&mut self) {
        let Some(mut rebalance) = self.rebalance.take() else { return };
        for id in rebalance.due(self.clock.now_ms) {
            let retry_after_ms = rand::random_range(0..=SHED_RETRY_MS_MAX);
            let open = self.sessions.by_id(id).filter(|session| session.output.stage == Stage::Open);
            let Some(session) = open else { continue };
            let notice = session.output.dialect.notice(Notice::Closing { retry_after_ms });
            self.send(id.index, notice);
            self.close(id.index, CloseReason::ServiceRestart);
            self.stats.sessions_rebalanced.add(1);
        }
        if !rebalance.is_over() {
            self.rebalance = Some(rebalance);
        }
    }
}
