//! Compressed messages by hand.

use flate2::{Compress, Compression, FlushCompress};

/// The payload of a compressed message (RFC 7692 §7.2.1).
pub(crate) fn deflated(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() / 500 + 1_000);
    Compress::new(Compression::best(), false).compress_vec(text, &mut out, FlushCompress::Sync).unwrap();
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
    out.truncate(out.len() - 4);
    out
}
