//! Compressed frames. Each is compressed once, for all sessions that negotiated permessage-deflate.

use std::collections::HashMap;

use bytes::Bytes;

use crate::protocol::Dialect;
use crate::wire::deflate::{self, Deflater, Part};
use crate::wire::frame::{self, Opcode, RSV1, frame_bytes};

/// The beginning and the end of a compressed list as [`deflate::join`] makes it: each bracket is one stored byte.
const OPEN: [u8; 6] = [0x00, 0x01, 0x00, 0xfe, 0xff, b'['];
const CLOSE: [u8; 6] = [0x01, 0x00, 0xfe, 0xff, b']', 0x00];

/// A compressor, with the frames that it compressed in this tick.
#[derive(Default)]
pub(in crate::hub) struct Compressor {
    /// Created for the first session that negotiated permessage-deflate.
    deflater: Option<Box<Deflater>>,
    /// Keyed by the frame's address. The frame is kept with it, so that no other frame can get that address.
    made: HashMap<(usize, usize), (Bytes, Bytes)>,
    body: Vec<u8>,
}

impl Compressor {
    /// Returns a frame, compressed if that makes it smaller.
    pub(in crate::hub) fn frame(&mut self, plain: &Bytes) -> Bytes {
        let Some(opcode) = plain.first().and_then(|b0| Opcode::from_bits(*b0)).filter(|o| !o.is_control()) else {
            return plain.clone();
        };
        let deflater = self.deflater.get_or_insert_default();
        let place = (plain.as_ptr() as usize, plain.len());
        let (_, made) = self.made.entry(place).or_insert_with(|| {
            let payload = plain.get(frame::header_bytes(plain)..).unwrap_or_default();
            (plain.clone(), deflater.frame(opcode, &[payload]))
        });
        made.clone()
    }

    /// Compresses several frames of one topic into one message: a list in `plain`.
    pub(in crate::hub) fn joined<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>, dialect: Dialect) -> Bytes {
        self.body.clear();
        let [_, between, _] = dialect.seams();
        for frame in frames {
            if !self.body.is_empty() {
                self.body.extend_from_slice(between);
            }
            self.body.extend_from_slice(frame.get(frame::header_bytes(frame)..).unwrap_or_default());
        }
        let deflater = self.deflater.get_or_insert_default();
        match dialect {
            Dialect::Plain => {
                let part = deflater.part(&self.body);
                deflate::join(Opcode::Text, [Part::Plain(b"["), Part::Deflated(&part), Part::Plain(b"]")])
            }
            _ => deflater.frame(dialect.opcode(), &[&self.body]),
        }
    }

    pub(in crate::hub) fn end_tick(&mut self) {
        self.made.clear();
        self.made.shrink_to(1_024);
        self.body.shrink_to(256 * 1024);
    }
}

/// Whether any of these frames is compressed.
pub(in crate::hub) fn any_compressed(mut frames: &[u8]) -> bool {
    while let Some(b0) = frames.first() {
        if b0 & RSV1 != 0 {
            return true;
        }
        frames = frames.get(frame_bytes(frames)..).unwrap_or_default();
    }
    false
}

/// Joins data frames, some of them compressed, into one compressed message without compressing anything again. `None`
/// if one of them is not a data frame.
pub(in crate::hub) fn join(frames: &[u8], dialect: Dialect) -> Option<Bytes> {
    let opcode = dialect.opcode();
    let [open, between, close] = dialect.seams();
    let mut parts = vec![Part::Plain(open)];
    let mut rest = frames;
    while !rest.is_empty() {
        let (whole, next) = rest.split_at(frame_bytes(rest).min(rest.len()));
        let b0 = *whole.first()?;
        if Opcode::from_bits(b0) != Some(opcode) {
            return None;
        }
        let payload = whole.get(frame::header_bytes(whole)..)?;
        if parts.len() > 1 {
            parts.push(Part::Plain(between));
        }
        parts.push(match b0 & RSV1 {
            // A list is joined without its brackets.
            0 => Part::Plain(payload.strip_prefix(b"[").and_then(|p| p.strip_suffix(b"]")).unwrap_or(payload)),
            _ => Part::Deflated(payload.strip_prefix(&OPEN).and_then(|p| p.strip_suffix(&CLOSE)).unwrap_or(payload)),
        });
        rest = next;
    }
    parts.push(Part::Plain(close));
    Some(deflate::join(opcode, parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::inflate::Inflater;
    use proptest::prelude::*;

    fn text(frame: &[u8]) -> String {
        let payload = &frame[frame::header_bytes(frame)..];
        match frame[0] & RSV1 {
            0 => String::from_utf8(payload.to_vec()).unwrap(),
            _ => String::from_utf8(Inflater::new(1 << 20).message(payload, 1 << 20).unwrap().to_vec()).unwrap(),
        }
    }

    proptest! {
        /// For any mix of compressed and plain frames, batched or single, the joined message has all of them in order.
        #[test]
        fn a_write_of_compressed_frames_is_one_message(
            runs in prop::collection::vec(prop::collection::vec(1usize..400, 1..5), 1..6),
            centrifuge in any::<bool>(),
        ) {
            let dialect = if centrifuge { Dialect::CentrifugeJson } else { Dialect::Plain };
            let mut compressor = Compressor::default();
            let (mut gathered, mut want, mut n) = (Vec::new(), Vec::new(), 0);
            for run in &runs {
                let messages: Vec<String> = run.iter().map(|len| {
                    n += 1;
                    format!("{{\"n\":{n},\"x\":\"{}\"}}", "abcdefg".repeat(len / 7))
                }).collect();
                let frames: Vec<Bytes> = messages.iter().map(|m| frame::frame(Opcode::Text, m.as_bytes())).collect();
                match frames.as_slice() {
                    [one] => gathered.extend_from_slice(&compressor.frame(one)),
                    several => gathered.extend_from_slice(&compressor.joined(several.iter(), dialect)),
                }
                want.extend(messages);
            }
            let joined = join(&gathered, dialect).unwrap();
            let want = if centrifuge { want.join("\n") } else { format!("[{}]", want.join(",")) };
            prop_assert_eq!(text(&joined), want);
            prop_assert_eq!(frame_bytes(&joined), joined.len());
        }
    }

    #[test]
    fn a_frame_is_compressed_once_a_tick() {
        let mut compressor = Compressor::default();
        let frame = frame::frame(Opcode::Text, &b"tick ".repeat(100));
        let (a, b) = (compressor.frame(&frame), compressor.frame(&frame.clone()));
        assert!(a.len() < frame.len() && a.as_ptr() == b.as_ptr());
        let ping = frame::frame(Opcode::Ping, b"");
        assert_eq!(compressor.frame(&ping), ping);
        compressor.end_tick();
        assert!(compressor.made.is_empty());
    }

    #[test]
    fn a_close_is_never_put_into_a_message() {
        let mut frames = frame::frame(Opcode::Text, b"{}").to_vec();
        frames.extend_from_slice(&frame::frame(Opcode::Close, b"\x03\xe8"));
        assert_eq!(join(&frames, Dialect::Plain), None);
    }
}
