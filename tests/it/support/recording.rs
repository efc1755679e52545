//! Recordings of generated market data.

use std::path::{Path, PathBuf};

pub(crate) const NAMESPACES: &str = "[namespace.quotes]\nclass = \"merge\"\n[namespace.book]\nclass = \"merge\"\n[namespace.trades]\nclass = \"stream\"\nhistory_size = 5000\nhistory_bytes = 16000000";

/// Two recordings in the exchanges' formats, with one invalid line.
pub(crate) fn made_up(directory: &Path, lines: u64) -> Vec<PathBuf> {
    let start = 1_723_161_253_000_000_000u64;
    let mut spot = String::new();
    let mut linear = String::new();
    let mut update = 100;
    for n in 0..lines {
        let at = start + n * 5_000_000;
        let ms = at / 1_000_000;
        let price = 61_800 + (n * 7919) % 50;
        match n % 4 {
            0 => spot.push_str(&format!("{at} {{\"stream\":\"btcusdt@bookTicker\",\"data\":{{\"u\":{n},\"s\":\"BTCUSDT\",\"b\":\"{price}.1\",\"B\":\"1.0\",\"a\":\"{price}.2\",\"A\":\"{}.0\"}}}}\n", n % 3)),
            1 => spot.push_str(&format!("{at} {{\"stream\":\"btcusdt@trade\",\"data\":{{\"e\":\"trade\",\"E\":{ms},\"s\":\"BTCUSDT\",\"t\":{n},\"p\":\"{price}.1\",\"q\":\"0.5\",\"T\":{ms},\"m\":{}}}}}\n", n % 8 == 1)),
            2 => {
                let size = if n % 3 == 0 { "0.000".to_owned() } else { format!("{n}.5") };
                spot.push_str(&format!("{at} {{\"stream\":\"btcusdt@depth@100ms\",\"data\":{{\"e\":\"depthUpdate\",\"E\":{ms},\"s\":\"BTCUSDT\",\"U\":{},\"u\":{},\"b\":[[\"{}.0\",\"{size}\"]],\"a\":[]}}}}\n", update, update + 1, 61_700 + n % 20));
                update += 2;
            }
            _ => {
                let kind = if n == 3 { "snapshot" } else { "delta" };
                let u = n / 4 + 1;
                linear.push_str(&format!("{{\"topic\":\"orderbook.50.XRPUSDT\",\"type\":\"{kind}\",\"ts\":{},\"data\":{{\"s\":\"XRPUSDT\",\"b\":[[\"1.{}\",\"{}\"]],\"a\":[],\"u\":{},\"seq\":{n}}}}}\n", ms, n % 30, n % 5, u + 1));
            }
        }
    }
    spot.push_str(&format!("{} garbage\n", start + lines * 5_000_000));
    let files = [("binance-spot-btcusdt-20240808", spot), ("bybit-linear-xrpusdt-20240808", linear)];
    files
        .into_iter()
        .map(|(name, text)| {
            let path = directory.join(name);
            std::fs::write(&path, text).unwrap();
            path
        })
        .collect()
}
