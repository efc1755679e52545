//! What the shard charges to its sessions' allowances.

use super::shard::Shard;
use crate::hub::allowance::Allowance;
use crate::hub::allowances::Turn;
use crate::hub::index::SessionIndex;
use crate::protocol::Refusal;

impl Shard {
    /// The allowance of a session.
    pub(super) fn allowance(&mut self, index: SessionIndex) -> Option<Allowance> {
        let session = self.sessions.get(index)?;
        Some(self.allowances.of(session.key(index), session))
    }

    /// Why a session may request nothing more for now.
    pub(super) fn asks_too_much(&mut self, index: SessionIndex) -> Option<Refusal> {
        let session = self.sessions.get(index)?;
        let exhausted = self.allowances.exhausted(session.key(index), session)?;
        match exhausted.by_address {
            true => self.stats.snapshots_refused_by_address.add(1),
            false => self.stats.snapshots_refused.add(1),
        }
        Some(exhausted.refusal)
    }

    /// Why a request with this many bytes of its own is refused; `None` if it is accepted.
    pub(super) fn no_room_under_way(&self, bytes: usize) -> Option<Refusal> {
        let refusal = self.requests.refusal(bytes)?;
        self.stats.pending_requests_refused.add(1);
        Some(refusal)
    }

    /// Charges a session for bytes that it requested.
    pub(super) fn charge(&mut self, index: SessionIndex, bytes: usize) {
        if let Some(session) = self.sessions.get(index) {
            self.allowances.charge(session.key(index), session, bytes);
        }
    }

    /// Returns bytes that a session was charged for and did not get.
    pub(super) fn give_back(&mut self, index: SessionIndex, bytes: usize) {
        if let Some(session) = self.sessions.get(index) {
            self.allowances.give_back(session.key(index), session, bytes);
        }
    }

    /// Charges a session for about `bytes` of state or missed deltas. Returns `false` if its allowance has no room; the
    /// session is checked again when it has.
    pub(super) fn may_get(&mut self, index: SessionIndex, bytes: usize) -> bool {
        let Some(session) = self.sessions.get(index) else { return false };
        match self.allowances.turn(session.key(index), session, bytes, self.clock.now_ms) {
            Turn::Now => true,
            Turn::Last => {
                self.to_catch_up.push(index);
                true
            }
            Turn::At(at_ms) => {
                self.set_timer(index, at_ms);
                false
            }
            Turn::Waits { at_ms, by_address } => {
                match by_address {
                    true => self.stats.states_delayed_by_address.add(1),
                    false => self.stats.states_delayed.add(1),
                }
                self.set_timer(index, at_ms);
                false
            }
        }
    }
}
