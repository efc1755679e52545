//! The cost and the savings of permessage-deflate, by level and size. They determined the level of `wire::deflate`. The
//! ratios are printed first.

#![allow(clippy::unwrap_used, missing_docs)]

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use flate2::{Compress, Compression, FlushCompress};
use nexus_push::wire::deflate::{Deflater, Part, join};
use nexus_push::wire::frame::{Opcode, header_bytes};
use nexus_push::wire::inflate::Inflater;

/// A quote, several quotes, a screenful.
const SIZES: [usize; 6] = [75, 100, 128, 150, 1_024, 8_192];

const LEVELS: [u32; 4] = [1, 2, 4, 6];

/// About `len` bytes of deliveries as `plain` sends them.
fn deliveries(len: usize) -> String {
    let mut text = String::new();
    let mut n = 0u64;
    while text.len() < len {
        n += 1;
        let (bid, size) = (6_180_010 + n * 37 % 900, n * 2_654_435_761 % 9_999);
        text += &format!(
            r#"{{"bid":"{}.{:02}","bid_size":"{}.{:03}","ask":"{}.{:02}","ask_size":"{}.{:03}","ts":{}}},"#,
            bid / 100,
            bid % 100,
            size / 1_000,
            size % 1_000,
            (bid + 10) / 100,
            (bid + 10) % 100,
            (size * 7 % 9_999) / 1_000,
            (size * 7 % 9_999) % 1_000,
            1_723_161_256_313 + n * 13,
        );
    }
    text.truncate(len);
    text
}

fn compressed(compress: &mut Compress, text: &str, out: &mut Vec<u8>) {
    compress.reset();
    out.clear();
    out.reserve(text.len() * 2 + 64);
    compress.compress_vec(text.as_bytes(), out, FlushCompress::Sync).unwrap();
}

fn main() {
    println!("bytes of a message, compressed (without the tail):");
    for size in SIZES {
        let text = deliveries(size);
        let mut out = Vec::new();
        let ratios: Vec<String> = LEVELS
            .iter()
            .map(|level| {
                compressed(&mut Compress::new(Compression::new(*level), false), &text, &mut out);
                format!("level {level}: {:>5} ({:.0} %)", out.len() - 4, 100.0 * (out.len() - 4) as f64 / size as f64)
            })
            .collect();
        println!("  {size:>5}  {}", ratios.join("   "));
    }
    divan::main();
}

#[divan::bench(args = SIZES, consts = LEVELS)]
fn level<const LEVEL: u32>(bencher: Bencher, size: usize) {
    let text = deliveries(size);
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    let mut out = Vec::new();
    bencher.counter(BytesCount::new(size)).bench_local(|| compressed(&mut compress, black_box(&text), &mut out));
}

/// Compresses a frame as the server does.
#[divan::bench(args = SIZES)]
fn frame(bencher: Bencher, size: usize) {
    let text = deliveries(size);
    let mut deflater = Deflater::default();
    bencher.counter(BytesCount::new(size)).bench_local(|| deflater.frame(Opcode::Text, black_box(&[text.as_bytes()])));
}

/// Joins sixteen compressed deltas into one message.
#[divan::bench(args = [150, 1_024])]
fn join_16(bencher: Bencher, size: usize) {
    let part = Deflater::default().part(deliveries(size).as_bytes());
    let parts: Vec<Part<'_>> = (0..16).flat_map(|_| [Part::Deflated(&part), Part::Plain(b"\n")]).collect();
    bencher.bench_local(|| join(Opcode::Text, black_box(parts.iter().copied())));
}

#[divan::bench(args = SIZES)]
fn inflate(bencher: Bencher, size: usize) {
    let text = deliveries(size);
    let mut out = Vec::new();
    compressed(&mut Compress::new(Compression::new(6), false), &text, &mut out);
    let message = out.get(..out.len() - 4).unwrap().to_vec();
    let frame = Deflater::default().frame(Opcode::Text, &[text.as_bytes()]);
    assert!(header_bytes(&frame) < frame.len());
    let mut inflater = Inflater::new(1 << 20);
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| inflater.message(black_box(&message), 1 << 20).map(|m| m.len()));
}
