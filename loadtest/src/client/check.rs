//! Checks of every session: offsets rise, nothing is missing, and the final state is exactly the source's.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};

use imbl::OrdMap;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::client::class::Class;
use crate::client::decode::Delivery;

/// A JSON object whose versions share their common parts.
#[derive(Debug, Clone, PartialEq)]
enum Document {
    Leaf(Rc<Value>),
    Object(OrdMap<Rc<str>, Document>),
}

impl Document {
    fn of(value: Value) -> Self {
        match value {
            Value::Object(members) => {
                Self::Object(members.into_iter().map(|(k, v)| (Rc::from(k), Self::of(v))).collect())
            }
            leaf => Self::Leaf(Rc::new(leaf)),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Leaf(value) => (**value).clone(),
            Self::Object(members) => Value::Object(members.iter().map(|(k, v)| (k.to_string(), v.value())).collect()),
        }
    }

    /// RFC 7396 §2.
    fn patched(&self, patch: Value) -> Self {
        let Value::Object(patch) = patch else { return Self::of(patch) };
        let mut members = match self {
            Self::Object(members) => members.clone(),
            Self::Leaf(_) => OrdMap::new(),
        };
        for (key, value) in patch {
            if value.is_null() {
                members.remove(key.as_str());
            } else {
                let old = members.get(key.as_str()).cloned().unwrap_or(Self::Object(OrdMap::new()));
                members.insert(Rc::from(key), old.patched(value));
            }
        }
        Self::Object(members)
    }
}

/// One state of a topic. All sessions that had it and got the same frame share the next state too, so that each patch
/// is applied once for a thousand sessions.
#[derive(Debug)]
pub(crate) struct State {
    document: Document,
    next: RefCell<HashMap<u64, Weak<State>>>,
}

impl State {
    fn new(document: Document) -> Rc<Self> {
        Rc::new(Self { document, next: RefCell::default() })
    }

    fn after(self: &Rc<Self>, delivery: &Delivery) -> anyhow::Result<Rc<Self>> {
        if let Some(known) = self.next.borrow().get(&delivery.data_hash).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let made = Self::new(self.document.patched(serde_json::from_str(&delivery.data)?));
        let mut next = self.next.borrow_mut();
        next.retain(|_, state| state.strong_count() > 0);
        next.insert(delivery.data_hash, Rc::downgrade(&made));
        Ok(made)
    }
}

/// The states that sessions have.
#[derive(Debug, Default)]
pub(crate) struct States {
    /// Snapshots by their content, so that sessions with equal snapshots share all later states.
    snapshots: HashMap<(u32, u64), Weak<State>>,
    /// By topic, epoch and offset: all sessions at an offset must have the same state, however they got there.
    by_offset: HashMap<(u32, u64), Weak<State>>,
}

impl States {
    fn snapshot(&mut self, delivery: &Delivery) -> anyhow::Result<Rc<State>> {
        let key = (delivery.topic, delivery.data_hash);
        if let Some(known) = self.snapshots.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        forget_unused(&mut self.snapshots);
        let made = State::new(Document::of(serde_json::from_str(&delivery.data)?));
        self.snapshots.insert(key, Rc::downgrade(&made));
        Ok(made)
    }

    /// Checks that `reached` is the state of the topic that other sessions have at this offset.
    fn the_one(&mut self, topic: u32, offset: u64, reached: Rc<State>) -> Result<Rc<State>, String> {
        match self.by_offset.get(&(topic, offset)).and_then(Weak::upgrade) {
            Some(known) if Rc::ptr_eq(&known, &reached) || known.document == reached.document => Ok(known),
            Some(_) => Err(format!("offset {offset}: another session has a different state there")),
            None => {
                forget_unused(&mut self.by_offset);
                self.by_offset.insert((topic, offset), Rc::downgrade(&reached));
                Ok(reached)
            }
        }
    }
}

