//! The expected state of each topic after each of its entries, computed independently of the code under test.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::super::id::EntryId;
use super::data::{Fields, Log};
use crate::config::Class;
use crate::topic::{Kind, hash_of, home_in, home_of};

/// An entry that changes its topic.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) topic: String,
    pub(super) kind: Kind,
    pub(super) data: Value,
    /// When it was published in the stream from which it was relayed, Unix ms.
    relayed_from_ms: Option<u64>,
}

impl Event {
    /// `None` of what nodes must refuse.
    fn of(fields: &Fields) -> Option<Self> {
        let field = |name: &str| {
            let at = fields.iter().step_by(2).position(|field| field == name.as_bytes())?;
            std::str::from_utf8(fields.get(2 * at + 1)?).ok()
        };
        let topic = field("topic").or_else(|| field("channel"))?.to_owned();
        let kind = Kind::from_name(field("kind").unwrap_or_default())?;
        let data = field("data").map_or(Some(Value::Null), |data| serde_json::from_str(data).ok())?;
        let is_taken = match class_of(&topic) {
            Class::Merge => kind == Kind::Deletion || data.is_object(),
            Class::Stream => kind != Kind::Snapshot,
            Class::Latest => true,
        };
        let from = field("nexus:from").filter(|_| !matches!(kind, Kind::Move | Kind::Deletion));
        let relayed_from_ms = from.and_then(|from| from.split('-').next()?.parse().ok());
        is_taken.then_some(Self { topic, kind, data, relayed_from_ms })
    }
}

/// The class that a simulated topic's name begins with.
pub(super) fn class_of(topic: &str) -> Class {
    match topic.as_bytes().first() {
        Some(b'm') => Class::Merge,
        Some(b'l') => Class::Latest,
        _ => Class::Stream,
    }
}

/// What a node has seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// When it was started, Unix ms.
    pub(super) began_ms: u64,
    /// How far it has read, by stream.
    pub(super) read: Vec<EntryId>,
    /// The same at the end of each past, the oldest first.
    pub(super) pasts: Vec<Vec<EntryId>>,
    /// Entries that came to it, by stream, where others may have been trimmed before it could read them; and whether no saved
    /// state stood for them.
    pub(super) delivered: Option<Vec<BTreeMap<EntryId, bool>>>,
}

impl Seen {
    /// What of a lineage was read.
    pub(super) fn of(&self, lineage: &Lineage) -> &[EntryId] {
        self.pasts.get(lineage.number).unwrap_or(&self.read)
    }

    /// Whether a node knows of an entry. Of one that is gone it can only know, by what it lacks, that there may be one where
    /// its topic belongs.
    fn has(&self, lineage: &Lineage, topic: &str, point: &Point) -> bool {
        let is_read = self.of(lineage).get(point.stream).is_some_and(|read| point.id <= *read);
        let Some(delivered) = self.delivered.as_ref().filter(|_| is_read) else { return is_read };
        lineage.is_at_home(topic, point)
            || delivered.get(point.stream).is_some_and(|all| all.get(&point.id) == Some(&true))
    }
}

/// Where an entry stands among those of all streams.
type Place = (EntryId, usize);

/// A topic after one of its entries.
#[derive(Debug, Clone)]
pub(super) struct Point {
    pub(super) id: EntryId,
    pub(super) offset: u64,
    /// From when the topic's age is counted, Unix ms.
    pub(super) at_ms: u64,
    /// Which stream the entry was in.
    pub(super) stream: usize,
    /// `None` once it has ended.
    pub(super) state: Option<Value>,
    /// It rests on patches for what an entry of another stream had made.
    pub(super) mixed: Option<(usize, EntryId)>,
    /// The state rests on all entries of its stream since this place, and no other stream may have one after it: where
    /// publishers do not know the rule.
    pub(super) base: Place,
}

impl Point {
    fn place(&self) -> Place {
        (self.id, self.stream)
    }

    /// Whether a node may call it whole: it has not read, or not yet, what the patches were for.
    fn may_be_whole(&self, began_ms: u64, read: &[EntryId]) -> bool {
        self.mixed.is_none_or(|(stream, id)| id.ms <= began_ms || read.get(stream).is_some_and(|read| *read < id))
    }
}

