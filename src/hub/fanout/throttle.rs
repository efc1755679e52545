//! When groups with a rate may deliver.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::hub::index::GroupId;

/// The groups that have something to deliver, and when they may.
#[derive(Default)]
pub(super) struct Throttle {
    /// Groups that got something to deliver in this tick.
    touched: Vec<GroupId>,
    /// Groups that wait for the end of their interval, the earliest first.
    due: BinaryHeap<Reverse<(u64, GroupId)>>,
}

impl Throttle {
    /// A group has something to deliver.
    pub(super) fn touch(&mut self, group: GroupId) {
        self.touched.push(group);
    }

    /// Schedules a group for `at_ms`.
    pub(super) fn wait(&mut self, group: GroupId, at_ms: u64) {
        self.due.push(Reverse((at_ms, group)));
    }

    /// When the next group is due, in the shard's time.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.due.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    pub(super) fn take_touched(&mut self) -> Vec<GroupId> {
        std::mem::take(&mut self.touched)
    }

    /// The next group that is due.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Option<GroupId> {
        if self.next_ms()? > now_ms {
            return None;
        }
        self.due.pop().map(|Reverse((_, group))| group)
    }
}
