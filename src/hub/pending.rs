//! Commands about topics that wait for answers of the control plane.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use slab::Slab;

use super::index::{PendingId, SHRINK_FROM, SessionId};
use crate::accounts::{self, Held, allocated};
use crate::auth::Grant;
use crate::name::TopicName;
use crate::position::Position;
use crate::protocol::{CommandId, Encoding, Op, Refusal, Refused, Standing, SubscribeOptions};
use crate::topic::{Attachment, Slot};

/// A topic that a command is about.
pub(super) struct Wanted {
    pub(super) topic: TopicName,
    pub(super) since: Option<Position>,
    pub(super) options: Option<Box<SubscribeOptions>>,
}

/// A command about topics, until all its answers have come.
pub(super) struct PendingCommand {
    pub(super) session: SessionId,
    pub(super) id: CommandId,
    pub(super) op: Op,
    pub(super) remaining: usize,
    pub(super) items: Vec<Item>,
    /// Topics that were refused.
    pub(super) refused: Refused,
    /// For snapshot commands.
    pub(super) standings: Vec<Standing>,
    /// Bytes of state and of missed deltas. Those of a snapshot command are sent; others are kept until all answers
    /// have come.
    pub(super) bytes: usize,
    /// Its share of the memory counters.
    pub(super) _held: Held,
}

impl PendingCommand {
    pub(super) fn new(session: SessionId, id: CommandId, op: Op, items: Vec<Item>, refused: Refused) -> Self {
        let bytes = size_of::<Self>() + allocated(items.capacity() * size_of::<Item>());
        let (remaining, _held) = (items.len(), Held::of(&accounts::SUBSCRIBING, bytes));
        Self { session, id, op, remaining, items, refused, standings: Vec::new(), bytes: 0, _held }
    }
}

/// A topic of a subscribe.
pub(super) struct Item {
    pub(super) slot: Slot,
    pub(super) topic: TopicName,
    pub(super) encoding: Encoding,
    pub(super) interval_ms: u64,
    pub(super) was_recovering: bool,
    /// It adds a subscription to the session.
    pub(super) joins: bool,
    pub(super) options: Option<Box<SubscribeOptions>>,
    /// The answer, and the topic's sequence when it came.
    pub(super) answer: Option<Result<Answered, Refusal>>,
}

impl Item {
    /// Whether the missed deltas are no longer in the history, and the client wants no subscription without them.
    pub(super) fn is_unrecoverable(&self) -> bool {
        let rejects = self.was_recovering && self.options.as_ref().is_some_and(|o| o.reject_unrecovered);
        rejects && self.answer.as_ref().is_some_and(|a| a.as_ref().is_ok_and(|a| !a.attachment.recovered))
    }
}

/// The answer to a topic of a subscribe.
#[derive(Clone)]
pub(super) struct Answered {
    pub(super) attachment: Attachment,
    pub(super) grant: Option<Grant>,
    pub(super) seq: u64,
    /// Bytes of missed deltas, or of the state.
    pub(super) bytes: usize,
    /// They exceeded what the command may get at once, and were dropped.
    pub(super) cut: bool,
}

/// The commands of a shard's sessions that wait for answers.
#[derive(Default)]
pub(super) struct Pending {
    commands: Slab<PendingCommand>,
    /// Topics whose subscribe is in progress, by session.
    joining: HashMap<SessionId, HashSet<Slot>>,
    /// Number of topics of unfinished snapshot commands, by session.
    snapshots: HashMap<SessionId, usize>,
}

impl Pending {
    /// The id of the next command.
    pub(super) fn next_id(&self) -> PendingId {
        PendingId::new(self.commands.vacant_key())
    }

    pub(super) fn add(&mut self, command: PendingCommand) -> PendingId {
        PendingId::new(self.commands.insert(command))
    }

    pub(super) fn get(&self, id: PendingId) -> Option<&PendingCommand> {
        self.commands.get(id.at())
    }

    pub(super) fn get_mut(&mut self, id: PendingId) -> Option<&mut PendingCommand> {
        self.commands.get_mut(id.at())
    }

    /// Whether a session's subscribe to a topic is in progress.
    pub(super) fn is_joining(&self, session: SessionId, slot: Slot) -> bool {
        self.joining.get(&session).is_some_and(|slots| slots.contains(&slot))
    }

