//! What a session needs beyond deliveries: a name of its own, and what is special about some of its subscriptions.
//! Centrifuge sessions have it; of the others only those that others can see.

use uuid::Uuid;

use crate::hub::backend::Member;
use crate::topic::Slot;

/// Kept in a box: most subscriptions are not special, and `plain` sessions seldom need it at all.
#[derive(Debug, Default)]
pub(in crate::hub) struct Client {
    pub(in crate::hub) id: Uuid,
    /// When it was last pinged (Centrifuge), by the shard's clock.
    pub(in crate::hub) pinged_ms: u64,
    /// Commands that wait for an answer from beyond the hub.
    pub(in crate::hub) pending: u16,
    /// In order of their topics' slots.
    pub(in crate::hub) specials: Vec<Special>,
    /// What it has used of the rate at which others are told of its subscriptions ([`crate::rate::Rate`]), in ns.
    pub(in crate::hub) announced_used_ns: u64,
    /// A connect of it was taken on, or is being looked at.
    pub(in crate::hub) connecting: bool,
    /// Tokens that failed ([`crate::rate::Rate`]), in ns of the shard's clock.
    pub(in crate::hub) failures_used_ns: u64,
}

/// A member that others see, with its texts.
const MEMBER_BYTES: usize = size_of::<Member>() + 96;

/// What is special about a subscription.
#[derive(Debug)]
pub(in crate::hub) struct Special {
    pub(in crate::hub) slot: Slot,
    /// When its token ends, Unix s; set for all that rest on a subscription token.
    pub(in crate::hub) expires_s: Option<u64>,
    /// Set where others can see it.
    pub(in crate::hub) member: Option<Box<Member>>,
    /// Wants to know who comes and goes.
    pub(in crate::hub) join_leave: bool,
}

impl Client {
    pub(in crate::hub) fn new(now_ms: u64) -> Box<Self> {
        Box::new(Self { id: Uuid::new_v4(), pinged_ms: now_ms, ..Self::default() })
    }

    /// Bytes of memory.
    pub(in crate::hub) fn bytes(&self) -> usize {
        let members = self.specials.iter().filter(|special| special.member.is_some()).count();
        size_of::<Self>() + self.specials.capacity() * size_of::<Special>() + members * MEMBER_BYTES
    }

    pub(in crate::hub) fn special(&self, slot: Slot) -> Option<&Special> {
        self.specials.get(self.special_at(slot).ok()?)
    }

    pub(in crate::hub) fn take_special(&mut self, slot: Slot) -> Option<Special> {
        let at = self.special_at(slot).ok()?;
        Some(self.specials.remove(at))
    }

    /// Keeps what is special about a subscription that begins.
    pub(in crate::hub) fn add_special(&mut self, special: Special) {
        let at = self.special_at(special.slot).unwrap_or_else(|at| at);
        self.specials.insert(at, special);
    }

    fn special_at(&self, slot: Slot) -> Result<usize, usize> {
        self.specials.binary_search_by_key(&slot, |s| s.slot)
    }
}
