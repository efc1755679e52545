//! Binance spot and USD-M futures: `bookTicker`, `trade`, `depthUpdate`, and the REST depth snapshot that their
//! documents tell a client to fetch beside the stream.

use simd_json::BorrowedValue;
use simd_json::prelude::*;

use super::normalizer::{Fault, Levels, NormalDelta, Normalizer, is_number, malformed};
use serde_json::json;

pub(super) fn line(
    n: &mut Normalizer,
    venue: &str,
    file_symbol: &str,
    line: &[u8],
    out: &mut Vec<NormalDelta>,
) -> Result<(), Fault> {
    let space = line.iter().position(|b| *b == b' ').ok_or_else(|| malformed("no receive time before the frame"))?;
    let (time, frame) = line.split_at(space);
    if !time.iter().all(u8::is_ascii_digit) || time.is_empty() {
        return Err(malformed("the receive time is not a number"));
    }
    let mut frame = frame.to_vec();
    let frame = simd_json::to_borrowed_value(&mut frame).map_err(|e| Fault::Malformed(format!("not JSON: {e}")))?;
    if let Some(last) = frame.get_u64("lastUpdateId") {
        let update = Levels { bids: levels(&frame, "bids")?, asks: levels(&frame, "asks")? };
        let state = n.books.entry(format!("{venue}.{file_symbol}")).or_default();
        state.last_update = Some(last);
        n.book(venue, file_symbol, frame.get_u64("E"), true, update, out);
        return Ok(());
    }
    let stream = frame.get_str("stream").ok_or(Fault::Unknown)?;
    let data = frame.get("data").ok_or_else(|| malformed("`data` is missing"))?;
    match stream.split('@').nth(1) {
        Some("bookTicker") => {
            let symbol = symbol(data)?;
            let fields = vec![
                ("bid", number(data, "b")?),
                ("bid_size", number(data, "B")?),
                ("ask", number(data, "a")?),
                ("ask_size", number(data, "A")?),
            ];
            n.quote(venue, symbol, data.get_u64("E"), fields, out);
            Ok(())
        }
        Some("trade" | "aggTrade") => trade(n, venue, data, out),
        Some("depth") => depth(n, venue, data, out),
        _ => Err(Fault::Unknown),
    }
}

fn trade(n: &mut Normalizer, venue: &str, data: &BorrowedValue<'_>, out: &mut Vec<NormalDelta>) -> Result<(), Fault> {
    let symbol = symbol(data)?;
    // Futures mark fills of the insurance fund and of deleveraging: those are no market trades.
    if data.get_str("X").is_some_and(|kind| kind != "MARKET") {
        return Err(Fault::Unknown);
    }
    let (price, quantity) = (number(data, "p")?, number(data, "q")?);
    let id = data.get_u64("t").or_else(|| data.get_u64("a")).ok_or_else(|| malformed("a trade without an ID"))?;
    let time = data.get_u64("T").ok_or_else(|| malformed("a trade without a time"))?;
    let ts = data.get_u64("E").or(Some(time));
    // `m`: the buyer was the maker, so the taker sold.
    let side = if data.get_bool("m").ok_or_else(|| malformed("a trade without a side"))? { "sell" } else { "buy" };
    out.push(NormalDelta {
        topic: format!("trades:{venue}.{symbol}"),
        kind: crate::topic::Kind::Delta,
        ts,
        data: json!({"id": id.to_string(), "p": price, "q": quantity, "side": side, "t": time}),
    });
    n.quote(venue, symbol, ts, vec![("last", price), ("last_size", quantity)], out);
    Ok(())
}

fn depth(n: &mut Normalizer, venue: &str, data: &BorrowedValue<'_>, out: &mut Vec<NormalDelta>) -> Result<(), Fault> {
    let symbol = symbol(data)?;
    let update = Levels { bids: levels(data, "b")?, asks: levels(data, "a")? };
    let first = data.get_u64("U").ok_or_else(|| malformed("`U` is missing"))?;
    let last = data.get_u64("u").ok_or_else(|| malformed("`u` is missing"))?;
    let state = n.books.entry(format!("{venue}.{symbol}")).or_default();
    if let Some(known) = state.last_update {
        if last <= known {
            n.counts.outdated += 1;
            return Ok(());
        }
        // Futures name the update before; spot numbers run on. Right after a snapshot the update may begin before it.
        let joins = data.get_u64("pu").map_or(first <= known + 1, |previous| previous <= known);
        if !joins {
            n.counts.gaps += 1;
        }
    }
    state.last_update = Some(last);
    n.book(venue, symbol, data.get_u64("E"), false, update, out);
    Ok(())
}

fn symbol<'a>(data: &'a BorrowedValue<'_>) -> Result<&'a str, Fault> {
    let symbol = data.get_str("s").ok_or_else(|| malformed("`s` is missing"))?;
    let good = !symbol.is_empty()
        && symbol.len() <= 40
        && symbol.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good { Ok(symbol) } else { Err(Fault::Malformed(format!("symbol {symbol:?}"))) }
}

fn number(data: &BorrowedValue<'_>, key: &str) -> Result<String, Fault> {
    let text = data.get_str(key).ok_or_else(|| Fault::Malformed(format!("`{key}` is missing or no text")))?;
    if is_number(text) {
        Ok(text.to_owned())
    } else {
        Err(Fault::Malformed(format!("`{key}` is {text:?}, not a number")))
    }
}

/// `[[price, size], …]`.
pub(super) fn levels(data: &BorrowedValue<'_>, key: &str) -> Result<Vec<(String, String)>, Fault> {
    let list = data.get_array(key).ok_or_else(|| Fault::Malformed(format!("`{key}` is missing")))?;
    let level = |level: &BorrowedValue<'_>| {
        let pair = level.as_array()?;
        let price = pair.first()?.as_str().filter(|t| is_number(t))?;
        let size = pair.get(1)?.as_str().filter(|t| is_number(t))?;
        Some((price.to_owned(), size.to_owned()))
    };
    list.iter()
        .map(|l| level(l).ok_or_else(|| Fault::Malformed(format!("a level of `{key}` is no [price, size]"))))
        .collect()
}
