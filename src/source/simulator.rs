//! The embedded default: a seeded simulation of some hundreds of instruments, so that one command shows something
//! that moves. Nothing here is a market; every payload says `"sim":true`.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{Feed, Source, SourceStatus};
use crate::clock::unix_ms;
use crate::config;
use crate::limits::DELTA_BYTES_MAX;
use crate::topic::{Incoming, Kind, Payload, SourceId};

/// Time between two bursts of deltas.
const STEP: Duration = Duration::from_millis(10);

/// Instruments that have an order book.
const BOOKS: usize = 20;

/// Price levels on each side of a book.
const LEVELS: i64 = 20;

/// Names and rough prices of the first instruments; the others are numbered.
const NAMED: &[(&str, f64)] = &[
    ("BTCUSDT", 61_800.0),
    ("ETHUSDT", 2_680.0),
    ("SOLUSDT", 152.0),
    ("BNBUSDT", 518.0),
    ("XRPUSDT", 0.59),
    ("ADAUSDT", 0.34),
    ("DOGEUSDT", 0.105),
    ("AVAXUSDT", 21.6),
    ("DOTUSDT", 4.6),
    ("LINKUSDT", 10.4),
    ("ES", 5_512.25),
    ("NQ", 19_050.5),
    ("CL", 76.2),
    ("GC", 2_428.0),
    ("ZB", 121.5),
    ("EURUSD", 1.092),
    ("GBPUSD", 1.276),
    ("USDJPY", 146.7),
    ("AAPL", 213.3),
    ("MSFT", 402.7),
    ("NVDA", 104.9),
    ("TSLA", 198.8),
];

struct Instrument {
    name: String,
    /// Price in ticks.
    ticks: i64,
    tick: f64,
    decimals: usize,
    bids: BTreeMap<i64, f64>,
    asks: BTreeMap<i64, f64>,
}

/// What the simulation says next.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedDelta {
    /// Topic.
    pub topic: String,
    /// A topic's first is its whole state.
    pub kind: Kind,
    /// JSON.
    pub data: Value,
}

/// The simulation itself: no time, no I/O; the same seed says the same.
pub struct Simulation {
    rng: StdRng,
    instruments: Vec<Instrument>,
    trade_id: u64,
}

impl Simulation {
    /// `instruments` of them (at least one).
    pub fn new(instruments: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let instruments = (0..instruments.max(1))
            .map(|i| {
                let (name, price) = match NAMED.get(i) {
                    Some((name, price)) => ((*name).to_owned(), *price),
                    None => (format!("SIM{i:03}"), 10f64.powf(rng.random_range(0.0..3.0))),
                };
                let decimals = if price >= 1_000.0 {
                    2
                } else if price >= 10.0 {
                    3
                } else {
                    5
                };
                let tick = 10f64.powi(-i32::try_from(decimals).unwrap_or(2));
                #[allow(clippy::cast_possible_truncation, reason = "prices are far below 2^63 ticks")]
                let ticks = (price / tick).round() as i64;
                Instrument { name, ticks, tick, decimals, bids: BTreeMap::new(), asks: BTreeMap::new() }
            })
            .collect();
        Self { rng, instruments, trade_id: 0 }
    }

    /// Whole states of all instruments, to begin with.
    pub fn opening(&mut self) -> Vec<SimulatedDelta> {
        let mut out = Vec::new();
        for i in 0..self.instruments.len() {
            let rng = &mut self.rng;
            let Some(instrument) = self.instruments.get_mut(i) else { continue };
            let price = instrument.price(instrument.ticks);
            out.push(SimulatedDelta {
                topic: format!("quotes:{}", instrument.name),
                kind: Kind::Snapshot,
                data: json!({
                    "sim": true, "symbol": instrument.name, "bid": price, "ask": instrument.price(instrument.ticks + 1),
                    "bid_size": size(rng), "ask_size": size(rng), "last": price, "open": price,
                }),
            });
            if i < BOOKS {
                for level in 0..LEVELS {
                    instrument.bids.insert(instrument.ticks - level, rng.random_range(0.01..9.0));
                    instrument.asks.insert(instrument.ticks + 1 + level, rng.random_range(0.01..9.0));
                }
                let side = |levels: &BTreeMap<i64, f64>| -> Map<String, Value> {
                    levels.iter().map(|(t, s)| (instrument.price(*t), json!(format!("{s:.3}")))).collect()
                };
                out.push(SimulatedDelta {
                    topic: format!("book:{}", instrument.name),
                    kind: Kind::Snapshot,
                    data: json!({"sim": true, "b": side(&instrument.bids), "a": side(&instrument.asks)}),
                });
            }
        }
        out
    }

