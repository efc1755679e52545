//! Topics of a source that ended, until their saved states are removed.

use std::sync::PoisonError;

use super::atomics::{AtomicBool, Mutex, Ordering};
use crate::limits::ENDED_TOPICS_MAX;
use crate::name::TopicName;
use crate::position::Offset;

/// Topics that ended and the offsets they ended at.
pub(super) struct EndedTopics {
    /// `None` while nothing is saved of the source: then there is nothing to remove.
    list: Mutex<Option<Vec<(TopicName, Offset)>>>,
    /// Some of them ended because of an entry of another source.
    has_some_elsewhere: AtomicBool,
    /// There were too many of them to remember.
    has_forgotten_some: AtomicBool,
}

impl EndedTopics {
    /// Remembers none.
    pub(super) fn new() -> Self {
        Self {
            list: Mutex::new(None),
            has_some_elsewhere: AtomicBool::new(false),
            has_forgotten_some: AtomicBool::new(false),
        }
    }

    fn list(&self) -> impl std::ops::DerefMut<Target = Option<Vec<(TopicName, Offset)>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on topics that end are remembered.
    pub(super) fn remember(&self) {
        self.list().get_or_insert_default();
    }

    /// Whether topics that end are remembered.
    pub(super) fn is_remembered(&self) -> bool {
        self.list().is_some()
    }

    /// Whether some that were not taken yet ended because of an entry of another source.
    pub(super) fn has_some_elsewhere(&self) -> bool {
        self.has_some_elsewhere.load(Ordering::Acquire)
    }

    /// Whether there were too many to remember.
    pub(super) fn has_forgotten_some(&self) -> bool {
        self.has_forgotten_some.load(Ordering::Acquire)
    }

    /// A topic ended. Returns how many are forgotten because of it.
    pub(super) fn note(&self, name: &TopicName, offset: Offset) -> usize {
        match &mut *self.list() {
            Some(list) if list.len() < ENDED_TOPICS_MAX => list.push((name.clone(), offset)),
            Some(_) => {
                self.has_forgotten_some.store(true, Ordering::Release);
                return 1;
            }
            None => {}
        }
        0
    }

    /// The same, where an entry of another source ended it.
    pub(super) fn note_elsewhere(&self, name: &TopicName, offset: Offset) -> usize {
        let forgotten = self.note(name, offset);
        self.has_some_elsewhere.store(true, Ordering::Release);
        forgotten
    }

    /// All of them, which are then no longer remembered.
    pub(super) fn take(&self) -> Vec<(TopicName, Offset)> {
        let mut list = self.list();
        self.has_some_elsewhere.store(false, Ordering::Release);
        list.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The topics that were taken could not be removed: they are remembered again. Returns how many are forgotten
    /// because of it.
    pub(super) fn put_back(&self, names: Vec<(TopicName, Offset)>) -> usize {
        let mut list = self.list();
        let list = list.get_or_insert_default();
        list.extend(names);
        let forgotten = list.len().saturating_sub(ENDED_TOPICS_MAX);
        if forgotten > 0 {
            list.truncate(ENDED_TOPICS_MAX);
            self.has_forgotten_some.store(true, Ordering::Release);
        }
        self.has_some_elsewhere.store(true, Ordering::Release);
        forgotten
    }

    /// The source has another epoch: what ended in the one before may not have ended in this one.
    pub(super) fn clear(&self) {
        if let Some(list) = self.list().as_mut() {
            list.clear();
        }
        self.has_some_elsewhere.store(false, Ordering::Release);
        self.has_forgotten_some.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_topics_are_remembered_once_they_are_saved_and_up_to_a_bound() {
        let (ended, name) = (EndedTopics::new(), TopicName::new("a:b").unwrap());
        assert_eq!((ended.note(&name, Offset::ZERO), ended.take().len()), (0, 0), "nothing is saved");
        ended.remember();
        ended.note_elsewhere(&name, Offset::ZERO);
        assert!(ended.is_remembered() && ended.has_some_elsewhere());
        let taken = ended.take();
        assert!(taken == [(name.clone(), Offset::ZERO)] && !ended.has_some_elsewhere());
        assert_eq!(ended.put_back(taken), 0);
        assert!((1..ENDED_TOPICS_MAX).all(|_| ended.note(&name, Offset::ZERO) == 0) && !ended.has_forgotten_some());
        assert!(ended.note(&name, Offset::ZERO) == 1 && ended.has_forgotten_some());
        assert_eq!(ended.put_back(vec![(name.clone(), Offset::ZERO); 2]), 2);
        ended.clear();
        assert!(ended.take().is_empty() && !ended.has_forgotten_some() && ended.is_remembered());
    }
}
