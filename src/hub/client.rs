//! What a session needs beyond deliveries: a name of its own, and what is special about some of its subscriptions.
//! Centrifuge sessions have it; of the others only those that others can see.

use uuid::Uuid;

use super::backend::Member;
use crate::topic::Slot;

/// Kept in a box: most subscriptions are not special, and `plain` sessions seldom need it at all.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) id: Uuid,
    /// When it was last pinged (Centrifuge), by the shard's clock.
    pub(super) pinged_ms: u64,
    /// Commands that wait for an answer from beyond the hub.
    pub(super) pending: u16,
    pub(super) specials: Vec<Special>,
}

/// What is special about a subscription.
#[derive(Debug)]
pub(super) struct Special {
    pub(super) slot: Slot,
    /// When its token ends, Unix s.
    pub(super) expires_s: Option<u64>,
    /// Set where others can see it.
    pub(super) member: Option<Box<Member>>,
    /// Wants to know who comes and goes.
    pub(super) join_leave: bool,
}

impl Client {
    pub(super) fn new(now_ms: u64) -> Box<Self> {
        Box::new(Self { id: Uuid::new_v4(), pinged_ms: now_ms, pending: 0, specials: Vec::new() })
    }

    pub(super) fn special(&self, slot: Slot) -> Option<&Special> {
        self.specials.iter().find(|s| s.slot == slot)
    }

    pub(super) fn take_special(&mut self, slot: Slot) -> Option<Special> {
        let at = self.specials.iter().position(|s| s.slot == slot)?;
        Some(self.specials.swap_remove(at))
    }
}
