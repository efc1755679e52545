//! permessage-deflate (RFC 7692), outbound: payloads to compressed frames.
//!
//! Both directions run without context takeover, so a message compresses to the same bytes for
//! every session: it is compressed once and shared like a plain frame.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};

use super::frame::{self, HEADER_BYTES_MAX, Opcode};

/// The end of a sync flush: the lengths of an empty stored block. It is cut off each message (RFC
/// 7692 §7.2.1).
pub(super) const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// First byte of a stored block that begins at a byte boundary and is not the last one (RFC 1951
/// §3.2.4).
const STORED: u8 = 0x00;

/// Most bytes of one stored block.
const STORED_BYTES_MAX: usize = u16::MAX as usize;

/// Payloads shorter than this, in bytes, are not compressed: a frame of 100 B would save 22 B, in a
/// packet whose headers have 52.
pub const COMPRESS_BYTES_MIN: usize = 128;

/// The compression level.
///
/// `cargo bench --bench deflate`, quotes in JSON (µs, and the remaining share of the bytes):
///
/// | level | 150 B | 1 KiB | 8 KiB |
/// |---|---|---|---|
/// | 1 | 3.0, 63 % | 4.7, 40 % | 19, 35 % |
/// | 2 | 7.4, 60 % | 11, 30 % | 35, 24 % |
/// | 4 | 7.6, 60 % | 12, 28 % | 52, 22 % |
/// | 6 | 7.8, 60 % | 14, 27 % | 77, 21 % |
///
/// Order books, full of similar numbers, gain more than quotes: recorded market data shrank to 40 %
/// with level 6, and to 48 % with level 1 below 512 B and level 2 above (`nexus-loadtest egress`).
/// The server's CPU time was the same: a frame for many is compressed once, and each write is
/// smaller.
const LEVEL: u32 = 6;

/// Memory for a message that is kept for the next one, in bytes.
const KEPT_BYTES: usize = 256 * 1024;

/// A compressor. One per thread is enough: it keeps nothing between messages but its memory (about
/// 300 KiB).
#[derive(Debug)]
pub struct Deflater {
    compress: Compress,
    scratch: Vec<u8>,
}

impl Default for Deflater {
    fn default() -> Self {
        Self { compress: Compress::new(Compression::new(LEVEL), false), scratch: Vec::new() }
    }
}

