//! Slots for clients that wait for this node to read as far as their position. A holder gets only a share of the free
//! slots, so that others always find some.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::hub::index::SessionId;
use crate::limits::{CATCHING_UP_FEW, CATCHING_UP_MAX, CATCHING_UP_PART};
use crate::topic::ShardId;

/// The holder of slots: a user, or a session without a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::hub) enum Holder {
    User(String),
    Session(ShardId, SessionId),
}

/// All slots.
#[derive(Debug, Default)]
pub(in crate::hub) struct CatchUpSlots {
    taken: AtomicUsize,
    by: DashMap<Holder, usize>,
}

/// One slot, freed on drop.
#[derive(Debug)]
pub(in crate::hub) struct CatchUpSlot {
    places: Arc<CatchUpSlots>,
    holder: Holder,
}

impl CatchUpSlots {
    /// Takes a slot, if `holder` has fewer than its share of the free ones.
    pub(in crate::hub) fn take(self: &Arc<Self>, holder: Holder) -> Option<CatchUpSlot> {
        let taken = self.taken.fetch_add(1, Ordering::AcqRel);
        let mut slots = self.by.entry(holder.clone()).or_insert(0);
        let part = part(CATCHING_UP_MAX.saturating_sub(taken));
        *slots += 1;
        let fits = *slots <= part;
        drop(slots);
        // If it exceeds the share, the drop frees it.
        let place = CatchUpSlot { places: self.clone(), holder };
        fits.then_some(place)
    }

    /// Number of slots taken.
    #[cfg(test)]
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

/// How many of `free` slots one holder may have: the fewer are free, the fewer, down to one.
fn part(free: usize) -> usize {
    match free {
        0 => 0,
        _ if free >= CATCHING_UP_MAX / 4 => free / CATCHING_UP_PART,
        _ if free >= CATCHING_UP_MAX / 16 => CATCHING_UP_FEW,
        _ => 1,
    }
}

impl Drop for CatchUpSlot {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::AcqRel);
        if let Entry::Occupied(mut slots) = self.places.by.entry(self.holder.clone()) {
            *slots.get_mut() = slots.get().saturating_sub(1);
            if *slots.get() == 0 {
                slots.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::index::{SessionId, SessionIndex};

    fn session(index: usize) -> Holder {
        Holder::Session(ShardId(0), SessionId { index: SessionIndex::new(index), generation: 1 })
    }

    /// With as many sessions as there are slots, each requesting as many as it may, later sessions still get some.
    #[test]
    fn no_sessions_take_all_places() {
        let places = Arc::new(CatchUpSlots::default());
        let mut slots = Vec::new();
        // The first session gets all that it requests.
        slots.extend((0..512).filter_map(|_| places.take(session(0))));
        assert_eq!(slots.len(), 512);
        for greedy in 1..1_000 {
            slots.extend((0..512).filter_map(|_| places.take(session(greedy))));
        }
        assert!(places.taken() < CATCHING_UP_MAX, "{} slots are taken", places.taken());
        assert!(places.take(session(5_000)).is_some());
        // All sessions of one user are one holder.
        let user = || Holder::User("alice".into());
        let users: Vec<_> = (0..10_000).filter_map(|_| places.take(user())).collect();
        assert!(users.len() == 1, "{}", users.len());
        drop((slots, users));
        assert!(places.taken() == 0 && places.by.is_empty());
    }

    #[test]
    fn thirty_six_sessions_leave_hundreds_for_another() {
        let places = Arc::new(CatchUpSlots::default());
        let slots: Vec<_> = (0..36 * 512).filter_map(|n| places.take(session(n % 36))).collect();
        let another: Vec<_> = (0..512).filter_map(|_| places.take(session(99))).collect();
        assert!(another.len() > 200, "{} beside {}", another.len(), slots.len());
    }
}
