//! Compressed messages. Many sessions get the same bytes, so each distinct message is inflated once and remembered.

use std::collections::HashMap;
use std::rc::Rc;

use anyhow::{Context as _, bail};
use flate2::{Decompress, FlushDecompress, Status};
use xxhash_rust::xxh3::xxh3_64;

/// Number of messages remembered; above it, all are forgotten.
const REMEMBERED: usize = 20_000;

/// Largest message, inflated.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Inflates messages.
pub(crate) struct Inflated {
    known: HashMap<u64, Rc<[u8]>>,
    inflater: Decompress,
}

impl Default for Inflated {
    fn default() -> Self {
        Self { known: HashMap::new(), inflater: Decompress::new(false) }
    }
}

impl Inflated {
    /// The text of a compressed message (RFC 7692 §7.2.2, no context takeover).
    pub(crate) fn message(&mut self, payload: &[u8]) -> anyhow::Result<Rc<[u8]>> {
        let key = xxh3_64(payload);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        self.inflater.reset(false);
        let mut out = Vec::with_capacity(payload.len() * 8 + 1_024);
        for mut bytes in [payload, &[0, 0, 0xff, 0xff]] {
            loop {
                let before = self.inflater.total_in();
                let status = self.inflater.decompress_vec(bytes, &mut out, FlushDecompress::Sync)?;
                let used = usize::try_from(self.inflater.total_in() - before)?;
                bytes = bytes.get(used..).context("the decompressor read too far")?;
                if bytes.is_empty() && out.len() < out.capacity() {
                    break;
                }
                if status == Status::StreamEnd || out.len() > MESSAGE_BYTES_MAX {
                    bail!("a compressed message that ends too early or is too large");
                }
                out.reserve(out.len().max(1_024));
            }
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let text: Rc<[u8]> = out.into();
        self.known.insert(key, text.clone());
        Ok(text)
    }
}
