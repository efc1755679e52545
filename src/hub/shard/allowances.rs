//! What the shard charges its sessions for what they make it send.

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

    /// Why a session may ask for nothing more for now.
    pub(super) fn asks_too_much(&mut self, index: SessionIndex) -> Option<Refusal> {
        let session = self.sessions.get(index)?;
        let exhausted = self.allowances.exhausted(session.key(index), session)?;
        match exhausted.by_address {
            true => self.stats.snapshots_refused_by_address.add(1),
            false => self.stats.snapshots_refused.add(1),
        }
        Some(exhausted.refusal)
    }

    /// Why no request with so many bytes of its own can be under way; `None` if it can.
    pub(super) fn no_room_under_way(&self, bytes: usize) -> Option<Refusal> {
        let refusal = self.requests.refusal(bytes)?;
        self.stats.pending_requests_refused.add(1);
        Some(refusal)
    }

    /// A session is sent so many bytes that it asked for.
    pub(super) fn charge(&mut self, index: SessionIndex, bytes: usize) {
        if let Some(session) = self.sessions.get(index) {
            self.allowances.charge(session.key(index), session, bytes);
        }
    }

    /// A session was charged for so many bytes and did not get them.
    pub(super) fn give_back(&mut self, index: SessionIndex, bytes: usize) {
        if let Some(session) = self.sessions.get(index) {
            self.allowances.give_back(session.key(index), session, bytes);
        }
    }

    /// Charges a session for about so many bytes of state or of missed deltas. `false` if its allowance has no room for them:
    /// it is looked at again when it has.
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