    /// One more delta.
    pub fn step(&mut self) -> SimulatedDelta {
        // Few instruments move much, most a little.
        let u: f64 = self.rng.random();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 ≤ u < 1")]
        let i = (u * u * self.instruments.len() as f64) as usize;
        match self.rng.random_range(0..1_000) {
            0..2 => self.signal(i),
            2..250 => self.trade(i),
            250..450 => self.book(i % BOOKS.min(self.instruments.len())),
            _ => self.quote(i),
        }
    }

    fn quote(&mut self, i: usize) -> SimulatedDelta {
        // Those with a book move so little that the book keeps up.
        let reach = if i < BOOKS { 1 } else { 3 };
        let move_by = self.rng.random_range(-reach..=reach);
        let (bid_size, ask_size) = (size(&mut self.rng), size(&mut self.rng));
        let instrument = self.at(i);
        instrument.ticks = (instrument.ticks + move_by).max(10);
        SimulatedDelta {
            topic: format!("quotes:{}", instrument.name),
            kind: Kind::Delta,
            data: json!({
                "sim": true, "bid": instrument.price(instrument.ticks), "ask": instrument.price(instrument.ticks + 1),
                "bid_size": bid_size, "ask_size": ask_size,
            }),
        }
    }

    fn trade(&mut self, i: usize) -> SimulatedDelta {
        self.trade_id += 1;
        let (id, buy, quantity) = (self.trade_id, self.rng.random_bool(0.5), size(&mut self.rng));
        let instrument = self.at(i);
        let price = instrument.price(instrument.ticks + i64::from(buy));
        // A trade shows on its own topic, and as the quote's last price.
        if id.is_multiple_of(2) {
            return SimulatedDelta {
                topic: format!("quotes:{}", instrument.name),
                kind: Kind::Delta,
                data: json!({"sim": true, "last": price}),
            };
        }
        SimulatedDelta {
            topic: format!("trades:{}", instrument.name),
            kind: Kind::Delta,
            data: json!({"sim": true, "id": id, "p": price, "q": quantity, "side": if buy { "buy" } else { "sell" }}),
        }
    }

    fn book(&mut self, i: usize) -> SimulatedDelta {
        let rng = &mut self.rng;
        let Some(instrument) = self.instruments.get_mut(i) else {
            return SimulatedDelta { topic: "book:none".into(), kind: Kind::Delta, data: json!({"sim": true}) };
        };
        let mut sides = [Map::new(), Map::new()];
        for _ in 0..rng.random_range(2..8) {
            let away = rng.random_range(0..LEVELS);
            let [bids, asks] = &mut sides;
            let (ticks, side, levels) = if rng.random_bool(0.5) {
                (instrument.ticks - away, bids, &mut instrument.bids)
            } else {
                (instrument.ticks + 1 + away, asks, &mut instrument.asks)
            };
            let price = format!("{:.*}", instrument.decimals, ticks as f64 * instrument.tick);
            let quantity = rng.random_range(0.0..9.0);
            if quantity < 1.5 {
                levels.remove(&ticks);
                side.insert(price, Value::Null);
            } else {
                levels.insert(ticks, quantity);
                side.insert(price, json!(format!("{quantity:.3}")));
            }
        }
        // Levels that the price has left behind go, so that a book stays a book.
        let (low, high) = (instrument.ticks - LEVELS, instrument.ticks + 1 + LEVELS);
        let mut gone = |levels: &mut BTreeMap<i64, f64>, side: usize, stays: &dyn Fn(i64) -> bool| {
            let leave: Vec<i64> = levels.keys().copied().filter(|t| !stays(*t)).collect();
            for ticks in leave {
                levels.remove(&ticks);
                if let Some(side) = sides.get_mut(side) {
                    side.insert(format!("{:.*}", instrument.decimals, ticks as f64 * instrument.tick), Value::Null);
                }
            }
        };
        let mid = instrument.ticks;
        gone(&mut instrument.bids, 0, &|t| t <= mid && t >= low);
        gone(&mut instrument.asks, 1, &|t| t > mid && t <= high);
        let [bids, asks] = sides;
        let mut data = Map::from_iter([("sim".to_owned(), json!(true))]);
        if !bids.is_empty() {
            data.insert("b".into(), Value::Object(bids));
        }
        if !asks.is_empty() {
            data.insert("a".into(), Value::Object(asks));
        }
        SimulatedDelta { topic: format!("book:{}", instrument.name), kind: Kind::Delta, data: Value::Object(data) }
    }

