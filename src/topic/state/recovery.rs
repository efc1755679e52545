//! The answer to a client that subscribes or asks for history: the deltas that it missed, or the state.

use std::sync::Arc;

use bytes::Bytes;

use super::super::delta::{Delta, Kind};
use super::super::exchange::{Attachment, Replay};
use super::topic::Topic;
use super::value::Value;
use crate::config::Class;
use crate::limits::RECOVERY_BYTES;
use crate::position::{Offset, Position};
use crate::protocol::{Encoding, HistoryDelta, HistoryPage, HistoryQuery, Refusal};

impl Topic {
    /// The answer to a new subscriber: the deltas since the position that it names, or the state.
    pub(in crate::topic) fn attach(
        &mut self,
        encoding: Encoding,
        since: Option<&Position>,
        history: u32,
        bytes_max: usize,
    ) -> Attachment {
        // A client that has nothing yet may not know the epoch.
        let same = |p: &Position| p.epoch == self.epoch || (p.epoch.as_str().is_empty() && p.offset == Offset::ZERO);
        // Entries of other sources have no order among the client's either.
        let comparable = since.filter(|p| same(p) && p.offset <= self.offset && self.strays.is_empty());
        if self.options.class == Class::Stream {
            let joins = comparable.filter(|p| self.ended_at != Some(p.offset));
            let recovered = joins.and_then(|p| self.replay(encoding, p.offset, bytes_max));
            let wanted = if since.is_some() { 0 } else { history as usize };
            let missed = match &recovered {
                Some(_) => recovered.clone(),
                None => self.history.before_last(wanted).and_then(|from| self.replay(encoding, from, bytes_max)),
            };
            return self.attachment(recovered.is_some(), missed.unwrap_or(Replay::nothing(self.offset)));
        }
        if let Some((after, frames)) = comparable.and_then(|p| Some((p.offset, self.missed(encoding, p.offset)?))) {
            return self.attachment(true, Replay { after, frames, ..Replay::nothing(self.offset) });
        }
        if !self.known && !self.incomplete && since.is_none() {
            return self.attachment(false, Replay::nothing(self.offset));
        }
        let (after, frames) = (Offset::ZERO, vec![self.snapshot().frame(encoding)]);
        // If the state may lack deltas, nothing can be claimed to be recovered.
        let recovered = since.is_some() && !self.may_lack();
        self.attachment(recovered, Replay { after, frames, ..Replay::nothing(self.offset) })
    }

    fn attachment(&self, recovered: bool, missed: Replay) -> Attachment {
        let stale_since_ms = self.stale.then_some(self.active_ms);
        // Deltas since a whole state make a whole state, even if this node's own is incomplete.
        let epoch = if recovered { self.epoch.clone() } else { self.told_epoch(self.may_lack()) };
        Attachment { offset: self.offset, epoch, recovered, missed, stale_since_ms }
    }

    /// The next deltas after `after`, one or as many as have `bytes_max`; `None` if some are gone.
    pub(in crate::topic) fn replay(&mut self, encoding: Encoding, after: Offset, bytes_max: usize) -> Option<Replay> {
        let mut replay = Replay { after, upto: after, ..Replay::nothing(after) };
        let mut bytes = 0;
        for delta in self.history.since(after)? {
            // The first goes to a session that does not have the one before it.
            let frame = delta.frame(if replay.frames.is_empty() { encoding.whole() } else { encoding });
            bytes += frame.len();
            if bytes > bytes_max && !replay.frames.is_empty() {
                replay.complete = false;
                break;
            }
            replay.upto = delta.offset;
            replay.frames.push(frame);
        }
        if replay.complete {
            // Positions between the last delta and the topic's floor are the same.
            replay.upto = self.offset;
        }
        self.history.weigh(after);
        self.settle();
        Some(replay)
    }

    /// Frames of the deltas after `offset`, if they are shorter than the state.
    fn missed(&mut self, encoding: Encoding, offset: Offset) -> Option<Vec<Bytes>> {
        if self.ended_at == Some(offset) {
            return None;
        }
        // If the client's last delta was never here, it came from a lost master, and the client's state may be made of
        // it.
        if offset != self.offset && !self.history.had(offset) {
            return None;
        }
        let missed: Vec<Arc<Delta>> = self.history.since(offset)?.cloned().collect();
        let shorter = match (&self.value, missed.as_slice()) {
            (_, []) => true,
            // One value is as good as many.
            (Value::Latest(_), many) => many.len() == 1,
            (Value::Merge { .. } | Value::Prepared(_), many) => {
                let patches: usize = many.iter().map(|d| d.payload.bytes().len()).sum();
                patches <= self.value.object_bytes()
            }
            (Value::Stream, _) => false,
        };
        if !shorter {
            return None;
        }
        let encodings = std::iter::once(encoding.whole()).chain(std::iter::repeat(encoding));
        let frames = missed.iter().zip(encodings).map(|(d, encoding)| d.frame(encoding)).collect();
        self.history.weigh(offset);
        self.settle();
        Some(frames)
    }

