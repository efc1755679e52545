//! Deletions of topics, kept until every other source has been read up to them, and as long as another source still has
//! entries from before them: of a topic's entries in two sources the newest counts, in whichever order they are read,
//! and a deletion is one of them. A moved topic stays in its new source when it is deleted.

use std::collections::HashMap;

use super::delta::Kind;
use super::exchange::{Home, SourceId};
use super::strays::Stray;
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
    /// Entries that the other source has of the topic would have expired by then, Unix ms.
    pub(super) until_ms: u64,
    /// It is to be saved, or was, that the topic ended with it in other sources too.
    pub(super) is_marked: bool,
}

impl Deletion {
    pub(super) fn stray(&self) -> Stray {
        Stray { source: self.source, offset: self.offset, at_ms: self.at_ms, is_deletion: true }
    }

    fn is_before(&self, offset: Offset, source: SourceId) -> bool {
        (self.offset, self.source) < (offset, source)
    }
}

/// The verdict on an entry of a topic that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts; the topic was moved to its source at this offset (0: it was not).
    Counts(Offset),
    /// The topic was moved to another source after it: the entry no longer counts.
    Past,
    /// It was deleted in another source after it, or moved there before it.
    WrongSource,
}

/// The newest deletion of each topic that may still matter.
#[derive(Debug, Default)]
pub(super) struct Deleted(HashMap<TopicName, Deletion>);

impl Deleted {
    /// `Err` if there is no room for it. Returns what was marked of an older one, in whose place it is.
    pub(super) fn insert(&mut self, name: &TopicName, deletion: Deletion) -> Result<Option<Stray>, ()> {
        let mut over = None;
        let has_room = self.0.len() < DELETIONS_MAX;
        match self.0.get_mut(name.as_str()) {
            Some(known) => {
                let is_elsewhere = known.is_elsewhere || deletion.is_elsewhere;
                let moved_at = known.moved_at.max(deletion.moved_at);
                if known.is_before(deletion.offset, deletion.source) {
                    over = known.is_marked.then(|| known.stray());
                    *known = deletion;
                }
                (known.is_elsewhere, known.moved_at) = (is_elsewhere, moved_at);
            }
            None if has_room => {
                self.0.insert(name.clone(), deletion);
            }
            None => return Err(()),
        }
        Ok(over)
    }

    /// The newest deletion of a topic, unless it was moved before: then it is where it was moved to.
    pub(super) fn of(&self, name: &TopicName) -> Option<&Deletion> {
        self.0.get(name.as_str()).filter(|deletion| deletion.moved_at == Offset::ZERO)
    }

    /// A deletion that is to be saved from now on: another source has entries of its topic, or is where the topic
    /// belongs.
    pub(super) fn claim_mark(&mut self, name: &TopicName, is_misplaced: bool) -> Option<Stray> {
        let deletion = self.0.get_mut(name.as_str()).filter(|deletion| deletion.moved_at == Offset::ZERO)?;
        let is_new = !deletion.is_marked && (deletion.is_elsewhere || is_misplaced);
        deletion.is_marked |= is_new;
        is_new.then(|| deletion.stray())
    }

    /// Another source has, or may have, entries from before a deletion.
    pub(super) fn set_elsewhere(&mut self, name: &TopicName, source: SourceId, offset: Offset) {
        let deletion = self.0.get_mut(name.as_str());
        if let Some(deletion) = deletion.filter(|known| (known.source, known.offset) == (source, offset)) {
            deletion.is_elsewhere = true;
        }
    }

    /// Judges an entry of a topic that is not known here. `home`: the topic belongs in that source.
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

    /// The topic was moved: earlier deletions no longer count. Returns the mark of such a deletion.
    pub(super) fn remove(&mut self, name: &TopicName) -> Option<Stray> {
        if self.0.is_empty() {
            return None;
        }
        self.0.remove(name.as_str()).filter(|deletion| deletion.is_marked).map(|deletion| deletion.stray())
    }

    /// The contents of a source were replaced.
    pub(super) fn forget_source(&mut self, source: SourceId) {
        self.0.retain(|_, deletion| deletion.source != source);
    }

    /// A source is loaded again: topics that expired there will expire again.
    pub(super) fn forget_expiries(&mut self, source: SourceId) {
        self.0.retain(|_, deletion| deletion.source != source || deletion.until_ms != deletion.at_ms);
    }

