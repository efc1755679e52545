//! The memory that a topic takes, and freeing it.

use super::super::account::{INDEX_BYTES, Levels, PLACE_BYTES};
use super::super::exchange::PublishError;
use super::topic::{Interest, Topic};
use crate::accounts::allocated;
use crate::config::{ChannelSyntax, Class, OPS};
use crate::position::Offset;

impl Topic {
    /// Brings the topic's account up to date. Every change of the topic's contents ends with this.
    pub(in crate::topic) fn settle(&mut self) {
        let (history, state) = self.weights(self.history.weight());
        self.account.settle(history, state);
    }

    fn weights(&self, history: usize) -> (usize, usize) {
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.weight());
        let interest = self.interest.capacity() * size_of::<Interest>();
        let name = allocated(2 * size_of::<usize>() + self.name.as_str().len());
        let index = if self.known { self.index_bytes() } else { 0 };
        let place = allocated(size_of::<Self>()) + PLACE_BYTES + index + name + allocated(interest);
        (history + snapshot, place + self.value.weight() + self.strays.weight())
    }

    /// Bytes of its entries in the index of names: its own, and one for each user that it lists.
    fn index_bytes(&self) -> usize {
        let users = match self.options.allow_user_limited_channels {
            true => ChannelSyntax::Centrifugo.kind(self.name.as_str()).users().count(),
            false => 0,
        };
        INDEX_BYTES * (1 + users)
    }

    /// The true values of the account.
    #[cfg(test)]
    pub(in crate::topic) fn true_weights(&self) -> (usize, usize) {
        let (history, state) = self.weights(self.history.true_weight());
        (history, state - self.value.weight() + self.value.true_weight())
    }

    /// After a delta, whose frames were made since: `before` is the offset before it. Returns how many deltas had to go
    /// before their time, because all topics together keep too much.
    pub(in crate::topic) fn settle_delta(&mut self, before: Offset) -> usize {
        let had = self.account.history();
        self.history.weigh(before);
        self.settle();
        let allowance = self.account.sums().allowance(had, self.account.history());
        if self.account.history() > allowance { self.shrink_history(allowance) } else { 0 }
    }

    /// Frees what can be made or read again, the oldest first, until this many bytes are left, as far as that [may
    /// go](super::super::account::Sums::may_go). Returns how many deltas went.
    pub(in crate::topic) fn shrink_history(&mut self, bytes: usize) -> usize {
        if self.account.history() <= bytes {
            return 0;
        }
        self.snapshot = None;
        let bytes = bytes.max(self.history.weight().saturating_sub(self.account.sums().may_go()));
        let gone = self.history.shrink_to(bytes);
        self.settle();
        gone
    }

    /// Counts the topic among those that have as much history.
    pub(in crate::topic) fn add_level(&self, levels: &mut Levels) {
        levels.add(self.account.history());
    }

    /// Whether a state may grow from `before` to `now` bytes of memory: not while all states together are too large.
    pub(super) fn may_grow(&self, before: usize, now: usize) -> Result<(), PublishError> {
        let sums = self.account.sums();
        if now > before && sums.is_overfull() && self.name.namespace() != Some(OPS) {
            return Err(PublishError::StateTotal { max: sums.state_max() });
        }
        Ok(())
    }

    /// Frees what can be made again, because the topic was not used for long.
    pub(in crate::topic) fn park(&mut self) {
        let holds_more = self.value.is_apart() || self.snapshot.is_some() || self.before.is_some();
        if !holds_more {
            return;
        }
        self.value.prepare();
        self.snapshot = None;
        self.before = None;
        self.settle();
    }

    /// Makes a parked state ready for a change.
    pub(super) fn unpark(&mut self) -> Result<(), PublishError> {
        if self.value.take_apart()? {
            self.settle();
        }
        Ok(())
    }

    /// Removes the history before `offset`; the state and the position stay.
    pub(in crate::topic) fn remove_history(&mut self, offset: Offset) {
        if self.history.remove_before(offset) > 0 && self.options.class == Class::Stream {
            self.snapshot = None;
        }
        self.settle();
    }

    /// Drops history that is too old.
    pub(in crate::topic) fn expire_history(&mut self, now_ms: u64) {
        if self.account.sums().may_go() == 0 {
            return;
        }
        let before = self.history.len();
        self.history.expire(now_ms, &self.options);
        if self.history.len() != before && self.options.class == Class::Stream {
            self.snapshot = None;
        }
        self.settle();
    }
}
