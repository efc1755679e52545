//! Deletions of topics, kept until every other source has been read up to them: of a topic's deltas in two partitions the
//! newest counts, whichever is read first, and a deletion is one of them.

use std::collections::HashMap;

use super::exchange::SourceId;
use crate::limits::DELETIONS_MAX;
use crate::name::TopicName;
use crate::position::Offset;

#[derive(Debug, Clone, Copy)]
struct Deletion {
    source: SourceId,
    offset: Offset,
    /// When the source took it in, Unix ms.
    at_ms: u64,
}

/// The newest deletion of each topic that may still matter.
#[derive(Debug, Default)]
pub(super) struct Deleted(HashMap<TopicName, Deletion>);

impl Deleted {
    /// `false` if there is no room for it.
    pub(super) fn insert(&mut self, name: &TopicName, source: SourceId, offset: Offset, at_ms: u64) -> bool {
        let has_room = self.0.len() < DELETIONS_MAX;
        match self.0.get_mut(name.as_str()) {
            Some(known) if known.offset >= offset => {}
            Some(known) => *known = Deletion { source, offset, at_ms },
            None if has_room => {
                self.0.insert(name.clone(), Deletion { source, offset, at_ms });
            }
            None => return false,
        }
        true
    }

    /// Whether the topic was deleted in another source than this one, after `offset`.
    pub(super) fn is_after(&self, name: &TopicName, source: SourceId, offset: Offset) -> bool {
        if self.0.is_empty() {
            return false;
        }
        self.0.get(name.as_str()).is_some_and(|deletion| deletion.source != source && deletion.offset > offset)
    }

    /// Forgets those up to which all other sources have been read: `read_ms` is by source, Unix ms.
    pub(super) fn forget(&mut self, read_ms: &[u64]) {
        if self.0.is_empty() {
            return;
        }
        self.0.retain(|_, deletion| {
            let others = read_ms.iter().enumerate().filter(|(at, _)| *at != usize::from(deletion.source.0));
            others.into_iter().any(|(_, read_ms)| *read_ms <= deletion.at_ms)
        });
        if self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to(self.0.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Offset {
        Offset::new(offset).unwrap()
    }

    #[test]
    fn a_deletion_is_kept_until_the_others_are_past_it() {
        let mut deleted = Deleted::default();
        let name = TopicName::new("a:b").unwrap();
        let (one, other) = (SourceId(0), SourceId(1));
        assert!(deleted.insert(&name, one, at(9), 900));
        assert!(deleted.insert(&name, one, at(5), 500), "an older one changes nothing");
        assert!(deleted.is_after(&name, other, at(8)));
        assert!(!deleted.is_after(&name, other, at(9)) && !deleted.is_after(&name, one, at(8)));
        deleted.forget(&[1_000, 900]);
        assert!(deleted.is_after(&name, other, at(8)), "of that very millisecond more may come");
        deleted.forget(&[0, 901]);
        assert!(!deleted.is_after(&name, other, at(8)));
    }

    #[test]
    fn deletions_are_bounded() {
        let mut deleted = Deleted::default();
        let name = |n: usize| TopicName::new(&format!("a:{n}")).unwrap();
        for n in 0..DELETIONS_MAX {
            assert!(deleted.insert(&name(n), SourceId(0), at(9), 900));
        }
        assert!(!deleted.insert(&name(DELETIONS_MAX), SourceId(0), at(9), 900));
        assert!(deleted.insert(&name(3), SourceId(0), at(10), 1_000), "a known one is kept up to date");
        deleted.forget(&[0, 2_000]);
        assert!(deleted.insert(&name(DELETIONS_MAX), SourceId(0), at(9), 900));
    }
}
