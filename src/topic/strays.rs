//! Entries of a topic in other sources than its own. Patches in two sources have no order: a `merge` topic is whole
//! only while no other source has an entry after the snapshot that its state rests on. Such entries must be remembered
//! beyond this process: a node that saves how far a source was read must also save which entries it found there of
//! topics that are saved beside another source.

use std::collections::HashMap;

use super::exchange::{Mark, SourceId};
use crate::accounts::allocated;
use crate::limits::ENDED_TOPICS_MAX;
use crate::name::TopicName;
use crate::position::Offset;

/// The position of an entry among those of all sources: of two with one offset the later source's is the newer.
pub(super) type At = (Offset, SourceId);

/// The newest entry of a topic in another source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stray {
    pub(super) source: SourceId,
    pub(super) offset: Offset,
    /// When that source took it in, Unix ms.
    pub(super) at_ms: u64,
    /// It was a deletion.
    pub(super) is_deletion: bool,
}

impl Stray {
    pub(super) fn at(&self) -> At {
        (self.offset, self.source)
    }

    pub(super) fn mark(&self, topic: &TopicName) -> Mark {
        Mark { topic: topic.clone(), offset: self.offset, at_ms: self.at_ms, is_deletion: self.is_deletion }
    }
}

#[derive(Debug)]
struct List {
    all: Vec<Stray>,
}

/// Those of one topic, the newest of each source. Next to all topics have none: that takes a word.
#[derive(Debug, Default)]
pub(super) struct Strays(Option<Box<List>>);

impl Strays {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn all(&self) -> &[Stray] {
        self.0.as_ref().map_or(&[], |list| &list.all)
    }

    /// `false` if one of that source is known that is as new.
    pub(super) fn note(&mut self, stray: Stray) -> bool {
        let list = self.0.get_or_insert_with(|| Box::new(List { all: Vec::with_capacity(1) }));
        match list.all.iter_mut().find(|known| known.source == stray.source) {
            Some(known) if known.offset >= stray.offset => return false,
            Some(known) => *known = stray,
            None => list.all.push(stray),
        }
        true
    }

    /// The newest of all.
    pub(super) fn newest(&self) -> Option<Stray> {
        self.all().iter().copied().max_by_key(Stray::at)
    }

    /// That of a source.
    pub(super) fn of(&self, source: SourceId) -> Option<Stray> {
        self.all().iter().find(|stray| stray.source == source).copied()
    }

    /// Forgets that of a source.
    pub(super) fn forget(&mut self, source: SourceId) -> Option<Stray> {
        let list = self.0.as_mut()?;
        let at = list.all.iter().position(|stray| stray.source == source)?;
        let stray = list.all.swap_remove(at);
        if list.all.is_empty() {
            self.0 = None;
        }
        Some(stray)
    }

    /// All of them, which are forgotten.
    pub(super) fn take(&mut self) -> Vec<Stray> {
        self.0.take().map_or_else(Vec::new, |list| list.all)
    }

    /// Bytes that they take of memory.
    pub(super) fn weight(&self) -> usize {
        let of = |list: &List| allocated(size_of::<List>()) + allocated(list.all.capacity() * size_of::<Stray>());
        self.0.as_ref().map_or(0, |list| of(list))
    }
}

/// Marks beside one source, for topics that are saved beside others: which are to be saved, and which removed.
#[derive(Debug, Default)]
pub(super) struct Marks {
    unsaved: HashMap<TopicName, Mark>,
    over: HashMap<TopicName, Offset>,
}

impl Marks {
    pub(super) fn note(&mut self, mark: Mark) {
        if self.over.get(&mark.topic).is_some_and(|over| *over < mark.offset) {
            self.over.remove(&mark.topic);
        }
        match self.unsaved.get_mut(&mark.topic) {
            Some(known) if known.offset > mark.offset => {}
            Some(known) => *known = mark,
            None => drop(self.unsaved.insert(mark.topic.clone(), mark)),
        }
    }

