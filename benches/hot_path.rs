//! Micro-benchmarks of the work per delta. Compare them with each other and over time on one machine; the figures that
//! matter to users come from the harness.

#![allow(clippy::unwrap_used, missing_docs)]

use bytes::Bytes;
use divan::{Bencher, black_box};
use nexus_push::config::PayloadForm;
use nexus_push::name::TopicName;
use nexus_push::position::Offset;
use nexus_push::protocol::{Delivery, Dialect, Encoding};
use nexus_push::topic::{Payload, merge};
use nexus_push::wire::reader::front;

fn main() {
    divan::main();
}

const QUOTE: &str = r#"{"bid":"61800.10","bid_size":"3.788","ask":"61800.20","ask_size":"1.546","sim":true}"#;

fn book(levels: usize) -> String {
    let side: Vec<String> =
        (0..levels).map(|n| format!("\"{}.{:02}\":\"{}.5\"", 61_000 + n / 100, n % 100, n % 9)).collect();
    format!("{{\"b\":{{{}}}}}", side.join(","))
}

/// One frame of a quote.
#[divan::bench]
fn encode(bencher: Bencher) {
    let topic = TopicName::new("quotes:BTCUSDT").unwrap();
    let offset = |n| Offset::new(n).unwrap();
    let delivery = Delivery {
        topic: &topic,
        offset: offset(7_300_000_000_000_001),
        prev: offset(7_300_000_000_000_000),
        count: 1,
        ts: Some(1_723_161_256_313),
        data: QUOTE.as_bytes(),
        form: PayloadForm::Json,
    };
    bencher.bench(|| Encoding::Plain.delivery(black_box(&delivery), None));
}

/// Checking a quote at the source.
#[divan::bench]
fn check_payload(bencher: Bencher) {
    let bytes = Bytes::from_static(QUOTE.as_bytes());
    bencher.bench(|| Payload::new(black_box(bytes.clone()), 1 << 18).unwrap());
}

/// Parsing and applying a small patch to a book with this many levels.
#[divan::bench(args = [10, 1_000, 10_000])]
fn apply(bencher: Bencher, levels: usize) {
    let mut state = merge::parse_object(&book(levels)).unwrap();
    let patch = book(5);
    bencher.bench_local(|| merge::apply(&mut state, merge::parse_object(black_box(&patch)).unwrap()));
}

/// Composing this many patches into one.
#[divan::bench(args = [2, 16, 128])]
fn compose(bencher: Bencher, patches: usize) {
    let patches: Vec<String> =
        (0..patches).map(|n| format!("{{\"b\":{{\"{n}\":\"1\",\"x\":null}},\"last\":\"{n}\"}}")).collect();
    bencher.bench(|| {
        let mut whole = merge::Members::new();
        for patch in black_box(&patches) {
            assert!(merge::compose(&mut whole, &merge::parse_object(patch).unwrap()));
        }
        let mut out = Vec::new();
        merge::write_members(&whole, &mut out);
        out
    });
}

/// A snapshot of a book with this many levels.
#[divan::bench(args = [10, 1_000, 10_000])]
fn snapshot(bencher: Bencher, levels: usize) {
    let state = merge::parse_object(&book(levels)).unwrap();
    bencher.bench(|| {
        let mut out = Vec::with_capacity(merge::members_bytes(&state));
        merge::write_members(black_box(&state), &mut out);
        out
    });
}

/// Gathering this many frames of 200 B for one write.
#[divan::bench(args = [2, 16, 64])]
fn gather(bencher: Bencher, frames: usize) {
    let frames: Vec<Bytes> = (0..frames).map(|_| Bytes::from(vec![b'x'; 200])).collect();
    let mut scratch = Vec::with_capacity(64 * 1024);
    bencher.bench_local(|| {
        scratch.clear();
        for frame in black_box(&frames) {
            scratch.extend_from_slice(frame);
        }
        scratch.len()
    });
}

/// A tick of 1,000 sessions that get this many frames each: enqueueing, gathering, releasing. Without the sockets.
#[divan::bench(args = [1, 4, 16])]
fn fan_out(bencher: Bencher, frames: usize) {
    let frames: Vec<Bytes> = (0..frames).map(|_| Bytes::from(vec![b'x'; 200])).collect();
    let mut sessions = nexus_push::hub::bench::FanOut::new(1_000);
    bencher.bench_local(|| sessions.tick(black_box(&frames)));
}

/// A client's subscribe: frame, mask and command.
#[divan::bench]
fn read_command(bencher: Bencher) {
    let command = br#"{"op":"subscribe","id":1,"args":["quotes:BTCUSDT","book:BTCUSDT"]}"#;
    let mut frame = vec![0x81, 0x80 | u8::try_from(command.len()).unwrap(), 1, 2, 3, 4];
    frame.extend(command.iter().zip([1u8, 2, 3, 4].iter().cycle()).map(|(b, k)| b ^ k));
    bencher.with_inputs(|| frame.clone()).bench_values(|mut frame| {
        let nexus_push::wire::reader::Front::Frame(frame, _) = front(&mut frame, 65_536, false).unwrap() else {
            return false;
        };
        Dialect::Plain.command(frame.payload, 512).is_ok()
    });
}
