//! Deletions of topics, kept until every other source has been read up to them, and as long as another source still holds
//! entries from before them: of a topic's deltas in two sources the newest counts, whichever is read first, and a deletion
//! is one of them. A topic that was moved stays where it was moved to when it is deleted.

use std::collections::HashMap;

use super::delta::Kind;
use super::exchange::{Home, SourceId};
use crate::limits::DELETIONS_MAX;
use crate::name::TopicName;
use crate::position::Offset;

/// Deletions from which on those are forgotten that only a load of another source would need.
const CROWDED_FROM: usize = DELETIONS_MAX / 2;

#[derive(Debug, Clone, Copy)]
pub(super) struct Deletion {
    pub(super) source: SourceId,
    pub(super) offset: Offset,
    /// When the source took it in, Unix ms.
    pub(super) at_ms: u64,
    /// Offset of the move that had brought the topic to `source`; 0 if none had.
    pub(super) moved_at: Offset,
    /// Another source has entries of the topic from before it, which come again when that source is loaded again.
    pub(super) is_elsewhere: bool,
}

impl Deletion {
    fn is_before(&self, offset: Offset, source: SourceId) -> bool {
        (self.offset, self.source) < (offset, source)
    }
}

/// What becomes of an entry of a topic that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts; the topic was moved to its source at this offset (0: it was not).
    Counts(Offset),
    /// The topic was moved to another source after it: it is a part of the past.
    Past,
    /// It was deleted in another source after it, or moved there before it.
    WrongSource,
}

/// The newest deletion of each topic that may still matter.
#[derive(Debug, Default)]
pub(super) struct Deleted(HashMap<TopicName, Deletion>);

impl Deleted {
    /// `false` if there is no room for it.
    pub(super) fn insert(&mut self, name: &TopicName, deletion: Deletion) -> bool {
        let has_room = self.0.len() < DELETIONS_MAX;
        match self.0.get_mut(name.as_str()) {
            Some(known) => {
                let is_elsewhere = known.is_elsewhere || deletion.is_elsewhere;
                let moved_at = known.moved_at.max(deletion.moved_at);
                if known.is_before(deletion.offset, deletion.source) {
                    *known = deletion;
                }
                (known.is_elsewhere, known.moved_at) = (is_elsewhere, moved_at);
            }
            None if has_room => {
                self.0.insert(name.clone(), deletion);
            }
            None => return false,
        }
        true
    }

    /// What an entry comes to whose topic is not there. `home`: it belongs in that source.
    pub(super) fn judge(
        &mut self,
        name: &TopicName,
        kind: Kind,
        offset: Offset,
        source: SourceId,
        home: Option<Home>,
    ) -> Verdict {
        if self.0.is_empty() {
            return Verdict::Counts(Offset::ZERO);
        }
        let Some(deletion) = self.0.get_mut(name.as_str()) else { return Verdict::Counts(Offset::ZERO) };
        if deletion.source == source {
            return Verdict::Counts(deletion.moved_at);
        }
        if let Some(home) = home.filter(|home| home.since > deletion.moved_at && deletion.is_before(offset, source)) {
            return Verdict::Counts(home.since);
        }
        if deletion.moved_at > Offset::ZERO {
            return match (deletion.moved_at, deletion.source) > (offset, source) {
                true => Verdict::Past,
                false if kind == Kind::Move => Verdict::Counts(Offset::ZERO),
                false => Verdict::WrongSource,
            };
        }
        if matches!(kind, Kind::Move | Kind::Deletion) || deletion.is_before(offset, source) {
            return Verdict::Counts(Offset::ZERO);
        }
        deletion.is_elsewhere = true;
        Verdict::WrongSource
    }

    /// The topic was moved: whatever was deleted before counts no more.
    pub(super) fn remove(&mut self, name: &TopicName) {
        if !self.0.is_empty() {
            self.0.remove(name.as_str());
        }
    }

