//! What is kept of each instrument, and the deltas that are made of what changes.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::topic::Kind;

/// One delta made of a recorded line.
#[derive(Debug, Clone, PartialEq)]
pub struct NormalDelta {
    /// Topic.
    pub topic: String,
    /// The first of a `merge` topic, and what the exchange sent as a snapshot, replace the state.
    pub kind: Kind,
    /// The exchange's time, Unix ms.
    pub ts: Option<u64>,
    /// JSON.
    pub data: Value,
}

/// What became of the lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Lines read.
    pub lines: u64,
    /// Deltas made.
    pub deltas: u64,
    /// Lines that are not what the format says.
    pub malformed: u64,
    /// Lines of a kind that makes no topic.
    pub unknown: u64,
    /// Book updates that a snapshot had overtaken.
    pub outdated: u64,
    /// Book updates that do not join up with the one before: something was lost in the recording.
    pub gaps: u64,
    /// Lines that changed nothing.
    pub unchanged: u64,
    /// The first malformed line's fault.
    pub first_fault: Option<String>,
}

/// Turns lines into deltas; keeps what it must of each instrument.
#[derive(Debug, Default)]
pub struct Normalizer {
    /// What the lines came to.
    pub counts: Counts,
    pub(super) quotes: HashMap<String, Map<String, Value>>,
    pub(super) books: HashMap<String, BookState>,
}

#[derive(Debug, Default)]
pub(super) struct BookState {
    pub(super) begun: bool,
    pub(super) last_update: Option<u64>,
}

/// Why a line made no delta.
#[derive(Debug)]
pub(super) enum Fault {
    Malformed(String),
    Unknown,
}

pub(super) fn malformed(what: &str) -> Fault {
    Fault::Malformed(what.to_owned())
}

impl Normalizer {
    /// Adds a delta of what has changed in a quote.
    pub(super) fn quote(
        &mut self,
        venue: &str,
        symbol: &str,
        ts: Option<u64>,
        fields: Vec<(&'static str, String)>,
        out: &mut Vec<NormalDelta>,
    ) {
        let instrument = format!("{venue}.{symbol}");
        let begun = self.quotes.contains_key(&instrument);
        let known = self.quotes.entry(instrument.clone()).or_default();
        let mut patch = Map::new();
        for (name, text) in fields {
            let value = Value::String(text);
            if known.get(name) != Some(&value) {
                known.insert(name.to_owned(), value.clone());
                patch.insert(name.to_owned(), value);
            }
        }
        if patch.is_empty() {
            self.counts.unchanged += 1;
            return;
        }
        let kind = if begun { Kind::Delta } else { Kind::Snapshot };
        out.push(NormalDelta { topic: format!("quotes:{instrument}"), kind, ts, data: Value::Object(patch) });
    }

    /// Adds a delta of price levels.
    pub(super) fn book(
        &mut self,
        venue: &str,
        symbol: &str,
        ts: Option<u64>,
        whole: bool,
        update: Levels,
        out: &mut Vec<NormalDelta>,
    ) {
        let instrument = format!("{venue}.{symbol}");
        let state = self.books.entry(instrument.clone()).or_default();
        let kind = if whole || !state.begun { Kind::Snapshot } else { Kind::Delta };
        state.begun = true;
        let side = |levels: Vec<(String, String)>| -> Map<String, Value> {
            let levels = levels.into_iter().filter_map(|(price, size)| match (is_zero(&size), kind) {
                (true, Kind::Delta) => Some((price, Value::Null)),
                (true, _) => None,
                (false, _) => Some((price, Value::String(size))),
            });
            levels.collect()
        };
        let (bids, asks) = (side(update.bids), side(update.asks));
        let mut data = Map::new();
        if kind == Kind::Snapshot || !bids.is_empty() {
            data.insert("b".into(), Value::Object(bids));
        }
        if kind == Kind::Snapshot || !asks.is_empty() {
            data.insert("a".into(), Value::Object(asks));
        }
        if data.is_empty() {
            self.counts.unchanged += 1;
            return;
        }
        out.push(NormalDelta { topic: format!("book:{instrument}"), kind, ts, data: Value::Object(data) });
    }
}

/// Price levels: price and size.
#[derive(Debug, Default)]
pub(super) struct Levels {
    pub(super) bids: Vec<(String, String)>,
    pub(super) asks: Vec<(String, String)>,
}

/// Whether a size says that the level is gone: `0`, `0.000`, …
fn is_zero(size: &str) -> bool {
    size.bytes().all(|b| matches!(b, b'0' | b'.'))
}

/// A decimal number as the exchanges write them.
pub(super) fn is_number(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 40
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && text.bytes().any(|b| b.is_ascii_digit())
}