fn forget_unused(states: &mut HashMap<(u32, u64), Weak<State>>) {
    if states.len() == states.capacity() {
        states.retain(|_, state| state.strong_count() > 0);
    }
}

/// One session's view of one topic.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    pub(crate) topic: u32,
    pub(crate) offset: u64,
    pub(crate) epoch: String,
    /// `stream`: digest of all payloads in order.
    digest: u64,
    state: Option<Rc<State>>,
    /// Numbered deltas: the highest number received.
    pub(crate) number: Option<u64>,
    /// `stream`: deliveries that wait for the requested list of kept deltas.
    waiting: Option<Vec<Rc<Delivery>>>,
}

/// Numbers that a session got more than once, or after a higher one, by topic. Whether they are allowed depends on what
/// the publisher sent again.
pub(crate) type Repeats = BTreeMap<(u32, u64), u64>;

/// Digest of a stream's payloads so far and the next one.
pub(crate) fn digest(before: u64, payload_hash: u64) -> u64 {
    xxh3_64_with_seed(&payload_hash.to_le_bytes(), before)
}

/// Digest of a state, the same for equal JSON values.
pub(crate) fn state_digest(value: &Value) -> u64 {
    xxh3_64_with_seed(value.to_string().as_bytes(), 7)
}

impl Track {
    pub(crate) fn new(topic: u32) -> Self {
        Self { topic, offset: 0, epoch: String::new(), digest: 0, state: None, number: None, waiting: None }
    }

    /// A reply gives the topic's position. Deltas up to it were missed, or come with a snapshot.
    pub(crate) fn rebase(&mut self, offset: u64, epoch: &str, class: Class) {
        self.offset = offset;
        if self.epoch != epoch {
            epoch.clone_into(&mut self.epoch);
            if class != Class::Stream {
                self.number = None;
            }
        }
    }

    /// The list of kept deltas was requested: deliveries wait for it.
    pub(crate) fn ask_again(&mut self) {
        self.waiting = Some(Vec::new());
    }

    /// Whether that list has not come yet.
    pub(crate) fn waits(&self) -> bool {
        self.waiting.is_some()
    }

    /// Takes a delivery, by the topic's class.
    pub(crate) fn take(
        &mut self,
        delivery: &Rc<Delivery>,
        class: Class,
        states: &mut States,
        repeats: Option<&mut Repeats>,
    ) -> Result<(), String> {
        if delivery.snapshot {
            return self.take_snapshot(delivery, class, states, repeats);
        }
        if let Some(waiting) = &mut self.waiting {
            waiting.push(delivery.clone());
            return Ok(());
        }
        if delivery.offset <= self.offset {
            return Err(format!("offset {} after {}: repeated", delivery.offset, self.offset));
        }
        if delivery.prev > self.offset {
            return Err(format!(
                "offset {} follows {}, but {} was the last: a gap",
                delivery.offset, delivery.prev, self.offset
            ));
        }
        if class == Class::Stream && delivery.count != 1 {
            return Err(format!("{} deltas of a stream in one", delivery.count));
        }
        self.offset = delivery.offset;
        if let (Some(repeats), Some(number)) = (repeats, delivery.number) {
            self.count(number, class, repeats)?;
        }
        let state = match class {
            Class::Stream => {
                self.digest = digest(self.digest, delivery.data_hash);
                return Ok(());
            }
            // The value is the state.
            Class::Latest => states.snapshot(delivery),
            Class::Merge => {
                let state = self.state.take().unwrap_or_else(|| State::new(Document::Object(OrdMap::new())));
                state.after(delivery)
            }
        };
        self.state = Some(states.the_one(self.topic, self.offset, state.map_err(|e| e.to_string())?)?);
        Ok(())
    }

