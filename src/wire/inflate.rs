//! permessage-deflate (RFC 7692), inbound: one whole message at a time, into bounded memory.

use flate2::{Decompress, FlushDecompress, Status};

use super::close::CloseReason;

/// Appended to a message: the lengths of the empty stored block that the sender cut off (RFC 7692
/// §7.2.2), and an empty last block. Only a complete message then reaches the end of the stream.
const END: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// Ends of a stream (blocks with BFINAL, RFC 7692 §7.2.3.4) per message. Each costs a reset, so
/// without a bound two bytes would cost a microsecond.
const STREAMS_MAX: usize = 16;

/// Memory for a message that is kept for the next one, in bytes.
const KEPT_BYTES: usize = 64 * 1024;

/// An inflater. One per thread is enough: it keeps nothing between messages but its memory.
#[derive(Debug)]
pub struct Inflater {
    decompress: Decompress,
    out: Vec<u8>,
    bytes_max: usize,
}

impl Inflater {
    /// For messages that inflate to at most so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self { decompress: Decompress::new(false), out: Vec::new(), bytes_max }
    }

    /// Inflates a message with the compressed `payload`: to at most `message_max` bytes, and at
    /// most this inflater's own limit. It takes no more memory than that and 64 KiB, and stops as
    /// soon as the limit is exceeded.
    ///
    /// # Errors
    /// `MessageTooBig` if it inflates to more bytes, `InvalidDeflate` if it is not a whole message
    /// of DEFLATE blocks.
    pub fn message(&mut self, payload: &[u8], message_max: usize) -> Result<&mut [u8], CloseReason> {
        let limit = message_max.min(self.bytes_max);
        self.decompress.reset(false);
        self.out.clear();
        self.out.shrink_to(KEPT_BYTES);
        let mut streams = 1;
        for (input, is_end) in [(payload, false), (&END[..], true)] {
            let mut rest = input;
            while !rest.is_empty() {
                let (used, status) = self.step(rest, limit)?;
                rest = rest.get(used..).unwrap_or_default();
                match status {
                    Status::StreamEnd if is_end && rest.is_empty() => return Ok(&mut self.out),
                    // A last block of the client's own; accepted without the byte that should
                    // follow it.
                    Status::StreamEnd if !is_end && rest.is_empty() => return Ok(&mut self.out),
                    Status::StreamEnd if !is_end && streams < STREAMS_MAX => {
                        streams += 1;
                        self.decompress.reset(false);
                    }
                    Status::StreamEnd => return Err(CloseReason::InvalidDeflate),
                    Status::Ok | Status::BufError => {}
                }
            }
        }
        Err(CloseReason::InvalidDeflate)
    }

    /// One step of the decompressor; returns the number of bytes of `input` consumed.
    fn step(&mut self, input: &[u8], limit: usize) -> Result<(usize, Status), CloseReason> {
        if self.out.len() == self.out.capacity() {
            let more = self.out.len().max(input.len() * 2).max(1_024);
            // One byte more than allowed, to distinguish too much from just enough.
            self.out.reserve_exact(more.min(limit.saturating_add(1).saturating_sub(self.out.len())));
        }
        let (read, written) = (self.decompress.total_in(), self.out.len());
        let outcome = self.decompress.decompress_vec(input, &mut self.out, FlushDecompress::None);
        if self.out.len() > limit {
            return Err(CloseReason::MessageTooBig);
        }
        let status = outcome.map_err(|_| CloseReason::InvalidDeflate)?;
        let used = usize::try_from(self.decompress.total_in() - read).unwrap_or(usize::MAX);
        if used == 0 && self.out.len() == written && self.out.len() < self.out.capacity() && status != Status::StreamEnd
        {
            // It can continue but makes no progress: no later input would help.
            return Err(CloseReason::InvalidDeflate);
        }
        Ok((used, status))
    }
}

#[cfg(test)]
mod tests {
    use super::super::deflate::Deflater;
    use super::super::frame::{Opcode, header_bytes};
    use super::*;
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    /// A message as other implementations make it: any level, a flush in the middle, any end.
    fn message(payload: &[u8], level: u32, flush: FlushCompress, end: FlushCompress) -> Vec<u8> {
        let mut compress = Compress::new(Compression::new(level), false);
        let mut out = Vec::with_capacity(payload.len() * 2 + 1_000);
        let (a, b) = payload.split_at(payload.len() / 2);
        compress.compress_vec(a, &mut out, flush).unwrap();
        compress.compress_vec(b, &mut out, end).unwrap();
        if end == FlushCompress::Finish {
            out.push(0);
        } else {
            assert!(out.ends_with(&END[..4]));
            out.truncate(out.len() - 4);
        }
        out
    }

