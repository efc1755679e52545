//! Several frames as one message: a browser that gets one event in place of many does less work.

use super::Dialect;
use crate::limits::{DRAIN_CHUNK_BYTES, JOINED_BYTES_MAX};
use crate::wire::frame::{self, HEADER_BYTES_MAX, Opcode, frame_bytes};

impl Dialect {
    /// The largest message that several deliveries are joined into, in bytes as the client reads it.
    pub fn joined_bytes_max(self) -> usize {
        match self {
            Self::Plain => DRAIN_CHUNK_BYTES,
            Self::CentrifugeJson | Self::CentrifugeProtobuf => JOINED_BYTES_MAX,
        }
    }

    /// The bytes before, between and after messages that are joined: `plain` makes them a JSON list, Centrifuge's JSON writes
    /// one per line, and Protobuf messages follow each other, as each carries its length.
    pub fn seams(self) -> [&'static [u8]; 3] {
        match self {
            Self::Plain => [b"[", b",", b"]"],
            Self::CentrifugeJson => [b"", b"\n", b""],
            Self::CentrifugeProtobuf => [b"", b"", b""],
        }
    }

    /// Writes the one frame that says what all of `frames` say into `out`, which is emptied first. `false` if one of them is
    /// no data frame; what is in `out` then means nothing.
    pub fn join(self, frames: &[u8], out: &mut Vec<u8>) -> bool {
        let opcode = self.opcode();
        let [open, between, close] = self.seams();
        out.clear();
        out.resize(HEADER_BYTES_MAX, 0);
        out.extend_from_slice(open);
        let mut rest = frames;
        while !rest.is_empty() {
            let (whole, next) = rest.split_at(frame_bytes(rest).min(rest.len()));
            if whole.first().copied().and_then(Opcode::from_bits) != Some(opcode) {
                return false;
            }
            if out.len() > HEADER_BYTES_MAX + open.len() {
                out.extend_from_slice(between);
            }
            out.extend_from_slice(whole.get(frame::header_bytes(whole)..).unwrap_or_default());
            rest = next;
        }
        out.extend_from_slice(close);
        let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
        frame::put_header(&mut header, opcode, out.len() - HEADER_BYTES_MAX);
        out.drain(..HEADER_BYTES_MAX - header.len());
        if let Some(room) = out.get_mut(..header.len()) {
            room.copy_from_slice(&header);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_frames_become_one_message_and_others_stay_alone() {
        let frames = [&frame::frame(Opcode::Text, b"1")[..], &frame::frame(Opcode::Text, b"2")].concat();
        let mut out = Vec::new();
        assert!(Dialect::Plain.join(&frames, &mut out));
        assert_eq!(out, frame::frame(Opcode::Text, b"[1,2]"));
        assert!(Dialect::CentrifugeJson.join(&frames, &mut out));
        assert_eq!(out, frame::frame(Opcode::Text, b"1\n2"));
        assert!(!Dialect::CentrifugeProtobuf.join(&frames, &mut out), "text is not a Protobuf client's data");
        let with_ping = [&frames[..], &frame::frame(Opcode::Ping, b"")].concat();
        assert!(!Dialect::Plain.join(&with_ping, &mut out));
    }
}
