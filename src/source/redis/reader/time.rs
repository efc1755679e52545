//! Up to when a partition was read, by Redis' clock.

use std::time::Duration;

use ::redis::Value;

use super::super::id::EntryId;
use super::super::value::text;
use super::source::RedisSource;
use crate::clock::unix_ms;
use crate::source::Feed;

/// What was read ahead and waited for no longer than this counts as read just now.
pub(super) const READ_AHEAD_FRESH: Duration = Duration::from_millis(100);

impl RedisSource {
    /// Says up to when the stream has been read: up to the time of the read, if that left nothing behind, or up to `last`.
    pub(super) fn note_time(&mut self, feed: &Feed, time_ms: Option<u64>, last: EntryId, waited: Duration) {
        // An answer that waited tells an old time.
        if let Some(time_ms) = time_ms.filter(|_| waited < READ_AHEAD_FRESH) {
            self.look_at_clock(unix_ms(), time_ms);
        }
        feed.topics.read_upto(self.id, self.believed_ms(time_ms, last), self.ahead_ms);
    }

    /// Redis' clock says `time_ms`, and this node's `own_ms`.
    pub(super) fn look_at_clock(&mut self, own_ms: u64, time_ms: u64) {
        self.ahead_ms = ahead_of(own_ms, time_ms);
        self.clock.look(self.ahead_ms);
    }

    /// Up to when topics end that had no delta, where everything was read up to `last` and, by Redis' clock, up to `time_ms`:
    /// the time of an entry is a fact, and that of a clock is one once it has been so for long enough.
    pub(super) fn believed_ms(&self, time_ms: Option<u64>, last: EntryId) -> u64 {
        let believed_ms = unix_ms().saturating_add_signed(self.clock.ahead_ms());
        time_ms.map_or(last.ms, |time_ms| time_ms.min(believed_ms.max(last.ms)))
    }
}

/// By how much a clock that says `time_ms` is ahead of one that says `own_ms`, in ms.
pub(super) fn ahead_of(own_ms: u64, time_ms: u64) -> i64 {
    let signed = |ms| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(time_ms).saturating_sub(signed(own_ms))
}

/// An answer to `TIME`, in Unix ms.
pub(super) fn time_ms(time: &Value) -> Option<u64> {
    let Value::Array(parts) = time else { return None };
    let number = |at: usize| text(parts.get(at)?)?.parse::<u64>().ok();
    u64::try_from((Duration::from_secs(number(0)?) + Duration::from_micros(number(1)?)).as_millis()).ok()
}
