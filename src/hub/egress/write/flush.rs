//! What a backend is.
//!
//! The contract, whatever the backend: the bytes of one socket leave in order, each byte once, and before [`Flush::send`]
//! returns. [`Sent::Full`] tells how many left before the kernel would take no more; the caller keeps the rest, and calls again
//! only after the poll said that the socket is writable.

use mio::net::TcpStream;

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hub) enum Sent {
    /// Everything left.
    All,
    /// The socket is full; this many bytes left.
    Full(usize),
    /// The connection is gone.
    Gone,
}

/// One write: a socket, and the bytes for it. No two of a batch are to one socket.
pub(in crate::hub) struct Outgoing<'a> {
    pub(in crate::hub) socket: &'a TcpStream,
    pub(in crate::hub) bytes: &'a [u8],
    /// Set by the backend.
    pub(in crate::hub) sent: Sent,
}

/// A way to write to sockets.
pub(in crate::hub) trait Flush {
    /// How many writes are best made together.
    fn batch(&self) -> usize;

    /// Writes to each socket as much as it takes.
    fn send(&mut self, writes: &mut [Outgoing<'_>]);

    /// Its name, for logs and metrics.
    fn name(&self) -> &'static str;
}
