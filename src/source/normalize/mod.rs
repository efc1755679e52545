//! Recorded exchange traffic into topics.
//!
//! | topic | class | what |
//! |---|---|---|
//! | `quotes:<venue>.<symbol>` | merge | `bid`, `bid_size`, `ask`, `ask_size`, `last`, `last_size` |
//! | `book:<venue>.<symbol>` | merge | `{"b":{price:size},"a":{price:size}}`; a level that is gone is `null` |
//! | `trades:<venue>.<symbol>` | stream | `id`, `p`, `q`, `side` (the taker's), `t` (ms) |
//!
//! The venue keeps markets of one symbol apart: `binance-spot`, `binance-usdm`, `bybit-linear`. Prices and sizes
//! stay the texts that the exchange sent.

mod binance;
mod bybit;
mod normalizer;

use normalizer::Fault;
pub use normalizer::{Counts, NormalDelta, Normalizer};

/// How the lines of a recording look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `<receive time, ns> <frame>`, frames of Binance.
    Binance {
        /// `binance-spot` or `binance-usdm`.
        venue: &'static str,
    },
    /// The frame alone, of Bybit V5.
    Bybit {
        /// `bybit-linear` or `bybit-spot`.
        venue: &'static str,
    },
}

impl Format {
    /// By the beginning of a file's name.
    pub fn of_file(name: &str) -> Option<Self> {
        let venues = [
            ("binance-spot", Self::Binance { venue: "binance-spot" }),
            ("binance-usdm", Self::Binance { venue: "binance-usdm" }),
            ("bybit-linear", Self::Bybit { venue: "bybit-linear" }),
            ("bybit-spot", Self::Bybit { venue: "bybit-spot" }),
            ("bybit-sample", Self::Bybit { venue: "bybit-linear" }),
        ];
        venues.into_iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, format)| format)
    }
}

