//! Sessions over TLS: what a visit brings is sealed for its socket alone, and what comes is opened before it is read.

use std::io::Write as _;
use std::ops::Range;

use mio::net::TcpStream;

use super::flush::{Sent, write};
use super::session::Session;
use super::shard::Shard;
use crate::wire::tls::{SEALED_BYTES_MAX, Sealed, Tls};

/// A visit's bytes, sealed: the first of them, if they are many.
pub(super) struct Sealing {
    range: Range<usize>,
    /// How many bytes they were before.
    plain: usize,
}

impl Sealing {
    /// Seals the first of `bytes`; `None` if that cannot be done any more.
    pub(super) fn begin(tls: &mut Tls, bytes: &[u8], sealed: &mut Sealed) -> Option<Self> {
        let plain = bytes.len().min(SEALED_BYTES_MAX);
        let range = tls.seal(bytes.get(..plain)?, sealed).ok()?;
        Some(Self { range, plain })
    }

    /// What is to be written.
    pub(super) fn bytes<'a>(&self, sealed: &'a Sealed) -> &'a [u8] {
        sealed.bytes(self.range.clone())
    }

    /// What `sent`, which is about sealed bytes, comes to in those of `bytes`. If the socket takes more, the others follow.
    pub(super) fn end(&self, sent: Sent, tls: &mut Tls, socket: &TcpStream, bytes: &[u8], sealed: &Sealed) -> Sent {
        match sent {
            Sent::Gone => Sent::Gone,
            Sent::Full(n) => {
                tls.owe(self.bytes(sealed).get(n..).unwrap_or_default());
                Sent::Full(self.plain)
            }
            Sent::All => match bytes.get(self.plain..) {
                None | Some([]) => Sent::All,
                Some(rest) => match send_sealed(tls, socket, rest) {
                    Sent::Full(n) => Sent::Full(self.plain + n),
                    other => other,
                },
            },
        }
    }
}

/// Writes what is due, then `plain`, of which little is sealed ahead of what the socket takes. What was sealed counts as sent.
pub(super) fn send_sealed(tls: &mut Tls, socket: &TcpStream, plain: &[u8]) -> Sent {
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

impl Shard {
    /// Handles bytes of a client that come sealed.
    pub(super) fn received_sealed(&mut self, index: u32, bytes: &mut [u8]) {
        let mut opened = std::mem::take(&mut self.opened);
        opened.clear();
        let Some(session) = self.session(index) else { return };
        let generation = session.generation;
        let Some(tls) = &mut session.tls else { return };
        let outcome = tls.feed(bytes, &mut opened);
        let over = outcome.is_err() || tls.is_closed();
        let answer = !tls.due().is_empty() && session.backlog.is_none();
        if let Err(error) = outcome {
            tracing::debug!(%error, "a session's TLS ends");
        }
        if !opened.is_empty() {
            self.received(index, &mut opened);
        }
        self.opened = opened;
        if self.session(index).is_none_or(|s| s.generation != generation) {
            return;
        }
        if over {
            self.drop_session(index);
        } else if answer {
            self.send_nothing(index);
        }
    }

    /// Ends TLS in order where the socket takes it at once (RFC 8446 §6.1); nobody waits for it.
    pub(super) fn say_goodbye(&self, session: &mut Session) {
        let Some(tls) = &mut session.tls else { return };
        // In the middle of a record there is no place for another.
        if session.backlog.is_none() {
            tls.close();
            let _ = session.socket.write(tls.due());
        }
    }
}
