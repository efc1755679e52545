//! Saved states that no longer count: of topics that ended, and from before deltas for which there was no room.

use ::redis::{RedisResult, cmd};

use super::super::keys::Keys;
use super::super::link::Link;
use super::super::saved::Dependency;
use super::scripts::{OUTDATE, REMOVE, UNMARK};
use super::{CHUNK, Saver};
use crate::name::TopicName;
use crate::position::Offset;
use crate::source::Feed;
use crate::topic::SourceId;

impl Saver {
    /// Removes saved states of topics that have ended. Whichever node does: what was saved of a later life stays.
    pub(super) async fn remove_ended(&self, link: &mut Link, feed: &Feed) -> RedisResult<()> {
        let _alone = feed.ending.lock().await;
        remove_ended(link, &self.keys, self.source, feed).await
    }

    /// Marks saved states from before deltas for which there was no room here: this node does not know what they came to.
    pub(super) async fn outdate_refused(&self, link: &mut Link, feed: &Feed) -> RedisResult<()> {
        let refused = feed.topics.take_refused(self.source);
        for chunk in refused.chunks(CHUNK) {
            let mut outdate = cmd("EVAL");
            outdate.arg(OUTDATE).arg(1).arg(&self.keys.snapshots);
            for (name, offset) in chunk {
                outdate.arg(name.as_str()).arg(offset.get());
            }
            if let Err(error) = outdate.query_async::<u8>(link).await {
                feed.topics.put_back_refused(self.source, &refused);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The same in other streams, of topics that entries of this one ended or moved. `false` if not all can be removed.
    pub(super) async fn remove_ended_elsewhere(&self, feed: &Feed) -> RedisResult<bool> {
        if feed.topics.partitions() > 1 {
            let _alone = feed.ending.lock().await;
            for (at, stream) in self.streams.iter().enumerate() {
                let source = SourceId(u16::try_from(at).unwrap_or_default());
                let is_marked = feed.topics.has_marks_over(source);
                if source != self.source && (is_marked || feed.topics.has_ended_elsewhere(source)) {
                    let read = Dependency::new(stream, &feed.topics.epoch(source), feed.topics.reached(source));
                    if feed.topics.is_loading(source) || !read.is_current(&self.masters, stream).await? {
                        // What ended there may not have ended in the past that it has now.
                        return Ok(false);
                    }
                    let mut link = self.masters.connect(stream).await?;
                    remove_ended(&mut link, &Keys::new(stream), source, feed).await?;
                }
            }
        }
        let forgotten = (0..self.streams.len())
            .filter_map(|at| self.streams.get(at).filter(|_| has_forgotten_ends(feed, at)))
            .collect::<Vec<_>>();
        if !forgotten.is_empty() {
            tracing::warn!(
                stream = self.keys.stream,
                ?forgotten,
                "more topics ended than this node remembers, so that it cannot remove all their saved states: it saves no more; start \
                 it again"
            );
        }
        Ok(forgotten.is_empty())
    }
}

fn has_forgotten_ends(feed: &Feed, at: usize) -> bool {
    u16::try_from(at).is_ok_and(|at| feed.topics.has_forgotten_ends(SourceId(at)))
}

/// Removes saved states of topics of `source` that have ended, with [`Feed::ending`] held.
async fn remove_ended(link: &mut Link, keys: &Keys, source: SourceId, feed: &Feed) -> RedisResult<()> {
    let mut ended = feed.topics.take_ended(source);
    while !ended.is_empty() {
        let chunk = ended.split_off(ended.len().saturating_sub(CHUNK));
        if let Err(error) = remove(link, keys, &chunk, feed.topics.expired_ms(source)).await {
            ended.extend(chunk);
            feed.topics.put_back_ended(source, ended);
            return Err(error);
        }
    }
    for chunk in feed.topics.marks_over(source).chunks(CHUNK) {
        let mut unmark = cmd("EVAL");
        unmark.arg(UNMARK).arg(1).arg(&keys.strays);
        for (name, offset) in chunk {
            unmark.arg(name.as_str()).arg(offset.get());
        }
        let () = unmark.query_async(link).await?;
        feed.topics.removed_marks(source, chunk);
    }
    Ok(())
}

/// Removes saved states that are not of later offsets than these.
async fn remove(link: &mut Link, keys: &Keys, ended: &[(TopicName, Offset)], expired_ms: u64) -> RedisResult<()> {
    let mut remove = cmd("EVAL");
    remove.arg(REMOVE).arg(3).arg(&keys.snapshots).arg(&keys.ended).arg(&keys.expired).arg(expired_ms);
    for (name, offset) in ended {
        remove.arg(name.as_str()).arg(offset.get());
    }
    remove.query_async(link).await
}
