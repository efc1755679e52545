//! Places of sessions, counted by user.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;

/// Counts the sessions of each user.
#[derive(Debug)]
pub(super) struct Seats {
    taken: DashMap<Arc<str>, usize>,
    /// Most sessions of one user.
    max: usize,
}

/// A session's place among its user's. Dropping the last reference frees it.
pub struct Seat {
    seats: Arc<Seats>,
    user: Arc<str>,
}

impl Seats {
    /// Each user may have `max` places.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: DashMap::new(), max })
    }

    /// Most sessions of one user.
    pub(super) fn max(&self) -> usize {
        self.max
    }

    /// A place for one more session of a user; `None` if all are taken.
    pub(super) fn take(self: &Arc<Self>, user: &str) -> Option<Arc<Seat>> {
        let user: Arc<str> = user.into();
        let mut taken = self.taken.entry(user.clone()).or_insert(0);
        if *taken >= self.max {
            return None;
        }
        *taken += 1;
        Some(Arc::new(Seat { seats: self.clone(), user }))
    }

    /// Whether no place is taken.
    #[cfg(test)]
    pub(super) fn are_free(&self) -> bool {
        self.taken.is_empty()
    }
}

impl Seat {
    /// Whether it is a place of this user.
    pub(super) fn is_of(&self, user: &str) -> bool {
        *self.user == *user
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Entry::Occupied(mut taken) = self.seats.taken.entry(self.user.clone()) {
            *taken.get_mut() = taken.get().saturating_sub(1);
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Seat").field(&self.user).finish()
    }
}

/// The place does not matter when identities are compared.
impl PartialEq for Seat {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Seat {}
