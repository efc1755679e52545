//! The effect of a delta on a topic's state, and putting a saved state back.

use std::sync::Arc;

use super::super::account::MEMBER_BYTES;
use super::super::delta::{Delta, Keep, Kind, Place};
use super::super::exchange::PublishError;
use super::super::history::History;
use super::super::merge::{self, Members};
use super::super::payload::Payload;
use super::super::trace::Trace;
use super::topic::{Topic, When};
use super::value::{Value, value_weight};
use crate::config::Class;
use crate::limits::STATE_BYTES_MAX;
use crate::position::Offset;

impl Topic {
    /// Checks whether a delta would be taken in; nothing changes. With `fresh`, the present state has ended.
    pub(in crate::topic) fn admits(&self, kind: Kind, payload: &Payload, fresh: bool) -> Result<(), PublishError> {
        let payload = payload.clone().for_form(self.options.payload)?;
        match (self.options.class, kind) {
            (Class::Stream, Kind::Snapshot) => Err(PublishError::StreamSnapshot),
            (Class::Merge, Kind::Delta | Kind::Snapshot | Kind::Move) => {
                let members = merge::parse_object(payload.as_str())?;
                let bytes = merge::members_bytes(&members);
                let had = if kind == Kind::Delta && !fresh { self.value.object_bytes() } else { 0 };
                if had + bytes > STATE_BYTES_MAX {
                    return Err(PublishError::StateTooLarge { bytes: had + bytes });
                }
                self.may_grow(0, bytes)
            }
            _ => Ok(()),
        }
    }

    /// Makes these the whole state of a `merge` topic. Returns its bytes.
    fn replace_members(&mut self, members: Members) -> Result<usize, PublishError> {
        let whole = Value::of_members(members);
        let bytes = whole.object_bytes();
        if bytes > STATE_BYTES_MAX {
            return Err(PublishError::StateTooLarge { bytes });
        }
        self.may_grow(self.value.weight(), whole.weight())?;
        self.value = whole;
        Ok(bytes)
    }

    /// Changes the state, but for the value of a `latest` topic. Returns the state's bytes (`merge`).
    fn change(&mut self, kind: Kind, payload: &Payload) -> Result<usize, PublishError> {
        match (&self.value, kind) {
            (Value::Stream, Kind::Snapshot) => return Err(PublishError::StreamSnapshot),
            (Value::Stream, _) | (_, Kind::HistoryRemoval | Kind::Deletion) => {}
            (Value::Latest(_), _) => self.may_grow(self.value.weight(), value_weight(payload.bytes().len()))?,
            (Value::Merge { .. } | Value::Prepared(_), Kind::Snapshot | Kind::Move) => {
                return self.replace_members(merge::parse_object(payload.as_str())?);
            }
            (Value::Prepared(_), Kind::Delta) => {
                self.unpark()?;
                return self.change(kind, payload);
            }
            (Value::Merge { members, bytes, count }, Kind::Delta) => {
                let patch = merge::parse_object(payload.as_str())?;
                if bytes + payload.bytes().len() > STATE_BYTES_MAX || self.account.sums().is_overfull() {
                    // The state may become too large; a patch that makes it smaller is always taken.
                    let growth = merge::growth(members, &patch);
                    let grown = bytes.saturating_add_signed(growth.bytes);
                    if grown > STATE_BYTES_MAX && growth.bytes > 0 {
                        return Err(PublishError::StateTooLarge { bytes: grown });
                    }
                    let grown = grown + count.saturating_add_signed(growth.members) * MEMBER_BYTES;
                    self.may_grow(self.value.weight(), grown)?;
                }
                if let Value::Merge { members, bytes, count } = &mut self.value {
                    let growth = merge::apply(members, patch);
                    *bytes = bytes.saturating_add_signed(growth.bytes);
                    *count = count.saturating_add_signed(growth.members);
                    return Ok(*bytes);
                }
            }
        }
        Ok(0)
    }

    /// Takes a delta in and returns it as it is to be delivered. The account is settled when its frames are made:
    /// [`Topic::settle_delta`].
    pub(in crate::topic) fn publish(
        &mut self,
        kind: Kind,
        ts: Option<u64>,
        payload: Payload,
        offset: Offset,
        when: When,
        trace: Option<Box<Trace>>,
    ) -> Result<Arc<Delta>, PublishError> {
        let payload = payload.for_form(self.options.payload)?;
        let state_bytes = self.change(kind, &payload)?;
        let When { at_ms, now_ms } = when;
        let before = match self.options.has_fossil() {
            true => self.before.replace(payload.bytes().clone()),
            false => None,
        };
        let place = Place {
            topic: self.name.clone(),
            offset,
            // Nothing of this topic lies between the two.
            prev: if self.known { self.offset } else { self.history.floor() },
            epoch: self.epoch.clone(),
            taken_ms: now_ms,
            state_bytes,
            before,
            trace,
        };
        let kept = Delta::new(kind, ts, payload, place);
        let delta = Arc::clone(&kept);
        if let Value::Latest(last) = &mut self.value {
            *last = Some(Keep::new(delta.clone()));
        }
        self.history.push(kept, &self.options);
        match (self.options.class, kind) {
            (Class::Merge, Kind::Delta) => {}
            // A value is whole in itself, as a snapshot is.
            _ => (self.incomplete, self.base) = (false, offset),
        }
        self.offset = offset;
        self.known = true;
        (self.unsaved, self.left_out) = (true, false);
        self.ts = ts;
        self.active_ms = at_ms;
        self.snapshot = None;
        Ok(delta)
    }

