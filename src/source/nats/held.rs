//! What a stream holds, and what it means that it holds something else now.

use std::time::Duration;

use async_nats::jetstream::stream::{Config, Info, RetentionPolicy};
use serde::{Deserialize, Serialize};

use super::trouble::unix_ms_of;

/// Time by which clocks of servers may differ before a message is taken to have expired, or to be later than another, ms.
pub(super) const CLOCK_SLACK_MS: u64 = 2_000;

/// What a stream holds, as its server says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Held {
    /// When the stream was created, Unix ns: what tells one stream from another of its name.
    pub(super) created: String,
    /// Sequence of the first message; past `last` if there is none.
    pub(super) first: u64,
    /// Sequence of the last message that it ever took.
    pub(super) last: u64,
    pub(super) messages: u64,
    pub(super) bytes: u64,
    /// When the last was taken, Unix ms.
    pub(super) last_ms: u64,
    /// When the first was.
    #[serde(default)]
    pub(super) first_ms: u64,
}

impl Held {
    /// How far back the stream reaches, if its first messages are gone.
    pub(super) fn reach(&self, bounds: &Bounds) -> Option<Duration> {
        // The first message says nothing of those that are gone from the middle.
        let is_trimmed = self.messages > 0 && self.first > 1 && !bounds.others;
        is_trimmed.then(|| Duration::from_millis(self.last_ms.saturating_sub(self.first_ms)))
    }

    pub(super) fn of(info: &Info) -> Self {
        let state = &info.state;
        Self {
            created: info.created.unix_timestamp_nanos().to_string(),
            first: state.first_sequence,
            last: state.last_sequence,
            messages: state.messages,
            bytes: state.bytes,
            last_ms: unix_ms_of(state.last_timestamp),
            first_ms: unix_ms_of(state.first_timestamp),
        }
    }
}

/// What makes a stream remove messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    messages: u64,
    bytes: u64,
    age_ms: u64,
    /// A message takes earlier ones of its subject with it: each subject's last is kept.
    pub(super) by_subject: bool,
    /// Messages have times of their own to go.
    by_message: bool,
    /// By something else too, so that nothing can be told from what is gone.
    pub(super) others: bool,
}

impl Bounds {
    pub(super) fn of(config: &Config) -> Self {
        let by_subject = config.max_messages_per_subject > 0 || config.allow_rollup;
        Self {
            messages: u64::try_from(config.max_messages).unwrap_or(0),
            bytes: u64::try_from(config.max_bytes).unwrap_or(0),
            age_ms: u64::try_from(config.max_age.as_millis()).unwrap_or(u64::MAX),
            by_subject,
            by_message: config.allow_message_ttl,
            others: by_subject || config.allow_message_ttl || config.retention != RetentionPolicy::Limits,
        }
    }

    /// Whether what is missing can be nothing but messages that a later one of the same subject took with it, so that of each
    /// subject the newest is there.
    pub(super) fn keeps_the_newest(&self, held: &Held) -> bool {
        self.by_subject && self.age_ms == 0 && !self.by_message && !self.is_near_full(held)
    }

    fn is_near_full(&self, held: &Held) -> bool {
        (self.messages > 0 && held.messages >= self.messages)
            // What is trimmed by size stays near it; by half is near for any but a stream of a few messages.
            || (self.bytes > 0 && held.bytes.saturating_mul(2) >= self.bytes)
    }

    /// Whether they can have taken everything that was held before.
    fn took_all(&self, before: &Held, now: &Held, now_ms: u64) -> bool {
        // A message that takes others with it is there itself.
        (self.others && (now.messages > 0 || self.by_message))
            || self.is_near_full(now)
            || (self.age_ms > 0 && before.last_ms.saturating_add(self.age_ms) <= now_ms.saturating_add(CLOCK_SLACK_MS))
    }
}

/// How what was read does not join up with what the stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// The stream ends before what was read from it: an older copy was put back.
    Backwards,
    /// What was read last is another message now.
    Rewritten,
    /// Somebody emptied the stream.
    Purged,
    /// Messages were let go before they were read.
    Missed,
    /// What was saved is of messages that the stream does not hold.
    Saved,
    /// The bucket names an epoch that ended before.
    Ended,
}

impl Break {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Backwards => "the stream ends before what was read from it: an older copy was put back",
            Self::Rewritten => "the message that was read last is another one now: an older copy was put back",
            Self::Purged => "the stream was purged",
            Self::Missed => "messages were let go before they were read",
            Self::Saved => "states were saved of messages that are not in the stream: an older copy was put back",
            Self::Ended => "an epoch that had ended has come back: an older copy of the bucket was put back",
        }
    }

    /// Whether states that were saved before no longer count.
    pub(super) fn ends_the_past(self) -> bool {
        match self {
            // Where the two histories part is not known.
            Self::Purged | Self::Rewritten | Self::Saved | Self::Ended => true,
            // If states were saved past where they part, that is found when they are put back.
            Self::Backwards | Self::Missed => false,
        }
    }
}