    /// Forgets those that no source can have older entries for any more: `sources` are, for each, up to when it has been read,
    /// and the time of the oldest entry that it holds, Unix ms.
    pub(super) fn forget(&mut self, sources: &[(u64, u64)]) {
        if self.0.is_empty() {
            return;
        }
        let is_crowded = self.0.len() > CROWDED_FROM;
        self.0.retain(|_, deletion| {
            let is_own = |at: usize| at == usize::from(deletion.source.0);
            let is_moved = deletion.moved_at > Offset::ZERO;
            sources.iter().enumerate().any(|(at, (read_ms, first_ms))| {
                let is_unread = !is_own(at) && *read_ms <= deletion.at_ms;
                let comes_again = is_moved || deletion.is_elsewhere && !is_own(at);
                is_unread || comes_again && !is_crowded && *first_ms <= deletion.at_ms
            })
        });
        if self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to(self.0.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SourceId = SourceId(0);
    const OTHER: SourceId = SourceId(1);
    const COUNTS: Verdict = Verdict::Counts(Offset::ZERO);

    fn at(offset: u64) -> Offset {
        Offset::new(offset).unwrap()
    }

    fn deletion(source: SourceId, offset: u64) -> Deletion {
        let (at_ms, moved_at) = (100 * offset, Offset::ZERO);
        Deletion { source, offset: at(offset), at_ms, moved_at, is_elsewhere: false }
    }

    #[test]
    fn a_deletion_is_kept_until_the_others_are_past_it() {
        let mut deleted = Deleted::default();
        let name = TopicName::new("a:b").unwrap();
        assert!(deleted.insert(&name, deletion(ONE, 9)));
        assert!(deleted.insert(&name, deletion(ONE, 5)), "an older one changes nothing");
        deleted.forget(&[(1_000, 0), (900, 0)]);
        assert!(!deleted.0.is_empty(), "of that very millisecond more may come");
        deleted.forget(&[(0, 0), (901, 0)]);
        assert!(deleted.0.is_empty());
    }

    #[test]
    fn what_another_source_holds_from_before_it_keeps_it() {
        let mut deleted = Deleted::default();
        let name = TopicName::new("a:b").unwrap();
        deleted.insert(&name, deletion(ONE, 9));
        assert_eq!(deleted.judge(&name, Kind::Delta, at(3), OTHER, None), Verdict::WrongSource);
        deleted.forget(&[(2_000, 0), (2_000, 900)]);
        assert_eq!(deleted.judge(&name, Kind::Delta, at(3), OTHER, None), Verdict::WrongSource, "it comes again");
        deleted.forget(&[(2_000, 0), (2_000, 901)]);
        assert_eq!(deleted.judge(&name, Kind::Delta, at(3), OTHER, None), COUNTS);
        deleted.insert(&name, Deletion { moved_at: at(7), ..deletion(ONE, 9) });
        deleted.forget(&[(2_000, 900), (2_000, 901)]);
        assert_eq!(
            deleted.judge(&name, Kind::Delta, at(12), OTHER, None),
            Verdict::WrongSource,
            "its own source holds the move"
        );
        deleted.forget(&[(2_000, 901), (2_000, 901)]);
        assert_eq!(deleted.judge(&name, Kind::Delta, at(12), OTHER, None), COUNTS);
    }

    #[test]
    fn of_two_with_one_offset_the_later_sources_counts() {
        let name = TopicName::new("a:b").unwrap();
        for (deleted_in, published_in, expected) in [(ONE, OTHER, COUNTS), (OTHER, ONE, Verdict::WrongSource)] {
            let mut deleted = Deleted::default();
            deleted.insert(&name, deletion(deleted_in, 9));
            assert_eq!(deleted.judge(&name, Kind::Delta, at(9), published_in, None), expected);
        }
    }

    #[test]
    fn deletions_are_bounded() {
        let mut deleted = Deleted::default();
        let name = |n: usize| TopicName::new(&format!("a:{n}")).unwrap();
        for n in 0..DELETIONS_MAX {
            assert!(deleted.insert(&name(n), Deletion { is_elsewhere: true, ..deletion(ONE, 9) }));
        }
        assert!(!deleted.insert(&name(DELETIONS_MAX), deletion(ONE, 9)));
        assert!(deleted.insert(&name(3), deletion(ONE, 10)), "a known one is kept up to date");
        deleted.forget(&[(0, 0), (2_000, 0)]);
        assert!(deleted.0.is_empty(), "where there are many, those go that only a load would need");
    }
}
