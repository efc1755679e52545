//! Topics that were subscribed to and never published: how many there may be, in all and for each client.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::atomics::Mutex;
use super::exchange::PublishError;
use crate::limits::UNPUBLISHED_SHARE;

/// Makers for whom the map keeps room, however few there are.
const SHRINK_FROM: usize = 1_024;

#[derive(Default)]
struct Counts {
    all: usize,
    /// By the subscriber on whose behalf they were made.
    by_maker: HashMap<u64, usize>,
}

/// The count of such topics, with its bounds.
pub(super) struct Unpublished {
    counts: Mutex<Counts>,
    max: usize,
    /// Most of one maker.
    share: usize,
}

impl Unpublished {
    /// None yet, of `max` at most; one client may have as many as it may have `subscriptions`, and a share of all at
    /// least.
    pub(super) fn new(max: usize, subscriptions: usize) -> Self {
        let share = (max / UNPUBLISHED_SHARE).max(subscriptions).min(max);
        Self { counts: Mutex::default(), max, share }
    }

    fn counts(&self) -> impl std::ops::DerefMut<Target = Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.counts().all
    }

    /// Counts one more.
    ///
    /// # Errors
    /// If there are as many as there may be, or as this maker may have.
    pub(super) fn admit(&self, maker: u64) -> Result<(), PublishError> {
        let mut counts = self.counts();
        if counts.all >= self.max {
            return Err(PublishError::TooManyUnpublished { max: self.max });
        }
        if counts.by_maker.get(&maker).is_some_and(|count| *count >= self.share) {
            return Err(PublishError::UnpublishedShare { max: self.share });
        }
        counts.all += 1;
        *counts.by_maker.entry(maker).or_default() += 1;
        Ok(())
    }

    /// A topic that `maker` had made is published now, or gone.
    pub(super) fn release(&self, maker: u64) {
        let mut counts = self.counts();
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.by_maker.get_mut(&maker) {
            *count -= 1;
            if *count == 0 {
                counts.by_maker.remove(&maker);
            }
        }
        if counts.by_maker.len() * 4 < counts.by_maker.capacity() {
            let room = counts.by_maker.len() * 2;
            counts.by_maker.shrink_to(room.max(SHRINK_FROM));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_and_each_maker_have_a_bound() {
        let topics = Unpublished::new(3, 2);
        let share = (3 / UNPUBLISHED_SHARE).clamp(2, 3);
        assert_eq!(share, 2);
        assert!(topics.admit(1).is_ok() && topics.admit(1).is_ok());
        assert_eq!(topics.admit(1), Err(PublishError::UnpublishedShare { max: 2 }));
        assert!(topics.admit(2).is_ok());
        assert_eq!(topics.admit(3), Err(PublishError::TooManyUnpublished { max: 3 }));
        topics.release(1);
        assert!(topics.count() == 2 && topics.admit(1).is_ok(), "its room is free again");
    }
}