    #[test]
    fn messages_of_the_rfc() {
        let table: &[(&str, &[u8], &[u8])] = &[
            ("one block (§7.2.3.1)", &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
            (
                "no compression (§7.2.3.3)",
                &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
                b"Hello",
            ),
            ("a last block (§7.2.3.4)", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00], b"Hello"),
            (
                "two blocks (§7.2.3.5)",
                &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
                b"Hello",
            ),
            ("an empty message (§7.2.3.6)", &[0x00], b""),
            ("a last block and nothing behind it", &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], b"Hello"),
        ];
        let mut inflater = Inflater::new(1_000);
        for (what, payload, text) in table {
            assert_eq!(inflater.message(payload, 5).map(|m| m.to_vec()), Ok(text.to_vec()), "{what}");
        }
    }

    #[test]
    fn invalid_messages_are_refused() {
        let context: &[u8] = &[0xf2, 0x00, 0x11, 0x00, 0x00];
        let table: &[(&str, &[u8])] = &[
            ("nothing at all", &[]),
            ("a block type that there is not", &[0xff, 0xff]),
            ("cut off in a block", &[0xf2, 0x48, 0xcd]),
            ("cut off in a stored block", &[0x00, 0x06, 0x00, 0xf9, 0xff, 0x48]),
            ("lengths that do not agree", &[0x00, 0x05, 0x00, 0xfa, 0xfe, 0x48]),
            ("the second \"Hello\" of §7.2.3.2, which refers to the one before", context),
            ("its tail sent along", &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00, 0x00, 0xff]),
        ];
        let mut inflater = Inflater::new(1_000);
        for (what, payload) in table {
            assert!(inflater.message(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 10).is_ok());
            assert_eq!(inflater.message(payload, 1_000), Err(CloseReason::InvalidDeflate), "{what}");
        }
        let empty_last_blocks: Vec<u8> = [0x03, 0x00].repeat(30_000);
        assert_eq!(inflater.message(&empty_last_blocks, 1_000), Err(CloseReason::InvalidDeflate));
    }

    #[test]
    fn a_bomb_costs_the_limit_and_no_more() {
        let bomb = message(&vec![0; 100_000_000], 9, FlushCompress::None, FlushCompress::Sync);
        assert!(bomb.len() < 150_000);
        let mut inflater = Inflater::new(1 << 20);
        assert_eq!(inflater.message(&bomb, usize::MAX), Err(CloseReason::MessageTooBig));
        assert!(inflater.out.capacity() <= (1 << 20) + 1, "{}", inflater.out.capacity());
        assert!(
            inflater.decompress.total_in() < 3_000,
            "{} read before it was stopped",
            inflater.decompress.total_in()
        );
        assert_eq!(inflater.message(&[0], 10), Ok(&mut [][..]));
        assert!(inflater.out.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn just_enough_is_not_too_much() {
        let exact = message(&[7; 5_000], 6, FlushCompress::None, FlushCompress::Sync);
        let mut inflater = Inflater::new(5_000);
        assert_eq!(inflater.message(&exact, 5_000).map(|m| m.len()), Ok(5_000));
        assert_eq!(inflater.message(&exact, 4_999), Err(CloseReason::MessageTooBig));
        assert_eq!(Inflater::new(4_999).message(&exact, 5_000), Err(CloseReason::MessageTooBig));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn messages_of_other_compressors_are_read(
            payload in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..500),
                prop::collection::vec(0x30..0x3a_u8, 0..50_000),
                (0..300_000_usize).prop_map(|len| vec![b'x'; len]),
            ],
            level in 0..=9_u32,
            flush in prop::sample::select(vec![FlushCompress::None, FlushCompress::Sync, FlushCompress::Full]),
            end in prop::sample::select(vec![FlushCompress::Sync, FlushCompress::Finish]),
        ) {
            let made = message(&payload, level, flush, end);
            let mut inflater = Inflater::new(400_000);
            for _ in 0..2 {
                prop_assert_eq!(inflater.message(&made, 400_000).map(|m| m.to_vec()), Ok(payload.clone()));
            }
            if let Some(less) = payload.len().checked_sub(1) {
                prop_assert_eq!(inflater.message(&made, less), Err(CloseReason::MessageTooBig));
            }
        }

        #[test]
        fn garbage_never_panics_and_never_gives_more_than_the_limit(
            payload in prop::collection::vec(any::<u8>(), 0..2_000),
            limit in 0..3_000_usize,
        ) {
            if let Ok(message) = Inflater::new(2_500).message(&payload, limit) {
                prop_assert!(message.len() <= limit.min(2_500));
            }
        }

        #[test]
        fn a_message_with_faults_never_panics_and_never_gives_more_than_the_limit(
            text in prop::collection::vec(0x30..0x33_u8, 200..3_000),
            faults in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let frame = Deflater::default().frame(Opcode::Text, &[&text]);
            let mut payload = frame[header_bytes(&frame)..].to_vec();
            for (at, fault) in faults {
                let at = at.index(payload.len());
                payload[at] = fault;
            }
            payload.truncate(cut.index(payload.len() + 1));
            if let Ok(message) = Inflater::new(1 << 20).message(&payload, 3_000) {
                prop_assert!(message.len() <= 3_000);
            }
        }
    }
}
