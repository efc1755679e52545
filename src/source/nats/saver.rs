//! Saved topic states: written by one node at a time, read by a starting one, so that it need not read the stream from its
//! beginning and so that states outlive the deltas that made them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Trouble;
use super::bucket::{Bucket, Position};
use super::reader::Progress;
use crate::limits::SAVED_BYTES_AT_ONCE;
use crate::name::TopicName;
use crate::position::Epoch;
use crate::source::Feed;
use crate::topic::SourceId;

/// Saves states now and then, if no other node just did.
pub(super) struct Saver {
    pub(super) bucket: Bucket,
    /// See [`super::bucket::Agreement`].
    pub(super) base: Epoch,
    pub(super) source: SourceId,
    pub(super) every: Duration,
    pub(super) progress: Arc<Mutex<Progress>>,
    /// This node.
    pub(super) node: Epoch,
    pub(super) feed: Feed,
}

/// Topics whose states are being saved; if they are not, they are to be taken again.
struct Taken<'a> {
    feed: &'a Feed,
    names: Vec<TopicName>,
    saved: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.saved {
            self.feed.topics.mark_unsaved(self.names.iter());
        }
    }
}

impl Saver {
    /// Until it is dropped.
    pub(super) async fn run(self) {
        let mut seen = None;
        loop {
            tokio::time::sleep(self.every).await;
            if let Err(error) = self.save(&mut seen).await {
                tracing::warn!(%error, "topic states could not be saved");
            }
        }
    }

    async fn save(&self, seen: &mut Option<u64>) -> Result<(), Trouble> {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !progress.loaded || progress.last == 0 || !self.bucket.may_save(self.node.as_str(), seen).await? {
            return Ok(());
        }
        // Everything up to here is in the states that are taken from now on, or was saved before.
        let names = self.feed.topics.unsaved(self.source);
        let mut taken = Taken { feed: &self.feed, names, saved: false };
        let mut at = 0;
        while let Some(rest) = taken.names.get(at..).filter(|rest| !rest.is_empty()) {
            let (states, looked) = self.feed.topics.take_unsaved(self.source, rest, SAVED_BYTES_AT_ONCE);
            self.bucket.save_states(&self.base, &states).await?;
            at += looked;
        }
        let position = Position { sequence: progress.last, ms: progress.last_ms };
        self.bucket.save_position(&self.base, position).await?;
        taken.saved = true;
        tracing::debug!(states = taken.names.len(), upto = position.sequence, "topic states saved");
        Ok(())
    }
}