/// A part of a joined message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'a> {
    /// Made by [`Deflater::part`].
    Deflated(&'a [u8]),
    /// Bytes as they are: separators, or parts too small to compress. After a deflated part they
    /// cost no extra bytes, elsewhere five.
    Plain(&'a [u8]),
}

impl Deflater {
    /// `payload` as DEFLATE blocks that end at a byte boundary with `00 00 ff ff` and refer to
    /// nothing before them, so that they can be shared and [`join`]ed with others.
    pub fn part(&mut self, payload: &[u8]) -> Bytes {
        self.deflate(&[payload]);
        Bytes::copy_from_slice(&self.scratch)
    }

    /// A whole server frame of the bytes of `payload`, one after the other: compressed with RSV1
    /// set (RFC 7692 §7.2.1), or plain if there are fewer than [`COMPRESS_BYTES_MIN`] of them or
    /// compression saves nothing.
    ///
    /// `opcode` is that of a data message: control frames are never compressed (RFC 7692 §6.1).
    pub fn frame(&mut self, opcode: Opcode, payload: &[&[u8]]) -> Bytes {
        let len = payload.iter().map(|bytes| bytes.len()).sum();
        if len >= COMPRESS_BYTES_MIN && !opcode.is_control() {
            self.deflate(payload);
            if let Some(message) = self.scratch.strip_suffix(&TAIL)
                && message.len() < len
            {
                let mut out = Vec::with_capacity(HEADER_BYTES_MAX + message.len());
                frame::put_compressed_header(&mut out, opcode, message.len());
                out.extend_from_slice(message);
                return Bytes::from(out);
            }
        }
        let mut out = Vec::with_capacity(HEADER_BYTES_MAX + len);
        frame::put_header(&mut out, opcode, len);
        payload.iter().for_each(|bytes| out.extend_from_slice(bytes));
        Bytes::from(out)
    }

    /// Leaves the blocks in `scratch`.
    fn deflate(&mut self, payload: &[&[u8]]) {
        let len: usize = payload.iter().map(|bytes| bytes.len()).sum();
        let compress = &mut self.compress;
        compress.reset();
        self.scratch.clear();
        self.scratch.shrink_to(KEPT_BYTES);
        // Incompressible data grows by an eighth at most (RFC 1951 §3.2.6: nine bits per byte).
        self.scratch.reserve(len + len / 8 + 64);
        for bytes in payload {
            step(compress, bytes, &mut self.scratch, FlushCompress::None);
        }
        step(compress, &[], &mut self.scratch, FlushCompress::Sync);
    }
}

/// Consumes all of `bytes`; with `Sync` it also flushes.
fn step(compress: &mut Compress, bytes: &[u8], out: &mut Vec<u8>, flush: FlushCompress) {
    let mut rest = bytes;
    loop {
        let before = compress.total_in();
        // The only error is a stream in a state that `reset` rules out.
        if compress.compress_vec(rest, out, flush).is_err() {
            return;
        }
        let used = usize::try_from(compress.total_in() - before).unwrap_or(usize::MAX);
        rest = rest.get(used..).unwrap_or_default();
        // Unused room means that all output was written.
        if rest.is_empty() && out.len() < out.capacity() {
            return;
        }
        out.reserve(out.capacity() / 2);
    }
}

/// The frame of a compressed message that inflates to all `parts`, one after the other. It
/// compresses nothing.
///
/// Plain bytes between two deflated parts go into the empty stored block at the end of a sync
/// flush: its lengths are replaced, the bytes follow.
pub fn join<'a>(opcode: Opcode, parts: impl IntoIterator<Item = Part<'a>>) -> Bytes {
    let parts = parts.into_iter();
    let mut message = Vec::with_capacity(parts.size_hint().0 * 64);
    // `message` always ends with the first byte of a stored block, and its lengths come next: those
    // of plain bytes, or `TAIL` without any. A spare first byte is removed again if it is not used.
    message.push(STORED);
    let mut spare = true;
    for part in parts {
        match part {
            Part::Deflated(blocks) => {
                if spare {
                    message.pop();
                } else {
                    message.extend_from_slice(&TAIL);
                }
                message.extend_from_slice(blocks.strip_suffix(&TAIL).unwrap_or(blocks));
                spare = false;
            }
            Part::Plain(bytes) => {
                for chunk in bytes.chunks(STORED_BYTES_MAX) {
                    let len = u16::try_from(chunk.len()).unwrap_or(u16::MAX);
                    message.extend_from_slice(&len.to_le_bytes());
                    message.extend_from_slice(&(!len).to_le_bytes());
                    message.extend_from_slice(chunk);
                    message.push(STORED);
                    spare = true;
                }
            }
        }
    }
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + message.len());
    frame::put_compressed_header(&mut out, opcode, message.len());
    out.extend_from_slice(&message);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::super::frame::RSV1;
    use super::super::inflate::Inflater;
    use super::*;
    use proptest::prelude::*;

    const MIB: usize = 1024 * 1024;

    fn inflated(message: &[u8]) -> Vec<u8> {
        Inflater::new(8 * MIB).message(message, 8 * MIB).unwrap().to_vec()
    }

    /// Whether it is compressed, and the payload that a client reads from a frame.
    fn read(frame: &[u8]) -> (bool, Vec<u8>) {
        let payload = &frame[frame::header_bytes(frame)..];
        match frame[0] & RSV1 {
            0 => (false, payload.to_vec()),
            _ => (true, inflated(payload)),
        }
    }

    #[test]
    fn a_frame_is_compressed_where_that_makes_it_smaller() {
        let mut deflater = Deflater::default();
        let short = vec![b'x'; COMPRESS_BYTES_MIN - 1];
        let long = vec![b'x'; COMPRESS_BYTES_MIN];
        let huge = vec![b'x'; 300_000];
        let mut seed = 1_u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed.to_be_bytes()[0]
        })
        .take(2_000)
        .collect();
        let table: &[(&str, &[u8], bool)] = &[
            ("nothing", b"", false),
            ("short", &short, false),
            ("long enough", &long, true),
            ("huge", &huge, true),
            ("noise", &noise, false),
        ];
        for (what, payload, compressed) in table {
            let frame = deflater.frame(Opcode::Text, &[payload]);
            assert_eq!(read(&frame), (*compressed, payload.to_vec()), "{what}");
            assert_eq!(frame[0] & 0x0f, 1, "{what}");
            assert!(frame.len() <= HEADER_BYTES_MAX + payload.len(), "{what}");
        }
        assert_eq!(deflater.frame(Opcode::Ping, &[&long])[0], 0x89, "control frames never are (RFC 7692 §6.1)");
    }

    #[test]
    fn joining_adds_no_bytes_to_the_parts() {
        let mut deflater = Deflater::default();
        let quote = br#"{"bid":"61800.10","bid_size":"3.788","ask":"61800.20","ask_size":"1.546"}"#;
        let part = deflater.part(quote);
        assert!(part.ends_with(&TAIL));
        let (one, two) = (Part::Deflated(&part), Part::Plain(b"\n"));
        let frame = join(Opcode::Text, [one, two, one]);
        assert_eq!(
            frame.len(),
            2 + 2 * part.len() - TAIL.len() + 1,
            "header, parts without the last tail, a line feed"
        );
        assert_eq!(read(&frame), (true, [&quote[..], b"\n", quote].concat()));
    }

    #[test]
    fn a_part_knows_nothing_of_the_one_before() {
        let mut deflater = Deflater::default();
        let first = deflater.part(&[b'q'; 1_000]);
        let other = deflater.part(&[b'z'; 70_000]);
        assert_eq!(deflater.part(&[b'q'; 1_000]), first);
        assert_eq!(inflated(&other[..other.len() - 4]), [b'z'; 70_000]);
    }

    fn payload() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            prop::collection::vec(0x30..0x3a_u8, 0..3_000),
            (any::<u8>(), 0..200_000_usize).prop_map(|(byte, len)| vec![byte; len]),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_is_joined_inflates_to_its_payloads(
            parts in prop::collection::vec((any::<bool>(), payload()), 0..8),
        ) {
            let mut deflater = Deflater::default();
            let made: Vec<(bool, Bytes)> = parts
                .iter()
                .map(|(deflated, p)| (*deflated, if *deflated { deflater.part(p) } else { Bytes::copy_from_slice(p) }))
                .collect();
            let frame = join(
                Opcode::Binary,
                made.iter().map(|(deflated, p)| if *deflated { Part::Deflated(p) } else { Part::Plain(p) }),
            );
            let whole: Vec<u8> = parts.iter().flat_map(|(_, p)| p.iter().copied()).collect();
            prop_assert_eq!(read(&frame), (true, whole));
        }

        #[test]
        fn whatever_is_framed_is_read_back(parts in prop::collection::vec(payload(), 0..4)) {
            let mut deflater = Deflater::default();
            let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
            let whole = parts.concat();
            for _ in 0..2 {
                let frame = deflater.frame(Opcode::Text, &slices);
                prop_assert_eq!(&read(&frame).1, &whole);
            }
        }
    }
}
