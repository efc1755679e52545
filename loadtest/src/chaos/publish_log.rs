//! A publisher's record: what was acknowledged, and what was sent again because no answer came.
//!
//! A delta counts once the store has acknowledged it. If the acknowledgement was lost with the connection, the outcome
//! is uncertain until the publisher has read the stream back: deltas that are there count, the others are sent again.
//! Such a delta is seen twice only if a node read it from a master that is gone. So repeats of exactly these are
//! accepted, and no others.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::check::state_digest;
use crate::client::class::Class;

/// Deltas of every stream that are sent again to a store that lost acknowledged ones.
const KEPT: Duration = Duration::from_secs(10);

/// One topic.
#[derive(Debug)]
pub(crate) struct Book {
    pub(crate) name: String,
    pub(crate) class: Class,
    /// Number of the last acknowledged delta, counted from 1.
    pub(crate) number: u64,
    pub(crate) offset: u64,
    /// `latest` and `merge`: the state that the acknowledged deltas make.
    pub(crate) state: Option<Value>,
    /// `stream`: the deltas that would be sent again.
    recent: VecDeque<(Instant, u64, String)>,
    /// Numbers that were sent more than once.
    pub(crate) again: BTreeSet<u64>,
}

/// A delta to publish.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) topic: usize,
    pub(crate) number: u64,
    pub(crate) snapshot: bool,
    pub(crate) data: String,
}

/// All topics, and counts of what happened.
#[derive(Debug, Default)]
pub(crate) struct PublishLog {
    pub(crate) books: Vec<Book>,
    /// When each pulse was due, in ns of the monotonic clock. A pulse is a delta on the first topic.
    pub(crate) pulses: Vec<u64>,
    pub(crate) acknowledged: u64,
    /// Deltas whose acknowledgement was lost, and how many of them had arrived.
    pub(crate) uncertain: u64,
    pub(crate) arrived: u64,
    pub(crate) sent_again: u64,
    /// Times that the store had lost acknowledged deltas.
    pub(crate) store_lost: u64,
    /// Number of failures to publish.
    pub(crate) failures: u64,
    pub(crate) last_failure: String,
}

impl Book {
    pub(crate) fn new(name: String, class: Class) -> Self {
        Self { name, class, number: 0, offset: 0, state: None, recent: VecDeque::new(), again: BTreeSet::new() }
    }

    /// Digest of the state that every session must have at the end.
    pub(crate) fn final_digest(&self) -> u64 {
        self.state.as_ref().map_or(0, state_digest)
    }

    fn take(&mut self, entry: &Entry, offset: u64) -> anyhow::Result<()> {
        self.offset = offset;
        // A state that is sent again was counted before.
        if entry.number <= self.number {
            return Ok(());
        }
        self.number = entry.number;
        match self.class {
            Class::Stream => {
                let now = Instant::now();
                self.recent.push_back((now, entry.number, entry.data.clone()));
                while self.recent.front().is_some_and(|(at, ..)| now - *at > KEPT) {
                    self.recent.pop_front();
                }
            }
            Class::Latest => self.state = Some(serde_json::from_str(&entry.data)?),
            Class::Merge => {
                let state = self.state.get_or_insert_with(|| Value::Object(serde_json::Map::new()));
                json_patch::merge(state, &serde_json::from_str(&entry.data)?);
            }
        }
        Ok(())
    }
}

impl PublishLog {
    /// The store has acknowledged a delta.
    pub(crate) fn acknowledge(&mut self, entry: &Entry, offset: u64) -> anyhow::Result<()> {
        self.acknowledged += 1;
        match self.books.get_mut(entry.topic) {
            Some(book) => book.take(entry, offset),
            None => Ok(()),
        }
    }

    /// A delta is sent again.
    pub(crate) fn sends_again(&mut self, entry: &Entry) {
        self.sent_again += 1;
        if let Some(book) = self.books.get_mut(entry.topic) {
            book.again.insert(entry.number);
        }
    }

    /// States and last events for a store that lost acknowledged deltas, of the topics that `of` names.
    pub(crate) fn all_again(&mut self, of: impl Fn(&str) -> bool) -> Vec<Entry> {
        self.store_lost += 1;
        let mut entries = Vec::new();
        for (topic, book) in self.books.iter().enumerate().filter(|(_, book)| of(&book.name)) {
            match (&book.state, book.class) {
                (Some(state), _) => {
                    entries.push(Entry { topic, number: book.number, snapshot: true, data: state.to_string() });
                }
                (None, Class::Stream) => entries.extend(book.recent.iter().map(|(_, number, data)| Entry {
                    topic,
                    number: *number,
                    snapshot: false,
                    data: data.clone(),
                })),
                _ => {}
            }
        }
        for entry in &entries {
            self.sends_again(entry);
        }
        entries
    }

    /// The last event on a stream, to be sent once more.
    pub(crate) fn doubled(&mut self, topic: &str) -> Option<String> {
        let book = self.books.iter_mut().find(|book| book.name == topic)?;
        let (_, number, data) = book.recent.back()?;
        book.again.insert(*number);
        Some(data.clone())
    }

    /// Whether this may have been seen more than once.
    pub(crate) fn may_repeat(&self, topic: u32, number: u64) -> bool {
        self.books.get(topic as usize).is_some_and(|book| book.again.contains(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64, data: &str) -> Entry {
        Entry { topic: 0, number, snapshot: false, data: data.into() }
    }

    #[test]
    fn a_wiped_store_gets_states_and_recent_events_again() {
        let books = [("merge:m", Class::Merge), ("latest:l", Class::Latest), ("stream:s", Class::Stream)];
        let books = books.map(|(name, class)| Book::new(name.into(), class)).into();
        let mut publish_log = PublishLog { books, ..PublishLog::default() };
        for topic in 0..3 {
            for number in 1..=2u64 {
                let entry = Entry { topic, ..entry(number, &format!("{{\"n\":{number},\"k{number}\":1}}")) };
                publish_log.acknowledge(&entry, number).unwrap();
            }
        }
        let again: Vec<_> =
            publish_log.all_again(|_| true).into_iter().map(|e| (e.topic, e.number, e.snapshot)).collect();
        assert_eq!(again, [(0, 2, true), (1, 2, true), (2, 1, false), (2, 2, false)]);
        assert!(publish_log.may_repeat(2, 1) && publish_log.may_repeat(0, 2) && !publish_log.may_repeat(0, 1));
        assert_eq!(publish_log.books[0].state, serde_json::from_str("{\"n\":2,\"k1\":1,\"k2\":1}").unwrap());
        assert_eq!(publish_log.all_again(|name| name == "latest:l").len(), 1);
    }

    #[test]
    fn what_is_known_already_changes_nothing() {
        let mut publish_log =
            PublishLog { books: vec![Book::new("merge:m".into(), Class::Merge)], ..PublishLog::default() };
        publish_log.acknowledge(&entry(1, "{\"n\":1,\"a\":1}"), 10).unwrap();
        publish_log.acknowledge(&entry(2, "{\"n\":2,\"a\":null}"), 20).unwrap();
        let again = Entry { snapshot: true, ..entry(2, "{\"n\":2}") };
        publish_log.acknowledge(&again, 30).unwrap();
        let book = &publish_log.books[0];
        assert_eq!((book.number, book.offset, book.state.as_ref().unwrap().to_string()), (2, 30, "{\"n\":2}".into()));
    }
}