    /// Forgets deletions for which no source can have older entries any more. `sources` are, for each source, the time
    /// up to which it has been read and the time of its oldest entry, Unix ms. Returns those that were marked.
    pub(super) fn forget(&mut self, sources: &[(u64, u64)]) -> Vec<(TopicName, Stray)> {
        let mut marked = Vec::new();
        if self.0.is_empty() {
            return marked;
        }
        let is_crowded = self.0.len() > CROWDED_FROM;
        self.0.retain(|name, deletion| {
            let is_own = |at: usize| at == usize::from(deletion.source.0);
            let is_moved = deletion.moved_at > Offset::ZERO;
            let is_kept = sources.iter().enumerate().any(|(at, (read_ms, first_ms))| {
                let is_unread = !is_own(at) && *read_ms <= deletion.at_ms;
                let is_there = deletion.is_elsewhere && !is_own(at);
                let comes_again = (is_moved || is_there) && *first_ms <= deletion.at_ms;
                // A node that has not read the deletion applies the next patch there to the old state.
                let may_go_on = is_there && *read_ms <= deletion.until_ms;
                is_unread || !is_crowded && (comes_again || may_go_on)
            });
            if !is_kept && deletion.is_marked {
                marked.push((name.clone(), deletion.stray()));
            }
            is_kept
        });
        if self.0.len() * 4 < self.0.capacity() {
            self.0.shrink_to(self.0.len() * 2);
        }
        marked
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
        Deletion { source, offset: at(offset), at_ms, moved_at, is_elsewhere: false, until_ms: 0, is_marked: false }
    }

    #[test]
    fn a_deletion_is_kept_until_the_others_are_past_it() {
        let mut deleted = Deleted::default();
        let name = TopicName::new("a:b").unwrap();
        assert!(deleted.insert(&name, deletion(ONE, 9)).is_ok());
        assert!(deleted.insert(&name, deletion(ONE, 5)).is_ok(), "an older one changes nothing");
        deleted.forget(&[(1_000, 0), (900, 0)]);
        assert!(!deleted.0.is_empty(), "of that very millisecond more may come");
        deleted.forget(&[(0, 0), (901, 0)]);
        assert!(deleted.0.is_empty());
    }

    #[test]
    fn what_another_source_holds_from_before_it_keeps_it() {
        let mut deleted = Deleted::default();
        let name = TopicName::new("a:b").unwrap();
        deleted.insert(&name, deletion(ONE, 9)).unwrap();
        assert_eq!(deleted.judge(&name, Kind::Delta, at(3), OTHER, None), Verdict::WrongSource);
        deleted.forget(&[(2_000, 0), (2_000, 900)]);
        assert_eq!(deleted.judge(&name, Kind::Delta, at(3), OTHER, None), Verdict::WrongSource, "it comes again");
        deleted.forget(&[(2_000, 0), (2_000, 901)]);
        assert_eq!(deleted.judge(&name, Kind::Delta, at(3), OTHER, None), COUNTS);
        deleted.insert(&name, Deletion { moved_at: at(7), ..deletion(ONE, 9) }).unwrap();
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
            deleted.insert(&name, deletion(deleted_in, 9)).unwrap();
            assert_eq!(deleted.judge(&name, Kind::Delta, at(9), published_in, None), expected);
        }
    }

    /// Nodes that have not read the deletion keep the other source's state until it expires.
    #[test]
    fn a_deletion_that_ended_what_another_source_has_is_kept_until_that_would_have_ended() {
        let mut deleted = Deleted::default();
        let name = TopicName::new("a:b").unwrap();
        deleted.insert(&name, Deletion { is_elsewhere: true, until_ms: 2_000, ..deletion(ONE, 9) }).unwrap();
        assert_eq!(deleted.claim_mark(&name, false).map(|stray| stray.at()), Some((at(9), ONE)));
        assert_eq!(deleted.claim_mark(&name, false), None, "once");
        assert!(deleted.forget(&[(9_000, 9_000), (2_000, 9_000)]).is_empty());
        assert_eq!(deleted.of(&name).map(|deletion| deletion.offset), Some(at(9)));
        let marked = deleted.forget(&[(9_000, 9_000), (2_001, 9_000)]);
        assert_eq!(marked.iter().map(|(_, stray)| stray.at()).collect::<Vec<_>>(), [(at(9), ONE)]);
        // One that is of no consequence is not marked, wherever it lies.
        deleted.insert(&name, deletion(ONE, 9)).unwrap();
        assert_eq!(deleted.claim_mark(&name, false), None);
        assert!(deleted.claim_mark(&name, true).is_some());
        let over = deleted.insert(&name, deletion(OTHER, 10)).unwrap();
        assert_eq!(over.map(|stray| stray.at()), Some((at(9), ONE)), "a newer one is in its place");
    }

    #[test]
    fn deletions_are_bounded() {
        let mut deleted = Deleted::default();
        let name = |n: usize| TopicName::new(&format!("a:{n}")).unwrap();
        for n in 0..DELETIONS_MAX {
            assert!(deleted.insert(&name(n), Deletion { is_elsewhere: true, ..deletion(ONE, 9) }).is_ok());
        }
        assert!(deleted.insert(&name(DELETIONS_MAX), deletion(ONE, 9)).is_err());
        assert!(deleted.insert(&name(3), deletion(ONE, 10)).is_ok(), "a known one is kept up to date");
        deleted.forget(&[(0, 0), (2_000, 0)]);
        assert!(deleted.0.is_empty(), "where there are many, those go that only a load would need");
    }
}
