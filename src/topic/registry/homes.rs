//! The source that a topic belongs in: its home. Publishers should publish a topic there alone. A topic with deltas in
//! another source may lack what its home has, and one that is not known here may exist in any source that could have
//! it.

use super::super::exchange::{PublishError, SourceId};
use super::super::state::Topic;
use super::source::SourceState;
use super::topics::{Topics, is_own};
use crate::name::TopicName;

/// The 64-bit FNV-1a hash of a topic's name, which decides its partition.
pub fn hash_of(topic: &str) -> u64 {
    topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The partition that a topic belongs in, counted from 0: the hash of its name, modulo the number of partitions.
fn partition_of(topic: &str, partitions: usize) -> usize {
    usize::try_from(hash_of(topic) % partitions.max(1) as u64).unwrap_or(0)
}

/// The one of `streams` that a topic belongs in.
pub fn home_in<'a>(topic: &str, streams: &'a [String]) -> &'a str {
    streams.get(partition_of(topic, streams.len())).map_or("", String::as_str)
}

/// The partition that a topic belongs in, counted from 0, of a name that was not checked yet.
///
/// # Errors
/// If no topic can have the name.
pub fn home_of(topic: &str, partitions: usize) -> Result<usize, PublishError> {
    Ok(partition_of(TopicName::new(topic)?.as_str(), partitions))
}

impl Topics {
    /// The source that the first delta of a topic is expected from. Publishers that spread topics over partitions
    /// should use the same rule: FNV-1a (64 bit) of the name, modulo the number of streams.
    pub fn home(&self, topic: &str) -> SourceId {
        SourceId(u16::try_from(partition_of(topic, self.homes)).unwrap_or(0))
    }

    /// The source from which this node's messages about a topic are to come: that of its deltas, if there are any.
    pub fn source_of(&self, topic: &str) -> SourceId {
        let known = self.map.get(topic).filter(|topic| topic.known).map(|topic| topic.source);
        known.unwrap_or_else(|| self.home(topic))
    }

    /// `source` has an entry of a topic that belongs in another source: what that one comes to depends on both.
    pub fn relate_home(&self, source: SourceId, name: &str) {
        let home = self.home(name);
        if home != source {
            self.relate(source, home);
        }
    }

    /// The source that a topic belongs in, if it is another than the topic's own.
    pub(super) fn home_elsewhere(&self, topic: &Topic) -> Option<&SourceState> {
        if self.partitions() < 2 || topic.source == self.local() {
            return None;
        }
        let home = self.home(topic.name.as_str());
        self.source(home).filter(|_| home != topic.source)
    }

    /// Whether the home of a topic that is in another source may have had newer entries of it, taken in at `at_ms` or
    /// later, that were missed.
    pub(super) fn may_lack_newer(&self, topic: &Topic, at_ms: u64) -> bool {
        !topic.is_moved() && self.home_elsewhere(topic).is_some_and(|home| home.gaps.last_ms(0) >= at_ms)
    }

    /// Whether a topic is in another source than its home, and its home is still to be read.
    pub(super) fn is_home_unread(&self, topic: &Topic) -> bool {
        self.home_elsewhere(topic).is_some_and(SourceState::is_unread)
    }

    /// A topic has no state in its source: there may be a newer life of it in its home.
    pub(super) fn set_may_exist_at_home(&self, topic: &mut Topic) {
        if self.partitions() < 2 || topic.known {
            return;
        }
        topic.may_exist(self.home_elsewhere(topic).is_some() && self.may_exist(topic.source, &topic.name));
    }

    /// Entries of `source` were missed: topics that belong in it and are in others may have newer ones there.
    pub(super) fn doubt_misplaced(&self, source: SourceId) {
        if self.partitions() > 1 {
            self.map.iter_mut().for_each(|mut topic| self.doubt_if_misplaced(&mut topic, source));
        }
    }

    /// The same for one topic.
    pub(super) fn doubt_if_misplaced(&self, topic: &mut Topic, source: SourceId) {
        if self.partitions() < 2 || topic.source == source || self.home(topic.name.as_str()) != source {
            return;
        }
        let is_new = match topic.known {
            true => self.may_lack_newer(topic, topic.active_ms) && topic.doubt(),
            false => !topic.incomplete && self.may_exist(source, &topic.name),
        };
        if is_new {
            topic.may_exist(true);
            if !self.is_loading(topic.source) {
                self.tell_state(topic);
            }
        }
    }

    /// Whether `source` may have a topic of this name that is not known here, or not yet.
    pub(super) fn may_exist(&self, source: SourceId, name: &TopicName) -> bool {
        let Some(source) = self.source(source).filter(|_| !is_own(name)) else { return false };
        let options = self.options_of(name.namespace());
        let may_have = |source: &SourceState| source.gaps.may_have(name, options, source.progress.read_ms());
        let (trail, is_unread) = self.relays().trail(self.home(name.as_str()), name.as_str());
        // A stream that was not read yet may have entries of a topic that belongs in another.
        is_unread
            || self.sources.iter().any(SourceState::is_unread)
            || self.is_moving_unread()
            || self.may_be_of(name, source).any(may_have)
            || trail.into_iter().filter_map(|source| self.source(source)).any(may_have)
    }

    /// The sources that may have a topic: that in which it was expected, that in which it belongs, and those that have
    /// topics in common with this.
    fn may_be_of<'a>(&'a self, name: &TopicName, expected: &'a SourceState) -> impl Iterator<Item = &'a SourceState> {
        let home = self.source(self.home(name.as_str()));
        let related = home.map_or_else(Vec::new, |home| home.related.all(self.partitions()));
        [Some(expected), home].into_iter().chain(related.into_iter().map(|other| self.source(other))).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishers in any language compute the same partition: the hash is the standard one.
    #[test]
    fn a_topic_belongs_in_the_partition_of_its_hash() {
        assert_eq!((hash_of(""), hash_of("foobar")), (0xcbf2_9ce4_8422_2325, 0x8594_4171_f739_67e8));
        let streams = ["m:0", "m:1", "m:2"].map(str::to_owned);
        let at = home_of("foobar", 3).unwrap();
        assert_eq!((at as u64, home_in("foobar", &streams)), (hash_of("foobar") % 3, &*streams[at]));
        assert_eq!((home_of("foobar", 0).unwrap(), home_in("foobar", &[])), (0, ""), "there is no other");
        assert!(home_of("", 3).is_err() && home_of("a\n", 3).is_err());
    }
}
