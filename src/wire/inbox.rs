//! Turns received bytes into whole messages. A session between two messages stores nothing.

use super::close::CloseReason;
use super::frame::Opcode;
use super::inflate::Inflater;
use super::reader::{ClientFrame, Front, front};
use crate::accounts::{self, Held, append};

/// The state of an unfinished message: boxed, because hardly any session has one.
#[derive(Debug)]
pub struct Inbox {
    /// Bytes of an incomplete frame.
    buffered: Vec<u8>,
    /// Payload of the fragments so far (RFC 6455 §5.4).
    message: Vec<u8>,
    /// Opcode of the fragmented message; `None` outside one.
    opcode: Option<Opcode>,
    /// Whether the message is compressed.
    compressed: bool,
    /// Start of this message, by the caller's clock.
    pub since_ms: u64,
    /// The stored bytes may contain whole messages, because their reader paused.
    paused: bool,
    account: Held,
}

impl Inbox {
    fn new(since_ms: u64) -> Self {
        let account = Held::none(&accounts::INCOMING);
        let (buffered, message) = (Vec::new(), Vec::new());
        Self { buffered, message, opcode: None, compressed: false, since_ms, paused: false, account }
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.account.bytes()
    }

    fn recount(&mut self) {
        self.account.set(size_of::<Self>() + self.buffered.capacity() + self.message.capacity());
    }

    /// Whether it may contain whole messages, which another call of [`feed`] hands over.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Received bytes that were not handled yet, without those of earlier fragments.
    pub fn held_bytes(&self) -> usize {
        self.buffered.len()
    }
}