    /// Some of the kept deltas. An answer is bounded in bytes: the client asks for the rest from there on.
    pub(in crate::topic) fn history(&self, query: &HistoryQuery) -> Result<HistoryPage, Refusal> {
        let mut publications = Vec::new();
        if query.limit > 0 {
            let since = query.since.as_ref();
            let gone = || Refusal::new(416, "the history does not reach back there, or the epoch is another");
            if since.is_some_and(|p| !p.epoch.as_str().is_empty() && !p.epoch.is_comparable(&self.epoch)) {
                return Err(gone());
            }
            let deltas: Vec<&Arc<Delta>> = match (since, query.reverse) {
                (None, _) => self.history.last(usize::MAX).collect(),
                (Some(p), false) => self.history.since(p.offset).ok_or_else(gone)?.collect(),
                (Some(p), true) => self.history.last(usize::MAX).filter(|d| d.offset < p.offset).collect(),
            };
            let ordered: &mut dyn Iterator<Item = &Arc<Delta>> =
                if query.reverse { &mut deltas.into_iter().rev() } else { &mut deltas.into_iter() };
            let mut bytes = 0;
            for delta in ordered.take(query.limit) {
                if bytes > RECOVERY_BYTES {
                    break;
                }
                bytes += delta.payload.bytes().len();
                publications.push(HistoryDelta {
                    offset: delta.offset,
                    ts: delta.ts,
                    data: delta.payload.bytes().clone(),
                    form: delta.payload.form(),
                    snapshot: delta.kind == Kind::Snapshot,
                });
            }
        }
        Ok(HistoryPage { offset: self.offset, epoch: self.epoch.clone(), publications })
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{publish, topic};
    use super::*;
    use crate::position::Epoch;

    fn since(offset: u64, epoch: &str) -> Option<Position> {
        Some(Position { offset: Offset::new(offset).unwrap(), epoch: Epoch::from_text(epoch) })
    }

    fn seen(attachment: &Attachment) -> (bool, Vec<String>) {
        let text = |b: &Bytes| {
            let text = String::from_utf8_lossy(&b[2..]).into_owned();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            format!("{}@{}", value["type"].as_str().unwrap().chars().next().unwrap(), value["offset"])
        };
        (attachment.recovered, attachment.missed.frames.iter().map(text).collect())
    }

    /// (class, what the client names, recovered, frames): five deltas were published, the last three are kept.
    #[test]
    fn recovery() {
        use Class::{Latest, Merge, Stream};
        let table: &[(Class, Option<Position>, bool, &[&str])] = &[
            (Stream, None, false, &[]),
            (Stream, since(5, "e"), true, &[]),
            (Stream, since(3, "e"), true, &["d@4", "d@5"]),
            (Stream, since(2, "e"), true, &["d@3", "d@4", "d@5"]),
            (Stream, since(1, "e"), false, &[]),
            (Stream, since(3, "other"), false, &[]),
            (Stream, since(9, "e"), false, &[]),
            (Latest, None, false, &["s@5"]),
            (Latest, since(5, "e"), true, &[]),
            (Latest, since(4, "e"), true, &["d@5"]),
            (Latest, since(3, "e"), true, &["s@5"]),
            (Latest, since(1, "e"), true, &["s@5"]),
            (Latest, since(5, "other"), true, &["s@5"]),
            (Merge, None, false, &["s@5"]),
            (Merge, since(4, "e"), true, &["d@5"]),
            (Merge, since(1, "e"), true, &["s@5"]),
            (Merge, since(9, "e"), true, &["s@5"]),
        ];
        for (class, position, recovered, frames) in table {
            let mut topic = topic(*class);
            for n in 1..=5 {
                publish(&mut topic, &format!("{{\"n{}\":{n}}}", n % 4));
            }
            let attachment = topic.attach(Encoding::Plain, position.as_ref(), 0, RECOVERY_BYTES);
            let expected = (*recovered, frames.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>());
            assert_eq!(seen(&attachment), expected, "{class:?} since {position:?}");
            assert_eq!(attachment.offset.get(), 5);
        }
    }

    /// A client that left before a topic ended must hear that it ended.
    #[test]
    fn recovery_after_the_end() {
        for class in [Class::Latest, Class::Merge] {
            let mut topic = topic(class);
            publish(&mut topic, r#"{"a":1}"#);
            topic.end_by_age();
            let attachment = topic.attach(Encoding::Plain, since(1, "e").as_ref(), 0, RECOVERY_BYTES);
            assert_eq!(seen(&attachment), (true, vec!["s@1".to_owned()]), "{class:?}");
            assert_eq!(topic.snapshot().data, "null");
        }
    }

    #[test]
    fn a_stream_gives_history_when_asked() {
        let mut topic = topic(Class::Stream);
        for n in 1..=5 {
            publish(&mut topic, &n.to_string());
        }
        assert_eq!(seen(&topic.attach(Encoding::Plain, None, 2, RECOVERY_BYTES)).1, ["d@4", "d@5"]);
        assert_eq!(seen(&topic.attach(Encoding::Plain, None, 99, RECOVERY_BYTES)).1.len(), 3);
        assert_eq!(topic.snapshot().data, r#"[{"offset":3,"data":3},{"offset":4,"data":4},{"offset":5,"data":5}]"#);
    }
}