    fn take_snapshot(
        &mut self,
        delivery: &Rc<Delivery>,
        class: Class,
        states: &mut States,
        mut repeats: Option<&mut Repeats>,
    ) -> Result<(), String> {
        let same_epoch = delivery.epoch.as_ref().is_none_or(|epoch| *epoch == self.epoch);
        if same_epoch && delivery.offset < self.offset && self.waiting.is_none() {
            return Err(format!("a snapshot at {} after offset {}: backwards", delivery.offset, self.offset));
        }
        self.offset = delivery.offset;
        if let Some(epoch) = &delivery.epoch {
            self.epoch.clone_from(epoch);
        }
        if class == Class::Stream {
            let waiting = self.waiting.take();
            let Some(repeats) = repeats.as_mut() else { return Ok(()) };
            for (_, number) in delivery.kept().map_err(|e| e.to_string())? {
                // A client that requests the kept deltas has some of them already.
                if let Some(number) = number.filter(|n| self.number.is_none_or(|have| *n > have)) {
                    self.count(number, class, repeats)?;
                }
            }
            for later in waiting.into_iter().flatten().filter(|d| d.offset > delivery.offset) {
                self.take(&later, class, states, Some(&mut **repeats))?;
            }
            return Ok(());
        }
        match (repeats, delivery.number) {
            (Some(repeats), Some(number)) if same_epoch => self.count(number, class, repeats)?,
            // The state of a new epoch may be older.
            (Some(_), number) if !same_epoch => self.number = number,
            _ => {}
        }
        let state = states.snapshot(delivery).map_err(|e| e.to_string())?;
        self.state = Some(states.the_one(self.topic, self.offset, state)?);
        Ok(())
    }