    fn signal(&mut self, i: usize) -> SimulatedDelta {
        self.trade_id += 1;
        let (id, buy, confidence) = (self.trade_id, self.rng.random_bool(0.5), self.rng.random_range(50..99));
        let (up, down) = (self.rng.random_range(20..200), self.rng.random_range(10..100));
        let hold = confidence < 55;
        let instrument = self.at(i);
        let toward = if buy { 1 } else { -1 };
        // The shape of docs/signals.md.
        let mut data = json!({
            "sim": true, "id": format!("sim-{id}"), "source": "simulator", "time": unix_ms(), "symbol": instrument.name,
            "signal": if hold { "HOLD" } else if buy { "BUY" } else { "SELL" }, "confidence": confidence,
            "price": instrument.price(instrument.ticks),
        });
        if let Some(members) = data.as_object_mut().filter(|_| !hold) {
            members.insert("target".into(), json!(instrument.price(instrument.ticks + toward * up)));
            members.insert("stop_loss".into(), json!(instrument.price(instrument.ticks - toward * down)));
            members
                .insert("reason".into(), json!(if buy { "simulated momentum up" } else { "simulated momentum down" }));
        }
        SimulatedDelta { topic: "signals:all".into(), kind: Kind::Delta, data }
    }

    fn at(&mut self, i: usize) -> &mut Instrument {
        let last = self.instruments.len() - 1;
        // There is always at least one: `new` sees to it.
        #[allow(clippy::indexing_slicing, reason = "bounded on this line, and never empty")]
        &mut self.instruments[i.min(last)]
    }
}

impl Instrument {
    fn price(&self, ticks: i64) -> String {
        format!("{:.*}", self.decimals, ticks as f64 * self.tick)
    }
}

fn size(rng: &mut StdRng) -> String {
    format!("{:.3}", rng.random_range(0.001..20.0))
}

/// The simulation as a source.
pub struct Simulator {
    config: config::Simulator,
    status: Arc<SourceStatus>,
}

impl Simulator {
    /// As configured.
    pub fn new(config: config::Simulator) -> Self {
        Self { config, status: SourceStatus::new("simulator", false, 0) }
    }

    async fn run(self, feed: Feed, stop: CancellationToken) {
        let mut simulation = Simulation::new(self.config.instruments, self.config.seed);
        for delta in simulation.opening() {
            self.publish(&feed, delta).await;
        }
        self.status.set_connected(true);
        self.status.set_loaded(true);
        let mut clock = tokio::time::interval(STEP);
        clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut owed = 0.0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = clock.tick() => {}
            }
            owed += self.config.rate * STEP.as_secs_f64();
            let mut done = 0;
            while owed >= 1.0 {
                owed -= 1.0;
                done += 1;
                let delta = simulation.step();
                self.publish(&feed, delta).await;
            }
            self.status.read(done, 0);
        }
    }

    async fn publish(&self, feed: &Feed, delta: SimulatedDelta) {
        let Ok(payload) = Payload::new(Bytes::from(delta.data.to_string()), DELTA_BYTES_MAX) else { return };
        let SimulatedDelta { topic, kind, .. } = &delta;
        let incoming = Incoming {
            topic,
            kind: *kind,
            ts: Some(unix_ms()),
            at_ms: None,
            payload,
            offset: None,
            source: SourceId(0),
            home: None,
            is_relayed: false,
        };
        // A namespace may be configured otherwise than the simulation expects; what does not fit is left out.
        if feed.publish(incoming).await.is_err() {
            self.status.skip();
        }
    }
}

impl Source for Simulator {
    fn status(&self) -> Arc<SourceStatus> {
        self.status.clone()
    }

    fn run(self: Box<Self>, feed: Feed, stop: CancellationToken) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin((*self).run(feed, stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without_time(mut delta: SimulatedDelta) -> SimulatedDelta {
        if let Some(object) = delta.data.as_object_mut() {
            object.remove("time");
        }
        delta
    }

    #[test]
    fn the_same_seed_says_the_same_and_everything_says_that_it_is_simulated() {
        let run = |seed| {
            let mut simulation = Simulation::new(50, seed);
            let mut all = simulation.opening();
            all.extend((0..5_000).map(|_| simulation.step()));
            all.into_iter().map(without_time).collect::<Vec<_>>()
        };
        let (a, b, other) = (run(1), run(1), run(2));
        assert_eq!(a, b);
        assert_ne!(a, other);
        assert!(a.iter().all(|d| d.data["sim"] == json!(true)));
        for namespace in ["quotes:", "book:", "trades:", "signals:"] {
            assert!(a.iter().any(|d| d.topic.starts_with(namespace)), "{namespace}");
        }
    }

    #[test]
    fn books_stay_books() {
        let mut simulation = Simulation::new(30, 7);
        let mut books: std::collections::HashMap<String, Value> = Default::default();
        for delta in simulation.opening() {
            books.insert(delta.topic, delta.data);
        }
        for _ in 0..50_000 {
            let delta = simulation.step();
            json_patch::merge(books.entry(delta.topic).or_insert(json!({})), &delta.data);
        }
        for (topic, book) in books.iter().filter(|(t, _)| t.starts_with("book:")) {
            for side in ["b", "a"] {
                assert!(book[side].as_object().unwrap().len() <= 64, "{topic} {side} has grown out of bounds");
            }
        }
    }
}