/// A whole message or control frame of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A text message, inflated; not yet checked to be UTF-8.
    Text(&'a mut [u8]),
    /// A binary message, inflated.
    Binary(&'a mut [u8]),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A close frame with this payload.
    Close(&'a [u8]),
}

/// The treatment of compressed messages (RFC 7692).
#[derive(Debug)]
pub enum Compressed<'a> {
    /// Not negotiated: they are a protocol error.
    Refused,
    /// They are skipped: the session is closing, so their content does not matter, and inflating
    /// takes time.
    Skipped,
    /// They are inflated.
    Inflated(&'a mut Inflater),
}

/// Whether to continue reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Continue with the next message.
    Continue,
    /// The session's turn is over: the rest is stored unread until [`feed`] is called again.
    Pause,
    /// The session has ended; the rest does not matter.
    Stop,
}

/// Passes every whole message in `bytes` (after the rest stored in `inbox`) to `handle`; stores the
/// rest.
///
/// No message may exceed `message_max` bytes, neither as received nor inflated.
///
/// # Errors
/// The close reason of the first violation; the session must be closed with it.
pub fn feed(
    inbox: &mut Option<Box<Inbox>>,
    bytes: &mut [u8],
    message_max: usize,
    compressed: Compressed<'_>,
    now_ms: u64,
    mut handle: impl FnMut(Incoming<'_>) -> Flow,
) -> Result<(), CloseReason> {
    let mut reading = Reading { message_max, compressed, now_ms, paused: false, handle: &mut handle };
    let buffered = match inbox {
        Some(open) if !open.buffered.is_empty() => {
            let mut buffered = std::mem::take(&mut open.buffered);
            append(&mut buffered, bytes);
            let Some(used) = reading.consume(inbox, &mut buffered)? else { return Ok(()) };
            // An incomplete frame stays in place: a large one that arrives in small parts is not
            // copied for each.
            buffered.drain(..used);
            buffered
        }
        _ => {
            let Some(used) = reading.consume(inbox, bytes)? else { return Ok(()) };
            bytes.get(used..).unwrap_or_default().to_vec()
        }
    };
    let paused = reading.paused && !buffered.is_empty();
    if !buffered.is_empty() {
        let open = reading.open(inbox);
        (open.buffered, open.paused) = (buffered, paused);
    } else if let Some(open) = inbox {
        open.paused = false;
        if open.opcode.is_none() {
            *inbox = None;
        }
    }
    if let Some(inbox) = inbox {
        inbox.recount();
    }
    Ok(())
}

/// One turn of [`feed`].
struct Reading<'a, H> {
    message_max: usize,
    compressed: Compressed<'a>,
    now_ms: u64,
    /// The handler has paused.
    paused: bool,
    handle: &'a mut H,
}

impl<H: FnMut(Incoming<'_>) -> Flow> Reading<'_, H> {
    fn open<'i>(&self, inbox: &'i mut Option<Box<Inbox>>) -> &'i mut Inbox {
        inbox.get_or_insert_with(|| Box::new(Inbox::new(self.now_ms)))
    }

    /// The number of bytes in whole frames; `None` if the session has ended.
    fn consume(&mut self, inbox: &mut Option<Box<Inbox>>, bytes: &mut [u8]) -> Result<Option<usize>, CloseReason> {
        let mut at = 0;
        loop {
            // A fragment may only fill the rest of the message's limit.
            let room = self.message_max - inbox.as_ref().map_or(0, |i| i.message.len().min(self.message_max));
            let rest = bytes.get_mut(at..).unwrap_or_default();
            match front(rest, room, !matches!(self.compressed, Compressed::Refused))? {
                Front::Incomplete => return Ok(Some(at)),
                Front::Frame(frame, used) => {
                    at += used;
                    match self.accept(inbox, frame)? {
                        Flow::Continue => {}
                        Flow::Pause => {
                            self.paused = true;
                            return Ok(Some(at));
                        }
                        Flow::Stop => {
                            *inbox = None;
                            return Ok(None);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self, inbox: &mut Option<Box<Inbox>>, frame: ClientFrame<'_>) -> Result<Flow, CloseReason> {
        match frame.opcode {
            Opcode::Ping => Ok((self.handle)(Incoming::Ping(frame.payload))),
            Opcode::Pong => Ok((self.handle)(Incoming::Pong)),
            Opcode::Close => {
                check_close(frame.payload)?;
                Ok((self.handle)(Incoming::Close(frame.payload)))
            }
            Opcode::Continuation => {
                let Some(open) = inbox.as_mut() else { return Err(CloseReason::ProtocolError) };
                let Some(opcode) = open.opcode else { return Err(CloseReason::ProtocolError) };
                append(&mut open.message, frame.payload);
                if !frame.fin {
                    return Ok(Flow::Continue);
                }
                open.opcode = None;
                // The following frame belongs to another message.
                open.since_ms = self.now_ms;
                let mut whole = std::mem::take(&mut open.message);
                self.whole(opcode, &mut whole, open.compressed)
            }
            opcode @ (Opcode::Text | Opcode::Binary) => {
                if let Some(open) = inbox {
                    if open.opcode.is_some() {
                        return Err(CloseReason::ProtocolError);
                    }
                    open.since_ms = self.now_ms;
                }
                if frame.fin {
                    return self.whole(opcode, frame.payload, frame.compressed);
                }
                let open = self.open(inbox);
                open.opcode = Some(opcode);
                open.compressed = frame.compressed;
                open.message = frame.payload.to_vec();
                Ok(Flow::Continue)
            }
        }
    }

    /// A message with all its fragments.
    fn whole(&mut self, opcode: Opcode, payload: &mut [u8], compressed: bool) -> Result<Flow, CloseReason> {
        let payload = match (compressed, &mut self.compressed) {
            (false, _) => payload,
            (true, Compressed::Inflated(inflater)) => inflater.message(payload, self.message_max)?,
            (true, Compressed::Skipped | Compressed::Refused) => return Ok(Flow::Continue),
        };
        Ok((self.handle)(match opcode {
            Opcode::Text => Incoming::Text(payload),
            _ => Incoming::Binary(payload),
        }))
    }
}

/// RFC 6455 §5.5.1 and §7.4: no payload, or a valid code and a UTF-8 reason.
fn check_close(payload: &[u8]) -> Result<(), CloseReason> {
    match payload {
        [] => Ok(()),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(CloseReason::ProtocolError);
            }
            std::str::from_utf8(reason).map(|_| ()).map_err(|_| CloseReason::InvalidUtf8)
        }
        _ => Err(CloseReason::ProtocolError),
    }
}

#[cfg(test)]
mod tests {
    use super::super::reader::tests::client_frame;
    use super::*;
    use proptest::prelude::*;

    const MASK: [u8; 4] = [7, 1, 200, 99];

    fn run(chunks: &[&[u8]], max: usize) -> (Vec<String>, Result<(), CloseReason>, bool) {
        run_with(None, chunks, max)
    }

    fn run_with(
        mut inflater: Option<&mut Inflater>,
        chunks: &[&[u8]],
        max: usize,
    ) -> (Vec<String>, Result<(), CloseReason>, bool) {
        let mut inbox = None;
        let mut seen = Vec::new();
        for chunk in chunks {
            let compressed = inflater.as_deref_mut().map_or(Compressed::Refused, Compressed::Inflated);
            let result = feed(&mut inbox, &mut chunk.to_vec(), max, compressed, 0, |m| {
                seen.push(match m {
                    Incoming::Text(t) => format!("text {}", String::from_utf8_lossy(t)),
                    Incoming::Binary(b) => format!("binary {}", b.len()),
                    Incoming::Ping(p) => format!("ping {}", String::from_utf8_lossy(p)),
                    Incoming::Pong => "pong".into(),
                    Incoming::Close(_) => "close".into(),
                });
                Flow::Continue
            });
            if result.is_err() {
                return (seen, result, inbox.is_some());
            }
        }
        (seen, Ok(()), inbox.is_some())
    }

    #[test]
    fn fragments_join_and_control_frames_pass_between_them() {
        let bytes = [
            client_frame(false, 1, b"he", MASK),
            client_frame(true, 9, b"!", MASK),
            client_frame(false, 0, b"ll", MASK),
            client_frame(true, 0, b"o", MASK),
        ]
        .concat();
        assert_eq!(run(&[&bytes], 100), (vec!["ping !".into(), "text hello".into()], Ok(()), false));
    }

    #[test]
    fn bytes_after_a_pause_are_kept_and_read_later() {
        let bytes: Vec<u8> = (0..5).flat_map(|n| client_frame(true, 1, &[b'0' + n], MASK)).collect();
        let (mut inbox, mut seen) = (None, Vec::new());
        let mut turn = |inbox: &mut Option<Box<Inbox>>, bytes: &[u8]| {
            let mut handled = 0;
            let outcome = feed(inbox, &mut bytes.to_vec(), 100, Compressed::Refused, 0, |message| {
                handled += 1;
                if let Incoming::Text(text) = message {
                    seen.extend_from_slice(text);
                }
                if handled == 2 { Flow::Pause } else { Flow::Continue }
            });
            assert_eq!(outcome, Ok(()));
            seen.clone()
        };
        // The last frame is cut: its rest comes with a later call.
        assert_eq!(turn(&mut inbox, &bytes[..bytes.len() - 1]), b"01");
        assert_eq!(turn(&mut inbox, &[]), b"0123");
        assert_eq!(turn(&mut inbox, &[]), b"0123");
        assert_eq!(turn(&mut inbox, &bytes[bytes.len() - 1..]), b"01234");
        assert!(inbox.is_none());
    }

    #[test]
    fn order_of_fragments_is_enforced_and_their_sum_is_bounded() {
        let lone = client_frame(true, 0, b"x", MASK);
        assert_eq!(run(&[&lone], 100).1, Err(CloseReason::ProtocolError));
        let twice = [client_frame(false, 1, b"x", MASK), client_frame(true, 1, b"y", MASK)].concat();
        assert_eq!(run(&[&twice], 100).1, Err(CloseReason::ProtocolError));
        let long = [client_frame(false, 1, &[b'x'; 60], MASK), client_frame(true, 0, &[b'y'; 60], MASK)].concat();
        assert_eq!(run(&[&long], 100).1, Err(CloseReason::MessageTooBig));
    }

    #[test]
    fn a_ping_may_come_between_fragments_at_the_limit() {
        let bytes = [
            client_frame(false, 1, &[b'x'; 100], MASK),
            client_frame(true, 9, &[b'!'; 125], MASK),
            client_frame(true, 0, b"", MASK),
        ]
        .concat();
        assert_eq!(run(&[&bytes], 100).1, Ok(()));
    }

    /// RFC 7692 §7.2.3.1: "Hello" in one frame and in two, and its bytes as an uncompressed
    /// message.
    #[test]
    fn a_compressed_message_is_inflated_once_it_is_whole() {
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let bytes = [
            client_frame(true, 0x41, &hello, MASK),
            client_frame(false, 0x41, &hello[..3], MASK),
            client_frame(true, 9, b"!", MASK),
            client_frame(true, 0, &hello[3..], MASK),
            client_frame(true, 1, b"plain", MASK),
            client_frame(false, 2, b"so", MASK),
            client_frame(true, 0, b"so", MASK),
        ]
        .concat();
        let mut inflater = Inflater::new(1_000);
        let seen =
            vec!["text Hello".into(), "ping !".into(), "text Hello".into(), "text plain".into(), "binary 4".into()];
        let singles: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(run_with(Some(&mut inflater), &[&bytes], 100), (seen.clone(), Ok(()), false));
        assert_eq!(run_with(Some(&mut inflater), &singles, 100), (seen, Ok(()), false));
        assert_eq!(run_with(Some(&mut inflater), &[&bytes], 6).1, Err(CloseReason::MessageTooBig), "seven bytes came");
        assert_eq!(run(&[&bytes], 100).1, Err(CloseReason::ProtocolError), "it was not negotiated");
        let bad = client_frame(true, 0x41, b"\xff\xff", MASK);
        assert_eq!(run_with(Some(&mut inflater), &[&bad], 100).1, Err(CloseReason::InvalidDeflate));
    }

    #[test]
    fn a_session_that_closes_does_not_inflate_what_still_comes() {
        let mut bytes = [
            client_frame(true, 0x41, b"\xff\xff", MASK),
            client_frame(false, 0x42, b"\xff\xff", MASK),
            client_frame(true, 0, b"\xff", MASK),
            client_frame(true, 8, &[], MASK),
        ]
        .concat();
        let mut seen = 0;
        let outcome = feed(&mut None, &mut bytes, 100, Compressed::Skipped, 0, |message| {
            assert_eq!(message, Incoming::Close(&[]));
            seen += 1;
            Flow::Stop
        });
        assert_eq!((outcome, seen), (Ok(()), 1));
    }

    #[test]
    fn close_payloads() {
        let close = |p: &[u8]| run(&[&client_frame(true, 8, p, MASK)], 100).1;
        assert_eq!(close(&[]), Ok(()));
        assert_eq!(close(&1000u16.to_be_bytes()), Ok(()));
        assert_eq!(close(&[3]), Err(CloseReason::ProtocolError));
        assert_eq!(close(&1005u16.to_be_bytes()), Err(CloseReason::ProtocolError));
        assert_eq!(close(&[0x03, 0xe8, 0xff]), Err(CloseReason::InvalidUtf8));
    }

    proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_messages_are_the_same(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|m| client_frame(true, 2, m, MASK)).collect();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len())).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            let (seen, result, open) = run(&chunks, 1024);
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(seen, messages.iter().map(|m| format!("binary {}", m.len())).collect::<Vec<_>>());
            prop_assert!(!open, "bytes are kept after all was read");
        }
    }
}