    /// Takes a number: those of a `stream` must come without gaps, in order.
    fn count(&mut self, number: u64, class: Class, repeats: &mut Repeats) -> Result<(), String> {
        let before = self.number.unwrap_or(number.saturating_sub(1));
        self.number = Some(before.max(number));
        match class {
            Class::Stream if number > before + 1 => Err(format!("number {number} after {before}: lost in between")),
            Class::Stream if number <= before => {
                *repeats.entry((self.topic, number)).or_default() += 1;
                Ok(())
            }
            // A value may be repeated in another form, or as part of a newer one; it may not go back.
            Class::Latest | Class::Merge if number < before => {
                *repeats.entry((self.topic, number)).or_default() += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The final digest of this session.
    pub(crate) fn final_digest(&self, class: Class, digests: &mut HashMap<*const State, u64>) -> u64 {
        if class == Class::Stream {
            return self.digest;
        }
        match &self.state {
            None => 0,
            Some(state) => *digests.entry(Rc::as_ptr(state)).or_insert_with(|| state_digest(&state.document.value())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(offset: u64, prev: u64, number: u64) -> Rc<Delivery> {
        Rc::new(Delivery {
            topic: 0,
            snapshot: false,
            offset,
            prev,
            count: 1,
            epoch: None,
            intended_ns: None,
            number: Some(number),
            data_hash: number,
            data: format!("{{\"n\":{number}}}"),
        })
    }

    /// A snapshot of a stream that lists these offsets and numbers, or of a value with this one.
    fn snapshot(epoch: &str, offset: u64, data: &str) -> Rc<Delivery> {
        let number = data.strip_prefix("{\"n\":").and_then(|rest| rest.strip_suffix('}')?.parse().ok());
        let made = Delivery {
            snapshot: true,
            epoch: Some(epoch.to_owned()),
            number,
            data: data.to_owned(),
            data_hash: xxh3_64_with_seed(data.as_bytes(), offset),
            ..Delivery::clone(&delivery(offset, 0, 0))
        };
        Rc::new(made)
    }

    /// The repeated numbers, or the first error.
    fn take(class: Class, deliveries: &[Rc<Delivery>]) -> Result<Vec<u64>, String> {
        let (mut track, mut states, mut repeats) = (Track::new(0), States::default(), Repeats::new());
        track.rebase(10, "e", class);
        for delivery in deliveries {
            track.take(delivery, class, &mut states, Some(&mut repeats))?;
        }
        Ok(repeats.into_keys().map(|(_, number)| number).collect())
    }

    #[test]
    fn gaps_repeats_and_older_states_are_found() {
        use Class::{Latest, Merge, Stream};
        let kept = |numbers: &[u64]| {
            let kept: Vec<String> =
                numbers.iter().map(|n| format!("{{\"offset\":{},\"data\":{{\"n\":{n},\"x\":0}}}}", 100 + n)).collect();
            snapshot("f", 100 + numbers.last().unwrap_or(&0), &format!("[{}]", kept.join(",")))
        };
        type Row = (Class, Vec<Rc<Delivery>>, Result<Vec<u64>, &'static str>);
        let table: Vec<Row> = vec![
            (Stream, vec![delivery(11, 10, 1), delivery(12, 11, 2), delivery(20, 12, 3)], Ok(vec![])),
            (Stream, vec![delivery(11, 10, 1), delivery(12, 11, 3)], Err("lost in between")),
            (Stream, vec![delivery(11, 10, 1), delivery(13, 12, 2)], Err("a gap")),
            (Stream, vec![delivery(11, 10, 1), delivery(11, 10, 1)], Err("repeated")),
            (Stream, vec![delivery(11, 10, 1), delivery(12, 11, 1), delivery(13, 12, 2)], Ok(vec![1])),
            (Stream, vec![delivery(11, 10, 4), kept(&[4, 5, 6]), delivery(107, 106, 7)], Ok(vec![])),
            (Stream, vec![delivery(11, 10, 4), kept(&[6])], Err("lost in between")),
            (Stream, vec![delivery(11, 10, 4), kept(&[]), delivery(107, 100, 4), delivery(108, 107, 5)], Ok(vec![4])),
            (Latest, vec![delivery(11, 10, 1), delivery(12, 11, 7)], Ok(vec![])),
            (Latest, vec![delivery(11, 10, 7), delivery(12, 11, 6)], Ok(vec![6])),
            (Merge, vec![delivery(11, 10, 7), snapshot("e", 5, "{\"n\":7}")], Err("backwards")),
            (Merge, vec![delivery(11, 10, 7), snapshot("f", 5, "{\"n\":6}"), delivery(6, 5, 7)], Ok(vec![])),
        ];
        for (at, (class, deliveries, want)) in table.into_iter().enumerate() {
            match (take(class, &deliveries), want) {
                (Ok(repeats), Ok(want)) => assert_eq!(repeats, want, "row {at}"),
                (Err(fault), Err(want)) => assert!(fault.contains(want), "row {at}: {fault}"),
                (got, want) => panic!("row {at}: {got:?} instead of {want:?}"),
            }
        }
    }

    #[test]
    fn missed_deltas_come_with_the_requested_list() {
        let (mut track, mut states, mut repeats) = (Track::new(0), States::default(), Repeats::new());
        track.rebase(10, "e", Class::Stream);
        let mut take =
            |track: &mut Track, d: &Rc<Delivery>| track.take(d, Class::Stream, &mut states, Some(&mut repeats));
        take(&mut track, &delivery(11, 10, 1)).unwrap();
        // It reconnects and is not recovered: it is at 14, and 2 to 4 are missing.
        track.rebase(14, "e", Class::Stream);
        track.ask_again();
        take(&mut track, &delivery(15, 14, 5)).unwrap();
        assert_eq!((track.number, track.waits()), (Some(1), true));
        let kept = "[{\"offset\":12,\"data\":{\"n\":2,\"x\":0}},{\"offset\":13,\"data\":{\"n\":3,\"x\":0}},\
                     {\"offset\":14,\"data\":{\"n\":4,\"x\":0}}]";
        take(&mut track, &snapshot("e", 14, kept)).unwrap();
        assert_eq!((track.number, track.offset, track.waits()), (Some(5), 15, false));
        assert!(repeats.is_empty());
    }
}
