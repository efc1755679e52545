//! Sessions over TLS: the bytes of a write are encrypted for each socket.

use std::ops::Range;

use mio::net::TcpStream;

use super::write::{Sent, write};
use crate::wire::tls::{SEALED_BYTES_MAX, Sealed, Tls};

/// The encrypted bytes of a write, or of its beginning if it is long.
pub(in crate::hub) struct Encrypted {
    range: Range<usize>,
    /// Their length before encryption.
    plain: usize,
}

impl Encrypted {
    /// Encrypts the beginning of `bytes`; `None` if the TLS connection has failed.
    pub(in crate::hub) fn begin(tls: &mut Tls, bytes: &[u8], sealed: &mut Sealed) -> Option<Self> {
        let plain = bytes.len().min(SEALED_BYTES_MAX);
        let range = tls.seal(bytes.get(..plain)?, sealed).ok()?;
        Some(Self { range, plain })
    }

    /// The bytes to write.
    pub(in crate::hub) fn bytes<'a>(&self, sealed: &'a Sealed) -> &'a [u8] {
        sealed.bytes(self.range.clone())
    }

    /// Translates `sent`, which counts encrypted bytes, to a result in terms of `bytes`. If the socket takes more, the
    /// rest of `bytes` is encrypted and written too.
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

/// Writes the records that wait, then `plain`. Only a small part is encrypted before the socket takes it. Encrypted
/// bytes count as sent.
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