    /// The number of topics whose subscribe is in progress.
    pub(super) fn joining(&self, session: SessionId) -> usize {
        self.joining.get(&session).map_or(0, HashSet::len)
    }

    /// A session's subscribe to a topic begins.
    pub(super) fn joins(&mut self, session: SessionId, slot: Slot) {
        self.joining.entry(session).or_default().insert(slot);
    }

    /// One answer to a subscribe has come. Returns the command with its last answer.
    pub(super) fn answered(&mut self, id: PendingId) -> Option<PendingCommand> {
        let command = self.commands.get_mut(id.at())?;
        command.remaining = command.remaining.saturating_sub(1);
        if command.remaining > 0 {
            return None;
        }
        let command = self.commands.try_remove(id.at())?;
        if let Entry::Occupied(mut joining) = self.joining.entry(command.session) {
            for item in command.items.iter().filter(|item| item.joins) {
                joining.get_mut().remove(&item.slot);
            }
            if joining.get().is_empty() {
                joining.remove();
            }
        }
        Some(command)
    }

    /// Counts `more` topics whose state a session requests; `most` may be in progress.
    ///
    /// # Errors
    /// The number in progress, if `more` would exceed `most`.
    pub(super) fn begin_snapshots(&mut self, session: SessionId, more: usize, most: usize) -> Result<(), usize> {
        let waiting = self.snapshots.get(&session).copied().unwrap_or_default();
        if waiting + more > most {
            return Err(waiting);
        }
        self.snapshots.insert(session, waiting + more);
        Ok(())
    }

    /// One topic of a snapshot command was answered. Returns the command after the last.
    pub(super) fn snapshot_answered(&mut self, id: PendingId) -> Option<PendingCommand> {
        let session = self.commands.get(id.at())?.session;
        if let Entry::Occupied(mut waiting) = self.snapshots.entry(session) {
            *waiting.get_mut() = waiting.get().saturating_sub(1);
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
        self.answered(id)
    }

    /// Number of pending commands, and of topics of snapshot commands.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.commands.len(), self.snapshots.values().sum())
    }

    /// Frees unused memory. Called periodically.
    pub(super) fn shrink(&mut self) {
        if self.commands.is_empty() && self.commands.capacity() > SHRINK_FROM {
            self.commands.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::index::SessionIndex;

    const SESSION: SessionId = SessionId { index: SessionIndex::FIRST, generation: 1 };

    fn item(slot: u32, joins: bool) -> Item {
        Item {
            slot: Slot(slot),
            topic: TopicName::new("t:x").unwrap(),
            encoding: Encoding::Plain,
            interval_ms: 0,
            was_recovering: false,
            joins,
            options: None,
            answer: None,
        }
    }

    fn command(op: Op, items: Vec<Item>) -> PendingCommand {
        PendingCommand::new(SESSION, CommandId::default(), op, items, Refused::default())
    }

    #[test]
    fn a_command_is_done_with_its_last_answer() {
        let mut pending = Pending::default();
        let id = pending.next_id();
        [1, 2].into_iter().for_each(|slot| pending.joins(SESSION, Slot(slot)));
        assert_eq!(pending.add(command(Op::Subscribe, vec![item(1, true), item(2, true), item(3, false)])), id);
        assert!((0..2).all(|_| pending.answered(id).is_none()));
        assert!(pending.is_joining(SESSION, Slot(1)) && !pending.is_joining(SESSION, Slot(3)));
        assert_eq!(pending.joining(SESSION), 2);
        assert_eq!(pending.answered(id).unwrap().items.len(), 3);
        assert_eq!((pending.joining(SESSION), pending.counts()), (0, (0, 0)));
        assert!(pending.answered(id).is_none(), "all answers have come");
    }

    #[test]
    fn snapshots_that_wait_have_a_bound() {
        let mut pending = Pending::default();
        assert_eq!(pending.begin_snapshots(SESSION, 3, 4), Ok(()));
        assert_eq!(pending.begin_snapshots(SESSION, 2, 4), Err(3));
        let id = pending.add(PendingCommand { remaining: 3, ..command(Op::Snapshot, Vec::new()) });
        assert!(pending.snapshot_answered(id).is_none());
        assert_eq!(pending.begin_snapshots(SESSION, 2, 4), Ok(()), "one was answered");
        assert!(pending.snapshot_answered(id).is_none());
        assert!(pending.snapshot_answered(id).is_some());
        assert_eq!(pending.counts(), (0, 2));
    }
}