/// Whether everything that was held `before`, or else the first that came since, was taken away by somebody, not by the
/// stream's own limits.
fn purged(before: &Held, now: &Held, bounds: &Bounds, now_ms: u64) -> bool {
    let known = if before.messages > 0 { before.last } else { before.last + 1 };
    now.first > known && !bounds.took_all(before, now, now_ms)
}

/// What a look at the stream tells who read up to `last`, and found `before` when it looked last.
pub(super) fn look(last: u64, before: &Held, now: &Held, bounds: &Bounds, now_ms: u64) -> Option<Break> {
    if now.last < last {
        return Some(Break::Backwards);
    }
    if purged(before, now, bounds, now_ms) {
        return Some(Break::Purged);
    }
    // Where messages go in the middle too, gaps tell.
    (now.first > last + 1 && now.last > last && !bounds.others).then_some(Break::Missed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(first: u64, last: u64) -> Held {
        let messages = (last + 1).saturating_sub(first);
        Held {
            created: "1".into(),
            first,
            last,
            messages,
            bytes: messages * 100,
            last_ms: 1_000_000,
            first_ms: 900_000,
        }
    }

    #[test]
    fn what_a_look_tells() {
        let none = Bounds::default();
        let count = Bounds { messages: 50, ..none };
        let size = Bounds { bytes: 5_000, ..none };
        let age = Bounds { age_ms: 60_000, ..none };
        let others = Bounds { others: true, by_subject: true, ..none };
        let soon = 1_000_000 + 1_000;
        let later = 1_000_000 + 70_000;
        for (what, last, before, now, bounds, now_ms, expected) in [
            ("nothing new", 100, held(1, 100), held(1, 100), none, soon, None),
            ("more", 100, held(1, 100), held(1, 150), none, soon, None),
            ("trimmed up to here", 100, held(1, 100), held(101, 150), count, soon, None),
            ("trimmed in part", 100, held(1, 100), held(90, 139), count, soon, None),
            ("trimmed by size", 100, held(1, 100), held(101, 150), size, soon, None),
            ("expired", 100, held(1, 100), held(101, 100), age, later, None),
            ("expired and more came", 100, held(1, 100), held(101, 103), age, later, None),
            ("never had any", 0, held(1, 0), held(1, 0), none, soon, None),
            ("purged", 100, held(1, 100), held(101, 100), none, soon, Some(Break::Purged)),
            ("purged before it could expire", 100, held(1, 100), held(101, 100), age, soon, Some(Break::Purged)),
            ("purged, not full", 100, held(1, 100), held(101, 110), count, soon, Some(Break::Purged)),
            ("purged, and read on", 110, held(1, 100), held(101, 110), none, soon, Some(Break::Purged)),
            ("purged before it was looked at", 40, held(1, 0), held(41, 42), none, soon, Some(Break::Purged)),
            ("purged in part", 100, held(1, 100), held(95, 100), none, soon, None),
            ("nothing to be told", 100, held(1, 100), held(101, 110), others, soon, None),
            ("nothing to be told from gaps", 100, held(1, 100), held(105, 110), others, soon, None),
            ("not even the newest of a subject", 100, held(1, 100), held(101, 100), others, soon, Some(Break::Purged)),
            ("trimmed past here", 100, held(1, 100), held(140, 189), count, soon, Some(Break::Missed)),
            ("all expired unread", 100, held(1, 150), held(151, 150), age, later, Some(Break::Missed)),
            ("older copy", 100, held(1, 100), held(1, 90), none, soon, Some(Break::Backwards)),
        ] {
            assert_eq!(look(last, &before, &now, &bounds, now_ms), expected, "{what}");
        }
    }

    #[test]
    fn how_far_back_and_whether_the_newest_of_each_subject_is_there() {
        let none = Bounds::default();
        let by_subject = Bounds { others: true, by_subject: true, messages: 100, ..none };
        assert_eq!(held(1, 50).reach(&none), None, "to its beginning");
        assert_eq!(held(2, 50).reach(&none), Some(Duration::from_secs(100)));
        assert_eq!(held(51, 50).reach(&none), None, "it is empty");
        assert_eq!(held(2, 50).reach(&by_subject), None);
        assert!(by_subject.keeps_the_newest(&held(1, 99)) && !by_subject.keeps_the_newest(&held(1, 100)), "full");
        assert!(!none.keeps_the_newest(&held(1, 1)));
        for more in [Bounds { age_ms: 1, ..by_subject }, Bounds { by_message: true, ..by_subject }] {
            assert!(!more.keeps_the_newest(&held(1, 1)));
        }
    }
}
