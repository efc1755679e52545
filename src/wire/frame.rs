//! Server frames (RFC 6455 §5.2). They carry no mask, so one run of bytes serves every session.

use bytes::Bytes;

use super::close::CloseReason;

/// Longest header of a server frame: two bytes and a 64-bit length.
pub const HEADER_BYTES_MAX: usize = 10;

const FIN: u8 = 0x80;

/// Set on the first frame of a compressed message (RFC 7692 §6).
pub const RSV1: u8 = 0x40;

/// Opcodes (RFC 6455 §11.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Opcode {
    Continuation = 0,
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

impl Opcode {
    /// The opcode of a first header byte, if it is one that the RFC defines.
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 0x0f {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    /// Whether this is a control frame (RFC 6455 §5.5).
    pub fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// Appends the header of an unfragmented server frame of `len` payload bytes.
pub fn put_header(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    put_first(out, FIN | opcode as u8, len);
}

/// The same for a compressed message; `len` is its compressed length.
pub(super) fn put_compressed_header(out: &mut Vec<u8>, opcode: Opcode, len: usize) {
    put_first(out, FIN | RSV1 | opcode as u8, len);
}

fn put_first(out: &mut Vec<u8>, first: u8, len: usize) {
    out.push(first);
    if let (Ok(short), true) = (u8::try_from(len), len < 126) {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(len) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(len as u64).to_be_bytes());
    }
}

/// A whole frame of `opcode` around `payload`.
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + payload.len());
    put_header(&mut out, opcode, payload.len());
    out.extend_from_slice(payload);
    Bytes::from(out)
}

/// A whole text frame whose payload `write` appends. The payload is written once, in place: room
/// for the longest header is left in front, and the unused part is cut off without a copy.
pub fn text(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    written(Opcode::Text, capacity, write)
}

/// The same as a binary frame.
pub fn binary(capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    written(Opcode::Binary, capacity, write)
}

fn written(opcode: Opcode, capacity: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(HEADER_BYTES_MAX + capacity);
    out.resize(HEADER_BYTES_MAX, 0);
    write(&mut out);
    let len = out.len() - HEADER_BYTES_MAX;
    let mut header = Vec::with_capacity(HEADER_BYTES_MAX);
    put_header(&mut header, opcode, len);
    let start = HEADER_BYTES_MAX - header.len();
    if let Some(room) = out.get_mut(start..HEADER_BYTES_MAX) {
        room.copy_from_slice(&header);
    }
    Bytes::from(out).slice(start..)
}

/// Bytes of the header of a whole server frame.
pub fn header_bytes(frame: &[u8]) -> usize {
    match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    }
    .min(frame.len())
}

/// Bytes of the first whole server frame in `bytes`, by its header (RFC 6455 §5.2): `bytes.len()` if even the header is
/// incomplete. A frame may be longer than `bytes`.
pub fn frame_bytes(bytes: &[u8]) -> usize {
    match *bytes {
        [_, n @ 0..126, ..] => 2 + usize::from(n),
        [_, 126, a, b, ..] => 4 + usize::from(u16::from_be_bytes([a, b])),
        [_, 127, a, b, c, d, e, f, g, h, ..] => {
            10 + usize::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h])).unwrap_or(usize::MAX / 2)
        }
        _ => bytes.len(),
    }
}

/// A close frame with any code and reason; a reason that is too long for a control frame (RFC 6455
/// §5.5) is cut.
pub fn close_with(code: u16, reason: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    let mut end = reason.len().min(123);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    payload.extend_from_slice(reason.get(..end).unwrap_or_default().as_bytes());
    frame(Opcode::Close, &payload)
}

/// A close frame with its code and reason.
pub fn close(reason: CloseReason) -> Bytes {
    close_with(reason.code(), reason.reason())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        for (len, header) in [(0usize, 2usize), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let whole = text(len, |out| out.resize(out.len() + len, b'x'));
            assert_eq!(whole.len(), header + len, "{len}");
            assert_eq!(whole, frame(Opcode::Text, &vec![b'x'; len]));
        }
    }

    #[test]
    fn close_reasons_fit_a_control_frame_and_are_distinct() {
        let mut reasons: Vec<&str> = CloseReason::ALL.iter().map(|r| r.reason()).collect();
        for reason in CloseReason::ALL {
            assert!(close(reason).len() <= 2 + 125, "{reason:?}");
        }
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(reasons.len(), CloseReason::ALL.len(), "two reasons have the same text");
    }
}
