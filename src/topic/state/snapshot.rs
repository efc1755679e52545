//! A topic's whole state, for subscribers, REST and saving.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::super::delta::{Keep, Snapshot, SnapshotData};
use super::super::merge;
use super::topic::Topic;
use super::value::Value;
use crate::config::{Class, PayloadForm};
use crate::position::Offset;
use crate::protocol::{Known, base64_json};

impl Topic {
    /// The whole state now; made once for each offset.
    pub(in crate::topic) fn snapshot(&mut self) -> Arc<Snapshot> {
        if let Some(made) = &self.snapshot {
            return Arc::clone(made);
        }
        let made = self.snapshot_once();
        self.snapshot = Some(Keep::new(made.clone()));
        self.settle();
        if self.account.sums().history() > self.account.sums().history_max() {
            // It can be made again: not kept where there is no room.
            self.snapshot = None;
            self.settle();
        }
        made
    }

    /// The same for a single reader: not kept if it is made for that.
    fn snapshot_once(&self) -> Arc<Snapshot> {
        match &self.snapshot {
            Some(made) => Arc::clone(made),
            None => self.make_snapshot(self.may_lack()),
        }
    }

    /// The snapshot to save: deltas that wait elsewhere are no part of it.
    pub(in crate::topic) fn snapshot_to_save(&self) -> Arc<Snapshot> {
        match self.options.class {
            // Its deltas are in its source. The topic's existence and position may outlive them.
            Class::Stream => self.snapshot_of(Bytes::from_static(b"[]"), PayloadForm::Json, self.incomplete),
            // An earlier snapshot may not name the snapshot that the state rests on.
            _ if self.waits || self.is_elsewhere => self.make_snapshot(self.incomplete),
            _ => self.snapshot_once(),
        }
    }

    fn make_snapshot(&self, incomplete: bool) -> Arc<Snapshot> {
        let null = Bytes::from_static(b"null");
        let mut form = PayloadForm::Json;
        let data = match &self.value {
            Value::Latest(last) => {
                form = self.options.payload;
                let nothing = if form == PayloadForm::Bytes { Bytes::new() } else { null };
                last.as_ref().filter(|_| self.known).map_or(nothing, |d| d.payload.bytes().clone())
            }
            _ if !self.known => null,
            Value::Prepared(text) => text.clone(),
            Value::Merge { members, bytes, .. } => {
                let mut out = Vec::with_capacity(*bytes);
                merge::write_members(members, &mut out);
                Bytes::from(out)
            }
            Value::Stream => {
                let mut out = vec![b'['];
                for (i, delta) in self.history.last(usize::MAX).enumerate() {
                    if i > 0 {
                        out.push(b',');
                    }
                    let _ = write!(out, "{{\"offset\":{}", delta.offset);
                    if let Some(ts) = delta.ts {
                        let _ = write!(out, ",\"ts\":{ts}");
                    }
                    if delta.payload.form() == PayloadForm::Bytes {
                        out.extend_from_slice(b",\"encoding\":\"base64\",\"data\":");
                        out.append(&mut base64_json(delta.payload.bytes()));
                    } else {
                        out.extend_from_slice(b",\"data\":");
                        out.extend_from_slice(delta.payload.bytes());
                    }
                    out.push(b'}');
                }
                out.push(b']');
                Bytes::from(out)
            }
        };
        self.snapshot_of(data, form, incomplete)
    }

    fn snapshot_of(&self, data: Bytes, form: PayloadForm, incomplete: bool) -> Arc<Snapshot> {
        let known = match (self.known, incomplete) {
            (false, false) => Known::Nothing,
            (false, true) => Known::Unknown,
            (true, true) => Known::Incomplete,
            (true, false) => Known::Whole,
        };
        let (at, moved_at) = ((self.offset, self.told_epoch(incomplete)), self.moved_at);
        let is_based = self.is_elsewhere && known == Known::Whole && self.options.class == Class::Merge;
        let base = if is_based { self.base } else { Offset::ZERO };
        let data = SnapshotData { data, form, known, at_ms: self.active_ms, moved_at, base };
        let made = Snapshot::new(self.name.clone(), at, self.ts, data);
        made.count();
        Arc::new(made)
    }
}