/// One past of the streams, or their present. What a topic is follows from the entries of one stream.
#[derive(Debug, Default)]
pub(super) struct Lineage {
    /// How many there were before.
    number: usize,
    topics: HashMap<String, Vec<Point>>,
    /// Entries of each stream that are in it.
    taken: Vec<usize>,
    /// Publishers do not know which stream is a topic's: what its entries come to is a matter of one stream then.
    has_strays: bool,
}

impl Lineage {
    fn is_at_home(&self, topic: &str, point: &Point) -> bool {
        home_of(topic, self.taken.len()).is_ok_and(|home| home == point.stream)
    }

    /// A topic's points, the first one first.
    pub(super) fn points(&self, topic: &str) -> &[Point] {
        self.topics.get(topic).map_or(&[], Vec::as_slice)
    }

    /// Whether a node that has seen so much may call a point whole: it has read nothing of other streams that has no order among
    /// the patches that the point is made of.
    fn may_be_whole(&self, topic: &str, point: &Point, seen: &Seen) -> bool {
        let read = seen.of(self);
        if !self.has_strays || class_of(topic) != Class::Merge {
            return point.may_be_whole(seen.began_ms, read);
        }
        let is_read = |other: &&Point| seen.has(self, topic, other);
        let stray = |other: &Point| other.stream != point.stream && other.place() > point.base;
        !self.points(topic).iter().filter(is_read).any(stray)
    }

    /// The place after which a topic's first patch in a stream is the first of all: what ended it before, in this stream or
    /// another.
    fn end_before(points: &[Point], id: EntryId, stream: usize, expire_ms: u64) -> Place {
        let own = points.iter().rev().find(|point| point.stream == stream).filter(|point| point.state.is_none());
        let mut until = id;
        let mut others = points.iter().rev().filter(|point| point.stream != stream);
        let other = others.find(|point| {
            let is_end = point.state.is_none() || expire_ms > 0 && until.ms.saturating_sub(point.id.ms) > expire_ms;
            until = point.id;
            is_end
        });
        own.into_iter().chain(other).map(Point::place).max().unwrap_or_default()
    }

    fn push(&mut self, event: &Event, id: EntryId, stream: usize, expire_ms: u64) {
        let Ok(offset) = id.offset() else { return };
        let has_strays = self.has_strays;
        let points = self.topics.entry(event.topic.clone()).or_default();
        let own_ms = event.relayed_from_ms.unwrap_or(id.ms);
        let is_over = |point: &&Point| expire_ms > 0 && own_ms.saturating_sub(point.at_ms) > expire_ms;
        // A deletion in any of them ends it in all.
        let ended = points.iter().rposition(|point| point.state.is_none()).map_or(0, |at| at + 1);
        let last = |is_here: bool| {
            // A node that has not read it goes on.
            let from = if has_strays { 0 } else { ended };
            let last = points[from..].iter().rev().find(|point| (point.stream == stream) == is_here);
            last.filter(|point| point.state.is_some() && !is_over(point))
        };
        let (before, elsewhere) = (last(true), last(false));
        let class = class_of(&event.topic);
        // Of a topic that is not there nothing ends.
        if event.kind == Kind::Deletion && before.is_none() && elsewhere.is_none() {
            return;
        }
        let is_patch = class == Class::Merge && event.kind == Kind::Delta;
        let base = match before {
            _ if !is_patch => (id, stream),
            Some(point) => point.base,
            None => Self::end_before(points, id, stream, expire_ms),
        };
        let mixed = match before {
            _ if !is_patch || has_strays => None,
            Some(point) => point.mixed,
            None => elsewhere.map(|point| (point.stream, point.id)),
        };
        let state = match event.kind {
            Kind::Deletion => None,
            // What it was where it comes from, whatever the command says.
            Kind::Move => {
                let was = points[ended..].last();
                was.and_then(|was| if class == Class::Stream { Some(Value::Null) } else { was.state.clone() })
            }
            _ if is_patch => {
                let none = || Value::Object(serde_json::Map::new());
                let mut state = before.and_then(|point| point.state.clone()).unwrap_or_else(none);
                patch(&mut state, &event.data);
                Some(state)
            }
            _ => Some(event.data.clone()),
        };
        // Nothing becomes younger by being moved, nor older by what comes late.
        let at_ms = match event.kind {
            Kind::Move => points.last().map_or(id.ms, |point| point.at_ms),
            _ => before.map_or(own_ms, |point| own_ms.max(point.at_ms)),
        };
        points.push(Point { id, at_ms, offset: offset.get(), stream, state, mixed, base });
    }
}

