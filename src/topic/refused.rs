//! Topics of a source that had a delta for which there was no room: saved states from before it are out of date.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::atomics::Mutex;
use crate::limits::ENDED_TOPICS_MAX;
use crate::name::TopicName;
use crate::position::Offset;

/// By topic, the offset of the newest such delta.
#[derive(Default)]
pub(super) struct RefusedTopics(Mutex<HashMap<TopicName, Offset>>);

impl RefusedTopics {
    fn all(&self) -> impl std::ops::DerefMut<Target = HashMap<TopicName, Offset>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A delta at `offset` found no room. `false` if there are too many such topics: none is remembered any more.
    pub(super) fn note(&self, name: TopicName, offset: Offset) -> bool {
        let mut all = self.all();
        if let Some(known) = all.get_mut(&name) {
            *known = (*known).max(offset);
            return true;
        }
        let has_room = all.len() < ENDED_TOPICS_MAX;
        if has_room {
            all.insert(name, offset);
        } else {
            *all = HashMap::new();
        }
        has_room
    }

    /// All of them, which are then no longer remembered.
    pub(super) fn take(&self) -> Vec<(TopicName, Offset)> {
        std::mem::take(&mut *self.all()).into_iter().collect()
    }

    /// Another node has saved what deltas up to this offset came to.
    pub(super) fn forget(&self, upto: Offset) {
        self.all().retain(|_, offset| *offset > upto);
    }

    /// Forgets all of them.
    pub(super) fn clear(&self) {
        *self.all() = HashMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_delta_of_each_topic_counts_and_too_many_topics_are_forgotten() {
        let refused = RefusedTopics::default();
        let (name, at) = (|n: usize| TopicName::new(&format!("a:{n}")).unwrap(), |n| Offset::new(n).unwrap());
        assert!(refused.note(name(0), at(5)) && refused.note(name(0), at(3)) && refused.note(name(1), at(2)));
        refused.forget(at(2));
        assert_eq!(refused.take(), [(name(0), at(5))]);
        assert!((0..ENDED_TOPICS_MAX).all(|n| refused.note(name(n), at(1))));
        assert!(refused.note(name(0), at(2)), "a known topic needs no room");
        assert!(!refused.note(name(ENDED_TOPICS_MAX), at(1)) && refused.take().is_empty());
    }
}
