//! What a session needs beyond deliveries: its id, and data of its special subscriptions. Centrifuge sessions have it,
//! and those `plain` sessions that other subscribers can see.

use uuid::Uuid;

use crate::hub::backend::Member;
use crate::topic::Slot;

/// Boxed: most subscriptions are not special, and `plain` sessions seldom need it.
#[derive(Debug, Default)]
pub(in crate::hub) struct Client {
    pub(in crate::hub) id: Uuid,
    /// When it was last pinged (Centrifuge), in the shard's time.
    pub(in crate::hub) pinged_ms: u64,
    /// Number of commands that wait for an answer from outside the hub.
    pub(in crate::hub) pending: u16,
    /// In order of their topics' slots.
    pub(in crate::hub) specials: Vec<Special>,
    /// The used part of the rate at which its joins and leaves are announced ([`crate::rate::Rate`]), in ns.
    pub(in crate::hub) announced_used_ns: u64,
    /// A `connect` was accepted or is being checked.
    pub(in crate::hub) connecting: bool,
    /// The used part of the rate of failed tokens ([`crate::rate::Rate`]), in ns of the shard's clock.
    pub(in crate::hub) failures_used_ns: u64,
}

/// Bytes of memory of a member that others see, with its texts.
const MEMBER_BYTES: usize = size_of::<Member>() + 96;

/// Additional data of a special subscription.
#[derive(Debug)]
pub(in crate::hub) struct Special {
    pub(in crate::hub) slot: Slot,
    /// When its token expires, Unix s; set for all subscriptions made with a subscription token.
    pub(in crate::hub) expires_s: Option<u64>,
    /// Set if other subscribers can see it.
    pub(in crate::hub) member: Option<Box<Member>>,
    /// It is notified of joins and leaves.
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

    /// Adds the data of a new subscription.
    pub(in crate::hub) fn add_special(&mut self, special: Special) {
        let at = self.special_at(special.slot).unwrap_or_else(|at| at);
        self.specials.insert(at, special);
    }

    fn special_at(&self, slot: Slot) -> Result<usize, usize> {
        self.specials.binary_search_by_key(&slot, |s| s.slot)
    }
}