    /// Marks of a topic up to `offset` no longer matter. `false` if there is no room to remember that they are to be
    /// removed: then the topic's next snapshot removes them.
    pub(super) fn end(&mut self, topic: &TopicName, offset: Offset) -> bool {
        if self.unsaved.get(topic).is_some_and(|mark| mark.offset <= offset) {
            self.unsaved.remove(topic);
        }
        if self.over.len() >= ENDED_TOPICS_MAX && !self.over.contains_key(topic) {
            return false;
        }
        let over = self.over.entry(topic.clone()).or_default();
        *over = offset.max(*over);
        true
    }

    pub(super) fn has_over(&self) -> bool {
        !self.over.is_empty()
    }

    pub(super) fn unsaved(&self) -> Vec<Mark> {
        self.unsaved.values().cloned().collect()
    }

    pub(super) fn saved(&mut self, marks: &[Mark]) {
        for mark in marks {
            if self.unsaved.get(&mark.topic).is_some_and(|known| known.offset == mark.offset) {
                self.unsaved.remove(&mark.topic);
            }
        }
    }

    pub(super) fn over(&self) -> Vec<(TopicName, Offset)> {
        self.over.iter().map(|(topic, offset)| (topic.clone(), *offset)).collect()
    }

    pub(super) fn removed(&mut self, over: &[(TopicName, Offset)]) {
        for (topic, offset) in over {
            if self.over.get(topic) == Some(offset) {
                self.over.remove(topic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn stray(source: u16, offset: u64) -> Stray {
        Stray { source: SourceId(source), offset: at(offset), at_ms: 0, is_deletion: false }
    }

    #[test]
    fn the_newest_of_each_source_is_known_and_next_to_all_topics_have_none() {
        let mut strays = Strays::default();
        assert_eq!((strays.weight(), size_of::<Strays>()), (0, size_of::<usize>()));
        assert!(strays.note(stray(0, 5)) && strays.note(stray(1, 5)) && !strays.note(stray(0, 4)));
        assert_eq!(strays.newest(), Some(stray(1, 5)), "of two with one offset the later source's");
        assert!(strays.note(stray(0, 6)) && strays.weight() > 0);
        assert_eq!(strays.newest(), Some(stray(0, 6)));
        assert_eq!((strays.forget(SourceId(0)), strays.forget(SourceId(0))), (Some(stray(0, 6)), None));
        assert_eq!((strays.take(), strays.is_empty(), strays.weight()), (vec![stray(1, 5)], true, 0));
    }

    #[test]
    fn what_is_over_is_removed_and_what_came_since_is_not() {
        let (mut marks, name) = (Marks::default(), TopicName::new("a:b").unwrap());
        let mark = |offset| stray(0, offset).mark(&name);
        marks.note(mark(5));
        let taken = marks.unsaved();
        marks.note(mark(7));
        marks.saved(&taken);
        assert_eq!(marks.unsaved(), [mark(7)], "a newer one is still to be saved");
        assert!(marks.end(&name, at(7)) && marks.unsaved().is_empty());
        let over = marks.over();
        assert_eq!(over, [(name.clone(), at(7))]);
        assert!(marks.end(&name, at(8)));
        marks.removed(&over);
        assert!(marks.has_over(), "up to a later one it is still to be removed");
        marks.note(mark(9));
        assert!(!marks.has_over() && marks.unsaved() == [mark(9)], "one after that is in its place");
    }

    #[test]
    fn marks_that_are_to_be_removed_are_bounded() {
        let mut marks = Marks::default();
        let name = |n: usize| TopicName::new(&format!("a:{n}")).unwrap();
        assert!((0..ENDED_TOPICS_MAX).all(|n| marks.end(&name(n), at(1))));
        assert!(!marks.end(&name(ENDED_TOPICS_MAX), at(1)) && marks.end(&name(0), at(2)));
    }
}
