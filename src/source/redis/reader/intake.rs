//! What a partition's entries say, and what becomes of them.

use ::redis::Value;

use super::super::away::{Cut, Handed};
use super::super::entries::{Entry, decode_entry, is_of_reshard, topic_of};
use super::super::id::EntryId;
use super::source::RedisSource;
use super::waits::Residence;
use crate::position::Offset;
use crate::source::Feed;
use crate::source::entry::ReadDelta;
use crate::source::refusal::{Head, Refusal};
use crate::topic::{Incoming, Kind};

/// Topics in the wrong partition that are said and remembered.
const MISPLACED_MAX: usize = 10_000;

impl RedisSource {
    /// Takes entries in. Up to `saved`, states that were saved say what deltas have come to.
    pub(super) async fn take_in(&mut self, batch: Vec<Entry>, feed: &Feed, saved: Option<EntryId>) {
        for entry in batch {
            let id = entry.id;
            #[cfg(test)]
            {
                let mut taken = self.taken.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                *taken.entry(id).or_default() |= saved.is_none_or(|saved| id > saved);
            }
            let offset = match id.offset() {
                Ok(offset) => offset,
                Err(error) => {
                    if error.is_for_good() {
                        self.status.fail(&error.to_string());
                    }
                    let refusal = error.refusal().of_topic_if_known(topic_of(&entry.fields, &self.config));
                    self.refuse(id, refusal);
                    continue;
                }
            };
            self.reached = self.reached.max(offset);
            // Nothing is awaited as a rule: what is, lives in this future, which costs more than the stack.
            if !feed.has_room() {
                feed.wait_for_room().await;
            }
            if !is_of_reshard(&entry.fields) {
                if let Some((delta, residence)) = self.read_entry((id, offset), entry.fields, None, feed, saved) {
                    self.publish((id, offset), delta, residence, None, feed);
                }
                continue;
            }
            if let Some(cut) = Cut::of(&entry.fields, &self.keys.stream) {
                let cut = cut.map_err(|refusal| refusal.of_topic_if_known(topic_of(&entry.fields, &self.config)));
                self.cut(cut, id, feed);
                continue;
            }
            let handed = Handed::of(&entry.fields);
            let read = self.read_entry((id, offset), entry.fields, handed.as_ref(), feed, saved);
            let Some((delta, residence)) = read else { continue };
            if let Some(handed) = handed.as_ref().filter(|_| delta.kind == Kind::Move) {
                self.wait_for_cut(handed, feed).await;
                feed.wait_for_room().await;
            }
            self.publish((id, offset), delta, residence, handed.as_ref(), feed);
        }
    }

    /// What an entry says, if topics are to have it, and where its topic is.
    pub(super) fn read_entry(
        &mut self,
        (id, offset): (EntryId, Offset),
        fields: Vec<Value>,
        handed: Option<&Handed>,
        feed: &Feed,
        saved: Option<EntryId>,
    ) -> Option<(ReadDelta, Residence)> {
        let form = |topic: &str| feed.topics.payload_form(topic);
        let delta = match decode_entry(fields, &self.config, self.delta_bytes_max, id.ms, form) {
            Ok(delta) => delta,
            Err(refusal) => {
                self.refuse(id, refusal);
                return None;
            }
        };
        if let Some(handed) = handed.filter(|_| delta.kind != Kind::Move) {
            self.note_relayed(handed, feed);
        }
        let residence = self.residence_of(&delta.topic, delta.kind, (id, offset), feed);
        match residence {
            Residence::Left => {
                // It is relayed without what is wrong with it.
                delta.suspicions.iter().for_each(|suspicion| self.refusals.suspect(&id, suspicion));
                return None;
            }
            Residence::Late if handed.is_none() => {
                self.refuse_late(id, &delta.topic);
                return None;
            }
            _ => {}
        }
        // No state tells of a deletion, which may be of what another stream has that is in no saved state yet.
        let is_saved = saved.is_some_and(|saved| id <= saved) && delta.kind != Kind::Deletion;
        if is_saved && feed.topics.is_by_state(self.id, &delta.topic) {
            return None;
        }
        if handed.is_none() {
            self.look_for_place(&delta.topic, residence, feed);
        }
        Some((delta, residence))
    }

    /// Hands a delta to topics.
    pub(super) fn publish(
        &mut self,
        (id, offset): (EntryId, Offset),
        delta: ReadDelta,
        residence: Residence,
        handed: Option<&Handed>,
        feed: &Feed,
    ) {
        for suspicion in &delta.suspicions {
            self.refusals.suspect(&id, suspicion);
        }
        let head = Head::of(delta.payload.bytes());
        let incoming = Incoming {
            topic: &delta.topic,
            kind: delta.kind,
            ts: delta.ts.or(Some(id.ms)),
            at_ms: handed.and_then(|handed| handed.at_ms).or(Some(id.ms)),
            payload: delta.payload,
            offset: Some(offset),
            source: self.id,
            home: if let Residence::Here(home) = residence { home } else { None },
            is_relayed: handed.is_some() && delta.kind != Kind::Move,
        };
        match feed.topics.publish(incoming) {
            Ok(_) => {
                if handed.is_some_and(|handed| handed.is_partial) {
                    feed.topics.doubt_moved(self.id, &delta.topic);
                }
                self.refusals.look_at_namespace(&id, &delta.topic);
            }
            Err(error) => {
                let refusal = self.refusals.refuse_publish(&id, &delta.topic, &error, &head);
                self.copy(id, refusal);
            }
        }
    }

    pub(super) fn refuse(&mut self, id: EntryId, refusal: Refusal) {
        self.refusals.refuse(&id, &refusal);
        self.copy(id, refusal);
    }

    /// Has a refused entry copied. What is read again by a load was copied when it was new.
    pub(super) fn copy(&self, id: EntryId, refusal: Refusal) {
        if let Some(copies) = self.copies.as_ref().filter(|_| self.status.is_loaded()) {
            copies.hand_in(id, refusal);
        }
    }

    /// Says once of each topic that it belongs in another partition: publishers do not agree on where, or streams were added
    /// and it was not moved.
    pub(super) fn look_for_place(&mut self, topic: &str, residence: Residence, feed: &Feed) {
        if feed.topics.partitions() < 2 {
            return;
        }
        let home = feed.topics.home(topic);
        if home == self.id {
            return;
        }
        // One that was moved here, or is being moved from here, is where another list of streams says.
        if !matches!(residence, Residence::Here(_)) || feed.topics.place_in(self.id, topic).1 {
            return;
        }
        feed.topics.relate_home(self.id, topic);
        if self.misplaced.len() >= MISPLACED_MAX || !self.misplaced.insert(topic.to_owned()) {
            return;
        }
        self.status.misplace();
        self.metrics.topics_misplaced.inc();
        let belongs = self.config.streams.get(usize::from(home.0)).map(String::as_str).unwrap_or_default();
        tracing::warn!(
            topic,
            stream = self.keys.stream,
            belongs,
            "a topic is published here that belongs in the stream that is named: see `nexus-push partition`"
        );
    }
}
