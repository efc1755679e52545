//! What waits while topics leave a stream: their deltas come again where the topics go.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::MOVES_WAITING_MAX;
use crate::position::Offset;
use crate::topic::Home;

/// Time for which a topic's deltas may wait for their relay before its state is told as incomplete.
pub(super) const RELAY_WAIT: Duration = Duration::from_secs(5);

/// Deltas of a topic that wait to be relayed.
#[derive(Debug)]
pub(super) struct Wait {
    /// Since when the first of them waits.
    pub(super) since: Instant,
    pub(super) first: Offset,
    /// The newest of them.
    pub(super) upto: Offset,
    pub(super) is_told: bool,
}

impl Wait {
    pub(super) fn new(offset: Offset) -> Self {
        Self { since: Instant::now(), first: offset, upto: offset, is_told: false }
    }

    pub(super) fn is_due(&self) -> bool {
        self.since.elapsed() >= RELAY_WAIT
    }
}

/// What is not as it should be while topics move.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Topics whose deltas wait in this stream.
    pub(super) waiting: HashMap<String, Wait>,
    /// Deltas of topics that are too many to remember.
    pub(super) others: Option<Wait>,
    /// The run of which it is known how far entries were relayed.
    pub(super) watched: Option<String>,
    /// When that was last looked at.
    pub(super) relays_looked_at: Option<Instant>,
    /// When it was last looked at what waits.
    pub(super) looked_at: Option<Instant>,
    /// When another stream was waited for in vain.
    pub(super) gave_up: Option<Instant>,
    /// States are taken from here to be moved: what waits is the caller's own affair.
    pub(super) is_mover: bool,
}

/// Where an entry's topic is, by the moves that are known.
#[derive(Debug, Clone, Copy)]
pub(super) enum Residence {
    /// Here. It belongs here, if `nexus-push reshard` has settled that before the entry.
    Here(Option<Home>),
    /// Here still, though it is to leave.
    ToLeave,
    /// Where it went: the entry is passed over, as it comes in the topic's new stream.
    Left,
    /// The entry comes after the end of the moves, so that the command does not hand it on. Only the stream decides that: all
    /// nodes refuse such an entry, whether or not they know the topic.
    Late,
}

impl Leaving {
    /// A delta of a topic has come that is to come where the topic goes.
    pub(super) fn wait(&mut self, topic: &str, upto: Offset) {
        let new = || Wait::new(upto);
        let wait = if let Some(wait) = self.waiting.get_mut(topic) {
            wait
        } else if self.waiting.len() < MOVES_WAITING_MAX {
            self.waiting.entry(topic.to_owned()).or_insert_with(new)
        } else {
            self.others.get_or_insert_with(new)
        };
        wait.upto = wait.upto.max(upto);
    }

    /// Whether any wait for so long that it is to be told.
    pub(super) fn is_due(&self) -> bool {
        self.waiting.values().chain(&self.others).any(Wait::is_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_that_wait_are_bounded_and_the_others_are_known_to_wait() {
        let mut leaving = Leaving::default();
        let upto = |ms| Offset::new(ms).unwrap();
        (0..MOVES_WAITING_MAX).for_each(|n| leaving.wait(&format!("t:{n}"), upto(1)));
        assert!(leaving.others.is_none());
        leaving.wait("t:0", upto(2));
        assert!(leaving.others.is_none(), "it is one of them");
        leaving.wait("other:a", upto(3));
        let since = leaving.others.as_ref().unwrap().since;
        leaving.wait("other:b", upto(4));
        let others = leaving.others.as_ref().unwrap();
        assert_eq!((others.since, others.upto), (since, upto(4)), "since the first of them");
        assert_eq!(leaving.waiting.len(), MOVES_WAITING_MAX);
    }
}
