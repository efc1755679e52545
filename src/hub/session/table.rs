//! All sessions of a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use slab::Slab;

use super::entry::Session;
use crate::hub::egress::{Output, Outputs};
use crate::hub::index::{SHRINK_FROM, SessionId, SessionIndex};

/// All sessions of a shard. The index of a closed session is reused; the generation tells the two apart.
pub(in crate::hub) struct SessionTable {
    slab: Slab<Session>,
    generation: u32,
    /// Number of sessions of this shard, including those on their way to it.
    placed: Arc<AtomicUsize>,
    /// Number of sessions of all shards without a token.
    tokenless: Arc<AtomicUsize>,
}

impl SessionTable {
    /// An empty table. A session is counted in `placed` and `tokenless` from its reservation on.
    pub(in crate::hub) fn new(placed: Arc<AtomicUsize>, tokenless: Arc<AtomicUsize>) -> Self {
        Self { slab: Slab::new(), generation: 0, placed, tokenless }
    }

    /// The index that the next session will have.
    pub(in crate::hub) fn next_index(&self) -> SessionIndex {
        SessionIndex::new(self.slab.vacant_key())
    }

    /// Adds a session, which `make` creates for a generation.
    pub(in crate::hub) fn add(&mut self, make: impl FnOnce(u32) -> Session) -> SessionIndex {
        self.generation = self.generation.wrapping_add(1);
        SessionIndex::new(self.slab.insert(make(self.generation)))
    }

    /// Removes a session.
    pub(in crate::hub) fn remove(&mut self, index: SessionIndex) -> Option<Session> {
        let session = self.slab.try_remove(index.at())?;
        self.placed.fetch_sub(1, Ordering::Relaxed);
        self.tokenless.fetch_sub(usize::from(session.identity.is_none()), Ordering::Relaxed);
        Some(session)
    }

    /// A session without a token has got one.
    pub(in crate::hub) fn has_token_now(&self) {
        self.tokenless.fetch_sub(1, Ordering::Relaxed);
    }

    /// The session at this index.
    pub(in crate::hub) fn get(&self, index: SessionIndex) -> Option<&Session> {
        self.slab.get(index.at())
    }

    /// The session at this index, mutable.
    pub(in crate::hub) fn get_mut(&mut self, index: SessionIndex) -> Option<&mut Session> {
        self.slab.get_mut(index.at())
    }

    /// This session, if it still exists.
    pub(in crate::hub) fn by_id(&mut self, id: SessionId) -> Option<&mut Session> {
        self.get_mut(id.index).filter(|session| session.generation == id.generation)
    }

    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = (SessionIndex, &Session)> {
        self.slab.iter().map(|(index, session)| (SessionIndex::new(index), session))
    }

    pub(in crate::hub) fn iter_mut(&mut self) -> impl Iterator<Item = (SessionIndex, &mut Session)> {
        self.slab.iter_mut().map(|(index, session)| (SessionIndex::new(index), session))
    }

    /// The ids of the sessions for which `wanted` is true.
    pub(in crate::hub) fn ids(&self, wanted: impl Fn(&Session) -> bool) -> Vec<SessionId> {
        self.iter().filter(|(_, session)| wanted(session)).map(|(index, session)| session.key(index)).collect()
    }

    #[cfg(test)]
    pub(in crate::hub) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(in crate::hub) fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// Number of entries, used or not.
    pub(in crate::hub) fn places(&self) -> usize {
        self.slab.capacity()
    }

    /// Bytes of memory of the entries.
    pub(in crate::hub) fn bytes(&self) -> usize {
        self.slab.len() * (size_of::<Session>() + size_of::<usize>())
    }

    /// Frees unused memory. Called periodically.
    pub(in crate::hub) fn shrink(&mut self) {
        if self.slab.len() * 4 < self.slab.capacity() && self.slab.capacity() > SHRINK_FROM {
            self.slab.shrink_to_fit();
        }
    }
}

impl Outputs for SessionTable {
    fn output(&self, session: SessionIndex) -> Option<&Output> {
        self.get(session).map(|session| &session.output)
    }

    fn output_mut(&mut self, session: SessionIndex) -> Option<&mut Output> {
        self.get_mut(session).map(|session| &mut session.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Dialect;

    fn session(generation: u32) -> Session {
        Session::unserved(Dialect::Plain, generation, 0)
    }

    #[test]
    fn a_reused_index_has_another_generation() {
        let (placed, tokenless) = (Arc::new(AtomicUsize::new(2)), Arc::new(AtomicUsize::new(2)));
        let mut table = SessionTable::new(placed.clone(), tokenless.clone());
        let next = table.next_index();
        let first = table.add(session);
        assert_eq!(first, next);
        let old = table.get(first).unwrap().key(first);
        assert!(table.remove(first).is_some() && table.remove(first).is_none());
        let second = table.add(session);
        assert_eq!(second, first);
        assert!(table.by_id(old).is_none() && table.get(old.index).is_some());
        assert_eq!(table.ids(|_| true).len(), 1);
        table.has_token_now();
        assert_eq!((placed.load(Ordering::Relaxed), tokenless.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn room_for_many_is_given_back() {
        let count = Arc::new(AtomicUsize::new(0));
        let mut table = SessionTable::new(count.clone(), count);
        table.slab.reserve(10_000);
        table.shrink();
        assert!(table.places() < 10_000);
        assert!(table.is_empty() && table.bytes() == 0);
    }
}