/// RFC 7396.
pub(super) fn patch(state: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *state = change.clone();
        return;
    };
    if !state.is_object() {
        *state = Value::Object(serde_json::Map::new());
    }
    let Value::Object(members) = state else { return };
    for (name, value) in change {
        match value {
            Value::Null => drop(members.remove(name)),
            value => patch(members.entry(name.clone()).or_insert(Value::Null), value),
        }
    }
}

/// Topics that have left a stream up to one of its entries: what comes of them after that counts where they go, or not at all.
#[derive(Debug, Default)]
struct Left {
    run: String,
    streams: Vec<String>,
    slices: u64,
    /// Slices that were cut.
    cut: u64,
}

impl Left {
    fn take_in(&mut self, fields: &Fields) {
        let [name, value, ..] = fields.as_slice() else { return };
        if name != b"nexus:away" {
            return;
        }
        let mark: Value = serde_json::from_slice(value).expect("a mark");
        let run = mark["run"].as_str().expect("a run").to_owned();
        if run != self.run {
            *self = Self { run, ..Self::default() };
        }
        self.streams = mark["streams"]
            .as_array()
            .expect("streams")
            .iter()
            .map(|name| shown(name.as_str().unwrap().as_bytes()))
            .collect();
        self.slices = mark["slices"].as_u64().expect("a number");
        self.cut = mark["slice"].as_u64().map_or(self.slices, |slice| slice + 1);
    }

    fn has(&self, stream: &str, topic: &str) -> bool {
        let is_cut = || (hash_of(topic) >> 24) % self.slices < self.cut;
        !self.streams.is_empty() && home_in(topic, &self.streams) != stream && is_cut()
    }
}

/// All that was true, and is.
pub(super) struct Oracle {
    streams: Vec<String>,
    /// Time after which a topic has ended, in ms, by class; 0 is never.
    expire_ms: u64,
    has_strays: bool,
    read: HashMap<usize, (Fields, Option<Arc<Event>>)>,
    /// The newest is the present.
    lineages: Vec<Lineage>,
    /// Bodies by epoch, topic and offset.
    bodies: BTreeMap<(String, String, u64), bytes::Bytes>,
}

impl Oracle {
    pub(super) fn new(streams: &[String], expire_ms: u64, has_strays: bool) -> Self {
        let (lineages, streams) = (vec![Lineage { has_strays, ..Lineage::default() }], streams.to_vec());
        Self { streams, expire_ms, has_strays, read: HashMap::new(), lineages, bodies: BTreeMap::new() }
    }

    /// The streams are others from now on.
    pub(super) fn begin_anew(&mut self) {
        let number = self.lineages.len();
        self.lineages.push(Lineage { number, has_strays: self.has_strays, ..Lineage::default() });
    }

    /// Takes in what was added.
    pub(super) fn look(&mut self, logs: &[&Log]) {
        let mut lineage = self.lineages.pop().unwrap_or_default();
        lineage.taken.resize(self.streams.len(), 0);
        let mut new: Vec<(EntryId, usize, Arc<Event>)> = Vec::new();
        let is_several = logs.len() > 1;
        if is_several && logs.iter().zip(&lineage.taken).any(|(log, taken)| log.len() > *taken) {
            // The order of all of them may be another than that in which they came.
            let (number, taken) = (lineage.number, vec![0; logs.len()]);
            lineage = Lineage { number, taken, has_strays: self.has_strays, ..Lineage::default() };
        }
        for (stream, log) in logs.iter().enumerate() {
            let mut left = Left::default();
            for (id, fields) in &log[lineage.taken[stream]..] {
                left.take_in(fields);
                let key = Arc::as_ptr(fields) as usize;
                let read = self.read.entry(key).or_insert_with(|| (fields.clone(), Event::of(fields).map(Arc::new)));
                let event = read.1.clone().filter(|event| !left.has(&self.streams[stream], &event.topic));
                new.extend(event.map(|event| (*id, stream, event)));
            }
            lineage.taken[stream] = log.len();
        }
        new.sort_by_key(|(id, stream, _)| (*id, *stream));
        for (id, stream, event) in new {
            lineage.push(&event, id, stream, self.expire_ms);
        }
        self.lineages.push(lineage);
    }

