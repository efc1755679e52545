//! CatchUpSlots of clients that wait for this node to read as far as they have. A client that asks for many gets a part of
//! what is free, so that some are left however many clients ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

use crate::hub::index::SessionId;
use crate::limits::{CATCHING_UP_FEW, CATCHING_UP_MAX, CATCHING_UP_PART};
use crate::topic::ShardId;

/// Who has places: a user, or a session of which no user is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::hub) enum Holder {
    User(String),
    Session(ShardId, SessionId),
}

/// All places.
#[derive(Debug, Default)]
pub(in crate::hub) struct CatchUpSlots {
    taken: AtomicUsize,
    by: DashMap<Holder, usize>,
}

/// One place, free again when dropped.
#[derive(Debug)]
pub(in crate::hub) struct CatchUpSlot {
    places: Arc<CatchUpSlots>,
    holder: Holder,
}

impl CatchUpSlots {
    /// A place, if `holder` has fewer than its part of what is free.
    pub(in crate::hub) fn take(self: &Arc<Self>, holder: Holder) -> Option<CatchUpSlot> {
        let taken = self.taken.fetch_add(1, Ordering::AcqRel);
        let mut held = self.by.entry(holder.clone()).or_insert(0);
        let part = part(CATCHING_UP_MAX.saturating_sub(taken));
        *held += 1;
        let fits = *held <= part;
        drop(held);
        // What does not fit is given back at once.
        let place = CatchUpSlot { places: self.clone(), holder };
        fits.then_some(place)
    }

    /// CatchUpSlots that are taken.
    #[cfg(test)]
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }
}

/// How many one holder may have of so many free places: the fewer there are, the less, down to one.
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
        if let Entry::Occupied(mut held) = self.places.by.entry(self.holder.clone()) {
            *held.get_mut() = held.get().saturating_sub(1);
            if *held.get() == 0 {
                held.remove();
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

    /// As many sessions as once took all of them, each asking for as much as it may subscribe to: others still get some.
    #[test]
    fn no_sessions_take_all_places() {
        let places = Arc::new(CatchUpSlots::default());
        let mut held = Vec::new();
        // The first of them gets all it asks for.
        held.extend((0..512).filter_map(|_| places.take(session(0))));
        assert_eq!(held.len(), 512);
        for greedy in 1..1_000 {
            held.extend((0..512).filter_map(|_| places.take(session(greedy))));
        }
        assert!(places.taken() < CATCHING_UP_MAX, "{} are taken", places.taken());
        assert!(places.take(session(5_000)).is_some());
        // The sessions of one user are one.
        let user = || Holder::User("alice".into());
        let users: Vec<_> = (0..10_000).filter_map(|_| places.take(user())).collect();
        assert!(users.len() == 1, "{}", users.len());
        drop((held, users));
        assert!(places.taken() == 0 && places.by.is_empty());
    }

    #[test]
    fn thirty_six_sessions_leave_hundreds_for_another() {
        let places = Arc::new(CatchUpSlots::default());
        let held: Vec<_> = (0..36 * 512).filter_map(|n| places.take(session(n % 36))).collect();
        let another: Vec<_> = (0..512).filter_map(|_| places.take(session(99))).collect();
        assert!(another.len() > 200, "{} beside {}", another.len(), held.len());
    }
}
