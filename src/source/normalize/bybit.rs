//! Bybit V5 public topics: `orderbook`, `publicTrade`, `tickers`.

use serde_json::json;
use simd_json::BorrowedValue;
use simd_json::prelude::*;

use super::binance::levels;
use super::normalizer::{Fault, Levels, NormalDelta, Normalizer, is_number, malformed};

pub(super) fn line(n: &mut Normalizer, venue: &str, line: &[u8], out: &mut Vec<NormalDelta>) -> Result<(), Fault> {
    let mut line = line.to_vec();
    let frame = simd_json::to_borrowed_value(&mut line).map_err(|e| Fault::Malformed(format!("not JSON: {e}")))?;
    let topic = frame.get_str("topic").ok_or(Fault::Unknown)?;
    let data = frame.get("data").ok_or_else(|| malformed("`data` is missing"))?;
    // The documents show `ts` as a number, one of their examples as a text.
    let ts = frame.get("ts").and_then(|ts| ts.as_u64().or_else(|| ts.as_str()?.parse().ok()));
    let mut parts = topic.split('.');
    let (kind, symbol) = (parts.next().unwrap_or_default(), parts.next_back().unwrap_or_default());
    if symbol.is_empty() || symbol.len() > 40 || !symbol.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Fault::Malformed(format!("symbol {symbol:?}")));
    }
    match kind {
        "orderbook" => book(n, venue, symbol, ts, &frame, data, out),
        "publicTrade" | "trade" => trades(n, venue, symbol, ts, data, out),
        "tickers" => ticker(n, venue, symbol, ts, data, out),
        _ => Err(Fault::Unknown),
    }
}

fn book(
    n: &mut Normalizer,
    venue: &str,
    symbol: &str,
    ts: Option<u64>,
    frame: &BorrowedValue<'_>,
    data: &BorrowedValue<'_>,
    out: &mut Vec<NormalDelta>,
) -> Result<(), Fault> {
    let update = Levels { bids: levels(data, "b")?, asks: levels(data, "a")? };
    let number = data.get_u64("u").ok_or_else(|| malformed("`u` is missing"))?;
    // A snapshot, or number 1 after a restart of theirs, replaces the book.
    let whole = frame.get_str("type") == Some("snapshot") || number == 1;
    let state = n.books.entry(format!("{venue}.{symbol}")).or_default();
    if let Some(known) = state.last_update.filter(|_| !whole) {
        if number <= known {
            n.counts.outdated += 1;
            return Ok(());
        }
        if number != known + 1 {
            n.counts.gaps += 1;
        }
    }
    state.last_update = Some(number);
    n.book(venue, symbol, ts, whole, update, out);
    Ok(())
}

fn trades(
    n: &mut Normalizer,
    venue: &str,
    symbol: &str,
    ts: Option<u64>,
    data: &BorrowedValue<'_>,
    out: &mut Vec<NormalDelta>,
) -> Result<(), Fault> {
    let list = data.as_array().ok_or_else(|| malformed("`data` is no list"))?;
    for trade in list {
        let text = |key: &str| trade.get_str(key).filter(|t| !t.is_empty()).map(str::to_owned);
        let number = |key: &str| text(key).filter(|t| is_number(t));
        let side = match trade.get_str("S") {
            Some("Buy") => "buy",
            Some("Sell") => "sell",
            _ => return Err(malformed("a trade without a side")),
        };
        let (Some(id), Some(price), Some(size), Some(time)) = (text("i"), number("p"), number("v"), trade.get_u64("T"))
        else {
            return Err(malformed("a trade without `i`, `p`, `v` or `T`"));
        };
        out.push(NormalDelta {
            topic: format!("trades:{venue}.{symbol}"),
            kind: crate::topic::Kind::Delta,
            ts,
            data: json!({"id": id, "p": price, "q": size, "side": side, "t": time}),
        });
        n.quote(venue, symbol, ts, vec![("last", price), ("last_size", size)], out);
    }
    Ok(())
}

/// Fields that are missing, or empty, are unchanged.
fn ticker(
    n: &mut Normalizer,
    venue: &str,
    symbol: &str,
    ts: Option<u64>,
    data: &BorrowedValue<'_>,
    out: &mut Vec<NormalDelta>,
) -> Result<(), Fault> {
    let names = [
        ("bid1Price", "bid"),
        ("bid1Size", "bid_size"),
        ("ask1Price", "ask"),
        ("ask1Size", "ask_size"),
        ("lastPrice", "last"),
    ];
    let fields = names.iter().filter_map(|(theirs, ours)| {
        let text = data.get_str(*theirs).filter(|t| is_number(t))?;
        Some((*ours, text.to_owned()))
    });
    let fields: Vec<(&'static str, String)> = fields.collect();
    if fields.is_empty() {
        return Err(malformed("a ticker without any price"));
    }
    n.quote(venue, symbol, ts, fields, out);
    Ok(())
}
