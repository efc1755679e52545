//! Clients that hold one topic, move from node to node with their position, and check what they are told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde_json::Value;

use super::oracle::{class_of, patch};
use crate::config::Class;
use crate::position::{Offset, Position};
use crate::protocol::{Encoding, MembershipChange};
use crate::topic::{Attachment, Delta, Kind, Outlet, ShardId, Slot, Snapshot, TopicName, Topics};

/// What a node tells its subscribers.
#[derive(Default)]
pub(super) struct Heard(Mutex<HashMap<Slot, Vec<Told>>>);

pub(super) enum Told {
    Delta(Arc<Delta>),
    Reset(Arc<Snapshot>),
}

impl Heard {
    fn tell(&self, slot: Slot, told: Told) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(slot).or_default().push(told);
    }

    fn take(&self, slot: Slot) -> Vec<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&slot).unwrap_or_default()
    }
}

impl Outlet for Heard {
    fn delta(&self, _: ShardId, slot: Slot, delta: &Arc<Delta>) {
        self.tell(slot, Told::Delta(delta.clone()));
    }

    fn reset(&self, _: ShardId, slot: Slot, snapshot: &Arc<Snapshot>) {
        self.tell(slot, Told::Reset(snapshot.clone()));
    }

    fn stale(&self, _: ShardId, _: Slot, _: &TopicName, _: Option<u64>) {}

    fn membership(&self, _: ShardId, _: Slot, _: &Arc<MembershipChange>) {}
}

/// What a client was given when it came to a node.
pub(super) struct Came {
    pub(super) since: Option<Position>,
    pub(super) recovered: bool,
    /// Offsets of the deltas that it had missed.
    pub(super) missed: Vec<u64>,
}

/// One client.
pub(super) struct Client {
    pub(super) topic: TopicName,
    slot: Slot,
    /// The node that it is at.
    pub(super) node: Option<usize>,
    pub(super) position: Option<Position>,
    /// As it was told, and worked out from deltas; `null` where there is none.
    pub(super) state: Value,
    /// It was told that the state may lack deltas.
    pub(super) is_incomplete: bool,
    /// As SDKs of the Centrifuge protocol do, it learns the epoch when it subscribes; the server ends its subscription where the
    /// state comes to be in doubt.
    keeps_epoch: bool,
    /// That has happened.
    pub(super) is_sent_away: bool,
}

impl Client {
    pub(super) fn new(number: u32, topic: TopicName) -> Self {
        Self {
            topic,
            slot: Slot(number),
            node: None,
            position: None,
            state: Value::Null,
            is_incomplete: false,
            keeps_epoch: number % 2 == 1,
            is_sent_away: false,
        }
    }

    fn is_stream(&self) -> bool {
        class_of(self.topic.as_str()) == Class::Stream
    }

    pub(super) fn leave(&mut self, topics: &Topics) {
        topics.detach(&self.topic, ShardId(0), self.slot, || {});
        (self.node, self.is_sent_away) = (None, false);
    }

    /// Subscribes at a node, from where it was.
    pub(super) fn come(&mut self, node: usize, topics: &Topics, heard: &Heard) -> Result<Came, String> {
        let mut given = None;
        let since = self.position.clone();
        let maker = u64::from(self.slot.0);
        heard.take(self.slot);
        let outcome = topics.attach(
            &self.topic,
            ShardId(0),
            self.slot,
            Encoding::Plain,
            since.as_ref(),
            0,
            maker,
            |attachment| {
                given = Some(attachment);
            },
        );
        outcome.map_err(|error| format!("no subscription: {error}"))?;
        let Some(Attachment { offset, epoch, recovered, missed, .. }) = given else {
            return Err("a subscription without an answer".into());
        };
        self.node = Some(node);
        let was_here = recovered && missed.frames.is_empty();
        if !was_here && missed.frames.is_empty() {
            (self.state, self.is_incomplete) = (Value::Null, false);
        }
        let mut offsets = Vec::new();
        for frame in &missed.frames {
            let frame = read(frame)?;
            offsets.extend(frame["offset"].as_u64().filter(|_| frame["type"] == "delta"));
            self.take(&frame);
        }
        self.position = Some(Position { offset, epoch });
        Ok(Came { since, recovered, missed: offsets })
    }

    fn take(&mut self, frame: &Value) {
        if frame["type"] == "snapshot" {
            self.state = frame["data"].clone();
            self.is_incomplete = frame["incomplete"] == true;
        } else {
            self.change(&frame["data"]);
        }
    }

    fn change(&mut self, data: &Value) {
        match class_of(self.topic.as_str()) {
            Class::Merge => patch(&mut self.state, data),
            _ => (self.state, self.is_incomplete) = (data.clone(), false),
        }
    }

    /// Takes in what the node has told since, and returns how many messages that was.
    pub(super) fn hear(&mut self, heard: &Heard) -> Result<usize, String> {
        let told = heard.take(self.slot);
        let count = told.len();
        for told in told {
            if self.is_sent_away {
                break;
            }
            match told {
                Told::Reset(snapshot) if self.keeps_epoch && (self.is_stream() || snapshot.known.may_lack()) => {
                    self.is_sent_away = true;
                }
                Told::Reset(snapshot) => {
                    let told = Position { offset: snapshot.offset, epoch: snapshot.epoch.clone() };
                    let kept = self.position.take().filter(|_| self.keeps_epoch);
                    self.position = Some(kept.map_or(told.clone(), |kept| Position { epoch: kept.epoch, ..told }));
                    self.state = serde_json::from_slice(&snapshot.data).map_err(|error| error.to_string())?;
                    self.is_incomplete = snapshot.known.may_lack();
                }
                Told::Delta(delta) => {
                    let at = self.position.as_ref().map_or(Offset::ZERO, |position| position.offset);
                    let is_same = |position: &Position| position.epoch.is_comparable(&delta.epoch) || self.keeps_epoch;
                    let is_same = self.position.as_ref().is_some_and(is_same);
                    // docs/protocol.md: prev ≤ have < offset.
                    if !is_same || delta.prev > at || delta.offset <= at {
                        return Err(format!(
                            "a client of {} at {:?} is told of the delta {} of {} with prev {}",
                            self.topic, self.position, delta.offset, delta.epoch, delta.prev
                        ));
                    }
                    self.position.iter_mut().for_each(|position| position.offset = delta.offset);
                    let data = serde_json::from_slice(delta.payload.bytes()).map_err(|error| error.to_string())?;
                    if delta.kind == Kind::Snapshot {
                        (self.state, self.is_incomplete) = (data, false);
                    } else if !self.is_stream() {
                        self.change(&data);
                    }
                }
            }
        }
        Ok(count)
    }
}

/// The message in a frame (RFC 6455, section 5.2; a server's frames have no mask).
fn read(frame: &Bytes) -> Result<Value, String> {
    let header = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    serde_json::from_slice(frame.get(header..).unwrap_or_default()).map_err(|error| error.to_string())
}
