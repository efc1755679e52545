//! Sessions over TLS: the bytes of a write are encrypted for its socket alone.

use std::ops::Range;

use mio::net::TcpStream;

use super::write::{Sent, write};
use crate::wire::tls::{SEALED_BYTES_MAX, Sealed, Tls};

/// A write's bytes, encrypted: the first of them, if they are many.
pub(in crate::hub) struct Encrypted {
    range: Range<usize>,
    /// How many bytes they were before.
    plain: usize,
}

impl Encrypted {
    /// Seals the first of `bytes`; `None` if that cannot be done any more.
    pub(in crate::hub) fn begin(tls: &mut Tls, bytes: &[u8], sealed: &mut Sealed) -> Option<Self> {
        let plain = bytes.len().min(SEALED_BYTES_MAX);
        let range = tls.seal(bytes.get(..plain)?, sealed).ok()?;
        Some(Self { range, plain })
    }

    /// What is to be written.
    pub(in crate::hub) fn bytes<'a>(&self, sealed: &'a Sealed) -> &'a [u8] {
        sealed.bytes(self.range.clone())
    }

    /// What `sent`, which is about sealed bytes, comes to in those of `bytes`. If the socket takes more, the others follow.
    pub(in crate::hub) fn end(
        &self,
        sent: Sent,
        tls: &mut Tls,
        socket: &TcpStream,
        bytes: &[u8],
        sealed: &Sealed,
    ) -> Sent {
        match sent {
            Sent::Gone => Sent::Gone,
            Sent::Full(n) => {
                tls.owe(self.bytes(sealed).get(n..).unwrap_or_default());
                Sent::Full(self.plain)
            }
            Sent::All => match bytes.get(self.plain..) {
                None | Some([]) => Sent::All,
                Some(rest) => match send_encrypted(tls, socket, rest) {
                    Sent::Full(n) => Sent::Full(self.plain + n),
                    other => other,
                },
            },
        }
    }
}

/// Writes the records that wait, then `plain`. Little of it is encrypted before the socket takes it; encrypted bytes count as
/// sent.
pub(in crate::hub) fn send_encrypted(tls: &mut Tls, socket: &TcpStream, plain: &[u8]) -> Sent {
    let mut parts = plain.chunks(SEALED_BYTES_MAX);
    let mut sealed = 0;
    loop {
        match write(socket, tls.due(), 0) {
            Sent::All => tls.gone(tls.due().len()),
            Sent::Full(n) => {
                tls.gone(n);
                return Sent::Full(sealed);
            }
            Sent::Gone => return Sent::Gone,
        }
        let Some(part) = parts.next() else { return Sent::All };
        if tls.seal_due(part).is_err() {
            return Sent::Gone;
        }
        sealed += part.len();
    }
}