    pub(super) fn present(&self) -> &Lineage {
        self.lineages.last().expect("there is always one")
    }

    /// The newest first.
    pub(super) fn lineages(&self) -> impl Iterator<Item = &Lineage> {
        self.lineages.iter().rev()
    }

    /// Whether a whole state may be this, at this offset. `Err` says what else was read of the topic, by a node that has loaded.
    pub(super) fn knows(
        &self,
        topic: &str,
        (offset, state): (u64, &Value),
        seen: &Seen,
        loaded_at_ms: Option<u64>,
    ) -> Result<(), Option<u64>> {
        let mut lacks = None;
        for lineage in self.lineages() {
            let is_it = |point: &&Point| {
                let is_here = point.offset == offset && point.state.as_ref() == Some(state);
                is_here && lineage.may_be_whole(topic, point, seen)
            };
            let Some(held) = lineage.points(topic).iter().rev().find(is_it) else { continue };
            match loaded_at_ms.and_then(|now_ms| self.later(lineage, topic, held, seen, now_ms)) {
                Some(later) => lacks = Some(later),
                None => return Ok(()),
            }
        }
        Err(lacks)
    }

    /// The offset of the newest entry after `held` that was read of a topic. What has ended may be told as it was for a moment,
    /// by a node that read it again.
    pub(super) fn later(&self, lineage: &Lineage, topic: &str, held: &Point, seen: &Seen, now_ms: u64) -> Option<u64> {
        let is_later = |point: &&Point| point.id > held.id && seen.has(lineage, topic, point);
        let later = lineage.points(topic).iter().rfind(is_later)?;
        (!self.is_over(later, now_ms)).then_some(later.offset)
    }

    fn is_over(&self, point: &Point, now_ms: u64) -> bool {
        self.expire_ms > 0 && now_ms.saturating_sub(point.at_ms) > self.expire_ms
    }

    /// Whether a topic may be none for who has read so far at a time that was `latest_ms` by Redis' clock.
    pub(super) fn may_be_none(&self, topic: &str, seen: &Seen, latest_ms: u64) -> bool {
        self.lineages().any(|lineage| {
            let points = lineage.points(topic);
            let is_read = |point: &Point| {
                let is_read = seen.read.get(point.stream).is_some_and(|read| point.id <= *read);
                // An entry in the wrong stream that was trimmed cannot be read again.
                is_read && (seen.delivered.is_none() || lineage.is_at_home(topic, point))
            };
            let Some(last) = points.iter().rposition(is_read) else { return true };
            points[last..].iter().any(|point| point.state.is_none() || self.is_over(point, latest_ms))
        })
    }

    /// The newest that a node can know of.
    pub(super) fn newest(&self, topic: &str, seen: &Seen) -> Option<Point> {
        let present = self.present();
        let is_known = |point: &&Point| match &seen.delivered {
            None => true,
            Some(delivered) => {
                let is_taken = || delivered.get(point.stream).is_some_and(|all| all.contains_key(&point.id));
                seen.has(present, topic, point) || is_taken()
            }
        };
        present.points(topic).iter().rfind(is_known).cloned()
    }

    /// Of one tag there is one body.
    pub(super) fn note_body(
        &mut self,
        epoch: &str,
        topic: &str,
        offset: u64,
        body: &bytes::Bytes,
    ) -> Result<(), String> {
        let known = self.bodies.entry((epoch.to_owned(), topic.to_owned(), offset)).or_insert_with(|| body.clone());
        if known != body {
            return Err(format!("{topic} at {offset} in {epoch} is {} and {}", shown(known), shown(body)));
        }
        Ok(())
    }
}

pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
