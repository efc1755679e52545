//! Client frames (RFC 6455 §5): one at a time from a run of bytes, unmasked in place.

use super::close::CloseReason;
use super::frame::{Opcode, RSV1};

/// One frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientFrame<'a> {
    /// Last of its message.
    pub fin: bool,
    /// Its opcode.
    pub opcode: Opcode,
    /// First of a compressed message (RFC 7692 §6).
    pub compressed: bool,
    /// Its payload, unmasked.
    pub payload: &'a mut [u8],
}

/// The front of a run of bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Front<'a> {
    /// The header or the payload is incomplete.
    Incomplete,
    /// A whole frame, and its length.
    Frame(ClientFrame<'a>, usize),
}

/// Reads the frame at the front of `buf`. `deflate` says whether permessage-deflate was negotiated.
///
/// # Errors
/// The close reason that the RFC asks for: reserved bits or opcodes, a missing mask (§5.1), a length
/// that is not in its shortest form (§5.2), a control frame that is fragmented or over 125 bytes
/// (§5.5), a data payload over `payload_max`, or RSV1 on a frame that is not the first of a data
/// message (RFC 7692 §6.1). The length is checked as soon as the header is there, before any payload.
pub fn front(buf: &mut [u8], payload_max: usize, deflate: bool) -> Result<Front<'_>, CloseReason> {
    let [b0, b1, ..] = *buf else { return Ok(Front::Incomplete) };
    let opcode = Opcode::from_bits(b0).ok_or(CloseReason::ProtocolError)?;
    let compressed = match b0 & 0x70 {
        0 => false,
        RSV1 if deflate && matches!(opcode, Opcode::Text | Opcode::Binary) => true,
        _ => return Err(CloseReason::ProtocolError),
    };
    let fin = b0 & 0x80 != 0;
    if b1 & 0x80 == 0 {
        return Err(CloseReason::ProtocolError);
    }
    let short = b1 & 0x7f;
    if opcode.is_control() && (!fin || short > 125) {
        return Err(CloseReason::ProtocolError);
    }
    let (len, at): (u64, usize) = match short {
        126 => match *buf {
            [_, _, a, b, ..] => (u64::from(u16::from_be_bytes([a, b])), 4),
            _ => return Ok(Front::Incomplete),
        },
        127 => match *buf {
            [_, _, a, b, c, d, e, f, g, h, ..] => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 10),
            _ => return Ok(Front::Incomplete),
        },
        _ => (u64::from(short), 2),
    };
    if (short == 126 && len < 126) || (short == 127 && len <= 0xffff) || len >> 63 != 0 {
        return Err(CloseReason::ProtocolError);
    }
    let len = match usize::try_from(len) {
        // A control frame may come between fragments that have used up the limit.
        Ok(len) if len <= payload_max || opcode.is_control() => len,
        _ => return Err(CloseReason::MessageTooBig),
    };
    let total = at + 4 + len;
    let Some(whole) = buf.get_mut(..total) else { return Ok(Front::Incomplete) };
    let (header, payload) = whole.split_at_mut(at + 4);
    let mask = match *header {
        [.., a, b, c, d] => [a, b, c, d],
        _ => return Ok(Front::Incomplete),
    };
    unmask(payload, mask);
    Ok(Front::Frame(ClientFrame { fin, opcode, compressed, payload }, total))
}

/// RFC 6455 §5.3, eight bytes at a time.
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A masked client frame.
    #[allow(clippy::cast_possible_truncation, reason = "each length is matched to fit")]
    pub(crate) fn client_frame(fin: bool, opcode: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut out = vec![if fin { 0x80 } else { 0 } | opcode];
        match payload.len() {
            n @ 0..126 => out.push(0x80 | n as u8),
            n @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, k)| b ^ k));
        out
    }

    #[test]
    fn violations_end_with_the_code_the_rfc_names() {
        use CloseReason::{MessageTooBig, ProtocolError};
        let table: &[(&str, &[u8], CloseReason)] = &[
            ("RSV2", &[0xa1, 0x80, 0, 0, 0, 0], ProtocolError),
            ("RSV3", &[0x91, 0x80, 0, 0, 0, 0], ProtocolError),
            ("RSV1 and RSV2", &[0xe1, 0x80, 0, 0, 0, 0], ProtocolError),
            ("compressed continuation", &[0xc0, 0x80, 0, 0, 0, 0], ProtocolError),
            ("compressed ping", &[0xc9, 0x80, 0, 0, 0, 0], ProtocolError),
            ("compressed close", &[0xc8, 0x80, 0, 0, 0, 0], ProtocolError),
            ("reserved opcode", &[0x83, 0x80, 0, 0, 0, 0], ProtocolError),
            ("no mask", &[0x81, 0x00], ProtocolError),
            ("fragmented ping", &[0x09, 0x80, 0, 0, 0, 0], ProtocolError),
            ("long ping", &[0x89, 0xfe, 0, 126], ProtocolError),
            ("16-bit length below 126", &[0x81, 0xfe, 0, 125], ProtocolError),
            ("64-bit length below 65536", &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 9], ProtocolError),
            ("64-bit length with the top bit", &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0], ProtocolError),
            ("1 GiB, header alone", &[0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0], MessageTooBig),
        ];
        for (what, bytes, reason) in table {
            assert_eq!(front(&mut bytes.to_vec(), 65_536, true), Err(*reason), "{what}");
        }
    }

    #[test]
    fn rsv1_is_for_the_first_frame_of_a_message_once_it_was_negotiated() {
        for (first, compressed) in [(0xc1, true), (0x41, true), (0xc2, true), (0x81, false)] {
            let bytes = [first, 0x80, 0, 0, 0, 0];
            match front(&mut bytes.to_vec(), 10, true) {
                Ok(Front::Frame(frame, 6)) => assert_eq!(frame.compressed, compressed, "{first:x}"),
                other => panic!("{first:x}: {other:?}"),
            }
            let refused = front(&mut bytes.to_vec(), 10, false).is_err();
            assert_eq!(refused, compressed, "{first:x} without negotiation");
        }
    }

    proptest! {
        #[test]
        fn masked_frames_are_read_back_once_complete(
            payload in prop::collection::vec(any::<u8>(), 0..700),
            mask in any::<[u8; 4]>(),
            rest in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let whole = client_frame(true, 2, &payload, mask);
            for cut in 0..whole.len() {
                let mut part = whole[..cut].to_vec();
                prop_assert_eq!(front(&mut part, 65_536, false), Ok(Front::Incomplete));
            }
            let mut bytes = [whole.clone(), rest].concat();
            match front(&mut bytes, 65_536, false) {
                Ok(Front::Frame(frame, used)) => {
                    prop_assert_eq!(&*frame.payload, &payload[..]);
                    prop_assert_eq!(used, whole.len());
                }
                other => prop_assert!(false, "{:?}", other),
            }
        }

        #[test]
        fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = front(&mut bytes, 1024, true);
        }
    }
}