    /// Puts back a state that was saved outside. It rests on a snapshot at `base`, if that is known.
    pub(in crate::topic) fn restore(
        &mut self,
        (offset, base): (Offset, Option<Offset>),
        ts: Option<u64>,
        payload: Payload,
        when: When,
    ) -> Result<(), PublishError> {
        let kind = match self.options.class {
            Class::Stream => return Err(PublishError::StreamSnapshot),
            Class::Latest => Kind::Delta,
            Class::Merge => Kind::Snapshot,
        };
        // Entries between the saved state and the oldest entry that the source still has are not known here.
        let floor = self.offset.max(offset);
        self.publish(kind, ts, payload, offset, when, None)?;
        (self.base, self.is_elsewhere) = (base.unwrap_or_default(), self.is_elsewhere || base.is_some());
        self.awaits_home = false;
        self.history = History::from_floor(floor);
        self.before = None;
        self.unsaved = false;
        self.settle();
        Ok(())
    }

    /// Whether the state is incomplete and has no members.
    pub(in crate::topic) fn is_bare(&self) -> bool {
        self.known && self.incomplete && self.value.is_empty_object()
    }

    /// Takes over an earlier state.
    pub(in crate::topic) fn adopt(&mut self, payload: &Payload) -> Result<(), PublishError> {
        self.replace_members(merge::parse_object(payload.as_str())?)?;
        self.snapshot = None;
        self.settle();
        Ok(())
    }

    /// Makes an incomplete state whole: the state as it was at `offset`, and the deltas kept since. `false` if some of
    /// these are not kept, or the state is newer than `reached`, up to which everything has been read.
    pub(in crate::topic) fn complete(
        &mut self,
        (offset, base, reached): (Offset, Option<Offset>, Offset),
        (ts, at_ms): (Option<u64>, Option<u64>),
        payload: Payload,
    ) -> Result<bool, PublishError> {
        if !self.known || !self.incomplete || offset > reached {
            return Ok(false);
        }
        let base = base.unwrap_or_default();
        // The node that saved it may not have read the entries of another source.
        if self.strays.newest().is_some_and(|stray| stray.at() > (base, self.source)) {
            return Ok(false);
        }
        let since: Vec<Arc<Delta>> = match self.history.since(offset) {
            // The newest delta was missed, and none came since.
            _ if offset > self.offset => Vec::new(),
            Some(since) => since.cloned().collect(),
            None => return Ok(false),
        };
        match self.options.class {
            Class::Stream => return Ok(false),
            Class::Latest if since.is_empty() => {
                let payload = payload.for_form(self.options.payload)?;
                self.may_grow(self.value.weight(), value_weight(payload.bytes().len()))?;
                let place = Place {
                    topic: self.name.clone(),
                    offset: offset.max(self.offset),
                    prev: self.history.floor(),
                    epoch: self.epoch.clone(),
                    taken_ms: self.active_ms,
                    state_bytes: 0,
                    before: None,
                    trace: None,
                };
                self.value = Value::Latest(Some(Delta::new(Kind::Delta, self.ts, payload, place)));
            }
            Class::Latest => return Ok(false),
            Class::Merge => {
                let mut members = merge::parse_object(payload.as_str())?;
                for delta in since {
                    let patch = merge::parse_object(delta.payload.as_str())?;
                    if delta.kind == Kind::Delta {
                        merge::apply(&mut members, patch);
                    } else {
                        members = patch;
                    }
                }
                self.replace_members(members)?;
            }
        }
        if offset > self.offset {
            // Its age is that of the delta that was missed.
            (self.offset, self.ts, self.active_ms) = (offset, ts, at_ms.unwrap_or(self.active_ms));
            self.history = History::from_floor(offset);
        }
        (self.incomplete, self.base, self.before, self.snapshot) = (false, base, None, None);
        self.unsaved = true;
        self.settle();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::testing::{AT, topic};
    use super::*;

    #[test]
    fn a_merge_topic_takes_objects_alone_and_a_stream_no_snapshot() {
        let json = |text: &'static str| Payload::new(Bytes::from_static(text.as_bytes()), 100).unwrap();
        let one = Offset::new(1).unwrap();
        let mut merge = topic(Class::Merge);
        assert!(merge.publish(Kind::Delta, None, json("[1]"), one, AT, None).is_err());
        assert_eq!(merge.offset, Offset::ZERO, "a refused delta leaves no trace");
        merge.publish(Kind::Delta, None, json(r#"{"a":1,"b":2}"#), one, AT, None).unwrap();
        merge.publish(Kind::Snapshot, None, json(r#"{"c":3}"#), one.next(), AT, None).unwrap();
        assert_eq!(merge.snapshot().data, r#"{"c":3}"#);
        assert!(topic(Class::Stream).publish(Kind::Snapshot, None, json("1"), one, AT, None).is_err());
    }
}