impl Normalizer {
    /// Takes one line. `symbol` is that of the file, for frames that do not name one.
    pub fn line(&mut self, format: Format, symbol: &str, line: &[u8]) -> Vec<NormalDelta> {
        self.counts.lines += 1;
        let mut out = Vec::new();
        let result = match format {
            Format::Binance { venue } => binance::line(self, venue, symbol, line, &mut out),
            Format::Bybit { venue } => bybit::line(self, venue, line, &mut out),
        };
        match result {
            Ok(()) => {}
            Err(Fault::Unknown) => self.counts.unknown += 1,
            Err(Fault::Malformed(what)) => {
                self.counts.malformed += 1;
                let number = self.counts.lines;
                self.counts.first_fault.get_or_insert_with(|| format!("line {number}: {what}"));
            }
        }
        self.counts.deltas += out.len() as u64;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::Kind;
    use serde_json::{Value, json};

    const SPOT: Format = Format::Binance { venue: "binance-spot" };
    const USDM: Format = Format::Binance { venue: "binance-usdm" };
    const LINEAR: Format = Format::Bybit { venue: "bybit-linear" };

    fn run(lines: &[(Format, &str)]) -> (Vec<(String, Kind, Value)>, Counts) {
        let mut normalizer = Normalizer::default();
        let deltas = lines
            .iter()
            .flat_map(|(format, line)| normalizer.line(*format, "BTCUSDT", line.as_bytes()))
            .collect::<Vec<_>>();
        (deltas.into_iter().map(|d| (d.topic, d.kind, d.data)).collect(), normalizer.counts)
    }

    #[test]
    fn quotes_carry_what_changed_and_markets_stay_apart() {
        let (deltas, counts) = run(&[
            (
                SPOT,
                r#"1 {"stream":"btcusdt@bookTicker","data":{"u":1,"s":"BTCUSDT","b":"1.0","B":"2","a":"1.1","A":"3"}}"#,
            ),
            (
                SPOT,
                r#"2 {"stream":"btcusdt@bookTicker","data":{"u":2,"s":"BTCUSDT","b":"1.0","B":"5","a":"1.1","A":"3"}}"#,
            ),
            (
                SPOT,
                r#"3 {"stream":"btcusdt@bookTicker","data":{"u":3,"s":"BTCUSDT","b":"1.0","B":"5","a":"1.1","A":"3"}}"#,
            ),
            (
                USDM,
                r#"4 {"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":4,"s":"BTCUSDT","b":"9","B":"1","a":"10","A":"1","T":5,"E":6}}"#,
            ),
            (
                USDM,
                r#"5 {"stream":"btcusdt@trade","data":{"e":"trade","E":7,"T":7,"s":"BTCUSDT","t":77,"p":"9.5","q":"1","X":"MARKET","m":true}}"#,
            ),
        ]);
        assert_eq!(
            deltas[0],
            (
                "quotes:binance-spot.BTCUSDT".into(),
                Kind::Snapshot,
                json!({"bid":"1.0","bid_size":"2","ask":"1.1","ask_size":"3"})
            )
        );
        assert_eq!(deltas[1], ("quotes:binance-spot.BTCUSDT".into(), Kind::Delta, json!({"bid_size":"5"})));
        assert_eq!(deltas[2].0, "quotes:binance-usdm.BTCUSDT");
        assert_eq!(
            deltas[3],
            (
                "trades:binance-usdm.BTCUSDT".into(),
                Kind::Delta,
                json!({"id":"77","p":"9.5","q":"1","side":"sell","t":7})
            )
        );
        assert_eq!(
            deltas[4],
            ("quotes:binance-usdm.BTCUSDT".into(), Kind::Delta, json!({"last":"9.5","last_size":"1"}))
        );
        assert_eq!((counts.lines, counts.unchanged, counts.malformed), (5, 1, 0));
    }

    #[test]
    fn books_begin_with_a_snapshot_and_zero_removes_a_level() {
        let depth = |first: u64, last: u64, b: &str| {
            format!(
                r#"1 {{"stream":"btcusdt@depth","data":{{"e":"depthUpdate","E":9,"s":"BTCUSDT","U":{first},"u":{last},"b":{b},"a":[]}}}}"#
            )
        };
        let lines = [
            depth(1, 2, r#"[["5.0","1"],["4.0","0.000"]]"#),
            depth(3, 4, r#"[["5.0","0.00"],["3.0","2"]]"#),
            r#"2 {"lastUpdateId":9,"bids":[["8","1"]],"asks":[["9","1"]]}"#.to_owned(),
            depth(5, 9, r#"[["7","1"]]"#),
            depth(8, 12, r#"[["7","1"]]"#),
            depth(20, 21, r#"[["7","0"]]"#),
        ];
        let lines: Vec<(Format, &str)> = lines.iter().map(|l| (SPOT, l.as_str())).collect();
        let (deltas, counts) = run(&lines);
        let data: Vec<(Kind, Value)> = deltas.into_iter().map(|(_, kind, data)| (kind, data)).collect();
        assert_eq!(
            data,
            [
                (Kind::Snapshot, json!({"b":{"5.0":"1"},"a":{}})),
                (Kind::Delta, json!({"b":{"5.0":null,"3.0":"2"}})),
                (Kind::Snapshot, json!({"b":{"8":"1"},"a":{"9":"1"}})),
                (Kind::Delta, json!({"b":{"7":"1"}})),
                (Kind::Delta, json!({"b":{"7":null}})),
            ]
        );
        assert_eq!((counts.outdated, counts.gaps), (1, 1));
    }

    #[test]
    fn bybit_lines() {
        let (deltas, counts) = run(&[
            (
                LINEAR,
                r#"{"topic":"orderbook.50.XRPUSDT","type":"snapshot","ts":1,"data":{"s":"XRPUSDT","b":[["1","2"]],"a":[["3","4"]],"u":5,"seq":1}}"#,
            ),
            (
                LINEAR,
                r#"{"topic":"orderbook.50.XRPUSDT","type":"delta","ts":"2","data":{"s":"XRPUSDT","b":[["1","0"]],"a":[],"u":6,"seq":9}}"#,
            ),
            (
                LINEAR,
                r#"{"topic":"orderbook.50.XRPUSDT","type":"delta","ts":3,"data":{"s":"XRPUSDT","b":[["1","7"]],"a":[],"u":8,"seq":10}}"#,
            ),
            (
                LINEAR,
                r#"{"topic":"tickers.XRPUSDT","type":"delta","ts":4,"data":{"symbol":"XRPUSDT","lastPrice":"5","bid1Price":""}}"#,
            ),
            (
                LINEAR,
                r#"{"topic":"publicTrade.XRPUSDT","type":"snapshot","ts":4,"data":[{"T":4,"s":"XRPUSDT","S":"Buy","v":"1","p":"5","i":"x"}]}"#,
            ),
            (LINEAR, r#"{"topic":"kline.5.XRPUSDT","type":"snapshot","ts":4,"data":[]}"#),
        ]);
        let topics: Vec<&str> = deltas.iter().map(|(t, ..)| t.as_str()).collect();
        assert_eq!(
            topics,
            [
                "book:bybit-linear.XRPUSDT",
                "book:bybit-linear.XRPUSDT",
                "book:bybit-linear.XRPUSDT",
                "quotes:bybit-linear.XRPUSDT",
                "trades:bybit-linear.XRPUSDT",
                "quotes:bybit-linear.XRPUSDT",
            ][..deltas.len()]
        );
        assert_eq!(deltas[1].2, json!({"b":{"1":null}}));
        assert_eq!((counts.gaps, counts.unknown), (1, 1));
    }

    #[test]
    fn what_cannot_be_read_is_counted_and_never_fatal() {
        let lines = [
            "",
            "x",
            "12",
            "1 {",
            "1 []",
            "1 {}",
            "1 {\"stream\":\"x\"}",
            "a {\"stream\":\"btcusdt@trade\",\"data\":{}}",
            r#"1 {"stream":"btcusdt@trade","data":{"e":"trade","s":"BTCUSDT","p":5}}"#,
            r#"1 {"stream":"btcusdt@depth","data":{"e":"depthUpdate","s":"BTCUSDT","U":1,"u":2,"b":[["x","1"]],"a":[]}}"#,
            r#"1 {"stream":"btcusdt@depth","data":{"e":"depthUpdate","s":"BTC USDT","U":1,"u":2,"b":[],"a":[]}}"#,
        ];
        let lines: Vec<(Format, &str)> = lines.iter().flat_map(|l| [(SPOT, *l), (LINEAR, *l)]).collect();
        let (deltas, counts) = run(&lines);
        assert_eq!(deltas, []);
        assert_eq!(counts.malformed + counts.unknown, lines.len() as u64);
        assert!(counts.first_fault.unwrap().starts_with("line 1:"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let mut normalizer = Normalizer::default();
            normalizer.line(SPOT, "BTCUSDT", &bytes);
            normalizer.line(LINEAR, "BTCUSDT", &bytes);
        }
    }
}
