//! Compressed frames: made once, for all who negotiated permessage-deflate, whichever session asks for them first.

use std::collections::HashMap;

use bytes::Bytes;

use super::backlog::frame_bytes;
use super::gathering::seams;
use super::outbox::Piece;
use super::subscribers::Form;
use crate::protocol::Dialect;
use crate::wire::deflate::{self, Deflater, Part};
use crate::wire::frame::{self, Opcode, RSV1};

/// How a compressed list begins and ends where [`deflate::join`] put the brackets: one stored byte each.
const OPEN: [u8; 6] = [0x00, 0x01, 0x00, 0xfe, 0xff, b'['];
const CLOSE: [u8; 6] = [0x01, 0x00, 0xfe, 0xff, b']', 0x00];

/// A compressor, and what it made in this tick.
#[derive(Default)]
pub(super) struct Deflating {
    /// Made for the first session that negotiated it.
    deflater: Option<Box<Deflater>>,
    /// By where the frame lies, which is kept so that nothing else can lie there.
    made: HashMap<(usize, usize), (Bytes, Bytes)>,
    body: Vec<u8>,
}

impl Deflating {
    /// A frame, compressed if that makes it smaller.
    pub(super) fn frame(&mut self, plain: &Bytes) -> Bytes {
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

    /// A piece of one frame as sessions of a lane of this form get it.
    pub(super) fn shaped(&mut self, form: Form, piece: Piece) -> Piece {
        if form == Form::Plain { piece } else { piece.compressed(|frame| self.frame(frame)) }
    }

    /// Several frames of one topic as one: in `plain` a list.
    pub(super) fn run<'a>(&mut self, frames: impl Iterator<Item = &'a Bytes>, dialect: Dialect) -> Bytes {
        self.body.clear();
        let [_, between, _] = seams(dialect);
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

    pub(super) fn end_tick(&mut self) {
        self.made.clear();
        self.made.shrink_to(1_024);
        self.body.shrink_to(256 * 1024);
    }
}

/// What a lane's frames look like to a session.
pub(super) fn form(dialect: Dialect, deflate: bool, list: bool) -> Form {
    match (deflate, dialect) {
        (false, _) => Form::Plain,
        (true, Dialect::Plain) if !list => Form::Deflate,
        (true, _) => Form::DeflateRuns,
    }
}

/// Whether any of these frames is compressed.
pub(super) fn any_compressed(mut frames: &[u8]) -> bool {
    while let Some(b0) = frames.first() {
        if b0 & RSV1 != 0 {
            return true;
        }
        frames = frames.get(frame_bytes(frames)..).unwrap_or_default();
    }
    false
}

/// Puts data frames, of which some are compressed, into one compressed message without compressing anything. `None` if one
/// of them is no data frame.
pub(super) fn join(frames: &[u8], dialect: Dialect) -> Option<Bytes> {
    let opcode = dialect.opcode();
    let [open, between, close] = seams(dialect);
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
            // A list goes into the list without its brackets.
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
        /// Whatever comes in a visit, compressed or not, in runs or alone: the one message says all of it in order.
        #[test]
        fn a_visit_of_compressed_frames_is_one_message(
            runs in prop::collection::vec(prop::collection::vec(1usize..400, 1..5), 1..6),
            centrifuge in any::<bool>(),
        ) {
            let dialect = if centrifuge { Dialect::CentrifugeJson } else { Dialect::Plain };
            let mut deflating = Deflating::default();
            let (mut gathered, mut want, mut n) = (Vec::new(), Vec::new(), 0);
            for run in &runs {
                let messages: Vec<String> = run.iter().map(|len| {
                    n += 1;
                    format!("{{\"n\":{n},\"x\":\"{}\"}}", "abcdefg".repeat(len / 7))
                }).collect();
                let frames: Vec<Bytes> = messages.iter().map(|m| frame::frame(Opcode::Text, m.as_bytes())).collect();
                match frames.as_slice() {
                    [one] => gathered.extend_from_slice(&deflating.frame(one)),
                    several => gathered.extend_from_slice(&deflating.run(several.iter(), dialect)),
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
        let mut deflating = Deflating::default();
        let frame = frame::frame(Opcode::Text, &b"tick ".repeat(100));
        let (a, b) = (deflating.frame(&frame), deflating.frame(&frame.clone()));
        assert!(a.len() < frame.len() && a.as_ptr() == b.as_ptr());
        let ping = frame::frame(Opcode::Ping, b"");
        assert_eq!(deflating.frame(&ping), ping);
        deflating.end_tick();
        assert!(deflating.made.is_empty());
    }

    #[test]
    fn a_close_is_never_put_into_a_message() {
        let mut frames = frame::frame(Opcode::Text, b"{}").to_vec();
        frames.extend_from_slice(&frame::frame(Opcode::Close, b"\x03\xe8"));
        assert_eq!(join(&frames, Dialect::Plain), None);
    }
}
