//! The first delta of a topic that was not known here: whether there may have been others before it.

use super::super::gaps::Gaps;
use super::super::state::Topic;
use super::publish::Entry;
use super::source::SourceState;
use super::topics::Topics;
use crate::config::Class;

impl Topics {
    /// A topic that was not known has its first delta here. With `goes_on` that may be a patch to a state that is not
    /// known here, and the topic is incomplete then.
    pub(super) fn begin_life(&self, topic: &mut Topic, entry: &Entry, goes_on: bool, is_back: bool) {
        let &Entry { source, when, .. } = entry;
        let deletion = self.deletion_elsewhere(topic, source, when.at_ms);
        if goes_on && topic.options.class == Class::Merge {
            let is_in_doubt = is_back || self.may_have_begun_before(topic, entry);
            let is_unread = self.is_home_unread(topic);
            topic.incomplete = is_in_doubt || is_unread;
            topic.awaits_home = !is_in_doubt && is_unread;
            // For a node that has not read a deletion elsewhere, what was here goes on.
            if let Some((stray, true)) = deletion {
                topic.incomplete = true;
                self.note_stray(topic, stray);
            }
        }
        self.rest_on_deletion(topic, source);
        if let Some((stray, _)) = deletion {
            topic.is_elsewhere = true;
            if topic.strays.is_empty() {
                self.end_stray(&topic.name, &stray);
            }
        }
        self.list(topic);
    }

    /// Whether a topic may have had deltas, in a source that could have had them, before the first that is known here.
    fn may_have_begun_before(&self, topic: &Topic, entry: &Entry) -> bool {
        let &Entry { source, when, is_relayed, .. } = entry;
        // Where this process itself counts, nothing comes late.
        let first_ms = if entry.offset.is_some() { when.at_ms } else { u64::MAX };
        // No topic expires while deltas of it wait to be relayed.
        let is_first = |gaps: &Gaps| match is_relayed {
            true => gaps.has_missed_none(&topic.name, &topic.options, first_ms),
            false => gaps.is_first(&topic.name, &topic.options, first_ms),
        };
        // Entries of others from before a deletion here do not count; later ones are noticed when they are read.
        let deleted_ms = self.deleted_ms(&topic.name, source);
        let is_over_there =
            |other: &SourceState| deleted_ms.is_some_and(|at_ms| other.is_unread() || other.gaps.last_ms(0) < at_ms);
        let mut related = self.related(source).into_iter().filter_map(|other| self.source(other));
        self.home_elsewhere(topic).is_some_and(|home| !is_first(&home.gaps))
            || related.any(|other| !is_over_there(other) && !is_first(&other.gaps))
            || !self.source(source).is_some_and(|own| is_first(&own.gaps))
    }
}
